//! `mesh kill`: signals to processes of a node, of a whole machine, or of what stands beside the nodes.
//!
//! Owns: which processes are meant. What can hurt: a process that cannot end, because its disk hangs; it is waited for
//! only so long. A machine is cut off before its processes are signalled: a dead one says no farewell to anybody.
//! Refuses: signalling what is in no namespace or control group of the mesh.

use super::contract::{Node, State};
use super::plan::Plan;
use super::services::Service;
use super::{Part, faults, process, store};
use crate::clock;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::time::Duration;

/// A killed process may take so long to disappear.
const GONE_WAIT: Duration = Duration::from_secs(10);
/// The mark of an agent's process.
pub(super) const AGENT: &str = "agent";

/// The store's whole tree: Dovecot's programs in the node's namespace, and what is in the store's control group.
pub(super) fn store_processes(state: &State, node: &Node) -> Vec<i32> {
    let of_store = |pid: &i32| store::is_program(&process::program_of(*pid));
    let mut pids: Vec<i32> = process::in_netns(&node.netns).into_iter().filter(of_store).collect();
    if let Some(cgroup) = state.cgroups.get(&node.name) {
        let more: Vec<i32> = process::in_cgroup(cgroup).into_iter().filter(|pid| !pids.contains(pid)).collect();
        pids.extend(more);
    }
    pids
}

fn agent_processes(node: &Node) -> Vec<i32> {
    let is_agent = |pid: &i32| process::mark_of(*pid).is_some_and(|mark| mark == AGENT);
    process::in_netns(&node.netns).into_iter().filter(is_agent).collect()
}

fn machine_processes(state: &State, node: &Node) -> Vec<i32> {
    let mut pids = process::in_netns(&node.netns);
    pids.extend(store_processes(state, node));
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Sends `signal` to processes of `node`. Signals that end or stop at once go to the store's whole tree, all others to
/// its master alone, which is what they are meant for. After SIGKILL, waits until they are gone.
///
/// # Errors
/// When nothing of what was asked for runs, except for a machine: that is off then.
pub(super) fn node(plan: &Plan, state: &State, node: &str, what: Part, signal: Signal) -> Result<bool> {
    let at_once = [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGCONT, Signal::SIGABRT, Signal::SIGSEGV];
    let whole_tree = at_once.contains(&signal);
    let node = state.mesh.nodes.iter().find(|n| n.name == node).with_context(|| format!("no node `{node}`"))?;
    if what == Part::Machine {
        let known = [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGCONT].contains(&signal);
        ensure!(known, "a machine can be killed (KILL), frozen (STOP) or thawed (CONT)");
        faults::set_off(plan, &node.name, signal != Signal::SIGCONT)?;
        send(signal, &|| machine_processes(state, node));
        return Ok(true);
    }
    let find = || {
        let mut pids = if what.agent() { agent_processes(node) } else { Vec::new() };
        if what.store() {
            let all = store_processes(state, node).into_iter();
            pids.extend(all.filter(|pid| whole_tree || Some(*pid) == node.store_pid));
        }
        pids
    };
    ensure!(send(signal, &find), "nothing of it runs on `{}`", node.name);
    Ok(true)
}

/// Sends `signal` to all processes of `service`: of all of etcd's members, or of one of them.
///
/// # Errors
/// When nothing of it runs.
pub(super) fn service(plan: &Plan, service: Service, member: Option<&str>, signal: Signal) -> Result<bool> {
    let seats = super::seats_of(plan, service, member)?;
    let find = || seats.iter().flat_map(|seat| service.processes(seat)).collect();
    ensure!(send(signal, &find), "no {} runs", service.name());
    Ok(true)
}

/// `false` when there is nobody to send it to. What is born meanwhile gets it too.
fn send(signal: Signal, find: &dyn Fn() -> Vec<i32>) -> bool {
    let mut told = find();
    process::signal(&told, signal);
    let sent = clock::now();
    while [Signal::SIGKILL, Signal::SIGSTOP].contains(&signal) && sent.elapsed() < GONE_WAIT {
        let left = find();
        let new: Vec<i32> = left.iter().copied().filter(|pid| !told.contains(pid)).collect();
        // One that is ending has no environment any more, and with it no mark, but still holds its files (seen: a start
        // right after it took it for alive and started nothing).
        let gone = || left.is_empty() && !told.iter().any(|pid| process::is_there(*pid));
        if new.is_empty() && (signal == Signal::SIGSTOP || gone()) {
            break;
        }
        process::signal(&new, signal);
        told.extend(new);
        std::thread::sleep(Duration::from_millis(10));
    }
    !told.is_empty()
}
