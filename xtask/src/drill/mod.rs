//! `cargo xtask drill`: an event is made again and again on a mesh with users, and what they saw of it is printed.
//!
//! Owns: arguments, the mesh, and the printed report; drills themselves are `understudy_tests::drill`. What can hurt:
//! a busy machine: its load, and pauses without an event, are printed with every figure. Refuses: a good end when
//! something was lost or doubled, or users were not served again within the bound; it ends with 3 then.

mod print;

use crate::{build, host, mesh, run, stop};
use anyhow::{Result, bail};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use understudy_tests::drill::{self, Plan};
use understudy_tests::mesh::Mesh;

/// Ended, but not as promised.
const BROKEN: u8 = 3;
/// Every group has two replicas then, and can lose a node and still have one.
const NODES: usize = 3;

/// Arguments of `drill`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What happens
    #[arg(long, value_enum, default_value_t = What::Machine)]
    what: What,
    /// How often, on one node after the other
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Accounts, spread over the nodes
    #[arg(long, default_value_t = 3)]
    accounts: usize,
    /// Between two sessions, and between two deliveries, of one account, in milliseconds
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(20..=5000))]
    interval_ms: u64,
    /// The longest pause that users may see [default: as documented for the event]
    #[arg(long)]
    bound_ms: Option<u64>,
    /// Print all figures as one line of JSON, and progress to standard error
    #[arg(long)]
    json: bool,
    /// Install and build nothing; use what is there
    #[arg(long)]
    no_build: bool,
}

/// As `drill::What`, for the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    /// All processes of a node are killed, and its network is cut
    Machine,
    /// Everything active on a node is moved elsewhere
    Switchover,
    /// All processes of a store are stopped
    StoreFrozen,
    /// A disk no longer answers
    DiskHung,
    /// A disk is full
    DiskFull,
    /// An agent is killed
    AgentKilled,
    /// A node is cut off; both sides are written to (level `local`), and merged
    Partition,
    /// A node's cable gets 100 ms long and loses 1 %
    SlowReplica,
    /// etcd says nothing for five seconds
    EtcdSilent,
}

impl What {
    fn drill(self) -> drill::What {
        match self {
            Self::Machine => drill::What::Machine,
            Self::Switchover => drill::What::Switchover,
            Self::StoreFrozen => drill::What::StoreFrozen,
            Self::DiskHung => drill::What::DiskHung,
            Self::DiskFull => drill::What::DiskFull,
            Self::AgentKilled => drill::What::AgentKilled,
            Self::Partition => drill::What::Partition,
            Self::SlowReplica => drill::What::SlowReplica,
            Self::EtcdSilent => drill::What::EtcdSilent,
        }
    }
}

/// The command.
///
/// # Errors
/// When the host lacks something, named with its remedy, or the mesh does not do what it is told.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let json = args.json.then(run::take_stdout).transpose()?;
    if !args.no_build {
        let mut show = |part: &str, line: &str| {
            if line.is_empty() {
                eprintln!("building {part}");
            }
        };
        build::for_mesh(true, &mut show, &mut |what| eprintln!("{what}"))?;
    }
    if let Err(lack) = host::namespaces() {
        bail!("a drill needs a mesh, which cannot run here: {lack}");
    }
    mesh::take_away_stale();
    let what = args.what.drill();
    let mut plan = Plan::new(what, args.runs);
    plan.interval = Duration::from_millis(args.interval_ms);
    plan.bound_ms = args.bound_ms.unwrap_or(plan.bound_ms);
    let mut with = vec!["--level", what.level()];
    with.extend(what.disks().then_some("--disks"));
    let started = crate::clock::now();
    eprintln!("starting {NODES} nodes, etcd, nginx and Postfix");
    let mesh = Mesh::up(&std::env::current_exe()?, NODES, args.accounts, &with)?;
    let mut say = |text: &str| {
        eprintln!("[{}] {text}", crate::clock::minutes(started.elapsed().as_secs()));
        stop::check()
    };
    let report = drill::run(&mesh, &plan, &mut say)?;
    mesh.down()?;
    match json {
        Some(mut json) => writeln!(json, "{}", serde_json::to_string(&report)?)?,
        None => print::report(&report),
    }
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}
