//! One group's replay: reads durable frames after the cursor, sorts them by account, applies them, moves the cursor.
//!
//! Owns: the group's applied position. What can hurt: the store committed and the cursor did not; everything after
//! the cursor is applied again, so each account's coming removals are foreseen before its operations are applied.
//! Refuses: a position that goes back, and advancing past an operation that is neither applied nor parked.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use understudy_types::id::{GroupId, Sequence};
use understudy_types::op::Op;

use super::brake::{Brake, Trip};
use super::cursor::{CursorError, Remember, Update};
use super::filter::Filter;
use super::hold::Shelf;
use super::live::Deaths;
use super::orders::Orders;
use super::park::{Lot, Parked, Reason};
use crate::blob::cache::Bodies;
use crate::clock::MonoNs;
use crate::frame::{Frame, FrameCodec, FrameError};
use crate::journal::{JournalReader, ReadError};
use crate::limits::{APPLY_READ_BYTES, APPLY_REMEMBER_OPS, CURSOR_DURABLE_MS, FILTER_ACCOUNTS_MAX};
use crate::store::{Status, Store, StoreError};

/// Why replay of a group stopped for now. It is tried again; nothing was passed over.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error("cannot read the journal: {0}")]
    Journal(#[from] ReadError),
    #[error("a frame of the journal cannot be opened: {0}")]
    Frame(#[from] FrameError),
}

/// What the event loop should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyEvent {
    Applied {
        group: GroupId,
        seq: u64,
    },
    /// The account was set aside, or why it is set aside has changed.
    Parked {
        group: GroupId,
        account: String,
        parked: Parked,
    },
    Released {
        group: GroupId,
        account: String,
    },
    /// Frames of the group are gone from this node's journal before they were applied: the stream goes on after `seq`,
    /// and the group's accounts must be copied anew.
    Lost {
        group: GroupId,
        seq: u64,
        why: String,
    },
    /// The account's active is to be asked for a snapshot.
    Ask {
        group: GroupId,
        account: String,
        bodies: bool,
    },
    /// What the account holds has changed: how many operations, and whether its brake is on.
    Holds {
        group: GroupId,
        account: String,
        held: u64,
        trip: Option<Trip>,
    },
    /// A storm tripped the account's brake.
    Braked {
        group: GroupId,
        account: String,
        trip: Trip,
    },
    /// One request to the store took so long.
    Took {
        ns: u64,
    },
    /// Operations that the store answered for: kind, status, how many.
    Count {
        kind: u16,
        status: Status,
        count: u64,
    },
}

/// Where frames come from; the journal, or a list in tests.
pub trait Frames {
    /// As [`JournalReader::read`].
    ///
    /// # Errors
    /// As [`JournalReader::read`].
    fn read(&self, group: GroupId, from: Sequence, bytes_max: usize) -> Result<Vec<Frame>, ReadError>;

    /// Last durable sequence of the group; 0 = none.
    fn tail(&self, group: GroupId) -> u64;
}

impl Frames for JournalReader {
    fn read(&self, group: GroupId, from: Sequence, bytes_max: usize) -> Result<Vec<Frame>, ReadError> {
        JournalReader::read(self, group, from, bytes_max)
    }

    fn tail(&self, group: GroupId) -> u64 {
        JournalReader::tail(self, group).sequence.0
    }
}

/// What an applier works with; one set per worker thread.
pub struct Tools<'a> {
    pub store: &'a mut dyn Store,
    pub frames: &'a dyn Frames,
    pub bodies: &'a dyn Bodies,
    pub cursors: &'a dyn Remember,
    pub codec: &'a mut FrameCodec,
    pub report: &'a mut dyn FnMut(ApplyEvent),
    pub orders: &'a dyn Orders,
    pub now: MonoNs,
    /// For times that people set: hold windows and pauses.
    pub wall_ns: u64,
}

/// One operation of an account. One that cannot be read is kept as its error.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) seq: u64,
    /// When it was captured.
    pub(super) wall_ns: u64,
    pub(super) op: Result<Op, String>,
}

/// Operations of one account, in order.
pub(super) type Run = Vec<Given>;

