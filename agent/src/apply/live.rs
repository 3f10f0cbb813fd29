//! One account's operations on their way into the store: in batches, each with its body, the first failure judged.
//!
//! Owns: what an answer of the store means for the account. What can hurt: an operation over which the store dies;
//! after two deaths operations go alone, so that the one at fault is known, and after [`POISON_TRIES_MAX`] at one place
//! the account is set aside. Refuses: letting the account's trouble stop the group, and taking a store that dies now
//! here, now there for one account's trouble.

use understudy_types::id::{BlobId, MailboxGuid};
use understudy_types::op::Op;

use super::applier::{ApplyError, Given, GroupApplier, Run, Tools, is_of_snapshot};
use super::describe::describe;
use super::filter::Verdict;
use super::hold::HeldKey;
use super::park::{Parked, Reason};
use super::request::{Batch, apply_counted, is_fine};
use super::shelve::Aside;
use crate::blob::BlobError;
use crate::blob::cache::Body;
use crate::limits::{APPLY_OPS_MAX, POISON_SUSPECT_TRIES, POISON_TRIES_MAX};
use crate::store::{ApplyItem, Outcome, Status, StoreError};

/// Where the store died: while it was asked for the account's state.
pub(super) const READING: u64 = 0;
/// Where the store died: over operations that are in no stream.
pub(super) const PLANNED: u64 = u64::MAX;

/// How often the store died over an account.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deaths {
    at: u64,
    /// In a row, at that place.
    count: u32,
    total: u32,
}

