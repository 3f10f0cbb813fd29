//! The thread that sends beats, and does nothing else.
//!
//! Owns: the rhythm, the sequence, and the measure of its own lateness. What can hurt: a busy or paging machine; after
//! its start the thread allocates nothing, takes no lock and waits for nobody but the clock and the send function.
//! Refuses: catching up. Beats that were missed while it could not run are not sent late in a row; the next one says
//! how late it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use understudy_types::beat::{Beat, FLAG_UNPROTECTED};

use super::protect::{Protection, protect_this_thread};
use crate::clock::{self, MonoNs};

/// Time between two beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// The stop flag is looked at this often.
const STEP: Duration = Duration::from_millis(50);

/// Where the newest figures lie for the sender: one place, the newer replaces the older.
#[derive(Debug)]
pub struct BeatSlot {
    newest: ArrayQueue<(Beat, MonoNs)>,
}

impl Default for BeatSlot {
    fn default() -> Self {
        Self { newest: ArrayQueue::new(1) }
    }
}

impl BeatSlot {
    /// Leaves figures of this moment for the sender.
    pub fn put(&self, beat: Beat, now: MonoNs) {
        let _ = self.newest.force_push((beat, now));
    }
}

/// Rhythm and numbers of a sender; pure.
#[derive(Debug)]
struct Rhythm {
    every_ns: u64,
    due: MonoNs,
    sequence: u64,
    figures: Beat,
    figures_at: Option<MonoNs>,
    is_protected: bool,
}

impl Rhythm {
    fn new(silent: Beat, every: Duration, now: MonoNs, is_protected: bool) -> Self {
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self { every_ns, due: now, sequence: 0, figures: silent, figures_at: None, is_protected }
    }

    /// How long to wait; 0 when a beat is due.
    fn wait_ns(&self, now: MonoNs) -> u64 {
        self.due.since_ns(now)
    }

    /// The beat that is due, and the next one's time: the next tick of the rhythm that is still ahead.
    fn next(&mut self, newer: Option<(Beat, MonoNs)>, now: MonoNs) -> Beat {
        if let Some((figures, at)) = newer {
            self.figures = figures;
            self.figures_at = Some(at);
        }
        let lateness_ns = now.since_ns(self.due);
        let missed = lateness_ns / self.every_ns;
        self.due = MonoNs(self.due.0.saturating_add(self.every_ns.saturating_mul(missed.saturating_add(1))));
        self.sequence += 1;
        let mut beat = self.figures;
        beat.sequence = self.sequence;
        beat.mono_ns = now.0;
        beat.lateness_ns = lateness_ns;
        let age_ms = self.figures_at.map(|at| now.since_ns(at) / 1_000_000);
        beat.figures_age_ms = age_ms.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(u32::MAX);
        beat.flags |= if self.is_protected { 0 } else { FLAG_UNPROTECTED };
        beat
    }
}

/// A running sender. Dropping it stops the thread.
#[derive(Debug)]
pub struct BeatSender {
    stop: Arc<AtomicBool>,
    worst_ns: Arc<AtomicU64>,
    protection: Protection,
    thread: Option<JoinHandle<()>>,
}

impl BeatSender {
    /// Starts it. `silent` is sent until the first figures arrive. `send` must not block for long and must not
    /// allocate; what it does not manage to send is lost, as beats are.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(
        slot: Arc<BeatSlot>,
        silent: Beat,
        every: Duration,
        mut send: impl FnMut(&[u8]) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let worst_ns = Arc::new(AtomicU64::new(0));
        let (told, protection) = crossbeam::channel::bounded(1);
        let (stopped, worst) = (Arc::clone(&stop), Arc::clone(&worst_ns));
        let thread = std::thread::Builder::new().name("beat".to_owned()).spawn(move || {
            let protection = protect_this_thread();
            let mut rhythm = Rhythm::new(silent, every, clock::mono(), protection.is_full());
            let _ = told.send(protection);
            // Release in `drop` pairs with this Acquire; nothing else is published by it.
            while !stopped.load(Ordering::Acquire) {
                let now = clock::mono();
                match rhythm.wait_ns(now) {
                    0 => {
                        let beat = rhythm.next(slot.newest.pop(), now);
                        // A figure of its own, ordered with nothing.
                        worst.fetch_max(beat.lateness_ns, Ordering::Relaxed);
                        send(&beat.encode());
                    }
                    ns => std::thread::sleep(Duration::from_nanos(ns).min(STEP)),
                }
            }
        })?;
        let protection = protection.recv().unwrap_or_default();
        Ok(Self { stop, worst_ns, protection, thread: Some(thread) })
    }

    /// What the kernel granted.
    #[must_use]
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    /// The most that a beat was late since the last call.
    #[must_use]
    pub fn take_worst_lateness_ns(&self) -> u64 {
        self.worst_ns.swap(0, Ordering::Relaxed)
    }
}

impl Drop for BeatSender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_types::id::NodeId;

    const SECOND: u64 = 1_000_000_000;

    fn silent() -> Beat {
        Beat::unknown(NodeId::new(1).expect("in range"), 2, 3)
    }

    #[test]
    fn a_late_sender_says_so_and_does_not_catch_up() {
        let mut rhythm = Rhythm::new(silent(), BEAT_EVERY, MonoNs(10 * SECOND), true);
        assert_eq!(rhythm.next(None, MonoNs(10 * SECOND)).lateness_ns, 0);
        assert_eq!(rhythm.wait_ns(MonoNs(10 * SECOND)), SECOND);
        // Asleep for ten minutes.
        let late = rhythm.next(None, MonoNs(611 * SECOND + 5));
        assert_eq!((late.sequence, late.lateness_ns), (2, 600 * SECOND + 5));
        assert_eq!(rhythm.wait_ns(MonoNs(611 * SECOND + 5)), SECOND - 5);
    }

    #[test]
    fn figures_grow_old_and_their_age_is_said() {
        let mut rhythm = Rhythm::new(silent(), BEAT_EVERY, MonoNs(SECOND), false);
        let first = rhythm.next(None, MonoNs(SECOND));
        assert_eq!((first.figures_age_ms, first.flags & FLAG_UNPROTECTED), (u32::MAX, FLAG_UNPROTECTED));
        let fresh = Beat { lost_events: 9, ..silent() };
        let second = rhythm.next(Some((fresh, MonoNs(2 * SECOND - 40_000_000))), MonoNs(2 * SECOND));
        assert_eq!((second.figures_age_ms, second.lost_events), (40, 9));
        assert_eq!(rhythm.next(None, MonoNs(3 * SECOND)).figures_age_ms, 1040);
    }

    #[test]
    fn the_thread_sends_in_order_and_ends_when_dropped() {
        let (sender, beats) = crossbeam::channel::unbounded();
        let slot = Arc::new(BeatSlot::default());
        let every = Duration::from_millis(5);
        let running = BeatSender::start(Arc::clone(&slot), silent(), every, move |bytes| {
            let _ = sender.send(Beat::decode(bytes));
        });
        let running = running.expect("starts");
        slot.put(Beat { lost_events: 77, ..silent() }, clock::mono());
        let mut last = 0;
        loop {
            let beat = beats.recv().expect("the thread lives").expect("a valid beat");
            assert_eq!(beat.sequence, last + 1);
            last = beat.sequence;
            if beat.lost_events == 77 && last >= 5 {
                break;
            }
        }
        drop(running);
        while beats.recv().is_ok() {}
    }
}
