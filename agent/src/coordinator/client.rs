//! The coordinator as the node sees it: orders go in without waiting, events come out.
//!
//! Owns: two threads. One sends transactions, several at a time, so that a slow one does not hold up a renewal. The
//! other takes a snapshot and watches on from it without a gap, and begins anew for ever when it is lost. What can
//! hurt: an event of a watch that was given up and comes after the next snapshot; it is dropped by its generation. A
//! coordinator that neither answers nor fails: past its time-out a transaction counts as `Unknown`. Refuses: to try a
//! transaction twice, and to wait for anybody in [`CoordinatorClient::submit`].

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crossbeam::select;

use super::stats::{CoordinatorStats, Counters};
use super::{Coordinator, CoordinatorError, KeyChange, KeyValue, Sink, Txn, TxnOutcome, WatchEvent};
use crate::clock::{self, MonoNs};
use crate::limits::{
    COORDINATOR_GRACE_MS, COORDINATOR_QUEUE_MAX, COORDINATOR_RETRY_MS_MAX, COORDINATOR_RETRY_MS_MIN,
    COORDINATOR_TURNED_AWAY_MAX,
};

/// What the node is told. After a `Snapshot` come `Changed`, without a gap, until `Lost`; then a `Snapshot` again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorEvent {
    /// Everything at one revision; what is not named is not there.
    Snapshot(Vec<KeyValue>, u64),
    Changed(Vec<KeyChange>),
    /// Once for each time that it is away; tries go on.
    Lost {
        reason: String,
    },
    /// To each `submit`, once. In any order, also before or after the change itself is seen.
    Answer {
        id: u64,
        result: TxnResult,
        rtt_ns: u64,
    },
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    Done {
        revision: u64,
    },
    /// Some condition did not hold; nothing was written.
    Refused,
    /// Nothing was written, and why.
    Unreachable(String),
    /// It may have been written, or may yet be.
    Unknown(String),
}

impl From<Result<TxnOutcome, CoordinatorError>> for TxnResult {
    fn from(outcome: Result<TxnOutcome, CoordinatorError>) -> Self {
        match outcome {
            Ok(TxnOutcome::Done { revision }) => Self::Done { revision },
            Ok(TxnOutcome::Refused) => Self::Refused,
            Err(error @ CoordinatorError::Unknown { .. }) => Self::Unknown(error.to_string()),
            Err(error) => Self::Unreachable(error.to_string()),
        }
    }
}

/// The node's handle. Dropped, no event comes any more; the threads end by themselves.
pub struct CoordinatorClient {
    shared: Arc<Shared>,
    wake: Sender<()>,
    reread: Sender<()>,
}

struct Shared {
    state: Mutex<State>,
    out: Mutex<Out>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(u64, Txn)>,
    under_way: usize,
    /// Came when too many were under way.
    turned_away: Vec<u64>,
    timeout: Option<Duration>,
    stopped: bool,
    counters: Counters,
}

struct Out {
    events: Box<dyn Fn(CoordinatorEvent) + Send>,
    /// Of the snapshot that was told last.
    generation: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CoordinatorClient {
    /// Begins. `events` is called from threads of the client, one call at a time; it may wait.
    ///
    /// # Errors
    /// When a thread or a second handle cannot be had.
    pub fn start(
        coordinator: Box<dyn Coordinator>,
        events: impl Fn(CoordinatorEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let watcher = coordinator.another().map_err(io::Error::other)?;
        let out = Out { events: Box::new(events), generation: 0 };
        let shared = Arc::new(Shared { state: Mutex::default(), out: Mutex::new(out) });
        let (wake, woken) = bounded(1);
        let (reread, control) = bounded(1);
        let of = shared.clone();
        thread::Builder::new().name("coordinator".to_owned()).spawn(move || transact(coordinator, &of, &woken))?;
        let of = shared.clone();
        thread::Builder::new().name("coordinator-follow".to_owned()).spawn(move || follow(watcher, &of, &control))?;
        Ok(Self { shared, wake, reread })
    }

    /// Sends a transaction; its [`CoordinatorEvent::Answer`] follows. Never waits. Past the limit of those that are
    /// under way the answer is `Unreachable`.
    pub fn submit(&self, id: u64, txn: Txn) {
        {
            let mut state = self.shared.state();
            if state.queue.len() + state.under_way < COORDINATOR_QUEUE_MAX {
                state.queue.push_back((id, txn));
            } else if state.turned_away.len() < COORDINATOR_TURNED_AWAY_MAX {
                state.turned_away.push(id);
            }
        }
        let _ = self.wake.try_send(());
    }

    /// Takes a new snapshot, as after a loss; the watch goes on from there.
    pub fn reread(&self) {
        let _ = self.reread.try_send(());
    }

    /// Time-out of every request from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.shared.state().timeout = Some(timeout);
        let _ = self.wake.try_send(());
    }

    /// Round trips and outcomes.
    #[must_use]
    pub fn stats(&self) -> CoordinatorStats {
        let state = self.shared.state();
        state.counters.stats(state.queue.len() + state.under_way)
    }
}

impl Drop for CoordinatorClient {
    fn drop(&mut self) {
        // Not under `out`: a thread may hold that while it waits for whoever drops this.
        self.shared.state().stopped = true;
    }
}

/// A transaction without an answer.
struct Pending {
    id: u64,
    begun: MonoNs,
    until: MonoNs,
}

type Outcome = (u64, Result<TxnOutcome, CoordinatorError>, MonoNs);

fn transact(mut coordinator: Box<dyn Coordinator>, shared: &Shared, woken: &Receiver<()>) {
    // More than can be under way: some may come after they were given up.
    let (outcomes, ended) = bounded::<Outcome>(2 * COORDINATOR_QUEUE_MAX);
    let mut pending: BTreeMap<u64, Pending> = BTreeMap::new();
    let mut serial = 0;
    loop {
        let (queue, turned_away, timeout) = {
            let mut state = shared.state();
            if state.stopped {
                return;
            }
            state.under_way += state.queue.len();
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.turned_away), state.timeout.take())
        };
        if let Some(timeout) = timeout {
            coordinator.set_timeout(timeout);
        }
        for (id, txn) in queue {
            let begun = clock::mono();
            let until = begun.after(coordinator.timeout() + Duration::from_millis(COORDINATOR_GRACE_MS));
            serial += 1;
            pending.insert(serial, Pending { id, begun, until });
            let (number, outcomes) = (serial, outcomes.clone());
            // What finds no room is given up after its time: `Unknown`, which is true of anything.
            let done = move |outcome| _ = outcomes.try_send((number, outcome, clock::mono()));
            coordinator.submit(txn, Box::new(done));
        }
        for id in turned_away {
            let reason = format!("{COORDINATOR_QUEUE_MAX} transactions are under way");
            let outcome = Err(CoordinatorError::Unreachable { of: coordinator.describe(), reason });
            answer(shared, id, outcome, 0, false);
        }
        let now = clock::mono();
        let next = pending.values().map(|p| p.until.since_ns(now)).min().unwrap_or(u64::MAX);
        select! {
            recv(woken) -> woken => if woken.is_err() { return },
            recv(ended) -> outcome => if let Ok((number, outcome, at)) = outcome
                && let Some(Pending { id, begun, .. }) = pending.remove(&number) {
                answer(shared, id, outcome, at.since_ns(begun), true);
            },
            default(Duration::from_nanos(next)) => {}
        }
        let now = clock::mono();
        let over: Vec<u64> = pending.iter().filter(|(_, p)| p.until <= now).map(|(number, _)| *number).collect();
        for Pending { id, begun, .. } in over.iter().filter_map(|number| pending.remove(number)) {
            let reason = "no answer within the time-out".to_owned();
            let outcome = Err(CoordinatorError::Unknown { of: coordinator.describe(), reason });
            answer(shared, id, outcome, now.since_ns(begun), true);
        }
    }
}

