//! Claim, help, commit, abandon, free: the algorithm on head, release and descriptors.
//!
//! Owns: every change of these words. It knows nothing of records, files or clocks, and is the same code under
//! loom, Miri and on the mapped file.
//! What can hurt: a head, release or descriptor that a broken process wrote. Each is checked against the
//! window between release and head before it is used; loops end after a bounded number of turns.
//! Refuses: waiting. A full ring is an answer, not a sleep.

use crate::sync::{AtomicU64, DataWord, Ordering, planted, spin};
use understudy_types::ring::{Cursor, Descriptor, Owner, State};

/// The words of the algorithm, borrowed from a memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Core<'a> {
    pub(crate) head: &'a AtomicU64,
    pub(crate) release: &'a AtomicU64,
    pub(crate) releasing: &'a AtomicU64,
    /// A power of two.
    pub(crate) descriptors: &'a [AtomicU64],
    /// A power of two.
    pub(crate) data: &'a [DataWord],
}

/// A reservation that is to be filled and committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) at: Cursor,
    pub(crate) units: u32,
    word: Descriptor,
}

/// Why nothing was claimed or committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoreError {
    /// No space for this record before the consumer releases some.
    Full,
    /// Head or descriptor make no sense; the consumer repairs them when it sees them.
    Damaged,
}

/// Turns after which a claim gives up. Each failed turn means that another producer got its record in, or
/// that a word is damaged; 4096 producers at once need at most as many.
const CLAIM_TURNS_MAX: u32 = 1 << 16;
/// Looks at a senseless descriptor under an unmoved head before it counts as damaged: the consumer frees
/// descriptors a moment before it publishes the release, never after, so sense is not long in coming.
const DAMAGED_LOOKS_MAX: u32 = 128;

impl<'a> Core<'a> {
    /// Lap of the descriptor of `index`.
    pub(crate) fn lap(&self, index: u64) -> u64 {
        (index >> self.descriptors.len().trailing_zeros()) & Descriptor::LAP_MASK
    }

    /// The descriptor of `index`.
    pub(crate) fn descriptor(&self, index: u64) -> &'a AtomicU64 {
        // A power of two, so the mask keeps it inside.
        &self.descriptors[index as usize & (self.descriptors.len() - 1)]
    }

    /// Whether the word is a record of this lap with a possible length.
    pub(crate) fn plausible(&self, word: Descriptor, lap: u64) -> bool {
        word.state() != State::Free && word.lap() == lap && (1..=self.data.len()).contains(&(word.units() as usize))
    }

    pub(crate) fn head(&self) -> Cursor {
        Cursor(self.head.load(Ordering::Acquire))
    }

    /// Reserves `units` of 8 bytes.
    #[inline]
    pub(crate) fn claim(&self, units: u32, owner: Owner) -> Result<Claim, CoreError> {
        let mut damaged_looks = 0;
        for _ in 0..CLAIM_TURNS_MAX {
            // SYNC POINT release -> claim: pairs with the Release store in `free_to`. What the consumer read is
            // read before it is overwritten here. Loaded before head, so that head is never behind it.
            let release = Cursor(self.release.load(Ordering::Acquire));
            // SYNC POINT head: pairs with the AcqRel swaps of head below.
            let head = self.head();
            if head.records_since(release) >= self.descriptors.len() as u64
                || head.units_since(release) as usize + units as usize > self.data.len()
            {
                if self.release.load(Ordering::Acquire) == release.0 {
                    return Err(CoreError::Full);
                }
                continue;
            }
            let lap = self.lap(head.index());
            let slot = self.descriptor(head.index());
            let (free, word) = (Descriptor::free(lap), Descriptor::reserved(lap, units, owner));
            // Free of this lap means that no one has claimed this index, so head is still where it was loaded: head
            // leaves an index only after its descriptor is reserved. Swapped without a look first: most of the time
            // it is free, and loom explores fewer orders of a word that a thread loads before it swaps it.
            let swapped = if planted("plain_claim") {
                slot.store(word.0, Ordering::Release);
                Ok(free.0)
            } else {
                slot.compare_exchange(free.0, word.0, Ordering::AcqRel, Ordering::Acquire)
            };
            let found = match swapped {
                Ok(_) => {
                    self.advance_head(head, units);
                    return Ok(Claim { at: head, units, word });
                }
                Err(found) => Descriptor(found),
            };
            if self.plausible(found, lap) {
                // Somebody reserved it and has not moved head yet; perhaps never will.
                if !planted("no_help") {
                    self.advance_head(head, found.units());
                }
                spin();
                continue;
            }
            if self.head().0 == head.0 {
                damaged_looks += 1;
                if damaged_looks > DAMAGED_LOOKS_MAX {
                    return Err(CoreError::Damaged);
                }
                spin();
            }
        }
        Err(CoreError::Damaged)
    }

    /// Moves head past a record of `units`, unless somebody else did.
    #[inline]
    pub(crate) fn advance_head(&self, head: Cursor, units: u32) {
        let _ = self.head.compare_exchange(head.0, head.after(units).0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Makes a filled record visible.
    #[inline]
    pub(crate) fn commit(&self, claim: &Claim) -> Result<(), CoreError> {
        let slot = self.descriptor(claim.at.index());
        // SYNC POINT commit -> read: pairs with the load in the consumer. SeqCst, because it is also the first
        // half of "commit, then look whether the consumer sleeps" against "say that I sleep, then look".
        let committed = claim.word.with_state(State::Committed);
        match slot.compare_exchange(claim.word.0, committed.0, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(CoreError::Damaged),
        }
    }

    /// Consumer: the descriptor at `index`.
    #[inline]
    pub(crate) fn look(&self, index: u64) -> Descriptor {
        // SYNC POINT commit -> read, the consumer's half.
        let order = if planted("relaxed_look") { Ordering::Relaxed } else { Ordering::SeqCst };
        Descriptor(self.descriptor(index).load(order))
    }

    /// Consumer: skips the reservation of a dead producer. `false` if it was committed after all.
    pub(crate) fn abandon(&self, at: Cursor, found: Descriptor) -> bool {
        let abandoned = found.with_state(State::Abandoned);
        let swapped = self
            .descriptor(at.index())
            .compare_exchange(found.0, abandoned.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if swapped {
            // The dead may not have moved head; nobody may find it on a freed descriptor.
            self.advance_head(at, found.units());
        }
        swapped
    }

    /// Consumer: gives the space from `from` to `to` back to the producers.
    ///
    /// `releasing` is written first: a consumer that dies in the middle leaves behind how far it wanted to go,
    /// and its successor does it again.
    pub(crate) fn free_to(&self, from: Cursor, to: Cursor) {
        self.releasing.store(to.0, Ordering::Release);
        let count = to.records_since(from).min(self.descriptors.len() as u64);
        for step in 0..count {
            let index = from.index().wrapping_add(step) & understudy_types::ring::INDEX_MASK;
            let free = Descriptor::free(self.lap(index).wrapping_add(1));
            self.descriptor(index).store(free.0, Ordering::Release);
        }
        // SYNC POINT release -> claim, the consumer's half.
        self.release.store(to.0, Ordering::Release);
    }
}
