//! Gaps: accounts of which something was not captured, as bits of a bitmap.
//!
//! Owns: two bitmaps, `fresh` (set by producers) and `pending` (taken by the agent, not finished yet). An agent
//! that dies between taking and finishing finds the bits in `pending` again.
//! What can hurt: hash neighbours share a bit. The agent compares all accounts of a bucket, which costs time and
//! loses nothing.

use crate::memory::Words;
use crate::sync::Ordering;
use understudy_types::ring::{GAP_BUCKETS, Layout, gap_bucket, word};

const GAP_WORDS: usize = GAP_BUCKETS / 64;

/// Producer: records that something of this account was dropped.
pub(crate) fn mark(words: Words<'_>, layout: &Layout, account: &[u8]) {
    set(words, layout.gaps_fresh, gap_bucket(account));
    words.control[word::DROPPED_TOTAL].fetch_add(1, Ordering::Relaxed);
    words.control[word::GAPS_FRESH].store(1, Ordering::SeqCst);
}

/// Agent: puts a bucket directly among those that are taken and not finished.
pub(crate) fn mark_pending(words: Words<'_>, layout: &Layout, bucket: u16) {
    set(words, layout.gaps_pending, bucket);
}

fn set(words: Words<'_>, bitmap: usize, bucket: u16) {
    let bucket = usize::from(bucket);
    words.control[bitmap + bucket / 64].fetch_or(1 << (bucket % 64), Ordering::SeqCst);
}

/// Whether producers may have marked something since the last [`take`].
pub(crate) fn fresh(words: Words<'_>) -> bool {
    words.control[word::GAPS_FRESH].load(Ordering::SeqCst) != 0
}

/// Agent: moves fresh bits to pending and gives them; with `again`, all that are pending.
pub(crate) fn take(words: Words<'_>, layout: &Layout, again: bool) -> Vec<u16> {
    // Cleared first: a bit that is set during the walk sets the word again.
    words.control[word::GAPS_FRESH].store(0, Ordering::SeqCst);
    let mut buckets = Vec::new();
    for at in 0..GAP_WORDS {
        let fresh = &words.control[layout.gaps_fresh + at];
        let pending = &words.control[layout.gaps_pending + at];
        let taken = fresh.load(Ordering::SeqCst);
        if taken != 0 {
            pending.fetch_or(taken, Ordering::SeqCst);
            fresh.fetch_and(!taken, Ordering::SeqCst);
        }
        let mut bits = if again { pending.load(Ordering::SeqCst) } else { taken };
        while bits != 0 {
            // At most 65,535: 1024 words of 64 bits.
            buckets.push((at * 64 + bits.trailing_zeros() as usize) as u16);
            bits &= bits - 1;
        }
    }
    buckets
}

/// Agent: these buckets were compared.
pub(crate) fn done(words: Words<'_>, layout: &Layout, buckets: &[u16]) {
    for bucket in buckets {
        let bucket = usize::from(*bucket);
        words.control[layout.gaps_pending + bucket / 64].fetch_and(!(1 << (bucket % 64)), Ordering::SeqCst);
    }
}
