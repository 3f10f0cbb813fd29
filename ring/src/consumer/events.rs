//! What the consumer tells the agent.
//!
//! Owns: the closed set of events, and the counters. No logic.

use crate::intents::OrphanedIntent;
use understudy_types::ring::{CompletionRef, Owner, RecordKind, RingError};

/// A whole record, copied out of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Absolute index. With the ring's generation it names this record for ever; an agent that starts again gets
    /// the records that were not released once more, under the same index.
    pub index: u64,
    /// What it is.
    pub kind: RecordKind,
    /// Bit 0: closes its intent. The upper eight bits are the operation's.
    pub flags: u16,
    /// The account.
    pub account: Vec<u8>,
    /// Opaque bytes.
    pub payload: Vec<u8>,
    /// The intent that it opens, ends or closes; 0 for none.
    pub intent: u64,
    /// Where to answer, if an answer is wanted.
    pub completion: Option<CompletionRef>,
    /// Wall time of the change, in nanoseconds since the epoch, as the producer says.
    pub captured_wall_ns: u64,
    /// Who published it.
    pub producer: Owner,
}

/// One thing that came out of the ring. Each takes one index, except [`Event::Orphaned`], which takes none, and
/// [`Event::Damaged`], which takes a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A record.
    Record(Record),
    /// A producer died with this intent open: compare the account. Its gap bucket is also pending until
    /// [`crate::Consumer::gaps_done`].
    Orphaned(OrphanedIntent),
    /// A producer died while it wrote this record; nobody was told that it was published. What it was
    /// about is known only if an intent was open.
    Abandoned {
        /// The index that was skipped.
        index: u64,
        /// Slot of the dead producer.
        producer_slot: u16,
    },
    /// Records that were published could not be read: compare every account.
    Damaged {
        /// First index that is lost.
        from: u64,
        /// First index after it that is not.
        to: u64,
        /// What was wrong with the first of them.
        fault: RingError,
    },
}

/// Counters since the consumer attached, and the ring's fill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsumerStats {
    /// Records delivered.
    pub delivered: u64,
    /// Records of dead producers that were skipped.
    pub abandoned: u64,
    /// Records of dead producers that were whole, and delivered.
    pub rescued: u64,
    /// Intents of dead producers.
    pub orphaned: u64,
    /// Records that were published and could not be read.
    pub damaged: u64,
    /// Damaged control words that were put right without loss.
    pub repaired: u64,
    /// Completion slots taken back from dead producers.
    pub completions_reaped: u64,
    /// Longest time that a living producer held a record open, in nanoseconds.
    pub stuck_ns_max: u64,
    /// Bytes that are not released.
    pub used_bytes: u64,
    /// Records that are not released.
    pub used_records: u64,
    /// Bytes of the data area.
    pub capacity_bytes: u64,
    /// Records that producers dropped, since the file was made.
    pub dropped_total: u64,
    /// Intents that are open now.
    pub intents_open: u64,
}
