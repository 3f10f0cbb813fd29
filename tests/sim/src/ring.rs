//! The bus between a node's store and its agent, as far as both can see it.
//!
//! Owns: records in order, the marks of what was missed, who waits for an answer, and until when the store may change
//! mail. It is memory of the host: it outlives both processes and is gone with the power. What can hurt: a model that
//! forgives what the real ring does not; the rules are those of `ring/`: a full ring refuses and marks a gap, a session
//! that dies between commit and publication leaves a mark, and only a release frees space. Refuses: operations.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use understudy_agent::capture::view::Seat;
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
    /// Accounts with a change under way, and how many.
    pub intents: BTreeMap<String, u32>,
    /// How groups stand here, as sessions were told last.
    pub seats: BTreeMap<GroupId, Seat>,
    /// Until then, by the host's own clock, the store may change mail; 0 = no limit, 1 = not at all.
    pub write_until_ns: u64,
}

impl Ring {
    /// An empty ring.
    #[must_use]
    pub fn new(generation: u64, capacity: usize, write_until_ns: u64) -> Self {
        Self {
            generation,
            records: VecDeque::new(),
            next: 0,
            capacity,
            gaps: BTreeSet::new(),
            intents: BTreeMap::new(),
            seats: BTreeMap::new(),
            write_until_ns,
        }
    }

    /// Whether a session may begin a change now.
    #[must_use]
    pub fn lets(&self, group: GroupId, account: &str, boot_ns: u64) -> bool {
        let seat = match self.seats.get(&group) {
            Some(Seat::Serving) => true,
            Some(Seat::Opening { ready }) => ready.contains(account),
            _ => false,
        };
        seat && self.is_open(boot_ns)
    }

    /// Whether the time until which mail may be changed has not come.
    #[must_use]
    pub fn is_open(&self, boot_ns: u64) -> bool {
        self.write_until_ns == 0 || boot_ns < self.write_until_ns
    }

    /// A change of the account begins.
    pub fn begin(&mut self, account: &str) {
        *self.intents.entry(account.to_owned()).or_default() += 1;
    }

    /// It was published, or will never be.
    pub fn end(&mut self, account: &str) {
        if let Some(count) = self.intents.get_mut(account) {
            *count -= 1;
            if *count == 0 {
                self.intents.remove(account);
            }
        }
    }

    /// Publishes; `None`: the ring is full, or this node may not change mail any more, and the account is marked.
    pub fn publish(&mut self, mut record: Record, boot_ns: u64) -> Option<u64> {
        if self.records.len() >= self.capacity || !self.is_open(boot_ns) {
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
