//! Holding: from an operation that destroys to a record of it, and from the record to the store when its time comes.
//!
//! Owns: what is held, and that a mailbox whose deletion is held stands aside, so that its name is free for others.
//! What can hurt: a mailbox that was made again or renamed since its deletion was held; it is deleted only while it
//! stands aside. Renaming takes those below along, who stay; they are moved back. Where a store cannot hold what is
//! destroyed (Maildir's INBOX, a mailbox that must be made anew), its messages are remembered with their bodies'
//! names. Refuses: holding the stream: a held operation counts as applied.

use std::collections::BTreeSet;

use understudy_types::id::MailboxGuid;
use understudy_types::op::Op;

use super::applier::{ApplyError, ApplyEvent, GroupApplier, Run, Tools};
use super::brake::Loss;
use super::describe::describe;
use super::hold::{Held, HeldKey, aside_name, saved};
use super::live::{PLANNED, READING};
use super::park::{Parked, Reason};
use super::plan::{Live, to_message};
use super::request::{apply_each, is_fine};
use crate::digest::{AccountState, MailboxState, MessageState, is_below};
use crate::limits::BRAKE_MAILBOX_WEIGHT;
use crate::rules::Class;
use crate::store::{DumpOptions, Outcome, Status};

/// What became of a mailbox whose deletion is to be held.
pub(super) enum Aside {
    /// It stands aside.
    Held,
    /// There is none.
    Nothing,
    /// It cannot stand aside; what it holds is remembered, and it is to be deleted.
    Delete,
    Wait(Parked),
}

fn weight(class: Class) -> u64 {
    match class {
        Class::Expunge => 1,
        Class::MailboxDelete => BRAKE_MAILBOX_WEIGHT,
    }
}

impl GroupApplier {
    /// Which of these operations are to be held, by their place. The brake counts all of them before any is applied.
    pub(super) fn choose_held(&mut self, account: &str, run: &Run, tools: &mut Tools<'_>) -> BTreeSet<u64> {
        let ops = || run.iter().filter_map(|given| Some((given, given.op.as_ref().ok()?)));
        for (_, op) in ops() {
            if let Op::MessageCopied { source, source_uid, moved: true, .. } = op {
                self.filter(account).moved(*source, *source_uid);
            }
        }
        let mut losses: Vec<(Class, Loss)> = Vec::new();
        for (given, op) in ops() {
            let Some(class) = Class::of(op) else { continue };
            // A move destroys nothing.
            if matches!(op, Op::MessageExpunged { mailbox, uid, .. } if self.filter(account).is_moved(*mailbox, *uid)) {
                continue;
            }
            losses.push((class, Loss { seq: given.seq, wall_ns: given.wall_ns, weight: weight(class) }));
        }
        if losses.is_empty() {
            return BTreeSet::new();
        }
        let hold = tools.orders.hold(account);
        let rows: Vec<Loss> = losses.iter().map(|(_, loss)| *loss).collect();
        self.brake(account, &rows, tools);
        losses
            .into_iter()
            .filter(|(class, loss)| hold.window_s(*class) > 0 || self.is_braked_at(account, loss.seq, tools))
            .map(|(_, loss)| loss.seq)
            .collect()
    }

    /// Lets the account's brake see what is about to be destroyed.
    pub(super) fn brake(&mut self, account: &str, losses: &[Loss], tools: &mut Tools<'_>) {
        let hold = tools.orders.hold(account);
        if !hold.brake || losses.is_empty() {
            return;
        }
        let brake = self.brakes.entry(account.to_owned()).or_default();
        let tripped = brake.note(losses, hold.brake_floor);
        self.update.brakes.insert(account.to_owned(), brake.clone());
        if let Some(trip) = brake.trip().filter(|_| tripped) {
            (tools.report)(ApplyEvent::Braked { group: self.group, account: account.to_owned(), trip: *trip });
            self.touched.insert(account.to_owned());
        }
    }

    fn is_braked_at(&self, account: &str, seq: u64, tools: &Tools<'_>) -> bool {
        self.brakes.get(account).is_some_and(|brake| brake.holds(seq)) && tools.orders.hold(account).brake
    }

    /// Whether an administrator must say what is to become of the account's held operations.
    pub(super) fn is_braked(&self, account: &str, tools: &Tools<'_>) -> bool {
        self.is_braked_at(account, u64::MAX, tools)
    }

    /// Whether an operation that is still to come will be held: it is then not foreseen.
    pub(super) fn will_hold(&self, account: &str, seq: u64, op: &Op, tools: &Tools<'_>) -> bool {
        Class::of(op).is_some_and(|class| {
            tools.orders.hold(account).window_s(class) > 0 || self.is_braked_at(account, seq, tools)
        })
    }

