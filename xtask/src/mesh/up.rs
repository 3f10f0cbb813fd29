//! `mesh up`: makes a mesh, waits until it serves, says so, and stays.
//!
//! Owns: the order of things. Every step that made something is taken back when a later one fails.
//! Refuses: a folder that has something else in it; its end would remove that.

use super::contract::{
    Account, Coordinator, CoordinatorKind, Endpoint, Format, Mesh, Node, Proxy, STATE_VERSION, State,
};
use super::owner::{End, Owner};
use super::plan::{ACCOUNTS_MAX, ETCD_MAX, NODES_MAX, PASSWORD, Plan, address};
use super::{agent, disk, down, net, process, services, store};
use crate::{build, host, run, stop};
use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The epoch of groups that are where the configuration says.
const FIRST_EPOCH: u64 = 1;

/// Arguments of `mesh up`.
#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// How many nodes
    #[arg(long, default_value_t = 2)]
    pub(crate) nodes: usize,
    /// Where the mesh keeps everything; made when it is not there, removed with the mesh
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// How many accounts
    #[arg(long, default_value_t = 10)]
    pub(crate) accounts: usize,
    /// How the stores keep mail
    #[arg(long, value_enum, default_value_t = Format::Maildir)]
    pub(crate) format: Format,
    /// Print the mesh as one line of JSON when it is ready
    #[arg(long)]
    pub(crate) json: bool,
    /// What a client waits for before its OK: `none`, `local`, `peer` or `peer:K`
    #[arg(long, default_value = "peer")]
    pub(crate) level: String,
    /// Only the stores, without plugin and agent
    #[arg(long)]
    pub(crate) store_only: bool,
    /// Stores with the plugin, but no agent
    #[arg(long, hide = true)]
    pub(crate) no_agent: bool,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) follow_parent: bool,
    /// nginx, HAProxy and Postfix before the nodes (the default with 3 nodes and more)
    #[arg(long)]
    pub(crate) proxies: bool,
    /// No proxies
    #[arg(long, conflicts_with = "proxies")]
    pub(crate) no_proxies: bool,
    /// Where leases and epochs live (default: `etcd` with 3 nodes and more, else `none`)
    #[arg(long, value_enum)]
    pub(crate) coordinator: Option<CoordinatorKind>,
    /// Members of etcd, 1 to 3; with it, etcd is the coordinator
    #[arg(long, value_name = "MEMBERS")]
    pub(crate) etcd: Option<usize>,
    /// Give each node's mail and data a small file system of their own, for `mesh fault`
    #[arg(long)]
    pub(crate) disks: bool,
    /// Install and build nothing; use what is there
    #[arg(long)]
    pub(crate) no_build: bool,
}

impl Args {
    /// Proxies before the nodes or not, and which coordinator.
    fn beside(&self) -> (bool, CoordinatorKind) {
        let whole = self.nodes >= 3 && !self.store_only && !self.no_agent;
        let etcd = (whole || self.etcd.is_some()).then_some(CoordinatorKind::Etcd);
        let coordinator = self.coordinator.or(etcd).unwrap_or(CoordinatorKind::None);
        ((whole || self.proxies) && !self.no_proxies, coordinator)
    }
}

/// The command.
///
/// # Errors
/// When the host lacks something, named with its remedy, or a node does not come up.
pub(crate) fn main(args: &Args) -> Result<bool> {
    ensure!((1..=NODES_MAX).contains(&args.nodes), "`--nodes` is 1 to {NODES_MAX}");
    ensure!((1..=ACCOUNTS_MAX).contains(&args.accounts), "`--accounts` is 1 to {ACCOUNTS_MAX}");
    ensure!(args.etcd.is_none_or(|members| (1..=ETCD_MAX).contains(&members)), "`--etcd` is 1 to {ETCD_MAX}");
    let (proxies, coordinator) = args.beside();
    ensure!(args.etcd.is_none() || coordinator == CoordinatorKind::Etcd, "`--etcd` needs `--coordinator etcd`");
    let members = if coordinator == CoordinatorKind::Etcd { args.etcd.unwrap_or(1) } else { 0 };
    // Standard output belongs to the JSON; what is installed is named elsewhere.
    let json = args.json.then(run::take_stdout).transpose()?;
    if !args.no_build {
        let mut show = |part: &str, line: &str| {
            if line.is_empty() {
                eprintln!("building {part} ...");
            }
        };
        build::for_mesh(proxies || members > 0, &mut show, &mut |what| eprintln!("{what}"))?;
    }
    let disks = || if args.disks { disk::available() } else { Ok(()) };
    let installed = host::namespaces().and_then(|()| store::installed()).and_then(|()| disks());
    if let Err(lack) = installed.and_then(|()| services::installed(proxies, members > 0)) {
        bail!("a mesh cannot run here: {lack}");
    }
    let signals = process::block_signals()?;
    stop::check()?; // by a signal that came before
    process::adopt_orphans();
    let fresh = !args.dir.exists();
    let dir = claim(&args.dir)?;
    let plan = Plan::new(&dir, args.nodes, args.accounts, args.format).with(proxies, members);
    let mut made = Made { plan: &plan, fresh, armed: true };
    let mut owner = make(&plan, args, fresh, coordinator)?;
    owner.start_all(&args.level)?;
    owner.wait_until_ready(&signals)?;
    owner.save()?;
    match json {
        Some(mut json) => writeln!(json, "{}", serde_json::to_string(owner.mesh())?)?,
        None => owner.print(),
    }
    let end = owner.serve(&signals, args.follow_parent)?;
    made.armed = false;
    if end == End::NotOurs {
        return Ok(true);
    }
    let left = down::take_away(&plan, true, fresh);
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(true)
}

