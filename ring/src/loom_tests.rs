//! Models of the algorithm, run by loom over every interleaving it can reach:
//! `RUSTFLAGS="--cfg loom" cargo test -p understudy-ring --release loom_`.
//!
//! Owns: small rings, two producers, one consumer. The data area is made of plain cells, so a read that the
//! algorithm does not order is an error of its own.
//! A model that finds nothing proves nothing: the last test puts known bugs in, and a model must find each.

use crate::claim::{Core, CoreError};
use crate::completion::{Collected, Slots};
use crate::sync::{AtomicU64, DataWord, Ordering, PLANTED, fence, planted};
use loom::sync::Arc;
use loom::thread;
use understudy_types::ring::{COMPLETION_WORDS, Cursor, Descriptor, Owner, State, Status};

const ONE: Owner = Owner { slot: 1, incarnation: 1 };
const TWO: Owner = Owner { slot: 2, incarnation: 1 };

struct Ring {
    head: AtomicU64,
    release: AtomicU64,
    releasing: AtomicU64,
    descriptors: Vec<AtomicU64>,
    data: Vec<DataWord>,
}

impl Ring {
    fn new(descriptors: usize, units: usize) -> Self {
        Self {
            head: AtomicU64::new(0),
            release: AtomicU64::new(0),
            releasing: AtomicU64::new(0),
            descriptors: (0..descriptors).map(|_| AtomicU64::new(0)).collect(),
            data: (0..units).map(|_| DataWord::default()).collect(),
        }
    }

    fn core(&self) -> Core<'_> {
        Core {
            head: &self.head,
            release: &self.release,
            releasing: &self.releasing,
            descriptors: &self.descriptors,
            data: &self.data,
        }
    }

    /// Publishes a record of `units` words that all hold `value`.
    fn publish(&self, owner: Owner, units: u32, value: u64) -> Result<u64, CoreError> {
        let core = self.core();
        let claim = core.claim(units, owner)?;
        for unit in 0..units {
            self.data[(claim.at.position() + unit) as usize & (self.data.len() - 1)].set(value);
        }
        core.commit(&claim)?;
        Ok(claim.at.index())
    }
}

/// Reads and releases the record at `at` if it is committed; gives its value and the next place.
fn take(core: &Core<'_>, at: Cursor) -> Option<(u64, Cursor)> {
    let found = core.look(at.index());
    if found.lap() != core.lap(at.index()) || found.state() != State::Committed {
        return None;
    }
    let word = |unit: u32| core.data[(at.position() + unit) as usize & (core.data.len() - 1)].get();
    let value = word(0);
    for unit in 1..found.units() {
        assert_eq!(word(unit), value, "torn");
    }
    let next = at.after(found.units());
    core.free_to(at, next);
    Some((value, next))
}

/// Fewest executions of a model that is worth its name. loom remembers one last access of a word, so it can take a
/// model for done after a single order; such a model passes whatever is wrong.
const EXECUTIONS_MIN: usize = 4;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let executions = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        check();
    });
    let executions = executions.load(Ordering::Relaxed);
    println!("{executions} executions");
    assert!(executions >= EXECUTIONS_MIN, "the model ran only {executions} times");
}

/// Runs both at once. The second is on the first thread, which loom runs first: put there what stores, and in the
/// other what looks, or loom sees too few orders.
fn at_once<A: 'static, B>(looks: impl FnOnce() -> A + 'static, stores: impl FnOnce() -> B) -> (A, B) {
    let thread = thread::spawn(looks);
    let stored = stores();
    (thread.join().unwrap(), stored)
}

