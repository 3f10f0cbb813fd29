//! The store's side: publish, wait, ask for a policy.
//!
//! Owns: a producer slot of the ring, and the one mapping that all users of a ring file in one process share.
//! What can hurt: a full ring, an agent that is absent or hung, a ring that was replaced. Each is answered as
//! the account's policy says, after at most the time it says; what was dropped is marked as a gap.
//! Refuses: system calls and allocation while publishing into a ring with space.

use crate::claim::{Core, CoreError};
use crate::clock::{boot_ns, mono_ns};
use crate::completion::{Collected, Slots};
use crate::map::Mapping;
use crate::memory::{Memory, Words};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, spin};
use crate::{file, gaps, record};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use thiserror::Error;
use understudy_types::ring::{
    ACCOUNT_BYTES_MAX, ANSWER_BYTES_MAX, COMPLETION_WORDS, CompletionRef, FLAG_FENCED, FLAG_RETIRED, OnFull, Owner,
    Policy, RECORD_CLOSES_INTENT, RecordHeader, RecordKind, Status, checksum_seed, word,
};

/// The agent counts as absent when its last sign of life is older, in nanoseconds. It beats at every poll and at
/// least once a second; five seconds leave room for a loaded machine.
pub(crate) const BEAT_AGE_NS_MAX: u64 = 5_000_000_000;
/// Longest sleep between two looks at the ring, in nanoseconds: bounds what a lost wake-up costs.
const SLEEP_NS_MAX: u64 = 50_000_000;
/// Turns of the spin before a wait sleeps, at most and at least. A turn is some 40 ns, so at most 80 µs.
const SPIN_TURNS_MAX: u32 = 2000;
const SPIN_TURNS_MIN: u32 = 20;

/// One record to publish.
#[derive(Debug, Clone, Copy)]
pub struct RecordSpec<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// [`RECORD_CLOSES_INTENT`], and the upper eight bits for the operation.
    pub flags: u16,
    /// The account, at most [`ACCOUNT_BYTES_MAX`] bytes.
    pub account: &'a [u8],
    /// Opaque bytes; with the account at most [`Producer::record_bytes_max`].
    pub payload: &'a [u8],
    /// The intent that is opened, ended or closed; 0 for none.
    pub intent: u64,
    /// Wall time of the change, in nanoseconds since the epoch.
    pub captured_wall_ns: u64,
    /// Whether an answer is wanted.
    pub completion: bool,
    /// What to do when the ring is full.
    pub on_full: OnFull,
    /// How long [`OnFull::Wait`] waits, in nanoseconds.
    pub full_wait_ns: u64,
}

impl<'a> RecordSpec<'a> {
    /// An operation without answer or intent, that waits for nothing.
    #[must_use]
    pub const fn op(account: &'a [u8], payload: &'a [u8], captured_wall_ns: u64) -> Self {
        Self {
            kind: RecordKind::Op,
            flags: 0,
            account,
            payload,
            intent: 0,
            captured_wall_ns,
            completion: false,
            on_full: OnFull::GoOnAndMarkGap,
            full_wait_ns: 0,
        }
    }

    /// The same, closing `intent`.
    #[must_use]
    pub const fn closing(mut self, intent: u64) -> Self {
        self.intent = intent;
        self.flags |= RECORD_CLOSES_INTENT;
        self
    }

    /// The same, with an answer.
    #[must_use]
    pub const fn answered(mut self) -> Self {
        self.completion = true;
        self
    }
}

/// A record that is in the ring, and will be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its index (40 bits).
    pub index: u64,
    /// Where its answer will be, if one was wanted.
    pub completion: Option<CompletionRef>,
}

