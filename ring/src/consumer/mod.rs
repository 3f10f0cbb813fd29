//! The agent's side: deliver records in order, answer them, release their space.
//!
//! Owns: two cursors. `read` is private and moves with every delivery; `release` is published and moves when the
//! caller says that its records are durable elsewhere. A new consumer starts at `release`.
//! What can hurt: everything in the mapping. What was copied out and checked is delivered, what is not whole is
//! waited for while its producer lives, skipped when it is dead, and reported when it is damaged (`recover`).
//! Refuses: blocking in [`Consumer::poll`], and looking into payloads.

mod events;
mod handles;
mod recover;

pub use crate::intents::OrphanedIntent;
pub use events::{ConsumerStats, Event, Record};
pub use handles::{Completer, Waker, WriteLease};

use crate::claim::Core;
use crate::clock::mono_ns;
use crate::file::{self, AttachError, ConsumerOptions};
use crate::gaps;
use crate::intents::Intents;
use crate::map::Mapping;
use crate::memory::Memory;
use crate::producer::{core_of, slots_of};
use crate::record::{self, Whole};
use crate::sync::{AtomicU64, Ordering, fence, spin};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use understudy_types::ring::{
    CompletionRef, Cursor, Descriptor, FLAG_FENCED, INDEX_BITS, INDEX_MASK, Owner, Policy, RECORD_CLOSES_INTENT,
    RecordKind, State, Status, checksum_seed, word,
};

/// Steps of one poll over records that are skipped, before the caller gets the processor back.
const POLL_STEPS_MAX: u32 = 1024;
/// A reserved record is looked into after this time, in nanoseconds: filling one takes less than a microsecond
/// unless its producer was descheduled.
const STUCK_CHECK_NS: u64 = 1_000_000;
/// Longest time between two looks at a stuck producer, in nanoseconds.
const STUCK_CHECK_NS_MAX: u64 = 50_000_000;
/// Time between two looks at the producers of open intents, in nanoseconds.
const INTENT_CHECK_NS: u64 = 100_000_000;
/// Time between two looks for completion slots of dead askers, in nanoseconds.
const REAP_NS: u64 = 1_000_000_000;
/// Longest sleep, in nanoseconds; the sign of life is given in between.
const SLEEP_NS_MAX: u64 = 500_000_000;
/// Turns of the spin before a wait sleeps: some 10 µs, several times the gap between records under load.
const SPIN_TURNS: u32 = 256;

/// A record that is not whole yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stuck {
    pub(crate) since_ns: u64,
    next_check_ns: u64,
    interval_ns: u64,
}

/// What one look at the ring led to.
pub(crate) enum Step {
    Event(Event),
    /// Something was skipped or repaired.
    Again,
    /// Nothing to do before somebody publishes or some time passes.
    Idle,
}

/// The one consumer of a ring.
#[derive(Debug)]
pub struct Consumer<M: Memory = Mapping> {
    pub(crate) memory: Arc<M>,
    /// Held, never read.
    _lock: Option<File>,
    generation: u64,
    pub(crate) seed: u32,
    pub(crate) record_bytes_max: usize,
    pub(crate) read: Cursor,
    pub(crate) read_absolute: u64,
    pub(crate) release: Cursor,
    release_absolute: u64,
    /// End position of each record from release to read.
    ends: VecDeque<u32>,
    scratch: Vec<u8>,
    pub(crate) stuck: Option<Stuck>,
    intents: Intents,
    /// Dead producers with open intents, and the absolute index that must be read before they are orphaned.
    dead: HashMap<Owner, u64>,
    queue: VecDeque<Event>,
    next_intent_check_ns: u64,
    next_reap_ns: u64,
    gaps_again: bool,
    pub(crate) recovery: recover::Recovery,
    pub(crate) stats: ConsumerStats,
}

impl Consumer {
    /// Takes the ring at `path` over where the last agent left it, or makes one. `wall_ns` is noted in a new file.
    ///
    /// # Errors
    /// [`AttachError`]; [`AttachError::Busy`] when another agent is attached.
    pub fn attach(path: &Path, options: &ConsumerOptions, wall_ns: u64) -> Result<Self, AttachError> {
        let attached = file::attach(path, options, wall_ns)?;
        let consumer =
            Self::new(Arc::new(attached.mapping), attached.header.generation, Some(attached.lock), std::process::id());
        consumer.set_default_policy(&options.default_policy);
        Ok(consumer)
    }
}