impl GroupApplier {
    /// Applies operations of an account in order; parks it at the first that cannot be applied, and is `false` then.
    pub(super) fn apply_live(&mut self, account: &str, run: Run, tools: &mut Tools<'_>) -> Result<bool, ApplyError> {
        let to_hold = self.choose_held(account, &run, tools);
        for (seq, op) in run.iter().filter_map(|given| Some((given.seq, given.op.as_ref().ok()?))) {
            // A mailbox is made although it is deleted later: with its renames it moves others that stay (seen:
            // children left under the old name). Only what was done before is not done again.
            let is_foreseen = seq <= self.again_until || !matches!(op, Op::MailboxDeleted { .. });
            if is_foreseen && !to_hold.contains(&seq) {
                self.filter(account).foresee(op);
            }
        }
        let mut batch = Batch::default();
        for Given { seq, wall_ns, op } in run {
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
                Verdict::Apply(op @ Op::MessageExpunged { .. }) if to_hold.contains(&seq) => {
                    batch.held.push((seq, self.record(account, op, wall_ns, "", tools)));
                }
                Verdict::Apply(op) if self.must_be_alone(account, &op, to_hold.contains(&seq)) => {
                    if let Some(parked) = self.send(account, &mut batch, tools)? {
                        self.park(account, parked, tools);
                        return Ok(false);
                    }
                    match self.alone(account, seq, wall_ns, op, tools)? {
                        Ok(None) => {}
                        Ok(Some(op)) => batch.push(seq, ApplyItem { op, body_path: None }, None),
                        Err(parked) => {
                            batch.stop = Some(Parked { since_seq: seq, ..parked });
                            break;
                        }
                    }
                }
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
        match stopped {
            Some(parked) => self.park(account, parked, tools),
            None => drop(self.deaths.remove(account)),
        }
        Ok(done)
    }

    /// Whether what came before must be in the store before this is looked at.
    fn must_be_alone(&self, account: &str, op: &Op, is_held: bool) -> bool {
        match op {
            Op::MailboxDeleted { guid, .. } if *guid != MailboxGuid::default() => is_held,
            // Its deletion is held: the same mailbox again.
            Op::MailboxCreated { mailbox, .. } => self.shelf.mailbox(account, mailbox.guid).is_some(),
            _ => false,
        }
    }

    /// Holds the deletion of a mailbox, or ends the holding of one that is made again. Gives back what is to be applied
    /// all the same; the inner error is for an account that must wait.
    fn alone(
        &mut self,
        account: &str,
        seq: u64,
        wall_ns: u64,
        op: Op,
        tools: &mut Tools<'_>,
    ) -> Result<Result<Option<Op>, Parked>, ApplyError> {
        match op {
            Op::MailboxDeleted { guid, name } => {
                match self.hold_mailbox(account, HeldKey { seq, n: 0 }, (guid, &name), wall_ns, tools)? {
                    Aside::Held | Aside::Nothing => Ok(Ok(None)),
                    Aside::Delete => Ok(Ok(Some(Op::MailboxDeleted { guid, name }))),
                    Aside::Wait(parked) => Ok(Err(parked)),
                }
            }
            Op::MailboxCreated { mailbox, snapshot } => {
                if let Some(key) = self.shelf.mailbox(account, mailbox.guid) {
                    let ordered = self.release_held(account, &[key], tools)?;
                    if let Some(detail) = ordered.why {
                        let reason = Reason::Store { status: "temporary".into() };
                        return Ok(Err(Parked { since_seq: seq, detail, reason }));
                    }
                }
                Ok(Ok(Some(Op::MailboxCreated { mailbox, snapshot })))
            }
            op => Ok(Ok(Some(op))),
        }
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

    pub(super) fn known_body(&self, account: &str, guid: &str, tools: &Tools<'_>) -> Option<BlobId> {
        let new = self.update.bodies.iter().rev().find(|(a, g, _)| a == account && g == guid);
        new.map(|(_, _, blob)| *blob).or_else(|| tools.cursors.body(account, guid).ok().flatten())
    }

    /// Sends what is gathered, and holds what is to be held of it; `Some` when the account must be parked.
    fn send(&mut self, account: &str, batch: &mut Batch, tools: &mut Tools<'_>) -> Result<Option<Parked>, ApplyError> {
        let held = std::mem::take(&mut batch.held);
        let parked = self.send_items(account, batch, tools)?;
        let until = parked.as_ref().map_or(u64::MAX, |parked| parked.since_seq);
        for (seq, held) in held.into_iter().filter(|(seq, _)| *seq < until) {
            self.hold_message(account, HeldKey { seq, n: 0 }, held);
        }
        Ok(parked)
    }

    fn send_items(
        &mut self,
        account: &str,
        batch: &mut Batch,
        tools: &mut Tools<'_>,
    ) -> Result<Option<Parked>, ApplyError> {
        let mut at = 0;
        while at < batch.items.len() {
            // Alone, so that the one that kills the store is known, and what comes before it is done.
            let suspect = self.deaths.get(account).is_some_and(|deaths| deaths.total >= POISON_SUSPECT_TRIES);
            let until = if suspect { at + 1 } else { batch.items.len() };
            let outcomes = match apply_counted(tools, account, &batch.items[at..until]) {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    let since_seq = batch.seqs[at];
                    let mut parked = self.gave_up(account, since_seq, error)?;
                    if parked.reason == Reason::Poison {
                        parked.detail = format!("{}: {}", describe(&batch.items[at].op), parked.detail);
                    }
                    batch.clear();
                    return Ok(Some(Parked { since_seq, ..parked }));
                }
            };
            self.lived(account, batch.seqs[at]);
            let failed = outcomes.iter().position(|outcome| !is_fine(outcome.status));
            let Some(failed) = failed else {
                at = until;
                continue;
            };
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
    /// `at`: the operation at hand, [`READING`] or [`PLANNED`].
    pub(super) fn gave_up(&mut self, account: &str, at: u64, error: StoreError) -> Result<Parked, ApplyError> {
        let status = match &error {
            // What was asked for may yet be done; the next request of the account waits for that.
            StoreError::TimedOut { .. } => "busy",
            StoreError::Failed { .. } => "failed",
            StoreError::UnknownAccount(_) => "unknownuser",
            StoreError::Broken(_) => return self.store_died(account, at, error),
            _ => return Err(error.into()),
        };
        self.again_until = self.again_until.max(self.read_until).max(self.applied);
        Ok(Parked { since_seq: 0, detail: error.to_string(), reason: Reason::Store { status: status.into() } })
    }

    /// The store died, perhaps over this account. When it always does at one place, the account is set aside, and the
    /// others go on.
    fn store_died(&mut self, account: &str, at: u64, error: StoreError) -> Result<Parked, ApplyError> {
        let deaths = self.deaths.entry(account.to_owned()).or_default();
        deaths.count = if deaths.at == at { deaths.count + 1 } else { 1 };
        deaths.at = at;
        deaths.total += 1;
        let (count, total) = (deaths.count, deaths.total);
        if count >= POISON_TRIES_MAX {
            // From here on one try is enough to know it again.
            deaths.total = POISON_SUSPECT_TRIES;
            deaths.count = POISON_TRIES_MAX - 1;
            self.again_until = self.again_until.max(self.read_until).max(self.applied);
            let detail = format!("the store died over it {count} times ({error})");
            return Ok(Parked { since_seq: 0, detail, reason: Reason::Poison });
        }
        if total >= 3 * POISON_TRIES_MAX {
            // Now here, now there: it is not this account.
            self.deaths.remove(account);
        }
        Err(error.into())
    }

    /// The store did not die at this place.
    pub(super) fn lived(&mut self, account: &str, at: u64) {
        if let Some(deaths) = self.deaths.get_mut(account).filter(|deaths| deaths.at == at) {
            deaths.count = 0;
        }
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
                    Err(error) => {
                        let parked = self.gave_up(account, PLANNED, error)?;
                        return Ok(Some(Parked { detail: format!("{}: {}", describe(op), parked.detail), ..parked }));
                    }
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
}
