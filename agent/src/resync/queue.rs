//! Which accounts wait for a snapshot, and why.
//!
//! Owns: the queue. Pure. What can hurt: many reasons for one account; they become one job, with bodies if any of
//! them needs bodies. A job asked for while it runs is run once more afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::MonoNs;
use crate::limits::{EXPORT_RETRY_MS, EXPORTS_AT_ONCE};

/// One account to be exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub account: String,
    /// Put bodies into the spool and name them. Without, a replica that lacks a body asks again.
    pub bodies: bool,
    /// For people.
    pub why: String,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<String, Job>,
    order: VecDeque<String>,
    running: BTreeMap<String, Job>,
    /// Failed ones and when they are due again.
    later: Vec<(MonoNs, Job)>,
}

impl Queue {
    /// Asks for an export.
    pub fn want(&mut self, account: &str, bodies: bool, why: &str) {
        if let Some(job) = self.waiting.get_mut(account) {
            job.bodies |= bodies;
        } else {
            let job = Job { account: account.to_owned(), bodies, why: why.to_owned() };
            self.waiting.insert(account.to_owned(), job);
            self.order.push_back(account.to_owned());
        }
    }

    /// Jobs that are to start now.
    pub fn start(&mut self, now: MonoNs) -> Vec<Job> {
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(MonoNs, Job)> = due;
        for (_, job) in due {
            self.want(&job.account, job.bodies, &job.why);
        }
        let mut started = Vec::new();
        let mut passed_over = VecDeque::new();
        while self.running.len() < EXPORTS_AT_ONCE
            && let Some(account) = self.order.pop_front()
        {
            if self.running.contains_key(&account) {
                passed_over.push_back(account);
            } else if let Some(job) = self.waiting.remove(&account) {
                self.running.insert(account, job.clone());
                started.push(job);
            }
        }
        passed_over.append(&mut self.order);
        self.order = passed_over;
        started
    }

    /// An export ended. `false` = it failed and comes again.
    pub fn ended(&mut self, account: &str, done: bool, now: MonoNs) {
        if let Some(job) = self.running.remove(account)
            && !done
        {
            self.later.push((now.after(Duration::from_millis(EXPORT_RETRY_MS)), job));
        }
    }

    /// Accounts that wait, run, or come again.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.running.len() + self.later.len()
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the account waits, runs, or comes again.
    #[must_use]
    pub fn contains(&self, account: &str) -> bool {
        self.waiting.contains_key(account)
            || self.running.contains_key(account)
            || self.later.iter().any(|(_, job)| job.account == account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_reasons_make_one_job_and_a_running_one_is_repeated() {
        let mut queue = Queue::default();
        queue.want("a", false, "gap");
        queue.want("a", true, "first copy");
        let started = queue.start(MonoNs(0));
        assert_eq!(started, [Job { account: "a".into(), bodies: true, why: "gap".into() }]);
        queue.want("a", false, "gap again");
        assert!(queue.start(MonoNs(0)).is_empty(), "one at a time for each account");
        queue.ended("a", true, MonoNs(0));
        assert_eq!(queue.start(MonoNs(0)).len(), 1);
        queue.ended("a", true, MonoNs(0));
        assert!(queue.is_empty());
    }

    #[test]
    fn few_run_at_once_and_a_failed_one_comes_again() {
        let mut queue = Queue::default();
        (0..EXPORTS_AT_ONCE + 5).for_each(|n| queue.want(&format!("a{n}"), true, ""));
        assert_eq!(queue.start(MonoNs(0)).len(), EXPORTS_AT_ONCE);
        queue.ended("a0", false, MonoNs(0));
        assert!(queue.contains("a0"));
        assert_eq!(queue.start(MonoNs(1)).len(), 1, "its place is taken by another");
        queue.ended("a1", true, MonoNs(1));
        queue.ended("a2", true, MonoNs(1));
        let again = queue.start(MonoNs(EXPORT_RETRY_MS * 1_000_000));
        assert_eq!(again.len(), 2);
    }
}
