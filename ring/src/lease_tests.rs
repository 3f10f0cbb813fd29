//! Tests of the time until which a node may change mail: what is refused past it, what is still told, who sets it.
//!
//! Owns: the deadline on the heap and in a mapped file. Not under Miri, which has no CLOCK_BOOTTIME. What can hurt: a
//! slow machine; deadlines here are an hour away or long past.

use crate::clock::boot_ns;
use crate::tests::{SMALL, consumer, heap, producer};
use crate::{
    Consumer, ConsumerOptions, Event, Geometry, OnFull, Outcome, Producer, PublishError, RecordKind, RecordSpec,
    Status, gap_bucket,
};
use understudy_types::ring::WRITE_UNTIL_EXPIRED;

const HOUR_NS: u64 = 3_600_000_000_000;

fn op(account: &[u8]) -> RecordSpec<'_> {
    RecordSpec::op(account, b"x", 0)
}

fn answered(status: Status) -> Outcome {
    Outcome::Answered { status, answer: [0; 32] }
}

#[test]
fn past_the_deadline_nothing_is_published_and_what_had_happened_is_marked() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let mut consumer = consumer(&memory);
    let lease = consumer.write_lease();
    assert_eq!(lease.until(), 0, "a zero ring has no limit");
    assert!(!producer.is_fenced());
    producer.publish(&op(b"before")).unwrap();
    let open = producer.intent_begin(b"open", b"box", 0, OnFull::Refuse, 0).unwrap();

    for until_ns in [WRITE_UNTIL_EXPIRED, boot_ns()] {
        lease.set_until(until_ns);
        assert!(producer.is_fenced());
        assert_eq!(producer.publish(&op(b"committed")), Err(PublishError::Fenced));
        assert_eq!(producer.publish(&op(b"open").closing(open)), Err(PublishError::Fenced));
        assert_eq!(producer.intent_begin(b"refused", b"box", 0, OnFull::Refuse, 0), Err(PublishError::Fenced));
        let mut marked = consumer.take_gaps();
        marked.sort_unstable();
        let mut wanted = vec![gap_bucket(b"committed"), gap_bucket(b"open")];
        wanted.sort_unstable();
        assert_eq!(marked, wanted, "what the store had committed, and nothing that was refused before");
    }
    // These change nothing: a session may begin, and say that its change came to nothing.
    producer.publish(&RecordSpec { kind: RecordKind::AccountOpen, ..op(b"opened") }).unwrap();
    producer.intent_end(b"open", open, 0).unwrap();

    lease.clone().set_until(boot_ns() + HOUR_NS);
    assert!(!producer.is_fenced());
    producer.publish(&op(b"after")).unwrap();
    producer.intent_begin(b"after", b"box", 0, OnFull::Refuse, 0).unwrap();
    lease.set_until(0);
    producer.publish(&op(b"without limit")).unwrap();
    let delivered: Vec<_> = std::iter::from_fn(|| consumer.poll()).collect();
    let kinds: Vec<_> =
        delivered.iter().map(|event| if let Event::Record(r) = event { r.kind } else { panic!() }).collect();
    let (op, intent) = (RecordKind::Op, RecordKind::Intent);
    assert_eq!(kinds, [op, intent, RecordKind::AccountOpen, RecordKind::IntentEnd, op, intent, op]);
}

#[test]
fn an_answer_that_is_taken_past_the_deadline_is_no_success() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let mut consumer = consumer(&memory);
    let lease = consumer.write_lease();
    let mut ask = |until_ns: u64, answer: Option<Status>| {
        lease.set_until(0);
        let at = producer.publish(&op(b"a").answered()).unwrap().completion.unwrap();
        while consumer.poll().is_some() {}
        consumer.release(consumer.read_index());
        if let Some(status) = answer {
            assert!(consumer.complete(at, status, b""));
        }
        lease.set_until(until_ns);
        producer.wait(at, 0, OnFull::Wait)
    };
    for status in [Status::Durable, Status::Replicated] {
        assert_eq!(ask(0, Some(status)), answered(status));
        assert_eq!(ask(boot_ns() + HOUR_NS, Some(status)), answered(status));
        assert_eq!(ask(WRITE_UNTIL_EXPIRED, Some(status)), answered(Status::Fenced));
    }
    assert_eq!(ask(WRITE_UNTIL_EXPIRED, Some(Status::Refused)), answered(Status::Refused));
    assert_eq!(ask(0, None), Outcome::TimedOut);
    assert_eq!(ask(WRITE_UNTIL_EXPIRED, None), answered(Status::Fenced), "a policy that goes on must not");
}

/// The deadline passes while the ring is full: a change that waited for space is not let through afterwards.
#[test]
fn a_wait_for_space_ends_with_the_deadline() {
    let memory = heap();
    let producer = producer(&memory, 0);
    let consumer = consumer(&memory);
    while producer.publish(&RecordSpec { on_full: OnFull::Refuse, ..op(b"filler") }).is_ok() {}
    consumer.write_lease().set_until(boot_ns() + 20_000_000);
    let refused = producer.intent_begin(b"late", b"box", 0, OnFull::Wait, u64::MAX);
    assert_eq!(refused, Err(PublishError::Fenced));
}

#[test]
fn a_leased_ring_is_never_found_without_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ring");
    let geometry = Geometry { data_bytes: 65_536, ..SMALL };
    let leased = ConsumerOptions { geometry, leased: true, ..ConsumerOptions::default() };
    let plain = ConsumerOptions { leased: false, ..leased.clone() };
    let first = Consumer::attach(&path, &leased, 1).unwrap();
    let producer = Producer::open(&path).unwrap();
    assert_eq!(producer.publish(&op(b"a")), Err(PublishError::Fenced), "a new ring");
    let until_ns = boot_ns() + HOUR_NS;
    let lease = first.write_lease();
    lease.set_until(until_ns);
    producer.publish(&op(b"a")).unwrap();

    // The agent ends, however it does: what it set holds on.
    drop(first);
    producer.publish(&op(b"a")).unwrap();
    let second = Consumer::attach(&path, &plain, 1).unwrap();
    assert_eq!(second.write_lease().until(), until_ns, "an agent without leases leaves it");
    drop(second);
    let third = Consumer::attach(&path, &leased, 1).unwrap();
    assert_eq!(third.write_lease().until(), WRITE_UNTIL_EXPIRED, "it may have been lost since");
    assert_eq!(producer.publish(&op(b"a")), Err(PublishError::Fenced));
    drop(third);

    // Another ring in its place: who still has the old one goes to the new one, and does not take the old word for it.
    let other = ConsumerOptions { geometry: Geometry { data_bytes: 131_072, ..SMALL }, ..leased };
    let fourth = Consumer::attach(&path, &other, 1).unwrap();
    assert!(!producer.is_fenced());
    assert_eq!(producer.publish(&op(b"a")), Err(PublishError::Retired));
    assert_eq!(Producer::open(&path).unwrap().publish(&op(b"a")), Err(PublishError::Fenced));
    fourth.write_lease().set_until(until_ns);
    Producer::open(&path).unwrap().publish(&op(b"a")).unwrap();
}
