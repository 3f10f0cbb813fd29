//! The client over a directory, and over a coordinator that answers when the test says so.

use super::*;
use crate::coordinator::embedded::Embedded;
use crate::coordinator::{Condition, OnOutcome, Snapshot, WatchHandle, Write};
use crossbeam::channel::unbounded;
use understudy_types::id::ClusterId;

const HANG: Duration = Duration::from_secs(30);

fn put(key: &str, value: &str) -> Txn {
    let write = Write::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), ttl_ms: None };
    Txn { conditions: Vec::new(), writes: vec![write] }
}

fn started(of: Box<dyn Coordinator>) -> (CoordinatorClient, Receiver<CoordinatorEvent>) {
    let (sender, events) = unbounded();
    (CoordinatorClient::start(of, move |event| _ = sender.send(event)).expect("starts"), events)
}

fn next(events: &Receiver<CoordinatorEvent>) -> CoordinatorEvent {
    events.recv_timeout(HANG).expect("an event")
}

#[test]
fn a_snapshot_comes_first_then_changes_and_answers() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut of = Embedded::open(directory.path(), ClusterId(1), HANG).expect("opens");
    of.transact(&put("a", "1")).expect("done");
    let (client, events) = started(of.another().expect("a handle"));
    let CoordinatorEvent::Snapshot(keys, revision) = next(&events) else { panic!("not a snapshot") };
    assert_eq!((keys.len(), revision), (1, 2));
    let absent = Condition::Absent { key: "a".to_owned() };
    client.submit(1, Txn { conditions: vec![absent], ..put("a", "2") });
    client.submit(2, put("b", "2"));
    let (mut answers, mut changes) = (Vec::new(), Vec::new());
    while answers.len() < 2 || changes.is_empty() {
        match next(&events) {
            CoordinatorEvent::Answer { id, result, .. } => answers.push((id, result)),
            CoordinatorEvent::Changed(changed) => changes.extend(changed),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, [(1, TxnResult::Refused), (2, TxnResult::Done { revision: 3 })]);
    assert_eq!(changes, [KeyChange { key: "b".to_owned(), value: Some(b"2".to_vec()), revision: 3 }]);
    let stats = client.stats();
    assert!(stats.connected && stats.samples == 2 && stats.p50_ns > 0 && stats.max_ns >= stats.p999_ns);
    assert_eq!((stats.done, stats.refused, stats.under_way, stats.revision), (1, 1, 0, 3));
    client.reread();
    assert!(matches!(next(&events), CoordinatorEvent::Snapshot(keys, 3) if keys.len() == 2));
}

