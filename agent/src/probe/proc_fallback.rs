//! Without kernel programs: what /proc still shows of a stall, and the names of what it does not show.
//!
//! Owns: how long each process has been seen in uninterruptible sleep. What can hurt: four looks a second miss
//! every wait that is shorter; such waits are not counted, and the blind list says so.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::read_stat;

/// What cannot be seen without kernel programs.
pub const BLIND: &[&str] = &[
    "latencies of system calls",
    "errors of system calls",
    "age of the oldest call in flight (only uninterruptible sleep of 250 ms or more is seen)",
    "distribution of run-queue delay (only its sum is known)",
    "latency and errors of block requests",
    "exit codes and signals",
    "memory kills",
    "processes that live shorter than one second",
];

/// Remembers since when each process sleeps uninterruptibly.
#[derive(Debug, Default)]
pub struct BlockedWatch {
    since_ns: BTreeMap<u32, u64>,
}

impl BlockedWatch {
    /// Looks at the processes and returns the longest such sleep so far.
    pub fn look(&mut self, pids: &BTreeSet<u32>, now_ns: u64) -> u64 {
        self.update(pids.iter().copied().filter(|pid| read_stat(*pid).is_some_and(|stat| stat.state == 'D')), now_ns)
    }

    fn update(&mut self, blocked: impl Iterator<Item = u32>, now_ns: u64) -> u64 {
        let before = std::mem::take(&mut self.since_ns);
        self.since_ns = blocked.map(|pid| (pid, before.get(&pid).copied().unwrap_or(now_ns))).collect();
        self.since_ns.values().map(|since| now_ns.saturating_sub(*since)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_grows_while_it_lasts_and_is_forgotten_when_it_ends() {
        let mut watch = BlockedWatch::default();
        assert_eq!(watch.update([7].into_iter(), 100), 0);
        assert_eq!(watch.update([7, 8].into_iter(), 350), 250);
        assert_eq!(watch.update([8].into_iter(), 600), 250);
        assert_eq!(watch.update([].into_iter(), 700), 0);
        assert_eq!(watch.update([8].into_iter(), 900), 0);
    }
}
