//! Every atomic of the crate comes from here, so that loom can take their place.
//!
//! Owns: the choice between real and modelled atomics, the words of the data area, the spin hint.
//! What can hurt: an ordering that loom does not see. Pairs of orderings are named `SYNC POINT` where they are.
//! Refuses: any atomic of the standard library elsewhere in the crate, except in `fork` (a signal-safe counter).

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::AtomicU64;
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, fence};

/// A word of the data area. Real memory: a relaxed atomic, so a torn or racing access is never undefined.
#[cfg(not(loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct DataWord(AtomicU64);

#[cfg(not(loom))]
impl DataWord {
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Under loom the words are plain cells: any access that is not ordered by the algorithm is reported as a race.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct DataWord(loom::cell::Cell<u64>);

#[cfg(loom)]
impl Default for DataWord {
    fn default() -> Self {
        Self(loom::cell::Cell::new(0))
    }
}

#[cfg(loom)]
impl DataWord {
    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.set(value);
    }
}

/// One turn of a spin loop.
pub(crate) fn spin() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}

#[cfg(loom)]
std::thread_local! {
    /// The bug that this model runs with; loom keeps all threads of a model on one.
    pub(crate) static PLANTED: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
}

/// Whether a known bug is to be put in, to prove that the models find it. Outside of loom: never, at no cost.
#[inline(always)]
pub(crate) fn planted(bug: &str) -> bool {
    #[cfg(loom)]
    return PLANTED.with(|planted| planted.get() == bug);
    #[cfg(not(loom))]
    {
        let _ = bug;
        false
    }
}