impl<M: Memory> Consumer<M> {
    /// A consumer of this memory. The caller sees to it that there is no other.
    #[must_use]
    pub fn new(memory: Arc<M>, generation: u64, lock: Option<File>, pid: u32) -> Self {
        let layout = *memory.layout();
        let control = memory.words().control;
        let core = core_of(&*memory);
        let release = recover::finish_release(&core);
        // The shared word has 40 bits of the index. The 64 of the word beside it may be from just before.
        let noted = control[word::RELEASE_ABSOLUTE].load(Ordering::Acquire);
        let ahead = release.index().wrapping_sub(noted) & INDEX_MASK;
        let release_absolute = if ahead < 1 << (INDEX_BITS - 1) {
            noted.wrapping_add(ahead)
        } else {
            noted.wrapping_sub((1 << INDEX_BITS) - ahead)
        };
        slots_of(&*memory).reset_unfinished();
        let intents = Intents::new(memory.words(), &layout);
        control[word::CONSUMER_PID].store(u64::from(pid), Ordering::Relaxed);
        control[word::CONSUMER_SLEEPS].store(0, Ordering::SeqCst);
        control[word::CONSUMER_BEAT].store(mono_ns(), Ordering::Relaxed);
        control[word::CONSUMER_ATTACHED].store(1, Ordering::Release);
        Self {
            _lock: lock,
            generation,
            seed: checksum_seed(generation),
            record_bytes_max: layout.geometry.record_bytes_max(),
            read: release,
            read_absolute: release_absolute,
            release,
            release_absolute,
            ends: VecDeque::new(),
            scratch: Vec::new(),
            stuck: None,
            intents,
            dead: HashMap::new(),
            queue: VecDeque::new(),
            next_intent_check_ns: 0,
            next_reap_ns: 0,
            gaps_again: true,
            recovery: recover::Recovery::new(layout.geometry.descriptors),
            stats: ConsumerStats::default(),
            memory,
        }
    }

    /// Random number of this ring file. (generation, index) names a record for ever.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Index of the next record that will be delivered.
    #[must_use]
    pub fn read_index(&self) -> u64 {
        self.read_absolute
    }

    /// Index of the first record that is not released.
    #[must_use]
    pub fn release_index(&self) -> u64 {
        self.release_absolute
    }

    /// Gap buckets of the accounts with a change under way: an intent is open that was neither closed nor orphaned.
    #[must_use]
    pub fn open_intents(&self) -> Vec<u16> {
        self.intents.buckets()
    }

    /// Counters since this consumer attached, and how full the ring is.
    #[must_use]
    pub fn stats(&self) -> ConsumerStats {
        let core = core_of(&*self.memory);
        let head = core.head();
        let mut stats = self.stats;
        stats.used_bytes = u64::from(head.units_since(self.release)) * 8;
        stats.used_records = head.records_since(self.release);
        stats.capacity_bytes = core.data.len() as u64 * 8;
        stats.dropped_total = self.control(word::DROPPED_TOTAL).load(Ordering::Relaxed);
        stats.intents_open = self.intents.len() as u64;
        stats
    }

    pub(crate) fn control(&self, at: usize) -> &AtomicU64 {
        &self.memory.words().control[at]
    }

    /// The next event, in order; `None` when there is nothing to do now. Never blocks.
    pub fn poll(&mut self) -> Option<Event> {
        for _ in 0..POLL_STEPS_MAX {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            let memory = Arc::clone(&self.memory);
            match self.step(&core_of(&*memory)) {
                Step::Event(event) => {
                    // Looking at the clock costs as much as a small record, so only now and then.
                    if self.read_absolute & 0x3F == 0 {
                        self.beat(mono_ns());
                    }
                    return Some(event);
                }
                Step::Again => {}
                Step::Idle => {
                    let now_ns = mono_ns();
                    self.beat(now_ns);
                    self.look_after_the_dead(now_ns);
                    return self.queue.pop_front();
                }
            }
        }
        None
    }

    fn beat(&self, now_ns: u64) {
        self.control(word::CONSUMER_BEAT).store(now_ns, Ordering::Relaxed);
        // Only the consumer writes release; any other value is damage.
        let release = self.control(word::RELEASE);
        if release.load(Ordering::Relaxed) != self.release.0 {
            release.store(self.release.0, Ordering::Release);
        }
    }

