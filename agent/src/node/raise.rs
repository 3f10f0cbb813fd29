//! Raising UIDs after a promotion: threads that prepare the accounts of a group one by one, those asked for first.
//!
//! Owns: the queue and the threads. What can hurt: the node before may have given out UIDs and modification sequences
//! that never came here; given again to other messages they would corrupt what clients keep. So before an account's
//! first client every mailbox is raised by a gap, and how it stood before is kept (the fork state), for the old node's
//! return. A store that fails is asked again; its account waits, others go on. Refuses: touching an account twice.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::Sender;
use understudy_types::id::{Epoch, GroupId};

use super::query::Query;
use super::verify::Connect;
use crate::limits::{RAISE_RETRY_MS, RAISERS};
use crate::merge::forks::Forks;
use crate::store::{MailboxMark, RaiseGap, Store, StoreError};

/// An account to be raised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    group: GroupId,
    epoch: Epoch,
    account: String,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Raised {
    pub group: GroupId,
    pub epoch: Epoch,
    pub account: String,
    /// Tried again until it succeeds.
    pub error: Option<String>,
    /// Where its mailboxes stand now, at least.
    pub marks: Vec<MailboxMark>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    known: BTreeSet<Job>,
    stopped: bool,
}

/// Queue and threads.
pub(crate) struct Raiser {
    shared: Arc<(Mutex<Waiting>, Condvar)>,
}

impl Raiser {
    /// Starts the threads; they end when this is dropped.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub(crate) fn start(
        connect: &Connect,
        queries: &Sender<Query>,
        forks: &Arc<Forks>,
        gap: RaiseGap,
    ) -> std::io::Result<Self> {
        let shared = Arc::new((Mutex::default(), Condvar::new()));
        for n in 0..RAISERS {
            let (shared, connect, queries, forks) = (shared.clone(), connect.clone(), queries.clone(), forks.clone());
            std::thread::Builder::new().name(format!("raise-{n}")).spawn(move || {
                let mut store = connect();
                while let Some(job) = next(&shared) {
                    let (marks, error) = match raise(store.as_mut(), &forks, &job, gap) {
                        Ok(marks) => (marks, None),
                        Err(error) => (Vec::new(), Some(error)),
                    };
                    let failed = error.is_some();
                    let (group, epoch, account) = (job.group, job.epoch, job.account.clone());
                    let told = Raised { group, epoch, account, error, marks };
                    if queries.send(Query::Raised(told)).is_err() {
                        return;
                    }
                    if failed {
                        std::thread::sleep(Duration::from_millis(RAISE_RETRY_MS));
                        lock(&shared.0).jobs.push_back(job);
                        shared.1.notify_one();
                    } else {
                        lock(&shared.0).known.remove(&job);
                    }
                }
            })?;
        }
        Ok(Self { shared })
    }

    /// Wants an account raised; `first`: before those that nobody asked for.
    pub(crate) fn want(&self, group: GroupId, epoch: Epoch, account: &str, first: bool) {
        let job = Job { group, epoch, account: account.to_owned() };
        let mut waiting = lock(&self.shared.0);
        if waiting.known.insert(job.clone()) {
            if first { waiting.jobs.push_front(job) } else { waiting.jobs.push_back(job) }
        } else if first && let Some(at) = waiting.jobs.iter().position(|known| *known == job) {
            waiting.jobs.remove(at);
            waiting.jobs.push_front(job);
        }
        drop(waiting);
        self.shared.1.notify_one();
    }

    /// The group is no longer this node's.
    pub(crate) fn forget(&self, group: GroupId) {
        let mut waiting = lock(&self.shared.0);
        waiting.jobs.retain(|job| job.group != group);
        waiting.known.retain(|job| job.group != group);
    }
}

impl Drop for Raiser {
    fn drop(&mut self) {
        lock(&self.shared.0).stopped = true;
        self.shared.1.notify_all();
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next(shared: &(Mutex<Waiting>, Condvar)) -> Option<Job> {
    let mut waiting = lock(&shared.0);
    loop {
        if waiting.stopped {
            return None;
        }
        if let Some(job) = waiting.jobs.pop_front() {
            return Some(job);
        }
        waiting = shared.1.wait(waiting).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Reads, keeps, then raises; gives the marks as they are at least now. What was kept for this epoch stays: read once
/// more after a crash, it would not be true.
fn raise(store: &mut dyn Store, forks: &Forks, job: &Job, gap: RaiseGap) -> Result<Vec<MailboxMark>, String> {
    let known = forks.of(job.group, &job.account).map_err(|error| error.to_string())?;
    if known.is_none_or(|(epoch, _)| epoch < job.epoch) {
        let marks = match store.raise(&job.account, RaiseGap::default()) {
            // The user database lists it no more: there is nothing to raise.
            Err(StoreError::UnknownAccount(_)) => return Ok(Vec::new()),
            other => other.map_err(|error| error.to_string())?,
        };
        forks.keep(job.group, job.epoch, &job.account, &marks).map_err(|error| error.to_string())?;
    }
    match store.raise(&job.account, gap) {
        Ok(marks) => Ok(marks.into_iter().map(|mark| raised_by(mark, gap)).collect()),
        Err(StoreError::UnknownAccount(_)) => Ok(Vec::new()),
        Err(error) => Err(error.to_string()),
    }
}

fn raised_by(mark: MailboxMark, gap: RaiseGap) -> MailboxMark {
    MailboxMark {
        next_uid: mark.next_uid.saturating_add(gap.uid),
        highest_modseq: mark.highest_modseq.saturating_add(gap.modseq),
        ..mark
    }
}