/// Why a record is not in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The ring is full; the record was dropped and its account marked. The store goes on.
    #[error("the ring is full; the record was dropped and its account is marked for comparison")]
    Dropped,
    /// The ring is full, and the policy says to refuse.
    #[error("the ring is full; check that the agent runs")]
    Full,
    /// The ring was full for as long as the policy waits.
    #[error("the ring stayed full for the configured time; check that the agent runs")]
    TimedOut,
    /// This node may not write, or not any longer.
    #[error("this node is fenced and may not change mail")]
    Fenced,
    /// The account name or the record is too long.
    #[error("the record has {bytes} bytes, at most {bytes_max}")]
    TooLarge {
        /// Bytes of what was too long.
        bytes: usize,
        /// Its limit.
        bytes_max: usize,
    },
    /// All completion slots are in use.
    #[error("all completion slots of the ring are in use")]
    NoCompletion,
    /// The ring is damaged here; the consumer repairs it. The account is marked.
    #[error("the ring is damaged; its account is marked for comparison")]
    Damaged,
    /// The ring was replaced: open the path again.
    #[error("the ring was replaced; it must be opened again")]
    Retired,
    /// This process is a fork of the one that opened the ring: open the path again.
    #[error("the ring belongs to the parent process; it must be opened again")]
    Forked,
}

/// Why a ring was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No such file: the agent never ran here.
    #[error("there is no ring `{0}`; start the agent")]
    Absent(PathBuf),
    /// The file is there and cannot be used.
    #[error("cannot open the ring `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said, or which rule of the header is broken.
        #[source]
        source: io::Error,
    },
    /// Every producer slot is held by a living process.
    #[error("all {0} producer slots of the ring are in use")]
    NoSlot(u32),
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The agent answered.
    Answered {
        /// What it says.
        status: Status,
        /// Its answer; zeros after its end.
        answer: [u8; ANSWER_BYTES_MAX],
    },
    /// Nothing came in time.
    TimedOut,
    /// No agent is attached, or it shows no sign of life, and the caller does not wait for one.
    Absent,
}

/// A producer of one ring in one process; for all its threads.
#[derive(Debug)]
pub struct Producer<M: Memory = Mapping> {
    memory: Arc<M>,
    owner: Owner,
    seed: u32,
    record_bytes_max: usize,
    next_intent: AtomicU64,
    completion_hint: AtomicU32,
    spin_turns: AtomicU32,
}

/// The words of the algorithm in a memory.
pub(crate) fn core_of<'a, M: Memory>(memory: &'a M) -> Core<'a> {
    let layout = memory.layout();
    let Words { control, data } = memory.words();
    Core {
        head: &control[word::HEAD],
        release: &control[word::RELEASE],
        releasing: &control[word::RELEASING],
        descriptors: &control[layout.descriptors..layout.descriptors + layout.geometry.descriptors as usize],
        data,
    }
}

/// The completion slots in a memory.
pub(crate) fn slots_of<M: Memory>(memory: &M) -> Slots<'_> {
    let layout = memory.layout();
    let count = layout.geometry.completions as usize;
    Slots { words: &memory.words().control[layout.completions..layout.completions + count * COMPLETION_WORDS] }
}

/// Rings that this process has open, so that opening one again shares its mapping and slot.
static OPEN: Mutex<Vec<(u64, u64, Weak<Producer>)>> = Mutex::new(Vec::new());

impl Producer {
    /// Opens the ring at `path`, or shares it when this process has it open.
    ///
    /// # Errors
    /// [`OpenError`]; treat any as an absent agent.
    pub fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => OpenError::Absent(path.to_owned()),
            _ => OpenError::Io { path: path.to_owned(), source },
        };
        let named = std::fs::metadata(path).map_err(io)?;
        // Not `lock`: a child that was forked while another thread held it would wait for ever.
        let mut open = OPEN.try_lock().ok();
        if let Some(open) = &mut open {
            open.retain(|(_, _, producer)| producer.strong_count() > 0);
            let same = open.iter().filter(|(device, inode, _)| (*device, *inode) == (named.dev(), named.ino()));
            if let Some(shared) = same.filter_map(|entry| entry.2.upgrade()).find(|one| !one.memory.inherited()) {
                return Ok(shared);
            }
        }
        let (mapping, header) = file::open(path).map_err(io)?;
        let identity = mapping.file().metadata().map_err(io)?;
        let slots = header.geometry.producers;
        let hint = mapping.words().control[word::PRODUCER_HINT].fetch_add(1, Ordering::Relaxed);
        let slot = (0..slots)
            .map(|step| (hint.wrapping_add(u64::from(step)) % u64::from(slots)) as u16)
            .find(|slot| mapping.take_slot(*slot))
            .ok_or(OpenError::NoSlot(slots))?;
        let producer = Arc::new(Self::new(Arc::new(mapping), header.generation, slot, std::process::id()));
        if let Some(open) = &mut open {
            open.push((identity.dev(), identity.ino(), Arc::downgrade(&producer)));
        }
        Ok(producer)
    }

    /// Whether `path` still names this ring. A system call; ask at the start of a session.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        match (std::fs::metadata(path), self.memory.file().metadata()) {
            (Ok(named), Ok(mine)) => (named.dev(), named.ino()) == (mine.dev(), mine.ino()),
            _ => false,
        }
    }
}

