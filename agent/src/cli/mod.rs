//! The command line: one binary for the agent and for everything that an administrator asks it.
//!
//! Owns: the commands' names and flags, exit codes, and how results are printed (a table, or JSON with `--json`).
//! What can hurt: a script that reads a result that is none; every failure has an exit code of its own and goes to
//! standard error. Refuses: work: a command reads the configuration or asks the running agent, and prints.

pub mod agent;
pub mod availability;
pub mod cert;
pub mod client;
pub mod config;
pub mod doctor;
pub mod failover;
pub mod hold;
pub mod live;
pub mod merge;
pub mod output;
pub mod pause;
pub mod quarantine;
pub mod placement;
pub mod reload;
pub mod resync;
pub mod rules;
pub mod status;
pub mod time;
pub mod top;
pub mod verify;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{ConfigError, FILE_DEFAULT, Loaded, Sources, load};
use crate::control::model::Done;
pub use crate::metrics::COMMIT;
use client::Client;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, and all is well
  1  failed
  2  wrong usage or configuration
  3  done, and the answer is bad: not equal, not healthy, a problem found
  4  no agent answers on the admin socket";

/// How a command ended. The numbers are a contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Fine = 0,
    Failed = 1,
    Usage = 2,
    /// The command worked; what it found is bad.
    Bad = 3,
    Unreachable = 4,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(
        "no agent answers on `{socket}`: {source}; is it running (`systemctl status understudy`), and may you use the socket?"
    )]
    Unreachable { socket: PathBuf, source: std::io::Error },
    #[error("the agent says: {0}")]
    Agent(String),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// The exit code that stands for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Usage(_) => Exit::Usage,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Agent(_) | Self::Other(_) => Exit::Failed,
        }
    }
}

/// High-availability node agent for mail stores.
#[derive(Debug, Parser)]
#[command(name = "understudy", after_help = EXIT_CODES, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Configuration file [default: /etc/understudy/understudy.toml]
    #[arg(long, global = true, env = "UNDERSTUDY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set a key, over file and environment; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Socket of the running agent [default: as configured]
    #[arg(long, global = true, env = "UNDERSTUDY_ADMIN_SOCKET", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node
    Agent(agent::Args),
    /// Say how this node, its peers and its accounts are
    Status(status::Args),
    /// Show latencies, pressure, ring, journal and lag live
    Top(live::Args),
    /// Compare accounts with their replicas: equal, or the first difference
    Verify(verify::Args),
    /// Copy an account to its replicas anew
    Resync(resync::Args),
    /// Make a group active on another node, with nothing lost
    Switchover(failover::SwitchoverArgs),
    /// Move all groups away from a node, and keep it empty
    Drain(failover::DrainArgs),
    /// Let a node have active groups again
    Undrain(failover::UndrainArgs),
    /// Promote this node's replica although it cannot prove that it has everything
    Promote(failover::PromoteArgs),
    /// Say why a group is where it is, rule by rule
    Explain(failover::ExplainArgs),
    /// Show where groups are active and copied, plan it anew, apply the plan
    Placement(placement::Args),
    /// Say how often and how long nodes and groups were down, as this node saw it
    Availability(availability::Args),
    /// Show what this node alone had when it came back, and what became of it
    Merge(merge::Args),
    /// Show, apply or undo destructive operations that replicas hold
    Hold(hold::Args),
    /// Stop replication or failover of something for a while
    Pause(pause::Args),
    /// End a pause
    Resume(pause::ResumeArgs),
    /// Show accounts that wait on this node; try or pass over their operations
    Quarantine(quarantine::Args),
    /// Show which rule decides about which account
    Rules(rules::Args),
    /// Have the agent read rules, lists and placement again
    Reload(reload::Args),
    /// Make the cluster's certificates
    Cert(cert::Args),
    /// Check or show the configuration
    Config(config::Args),
    /// Look whether this host has what the agent needs
    Doctor(doctor::Args),
}

/// What every command is given.
#[derive(Clone, Debug)]
pub struct Context {
    pub global: Global,
}

impl Context {
    /// The configuration file: the flag, the environment, or the usual place.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.global.config.clone().unwrap_or_else(|| PathBuf::from(FILE_DEFAULT))
    }

    /// Loads the configuration.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Loaded, Failure> {
        Ok(load(&Sources::of_process(Some(self.config_file()), self.global.set.clone()))?)
    }

    /// A client for the running agent: by `--admin-socket`, else by the configuration.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used, so that the socket's place is not known.
    pub fn client(&self) -> Result<Client, Failure> {
        match &self.global.admin_socket {
            Some(path) => Ok(Client::new(path.clone())),
            None => Ok(Client::new(self.load()?.config.agent.admin_socket)),
        }
    }

    /// Prints a value as JSON on standard output.
    ///
    /// # Errors
    ///
    /// Standard output is closed.
    pub fn print_json<T: serde::Serialize>(&self, value: &T) -> Result<(), Failure> {
        output::json(value)
    }
}

/// Prints what was done, or would be.
fn done(context: &Context, done: &Done, dry_run: bool) -> Result<Exit, Failure> {
    if context.global.json {
        context.print_json(done)?;
    } else {
        output::text(&format!("{}{}\n", if dry_run { "would be " } else { "" }, done.done))?;
    }
    Ok(Exit::Fine)
}

/// The whole grammar, with the version and commit that it was built from.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command().version(version())
}

/// `0.1.0 (commit)`, or `0.1.0` where the build did not know the commit.
#[must_use]
pub fn version() -> &'static str {
    if COMMIT == "unknown" { env!("CARGO_PKG_VERSION") } else { const_format_version() }
}

fn const_format_version() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| format!("{} ({COMMIT})", env!("CARGO_PKG_VERSION")))
}

/// Reads the arguments, runs the command, and says how it ended.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Exit {
    let parsed = command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Fine };
        }
    };
    let context = Context { global: cli.global };
    let done = match &cli.command {
        Command::Agent(args) => agent::run(&context, args),
        Command::Status(args) => status::run(&context, args),
        Command::Top(args) => live::run(&context, args),
        Command::Verify(args) => verify::run(&context, args),
        Command::Resync(args) => resync::run(&context, args),
        Command::Switchover(args) => failover::switchover(&context, args),
        Command::Drain(args) => failover::drain(&context, args),
        Command::Undrain(args) => failover::undrain(&context, args),
        Command::Promote(args) => failover::promote(&context, args),
        Command::Explain(args) => failover::explain(&context, args),
        Command::Placement(args) => placement::run(&context, args),
        Command::Availability(args) => availability::run(&context, args),
        Command::Merge(args) => merge::run(&context, args),
        Command::Hold(args) => hold::run(&context, args),
        Command::Pause(args) => pause::run(&context, args),
        Command::Resume(args) => pause::resume(&context, args),
        Command::Quarantine(args) => quarantine::run(&context, args),
        Command::Rules(args) => rules::run(&context, args),
        Command::Reload(args) => reload::run(&context, args),
        Command::Cert(args) => cert::run(&context, args),
        Command::Config(args) => config::run(&context, args),
        Command::Doctor(args) => doctor::run(&context, args),
    };
    done.unwrap_or_else(|failure| {
        output::failure(&failure);
        failure.exit()
    })
}

#[cfg(test)]
mod tests;
