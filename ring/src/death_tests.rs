//! The death of a producer after each step of a publication, one by one; and the death of agents with intents open.
//!
//! Owns: what `tests/kill.rs` meets by chance, made certain. The steps are those of `claim`.

use crate::memory::Memory;
use crate::producer::core_of;
use crate::record;
use crate::sync::Ordering;
use crate::tests::{consumer, heap, producer};
use crate::{Consumer, Event, HeapMemory, OnFull, Producer, RecordSpec, gap_bucket};
use std::sync::Arc;
use understudy_types::ring::{Cursor, Descriptor, RecordHeader, RecordKind, checksum_seed};

fn poll_for(consumer: &mut Consumer<HeapMemory>) -> Event {
    for _ in 0..2000 {
        if let Some(event) = consumer.poll() {
            return event;
        }
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    panic!("nothing came out")
}

fn header(producer: &Producer<HeapMemory>, at: Cursor, payload_bytes: u32) -> RecordHeader {
    RecordHeader {
        kind: RecordKind::Op,
        flags: 0,
        index: at.index(),
        account_bytes: 0,
        payload_bytes,
        intent: 0,
        captured_wall_ns: 0,
        completion: None,
        owner: producer.owner(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum DiedAfter {
    Reserving,
    MovingHead,
    HalfTheRecord,
    TheWholeRecord,
}

#[test]
fn a_producer_that_dies_after_any_step_stops_nobody() {
    for step in [DiedAfter::Reserving, DiedAfter::MovingHead, DiedAfter::HalfTheRecord, DiedAfter::TheWholeRecord] {
        for helped in [false, true] {
            let memory = heap();
            let (dying, living) = (producer(&memory, 1), producer(&memory, 2));
            let mut consumer = consumer(&memory);
            let core = core_of(&*memory);
            if step == DiedAfter::Reserving {
                let word = Descriptor::reserved(0, 9, dying.owner());
                core.descriptor(0).store(word.0, Ordering::SeqCst);
            } else {
                let claim = core.claim(9, dying.owner()).unwrap();
                if step != DiedAfter::MovingHead {
                    record::write(
                        &core,
                        claim.at.position(),
                        &header(&dying, claim.at, 5),
                        checksum_seed(7),
                        b"",
                        b"whole",
                    );
                }
                if step == DiedAfter::HalfTheRecord {
                    core.data[8].set(0);
                }
            }
            if helped {
                assert_eq!(living.publish(&RecordSpec::op(b"", b"second", 0)).unwrap().index, 1, "{step:?}");
            }
            for _ in 0..10 {
                assert_eq!(consumer.poll(), None, "its owner lives: {step:?}");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            memory.set_held(1, false);
            match (step, poll_for(&mut consumer)) {
                (DiedAfter::TheWholeRecord, Event::Record(record)) => assert_eq!(record.payload, b"whole"),
                (DiedAfter::TheWholeRecord, other) => panic!("{other:?}"),
                (_, event) => assert_eq!(event, Event::Abandoned { index: 0, producer_slot: 1 }, "{step:?}"),
            }
            if !helped {
                assert_eq!(living.publish(&RecordSpec::op(b"", b"second", 0)).unwrap().index, 1, "{step:?}");
            }
            assert!(
                matches!(poll_for(&mut consumer), Event::Record(record) if record.payload == b"second"),
                "{step:?}"
            );
            consumer.release(2);
            assert_eq!(consumer.stats().used_bytes, 0);
        }
    }
}

#[test]
fn a_slot_that_is_taken_again_does_not_make_a_dead_reservation_look_alive() {
    let memory = heap();
    let dead = producer(&memory, 1);
    let mut consumer = consumer(&memory);
    core_of(&*memory).claim(9, dead.owner()).unwrap();
    let next = producer(&memory, 1);
    assert_ne!(dead.owner(), next.owner());
    assert!(memory.slot_held(1));
    assert!(matches!(poll_for(&mut consumer), Event::Abandoned { index: 0, .. }));
}

#[test]
fn a_dead_agent_in_the_middle_of_a_release_is_finished_by_the_next() {
    for freed in 0..=3 {
        let memory = heap();
        let producer = producer(&memory, 0);
        let mut first = consumer(&memory);
        for number in 0..5 {
            producer.publish(&RecordSpec::op(b"", &[number; 16], 0)).unwrap();
            poll_for(&mut first);
        }
        // As `free_to` does it, stopped after `freed` descriptors.
        let core = core_of(&*memory);
        core.releasing.store(Cursor::new(3, 30).0, Ordering::SeqCst);
        for index in 0..freed {
            core.descriptor(index).store(Descriptor::free(1).0, Ordering::SeqCst);
        }
        drop(first);
        let mut second = consumer(&memory);
        assert_eq!(second.release_index(), 3, "{freed} freed");
        assert!(
            matches!(poll_for(&mut second), Event::Record(record) if record.index == 3 && record.payload == [3; 16])
        );
    }
}

fn orphan(event: Event) -> crate::OrphanedIntent {
    match event {
        Event::Orphaned(orphan) => orphan,
        other => panic!("no orphan but {other:?}"),
    }
}

#[test]
fn an_intent_of_a_dead_producer_comes_after_its_records_and_only_if_it_is_open() {
    let memory = heap();
    let dying = producer(&memory, 1);
    let mut consumer = consumer(&memory);
    let closed = dying.intent_begin(b"ada", b"box 1", 0, OnFull::Refuse, 0).unwrap();
    let ended = dying.intent_begin(b"ada", b"box 2", 0, OnFull::Refuse, 0).unwrap();
    let open = dying.intent_begin(b"bob", b"box 3", 0, OnFull::Refuse, 0).unwrap();
    dying.publish(&RecordSpec::op(b"ada", b"done", 0).closing(closed)).unwrap();
    dying.intent_end(b"ada", ended, 0).unwrap();
    memory.set_held(1, false);
    assert_eq!(consumer.waker().unread(consumer.read_index()), 5);
    for _ in 0..5 {
        assert!(matches!(poll_for(&mut consumer), Event::Record(_)));
    }
    assert_eq!(consumer.waker().unread(consumer.read_index()), 0);
    assert_eq!(consumer.open_intents(), vec![gap_bucket(b"bob")], "until its producer is known to be dead");
    let orphan = orphan(poll_for(&mut consumer));
    assert_eq!(
        (orphan.intent, orphan.account.as_deref(), orphan.payload.as_slice()),
        (open, Some(&b"bob"[..]), &b"box 3"[..])
    );
    assert_eq!(consumer.take_gaps(), vec![gap_bucket(b"bob")], "kept until it is done");
    assert_eq!(consumer.stats().intents_open, 0);
    assert_eq!(consumer.open_intents(), vec![]);
}

#[test]
fn an_intent_outlives_the_agent_that_read_it() {
    let memory = heap();
    let dying = producer(&memory, 1);
    let mut first = consumer(&memory);
    let open = dying.intent_begin(b"bob", b"box", 0, OnFull::Refuse, 0).unwrap();
    let closed = dying.intent_begin(b"eve", b"box", 0, OnFull::Refuse, 0).unwrap();
    poll_for(&mut first);
    poll_for(&mut first);
    first.release(2);
    drop(first);
    let mut second = consumer(&memory);
    assert_eq!(second.stats().intents_open, 2);
    let mut open_now = vec![gap_bucket(b"bob"), gap_bucket(b"eve")];
    open_now.sort_unstable();
    assert_eq!(second.open_intents(), open_now, "also without their names");
    dying.publish(&RecordSpec::op(b"eve", b"done", 0).closing(closed)).unwrap();
    memory.set_held(1, false);
    assert!(matches!(poll_for(&mut second), Event::Record(_)));
    let orphan = orphan(poll_for(&mut second));
    assert_eq!((orphan.intent, orphan.account, orphan.bucket), (open, None, gap_bucket(b"bob")));
}

#[test]
fn intents_past_the_shared_table_are_still_remembered() {
    let memory = heap();
    let dying = producer(&memory, 1);
    let mut consumer = consumer(&memory);
    for _ in 0..6 {
        dying.intent_begin(b"bob", b"box", 0, OnFull::Refuse, 0).unwrap();
        poll_for(&mut consumer);
        consumer.release(consumer.read_index());
    }
    assert_eq!(consumer.stats().intents_open, 6);
    memory.set_held(1, false);
    for number in 1..=6 {
        assert_eq!(orphan(poll_for(&mut consumer)).intent, number);
    }
}

#[test]
fn completion_slots_of_the_dead_are_taken_back() {
    let memory = heap();
    let (dying, living) = (producer(&memory, 1), producer(&memory, 2));
    for _ in 0..4 {
        dying.publish(&RecordSpec::op(b"a", b"", 0).answered()).unwrap();
    }
    assert!(living.publish(&RecordSpec::op(b"a", b"", 0).answered()).is_err());
    memory.set_held(1, false);
    let mut consumer = Consumer::new(Arc::clone(&memory), 7, None, 1);
    while consumer.poll().is_some() {}
    assert_eq!(consumer.stats().completions_reaped, 4);
    living.publish(&RecordSpec::op(b"a", b"", 0).answered()).unwrap();
}
