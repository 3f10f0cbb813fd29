//! Catching up: a parked account's operations are read again from the journal, and a complete snapshot among them
//! replaces everything before it.
//!
//! Owns: the way from "parked" to "goes on". What can hurt: an operation that came after the snapshot's begin may be
//! in the snapshot or not; so the snapshot is brought about first, knowing what live operations made and took away,
//! and then the live operations are applied over it, where what is already so is a no-op.

use std::collections::HashSet;

use understudy_types::id::MailboxGuid;
use understudy_types::op::Op;

use super::applier::{ApplyError, GroupApplier, Run, Tools, opened, read_at};
use super::describe::describe;
use super::live::{PLANNED, READING};
use super::park::{Parked, Reason};
use super::plan::{Live, plan};
use super::request::{apply_counted, is_fine};
use crate::digest::{AccountState, first_difference};
use crate::journal::ReadError;
use crate::limits::{APPLY_OPS_MAX, PLAN_ROUNDS_MAX};
use crate::store::{ApplyItem, DumpOptions};

impl GroupApplier {
    /// Tries a parked account again from where it stopped, up to the group's applied position.
    pub(super) fn catch_up(&mut self, account: &str, tools: &mut Tools<'_>) -> Result<(), ApplyError> {
        let Some(since_seq) = self.lot.get(account).map(|parked| parked.since_seq) else { return Ok(()) };
        if self.pause(account, since_seq, tools) {
            return Ok(());
        }
        let run = match self.read_again(account, since_seq, tools) {
            Ok(run) => run,
            // Let go of, or lost by the disk: this account waits for a snapshot, and holds up no other.
            Err(ApplyError::Journal(
                error @ (ReadError::Retired { .. } | ReadError::Gap { .. } | ReadError::Damaged { .. }),
            )) => {
                let reason = Reason::NeedsSnapshot { bodies: true };
                let detail = format!("its operations cannot be read again: {error}");
                self.park(account, Parked { since_seq: self.applied + 1, detail, reason }, tools);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match last_snapshot(&run) {
            LastSnapshot::None => self.apply_and_release(account, run, tools),
            LastSnapshot::Unfinished { begin, number } => {
                let detail = format!("snapshot {number} is on its way");
                let since_seq = run[begin].seq;
                self.park(account, Parked { since_seq, detail, reason: Reason::Snapshot { number } }, tools);
                Ok(())
            }
            LastSnapshot::Complete { begin, number } => {
                let run: Run = run.into_iter().skip(begin).collect();
                let since_seq = run[0].seq;
                // What came while the snapshot was read may be in it.
                self.again_until = self.again_until.max(self.applied);
                match self.converge(account, number, &run, tools)? {
                    Some(parked) => self.park(account, Parked { since_seq, ..parked }, tools),
                    None => self.apply_and_release(account, run, tools)?,
                }
                Ok(())
            }
        }
    }

    /// The account is let go only when nothing of it waits any more: until then its waits grow, and nobody takes it for
    /// applied in between.
    fn apply_and_release(&mut self, account: &str, run: Run, tools: &mut Tools<'_>) -> Result<(), ApplyError> {
        if self.apply_live(account, run, tools)? {
            self.release(account, tools);
        }
        Ok(())
    }

    fn read_again(&mut self, account: &str, since_seq: u64, tools: &mut Tools<'_>) -> Result<Run, ApplyError> {
        let mut run = Run::new();
        let mut from = since_seq;
        while from <= self.applied {
            let frames = read_at(tools.frames, self.group, from)?;
            let Some(last) = frames.last() else { break };
            from = last.last_sequence().0 + 1;
            for frame in &frames {
                for (owner, given) in opened(tools.codec, frame)? {
                    if owner == account && given.seq >= since_seq && given.seq <= self.applied {
                        run.push(given);
                    }
                }
            }
        }
        Ok(run)
    }

    /// Brings the store's account to the snapshot. `Some` when it must wait.
    fn converge(
        &mut self,
        account: &str,
        number: u64,
        run: &Run,
        tools: &mut Tools<'_>,
    ) -> Result<Option<Parked>, ApplyError> {
        let mut target = AccountState::default();
        let mut live = Live::default();
        let seq = run.first().map_or(0, |given| given.seq);
        for op in run.iter().filter_map(|given| given.op.as_ref().ok()) {
            if snapshot_number(op) == number { target.add(op.clone()) } else { live.note(op) }
        }
        let with_bodies = target.mailboxes.values().flat_map(|m| m.messages.values()).any(|m| m.blob.is_some());
        for mailbox in target.mailboxes.values() {
            for message in mailbox.messages.values() {
                if let Some(blob) = message.blob {
                    self.update.bodies.push((account.to_owned(), message.guid.clone(), blob));
                }
            }
        }
        self.revive(account, &target, &live);
        let mut is_first = true;
        let (mut left, mut refused) = (None, None);
        let mut tried = HashSet::new();
        for _ in 0..PLAN_ROUNDS_MAX {
            let mut current = AccountState::default();
            let options = DumpOptions { messages: true, bodies: false };
            if let Err(error) = tools.store.dump(account, options, &mut |op| current.add(op)) {
                return self.gave_up(account, READING, error).map(Some);
            }
            self.lived(account, READING);
            let whole = (self.shelf.count(account) > 0).then(|| current.clone());
            self.hide_held(account, &target, &mut current);
            if std::mem::take(&mut is_first) {
                self.brake_snapshot(account, seq, (&target, &current, &live), tools);
            }
            let ops = plan(&target, &current, &live);
            live.anew.clear();
            if ops.is_empty() {
                return Ok(None);
            }
            left = first_difference(&target, &current);
            let whole = whole.as_ref().unwrap_or(&current);
            let ops = match self.hold_plan(account, seq, ops, (&target, whole, &live), tools)? {
                Ok(ops) => ops,
                Err(parked) => return Ok(Some(parked)),
            };
            match self.follow(account, ops, with_bodies, tools)? {
                Followed::Done => refused = None,
                Followed::Refused(guid, detail) => {
                    // Once each: what is refused again after that is not helped by repetition.
                    live.anew.extend(guid.filter(|guid| tried.insert(*guid)));
                    refused = Some(detail);
                }
                Followed::Wait(parked) => return Ok(Some(parked)),
            }
        }
        let left = left.map_or_else(String::new, |difference| difference.to_string());
        let refused = refused.map_or_else(String::new, |detail| format!("; {detail}"));
        let detail = format!("the store does not become equal to snapshot {number}: {left}{refused}");
        // The same snapshot would fail the same way for ever; operations that came while it was read may be why.
        Ok(Some(Parked { since_seq: 0, detail, reason: Reason::NeedsSnapshot { bodies: with_bodies } }))
    }

    /// Applies the operations of a plan.
    fn follow(
        &mut self,
        account: &str,
        ops: Vec<Op>,
        with_bodies: bool,
        tools: &mut Tools<'_>,
    ) -> Result<Followed, ApplyError> {
        let mut ops = ops.into_iter().peekable();
        while ops.peek().is_some() {
            let (mut items, mut bodies): (Vec<ApplyItem>, Vec<_>) = (Vec::new(), Vec::new());
            for op in ops.by_ref().take(APPLY_OPS_MAX) {
                match self.with_body(account, op, tools) {
                    Ok((item, body)) => {
                        items.push(item);
                        bodies.push(body);
                    }
                    // Asked once for bodies and not given this one: it is central storage that lacks it.
                    Err(Parked { reason: Reason::NeedsSnapshot { .. }, detail, .. }) if with_bodies => {
                        let reason = Reason::Store { status: "body-unknown".into() };
                        return Ok(Followed::Wait(Parked { since_seq: 0, detail, reason }));
                    }
                    Err(parked) => return Ok(Followed::Wait(parked)),
                }
            }
            let outcomes = match apply_counted(tools, account, &items) {
                Ok(outcomes) => outcomes,
                Err(error) => return self.gave_up(account, PLANNED, error).map(Followed::Wait),
            };
            if let Some((item, outcome)) = items.iter().zip(&outcomes).find(|(_, outcome)| !is_fine(outcome.status)) {
                let detail = format!("{}: {:?} {}", describe(&item.op), outcome.status, outcome.detail);
                if matches!(outcome.status, crate::store::Status::Temporary | crate::store::Status::UnknownUser) {
                    let reason = Reason::Store { status: format!("{:?}", outcome.status).to_lowercase() };
                    return Ok(Followed::Wait(Parked { since_seq: 0, detail, reason }));
                }
                let guid = item.op.mailbox().filter(|guid| *guid != MailboxGuid::default());
                return Ok(Followed::Refused(guid, detail));
            }
        }
        Ok(Followed::Done)
    }
}

/// How a plan went.
enum Followed {
    Done,
    /// The store did not take an operation of this mailbox. The next plan starts from what the store has then, and
    /// makes the mailbox anew.
    Refused(Option<MailboxGuid>, String),
    /// The account must wait.
    Wait(Parked),
}

fn snapshot_number(op: &Op) -> u64 {
    match op {
        Op::MailboxCreated { snapshot, .. }
        | Op::MailboxUpdated { snapshot, .. }
        | Op::Subscribed { snapshot, .. }
        | Op::MessageSaved { snapshot, .. }
        | Op::AttributeSet { snapshot, .. } => *snapshot,
        _ => 0,
    }
}

enum LastSnapshot {
    None,
    Unfinished { begin: usize, number: u64 },
    Complete { begin: usize, number: u64 },
}

/// The last snapshot that is complete; or, if none is, the last that began.
fn last_snapshot(run: &Run) -> LastSnapshot {
    let mut open: Option<(usize, u64)> = None;
    let mut complete: Option<(usize, u64)> = None;
    for (index, given) in run.iter().enumerate() {
        match &given.op {
            Ok(Op::ResyncBegin { snapshot }) => open = Some((index, *snapshot)),
            Ok(Op::ResyncEnd { snapshot }) => {
                if let Some((begin, number)) = open
                    && number == *snapshot
                {
                    complete = Some((begin, number));
                }
            }
            _ => {}
        }
    }
    match (complete, open) {
        (Some((begin, number)), _) => LastSnapshot::Complete { begin, number },
        (None, Some((begin, number))) => LastSnapshot::Unfinished { begin, number },
        (None, None) => LastSnapshot::None,
    }
}
