//! What other threads of the agent than the consumer's may do with the ring: answer, wake, move the deadline on.
//!
//! Owns: the handles, each cheap to clone, and valid for as long as somebody holds them, also after the consumer is
//! gone. What can hurt: nothing here waits or takes a lock. Refuses: reading records.

use crate::map::Mapping;
use crate::memory::Memory;
use crate::producer::{core_of, slots_of};
use crate::sync::Ordering;
use std::sync::Arc;
use understudy_types::ring::{COMPLETION_WORDS, CompletionRef, INDEX_MASK, Status, word};

/// Answers records, from any thread.
#[derive(Debug)]
pub struct Completer<M: Memory = Mapping> {
    pub(super) memory: Arc<M>,
}

impl<M: Memory> Clone for Completer<M> {
    fn clone(&self) -> Self {
        Self { memory: Arc::clone(&self.memory) }
    }
}

impl<M: Memory> Completer<M> {
    /// Answers a record. `false` when its asker no longer waits, or the answer has more than 32 bytes.
    pub fn complete(&self, at: CompletionRef, status: Status, answer: &[u8]) -> bool {
        let delivered = slots_of(&*self.memory).answer(at, status, answer);
        if delivered {
            let layout = self.memory.layout();
            self.memory.futex_wake(layout.completions + at.slot as usize * COMPLETION_WORDS);
        }
        delivered
    }
}

/// Ends the sleep of the consumer, from any thread.
#[derive(Debug)]
pub struct Waker<M: Memory = Mapping> {
    pub(super) memory: Arc<M>,
}

impl<M: Memory> Clone for Waker<M> {
    fn clone(&self) -> Self {
        Self { memory: Arc::clone(&self.memory) }
    }
}

impl<M: Memory> Waker<M> {
    /// Records that are claimed and that a consumer which has read up to `read_index` has not read.
    #[must_use]
    pub fn unread(&self, read_index: u64) -> u64 {
        core_of(&*self.memory).head().index().wrapping_sub(read_index) & INDEX_MASK
    }

    /// Ends the sleep that is under way, if any.
    pub fn wake(&self) {
        if self.memory.words().control[word::CONSUMER_SLEEPS].swap(0, Ordering::SeqCst) != 0 {
            self.memory.futex_wake(word::CONSUMER_SLEEPS);
        }
    }
}

/// The time until which this node may change mail, from any thread. It holds for the store also while the agent is
/// stopped or dead: that is what it is for.
#[derive(Debug)]
pub struct WriteLease<M: Memory = Mapping> {
    pub(super) memory: Arc<M>,
}

impl<M: Memory> Clone for WriteLease<M> {
    fn clone(&self) -> Self {
        Self { memory: Arc::clone(&self.memory) }
    }
}

impl<M: Memory> WriteLease<M> {
    /// From `boottime_ns` (CLOCK_BOOTTIME) on, operations and intents are refused as on a fenced node, whether the
    /// agent lives or not. 0: there is no limit. [`understudy_types::ring::WRITE_UNTIL_EXPIRED`]: at once.
    pub fn set_until(&self, boottime_ns: u64) {
        self.memory.words().control[word::WRITE_UNTIL].store(boottime_ns, Ordering::SeqCst);
    }

    /// What was set last, by this agent or the one before it.
    #[must_use]
    pub fn until(&self) -> u64 {
        self.memory.words().control[word::WRITE_UNTIL].load(Ordering::SeqCst)
    }
}