/// Replay of one group.
pub struct GroupApplier {
    pub(super) group: GroupId,
    pub(super) applied: u64,
    pub(super) lot: Lot,
    pub(super) filters: HashMap<String, Filter>,
    pub(super) update: Update,
    durable_at: MonoNs,
    /// Operations up to here may have been applied before: the store's part of an attempt outlives a crash or an error.
    pub(super) again_until: u64,
    /// Last operation that was read for an attempt.
    pub(super) read_until: u64,
    /// Parked accounts whose snapshot is complete, as far as is known.
    complete: BTreeSet<String>,
    /// The applied position that was told last.
    told: u64,
    /// What comes after this position was captured from the store here, and is not applied to it.
    pub(super) ceiling: Option<u64>,
    pub(super) shelf: Shelf,
    pub(super) brakes: HashMap<String, Brake>,
    /// Accounts whose held operations the store did not take, until they are tried again.
    pub(super) held_retry: HashMap<String, MonoNs>,
    /// Accounts whose held operations or brake changed since that was told.
    pub(super) touched: BTreeSet<String>,
    /// When held operations are looked at next.
    pub(super) release_at: MonoNs,
    /// Accounts over which the store died.
    pub(super) deaths: HashMap<String, Deaths>,
    /// The group is paused.
    stopped: bool,
}

impl GroupApplier {
    /// Takes up where the cursor stands, and looks at what is journaled around it.
    ///
    /// # Errors
    /// When cursor or journal cannot be read.
    pub fn open(group: GroupId, tools: &mut Tools<'_>) -> Result<Self, ApplyError> {
        let (applied, parked) = tools.cursors.load(group)?;
        let holds = tools.cursors.holds(group)?;
        let lot = Lot::restore(parked, tools.now);
        // The end of a snapshot may stand before the cursor, if the agent or the store died while it was brought about.
        let waits = |parked: &Parked| matches!(parked.reason, Reason::Snapshot { .. });
        let complete = lot.iter().filter(|(_, parked)| waits(parked)).map(|(account, _)| account.to_owned()).collect();
        let mut this = Self {
            group,
            applied,
            lot,
            filters: HashMap::new(),
            update: Update::default(),
            durable_at: tools.now,
            again_until: applied,
            read_until: applied,
            complete,
            told: applied,
            ceiling: None,
            touched: holds.held.iter().map(|(_, held)| held.account.clone()).collect(),
            shelf: Shelf::restore(holds.held),
            brakes: holds.brakes.into_iter().collect(),
            held_retry: HashMap::new(),
            release_at: tools.now,
            stopped: false,
            deaths: HashMap::new(),
        };
        this.touched.extend(this.brakes.iter().filter(|(_, b)| b.trip().is_some()).map(|(account, _)| account.clone()));
        let mut from = applied.saturating_sub(APPLY_REMEMBER_OPS) + 1;
        loop {
            let frames = match read_at(tools.frames, group, from) {
                Ok(frames) => frames,
                // What is no longer kept before the cursor is not needed; what is missing after it shows in `step`.
                Err(_) if from <= applied => {
                    from = applied + 1;
                    continue;
                }
                Err(_) => break,
            };
            let Some(last) = frames.last() else { break };
            from = last.last_sequence().0 + 1;
            this.again_until = this.again_until.max(from - 1);
            for frame in &frames {
                for (account, given) in opened(tools.codec, frame)? {
                    let Ok(op) = given.op else { continue };
                    if given.seq <= applied {
                        this.filter(&account).remember(&op);
                    } else if !this.will_hold(&account, given.seq, &op, tools) {
                        this.filter(&account).foresee(&op);
                    }
                }
            }
        }
        Ok(this)
    }

    /// Last operation that is applied or parked.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Whether there is something to do although no frame came.
    #[must_use]
    pub fn wants_turn(&self, wall_ns: u64) -> bool {
        self.stopped || !self.lot.is_empty() || self.shelf.next_due_wall_ns().is_some_and(|due| due <= wall_ns)
    }

    /// The accounts set aside.
    #[must_use]
    pub fn lot(&self) -> &Lot {
        &self.lot
    }

    /// The stream goes on after `seq` without what lies between: the group is resynchronised account by account.
    ///
    /// # Errors
    /// When the cursor cannot be written.
    pub fn rebase(&mut self, seq: u64, tools: &mut Tools<'_>) -> Result<(), ApplyError> {
        self.applied = seq;
        self.ceiling = None;
        self.update.applied = Some(seq);
        self.flush(tools, true)
    }

    /// This node is active from `seq` on: only accounts that wait are still caught up with.
    pub fn stand(&mut self, seq: u64) {
        self.ceiling = Some(seq);
    }