#[test]
fn loom_two_producers_get_places_of_their_own_and_both_records_arrive() {
    model(|| {
        let ring = Arc::new(Ring::new(2, 4));
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || other.publish(ONE, 1, 11).unwrap());
        let mine = ring.publish(TWO, 2, 22).unwrap();
        let theirs = thread.join().unwrap();
        assert_eq!(mine + theirs, 1);
        let core = ring.core();
        let (first, next) = take(&core, Cursor::new(0, 0)).unwrap();
        let (second, end) = take(&core, next).unwrap();
        assert_eq!(if mine == 0 { (first, second) } else { (second, first) }, (22, 11));
        assert_eq!(core.head(), end);
    });
}

#[test]
fn loom_a_record_is_seen_whole_or_not_at_all() {
    model(|| {
        let ring = Arc::new(Ring::new(2, 4));
        let other = Arc::clone(&ring);
        let (seen, _) = at_once(move || take(&other.core(), Cursor::new(0, 0)), || ring.publish(ONE, 2, 11).unwrap());
        if seen.is_none() {
            assert_eq!(take(&ring.core(), Cursor::new(0, 0)).unwrap().0, 11);
        }
    });
}

#[test]
fn loom_released_space_is_written_again_only_after_it_was_read() {
    model(|| {
        // Room for one record: the second needs the consumer's release.
        let ring = Arc::new(Ring::new(2, 2));
        ring.publish(ONE, 2, 11).unwrap();
        let other = Arc::clone(&ring);
        let core = ring.core();
        let (second, first) = at_once(move || other.publish(TWO, 2, 22), || take(&core, Cursor::new(0, 0)));
        let (value, at) = first.unwrap();
        let mut values = vec![value];
        match second {
            Ok(index) => assert_eq!(index, 1),
            Err(error) => assert_eq!(error, CoreError::Full),
        }
        if let Some((value, _)) = take(&core, at) {
            values.push(value);
        }
        assert_eq!(second.is_ok(), values.len() == 2);
        assert!(values == [11] || values == [11, 22], "{values:?}");
    });
}

#[test]
fn loom_a_producer_that_died_between_its_two_swaps_is_helped() {
    model(|| {
        let ring = Arc::new(Ring::new(4, 8));
        // Dead after reserving: head was never moved.
        let dead = Descriptor::reserved(0, 3, Owner { slot: 3, incarnation: 1 });
        ring.core().descriptor(0).store(dead.0, Ordering::Release);
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || other.publish(ONE, 1, 11).unwrap());
        let mine = ring.publish(TWO, 1, 22).unwrap();
        let theirs = thread.join().unwrap();
        assert_eq!((mine.min(theirs), mine.max(theirs)), (1, 2));
        let core = ring.core();
        let start = Cursor::new(0, 0);
        assert!(core.abandon(start, core.look(0)));
        let after_dead = start.after(3);
        core.free_to(start, after_dead);
        let (_, next) = take(&core, after_dead).unwrap();
        assert_eq!(take(&core, next).unwrap().1, core.head());
    });
}

#[test]
fn loom_the_consumer_helps_a_dead_producer_against_a_living_one() {
    model(|| {
        let ring = Arc::new(Ring::new(2, 4));
        let dead = Descriptor::reserved(0, 1, Owner { slot: 3, incarnation: 1 });
        ring.core().descriptor(0).store(dead.0, Ordering::Release);
        let other = Arc::clone(&ring);
        let core = ring.core();
        let start = Cursor::new(0, 0);
        let skip = || {
            assert!(core.abandon(start, core.look(0)));
            core.free_to(start, start.after(1));
        };
        let (index, ()) = at_once(move || other.publish(ONE, 1, 11).unwrap(), skip);
        assert_eq!(index, 1);
        assert_eq!(take(&core, start.after(1)).unwrap(), (11, Cursor::new(2, 2)));
        assert_eq!(core.head(), Cursor::new(2, 2));
    });
}

