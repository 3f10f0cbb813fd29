//! The mesh's network: a bridge on the host, a namespace and a cable per node and for what stands beside them.
//!
//! Owns: making and removing them. What can hurt: two meshes that choose the same addresses; the choice is made under a
//! lock and looks at what the host already routes. Removing what is not there is no error.
//! Refuses: touching any interface whose name does not carry the mesh's tag.

use super::plan::{Plan, address};
use crate::run;
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::process::Command;

/// Choices of addresses that are tried before giving up.
const ATTEMPTS: u64 = 64;

/// Makes bridge, namespaces and cables; the subnet's first three numbers.
///
/// # Errors
/// When the kernel refuses, or no free subnet is found.
pub(crate) fn up(plan: &Plan) -> Result<String> {
    let _lock = lock()?;
    let subnet = free_subnet(plan)?;
    let bridge = plan.bridge.as_str();
    // An address of its own: else it would be that of one of its cables, and change when cables come and go.
    let octets: Vec<&str> = [0, 2, 4].into_iter().filter_map(|at| plan.tag.get(at..at + 2)).collect();
    let mac = format!("02:75:73:{}", octets.join(":"));
    ip(&["link", "add", bridge, "address", &mac, "type", "bridge", "stp_state", "0", "forward_delay", "0"])?;
    ip(&["addr", "add", &format!("{}/24", address(&subnet, 0)), "dev", bridge])?;
    ip(&["link", "set", bridge, "up"])?;
    for seat in plan.seats() {
        let (netns, cable) = (seat.netns.as_str(), seat.cable.as_str());
        ip(&["netns", "add", netns])?;
        ip(&["link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", netns])?;
        ip(&["link", "set", cable, "master", bridge, "up"])?;
        ip(&["-n", netns, "addr", "add", &format!("{}/24", address(&subnet, seat.number)), "dev", "eth0"])?;
        ip(&["-n", netns, "link", "set", "lo", "up"])?;
        ip(&["-n", netns, "link", "set", "eth0", "up"])?;
        ip(&["-n", netns, "route", "add", "default", "via", &address(&subnet, 0)])?;
    }
    Ok(subnet)
}

/// Removes what [`up`] made, as far as it is there.
pub(crate) fn down(plan: &Plan) {
    // Not the plan's own list: a mesh whose state is lost may have had more nodes.
    for netns in namespaces_of(plan) {
        let _ = ip(&["netns", "delete", &netns]);
    }
    for link in links_of(plan) {
        let _ = ip(&["link", "delete", &link]);
    }
}

/// What of the mesh's network is there now.
pub(crate) fn left_over(plan: &Plan) -> Vec<String> {
    namespaces_of(plan).into_iter().chain(links_of(plan)).collect()
}

/// The mesh's network namespaces that are there now.
pub(crate) fn namespaces_of(plan: &Plan) -> Vec<String> {
    let list = run::output_of(Command::new("ip").args(["netns", "list"])).unwrap_or_default();
    let prefix = format!("us-{}-", plan.tag);
    list.lines()
        .filter_map(|l| l.split_whitespace().next())
        .filter(|n| n.starts_with(&prefix))
        .map(str::to_owned)
        .collect()
}

fn links_of(plan: &Plan) -> Vec<String> {
    let prefix = format!("us{}", plan.tag);
    let folder = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    folder.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.starts_with(&prefix)).collect()
}

fn free_subnet(plan: &Plan) -> Result<String> {
    let routes = run::output_of(Command::new("ip").args(["-4", "route", "show", "table", "all"])).unwrap_or_default();
    (0..ATTEMPTS)
        .map(|attempt| plan.subnet(attempt))
        .find(|subnet| !routes.contains(&format!(" {subnet}.")) && !routes.contains(&format!("\n{subnet}.")))
        .context("no free 10.x.y.0/24 network on this host")
}

/// One mesh at a time changes the host's network. The lock is on a folder that is there anyway, so it leaves no file.
fn lock() -> Result<Flock<File>> {
    let path = "/run";
    let file = File::open(path).with_context(|| format!("cannot open `{path}`"))?;
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(lock),
        Err((_, error)) => bail!("cannot lock `{path}`: {error}"),
    }
}

/// Runs `ip`.
///
/// # Errors
/// With its words.
pub(super) fn ip(args: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(args).output().context("cannot start `ip`")?;
    if !done.status.success() {
        bail!("`ip {}`: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}