    pub(super) fn filter(&mut self, account: &str) -> &mut Filter {
        if self.filters.len() > FILTER_ACCOUNTS_MAX && !self.filters.contains_key(account) {
            // Forgetting all is safe a moment after the last operation; see `Recent` in `filter`.
            self.filters.clear();
        }
        self.filters.entry(account.to_owned()).or_default()
    }

    /// Applies some frames. `Ok(false)` when there was nothing to do.
    ///
    /// # Errors
    /// When the store cannot be asked; the same operations are applied again by the next call.
    pub fn step(&mut self, tools: &mut Tools<'_>) -> Result<bool, ApplyError> {
        let done = self.attempt(tools);
        if done.is_err() {
            self.again_until = self.again_until.max(self.read_until);
        }
        done
    }

    fn attempt(&mut self, tools: &mut Tools<'_>) -> Result<bool, ApplyError> {
        self.stopped = tools.orders.group_paused(self.group, tools.wall_ns).is_some();
        if self.stopped {
            self.flush(tools, false)?;
            return Ok(false);
        }
        for account in self.lot.due(tools.now).into_iter().chain(self.resumed(tools)) {
            self.catch_up(&account, tools)?;
        }
        self.look_again(tools)?;
        self.release_due(tools)?;
        for (account, bodies) in self.lot.ask(tools.now) {
            (tools.report)(ApplyEvent::Ask { group: self.group, account, bodies });
        }
        let frames = match self.ceiling {
            Some(ceiling) if self.applied >= ceiling => Vec::new(),
            _ => tools.frames.read(self.group, Sequence(self.applied + 1), APPLY_READ_BYTES)?,
        };
        let Some(last) = frames.last().map(|frame| frame.last_sequence().0) else {
            self.flush(tools, false)?;
            self.tell(tools);
            return Ok(false);
        };
        self.read_until = last;
        let mut order: Vec<String> = Vec::new();
        let mut runs: HashMap<String, Run> = HashMap::new();
        for frame in &frames {
            for (account, given) in opened(tools.codec, frame)? {
                if given.seq <= self.applied {
                    continue;
                }
                let run = runs.entry(account.clone()).or_default();
                if run.is_empty() {
                    order.push(account);
                }
                run.push(given);
            }
        }
        for account in order {
            if self.take(&account, runs.remove(&account).unwrap_or_default(), tools)? {
                self.complete.insert(account);
            }
        }
        assert!(last >= self.applied, "rule 1: the applied position never goes back");
        self.applied = last;
        self.update.applied = Some(last);
        self.look_again(tools)?;
        self.flush(tools, false)?;
        self.tell(tools);
        Ok(true)
    }

    /// Accounts whose snapshot is complete, or was perhaps complete when the agent died. One that the store's death
    /// interrupts stays on the list.
    fn look_again(&mut self, tools: &mut Tools<'_>) -> Result<(), ApplyError> {
        while let Some(account) = self.complete.first().cloned() {
            self.catch_up(&account, tools)?;
            self.complete.remove(&account);
        }
        Ok(())
    }

    /// Tells the applied position, once. An attempt that failed after the position moved is followed by one that finds
    /// no frames; without this the active would never hear of it.
    fn tell(&mut self, tools: &mut Tools<'_>) {
        if self.told != self.applied {
            self.told = self.applied;
            (tools.report)(ApplyEvent::Applied { group: self.group, seq: self.applied });
        }
    }

    /// Sets a paused account aside, from where it stopped or from `seq` on. `false`: it is not paused.
    pub(super) fn pause(&mut self, account: &str, seq: u64, tools: &mut Tools<'_>) -> bool {
        let Some(detail) = tools.orders.account_paused(self.group, account, tools.wall_ns) else { return false };
        let parked = self.lot.get(account);
        if parked.is_none_or(|parked| parked.reason != Reason::Paused) {
            let since_seq = parked.map_or(seq, |parked| parked.since_seq);
            self.park(account, Parked { since_seq, detail, reason: Reason::Paused }, tools);
        }
        true
    }

    /// Accounts whose pause is over.
    fn resumed(&self, tools: &Tools<'_>) -> Vec<String> {
        let paused = self.lot.iter().filter(|(_, parked)| parked.reason == Reason::Paused);
        paused
            .filter(|(account, _)| tools.orders.account_paused(self.group, account, tools.wall_ns).is_none())
            .map(|(account, _)| account.to_owned())
            .collect()
    }

