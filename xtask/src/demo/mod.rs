//! `cargo xtask demo`: two nodes, real traffic, every process killed once, all accounts compared, a short report.
//!
//! Owns: the story, told on a mesh that it starts and takes away. What can hurt: whatever it shows; the mesh is taken
//! away on every way out. Refuses: judging by the agents' word alone; an IMAP client reads both nodes and compares.

mod report;
mod scene;

use crate::bootstrap::{self, Group};
use crate::build::{self, Part};
use crate::mesh::Format;
use crate::{clock, host};
use anyhow::{Context, Result, bail};
use report::{Progress, Report};
use std::time::Duration;

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of traffic
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Accounts, spread over the two nodes
    #[arg(long, default_value_t = 8)]
    accounts: usize,
    /// How the stores keep mail
    #[arg(long, value_enum, default_value_t = Format::Maildir)]
    format: Format,
    /// Print the report as one line of JSON, and progress to standard error
    #[arg(long)]
    json: bool,
    /// Install and build nothing; use what is there
    #[arg(long)]
    no_build: bool,
}

/// Replicas may take so long to catch up when the traffic has ended; past it the demo says how far they are behind.
const CATCH_UP_WAIT: Duration = Duration::from_secs(180);

/// The command.
///
/// # Errors
/// When the host lacks something, named with its remedy, or the mesh does not come up.
pub(crate) fn main(args: &Args) -> Result<bool> {
    let progress = Progress::new(args.json);
    let started = clock::now();
    if !args.no_build {
        prepare(&progress)?;
    }
    if let Err(lack) = host::namespaces() {
        bail!("the demo needs a mesh, which cannot run here: {lack}");
    }
    progress.say("starting two nodes, each with its own network, Dovecot and agent");
    let mesh = scene::mesh_up(args.accounts, args.format)?;
    let mut report = Report::new(mesh.state(), args.format);
    scene::traffic(&mesh, args.seconds, &progress, &mut report)?;
    report.caught_up_seconds = scene::wait_for_replicas(&mesh, CATCH_UP_WAIT, &progress)?;
    progress.say("comparing all accounts");
    scene::compare(&mesh, &mut report)?;
    report.total_seconds = started.elapsed().as_secs();
    mesh.down()?;
    progress.clear();
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(report.good())
}

fn prepare(progress: &Progress) -> Result<()> {
    if progress.to_stderr() {
        let mut again = std::process::Command::new(std::env::current_exe()?);
        let done = again.arg("build").stdout(std::io::stderr()).status().context("cannot start `build`")?;
        anyhow::ensure!(done.success(), "`cargo xtask build` failed");
        return Ok(());
    }
    let ready = bootstrap::ensure(&Group::MESH, false, false);
    for (name, part) in build::all(&ready, false, &mut |name| progress.say(&format!("building {name}")))? {
        match part {
            Part::Built(ran) if !ran.ok => {
                progress.clear();
                ran.tail.iter().for_each(|line| eprintln!("{line}"));
                bail!("building {name} failed ({}), log `{}`", ran.why, ran.log.display());
            }
            Part::Built(_) => {}
            Part::Skipped(lack) => progress.note(&format!("without {name}: {lack}")),
        }
    }
    Ok(())
}
