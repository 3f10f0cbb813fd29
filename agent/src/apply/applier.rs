//! One group's replay: reads durable frames after the cursor, sorts them by account, applies them, moves the cursor.
//!
//! Owns: the group's applied position. What can hurt: the store committed and the cursor did not; everything after
//! the cursor is applied again, so each account's coming removals are foreseen before its operations are applied.
//! Refuses: a position that goes back, and advancing past an operation that is neither applied nor parked.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use understudy_types::id::{GroupId, Sequence};
use understudy_types::op::Op;

use super::cursor::{CursorError, Remember, Update};
use super::describe::describe;
use super::filter::{Filter, Verdict};
use super::park::{Lot, Parked, Reason};
use super::request::{Batch, apply_counted, is_fine};
use crate::blob::BlobError;
use crate::blob::cache::{Bodies, Body};
use crate::clock::MonoNs;
use crate::frame::{Frame, FrameCodec, FrameError};
use crate::journal::{JournalReader, ReadError};
use crate::limits::{APPLY_OPS_MAX, APPLY_READ_BYTES, APPLY_REMEMBER_OPS, CURSOR_DURABLE_MS, FILTER_ACCOUNTS_MAX};
use crate::store::{ApplyItem, Outcome, Status, Store, StoreError};

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
    pub now: MonoNs,
}

/// Operations of one account with their sequences, in order. An operation that cannot be read is kept as its error.
pub(super) type Run = Vec<(u64, Result<Op, String>)>;

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
    read_until: u64,
    /// Parked accounts whose snapshot is complete, as far as is known.
    complete: BTreeSet<String>,
    /// The applied position that was told last.
    told: u64,
    /// What comes after this position was captured from the store here, and is not applied to it.
    ceiling: Option<u64>,
}