    /// Takes an account's operations of one step. `true` when a snapshot of it became complete.
    fn take(&mut self, account: &str, run: Run, tools: &mut Tools<'_>) -> Result<bool, ApplyError> {
        if let Some(first) = run.first()
            && self.pause(account, first.seq, tools)
        {
            return Ok(false);
        }
        let mut complete = false;
        let mut ready: Run = Vec::new();
        for given in run {
            let seq = given.seq;
            match (&given.op, self.lot.get(account).map(|parked| parked.reason.clone())) {
                (Ok(Op::ResyncBegin { snapshot }), _) => {
                    let first = std::mem::take(&mut ready);
                    self.apply_live(account, first, tools)?;
                    let reason = Reason::Snapshot { number: *snapshot };
                    let detail = format!("snapshot {snapshot} is on its way");
                    self.park(account, Parked { since_seq: seq, detail, reason }, tools);
                    complete = false;
                }
                (Ok(Op::ResyncEnd { snapshot }), Some(Reason::Snapshot { number })) if *snapshot == number => {
                    complete = true;
                }
                (_, Some(_)) => self.lot.progress(account, tools.now),
                (_, None) => ready.push(given),
            }
        }
        self.apply_live(account, ready, tools)?;
        Ok(complete)
    }

    pub(super) fn park(&mut self, account: &str, parked: Parked, tools: &mut Tools<'_>) {
        let news = self.lot.get(account).is_none_or(|before| before.reason != parked.reason);
        self.lot.park(account, parked.clone(), tools.now);
        self.update.release.retain(|released| released != account);
        self.update.park.push((account.to_owned(), parked.clone()));
        if news {
            (tools.report)(ApplyEvent::Parked { group: self.group, account: account.to_owned(), parked });
        }
    }

    pub(super) fn release(&mut self, account: &str, tools: &mut Tools<'_>) {
        if self.lot.release(account) {
            self.update.park.retain(|(parked, _)| parked != account);
            self.update.release.push(account.to_owned());
            (tools.report)(ApplyEvent::Released { group: self.group, account: account.to_owned() });
        }
    }

    /// Writes the cursor: durably every [`CURSOR_DURABLE_MS`] and whenever somebody was parked or released.
    pub(super) fn flush(&mut self, tools: &mut Tools<'_>, durable: bool) -> Result<(), ApplyError> {
        let pause_over = tools.now >= self.durable_at.after(Duration::from_millis(CURSOR_DURABLE_MS));
        let is_idle = self.update.is_idle();
        if !is_idle || durable {
            let durable = durable || pause_over || self.update.is_pressing();
            let update = std::mem::take(&mut self.update);
            tools.cursors.store(self.group, &update, durable)?;
            if durable {
                self.durable_at = tools.now;
            }
        }
        for account in std::mem::take(&mut self.touched) {
            let trip = self.brakes.get(&account).and_then(|brake| brake.trip().copied());
            let trip = trip.filter(|_| tools.orders.hold(&account).brake);
            let held = self.shelf.count(&account) as u64;
            (tools.report)(ApplyEvent::Holds { group: self.group, account, held, trip });
        }
        Ok(())
    }
}

/// Reads frames from the one that holds `from`.
pub(super) fn read_at(frames: &dyn Frames, group: GroupId, from: u64) -> Result<Vec<Frame>, ReadError> {
    match frames.read(group, Sequence(from), APPLY_READ_BYTES) {
        Err(ReadError::Inside { first, .. }) => frames.read(group, first, APPLY_READ_BYTES),
        other => other,
    }
}

/// Whether a snapshot wrote the operation: it is part of a whole and never applied by itself.
pub(super) fn is_of_snapshot(op: &Op) -> bool {
    match op {
        Op::MailboxCreated { snapshot, .. }
        | Op::MailboxUpdated { snapshot, .. }
        | Op::Subscribed { snapshot, .. }
        | Op::MessageSaved { snapshot, .. }
        | Op::AttributeSet { snapshot, .. } => *snapshot != 0,
        Op::ResyncBegin { .. } | Op::ResyncEnd { .. } | Op::Quarantined { .. } | Op::Unknown { .. } => true,
        _ => false,
    }
}

/// The operations of a frame with their accounts.
pub(super) fn opened(codec: &mut FrameCodec, frame: &Frame) -> Result<Vec<(String, Given)>, FrameError> {
    let opened = codec.open(frame)?;
    let one = |(seq, entry): (Sequence, understudy_types::op::Entry<'_>)| {
        let op = Op::decode(entry.op).map_err(|error| error.to_string());
        (entry.account.to_owned(), Given { seq: seq.0, wall_ns: entry.captured_wall_ns, op })
    };
    Ok(opened.entries().map(one).collect())
}
