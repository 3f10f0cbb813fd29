//! Damage: what the consumer does when words of the ring make no sense.
//!
//! Owns: the repair of head and descriptors, and the search for a record whose place is in doubt.
//! What can hurt: a process that damages the ring on purpose, to make the consumer search for ever. Walks over the
//! descriptors cost credit that only good records give back; without credit the consumer jumps to head.
//! Refuses: guessing. A record is delivered only with its index and checksum right.
//!
//! | descriptor | record | what is done |
//! |---|---|---|
//! | of this lap, committed | whole | delivered |
//! | of this lap, committed | not whole | sought at the place counted back from head; else reported, skipped |
//! | free, head is here | - | nothing there |
//! | free, head has the index and another place | - | head repaired |
//! | free, head is past here | - | closed, reported, skipped |
//! | free or not, head is outside the window | - | head counted forward from here |
//! | no sense, head is here | - | descriptor made free |
//! | no sense, head is past here | whole | descriptor repaired, delivered |
//! | no sense, head is past here | not whole | given time, then reported and skipped |

use super::{Consumer, Event, Step, Stuck};
use crate::claim::Core;
use crate::clock::mono_ns;
use crate::memory::Memory;
use crate::sync::Ordering;
use understudy_types::ring::{Cursor, Descriptor, INDEX_MASK, RingError, State};

/// Time that a producer with a damaged descriptor gets to finish its record, in nanoseconds.
const DAMAGED_WAIT_NS: u64 = 100_000_000;
/// Steps of walks that a delivered record pays for.
const CREDIT_PER_RECORD: u64 = 64;
/// Credit at the start and at most, in full walks.
const CREDIT_WALKS_MAX: u64 = 8;

/// How much searching may still be done.
#[derive(Debug)]
pub(crate) struct Recovery {
    credit: u64,
    /// The last record was given its time in vain, and no good one came since: no more waiting.
    patience_gone: bool,
}

impl Recovery {
    pub(crate) fn new(descriptors: u32) -> Self {
        Self { credit: u64::from(descriptors) * CREDIT_WALKS_MAX, patience_gone: false }
    }

    pub(crate) fn good(&mut self, descriptors: usize) {
        self.patience_gone = false;
        self.credit = (self.credit + CREDIT_PER_RECORD).min(descriptors as u64 * CREDIT_WALKS_MAX);
    }

    fn pay(&mut self, steps: u64) -> bool {
        let paid = self.credit >= steps;
        if paid {
            self.credit -= steps;
        }
        paid
    }
}

/// Finishes a release in which the last consumer died, and gives the released cursor.
pub(crate) fn finish_release(core: &Core<'_>) -> Cursor {
    let release = Cursor(core.release.load(Ordering::Acquire));
    let releasing = Cursor(core.releasing.load(Ordering::Acquire));
    let head = core.head();
    let ahead = releasing.records_since(release);
    let in_window = ahead <= head.records_since(release)
        && head.records_since(release) <= core.descriptors.len() as u64
        && releasing.units_since(release) as usize <= core.data.len();
    if ahead == 0 || !in_window {
        return release;
    }
    core.free_to(release, releasing);
    releasing
}

impl<M: Memory> Consumer<M> {
    /// Records between release and head, if head makes sense.
    fn head_in_window(&self, core: &Core<'_>, head: Cursor) -> bool {
        let records = head.records_since(self.release);
        records <= core.descriptors.len() as u64 && records >= self.read.records_since(self.release)
    }

    /// The descriptor at `read` is free: is head there too?
    pub(super) fn check_head(&mut self, core: &Core<'_>, found: Descriptor) -> Step {
        let head = core.head();
        if head == self.read {
            return Step::Idle;
        }
        // Head leaves an index only after its descriptor was reserved, so a second look tells a race from damage.
        if core.look(self.read.index()) != found {
            return Step::Again;
        }
        if head.index() == self.read.index() || !self.head_in_window(core, head) {
            return self.repair_head(core, head);
        }
        // Closed first: a producer that still remembers the right head must not fill it behind our back.
        let closed = found.with_state(State::Abandoned);
        let word = core.descriptor(self.read.index());
        if word.compare_exchange(found.0, closed.0, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Step::Again;
        }
        self.report(core, None, RingError::RecordMagic(0))
    }

    /// Counts head forward from `read` over the descriptors that make sense.
    fn repair_head(&mut self, core: &Core<'_>, wrong: Cursor) -> Step {
        let mut at = self.read;
        while at.records_since(self.release) < core.descriptors.len() as u64 {
            let found = core.look(at.index());
            if !core.plausible(found, core.lap(at.index())) {
                break;
            }
            at = at.after(found.units());
        }
        let _ = core.head.compare_exchange(wrong.0, at.0, Ordering::AcqRel, Ordering::Acquire);
        self.stats.repaired += 1;
        Step::Again
    }