    fn step(&mut self, core: &Core<'_>) -> Step {
        if self.read.records_since(self.release) >= core.descriptors.len() as u64 {
            return Step::Idle;
        }
        let found = core.look(self.read.index());
        let lap = core.lap(self.read.index());
        if found == Descriptor::free(lap) {
            return self.check_head(core, found);
        }
        if !core.plausible(found, lap) {
            return self.repair_descriptor(core, found, lap);
        }
        match found.state() {
            State::Committed => match self.read_whole(core, self.read) {
                Ok(whole) => {
                    if whole.header.units() != found.units() {
                        self.stats.repaired += 1;
                    }
                    Step::Event(self.deliver(core, whole))
                }
                Err(fault) => self.damaged_record(core, found, fault),
            },
            State::Reserved => self.reserved(core, found),
            // Abandoned by a consumer before this one, or damaged. Free is not plausible.
            State::Abandoned | State::Free => match self.read_whole(core, self.read) {
                Ok(whole) => Step::Event(self.deliver(core, whole)),
                Err(_) => Step::Event(self.skip_abandoned(found)),
            },
        }
    }

    pub(crate) fn read_whole(
        &mut self,
        core: &Core<'_>,
        at: Cursor,
    ) -> Result<Whole, understudy_types::ring::RingError> {
        record::read(core, at, self.seed, self.record_bytes_max, &mut self.scratch)
    }

    /// A record in the making: wait while its producer lives.
    fn reserved(&mut self, core: &Core<'_>, found: Descriptor) -> Step {
        let now_ns = mono_ns();
        let Some(stuck) = &mut self.stuck else {
            self.stuck =
                Some(Stuck { since_ns: now_ns, next_check_ns: now_ns + STUCK_CHECK_NS, interval_ns: STUCK_CHECK_NS });
            return Step::Idle;
        };
        if now_ns < stuck.next_check_ns {
            return Step::Idle;
        }
        stuck.interval_ns = (stuck.interval_ns * 2).min(STUCK_CHECK_NS_MAX);
        stuck.next_check_ns = now_ns + stuck.interval_ns;
        let stuck_ns = now_ns.saturating_sub(stuck.since_ns);
        if self.alive(found.slot(), found.short_incarnation()) {
            self.stats.stuck_ns_max = self.stats.stuck_ns_max.max(stuck_ns);
            return Step::Idle;
        }
        // It may have committed between the first look and its death.
        if core.look(self.read.index()) != found {
            return Step::Again;
        }
        match self.read_whole(core, self.read) {
            Ok(whole) => {
                core.advance_head(self.read, found.units());
                self.stats.rescued += 1;
                Step::Event(self.deliver(core, whole))
            }
            Err(_) if core.abandon(self.read, found) => Step::Event(self.skip_abandoned(found)),
            Err(_) => Step::Again,
        }
    }

    /// Whether this incarnation of a producer slot lives.
    fn alive(&self, slot: u16, short_incarnation: u32) -> bool {
        if u32::from(slot) >= self.memory.layout().geometry.producers || !self.memory.slot_held(slot) {
            return false;
        }
        // After the lock: a new holder raises the incarnation before it reserves anything.
        let entry = self.control(self.memory.layout().producers + usize::from(slot)).load(Ordering::Acquire);
        Owner { slot, incarnation: entry as u32 }.short_incarnation() == short_incarnation
    }

    fn skip_abandoned(&mut self, found: Descriptor) -> Event {
        self.stats.abandoned += 1;
        let event = Event::Abandoned { index: self.read_absolute, producer_slot: found.slot() };
        self.advance(self.read.after(found.units()));
        event
    }

    /// Moves `read` to `next`, one record on.
    pub(crate) fn advance(&mut self, next: Cursor) {
        self.ends.push_back(next.position());
        self.read = next;
        self.read_absolute = self.read_absolute.wrapping_add(1);
        self.stuck = None;
    }