#[test]
fn loom_a_commit_and_an_abandonment_exclude_each_other() {
    model(|| {
        let ring = Arc::new(Ring::new(2, 4));
        let other = Arc::clone(&ring);
        let core = ring.core();
        let start = Cursor::new(0, 0);
        let abandon = move || {
            let core = other.core();
            let found = core.look(0);
            found.state() == State::Reserved && core.abandon(start, found)
        };
        let (abandoned, published) = at_once(abandon, || ring.publish(ONE, 1, 11));
        assert_eq!(published.is_err(), abandoned, "{published:?}");
        assert_eq!(take(&core, start).is_some(), !abandoned);
    });
}

fn slots() -> Vec<AtomicU64> {
    (0..COMPLETION_WORDS).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn loom_an_answer_arrives_or_is_refused_never_both() {
    model(|| {
        let words = Arc::new(slots());
        let at = Slots { words: &words }.claim(ONE, 0).unwrap();
        let other = Arc::clone(&words);
        let slots = Slots { words: &words };
        let ask = move || {
            let slots = Slots { words: &other };
            match slots.collect(at) {
                Collected::Answer(answer) => Some(answer),
                Collected::Pending(_) => slots.cancel(at),
                Collected::Gone => panic!("gone"),
            }
        };
        let (got, delivered) = at_once(ask, || slots.answer(at, Status::Durable, &[7; 32]));
        if let Some(answer) = got {
            assert_eq!((answer.status, answer.bytes), (Status::Durable, [7; 32]));
            assert!(delivered);
        } else {
            assert!(!delivered);
        }
        assert!(slots.claim(TWO, 0).is_some(), "the slot is free again");
    });
}

#[test]
fn loom_a_late_answer_never_reaches_the_next_asker() {
    model(|| {
        let words = Arc::new(slots());
        let at = Slots { words: &words }.claim(ONE, 0).unwrap();
        let other = Arc::clone(&words);
        let agent = thread::spawn(move || Slots { words: &other }.answer(at, Status::Durable, &[7; 32]));
        let slots = Slots { words: &words };
        let early = slots.cancel(at);
        // The slot may still be the answerer's, which frees it.
        if let Some(next) = slots.claim(TWO, 0) {
            assert!(matches!(slots.collect(next), Collected::Pending(_)), "an answer that was not asked for");
            assert_eq!(slots.cancel(next), None);
        }
        assert_eq!(agent.join().unwrap(), early.is_some());
    });
}

#[test]
fn loom_a_consumer_that_falls_asleep_is_woken() {
    model(|| {
        // 0 awake, 1 asleep, as `word::CONSUMER_SLEEPS`.
        let shared = Arc::new((Ring::new(2, 4), AtomicU64::new(0)));
        let other = Arc::clone(&shared);
        let sleep = move || {
            other.1.store(1, Ordering::SeqCst);
            if !planted("no_sleep_fence") {
                fence(Ordering::SeqCst);
            }
            other.0.core().look(0).state() == State::Committed
        };
        let publish = || {
            shared.0.publish(ONE, 1, 11).unwrap();
            // loom orders SeqCst accesses only as AcqRel; the fences say what the accesses of the real code say.
            fence(Ordering::SeqCst);
            shared.1.load(Ordering::SeqCst) != 0
        };
        let (seen, woken) = at_once(sleep, publish);
        assert!(seen || woken, "asleep with a record in the ring");
    });
}

#[test]
fn loom_models_find_planted_bugs() {
    let models: [(&str, fn()); 5] = [
        ("no_help", loom_a_producer_that_died_between_its_two_swaps_is_helped),
        ("plain_claim", loom_two_producers_get_places_of_their_own_and_both_records_arrive),
        ("relaxed_look", loom_a_record_is_seen_whole_or_not_at_all),
        ("plain_cancel", loom_a_late_answer_never_reaches_the_next_asker),
        ("no_sleep_fence", loom_a_consumer_that_falls_asleep_is_woken),
    ];
    for (bug, model) in models {
        PLANTED.with(|planted| planted.set(bug));
        let found = std::panic::catch_unwind(model).is_err();
        PLANTED.with(|planted| planted.set(""));
        assert!(found, "the model did not find `{bug}`");
    }
}
