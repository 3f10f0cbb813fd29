//! Kills producers, and consumers, with SIGKILL at random moments, thousands of times.
//!
//! Owns: the proof that every record whose publication returned is delivered once and whole, that a record whose
//! producer died in the middle is delivered whole or not at all, and that the ring goes on.
//! How: forked children publish numbered records without pause and note each returned number in a shared page,
//! which outlives them. `KILLS` sets the number of kills.

#![expect(unsafe_code, reason = "forks, kills, and maps a shared page")]

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use understudy_ring::{Consumer, ConsumerOptions, Event, Geometry, OnFull, Producer, Record, RecordSpec};

/// A page of counters shared with the children.
struct Board(memmap2::MmapRaw);

impl Board {
    fn new(words: usize) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(words as u64 * 8).unwrap();
        Self(memmap2::MmapRaw::map_raw(&file).unwrap())
    }

    fn at(&self, word: usize) -> &AtomicU64 {
        assert!(word * 8 < self.0.len());
        // SAFETY: inside the mapping, aligned, and only ever accessed as an atomic.
        unsafe { &*self.0.as_ptr().cast::<AtomicU64>().add(word) }
    }
}

fn kills() -> usize {
    std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3000)
}

fn options() -> ConsumerOptions {
    let geometry = Geometry { data_bytes: 65_536, descriptors: 256, completions: 16, producers: 64, intents: 64 };
    ConsumerOptions { geometry, ..ConsumerOptions::default() }
}

/// Who and which, then bytes that follow from both.
fn payload(life: u64, number: u64) -> Vec<u8> {
    let mut bytes = Vec::from(life.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    let mut state = life.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number;
    let length = match number % 16 {
        0 => 5000,
        _ => state >> 55,
    };
    for _ in 0..length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.push((state >> 56) as u8);
    }
    bytes
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The child: publishes until it is killed. Never returns, never unwinds into the test harness.
fn publish_for_ever(path: &Path, life: u64, noted: &AtomicU64) -> ! {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let producer = Producer::open(path).unwrap();
        for number in 1.. {
            let bytes = payload(life, number);
            let spec = RecordSpec::op(b"ada@example.test", &bytes, 0);
            let waiting = RecordSpec { on_full: OnFull::Wait, full_wait_ns: 60_000_000_000, ..spec };
            if number % 8 == 0 {
                let intent =
                    producer.intent_begin(b"ada@example.test", b"box", 0, OnFull::Wait, 60_000_000_000).unwrap();
                producer.publish(&waiting.closing(intent)).unwrap();
            } else {
                producer.publish(&waiting).unwrap();
            }
            noted.store(number, Ordering::SeqCst);
        }
    }));
    noted.store(u64::MAX - u64::from(ended.is_err()), Ordering::SeqCst);
    // SAFETY: ends the process at once, without the harness's exit handlers.
    unsafe { libc::_exit(1) }
}