impl<M: Memory> Producer<M> {
    /// A producer of slot `slot`, which the caller holds.
    #[must_use]
    pub fn new(memory: Arc<M>, generation: u64, slot: u16, pid: u32) -> Self {
        let layout = *memory.layout();
        let entry = &memory.words().control[layout.producers + usize::from(slot)];
        // The slot is ours alone. Before anything is reserved with it, its incarnation rises, so that what a
        // dead predecessor left behind does not look alive.
        let incarnation = (entry.load(Ordering::Acquire) as u32).wrapping_add(1);
        entry.store(u64::from(incarnation) | u64::from(pid) << 32, Ordering::SeqCst);
        Self {
            owner: Owner { slot, incarnation },
            seed: checksum_seed(generation),
            record_bytes_max: layout.geometry.record_bytes_max(),
            next_intent: AtomicU64::new(1),
            completion_hint: AtomicU32::new(u32::from(slot)),
            spin_turns: AtomicU32::new(SPIN_TURNS_MAX / 4),
            memory,
        }
    }

    /// Who this producer is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Bytes of the largest record, with its header of 64 bytes, account and payload each padded to 8.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }

    fn control(&self, at: usize) -> &AtomicU64 {
        &self.memory.words().control[at]
    }

    /// The generation of the agent's rules; when it differs from a policy's, ask again.
    #[must_use]
    pub fn policy_generation(&self) -> u32 {
        self.control(word::POLICY_GENERATION).load(Ordering::Acquire) as u32
    }

    /// Whether an agent is attached and showed a sign of life in the last five seconds.
    #[must_use]
    pub fn agent_alive(&self) -> bool {
        let beat = self.control(word::CONSUMER_BEAT).load(Ordering::Relaxed);
        self.control(word::CONSUMER_ATTACHED).load(Ordering::Acquire) == 1
            && mono_ns().saturating_sub(beat) < BEAT_AGE_NS_MAX
    }

