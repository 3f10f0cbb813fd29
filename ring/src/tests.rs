//! Tests of producer and consumer together, on the heap (also under Miri: `miri_`) and on a mapped file.
//!
//! Owns: what holds when nothing is damaged. Damage has a file of its own.

use crate::{
    AckLevel, Consumer, ConsumerOptions, Event, Geometry, HeapMemory, OnFull, Outcome, Policy, Producer, PublishError,
    Record, RecordKind, RecordSpec, Status, gap_bucket,
};
use std::sync::Arc;
use understudy_types::ring::{FLAG_RETIRED, RECORD_HEADER_BYTES, word};

pub(crate) const SMALL: Geometry =
    Geometry { data_bytes: 4096, descriptors: 16, completions: 4, producers: 8, intents: 4 };

/// Enough to go round the ring several times; Miri takes a second for what takes the machine a microsecond.
const ROUNDS: u64 = if cfg!(miri) { 12 } else { 200 };

pub(crate) fn heap() -> Arc<HeapMemory> {
    Arc::new(HeapMemory::new(SMALL.layout().unwrap()))
}

pub(crate) fn producer(memory: &Arc<HeapMemory>, slot: u16) -> Producer<HeapMemory> {
    memory.set_held(slot, true);
    Producer::new(Arc::clone(memory), 7, slot, 1)
}

pub(crate) fn consumer(memory: &Arc<HeapMemory>) -> Consumer<HeapMemory> {
    Consumer::new(Arc::clone(memory), 7, None, 2)
}

fn record(event: Option<Event>) -> Record {
    match event {
        Some(Event::Record(record)) => record,
        other => panic!("no record but {other:?}"),
    }
}

#[test]
fn miri_records_come_out_as_they_went_in_across_the_end_of_the_area() {
    let memory = heap();
    let producer = producer(&memory, 3);
    let mut consumer = consumer(&memory);
    for round in 0..ROUNDS {
        let payload: Vec<u8> = (0..(round * 37 % 900)).map(|byte| byte as u8).collect();
        let published = producer.publish(&RecordSpec::op(b"ada@example.test", &payload, round)).unwrap();
        assert_eq!(published.index, round);
        let got = record(consumer.poll());
        assert_eq!((got.index, got.kind, got.captured_wall_ns), (round, RecordKind::Op, round));
        assert_eq!((got.account.as_slice(), got.payload), (&b"ada@example.test"[..], payload));
        assert_eq!(got.producer, producer.owner());
        assert_eq!(consumer.poll(), None);
        consumer.release(round + 1);
    }
    assert_eq!(consumer.stats().used_bytes, 0);
}

#[test]
fn miri_a_new_consumer_starts_where_the_last_one_released() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let mut first = consumer(&memory);
    for round in 0..6 {
        producer.publish(&RecordSpec::op(b"a", &[round], 0)).unwrap();
        record(first.poll());
    }
    first.release(4);
    drop(first);
    let mut second = consumer(&memory);
    assert_eq!(second.release_index(), 4);
    for round in 4..6 {
        let got = record(second.poll());
        assert_eq!((got.index, got.payload), (u64::from(round), vec![round]));
    }
    assert_eq!(second.poll(), None);
}

#[test]
fn miri_a_full_ring_is_answered_as_configured() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let mut consumer = consumer(&memory);
    let payload = [1; 512];
    let spec = RecordSpec::op(b"ada", &payload, 0);
    while producer.publish(&RecordSpec { on_full: OnFull::Refuse, ..spec }).is_ok() {}
    assert_eq!(producer.publish(&RecordSpec { on_full: OnFull::Refuse, ..spec }), Err(PublishError::Full));
    assert_eq!(producer.publish(&spec), Err(PublishError::Dropped));
    let wait = RecordSpec { on_full: OnFull::Wait, full_wait_ns: 2_000_000, ..spec };
    assert_eq!(producer.publish(&wait), Err(PublishError::TimedOut));
    assert_eq!(consumer.take_gaps(), vec![gap_bucket(b"ada")]);
    assert_eq!(consumer.take_gaps(), vec![]);
    assert_eq!(consumer.stats().dropped_total, 4);
    record(consumer.poll());
    consumer.release(1);
    producer.publish(&wait).unwrap();
    drop(consumer);
    let mut next = self::consumer(&memory);
    assert_eq!(next.take_gaps(), vec![gap_bucket(b"ada")], "taken, not finished");
    next.gaps_done(&[gap_bucket(b"ada")]);
    drop(next);
    assert_eq!(self::consumer(&memory).take_gaps(), vec![]);
}