fn spawn(child: impl FnOnce()) -> Pid {
    // SAFETY: the child only uses the ring and its own memory, and ends by a signal or `_exit`; glibc makes its
    // allocator usable after fork.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            child();
            // SAFETY: as above.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Checks one delivered record against what this life delivered before.
fn check(record: &Record, delivered: &mut [u64]) {
    if record.kind != understudy_ring::RecordKind::Op {
        return;
    }
    let (life, number) = (number_at(&record.payload, 0), number_at(&record.payload, 8));
    assert!(record.payload == payload(life, number), "life {life} record {number} is not whole");
    assert_eq!(record.account, b"ada@example.test");
    assert_eq!(number, delivered[life as usize] + 1, "life {life}: lost, twice, or out of order");
    delivered[life as usize] = number;
}

#[test]
fn producers_killed_at_random_lose_nothing_and_stop_nobody() {
    const AT_ONCE: usize = 4;
    let lives = kills();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ring");
    let mut consumer = Consumer::attach(&path, &options(), 0).unwrap();
    let board = Board::new(lives + AT_ONCE);
    let mut delivered = vec![0; lives + AT_ONCE];
    let mut random = SmallRng::seed_from_u64(std::process::id().into());
    let mut running: Vec<(usize, Pid)> = Vec::new();
    let (mut next_life, mut killed, mut events) = (0, 0, 0_u64);
    while killed < lives {
        while running.len() < AT_ONCE {
            let life = next_life;
            next_life += 1;
            running.push((life, spawn(|| publish_for_ever(&path, life as u64, board.at(life)))));
        }
        // Deliver a random number of records, so that the ring is full at some kills and empty at others.
        for _ in 0..random.random_range(0..200) {
            match consumer.poll() {
                Some(Event::Record(record)) => check(&record, &mut delivered),
                Some(Event::Damaged { from, to, fault }) => panic!("damaged {from}..{to}: {fault}"),
                Some(_) => {}
                None => break,
            }
            events += 1;
            if random.random_range(0..4) == 0 {
                consumer.release(consumer.read_index());
            }
        }
        consumer.release(consumer.read_index());
        let victim = random.random_range(0..running.len());
        let (life, pid) = running[victim];
        // Most are killed while they publish; some before they opened the ring.
        if board.at(life).load(Ordering::SeqCst) == 0 && random.random_range(0..8) != 0 {
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        std::thread::sleep(Duration::from_nanos(random.random_range(0..40_000)));
        kill(pid, Signal::SIGKILL).unwrap();
        waitpid(pid, None).unwrap();
        running.swap_remove(victim);
        killed += 1;
    }
    for (_, pid) in running {
        kill(pid, Signal::SIGKILL).unwrap();
        waitpid(pid, None).unwrap();
    }
    let mut quiet = 0;
    while quiet < 400 {
        match consumer.poll() {
            Some(Event::Record(record)) => check(&record, &mut delivered),
            Some(Event::Damaged { from, to, fault }) => panic!("damaged {from}..{to}: {fault}"),
            Some(_) => {}
            None => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        consumer.release(consumer.read_index());
    }
    let mut published = 0;
    for (life, last) in delivered.iter().take(next_life).enumerate() {
        let noted = board.at(life).load(Ordering::SeqCst);
        assert!(*last == noted || *last == noted + 1, "life {life}: {noted} publications returned, {last} delivered");
        published += noted;
    }
    let stats = consumer.stats();
    assert_eq!((stats.used_records, stats.used_bytes, stats.intents_open), (0, 0, 0));
    assert_eq!(stats.repaired, 0, "nothing was damaged, so nothing had to be put right");
    println!(
        "{killed} kills, {published} publications returned, {events} events, {} abandoned, {} rescued, {} orphaned intents",
        stats.abandoned, stats.rescued, stats.orphaned
    );
    assert!(published > killed as u64, "the producers hardly ran");
    let producer = Producer::open(&path).unwrap();
    producer.publish(&RecordSpec::op(b"ada", b"the ring goes on", 0)).unwrap();
    assert!(matches!(consumer.poll(), Some(Event::Record(record)) if record.payload == b"the ring goes on"));
}

/// The agent's side of the second test: copies records into a "journal" (the board), then releases.
fn consume_for_ever(path: &Path, board: &Board, seen_at: usize, capacity: u64) {
    let mut consumer = loop {
        // The kernel drops the lock of a killed predecessor before its parent can wait for it, but not before.
        match Consumer::attach(path, &options(), 0) {
            Ok(consumer) => break consumer,
            Err(_) => std::thread::yield_now(),
        }
    };
    loop {
        match consumer.poll() {
            Some(Event::Record(record)) => {
                let (life, number) = (number_at(&record.payload, 0), number_at(&record.payload, 8));
                let whole = record.payload == payload(life, number);
                let mark = if whole { number } else { u64::MAX };
                let at = board.at(seen_at + (record.index % capacity) as usize);
                // The same index again must be the same record.
                let before = at.swap(mark, Ordering::SeqCst);
                if before != 0 && before != mark {
                    at.store(u64::MAX, Ordering::SeqCst);
                }
                board.at(1).fetch_max(record.index + 1, Ordering::SeqCst);
                if number % 7 == 0 {
                    consumer.release(consumer.read_index());
                }
            }
            Some(_) => board.at(2).store(1, Ordering::SeqCst),
            None => {
                consumer.wait(1_000_000);
            }
        }
    }
}

#[test]
fn consumers_killed_at_random_are_succeeded_without_loss() {
    let lives = kills() / 10;
    const CAPACITY: u64 = 8 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ring");
    drop(Consumer::attach(&path, &options(), 0).unwrap());
    let board = Board::new(3 + CAPACITY as usize);
    let producer = spawn(|| {
        let producer = Producer::open(&path).unwrap();
        for number in 1.. {
            let bytes = payload(0, number);
            let spec = RecordSpec::op(b"ada@example.test", &bytes, 0);
            producer.publish(&RecordSpec { on_full: OnFull::Wait, full_wait_ns: 60_000_000_000, ..spec }).unwrap();
            board.at(0).store(number, Ordering::SeqCst);
        }
    });
    let mut random = SmallRng::seed_from_u64(std::process::id().into());
    for _ in 0..lives {
        let before = board.at(1).load(Ordering::SeqCst);
        let agent = spawn(|| consume_for_ever(&path, &board, 3, CAPACITY));
        while board.at(1).load(Ordering::SeqCst) == before {
            std::thread::sleep(Duration::from_micros(50));
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..2000)));
        kill(agent, Signal::SIGKILL).unwrap();
        waitpid(agent, None).unwrap();
    }
    kill(producer, Signal::SIGKILL).unwrap();
    waitpid(producer, None).unwrap();
    let published = board.at(0).load(Ordering::SeqCst);
    let agent = spawn(|| consume_for_ever(&path, &board, 3, CAPACITY));
    while board.at(1).load(Ordering::SeqCst) < published {
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(agent, Signal::SIGKILL).unwrap();
    waitpid(agent, None).unwrap();
    assert!(published < CAPACITY, "the journal of this test is too short");
    // One producer and no death of it: record n has index n - 1.
    for index in 0..published {
        assert_eq!(board.at(3 + index as usize).load(Ordering::SeqCst), index + 1, "index {index}");
    }
    assert_eq!(board.at(2).load(Ordering::SeqCst), 0, "an event other than a record");
    println!("{lives} consumers killed, {published} records, each delivered and journaled");
}
