//! The bus between a node's store and its agent, as far as both can see it.
//!
//! Owns: records in order, the marks of what was missed, who waits for an answer, and until when the store may change
//! mail. It is memory of the host: it outlives both processes and is gone with the power. What can hurt: a model that
//! forgives what the real ring does not; the rules are those of `ring/`: a full ring refuses and marks a gap, a session
//! that dies between commit and publication leaves a mark, and only a release frees space. Refuses: operations.

use std::collections::{BTreeSet, VecDeque};

use understudy_types::id::GroupId;

/// One published operation.
#[derive(Clone, Debug)]
pub struct Record {
    pub index: u64,
    pub account: String,
    pub op: Vec<u8>,
    pub wall_ns: u64,
    /// The change that it tells of.
    pub number: u64,
    /// Its session waits for an answer.
    pub waits: bool,
}

/// The ring of one host.
#[derive(Debug)]
pub struct Ring {
    pub generation: u64,
    /// Records that were not released.
    records: VecDeque<Record>,
    next: u64,
    capacity: usize,
    /// Accounts of which something was missed; the next agent is told too, until one says that it knows.
    pub gaps: BTreeSet<String>,
    /// Groups whose accounts may be changed here.
    pub serves: BTreeSet<GroupId>,
    /// Until then, by the host's own clock, the store may change mail.
    pub write_until_ns: u64,
}

impl Ring {
    /// An empty ring.
    #[must_use]
    pub fn new(generation: u64, capacity: usize) -> Self {
        Self {
            generation,
            records: VecDeque::new(),
            next: 0,
            capacity,
            gaps: BTreeSet::new(),
            serves: BTreeSet::new(),
            write_until_ns: u64::MAX,
        }
    }

    /// Publishes; `None`: the ring is full, and the account is marked.
    pub fn publish(&mut self, mut record: Record) -> Option<u64> {
        if self.records.len() >= self.capacity {
            self.gaps.insert(record.account);
            return None;
        }
        record.index = self.next;
        self.next += 1;
        self.records.push_back(record);
        Some(self.next - 1)
    }

    /// The oldest record that was not released, or where the next one goes.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.next - self.records.len() as u64
    }

    /// The record at an index, if it is there.
    #[must_use]
    pub fn at(&self, index: u64) -> Option<&Record> {
        self.records.get(usize::try_from(index.checked_sub(self.first())?).ok()?)
    }

    /// Records before `index` are not needed any more; gives them.
    pub fn release(&mut self, index: u64) -> Vec<Record> {
        let count = usize::try_from(index.saturating_sub(self.first())).unwrap_or(usize::MAX).min(self.records.len());
        self.records.drain(..count).collect()
    }

    /// Whether all was read.
    #[must_use]
    pub fn is_read(&self, read: u64) -> bool {
        read >= self.next
    }
}