    /// The policy for accounts whose question is not answered in time.
    #[must_use]
    pub fn default_policy(&self) -> Policy {
        let mut bytes = [0; Policy::BYTES];
        for (step, chunk) in bytes.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&self.control(word::DEFAULT_POLICY + step).load(Ordering::Acquire).to_le_bytes());
        }
        Policy::decode(&bytes).unwrap_or_default()
    }

    /// Whether the time until which this node may change mail has passed.
    fn expired(&self) -> bool {
        let until_ns = self.control(word::WRITE_UNTIL).load(Ordering::Acquire);
        until_ns != 0 && boot_ns() >= until_ns
    }

    /// Whether this node may not change mail now: to refuse a change early. A ring that was replaced says no; the
    /// publication finds out.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        let flags = self.control(word::FLAGS).load(Ordering::Acquire);
        flags & FLAG_RETIRED == 0 && (flags & FLAG_FENCED != 0 || self.expired())
    }

    /// Records that something of this account was not captured.
    pub fn mark_gap(&self, account: &[u8]) {
        gaps::mark(self.memory.words(), self.memory.layout(), account);
        self.wake_consumer();
    }

    /// Publishes. Ok means: the record will be delivered, also if this process dies now.
    ///
    /// # Errors
    /// [`PublishError`]; an operation that was not published has its account marked as a gap, unless the ring
    /// is no longer this process's ([`PublishError::Retired`], [`PublishError::Forked`]): open again, then retry.
    #[inline]
    pub fn publish(&self, spec: &RecordSpec<'_>) -> Result<Published, PublishError> {
        if self.memory.inherited() {
            return Err(PublishError::Forked);
        }
        let flags = self.control(word::FLAGS).load(Ordering::Acquire);
        if flags & FLAG_RETIRED != 0 {
            return Err(PublishError::Retired);
        }
        let changes = matches!(spec.kind, RecordKind::Op | RecordKind::Intent);
        if changes && (flags & FLAG_FENCED != 0 || self.expired()) {
            return Err(self.lose(spec, PublishError::Fenced));
        }
        if spec.account.len() > ACCOUNT_BYTES_MAX {
            let error = PublishError::TooLarge { bytes: spec.account.len(), bytes_max: ACCOUNT_BYTES_MAX };
            return Err(self.lose(spec, error));
        }
        // First alone, so that the sum cannot overflow.
        let bytes = if spec.payload.len() > self.record_bytes_max {
            spec.payload.len()
        } else {
            RecordHeader::record_bytes(spec.account.len(), spec.payload.len())
        };
        if bytes > self.record_bytes_max {
            return Err(self.lose(spec, PublishError::TooLarge { bytes, bytes_max: self.record_bytes_max }));
        }
        let completion = if spec.completion { Some(self.claim_completion(spec)?) } else { None };
        let core = core_of(&*self.memory);
        let units = (bytes / 8) as u32;
        let claimed = match core.claim(units, self.owner) {
            Err(CoreError::Full) => self.claim_when_full(spec, &core, units),
            Err(CoreError::Damaged) => Err(PublishError::Damaged),
            Ok(claim) => Ok(claim),
        };
        let published = claimed.and_then(|claim| {
            let header = RecordHeader {
                kind: spec.kind,
                flags: spec.flags,
                index: claim.at.index(),
                account_bytes: spec.account.len() as u32,
                payload_bytes: spec.payload.len() as u32,
                intent: spec.intent,
                captured_wall_ns: spec.captured_wall_ns,
                completion,
                owner: self.owner,
            };
            record::write(&core, claim.at.position(), &header, self.seed, spec.account, spec.payload);
            core.commit(&claim).map_err(|_| PublishError::Damaged)?;
            Ok(Published { index: claim.at.index(), completion })
        });
        match published {
            Ok(published) => {
                self.wake_consumer();
                Ok(published)
            }
            Err(error) => {
                if let Some(at) = completion {
                    let _ = slots_of(&*self.memory).cancel(at);
                }
                Err(self.lose(spec, error))
            }
        }
    }

    fn claim_completion(&self, spec: &RecordSpec<'_>) -> Result<CompletionRef, PublishError> {
        let hint = self.completion_hint.fetch_add(1, Ordering::Relaxed);
        match slots_of(&*self.memory).claim(self.owner, hint) {
            Some(at) => Ok(at),
            None => Err(self.lose(spec, PublishError::NoCompletion)),
        }
    }

    /// Marks the account when an operation, or the intent before one, did not get into the ring.
    #[cold]
    fn lose(&self, spec: &RecordSpec<'_>, error: PublishError) -> PublishError {
        let going_on = matches!(error, PublishError::Dropped | PublishError::Damaged | PublishError::NoCompletion);
        // A refused intent stops the change before the store commits it; there is nothing to compare then.
        if matches!(spec.kind, RecordKind::Op | RecordKind::Gap) || (spec.kind == RecordKind::Intent && going_on) {
            self.mark_gap(spec.account);
        }
        error
    }

    #[cold]
    fn claim_when_full(
        &self,
        spec: &RecordSpec<'_>,
        core: &Core<'_>,
        units: u32,
    ) -> Result<crate::claim::Claim, PublishError> {
        match spec.on_full {
            OnFull::GoOnAndMarkGap => return Err(PublishError::Dropped),
            OnFull::Refuse => return Err(PublishError::Full),
            OnFull::Wait => {}
        }
        let deadline_ns = mono_ns().saturating_add(spec.full_wait_ns);
        loop {
            // The right to change mail may have ended while this waited.
            if matches!(spec.kind, RecordKind::Op | RecordKind::Intent) && self.is_fenced() {
                return Err(PublishError::Fenced);
            }
            let seen = self.control(word::SPACE_FUTEX).load(Ordering::Acquire) as u32;
            self.control(word::SPACE_WANTED).store(1, Ordering::SeqCst);
            // SYNC POINT space: pairs with the fence in `Consumer::release`. Either the consumer sees the wish,
            // or this claim sees the space.
            fence(Ordering::SeqCst);
            match core.claim(units, self.owner) {
                Ok(claim) => return Ok(claim),
                Err(CoreError::Damaged) => return Err(PublishError::Damaged),
                Err(CoreError::Full) => {}
            }
            let left_ns = deadline_ns.saturating_sub(mono_ns());
            if left_ns == 0 {
                return Err(PublishError::TimedOut);
            }
            if self.control(word::FLAGS).load(Ordering::Acquire) & FLAG_RETIRED != 0 {
                return Err(PublishError::Retired);
            }
            self.memory.futex_wait(word::SPACE_FUTEX, seen, left_ns.min(SLEEP_NS_MAX));
        }
    }

    #[inline]
    fn wake_consumer(&self) {
        let sleeps = self.control(word::CONSUMER_SLEEPS);
        // SYNC POINT sleep: the second half of "commit, then look whether the consumer sleeps". Both sides are
        // SeqCst: either this load sees the sleeper, or the sleeper's last look sees the commit.
        if sleeps.load(Ordering::SeqCst) != 0 && sleeps.swap(0, Ordering::SeqCst) != 0 {
            self.memory.futex_wake(word::CONSUMER_SLEEPS);
        }
    }

    /// Waits for the answer to a published record, at most `timeout_ns`. Afterwards the slot is free again,
    /// whatever the outcome.
    ///
    /// `when_absent`: without a living agent, [`OnFull::Wait`] waits all the same; else the outcome is
    /// [`Outcome::Absent`] at once. The record stays in the ring and is delivered to the next agent.
    ///
    /// When the time until which this node may change mail has passed at the end, the outcome is
    /// [`Status::Fenced`], whatever else it would be but a refusal: another node may be active by then, and its users
    /// must not be told that a change is made which that node may not have.
    pub fn wait(&self, at: CompletionRef, timeout_ns: u64, when_absent: OnFull) -> Outcome {
        let outcome = self.wait_answer(at, timeout_ns, when_absent);
        let lasting = match outcome {
            Outcome::Answered { status, .. } => matches!(status, Status::Fenced | Status::Refused | Status::Policy),
            Outcome::TimedOut | Outcome::Absent => false,
        };
        if lasting || !self.expired() {
            return outcome;
        }
        Outcome::Answered { status: Status::Fenced, answer: [0; ANSWER_BYTES_MAX] }
    }

    fn wait_answer(&self, at: CompletionRef, timeout_ns: u64, when_absent: OnFull) -> Outcome {
        let slots = slots_of(&*self.memory);
        let spin_turns = self.spin_turns.load(Ordering::Relaxed);
        for turn in 0..spin_turns {
            if let Some(outcome) = Self::outcome(slots.collect(at)) {
                if turn > spin_turns / 2 {
                    self.spin_turns.store((spin_turns * 2).min(SPIN_TURNS_MAX), Ordering::Relaxed);
                }
                return outcome;
            }
            spin();
        }
        self.spin_turns.store((spin_turns / 2).max(SPIN_TURNS_MIN), Ordering::Relaxed);
        let deadline_ns = mono_ns().saturating_add(timeout_ns);
        let futex = self.memory.layout().completions + at.slot as usize * COMPLETION_WORDS;
        loop {
            let seen = match slots.collect(at) {
                Collected::Pending(seen) => seen,
                other => return Self::outcome(other).unwrap_or(Outcome::TimedOut),
            };
            let left_ns = deadline_ns.saturating_sub(mono_ns());
            let absent = when_absent != OnFull::Wait && !self.agent_alive();
            if left_ns == 0 || absent {
                let late =
                    slots.cancel(at).map(|answer| Outcome::Answered { status: answer.status, answer: answer.bytes });
                return late.unwrap_or(if absent { Outcome::Absent } else { Outcome::TimedOut });
            }
            // Longer than for space: a missed wake cannot happen here (the futex word itself changes), only the
            // agent's absence must be noticed.
            self.memory.futex_wait(futex, seen, left_ns.min(10 * SLEEP_NS_MAX));
        }
    }

    fn outcome(collected: Collected) -> Option<Outcome> {
        match collected {
            Collected::Answer(answer) => Some(Outcome::Answered { status: answer.status, answer: answer.bytes }),
            Collected::Pending(_) => None,
            Collected::Gone => Some(Outcome::TimedOut),
        }
    }

    /// Gives up an answer that was asked for.
    pub fn forget(&self, at: CompletionRef) {
        let _ = slots_of(&*self.memory).cancel(at);
    }

    /// Asks for the policy of `account`, at most `timeout_ns`; the default policy when no answer comes.
    /// Its generation is then never the ring's, so that it is not taken for an answer.
    ///
    /// # Errors
    /// [`PublishError::Retired`]: open the ring again.
    pub fn account_open(&self, account: &[u8], captured_wall_ns: u64, timeout_ns: u64) -> Result<Policy, PublishError> {
        if !self.agent_alive() {
            return Ok(self.assumed_policy());
        }
        let spec = RecordSpec {
            kind: RecordKind::AccountOpen,
            on_full: OnFull::Refuse,
            ..RecordSpec::op(account, &[], captured_wall_ns).answered()
        };
        let at = match self.publish(&spec) {
            Ok(Published { completion: Some(at), .. }) => at,
            Err(PublishError::Retired) => return Err(PublishError::Retired),
            Err(PublishError::Forked) => return Err(PublishError::Forked),
            _ => return Ok(self.assumed_policy()),
        };
        Ok(match self.wait(at, timeout_ns, OnFull::Refuse) {
            Outcome::Answered { status: Status::Policy, answer } => {
                Policy::decode(&answer).unwrap_or_else(|_| self.assumed_policy())
            }
            _ => self.assumed_policy(),
        })
    }

    fn assumed_policy(&self) -> Policy {
        Policy { generation: self.policy_generation().wrapping_sub(1), ..self.default_policy() }
    }

    /// Says that a change of `account` is about to be committed; `what` names the mailbox. Gives the intent's id.
    ///
    /// # Errors
    /// [`PublishError`], before anything was changed.
    pub fn intent_begin(
        &self,
        account: &[u8],
        what: &[u8],
        wall_ns: u64,
        on_full: OnFull,
        full_wait_ns: u64,
    ) -> Result<u64, PublishError> {
        let intent = self.next_intent.fetch_add(1, Ordering::Relaxed);
        let op = RecordSpec::op(account, what, wall_ns);
        self.publish(&RecordSpec { kind: RecordKind::Intent, intent, on_full, full_wait_ns, ..op })?;
        Ok(intent)
    }

    /// Says that the change did not happen.
    ///
    /// # Errors
    /// [`PublishError`]; the intent then stays open until this process ends, and the account is compared.
    pub fn intent_end(&self, account: &[u8], intent: u64, wall_ns: u64) -> Result<(), PublishError> {
        let op = RecordSpec::op(account, &[], wall_ns);
        let spec = RecordSpec { kind: RecordKind::IntentEnd, intent, on_full: OnFull::Refuse, ..op };
        self.publish(&spec).map(|_| ())
    }
}