#[test]
fn a_coordinator_that_goes_away_is_told_once_and_read_anew_when_it_is_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let (root, away) = (directory.path().join("here"), directory.path().join("away"));
    let mut of = Embedded::open(&root, ClusterId(1), HANG).expect("opens");
    let (client, events) = started(of.another().expect("a handle"));
    assert!(matches!(next(&events), CoordinatorEvent::Snapshot(..)));
    std::fs::rename(&root, &away).expect("renamed");
    assert!(matches!(next(&events), CoordinatorEvent::Lost { .. }));
    client.submit(7, put("a", "1"));
    assert!(matches!(next(&events), CoordinatorEvent::Answer { id: 7, result: TxnResult::Unreachable(_), .. }));
    // Several tries fail meanwhile.
    std::thread::sleep(Duration::from_millis(200));
    assert!(events.is_empty(), "told once");
    std::fs::rename(&away, &root).expect("renamed");
    of.transact(&put("b", "1")).expect("done");
    let mut keys = Vec::new();
    while keys.is_empty() {
        match next(&events) {
            CoordinatorEvent::Snapshot(found, _) => keys.extend(found.into_iter().map(|kv| kv.key)),
            CoordinatorEvent::Changed(changes) => keys.extend(changes.into_iter().map(|c| c.key)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((keys, client.stats().lost), (vec!["b".to_owned()], 1));
}

/// Keeps what is submitted until the test answers it; its watch never ends.
struct Held {
    submitted: Sender<(Txn, OnOutcome)>,
    sinks: Sender<Sink>,
    timeout: Duration,
}

impl Coordinator for Held {
    fn snapshot(&mut self) -> Result<Snapshot, CoordinatorError> {
        Ok(Snapshot { keys: Vec::new(), revision: 1 })
    }

    fn transact(&mut self, _: &Txn) -> Result<TxnOutcome, CoordinatorError> {
        Ok(TxnOutcome::Refused)
    }

    fn submit(&mut self, txn: Txn, done: OnOutcome) {
        self.submitted.send((txn, done)).expect("the test listens");
    }

    fn watch(&mut self, _: u64, sink: Sink) -> Result<WatchHandle, CoordinatorError> {
        self.sinks.send(sink).expect("the test listens");
        Ok(WatchHandle(Box::new(())))
    }

    fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn another(&self) -> Result<Box<dyn Coordinator>, CoordinatorError> {
        let (submitted, sinks) = (self.submitted.clone(), self.sinks.clone());
        Ok(Box::new(Self { submitted, sinks, timeout: self.timeout }))
    }

    fn describe(&self) -> String {
        "held".to_owned()
    }
}

fn held(timeout: Duration) -> (Box<Held>, Receiver<(Txn, OnOutcome)>, Receiver<Sink>) {
    let (submitted, transactions) = unbounded();
    let (sinks, watches) = unbounded();
    (Box::new(Held { submitted, sinks, timeout }), transactions, watches)
}

#[test]
fn a_slow_transaction_holds_up_none_and_too_many_are_turned_away() {
    let (of, transactions, _watches) = held(HANG);
    let (client, events) = started(of);
    assert!(matches!(next(&events), CoordinatorEvent::Snapshot(..)));
    client.submit(1, put("slow", "x"));
    let slow = transactions.recv_timeout(HANG).expect("sent");
    client.submit(2, put("renewal", "x"));
    let (_, renewed) = transactions.recv_timeout(HANG).expect("sent although the first has no answer");
    renewed(Ok(TxnOutcome::Done { revision: 2 }));
    assert!(matches!(next(&events), CoordinatorEvent::Answer { id: 2, result: TxnResult::Done { revision: 2 }, .. }));
    for id in 3..2 + COORDINATOR_QUEUE_MAX as u64 + 1 {
        client.submit(id, put("more", "x"));
    }
    let CoordinatorEvent::Answer { id, result: TxnResult::Unreachable(_), .. } = next(&events) else {
        panic!("not turned away");
    };
    assert_eq!(id, 2 + COORDINATOR_QUEUE_MAX as u64, "the last one");
    slow.1(Ok(TxnOutcome::Refused));
    assert!(matches!(next(&events), CoordinatorEvent::Answer { id: 1, result: TxnResult::Refused, .. }));
    client.submit(1000, put("again", "x"));
    let sent = transactions.iter().take(COORDINATOR_QUEUE_MAX).last().expect("sent");
    assert_eq!(sent.0, put("again", "x"));
}

#[test]
fn without_an_answer_in_time_nobody_knows_and_what_comes_late_is_dropped() {
    let (of, transactions, _watches) = held(HANG);
    let (client, events) = started(of);
    assert!(matches!(next(&events), CoordinatorEvent::Snapshot(..)));
    client.set_timeout(Duration::from_millis(50));
    client.submit(1, put("a", "x"));
    let (_, late) = transactions.recv_timeout(HANG).expect("sent");
    let CoordinatorEvent::Answer { id: 1, result: TxnResult::Unknown(_), rtt_ns } = next(&events) else {
        panic!("known")
    };
    assert!(rtt_ns >= 50_000_000);
    late(Ok(TxnOutcome::Done { revision: 2 }));
    client.submit(2, put("b", "x"));
    transactions.recv_timeout(HANG).expect("sent").1(Ok(TxnOutcome::Refused));
    assert!(matches!(next(&events), CoordinatorEvent::Answer { id: 2, result: TxnResult::Refused, .. }));
    assert_eq!((client.stats().unknown, client.stats().samples), (1, 1));
}

#[test]
fn what_a_watch_says_after_the_next_snapshot_is_dropped_and_nothing_comes_after_the_end() {
    let (of, _transactions, watches) = held(HANG);
    let (client, events) = started(of);
    assert!(matches!(next(&events), CoordinatorEvent::Snapshot(..)));
    let mut old = watches.recv_timeout(HANG).expect("watched");
    let change = |revision| WatchEvent::Changed(vec![KeyChange { key: "a".to_owned(), value: None, revision }]);
    old(change(2));
    assert!(matches!(next(&events), CoordinatorEvent::Changed(_)));
    client.reread();
    assert!(matches!(next(&events), CoordinatorEvent::Snapshot(..)));
    let mut new = watches.recv_timeout(HANG).expect("watched");
    old(change(3));
    old(WatchEvent::Lost("late".to_owned()));
    new(change(4));
    let expected = KeyChange { key: "a".to_owned(), value: None, revision: 4 };
    assert_eq!(next(&events), CoordinatorEvent::Changed(vec![expected]));
    drop(client);
    new(change(5));
    assert!(events.recv_timeout(Duration::from_millis(100)).is_err());
}