fn answer(shared: &Shared, id: u64, outcome: Result<TxnOutcome, CoordinatorError>, rtt_ns: u64, was_under_way: bool) {
    {
        let mut state = shared.state();
        state.under_way -= usize::from(was_under_way);
        state.counters.outcome(&outcome, rtt_ns);
    }
    tell(shared, &shared.out(), CoordinatorEvent::Answer { id, result: outcome.into(), rtt_ns });
}

fn tell(shared: &Shared, out: &Out, event: CoordinatorEvent) {
    if !shared.state().stopped {
        (out.events)(event);
    }
}

/// Why the watch ended.
enum Ended {
    Lost(String),
    Reread,
    Stopped,
}

fn follow(mut coordinator: Box<dyn Coordinator>, shared: &Arc<Shared>, control: &Receiver<()>) {
    let mut told = false;
    let mut wait_ms = COORDINATOR_RETRY_MS_MIN;
    let mut generation = 0;
    loop {
        let begun = clock::mono();
        generation += 1;
        let reason = match once(coordinator.as_mut(), shared, control, generation, &mut told) {
            Ended::Lost(reason) => reason,
            Ended::Reread => continue,
            Ended::Stopped => return,
        };
        shared.state().counters.lost();
        if !std::mem::replace(&mut told, true) {
            tell(shared, &shared.out(), CoordinatorEvent::Lost { reason });
        }
        if clock::mono().since_ns(begun) > COORDINATOR_RETRY_MS_MAX * 1_000_000 {
            wait_ms = COORDINATOR_RETRY_MS_MIN;
        }
        // A wish to read anew is about to be met.
        let _ = control.try_recv();
        if control.recv_timeout(Duration::from_millis(wait_ms)) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        wait_ms = (2 * wait_ms).min(COORDINATOR_RETRY_MS_MAX);
    }
}

fn once(
    coordinator: &mut dyn Coordinator,
    shared: &Arc<Shared>,
    control: &Receiver<()>,
    generation: u64,
    told: &mut bool,
) -> Ended {
    let snapshot = match coordinator.snapshot() {
        Ok(snapshot) => snapshot,
        Err(error) => return Ended::Lost(error.to_string()),
    };
    let revision = snapshot.revision;
    shared.state().counters.whole(revision);
    {
        let mut out = shared.out();
        out.generation = generation;
        tell(shared, &out, CoordinatorEvent::Snapshot(snapshot.keys, revision));
    }
    *told = false;
    let (lost, ended) = bounded(1);
    let of = shared.clone();
    let sink: Sink = Box::new(move |event| match event {
        WatchEvent::Changed(changes) => {
            if let Some(last) = changes.last() {
                of.state().counters.seen(last.revision);
            }
            let out = of.out();
            if out.generation == generation {
                tell(&of, &out, CoordinatorEvent::Changed(changes));
            }
        }
        WatchEvent::Lost(reason) => _ = lost.try_send(reason),
    });
    let _watch = match coordinator.watch(revision, sink) {
        Ok(watch) => watch,
        Err(error) => return Ended::Lost(error.to_string()),
    };
    select! {
        recv(ended) -> reason => Ended::Lost(reason.unwrap_or_else(|_| "the watch ended".to_owned())),
        recv(control) -> wish => if wish.is_ok() { Ended::Reread } else { Ended::Stopped },
    }
}

#[cfg(test)]
mod tests;