    pub(super) fn record(&self, account: &str, op: Op, wall_ns: u64, name: &str, tools: &Tools<'_>) -> Held {
        let window_s = Class::of(&op).map_or(0, |class| tools.orders.hold(account).window_s(class));
        Held {
            account: account.to_owned(),
            op,
            name: name.to_owned(),
            captured_wall_ns: wall_ns,
            held_wall_ns: tools.wall_ns,
            due_wall_ns: tools.wall_ns.saturating_add(window_s.saturating_mul(1_000_000_000)),
            kept: None,
            gone: false,
        }
    }

    pub(super) fn put_held(&mut self, key: HeldKey, held: Held) {
        self.touched.insert(held.account.clone());
        self.update.unhold.remove(&key);
        self.update.hold.insert(key, held.clone());
        self.shelf.put(key, held);
    }

    pub(super) fn take_held(&mut self, key: HeldKey) -> Option<Held> {
        let held = self.shelf.take(key)?;
        self.touched.insert(held.account.clone());
        self.update.hold.remove(&key);
        self.update.unhold.insert(key);
        Some(held)
    }

    /// A place among those that a snapshot's begin gives.
    fn free_key(&self, account: &str, seq: u64) -> HeldKey {
        let last = self.shelf.of(account).map(|(key, _)| key).filter(|key| key.seq == seq).max();
        HeldKey { seq, n: last.map_or(1, |last| last.n + 1) }
    }

    /// Holds the expunge of a message. One that is held already stays as it is.
    pub(super) fn hold_message(&mut self, account: &str, key: HeldKey, held: Held) {
        if let Op::MessageExpunged { mailbox, uid, .. } = &held.op
            && self.shelf.message(account, *mailbox, *uid).is_none()
        {
            self.put_held(key, held);
        }
    }

    /// Holds the deletion of a mailbox: it is moved aside, and those below it are moved back.
    pub(super) fn hold_mailbox(
        &mut self,
        account: &str,
        key: HeldKey,
        (guid, name): (MailboxGuid, &str),
        wall_ns: u64,
        tools: &mut Tools<'_>,
    ) -> Result<Aside, ApplyError> {
        if self.shelf.mailbox(account, guid).is_some() {
            return Ok(Aside::Held);
        }
        let state = match self.look(account, false, tools)? {
            Ok(state) => state,
            Err(parked) => return Ok(Aside::Wait(parked)),
        };
        let Some(mailbox) = state.mailboxes.get(&guid) else { return Ok(Aside::Nothing) };
        let aside = aside_name(guid);
        // A second try: it stands aside already, and perhaps not all of those below it were moved back.
        let name = if mailbox.name == aside { name } else { &mailbox.name };
        let ops = move_aside(&state, guid, name, &aside);
        let (mut refused, mut detail) = (false, String::new());
        let outcomes = match apply_each(tools, account, &ops) {
            Ok(outcomes) => outcomes,
            Err(error) => return self.gave_up(account, PLANNED, error).map(Aside::Wait),
        };
        for (op, outcome) in ops.iter().zip(&outcomes) {
            match outcome.status {
                Status::Temporary | Status::UnknownUser => return Ok(Aside::Wait(waits(op, outcome))),
                // A name without mail that is not there moved along with one above it.
                Status::NoMailbox if op.mailbox().is_none() => {}
                status if is_fine(status) || status == Status::NotTried => {}
                _ => (refused, detail) = (true, format!("{}: {:?} {}", describe(op), outcome.status, outcome.detail)),
            }
        }
        let op = Op::MailboxDeleted { guid, name: name.to_owned() };
        let held = self.record(account, op, wall_ns, name, tools);
        let is_aside = outcomes.first().is_some_and(|outcome| is_fine(outcome.status));
        if is_aside && refused {
            // Those below it are where their own operations do not look for them: a snapshot puts them right.
            self.put_held(key, held);
            let reason = Reason::NeedsSnapshot { bodies: false };
            return Ok(Aside::Wait(Parked { since_seq: 0, detail, reason }));
        }
        if is_aside {
            self.emptied_before(account, guid, &held);
            self.put_held(key, held);
            return Ok(Aside::Held);
        }
        tracing::info!(account, name, detail, "a mailbox cannot stand aside; its messages are remembered");
        let state = match self.look(account, true, tools)? {
            Ok(state) => state,
            Err(parked) => return Ok(Aside::Wait(parked)),
        };
        if let Some(mailbox) = state.mailboxes.get(&guid) {
            self.remember(account, key.seq, guid, mailbox, &|_| true, wall_ns, tools);
        }
        self.put_held(key, Held { gone: true, ..held });
        Ok(Aside::Delete)
    }

