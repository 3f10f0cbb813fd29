//! What every [`Coordinator`] must do, as one suite that runs on each of them, a real etcd included.
//!
//! Owns: the expectations, as cases with names. It asserts, so it is called from tests only. What can hurt: a wait that
//! is too short on a slow machine; every wait ends when what it waits for is there, and only a hang is a failure.

mod faults;
mod transactions;
mod watches;

use std::collections::BTreeMap;
use std::time::Duration;

use crossbeam::channel::{Receiver, unbounded};
use understudy_types::id::ClusterId;

use super::{Condition, Coordinator, KeyChange, Snapshot, Txn, TxnOutcome, WatchEvent, WatchHandle, Write};
use crate::clock;

/// What takes longer than this hangs.
const HANG: Duration = Duration::from_secs(60);
/// Long enough for any answer that comes at all.
const PATIENT: Duration = Duration::from_secs(30);
/// For answers that do not come.
const SHORT: Duration = Duration::from_millis(300);

/// A coordinator that the suite may stop, freeze and compact.
pub trait World {
    /// A handle that shares nothing with others.
    fn open(&mut self, cluster: ClusterId, timeout: Duration) -> Box<dyn Coordinator>;
    /// Ends it at once, as by a power cut; what it acknowledged stays.
    fn stop(&mut self);
    /// Starts it again with what it had.
    fn start(&mut self);
    /// It takes requests and does not go on.
    fn freeze(&mut self);
    fn thaw(&mut self);
    /// Forgets all history of the cluster up to now.
    fn compact(&mut self, cluster: ClusterId);
    /// Whether a request that meets a frozen one was sent, so that nobody knows what becomes of it.
    fn frozen_is_unknown(&self) -> bool;
}

/// A case: its name, and what it does with a cluster of its own.
pub type Case = (&'static str, fn(&mut dyn World, ClusterId));

/// All cases.
pub const CASES: &[Case] = &[
    ("compare_and_swap", transactions::compare_and_swap),
    ("all_or_nothing", transactions::all_or_nothing),
    ("two_clients_race", transactions::two_clients_race),
    ("limits", transactions::limits),
    ("many_keys", transactions::many_keys),
    ("several_under_way", transactions::several_under_way),
    ("watch_in_order", watches::watch_in_order),
    ("snapshot_and_watch_without_a_gap", watches::snapshot_and_watch_without_a_gap),
    ("watch_goes_on_after_a_restart", watches::watch_goes_on_after_a_restart),
    ("compaction", watches::compaction),
    ("keys_go_away", watches::keys_go_away),
    ("stopped", faults::stopped),
    ("frozen", faults::frozen),
];

/// Runs the suite.
///
/// # Panics
/// When the coordinator does not conform.
pub fn run(world: &mut dyn World) {
    for (number, (name, case)) in (1..).zip(CASES) {
        println!("case {name}");
        case(world, ClusterId(number));
    }
}

fn put(key: &str, value: impl AsRef<[u8]>) -> Write {
    Write::Put { key: key.to_owned(), value: value.as_ref().to_vec(), ttl_ms: None }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.to_owned() }
}

fn at(key: &str, revision: u64) -> Condition {
    Condition::Revision { key: key.to_owned(), revision }
}

fn txn(conditions: Vec<Condition>, writes: Vec<Write>) -> Txn {
    Txn { conditions, writes }
}

/// The revision of a transaction that must be done.
fn done(of: &mut dyn Coordinator, conditions: Vec<Condition>, writes: Vec<Write>) -> u64 {
    match of.transact(&txn(conditions, writes)) {
        Ok(TxnOutcome::Done { revision }) => revision,
        other => panic!("not done: {other:?}"),
    }
}

fn refused(of: &mut dyn Coordinator, conditions: Vec<Condition>, writes: Vec<Write>) {
    assert_eq!(of.transact(&txn(conditions, writes)), Ok(TxnOutcome::Refused));
}

fn snapshot(of: &mut dyn Coordinator) -> Snapshot {
    of.snapshot().expect("a snapshot")
}

/// Values and revisions by key.
fn state(of: &mut dyn Coordinator) -> BTreeMap<String, (Vec<u8>, u64)> {
    snapshot(of).keys.into_iter().map(|kv| (kv.key, (kv.value, kv.revision))).collect()
}

struct Watching {
    events: Receiver<WatchEvent>,
    _handle: WatchHandle,
}

fn watch(of: &mut dyn Coordinator, revision: u64) -> Watching {
    let (sender, events) = unbounded();
    let sink = Box::new(move |event| _ = sender.send(event));
    Watching { events, _handle: of.watch(revision, sink).expect("a watch") }
}

impl Watching {
    fn next(&self) -> WatchEvent {
        self.events.recv_timeout(HANG).expect("an event of the watch")
    }

    /// The next `count` changes.
    fn changes(&self, count: usize) -> Vec<KeyChange> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next() {
                WatchEvent::Changed(changes) => all.extend(changes),
                WatchEvent::Lost(why) => panic!("lost after {all:?}: {why}"),
            }
        }
        assert_eq!(all.len(), count, "no more than was written: {all:?}");
        all
    }
}

/// Tries until it is there again.
fn until_done(of: &mut dyn Coordinator, writes: &[Write]) -> u64 {
    let end = clock::mono().after(HANG);
    loop {
        match of.transact(&txn(Vec::new(), writes.to_vec())) {
            Ok(TxnOutcome::Done { revision }) => return revision,
            other => assert!(clock::mono() < end, "does not come back: {other:?}"),
        }
    }
}