    /// Delivers the record that was read into the scratch buffer.
    pub(crate) fn deliver(&mut self, core: &Core<'_>, whole: Whole) -> Event {
        let header = whole.header;
        let account = self.scratch[..header.account_bytes as usize].to_vec();
        let payload = self.scratch[whole.payload_at..whole.payload_at + header.payload_bytes as usize].to_vec();
        let record = Record {
            index: self.read_absolute,
            kind: header.kind,
            flags: header.flags,
            account,
            payload,
            intent: header.intent,
            completion: header.completion,
            captured_wall_ns: header.captured_wall_ns,
            producer: header.owner,
        };
        let layout = *self.memory.layout();
        let words = self.memory.words();
        let closes = header.kind == RecordKind::IntentEnd
            || (header.flags & RECORD_CLOSES_INTENT != 0 && header.kind != RecordKind::Intent);
        if header.kind == RecordKind::Intent {
            let orphan =
                self.intents.begin(words, &layout, header.owner, header.intent, &record.account, &record.payload);
            if let Some(orphan) = orphan {
                gaps::mark_pending(self.memory.words(), &layout, orphan.bucket);
                self.queue.push_back(Event::Orphaned(orphan));
            }
        } else if closes {
            self.intents.end(words, &layout, header.owner, header.intent);
        }
        self.stats.delivered += 1;
        self.recovery.good(core.descriptors.len());
        self.advance(self.read.after(header.units()));
        Event::Record(record)
    }

    /// Intents and completion slots of dead producers.
    fn look_after_the_dead(&mut self, now_ns: u64) {
        if now_ns >= self.next_intent_check_ns {
            self.next_intent_check_ns = now_ns + INTENT_CHECK_NS;
            let owners: Vec<Owner> = self.intents.owners().filter(|owner| !self.dead.contains_key(owner)).collect();
            for owner in owners {
                if !self.alive_fully(owner) {
                    // Head is read after the death was seen, so all its records are before it. A senseless head
                    // must not put it off for ever.
                    let ahead = core_of(&*self.memory).head().records_since(self.read);
                    let ahead = if ahead <= u64::from(self.memory.layout().geometry.descriptors) { ahead } else { 0 };
                    self.dead.insert(owner, self.read_absolute.wrapping_add(ahead));
                }
            }
        }
        let ready: Vec<Owner> =
            self.dead.iter().filter(|(_, index)| self.read_absolute >= **index).map(|(owner, _)| *owner).collect();
        for owner in ready {
            self.dead.remove(&owner);
            let layout = *self.memory.layout();
            for orphan in self.intents.orphan(self.memory.words(), &layout, owner) {
                // Also as a gap: an agent that dies before it acted on the event finds it there again.
                gaps::mark_pending(self.memory.words(), &layout, orphan.bucket);
                self.stats.orphaned += 1;
                self.queue.push_back(Event::Orphaned(orphan));
            }
        }
        if now_ns >= self.next_reap_ns {
            self.next_reap_ns = now_ns + REAP_NS;
            let mut known = HashMap::new();
            let reaped = slots_of(&*self.memory).reap(|slot, incarnation| {
                *known.entry((slot, incarnation)).or_insert_with(|| self.alive(slot, incarnation))
            });
            self.stats.completions_reaped += reaped as u64;
        }
    }

    fn alive_fully(&self, owner: Owner) -> bool {
        if !self.alive(owner.slot, owner.short_incarnation()) {
            return false;
        }
        let entry = self.control(self.memory.layout().producers + usize::from(owner.slot)).load(Ordering::Acquire);
        entry as u32 == owner.incarnation
    }

    /// Gives the space of all records before `up_to_index` back. Call it once they are durable elsewhere.
    pub fn release(&mut self, up_to_index: u64) {
        let count = up_to_index.saturating_sub(self.release_absolute).min(self.ends.len() as u64);
        if count == 0 {
            return;
        }
        // At most the length of `ends`.
        let Some(position) = self.ends.drain(..count as usize).next_back() else { return };
        let to = Cursor::new(self.release.index().wrapping_add(count), position);
        core_of(&*self.memory).free_to(self.release, to);
        self.release = to;
        self.release_absolute = self.release_absolute.wrapping_add(count);
        self.control(word::RELEASE_ABSOLUTE).store(self.release_absolute, Ordering::Release);
        // SYNC POINT space: pairs with the fence of a producer that waits for space.
        fence(Ordering::SeqCst);
        if self.control(word::SPACE_WANTED).swap(0, Ordering::SeqCst) != 0 {
            self.control(word::SPACE_FUTEX).fetch_add(1, Ordering::SeqCst);
            self.memory.futex_wake(word::SPACE_FUTEX);
        }
    }

