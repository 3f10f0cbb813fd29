//! `cargo xtask mesh`: several nodes on one host to try things on, driven by people and by programs (`docs/mesh.md`).
//!
//! Owns: the life of a mesh. `mesh up` is its one owner: it stays, starts what is asked for through `DIR/mesh.sock`,
//! and takes everything away at its end. The other commands are short. What can hurt: an owner that was killed; then
//! `mesh down` takes everything away by names and marks alone. Refuses: deciding anything about failover.

mod agent;
mod contract;
mod delay;
mod disk;
mod down;
mod faults;
mod kill;
mod net;
mod owner;
mod plan;
mod process;
mod services;
mod stale;
mod status;
mod store;
mod up;

pub(crate) use agent::program as agent_program;
use anyhow::{Context, Result};
pub(crate) use contract::Format;
use nix::sys::signal::Signal;
use plan::{Plan, Seat};
use services::Service;
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
    /// Send a signal to processes of one node, or of what stands beside the nodes
    Kill(Kill),
    /// Start what does not run
    Start(Act),
    /// Cut a node off from others
    Partition(faults::Partition),
    /// Undo `partition`
    Heal(faults::Heal),
    /// Make a node's cable long and leaky
    Delay(delay::Args),
    /// Let a node's disk go wrong, or mend it
    Fault(disk::Fault),
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
    /// The node, by number (from 1) or name; with `--what etcd` one of its members (default: all)
    #[arg(long)]
    node: Option<String>,
    /// Which processes
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

/// Processes of a node, or beside the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The agent
    Agent,
    /// Dovecot, with all its children
    Store,
    /// Both
    All,
    /// All processes of the node, and its network: KILL is a machine that died, STOP one that was frozen
    Machine,
    /// The coordinator
    Etcd,
    /// The proxy of IMAP and POP3
    Nginx,
    /// The balancer before the socketmaps
    Haproxy,
    /// The mail server
    Postfix,
}

impl Part {
    fn agent(self) -> bool {
        matches!(self, Self::Agent | Self::All | Self::Machine)
    }

    fn store(self) -> bool {
        matches!(self, Self::Store | Self::All | Self::Machine)
    }

    fn service(self) -> Option<Service> {
        match self {
            Self::Agent | Self::Store | Self::All | Self::Machine => None,
            Self::Etcd => Some(Service::Etcd),
            Self::Nginx => Some(Service::Nginx),
            Self::Haproxy => Some(Service::Haproxy),
            Self::Postfix => Some(Service::Postfix),
        }
    }
}

/// Why nodes cannot have disks that fail here, if they cannot.
pub(crate) fn disks_available() -> std::result::Result<(), String> {
    disk::available().map_err(|lack| lack.to_string())
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
        What::Kill(args) => {
            let (dir, act, signal) = (absolute(&args.act.at.dir)?, &args.act, signal_of(&args.signal)?);
            let state = contract::State::load(&dir)?;
            let plan = state.plan(&dir);
            match act.what.service() {
                Some(service) => kill::service(&plan, service, act.node.as_deref(), signal),
                None => kill::node(&plan, &state, &node_of(&plan, act)?, act.what, signal),
            }
        }
        What::Start(act) => start(act),
        What::Partition(args) => faults::partition(args),
        What::Heal(args) => faults::heal(args),
        What::Delay(args) => delay::main(args),
        What::Fault(args) => disk::main(args),
    }
}

fn start(act: &Act) -> Result<bool> {
    let dir = absolute(&act.at.dir)?;
    let plan = contract::State::load(&dir)?.plan(&dir);
    if let Some(service) = act.what.service() {
        let seats: Vec<&str> =
            seats_of(&plan, service, act.node.as_deref())?.into_iter().map(|seat| seat.name.as_str()).collect();
        return owner::ask(&dir, &format!("service {} {}", service.name(), seats.join(" ")));
    }
    let node = node_of(&plan, act)?;
    if act.what == Part::Machine {
        faults::set_off(&plan, &node, false)?;
    }
    owner::ask(&dir, &format!("start {node} {:?}", act.what).to_lowercase())
}

fn node_of(plan: &Plan, act: &Act) -> Result<String> {
    node_named(plan, act.node.as_ref().context("which node? (`--node`)")?)
}

/// The name of a node that people name by number or name.
fn node_named(plan: &Plan, text: &str) -> Result<String> {
    let name = if text.parse::<usize>().is_ok() { format!("node{text}") } else { text.to_owned() };
    let names: Vec<&str> = plan.nodes.iter().map(|n| n.name.as_str()).collect();
    anyhow::ensure!(names.contains(&name.as_str()), "no node `{text}` in this mesh; there are: {}", names.join(", "));
    Ok(name)
}

/// Where `service` is; of several, all, or the one that is named by number or name.
fn seats_of<'a>(plan: &'a Plan, service: Service, named: Option<&str>) -> Result<Vec<&'a Seat>> {
    let seats = service.seats(plan);
    anyhow::ensure!(!seats.is_empty(), "this mesh has no {}", service.name());
    let Some(named) = named else { return Ok(seats) };
    let is = |seat: &&Seat| seat.name == named || seat.name == format!("{}{named}", service.name());
    let found: Vec<&Seat> = seats.into_iter().filter(is).collect();
    anyhow::ensure!(!found.is_empty(), "this mesh has no {} `{named}`", service.name());
    Ok(found)
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