impl GroupApplier {
    /// Takes up where the cursor stands, and looks at what is journaled around it.
    ///
    /// # Errors
    /// When cursor or journal cannot be read.
    pub fn open(group: GroupId, tools: &mut Tools<'_>) -> Result<Self, ApplyError> {
        let (applied, parked) = tools.cursors.load(group)?;
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
        };
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
                for (seq, account, op) in opened(tools.codec, frame)? {
                    let (filter, Ok(op)) = (this.filter(&account), op) else { continue };
                    if seq <= applied { filter.remember(&op) } else { filter.foresee(&op) }
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
        for account in self.lot.due(tools.now) {
            self.catch_up(&account, tools)?;
        }
        self.look_again(tools)?;
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
            for (seq, account, op) in opened(tools.codec, frame)? {
                if seq <= self.applied {
                    continue;
                }
                let run = runs.entry(account.clone()).or_default();
                if run.is_empty() {
                    order.push(account);
                }
                run.push((seq, op));
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

    /// Takes an account's operations of one step. `true` when a snapshot of it became complete.
    fn take(&mut self, account: &str, run: Run, tools: &mut Tools<'_>) -> Result<bool, ApplyError> {
        let mut complete = false;
        let mut ready: Run = Vec::new();
        for (seq, op) in run {
            match (&op, self.lot.get(account).map(|parked| parked.reason.clone())) {
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
                (_, None) => ready.push((seq, op)),
            }
        }
        self.apply_live(account, ready, tools)?;
        Ok(complete)
    }

    /// Applies operations of an account in order; parks it at the first that cannot be applied, and is `false` then.
    pub(super) fn apply_live(&mut self, account: &str, run: Run, tools: &mut Tools<'_>) -> Result<bool, ApplyError> {
        for (seq, op) in run.iter().filter_map(|(seq, op)| Some((seq, op.as_ref().ok()?))) {
            // A mailbox is made although it is deleted later: with its renames it moves others that stay (seen:
            // children left under the old name). Only what was done before is not done again.
            if *seq <= self.again_until || !matches!(op, Op::MailboxDeleted { .. }) {
                self.filter(account).foresee(op);
            }
        }
        let mut batch = Batch::default();
        for (seq, op) in run {
            let op = match op {
                Ok(op) => op,
                Err(error) => {
                    let reason = Reason::Store { status: "malformed".into() };
                    batch.stop = Some(Parked { since_seq: seq, detail: error, reason });
                    break;
                }
            };
            if is_of_snapshot(&op) {
                continue;
            }
            if let (Some(blob), Op::MessageSaved { message, .. } | Op::MessageCopied { message, .. }) = (op.blob(), &op)
            {
                self.update.bodies.push((account.to_owned(), message.guid.clone(), blob));
            }
            let is_message = matches!(op, Op::MessageSaved { .. } | Op::MessageCopied { .. });
            match self.filter(account).judge(op) {
                Verdict::Apply(Op::MailboxUpdated { mailbox, .. }) if is_message => batch.raise(seq, mailbox),
                Verdict::Apply(op) => match self.with_body(account, op, tools) {
                    Ok((item, body)) => batch.push(seq, item, body),
                    Err(parked) => {
                        batch.stop = Some(Parked { since_seq: seq, ..parked });
                        break;
                    }
                },
                Verdict::Skip(_) => {}
            }
            if batch.items.len() >= APPLY_OPS_MAX
                && let Some(parked) = self.send(account, &mut batch, tools)?
            {
                self.park(account, parked, tools);
                return Ok(false);
            }
        }
        let failed = self.send(account, &mut batch, tools)?;
        let stopped = failed.or(batch.stop);
        let done = stopped.is_none();
        if let Some(parked) = stopped {
            self.park(account, parked, tools);
        }
        Ok(done)
    }

    /// Fetches the body that an operation needs. The error says why the account must wait.
    pub(super) fn with_body(
        &self,
        account: &str,
        op: Op,
        tools: &Tools<'_>,
    ) -> Result<(ApplyItem, Option<Body>), Parked> {
        let Op::MessageSaved { message, .. } = &op else { return Ok((ApplyItem { op, body_path: None }, None)) };
        let blob = message.blob.or_else(|| self.known_body(account, &message.guid, tools));
        let Some(blob) = blob else {
            let detail = format!("{} carries no body", describe(&op));
            return Err(Parked { since_seq: 0, detail, reason: Reason::NeedsSnapshot { bodies: true } });
        };
        match tools.bodies.fetch(blob) {
            Ok(body) => {
                let body_path = Some(body.path().to_path_buf());
                Ok((ApplyItem { op, body_path }, Some(body)))
            }
            Err(error) => {
                let damaged = matches!(error, BlobError::Damaged { .. });
                let reason = Reason::Body { blob: blob.to_string(), damaged };
                Err(Parked { since_seq: 0, detail: format!("{}: {error}", describe(&op)), reason })
            }
        }
    }

    fn known_body(&self, account: &str, guid: &str, tools: &Tools<'_>) -> Option<understudy_types::id::BlobId> {
        let new = self.update.bodies.iter().rev().find(|(a, g, _)| a == account && g == guid);
        new.map(|(_, _, blob)| *blob).or_else(|| tools.cursors.body(account, guid).ok().flatten())
    }

    /// Sends what is gathered; `Some` when the account must be parked.
    fn send(&mut self, account: &str, batch: &mut Batch, tools: &mut Tools<'_>) -> Result<Option<Parked>, ApplyError> {
        let mut at = 0;
        while at < batch.items.len() {
            let outcomes = match apply_counted(tools, account, &batch.items[at..]) {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    let parked = self.gave_up(error)?;
                    let since_seq = batch.seqs[at];
                    batch.clear();
                    return Ok(Some(Parked { since_seq, ..parked }));
                }
            };
            let failed = outcomes.iter().position(|outcome| !is_fine(outcome.status));
            let Some(failed) = failed else { break };
            let index = at + failed;
            at = index + 1;
            let (op, seq) = (&batch.items[index].op, batch.seqs[index]);
            let outcome = &outcomes[failed];
            match self.recover(account, op, outcome, tools)? {
                None => {}
                Some(parked) => {
                    batch.clear();
                    return Ok(Some(Parked { since_seq: seq, ..parked }));
                }
            }
        }
        batch.clear();
        Ok(None)
    }

    /// An error of the store that concerns one account only: it is set aside, and the others go on.
    pub(super) fn gave_up(&mut self, error: StoreError) -> Result<Parked, ApplyError> {
        let status = match &error {
            // What was asked for may yet be done; the next request of the account waits for that.
            StoreError::TimedOut { .. } => "busy",
            StoreError::Failed { .. } => "failed",
            StoreError::UnknownAccount(_) => "unknownuser",
            _ => return Err(error.into()),
        };
        self.again_until = self.again_until.max(self.read_until).max(self.applied);
        Ok(Parked { since_seq: 0, detail: error.to_string(), reason: Reason::Store { status: status.into() } })
    }

    /// What a failure of one operation means: `None` when it is dealt with and the rest may go on.
    fn recover(
        &mut self,
        account: &str,
        op: &Op,
        outcome: &Outcome,
        tools: &mut Tools<'_>,
    ) -> Result<Option<Parked>, ApplyError> {
        let detail = format!("{}: {:?} {}", describe(op), outcome.status, outcome.detail);
        let parked = |reason| Ok(Some(Parked { since_seq: 0, detail: detail.clone(), reason }));
        match (outcome.status, op) {
            (Status::NoMailbox, _) if op.mailbox().is_some_and(|guid| self.filter(account).is_deleted(guid)) => {
                Ok(None)
            }
            (Status::SourceMissing, Op::MessageCopied { message, .. }) => {
                let saved = Op::MessageSaved { message: message.clone(), snapshot: 0 };
                let (item, _body) = match self.with_body(account, saved, tools) {
                    Ok(ready) => ready,
                    Err(parked) => return Ok(Some(parked)),
                };
                let outcomes = match apply_counted(tools, account, std::slice::from_ref(&item)) {
                    Ok(outcomes) => outcomes,
                    Err(error) => return self.gave_up(error).map(Some),
                };
                match outcomes.first() {
                    Some(again) if !is_fine(again.status) => self.recover(account, &item.op, again, tools),
                    _ => Ok(None),
                }
            }
            (Status::NoMailbox | Status::UidConflict | Status::SourceMissing | Status::Refused, _) => {
                parked(Reason::NeedsSnapshot { bodies: false })
            }
            (Status::BodyUnreadable, _) => {
                let blob = op.blob().map(|blob| blob.to_string()).unwrap_or_default();
                parked(Reason::Body { blob, damaged: false })
            }
            (status, _) => parked(Reason::Store { status: format!("{status:?}").to_lowercase() }),
        }
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
    fn flush(&mut self, tools: &Tools<'_>, durable: bool) -> Result<(), ApplyError> {
        let pause_over = tools.now >= self.durable_at.after(Duration::from_millis(CURSOR_DURABLE_MS));
        let durable = durable || pause_over || !self.update.park.is_empty() || !self.update.release.is_empty();
        if self.update.applied.is_none() && self.update.park.is_empty() && self.update.release.is_empty() {
            return Ok(());
        }
        let update = std::mem::take(&mut self.update);
        tools.cursors.store(self.group, &update, durable)?;
        if durable {
            self.durable_at = tools.now;
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

/// Sequence, account, and the operation or why it is none.
pub(super) type OpenedOp = (u64, String, Result<Op, String>);

/// The operations of a frame with sequence and account.
pub(super) fn opened(codec: &mut FrameCodec, frame: &Frame) -> Result<Vec<OpenedOp>, FrameError> {
    let opened = codec.open(frame)?;
    let one = |(seq, entry): (Sequence, understudy_types::op::Entry<'_>)| {
        (seq.0, entry.account.to_owned(), Op::decode(entry.op).map_err(|error| error.to_string()))
    };
    Ok(opened.entries().map(one).collect())
}