#[test]
fn miri_descriptors_run_out_before_bytes_do() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let mut consumer = consumer(&memory);
    for round in 0..ROUNDS {
        for _ in 0..16 {
            producer.publish(&RecordSpec::op(b"", b"", 0)).unwrap();
        }
        assert_eq!(producer.publish(&RecordSpec::op(b"", b"", 0)), Err(PublishError::Dropped));
        for step in 0..16 {
            assert_eq!(record(consumer.poll()).index, round * 16 + step);
        }
        assert_eq!(consumer.poll(), None);
        consumer.release(round * 16 + 16);
    }
}

#[test]
fn miri_a_record_that_is_too_long_is_refused_and_marked() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let mut consumer = consumer(&memory);
    let max = producer.record_bytes_max() - RECORD_HEADER_BYTES - 8;
    let payload = vec![9; max + 1];
    assert!(matches!(producer.publish(&RecordSpec::op(b"a", &payload, 0)), Err(PublishError::TooLarge { .. })));
    assert!(matches!(producer.publish(&RecordSpec::op(&[b'a'; 1025], b"", 0)), Err(PublishError::TooLarge { .. })));
    assert_eq!(consumer.take_gaps().len(), 2);
    producer.publish(&RecordSpec::op(b"a", &payload[1..], 0)).unwrap();
    assert_eq!(record(consumer.poll()).payload.len(), max);
}

#[test]
fn miri_an_answer_reaches_its_asker_and_a_late_one_reaches_nobody() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let mut consumer = consumer(&memory);
    let published = producer.publish(&RecordSpec::op(b"a", b"x", 0).answered()).unwrap();
    let at = record(consumer.poll()).completion.unwrap();
    assert_eq!(published.completion, Some(at));
    assert!(consumer.complete(at, Status::Replicated, b"two peers"));
    let mut answer = [0; 32];
    answer[..9].copy_from_slice(b"two peers");
    assert_eq!(producer.wait(at, 0, OnFull::Wait), Outcome::Answered { status: Status::Replicated, answer });
    assert!(!consumer.complete(at, Status::Durable, b""), "answered twice");

    producer.publish(&RecordSpec::op(b"a", b"x", 0).answered()).unwrap();
    let late = record(consumer.poll()).completion.unwrap();
    assert_eq!(producer.wait(late, 1_000_000, OnFull::Wait), Outcome::TimedOut);
    for _ in 0..4 {
        producer.publish(&RecordSpec::op(b"a", b"x", 0).answered()).unwrap();
    }
    assert!(!consumer.complete(late, Status::Durable, b"late"));
    assert_eq!(producer.publish(&RecordSpec::op(b"a", b"", 0).answered()), Err(PublishError::NoCompletion));
    assert!(!consumer.complete(late, Status::Durable, &[0; 33]));
}

#[test]
fn miri_without_an_agent_the_asker_does_not_wait_unless_told_to() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let at = producer.publish(&RecordSpec::op(b"a", b"x", 0).answered()).unwrap().completion.unwrap();
    assert_eq!(producer.wait(at, u64::MAX, OnFull::Refuse), Outcome::Absent);
    // A generation that is never the ring's: the asker asks again as soon as somebody can answer.
    let unanswered = Policy { generation: producer.policy_generation().wrapping_sub(1), ..Policy::default() };
    assert_eq!(producer.account_open(b"a", 0, u64::MAX), Ok(unanswered));
    let mut consumer = consumer(&memory);
    assert!(producer.agent_alive());
    assert_eq!(record(consumer.poll()).payload, b"x", "what was published stays");
}

