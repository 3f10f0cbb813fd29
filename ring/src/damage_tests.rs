//! Damage: every bit of a record and of every control word, and random words everywhere.
//!
//! Owns: the proof that damage ends in a typed event or a repair, that the neighbours are delivered, that nothing
//! panics, and that a poll ends.

use crate::memory::Memory;
use crate::sync::Ordering;
use crate::tests::{SMALL, consumer, heap, producer};
use crate::{Consumer, Event, HeapMemory, OnFull, Outcome, RecordSpec, Status};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::sync::Arc;
use understudy_types::ring::{Descriptor, State, word};

/// Polls until nothing comes; waits out the time that a damaged reservation is given.
fn drain(consumer: &mut Consumer<HeapMemory>) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        match consumer.poll() {
            Some(event) => events.push(event),
            None if consumer.stuck.is_some() => std::thread::sleep(std::time::Duration::from_millis(5)),
            None => return events,
        }
        assert!(events.len() < 1000, "a poll without end");
    }
}

fn payloads(events: &[Event]) -> Vec<u8> {
    let whole = |event: &Event| match event {
        Event::Record(record) => record.payload.first().copied(),
        _ => None,
    };
    events.iter().filter_map(whole).collect()
}

/// Three records of 64 + 8 + 16 bytes with payloads 1, 2, 3, after `before` others that were released.
fn three(before: u64) -> (Arc<HeapMemory>, crate::Producer<HeapMemory>, Consumer<HeapMemory>) {
    let memory = heap();
    let producer = producer(&memory, 5);
    let mut consumer = consumer(&memory);
    for round in 0..before {
        producer.publish(&RecordSpec::op(b"ada", &[0; 16], 0)).unwrap();
        assert!(consumer.poll().is_some());
        consumer.release(round + 1);
    }
    for number in 1..=3 {
        producer.publish(&RecordSpec::op(b"ada", &[number; 16], 0)).unwrap();
    }
    (memory, producer, consumer)
}

const WORDS: usize = 8 + 1 + 2;

#[test]
fn every_one_bit_damage_of_a_record_is_reported_and_its_neighbours_are_delivered() {
    // After 45 others the middle record runs over the end of the area of 512 words.
    for before in [0, 45] {
        let (_, _, mut whole) = three(before);
        assert_eq!(payloads(&drain(&mut whole)), [1, 2, 3]);
        for bit in 0..WORDS * 64 {
            let (memory, producer, mut consumer) = three(before);
            let word = &memory.words().data[((before as usize + 1) * WORDS + bit / 64) % 512];
            word.set(word.get() ^ 1 << (bit % 64));
            let events = drain(&mut consumer);
            assert_eq!(payloads(&events), [1, 3], "bit {bit}");
            let reported = events.iter().filter(
                |event| matches!(event, Event::Damaged { from, to, .. } if *from == before + 1 && *to == before + 2),
            );
            assert_eq!(reported.count(), 1, "bit {bit}: {events:?}");
            goes_on(&producer, &mut consumer, bit);
        }
    }
}

/// The ring works after the damage: enough records to use every descriptor and every byte again.
fn goes_on(producer: &crate::Producer<HeapMemory>, consumer: &mut Consumer<HeapMemory>, bit: usize) {
    consumer.release(consumer.read_index());
    for round in 0..60_u8 {
        producer.publish(&RecordSpec::op(b"ada", &[round; 16], 0)).unwrap_or_else(|error| panic!("bit {bit}: {error}"));
        assert_eq!(payloads(&drain(consumer)), [round], "bit {bit}");
        consumer.release(consumer.read_index());
    }
}

#[test]
fn every_one_bit_damage_of_a_descriptor_loses_nothing() {
    for which in 0..3 {
        for bit in 0..64 {
            let (memory, producer, mut consumer) = three(17);
            let at = memory.layout().descriptors + (17 + which) % 16;
            memory.words().control[at].fetch_xor(1 << bit, Ordering::SeqCst);
            assert_eq!(payloads(&drain(&mut consumer)), [1, 2, 3], "descriptor {which} bit {bit}");
            goes_on(&producer, &mut consumer, bit);
        }
    }
}

#[test]
fn every_one_bit_damage_of_head_and_tail_loses_nothing() {
    for at in [word::HEAD, word::RELEASE, word::RELEASING, word::RELEASE_ABSOLUTE] {
        for bit in 0..64 {
            let (memory, producer, mut consumer) = three(17);
            memory.words().control[at].fetch_xor(1 << bit, Ordering::SeqCst);
            let events = drain(&mut consumer);
            assert_eq!(payloads(&events), [1, 2, 3], "word {at} bit {bit}: {events:?}");
            goes_on(&producer, &mut consumer, bit);
        }
    }
}