    /// The place of `index`, counted back from head by the lengths in the descriptors from `index` on.
    fn place_from_head(&mut self, core: &Core<'_>, index: u64) -> Option<Cursor> {
        let head = core.head();
        if !self.head_in_window(core, head) {
            return None;
        }
        let steps = head.index().wrapping_sub(index) & INDEX_MASK;
        if steps > core.descriptors.len() as u64 || !self.recovery.pay(steps + 1) {
            return None;
        }
        let mut units: usize = 0;
        for step in 0..steps {
            let at = index.wrapping_add(step) & INDEX_MASK;
            let found = core.look(at);
            if !core.plausible(found, core.lap(at)) {
                return None;
            }
            units += found.units() as usize;
        }
        let fits = units <= core.data.len();
        fits.then(|| Cursor::new(index, head.position().wrapping_sub(units as u32)))
    }

    /// A committed descriptor whose record is not whole.
    pub(super) fn damaged_record(&mut self, core: &Core<'_>, found: Descriptor, fault: RingError) -> Step {
        if let Some(step) = self.deliver_elsewhere(core) {
            return step;
        }
        self.report(core, Some(found), fault)
    }

    /// Delivers the record at `read` from the place that head says, if it is another and the record is whole there.
    fn deliver_elsewhere(&mut self, core: &Core<'_>) -> Option<Step> {
        let place = self.place_from_head(core, self.read.index()).filter(|place| *place != self.read)?;
        let whole = self.read_whole(core, place).ok()?;
        self.stats.repaired += 1;
        self.read = place;
        Some(Step::Event(self.deliver(core, whole)))
    }

    /// A descriptor of another lap or with an impossible length.
    pub(super) fn repair_descriptor(&mut self, core: &Core<'_>, found: Descriptor, lap: u64) -> Step {
        let word = core.descriptor(self.read.index());
        if let Ok(whole) = self.read_whole(core, self.read) {
            let header = whole.header;
            let right = Descriptor::reserved(lap, header.units(), header.owner).with_state(State::Committed);
            let _ = word.compare_exchange(found.0, right.0, Ordering::AcqRel, Ordering::Acquire);
            core.advance_head(self.read, header.units());
            self.stats.repaired += 1;
            return Step::Event(self.deliver(core, whole));
        }
        let head = core.head();
        if core.look(self.read.index()) != found {
            return Step::Again;
        }
        if head.index() == self.read.index() {
            let free = Descriptor::free(lap);
            let _ = word.compare_exchange(found.0, free.0, Ordering::AcqRel, Ordering::Acquire);
            self.stats.repaired += 1;
            return Step::Again;
        }
        if !self.head_in_window(core, head) {
            return self.repair_head(core, head);
        }
        if let Some(step) = self.deliver_elsewhere(core) {
            return step;
        }
        if !self.recovery.patience_gone {
            let now_ns = mono_ns();
            let stuck = *self.stuck.get_or_insert(Stuck { since_ns: now_ns, next_check_ns: now_ns, interval_ns: 0 });
            if now_ns.saturating_sub(stuck.since_ns) < DAMAGED_WAIT_NS {
                return Step::Idle;
            }
            self.recovery.patience_gone = true;
        }
        self.report(core, None, RingError::RecordMagic(0))
    }

    /// Reports the record at `read` as lost and moves on: to the place that head says, to the end that the
    /// descriptor says, or, when neither makes sense, to head.
    fn report(&mut self, core: &Core<'_>, found: Option<Descriptor>, fault: RingError) -> Step {
        let from = self.read_absolute;
        let next_index = self.read.index().wrapping_add(1) & INDEX_MASK;
        let by_descriptor = found.map(|found| self.read.after(found.units()));
        match self.place_from_head(core, next_index).or(by_descriptor) {
            Some(next) => self.advance(next),
            None => {
                let head = core.head();
                let ahead = if self.head_in_window(core, head) { head.records_since(self.read) } else { 1 };
                // Every index of the gap ends at head; only the last one's end is ever used as a release that
                // leads to a record.
                for _ in 0..ahead.max(1) {
                    let next = Cursor::new(self.read.index().wrapping_add(1), head.position());
                    self.advance(next);
                }
            }
        }
        self.stats.damaged += self.read_absolute.wrapping_sub(from);
        Step::Event(Event::Damaged { from, to: self.read_absolute, fault })
    }
}
