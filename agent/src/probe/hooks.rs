//! The tracepoints that are used: what each needs, what cannot be seen without it, and whether it is in use.
//!
//! Owns: the table of hooks, in the order of attaching, and the signals that are reported. Refuses: attaching; `kernel`
//! does.

use serde::{Deserialize, Serialize};

/// Whether one hook is in use, and if not, why and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Name of the tracepoint, or `object`, `permission`, `type information`.
    pub hook: String,
    /// In use.
    pub ok: bool,
    /// Why not; empty when it is in use.
    pub reason: String,
    /// What the administrator can do; empty when it is in use.
    pub remedy: String,
}

impl Capability {
    pub(super) fn fine(hook: &str) -> Self {
        Self { hook: hook.to_owned(), ok: true, reason: String::new(), remedy: String::new() }
    }

    pub(super) fn missing(hook: &str, reason: impl Into<String>, remedy: &str) -> Self {
        Self { hook: hook.to_owned(), ok: false, reason: reason.into(), remedy: remedy.to_owned() }
    }
}

/// What one hook needs besides permission.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    TaskFields,
    BlockFields,
}

/// One tracepoint.
pub(super) struct Hook {
    pub(super) name: &'static str,
    pub(super) needs: Needs,
    /// Without this one it would only mislead: a call that never ends, a wake-up that leads nowhere.
    pub(super) after: &'static str,
    /// What cannot be seen without it.
    pub(super) without: &'static str,
}

const fn hook(name: &'static str, needs: Needs, after: &'static str, without: &'static str) -> Hook {
    Hook { name, needs, after, without }
}

/// Every hook, in the order of attaching: what follows processes first, and each end before its beginning.
pub(super) const HOOKS: &[Hook] = &[
    hook(FOLLOWS, Needs::TaskFields, "", "children younger than one second"),
    hook("sched_process_exit", Needs::TaskFields, "", "exits of store processes"),
    hook("sys_exit", Needs::Nothing, "", "system calls"),
    hook("sys_enter", Needs::Nothing, "sys_exit", "system calls"),
    hook("sched_switch", Needs::TaskFields, "", "run-queue delay and time off the processor"),
    hook("sched_wakeup", Needs::TaskFields, "sched_switch", "run-queue delay after a wake-up"),
    hook("sched_wakeup_new", Needs::TaskFields, "sched_switch", "run-queue delay of new processes"),
    hook("signal_generate", Needs::TaskFields, "", "signals to store processes"),
    hook("mark_victim", Needs::TaskFields, "", "memory kills"),
    hook("block_rq_complete", Needs::BlockFields, "", "block-request latency and errors"),
    hook("block_rq_issue", Needs::BlockFields, "block_rq_complete", "block-request latency and errors"),
];

/// The hook that follows children in the kernel.
pub(super) const FOLLOWS: &str = "sched_process_fork";

/// Signals that are reported when raised for the store: those that end a process unless handled, except the ones
/// a mail store uses among its own processes all day (HUP, INT, PIPE, ALRM, USR1, USR2, CHLD).
pub(super) const SIGNALS: &[i32] = &[
    libc::SIGKILL,
    libc::SIGTERM,
    libc::SIGQUIT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGSYS,
    libc::SIGXFSZ,
    libc::SIGXCPU,
];

pub(super) const BUILD_REMEDY: &str = "run `cargo xtask build`, or install a package that carries the kernel programs";
pub(super) const PERMISSION_REMEDY: &str = "run the agent as root or with CAP_BPF and CAP_PERFMON";
pub(super) const KERNEL_REMEDY: &str = "use Linux 5.18 or later with CONFIG_BPF_EVENTS and CONFIG_DEBUG_INFO_BTF";

/// What cannot be seen, given what could be attached.
#[must_use]
pub fn blind_spots(capabilities: &[Capability]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for hook in HOOKS {
        if !is_used(capabilities, hook.name) && !out.iter().any(|name| name == hook.without) {
            out.push(hook.without.to_owned());
        }
    }
    out
}

pub(super) fn is_used(capabilities: &[Capability], hook: &str) -> bool {
    capabilities.iter().any(|capability| capability.ok && capability.hook == hook)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_comes_after_the_one_it_is_of_no_use_without() {
        for (index, hook) in HOOKS.iter().enumerate() {
            let before = &HOOKS[..index];
            assert!(hook.after.is_empty() || before.iter().any(|other| other.name == hook.after), "{}", hook.name);
        }
    }

    #[test]
    fn what_is_not_in_use_is_named_once() {
        let mut capabilities: Vec<Capability> = HOOKS.iter().map(|hook| Capability::fine(hook.name)).collect();
        assert!(blind_spots(&capabilities).is_empty());
        for capability in capabilities.iter_mut().filter(|capability| capability.hook.starts_with("sys_")) {
            capability.ok = false;
        }
        assert_eq!(blind_spots(&capabilities), ["system calls"]);
    }
}
