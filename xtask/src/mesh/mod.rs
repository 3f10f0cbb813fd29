//! `cargo xtask mesh`: several nodes on one host to try things on, driven by people and by programs (`docs/mesh.md`).
//!
//! Owns: the life of a mesh. `mesh up` is its one owner: it stays, starts what is asked for through `DIR/mesh.sock`,
//! and takes everything away at its end. The other commands are short. What can hurt: an owner that was killed; then
//! `mesh down` takes everything away by names and marks alone. Refuses: deciding anything about failover.

mod agent;
mod contract;
mod down;
mod net;
mod owner;
mod plan;
mod process;
mod stale;
mod status;
mod store;
mod up;

pub(crate) use agent::program as agent_program;
use anyhow::{Context, Result};
pub(crate) use contract::Format;
use nix::sys::signal::Signal;
pub(crate) use stale::take_away_stale;
use std::path::{Path, PathBuf};

/// Arguments of `mesh`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

impl Args {
    /// True for the command that is a mesh's owner.
    pub(crate) fn stays(&self) -> bool {
        matches!(self.what, What::Up(_))
    }
}

#[derive(clap::Subcommand)]
enum What {
    /// Start a mesh and stay until SIGTERM or `mesh down`
    Up(up::Args),
    /// Show a mesh as it stands now
    Status(status::Args),
    /// Take a mesh away, with its data
    Down(At),
    /// Send a signal to processes of one node
    Kill(Kill),
    /// Start what does not run on one node
    Start(Act),
}

/// Which mesh.
#[derive(clap::Args)]
pub(crate) struct At {
    /// The mesh's folder
    #[arg(long)]
    dir: PathBuf,
}

/// Which processes of which node.
#[derive(clap::Args)]
struct Act {
    #[command(flatten)]
    at: At,
    /// The node, by number (from 1) or name
    #[arg(long)]
    node: String,
    /// Which of its processes
    #[arg(long, value_enum, default_value_t = Part::All)]
    what: Part,
}

#[derive(clap::Args)]
struct Kill {
    #[command(flatten)]
    act: Act,
    /// Name or number of the signal
    #[arg(long, default_value = "KILL")]
    signal: String,
}

/// Processes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The agent
    Agent,
    /// Dovecot, with all its children
    Store,
    /// Both
    All,
}

impl Part {
    fn agent(self) -> bool {
        self != Self::Store
    }

    fn store(self) -> bool {
        self != Self::Agent
    }
}

/// The command.
///
/// # Errors
/// When the mesh is not there, or the host refuses something that it needs.
pub(crate) fn main(args: &Args) -> Result<bool> {
    match &args.what {
        What::Up(args) => up::main(args),
        What::Status(args) => status::main(args),
        What::Down(at) => down::main(&absolute(&at.dir)?),
        What::Kill(kill) => {
            let (state, node) = find(&kill.act)?;
            owner::kill(&state, &node, kill.act.what, signal_of(&kill.signal)?)
        }
        What::Start(act) => {
            let (_, node) = find(act)?;
            owner::ask(&absolute(&act.at.dir)?, &format!("start {node} {:?}", act.what).to_lowercase())
        }
    }
}

fn find(act: &Act) -> Result<(contract::State, String)> {
    let state = contract::State::load(&absolute(&act.at.dir)?)?;
    let name = if act.node.parse::<usize>().is_ok() { format!("node{}", act.node) } else { act.node.clone() };
    let known = state.mesh.nodes.iter().any(|n| n.name == name);
    let names: Vec<&str> = state.mesh.nodes.iter().map(|n| n.name.as_str()).collect();
    anyhow::ensure!(known, "no node `{}` in this mesh; there are: {}", act.node, names.join(", "));
    Ok((state, name))
}

fn signal_of(text: &str) -> Result<Signal> {
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let number = text.parse::<i32>().ok().and_then(|n| Signal::try_from(n).ok());
    number.or_else(|| name.parse().ok()).with_context(|| format!("there is no signal `{text}`"))
}

/// The absolute form of a folder that may not be there yet. Not resolved through symlinks when it is not there, so a
/// mesh is found again only under a name that leads to the same absolute path.
fn absolute(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize()
        .or_else(|_| std::path::absolute(dir))
        .with_context(|| format!("`{}` is no usable path", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_as_people_name_them() {
        for text in ["KILL", "kill", "SIGKILL", "9"] {
            assert_eq!(signal_of(text).expect("known"), Signal::SIGKILL, "{text}");
        }
        assert!(signal_of("NOPE").is_err());
    }
}
