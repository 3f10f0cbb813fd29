//! Where every durable frame is: in memory, rebuilt by recovery, shared with the readers.
//!
//! Owns: per group the row of places and the positions, per segment its file. What can hurt: a reader that follows a
//! place into a segment that was let go; the file handle keeps the bytes readable, and a reused file gives bytes that
//! do not match the place, after which the reader asks again. Memory: 48 bytes for each frame that is kept, so about
//! 1.2 % of the journal's bytes at the smallest frames, one to a page. Refuses: reading.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use understudy_types::id::{Epoch, GroupId, Sequence};

use super::chain::{Held, Known};
use super::disk::LogFile;
use super::event::{ReadError, Tail};
use super::retain::SegmentFacts;

/// Generations of the ring whose highest index is remembered for a group.
const RING_GENERATIONS_MAX: usize = 3;

/// One durable frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) held: Held,
    pub(super) segment: u64,
    pub(super) at: u32,
    pub(super) len: u32,
}

impl Place {
    fn last(&self) -> Sequence {
        Sequence(self.held.first.0 + u64::from(self.held.count) - 1)
    }
}

/// Highest ring index that is journaled, per generation, in the order in which the generations were first seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RingMarks(Vec<(u64, u64)>);

impl RingMarks {
    pub(super) fn note(&mut self, generation: u64, index: u64) {
        if generation == 0 {
            return;
        }
        if let Some(known) = self.0.iter_mut().find(|(of, _)| *of == generation) {
            known.1 = known.1.max(index);
            return;
        }
        if self.0.len() == RING_GENERATIONS_MAX {
            self.0.remove(0);
        }
        self.0.push((generation, index));
    }

    pub(super) fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupIndex {
    places: VecDeque<Place>,
    /// `tail` is the last durable frame, or the base.
    pub(super) known: Known,
    /// Frames of writes before this one are not part of the stream any more (rebased).
    pub(super) from_write: u64,
    pub(super) ring: RingMarks,
    /// What damage took: the last frame before it, the first sequence after it.
    pub(super) gaps: Vec<(Tail, Sequence)>,
    /// Damage was found after the group's last frame: there may have been more.
    pub(super) tail_suspect: bool,
}

impl GroupIndex {
    /// A group of which no frame has been found yet.
    pub(super) fn new(known: Known, from_write: u64, ring: RingMarks) -> Self {
        Self { known, from_write, ring, ..Self::default() }
    }

    /// The frame that holds `sequence`.
    pub(super) fn holding(&self, sequence: Sequence) -> Option<&Place> {
        let after = self.places.partition_point(|place| place.held.first <= sequence);
        let place = self.places.get(after.checked_sub(1)?)?;
        (place.last() >= sequence).then_some(place)
    }

    pub(super) fn first(&self) -> Sequence {
        self.places.front().map_or(Sequence(0), |place| place.held.first)
    }

    /// Takes a durable frame into the row. Positions only ever rise here; `rebase` is the one way back.
    pub(super) fn push(&mut self, place: Place, hash: [u8; 32]) {
        assert!(place.held.first > self.known.tail.sequence, "durable positions of a group must rise");
        let next = self.known.tail.sequence.next();
        if place.held.first > next {
            self.gaps.push((self.known.tail, place.held.first));
        }
        self.known.tail = Tail { sequence: place.last(), epoch: place.held.epoch, hash };
        self.known.fence = self.known.fence.max(place.held.epoch);
        self.tail_suspect = false;
        self.places.push_back(place);
    }

    /// The stream goes on after `tail`; nothing before it is kept.
    pub(super) fn rebase(&mut self, tail: Tail, from_write: u64) {
        self.places.clear();
        self.gaps.clear();
        self.tail_suspect = false;
        self.known = Known { fence: self.known.fence.max(tail.epoch), base: tail, tail };
        self.from_write = from_write;
    }
}

/// A segment that can be read.
#[derive(Clone, Debug)]
pub(super) struct SegmentEntry {
    pub(super) file: Arc<dyn LogFile>,
    pub(super) bytes: u64,
    pub(super) last: HashMap<GroupId, Sequence>,
}

/// Everything that is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) groups: HashMap<GroupId, GroupIndex>,
    pub(super) segments: BTreeMap<u64, SegmentEntry>,
}

/// What to read for a reader.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) place: Place,
    pub(super) file: Arc<dyn LogFile>,
}

impl Index {
    /// A frame became durable.
    pub(super) fn push(&mut self, group: GroupId, place: Place, hash: [u8; 32]) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.last.insert(group, place.last());
        }
        self.groups.entry(group).or_default().push(place, hash);
    }

    /// Forgets a segment. The base of every group moves over what was in it.
    pub(super) fn retire(&mut self, segment: u64) -> Option<SegmentEntry> {
        let entry = self.segments.remove(&segment)?;
        for group in entry.last.keys() {
            let Some(group) = self.groups.get_mut(group) else { continue };
            while let Some(place) = group.places.front().filter(|place| place.segment <= segment).copied() {
                let last = place.last();
                let hash = if last == group.known.tail.sequence { group.known.tail.hash } else { [0; 32] };
                group.known.base = Tail { sequence: last, epoch: place.held.epoch, hash };
                group.places.pop_front();
            }
            let base = group.known.base.sequence;
            group.gaps.retain(|(_, next)| *next > base.next());
        }
        Some(entry)
    }

    /// The oldest full segments, for the retention's decider.
    pub(super) fn facts(&self, current: u64) -> Vec<SegmentFacts> {
        let full = self.segments.iter().filter(|(segment, _)| **segment < current);
        let facts = full.map(|(segment, entry)| SegmentFacts {
            segment: *segment,
            bytes: entry.bytes,
            last: entry.last.iter().map(|(group, last)| (*group, *last)).collect(),
        });
        facts.collect()
    }

    /// The places of whole frames of `group` from the one that begins at `from`: one at least, then up to `bytes_max`.
    pub(super) fn plan(&self, group: GroupId, from: Sequence, bytes_max: usize) -> Result<Vec<Plan>, ReadError> {
        let Some(index) = self.groups.get(&group) else { return Ok(Vec::new()) };
        let known = &index.known;
        if from > known.tail.sequence {
            return Ok(Vec::new());
        }
        if from <= known.base.sequence {
            return Err(ReadError::Retired { group, oldest: known.base.sequence.next() });
        }
        let start = index.places.partition_point(|place| place.last() < from);
        let mut plan = Vec::new();
        let mut expected = from;
        let mut bytes = 0;
        for place in index.places.range(start..) {
            if place.held.first > expected {
                if plan.is_empty() {
                    return Err(ReadError::Gap { group, from, next: place.held.first });
                }
                break;
            }
            if place.held.first < expected {
                return Err(ReadError::Inside { group, from, first: place.held.first });
            }
            bytes += place.len as usize;
            let Some(segment) = self.segments.get(&place.segment) else { break };
            if !plan.is_empty() && bytes > bytes_max {
                break;
            }
            plan.push(Plan { place: *place, file: Arc::clone(&segment.file) });
            expected = place.last().next();
        }
        Ok(plan)
    }

    /// Raises a group's fence; true if it rose.
    pub(super) fn fence(&mut self, group: GroupId, epoch: Epoch) -> bool {
        let known = &mut self.groups.entry(group).or_default().known;
        let rises = epoch > known.fence;
        known.fence = known.fence.max(epoch);
        rises
    }
}