#[test]
fn every_one_bit_damage_of_head_is_survived_by_producers_that_saw_it_first() {
    for bit in 0..64 {
        let (memory, producer, mut consumer) = three(17);
        memory.words().control[word::HEAD].fetch_xor(1 << bit, Ordering::SeqCst);
        let published =
            (4..=6).filter(|number| producer.publish(&RecordSpec::op(b"ada", &[*number; 16], 0)).is_ok()).count();
        let events = drain(&mut consumer);
        let lost: u64 =
            events.iter().map(|event| if let Event::Damaged { from, to, .. } = event { to - from } else { 0 }).sum();
        let got = payloads(&events);
        assert!(got.len() as u64 + lost >= 3 + published as u64, "bit {bit}: {published} published, {events:?}");
        assert_eq!(got.first(), Some(&1), "bit {bit}: {events:?}");
        goes_on(&producer, &mut consumer, bit);
    }
}

#[test]
fn every_one_bit_damage_of_a_free_descriptor_is_repaired() {
    for bit in 0..64 {
        let (memory, producer, mut consumer) = three(17);
        let at = memory.layout().descriptors + (17 + 3) % 16;
        memory.words().control[at].fetch_xor(1 << bit, Ordering::SeqCst);
        assert_eq!(payloads(&drain(&mut consumer)), [1, 2, 3]);
        goes_on(&producer, &mut consumer, bit);
    }
}

#[test]
fn every_one_bit_damage_of_a_completion_slot_ends_in_an_outcome() {
    for bit in 0..64 {
        let memory = heap();
        let producer = producer(&memory, 0);
        let mut consumer = consumer(&memory);
        let at = producer.publish(&RecordSpec::op(b"a", b"x", 0).answered()).unwrap().completion.unwrap();
        let Some(Event::Record(record)) = consumer.poll() else { panic!("no record") };
        memory.words().control[memory.layout().completions + at.slot as usize * 8]
            .fetch_xor(1 << bit, Ordering::SeqCst);
        consumer.complete(record.completion.unwrap(), Status::Durable, b"");
        match producer.wait(at, 0, OnFull::Wait) {
            Outcome::Answered { status, .. } => assert_eq!(status, Status::Durable, "bit {bit}"),
            Outcome::TimedOut => {}
            Outcome::Absent => panic!("bit {bit}"),
        }
    }
}

#[test]
fn random_words_anywhere_never_panic_and_never_go_on_for_ever() {
    let mut random = SmallRng::seed_from_u64(2026);
    for round in 0..400 {
        let (memory, producer, mut consumer) = three(random.random_range(0..40));
        let layout = *memory.layout();
        for _ in 0..random.random_range(1..200) {
            match random.random_range(0..4) {
                0 => memory.words().control[random.random_range(16..layout.data)]
                    .store(random.random(), Ordering::SeqCst),
                1 => memory.words().data[random.random_range(0..512)].set(random.random()),
                2 => {
                    let at = layout.descriptors + random.random_range(0..16);
                    let found = Descriptor(memory.words().control[at].load(Ordering::SeqCst));
                    let state =
                        [State::Free, State::Reserved, State::Committed, State::Abandoned][random.random_range(0..4)];
                    memory.words().control[at].store(found.with_state(state).0, Ordering::SeqCst);
                }
                _ => {
                    let at = [word::HEAD, word::RELEASE][random.random_range(0..2)];
                    memory.words().control[at].fetch_add(random.random_range(0..1 << 30), Ordering::SeqCst);
                }
            }
        }
        memory.set_held(5, false);
        for _ in 0..200 {
            let _ = producer.publish(&RecordSpec::op(b"ada", &[7; 40], 0));
            if let Some(Event::Record(record)) = consumer.poll() {
                assert!(record.payload.len() <= SMALL.data_bytes as usize, "round {round}");
            }
            consumer.release(consumer.read_index());
        }
        let mut next = Consumer::new(Arc::clone(&memory), 7, None, 1);
        for _ in 0..50 {
            let _ = next.poll();
        }
    }
}

#[test]
fn a_damaged_ring_heals_whatever_was_in_it() {
    // Head, descriptors and data all random; then producers and consumer go on for a while, and at the end
    // records go through again.
    let mut random = SmallRng::seed_from_u64(7);
    for round in 0..40 {
        let (memory, producer, mut consumer) = three(3);
        let layout = *memory.layout();
        memory.words().control[word::HEAD].store(random.random(), Ordering::SeqCst);
        for at in layout.descriptors..layout.descriptors + 16 {
            memory.words().control[at].store(random.random(), Ordering::SeqCst);
        }
        for word in memory.words().data {
            word.set(random.random());
        }
        drain(&mut consumer);
        consumer.release(consumer.read_index());
        drain(&mut consumer);
        goes_on(&producer, &mut consumer, round);
    }
}