/// Takes everything back when something fails on the way.
struct Made<'a> {
    plan: &'a Plan,
    fresh: bool,
    armed: bool,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if self.armed {
            if let Some(kept) = keep_logs(self.plan) {
                // Not `eprintln`: a second panic while one unwinds would leave the mesh behind.
                let _ = writeln!(std::io::stderr(), "logs of the nodes are kept in `{}`", kept.display());
            }
            down::take_away(self.plan, true, self.fresh);
        }
    }
}

/// A mesh that did not come up is worth a look at its logs.
fn keep_logs(plan: &Plan) -> Option<PathBuf> {
    let kept = services::kept_logs(&plan.tag);
    for seat in plan.proxy.iter().chain(&plan.etcd) {
        for log in services::logs(seat) {
            let to = kept.join(log.strip_prefix(&plan.home).ok()?);
            std::fs::create_dir_all(to.parent()?).ok()?;
            let _ = std::fs::copy(&log, to);
        }
    }
    for node in &plan.nodes {
        let to = kept.join(&node.name);
        std::fs::create_dir_all(&to).ok()?;
        for entry in std::fs::read_dir(node.home.join("log")).ok()?.flatten() {
            let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
        }
    }
    Some(kept)
}

/// Makes the folder ours.
fn claim(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    let dir = super::absolute(dir)?;
    if let Ok(state) = State::load(&dir) {
        bail!(
            "a mesh is up in `{}` already (process {}); `cargo xtask mesh down --dir {}` takes it away",
            dir.display(),
            state.owner_pid,
            dir.display()
        );
    }
    let full = std::fs::read_dir(&dir)?.next().is_some();
    ensure!(!full, "`{}` is not empty, and all that is in it would go with the mesh", dir.display());
    Ok(dir)
}

fn make<'a>(plan: &'a Plan, args: &Args, made_dir: bool, coordinator: CoordinatorKind) -> Result<Owner<'a>> {
    down::take_away_leftovers(plan);
    std::fs::create_dir_all(&plan.home).with_context(|| format!("cannot make `{}`", plan.home.display()))?;
    let none: Option<&str> = None;
    mount(Some(&plan.dir), &plan.home, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("cannot mount `{}` at `{}`", plan.dir.display(), plan.home.display()))?;
    // What is mounted below must not appear twice where the host's mounts are shared.
    mount(none, &plan.home, none, MsFlags::MS_PRIVATE, none)
        .with_context(|| format!("cannot make the mount at `{}` private", plan.home.display()))?;
    std::fs::set_permissions(&plan.dir, PermissionsExt::from_mode(0o755))?;
    if args.disks {
        disk::make(plan)?;
    }
    let subnet = net::up(plan)?;
    let mut cgroups = BTreeMap::new();
    match host::cgroup2() {
        Ok(top) => {
            for node in &plan.nodes {
                let group = top.join(&node.cgroup);
                std::fs::create_dir_all(&group).with_context(|| format!("cannot make `{}`", group.display()))?;
                cgroups.insert(node.name.clone(), group);
            }
        }
        Err(lack) => eprintln!("stores without control groups of their own: {lack}"),
    }
    let state = State {
        version: STATE_VERSION,
        owner_pid: i32::try_from(std::process::id()).unwrap_or(0),
        made_dir,
        format: plan.format,
        mesh: mesh(plan, &subnet, coordinator, args.disks),
        subnet,
        cgroups,
    };
    state.save(&plan.dir)?;
    Owner::new(plan, state, !args.store_only, !args.store_only && !args.no_agent)
}

fn mesh(plan: &Plan, subnet: &str, coordinator: CoordinatorKind, disks: bool) -> Mesh {
    let at = |ip: &str, port| Endpoint { host: ip.to_owned(), port };
    let nodes = plan.nodes.iter().map(|node| {
        let ip = address(subnet, node.number);
        Node {
            name: node.name.clone(),
            netns: node.netns.clone(),
            dir: plan.dir.join(&node.name),
            disk: disks.then(|| disk::disk(plan, node)),
            imap: at(&ip, store::IMAP_PORT),
            lmtp: at(&ip, store::LMTP_PORT),
            metrics: agent::metrics_url(&ip),
            admin_socket: agent::admin_socket(&node.home),
            agent_pid: None,
            store_pid: None,
            ip,
        }
    });
    let accounts = (0..plan.accounts).map(|n| {
        let (name, group) = plan.account(n);
        let placed = plan.group(group);
        let named = |at: usize| plan.nodes.get(at).map(|n| n.name.clone()).unwrap_or_default();
        Account {
            name,
            password: PASSWORD.to_owned(),
            active: named(placed.active),
            replicas: placed.replicas.into_iter().map(named).collect(),
            group: u32::try_from(group).unwrap_or(u32::MAX),
            epoch: FIRST_EPOCH,
            lag: None,
        }
    });
    let proxy = plan.proxy.as_ref().map(|proxy| {
        let ip = address(subnet, proxy.number);
        let [imap, pop3, smtp] = [services::IMAP_PORT, services::POP3_PORT, services::SMTP_PORT];
        Proxy { imap: at(&ip, imap), pop3: at(&ip, pop3), smtp: at(&ip, smtp) }
    });
    let coordinator = Coordinator { kind: coordinator, endpoints: services::endpoints(plan, subnet) };
    let blob_dir = plan.dir.join("blobs");
    Mesh { nodes: nodes.collect(), accounts: accounts.collect(), blob_dir, proxy, coordinator }
}
