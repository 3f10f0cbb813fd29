//! `mesh down`: asks the owner to end, or does its work when it is gone.
//!
//! Owns: taking away processes, control groups, namespaces, cables, the mount, and the mesh's data, by names and marks
//! alone, so that a lost state file is no obstacle. Refuses: removing a folder that was not the mesh's.

use super::contract::{Format, State};
use super::plan::{NODES_MAX, Plan};
use super::{disk, faults, net, process};
use crate::{clock, host};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the owner may take to end before its work is done by us.
const OWNER_WAIT: Duration = Duration::from_secs(60);

/// The command.
///
/// # Errors
/// When something could not be taken away.
pub(crate) fn main(dir: &Path) -> Result<bool> {
    let state = end_owner(dir);
    let plan = Plan::new(dir, NODES_MAX, 0, Format::Maildir);
    let left = take_away(&plan, state.is_some(), state.is_some_and(|s| s.made_dir));
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(true)
}

/// Tells the owner of the mesh in `dir` to end, and waits; the state of before, as far as it is known.
pub(crate) fn end_owner(dir: &Path) -> Option<State> {
    let state = State::load(dir).ok()?;
    if is_owner(state.owner_pid) {
        process::signal(&[state.owner_pid], Signal::SIGTERM);
        let asked = clock::now();
        while asked.elapsed() < OWNER_WAIT && is_owner(state.owner_pid) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Some(state)
}

/// True while `pid` is one of us (the number may have gone to somebody else).
fn is_owner(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains("xtask"))
}

/// Takes the mesh of `plan` away; names what is still there. With `all`, everything in its folder
/// goes, else only what has the mesh's names; with `folder`, the folder too.
pub(crate) fn take_away(plan: &Plan, all: bool, folder: bool) -> Vec<String> {
    let mut left = take_away_leftovers(plan);
    for entry in std::fs::read_dir(&plan.dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if !all && !ours(&path) {
            continue;
        }
        let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = gone {
            left.push(format!("`{}` ({error})", path.display()));
        }
    }
    if folder {
        let _ = std::fs::remove_dir(&plan.dir);
    }
    left
}

fn ours(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let seat = ["node", "etcd", "mesh."].iter().any(|prefix| name.starts_with(prefix));
    seat || ["proxy", "blobs", "pki", "coordinator"].contains(&name.as_str())
}

/// Takes away what a mesh leaves on the host outside its folder.
pub(crate) fn take_away_leftovers(plan: &Plan) -> Vec<String> {
    let mut left = Vec::new();
    // First: what is cut off ends slowly, and what waits for a frozen disk not at all.
    faults::clear(plan);
    disk::thaw_all(plan);
    let groups: Vec<PathBuf> = groups_of(plan);
    let ended = process::end_all(|| {
        let mut pids: Vec<i32> = net::namespaces_of(plan).iter().flat_map(|n| process::in_netns(n)).collect();
        pids.extend(groups.iter().flat_map(|g| process::in_cgroup(g)));
        pids
    });
    if !ended {
        left.push("processes of the nodes".to_owned());
    }
    for group in groups {
        if let Err(error) = std::fs::remove_dir(&group) {
            left.push(format!("`{}` ({error})", group.display()));
        }
    }
    net::down(plan);
    disk::unmount_all(plan);
    left.extend(net::left_over(plan));
    if plan.home.exists() {
        while nix::mount::umount2(&plan.home, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
        if let Err(error) = std::fs::remove_dir(&plan.home) {
            left.push(format!("`{}` ({error})", plan.home.display()));
        }
        let _ = plan.home.parent().map(std::fs::remove_dir); // only when this was the last mesh
    }
    left
}

fn groups_of(plan: &Plan) -> Vec<PathBuf> {
    let Ok(top) = host::cgroup2() else { return Vec::new() };
    let prefix = format!("understudy-mesh-{}-", plan.tag);
    let folder = std::fs::read_dir(top).into_iter().flatten().flatten();
    folder.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect()
}
