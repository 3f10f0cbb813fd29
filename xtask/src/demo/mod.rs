//! `cargo xtask demo`: two nodes, real traffic, every process killed once, all accounts compared, a short report.
//!
//! Owns: the story, told on a mesh that it starts and takes away. What can hurt: whatever it shows; the mesh is taken
//! away on every way out. Refuses: judging by the agents' word alone; an IMAP client reads both nodes and compares.

mod report;
mod scene;

use crate::mesh::{self, Format};
use crate::{build, clock, host, run};
use anyhow::{Result, bail};
use report::{Progress, Report};
use std::io::Write;
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
    let progress = Progress::new();
    // Standard output belongs to the JSON; what is installed is named elsewhere.
    let json = args.json.then(run::take_stdout).transpose()?;
    let started = clock::now();
    if !args.no_build {
        let mut show = |part: &str, line: &str| match line {
            "" => progress.say(&format!("building {part}")),
            line => progress.tick(&format!("building {part}: {}", line.trim())),
        };
        build::for_mesh(false, &mut show, &mut |what| progress.note(what))?;
    }
    if let Err(lack) = host::namespaces() {
        bail!("the demo needs a mesh, which cannot run here: {lack}");
    }
    mesh::take_away_stale();
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
    match json {
        Some(mut json) => writeln!(json, "{}", serde_json::to_string(&report)?)?,
        None => report.print(),
    }
    Ok(report.good())
}