#[test]
fn policies_are_asked_for_and_answered() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let mut consumer = consumer(&memory);
    let default = Policy { level: AckLevel::Local, ..Policy::default() };
    consumer.set_default_policy(&default);
    assert_eq!(producer.default_policy(), default);
    assert_eq!(consumer.bump_policy_generation(), 1);
    assert_eq!(producer.policy_generation(), 1);
    let answered = Policy { level: AckLevel::Peer, peers: 2, generation: 1, ..Policy::default() };
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| producer.account_open(b"ada", 5, 10_000_000_000));
        let asked = loop {
            if let Some(Event::Record(asked)) = consumer.poll() {
                break asked;
            }
        };
        assert_eq!((asked.kind, asked.account.as_slice()), (RecordKind::AccountOpen, &b"ada"[..]));
        assert!(consumer.complete_policy(asked.completion.unwrap(), &answered));
        assert_eq!(asker.join().unwrap(), Ok(answered));
    });
}

#[test]
fn miri_a_fenced_node_publishes_no_operation() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let mut consumer = consumer(&memory);
    consumer.set_fenced(true);
    assert_eq!(producer.publish(&RecordSpec::op(b"a", b"x", 0)), Err(PublishError::Fenced));
    assert_eq!(producer.intent_begin(b"b", b"box", 0, OnFull::Refuse, 0), Err(PublishError::Fenced));
    assert_eq!(consumer.take_gaps(), vec![gap_bucket(b"a")], "the operation had happened, the intent's had not");
    consumer.set_fenced(false);
    producer.publish(&RecordSpec::op(b"a", b"x", 0)).unwrap();
}

#[test]
fn miri_a_retired_ring_sends_its_producers_away() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let consumer = consumer(&memory);
    consumer.control(word::FLAGS).store(FLAG_RETIRED, crate::sync::Ordering::SeqCst);
    assert_eq!(producer.publish(&RecordSpec::op(b"a", b"x", 0)), Err(PublishError::Retired));
}

#[test]
fn a_mapped_ring_is_taken_over_with_its_records_and_has_one_consumer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ring");
    assert!(matches!(Producer::open(&path), Err(crate::OpenError::Absent(_))));
    let options = ConsumerOptions { geometry: Geometry { data_bytes: 65_536, ..SMALL }, ..ConsumerOptions::default() };
    let mut first = Consumer::attach(&path, &options, 1).unwrap();
    let generation = first.generation();
    let producer = Producer::open(&path).unwrap();
    assert!(Arc::ptr_eq(&producer, &Producer::open(&path).unwrap()), "one mapping in a process");
    assert!(matches!(Consumer::attach(&path, &options, 1), Err(crate::AttachError::Busy(_))));
    producer.publish(&RecordSpec::op(b"a", b"kept", 0)).unwrap();
    assert_eq!(record(first.poll()).payload, b"kept");
    drop(first);
    let mut second = Consumer::attach(&path, &options, 1).unwrap();
    assert_eq!(second.generation(), generation);
    assert_eq!(record(second.poll()).payload, b"kept");
    drop(second);
    let other = ConsumerOptions { geometry: Geometry { data_bytes: 131_072, ..SMALL }, ..options };
    let third = Consumer::attach(&path, &other, 1).unwrap();
    assert_ne!(third.generation(), generation);
    assert_eq!(producer.publish(&RecordSpec::op(b"a", b"", 0)), Err(PublishError::Retired));
    assert!(!producer.is_at(&path));
    Producer::open(&path).unwrap().publish(&RecordSpec::op(b"a", b"", 0)).unwrap();
}