    /// A store empties a mailbox before it deletes it: what was expunged just before waits as long as the deletion.
    fn emptied_before(&mut self, account: &str, guid: MailboxGuid, deletion: &Held) {
        let part: Vec<(HeldKey, Held)> = self
            .shelf
            .of(account)
            .filter(|(_, held)| held.is_part_of(guid, deletion) && held.due_wall_ns < deletion.due_wall_ns)
            .map(|(key, held)| (key, Held { due_wall_ns: deletion.due_wall_ns, ..held.clone() }))
            .collect();
        for (key, held) in part {
            self.put_held(key, held);
        }
    }

    /// The account's state; the inner error is for an account that must wait.
    pub(super) fn look(
        &mut self,
        account: &str,
        messages: bool,
        tools: &mut Tools<'_>,
    ) -> Result<Result<AccountState, Parked>, ApplyError> {
        let mut state = AccountState::default();
        let options = DumpOptions { messages, bodies: false };
        match tools.store.dump(account, options, &mut |op| state.add(op)) {
            Ok(()) => {
                self.lived(account, READING);
                Ok(Ok(state))
            }
            Err(error) => self.gave_up(account, READING, error).map(Err),
        }
    }

    /// Remembers messages of a mailbox that the store is about to lose, by their bodies' names.
    #[expect(clippy::too_many_arguments, reason = "one place each, and two callers")]
    fn remember(
        &mut self,
        account: &str,
        seq: u64,
        guid: MailboxGuid,
        mailbox: &MailboxState,
        is_lost: &dyn Fn(&MessageState) -> bool,
        wall_ns: u64,
        tools: &Tools<'_>,
    ) {
        let mut without_body = 0_u64;
        for (uid, state) in &mailbox.messages {
            let held_already = self.shelf.message(account, guid, *uid);
            if held_already.is_none() && !is_lost(state) {
                continue;
            }
            let mut message = to_message(guid, &mailbox.name, mailbox.uid_validity, *uid, state);
            message.blob = message.blob.or_else(|| self.known_body(account, &state.guid, tools));
            without_body += u64::from(message.blob.is_none());
            let kept = Some(saved(message));
            let (key, held) = match held_already.and_then(|key| Some((key, self.shelf.get(key)?.clone()))) {
                Some((key, held)) => (key, Held { kept, name: mailbox.name.clone(), ..held }),
                None => {
                    let op = Op::MessageExpunged { mailbox: guid, uid: *uid, guid: state.guid.clone() };
                    let held = self.record(account, op, wall_ns, &mailbox.name, tools);
                    (self.free_key(account, seq), Held { kept, ..held })
                }
            };
            self.put_held(key, held);
        }
        if without_body > 0 {
            let name = &mailbox.name;
            tracing::warn!(account, name, without_body, "bodies of messages that are destroyed are not known here");
        }
    }

    /// What a snapshot brings back is held no longer.
    pub(super) fn revive(&mut self, account: &str, target: &AccountState, live: &Live) {
        let alive: Vec<HeldKey> = self
            .shelf
            .of(account)
            .filter(|(_, held)| match &held.op {
                Op::MessageExpunged { mailbox, uid, .. } => {
                    !live.expunged.contains(&(*mailbox, *uid))
                        && target.mailboxes.get(mailbox).is_some_and(|have| have.messages.contains_key(uid))
                }
                Op::MailboxDeleted { guid, .. } => target.mailboxes.contains_key(guid) && !live.deleted.contains(guid),
                _ => false,
            })
            .map(|(key, _)| key)
            .collect();
        for key in alive {
            self.take_held(key);
        }
    }

