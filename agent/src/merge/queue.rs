//! Which accounts are merged when.
//!
//! Owns: the groups to be merged, one after the other, and the waits of accounts that failed. Pure. What can hurt: an
//! account whose merge fails for ever; it waits longer each time and holds up neither the others of its group nor the
//! next group. Refuses: giving an account up; its state is the only copy of something.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use understudy_types::id::{Epoch, GroupId};

use crate::clock::MonoNs;
use crate::limits::{MERGE_RETRY_MS_MAX, MERGE_RETRY_MS_MIN, MERGES_AT_ONCE};

/// One account to be merged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    pub group: GroupId,
    /// The epoch of the active that it is merged into.
    pub epoch: Epoch,
    pub account: String,
    /// Times that it failed before.
    pub failed: u32,
}

#[derive(Debug)]
struct Work {
    epoch: Epoch,
    pending: VecDeque<Job>,
    later: Vec<(MonoNs, Job)>,
    /// Accounts that are under way.
    running: usize,
}

/// The groups.
#[derive(Debug, Default)]
pub struct Queue {
    groups: BTreeMap<GroupId, Work>,
    order: VecDeque<GroupId>,
    running: BTreeSet<Job>,
}

impl Queue {
    /// Merges a group, from now on with this epoch. What runs for an older one no longer counts.
    pub fn begin(&mut self, group: GroupId, epoch: Epoch, accounts: impl IntoIterator<Item = String>) {
        self.cancel(group);
        let pending = accounts.into_iter().map(|account| Job { group, epoch, account, failed: 0 }).collect();
        self.groups.insert(group, Work { epoch, pending, later: Vec::new(), running: 0 });
        self.order.push_back(group);
    }

    /// The group is not to be merged any more.
    pub fn cancel(&mut self, group: GroupId) {
        self.groups.remove(&group);
        self.order.retain(|queued| *queued != group);
    }

    /// Jobs that are to start now.
    pub fn start(&mut self, now: MonoNs) -> Vec<Job> {
        let mut started = Vec::new();
        for group in &self.order {
            let Some(work) = self.groups.get_mut(group) else { continue };
            let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut work.later).into_iter().partition(|l| l.0 <= now);
            work.later = later;
            work.pending.extend(due.into_iter().map(|(_, job)| job));
            let mut passed_over = VecDeque::new();
            while self.running.len() < MERGES_AT_ONCE
                && let Some(job) = work.pending.pop_front()
            {
                // A job of an older epoch may still work on the account.
                if self.running.iter().any(|running| running.account == job.account) {
                    passed_over.push_back(job);
                    continue;
                }
                work.running += 1;
                self.running.insert(job.clone());
                started.push(job);
            }
            work.pending.extend(passed_over);
        }
        started
    }

    /// A job ended. `true` when it was the last of its group, which is then forgotten.
    pub fn ended(&mut self, job: &Job, done: bool, now: MonoNs) -> bool {
        self.running.remove(job);
        let Some(work) = self.groups.get_mut(&job.group).filter(|work| work.epoch == job.epoch) else { return false };
        work.running -= 1;
        if !done {
            let wait = MERGE_RETRY_MS_MIN.saturating_mul(1 << job.failed.min(16)).min(MERGE_RETRY_MS_MAX);
            let again = Job { failed: job.failed.saturating_add(1), ..job.clone() };
            work.later.push((now.after(Duration::from_millis(wait)), again));
        }
        self.is_done(job.group)
    }

    /// Whether nothing of the group is left; it is then forgotten.
    pub fn is_done(&mut self, group: GroupId) -> bool {
        let done = |work: &Work| work.pending.is_empty() && work.later.is_empty() && work.running == 0;
        let done = self.groups.get(&group).is_some_and(done);
        if done {
            self.cancel(group);
        }
        done
    }

    /// Whether the job still counts.
    #[must_use]
    pub fn is_current(&self, group: GroupId, epoch: Epoch) -> bool {
        self.groups.get(&group).is_some_and(|work| work.epoch == epoch)
    }

    /// When the next wait ends.
    #[must_use]
    pub fn due(&self) -> Option<MonoNs> {
        self.groups.values().flat_map(|work| work.later.iter().map(|(at, _)| *at)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("a{n}")).collect()
    }

    #[test]
    fn few_run_at_once_and_a_failed_one_waits_longer_each_time() {
        let mut queue = Queue::default();
        queue.begin(GroupId(1), Epoch(2), names(MERGES_AT_ONCE + 1));
        let first = queue.start(MonoNs(0));
        assert_eq!(first.len(), MERGES_AT_ONCE);
        assert!(queue.start(MonoNs(0)).is_empty());
        assert!(!queue.ended(&first[0], false, MonoNs(0)));
        let other = queue.start(MonoNs(0));
        assert_eq!(other.len(), 1, "another takes its place");
        assert!(!queue.ended(&first[1], true, MonoNs(0)) && !queue.ended(&other[0], true, MonoNs(0)));
        let due = queue.due().unwrap();
        assert_eq!(due, MonoNs(MERGE_RETRY_MS_MIN * 1_000_000));
        assert!(queue.start(MonoNs(due.0 - 1)).is_empty());
        let again = queue.start(due);
        assert_eq!((again.len(), again[0].failed), (1, 1));
        queue.ended(&again[0], false, due);
        assert_eq!(queue.due().unwrap().since_ns(due), 2 * MERGE_RETRY_MS_MIN * 1_000_000);
        let last = queue.start(MonoNs(u64::MAX));
        assert!(queue.ended(&last[0], true, MonoNs(u64::MAX)), "the group is done");
        assert!(!queue.is_done(GroupId(1)), "and forgotten");
    }

    #[test]
    fn a_group_that_waits_holds_up_no_other_and_a_newer_epoch_counts() {
        let mut queue = Queue::default();
        queue.begin(GroupId(1), Epoch(2), names(1));
        queue.begin(GroupId(2), Epoch(2), vec!["b".into()]);
        let jobs = queue.start(MonoNs(0));
        assert_eq!(jobs.iter().map(|job| job.group.0).collect::<Vec<_>>(), [1, 2]);
        queue.begin(GroupId(1), Epoch(3), names(1));
        assert!(queue.start(MonoNs(0)).is_empty(), "the old job still works on the account");
        assert!(!queue.is_current(GroupId(1), Epoch(2)));
        assert!(!queue.ended(&jobs[0], true, MonoNs(0)), "what ended for the old epoch does not count");
        assert_eq!(queue.start(MonoNs(0))[0].epoch, Epoch(3));
        assert!(queue.ended(&jobs[1], true, MonoNs(0)));
    }
}
