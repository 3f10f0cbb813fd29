//! Running seeds: one, or many on all cores, with panics taken for what they are: findings.
//!
//! Owns: threads (one world each) and the hook that keeps a panic's words. Refuses: judging.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use crate::world::{Outcome, World};

std::thread_local! {
    static WORDS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the words of a panic for whoever caught it, and prints nothing.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| WORDS.with(|words| *words.borrow_mut() = Some(info.to_string()))));
}

/// Runs one seed; gives its outcome, and its trace if that was asked for.
#[must_use]
pub fn seed(seed: u64, trace: bool) -> (Outcome, String) {
    let mut world = World::new(seed, trace);
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(outcome) => (outcome, world.trace().to_owned()),
        Err(_) => {
            let words = WORDS.with(|words| words.borrow_mut().take()).unwrap_or_else(|| "a panic".into());
            let outcome = Outcome {
                seed,
                wrong: Some(words),
                simulated_ns: 0,
                events: 0,
                changes: 0,
                acked: 0,
                faults: 0,
                moves: 0,
                recovery_ns: 0,
                fingerprint: [0; 32],
            };
            let text = catch_unwind(AssertUnwindSafe(|| world.trace().to_owned())).unwrap_or_default();
            (outcome, text)
        }
    }
}

/// Runs `count` seeds from `first` on with so many threads. `each` sees every outcome, in no order, and says whether to
/// go on.
pub fn many(
    first: u64,
    count: u64,
    threads: usize,
    prepare: &(dyn Fn() + Sync),
    each: &mut dyn FnMut(Outcome) -> bool,
) {
    let (give, take) = mpsc::sync_channel::<Outcome>(64);
    std::thread::scope(|scope| {
        for thread in 0..threads as u64 {
            let give = give.clone();
            scope.spawn(move || {
                prepare();
                for number in (thread..count).step_by(threads) {
                    let (outcome, _) = seed(first + number, false);
                    // Nobody wants more.
                    if give.send(outcome).is_err() {
                        return;
                    }
                }
            });
        }
        drop(give);
        while let Ok(outcome) = take.recv() {
            if !each(outcome) {
                break;
            }
        }
        drop(take);
    });
}