    /// Whether [`Consumer::poll`] has something to do.
    fn ready(&self) -> bool {
        let core = core_of(&*self.memory);
        let full = self.read.records_since(self.release) >= core.descriptors.len() as u64;
        let found = core.look(self.read.index());
        !self.queue.is_empty()
            || (!full && self.stuck.is_none() && found != Descriptor::free(core.lap(self.read.index())))
            || (self.stuck.is_some() && found.state() == State::Committed)
            || gaps::fresh(self.memory.words())
    }

    /// Sleeps until there is something to poll or to take, or [`Waker::wake`] is called; at most `timeout_ns`, and
    /// at most half a second. May return for no reason. Gives whether there is something.
    pub fn wait(&mut self, timeout_ns: u64) -> bool {
        for _ in 0..SPIN_TURNS {
            if self.ready() {
                return true;
            }
            spin();
        }
        self.beat(mono_ns());
        let limit_ns = if self.stuck.is_some() { STUCK_CHECK_NS } else { SLEEP_NS_MAX };
        self.control(word::CONSUMER_SLEEPS).store(1, Ordering::SeqCst);
        // SYNC POINT sleep: "say that I sleep, then look".
        fence(Ordering::SeqCst);
        if !self.ready() {
            self.memory.futex_wait(word::CONSUMER_SLEEPS, 1, timeout_ns.min(limit_ns));
        }
        self.control(word::CONSUMER_SLEEPS).store(0, Ordering::SeqCst);
        self.beat(mono_ns());
        self.ready()
    }

    /// A handle that answers records, for any thread.
    #[must_use]
    pub fn completer(&self) -> Completer<M> {
        Completer { memory: Arc::clone(&self.memory) }
    }

    /// A handle on the time until which this node may change mail, for any thread.
    #[must_use]
    pub fn write_lease(&self) -> WriteLease<M> {
        WriteLease { memory: Arc::clone(&self.memory) }
    }

    /// A handle that ends [`Consumer::wait`], for any thread.
    #[must_use]
    pub fn waker(&self) -> Waker<M> {
        Waker { memory: Arc::clone(&self.memory) }
    }

    /// Answers a record. `false` when its asker no longer waits, or the answer has more than 32 bytes.
    pub fn complete(&self, at: CompletionRef, status: Status, answer: &[u8]) -> bool {
        self.completer().complete(at, status, answer)
    }

    /// Answers an `AccountOpen`. The policy's generation is set to the ring's.
    pub fn complete_policy(&self, at: CompletionRef, policy: &Policy) -> bool {
        let policy =
            Policy { generation: self.control(word::POLICY_GENERATION).load(Ordering::Acquire) as u32, ..*policy };
        self.complete(at, Status::Policy, &policy.encode())
    }

    /// What holds for accounts whose question is not answered in time.
    pub fn set_default_policy(&self, policy: &Policy) {
        for (step, chunk) in policy.encode().chunks_exact(8).enumerate() {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            self.control(word::DEFAULT_POLICY + step).store(u64::from_le_bytes(eight), Ordering::Release);
        }
    }

    /// Tells producers that the rules changed; they ask again. Gives the new generation.
    pub fn bump_policy_generation(&self) -> u32 {
        (self.control(word::POLICY_GENERATION).fetch_add(1, Ordering::AcqRel) as u32).wrapping_add(1)
    }

    /// Refuses (or takes again) the publication of operations and intents.
    pub fn set_fenced(&self, fenced: bool) {
        let flags = self.control(word::FLAGS);
        if fenced {
            flags.fetch_or(FLAG_FENCED, Ordering::SeqCst);
        } else {
            flags.fetch_and(!FLAG_FENCED, Ordering::SeqCst);
        }
    }

    /// Buckets of accounts of which something was dropped since the last call; the first call also gives those
    /// that an agent before this one took and did not finish. Compare all accounts whose
    /// [`crate::gap_bucket`] is among them, then call [`Consumer::gaps_done`].
    pub fn take_gaps(&mut self) -> Vec<u16> {
        if !self.gaps_again && !gaps::fresh(self.memory.words()) {
            return Vec::new();
        }
        let again = std::mem::take(&mut self.gaps_again);
        gaps::take(self.memory.words(), self.memory.layout(), again)
    }

    /// These buckets were compared, or their comparison is durably scheduled.
    pub fn gaps_done(&self, buckets: &[u16]) {
        gaps::done(self.memory.words(), self.memory.layout(), buckets);
    }
}

impl<M: Memory> Drop for Consumer<M> {
    fn drop(&mut self) {
        self.control(word::CONSUMER_ATTACHED).store(0, Ordering::Release);
    }
}
