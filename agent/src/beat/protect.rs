//! What the beat's thread asks of the kernel so that it runs when the machine is busy.
//!
//! Owns: locking memory and raising the thread's priority, each best effort and reported. What can hurt: refusal
//! (limits, capabilities, a version 1 processor group without real-time share); the beat then says that it is
//! unprotected. Refuses: real time for any other thread.
#![expect(unsafe_code, reason = "scheduling calls that no crate in use wraps")]

use serde::{Deserialize, Serialize};

/// Lowest real-time priority that is above the ordinary: the thread runs for microseconds a second.
const REAL_TIME_PRIORITY: i32 = 5;
/// What is asked for where real time is refused.
const NICE: i32 = -20;

/// What was granted. Empty texts mean granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Memory is locked as it is touched.
    pub is_locked: bool,
    /// Why not.
    pub lock_refusal: String,
    /// Real time, or the best nice value.
    pub is_prior: bool,
    /// Why not real time.
    pub priority_refusal: String,
}

impl Protection {
    /// Both were granted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_locked && self.is_prior
    }
}

/// Asks for both.
///
/// Memory is locked on fault: pages that the agent maps now and touches stay; nothing is read in for it. What is mapped
/// later is not locked, so a limit on locked memory cannot make a later mapping fail.
#[must_use]
pub fn protect_this_thread() -> Protection {
    let mut out = Protection::default();
    // SAFETY: mlockall takes flags only and touches no memory of this program.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) } {
        0 => out.is_locked = true,
        _ => {
            out.lock_refusal = format!("cannot lock memory: {}; raise `LimitMEMLOCK`", std::io::Error::last_os_error());
        }
    }
    let parameter = libc::sched_param { sched_priority: REAL_TIME_PRIORITY };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is the calling thread; `parameter` is a valid structure for the length of the call.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) } == 0 {
        out.is_prior = true;
        return out;
    }
    out.priority_refusal = format!("no real-time priority: {}", std::io::Error::last_os_error());
    // SAFETY: 0 is the calling thread (on Linux a nice value belongs to a thread); takes numbers only.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } == 0 {
        out.is_prior = true;
    } else {
        let error = std::io::Error::last_os_error();
        out.priority_refusal = format!("{}; no nice value either: {error}; give CAP_SYS_NICE", out.priority_refusal);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_named() {
        let asked = std::thread::spawn(protect_this_thread).join().expect("the thread ends");
        assert_eq!(asked.is_locked, asked.lock_refusal.is_empty());
        assert!(asked.is_prior || asked.priority_refusal.contains("CAP_SYS_NICE"), "{asked:?}");
    }
}