    /// Takes what is held out of what the store has, as far as a snapshot need not know of it: a mailbox that the
    /// snapshot lacks, or that must be made anew, is seen whole.
    pub(super) fn hide_held(&self, account: &str, target: &AccountState, current: &mut AccountState) {
        for (_, held) in self.shelf.of(account).filter(|(_, held)| held.is_in_store()) {
            match &held.op {
                Op::MailboxDeleted { guid, .. } => {
                    current.mailboxes.remove(guid);
                }
                Op::MessageExpunged { mailbox, uid, .. } => {
                    if let (Some(want), Some(have)) =
                        (target.mailboxes.get(mailbox), current.mailboxes.get_mut(mailbox))
                        && (want.uid_validity == 0 || want.uid_validity == have.uid_validity)
                    {
                        have.messages.remove(uid);
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes those operations of a plan that destroy out of it and holds them. `Err`: the account must wait.
    pub(super) fn hold_plan(
        &mut self,
        account: &str,
        seq: u64,
        ops: Vec<Op>,
        (target, current, live): (&AccountState, &AccountState, &Live),
        tools: &mut Tools<'_>,
    ) -> Result<Result<Vec<Op>, Parked>, ApplyError> {
        let mut left = Vec::new();
        for op in ops {
            let is_held = self.will_hold(account, seq, &op, tools);
            match &op {
                Op::MessageExpunged { .. } if is_held => {
                    let key = self.free_key(account, seq);
                    let held = self.record(account, op, tools.wall_ns, "", tools);
                    self.hold_message(account, key, held);
                }
                // It is made again at once, and what it had is saved into it again.
                Op::MailboxDeleted { guid, .. } if target.mailboxes.contains_key(guid) => {
                    if let Some(have) = current.mailboxes.get(guid) {
                        let stays: BTreeSet<&str> = target.mailboxes[guid].messages.values().map(guid_of).collect();
                        let is_lost = |message: &MessageState| is_held && !stays.contains(message.guid.as_str());
                        self.remember(account, seq, *guid, have, &is_lost, tools.wall_ns, tools);
                    }
                    left.push(op);
                }
                Op::MailboxDeleted { guid, name }
                    if is_held && !live.mailboxes.contains(guid) && !live.renamed.contains(guid) =>
                {
                    let key = self.free_key(account, seq);
                    match self.hold_mailbox(account, key, (*guid, name), tools.wall_ns, tools)? {
                        Aside::Held | Aside::Nothing => {}
                        Aside::Delete => left.push(op),
                        Aside::Wait(parked) => return Ok(Err(parked)),
                    }
                }
                _ => left.push(op),
            }
        }
        Ok(Ok(left))
    }

    /// Lets the brake see what a snapshot is about to destroy.
    pub(super) fn brake_snapshot(
        &mut self,
        account: &str,
        seq: u64,
        (target, current, live): (&AccountState, &AccountState, &Live),
        tools: &mut Tools<'_>,
    ) {
        let mut weight = 0;
        for (guid, have) in current.mailboxes.iter().filter(|(guid, _)| !live.mailboxes.contains(*guid)) {
            let before = weight;
            match target.mailboxes.get(guid) {
                None if have.messages.is_empty() => {}
                None => weight += BRAKE_MAILBOX_WEIGHT.max(have.messages.len() as u64),
                Some(want) => {
                    let stays = |uid: &u32| want.messages.contains_key(uid) || live.messages.contains(&(*guid, *uid));
                    weight += have.messages.keys().filter(|uid| !stays(uid)).count() as u64;
                }
            }
            if weight > before {
                tracing::debug!(account, seq, name = have.name, weight = weight - before, "a snapshot destroys");
            }
        }
        self.brake(account, &[Loss { seq, wall_ns: tools.wall_ns, weight }], tools);
    }
}

fn waits(op: &Op, outcome: &Outcome) -> Parked {
    let detail = format!("{}: {:?} {}", describe(op), outcome.status, outcome.detail);
    let reason = Reason::Store { status: format!("{:?}", outcome.status).to_lowercase() };
    Parked { since_seq: 0, detail, reason }
}

/// Moves a mailbox aside, and those that it took along back. Those that are below one that moved back went with it.
fn move_aside(state: &AccountState, guid: MailboxGuid, name: &str, aside: &str) -> Vec<Op> {
    let mut ops = vec![Op::MailboxRenamed { guid, old_name: name.to_owned(), new_name: aside.to_owned() }];
    let mailboxes = state.mailboxes.iter().map(|(guid, mailbox)| (mailbox.name.as_str(), *guid));
    let directories = state.directories.iter().map(|name| (name.as_str(), MailboxGuid::default()));
    let mut below: Vec<(&str, MailboxGuid)> = mailboxes
        .chain(directories)
        .filter_map(|(other, guid)| {
            let rest = [name, aside].iter().find(|above| is_below(other, above)).map(|above| &other[above.len()..])?;
            Some((rest, guid))
        })
        .collect();
    below.sort_unstable();
    for (rest, guid) in below {
        let (old_name, new_name) = (format!("{aside}{rest}"), format!("{name}{rest}"));
        ops.push(Op::MailboxRenamed { guid, old_name, new_name });
    }
    ops
}

fn guid_of(message: &MessageState) -> &str {
    &message.guid
}
