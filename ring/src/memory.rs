//! What the algorithms need of memory: words, a data area, futexes, and who is alive.
//!
//! Owns: the seam between the ring's algorithms and the mapped file, with a heap-backed side for tests, Miri
//! and benchmarks.
//! What can hurt: an implementation whose slices are shorter than its layout says; [`Memory::control`] and
//! [`Memory::data`] are checked once where a ring is built.
//! Refuses: anything that looks at what the words mean.

use crate::sync::{AtomicU32, Ordering};
use crate::sync::{AtomicU64, DataWord};
use understudy_types::ring::Layout;

mod sealed {
    /// Keeps the seam inside this crate.
    pub trait Sealed {}
}
pub(crate) use sealed::Sealed;

/// Access to control words, for implementations inside this crate.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    pub(crate) control: &'a [AtomicU64],
    pub(crate) data: &'a [DataWord],
}

/// Memory that holds a ring.
pub trait Memory: Sealed + Send + Sync + 'static {
    /// Where everything is.
    fn layout(&self) -> &Layout;
    /// The words, `layout().data` of control and the rest of data.
    fn words(&self) -> Words<'_>;
    /// Sleeps until the low half of control word `at` is woken, no longer than `timeout_ns`, or not at all when
    /// it is not `expected`. May wake for no reason.
    fn futex_wait(&self, at: usize, expected: u32, timeout_ns: u64);
    /// Wakes everybody who sleeps on control word `at`.
    fn futex_wake(&self, at: usize);
    /// Whether some process holds producer slot `slot`.
    fn slot_held(&self, slot: u16) -> bool;
    /// Whether this process is a fork of the one that opened the memory.
    fn inherited(&self) -> bool {
        false
    }
}

/// A ring on the heap of one process.
#[derive(Debug)]
pub struct HeapMemory {
    layout: Layout,
    control: Box<[AtomicU64]>,
    data: Box<[DataWord]>,
    held: Box<[AtomicU32]>,
}

impl HeapMemory {
    /// A zeroed ring of this layout.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            control: (0..layout.data).map(|_| AtomicU64::new(0)).collect(),
            data: (layout.data..layout.total).map(|_| DataWord::default()).collect(),
            held: (0..layout.geometry.producers).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Says that a producer slot is held, or that its holder died.
    pub fn set_held(&self, slot: u16, held: bool) {
        if let Some(word) = self.held.get(usize::from(slot)) {
            word.store(u32::from(held), Ordering::SeqCst);
        }
    }

    /// Writes any word, as a broken process would: for fuzzing. `at` counts over the whole ring and wraps.
    pub fn poke(&self, at: usize, change: impl FnOnce(u64) -> u64) {
        let at = at % self.layout.total;
        match at.checked_sub(self.layout.data) {
            Some(word) => self.data[word].set(change(self.data[word].get())),
            None => self.control[at].store(change(self.control[at].load(Ordering::SeqCst)), Ordering::SeqCst),
        }
    }
}

impl Sealed for HeapMemory {}

impl Memory for HeapMemory {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn words(&self) -> Words<'_> {
        Words { control: &self.control, data: &self.data }
    }

    fn futex_wait(&self, _at: usize, _expected: u32, _timeout_ns: u64) {
        std::thread::yield_now();
    }

    fn futex_wake(&self, _at: usize) {}

    fn slot_held(&self, slot: u16) -> bool {
        self.held.get(usize::from(slot)).is_some_and(|word| word.load(Ordering::SeqCst) != 0)
    }
}
