//! The side of a merge that is active now: what it is asked, and merging items into its store.
//!
//! Owns: giving a brought message a UID of its own, once. What can hurt: users who work on the mailbox meanwhile. A UID
//! that somebody else took first is refused by the store and the next one is tried; a message whose flags were changed
//! since the plan was made keeps them; one that is there by its GUID is not saved again.

use std::collections::HashSet;

use understudy_types::id::MailboxGuid;
use understudy_types::op::{Message, Op};

use super::wire::Merged;
use crate::blob::cache::{Bodies, Body, BodyCache};
use crate::digest::AccountState;
use crate::limits::MERGE_UID_TRIES;
use crate::store::{ApplyItem, DumpOptions, Outcome, Status, Store, StoreError};

/// Digest of an account without the counters that a promotion raises.
#[must_use]
pub fn content(mut state: AccountState) -> [u8; 32] {
    state.mailboxes.values_mut().for_each(|mailbox| mailbox.next_uid = 0);
    state.digest()
}

pub(super) fn dump(store: &mut dyn Store, account: &str, options: DumpOptions) -> Result<AccountState, StoreError> {
    let mut state = AccountState::default();
    store.dump(account, options, &mut |op| state.add(op))?;
    Ok(state)
}

/// Answers a request to merge: fetches the bodies and merges.
///
/// # Errors
/// A text for the administrator of the node that asks: nothing is known about the items, or a body cannot be had.
pub fn merge(store: &mut dyn Store, bodies: &BodyCache, account: &str, ops: Vec<Op>) -> Result<Merged, String> {
    // The files go when this does.
    let mut kept: Vec<Body> = Vec::new();
    let mut items = Vec::new();
    for op in ops {
        let body_path = match op.blob() {
            Some(blob) => {
                let body = bodies.fetch(blob).map_err(|error| error.to_string())?;
                let path = body.path().to_owned();
                kept.push(body);
                Some(path)
            }
            None => None,
        };
        items.push(ApplyItem { op, body_path });
    }
    let outcomes = merge_into(store, account, &items).map_err(|error| error.to_string())?;
    let count = |status| u32::try_from(outcomes.iter().filter(|o| o.status == status).count()).unwrap_or(u32::MAX);
    let failed = items.iter().zip(&outcomes).find(|(_, outcome)| !is_fine(outcome.status)).map(|(item, outcome)| {
        let kind = Op::kind_name(item.op.kind());
        format!("{kind}: {:?} {}", outcome.status, outcome.detail)
    });
    Ok(Merged { applied: count(Status::Applied), already: count(Status::AlreadySo), failed })
}

fn is_fine(status: Status) -> bool {
    matches!(status, Status::Applied | Status::AlreadySo)
}

/// Merges items of a [`super::plan`] into the account. One outcome each; the first that fails stops it.
///
/// # Errors
/// When nothing is known about the outcomes: all may be merged again.
pub fn merge_into(store: &mut dyn Store, account: &str, items: &[ApplyItem]) -> Result<Vec<Outcome>, StoreError> {
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(items.len());
    let mut tries = 0;
    while outcomes.len() < items.len() {
        let mut place = Place::read(store, account)?;
        let rest: Vec<Option<ApplyItem>> = items[outcomes.len()..].iter().map(|item| place.put(item)).collect();
        let to_apply: Vec<ApplyItem> = rest.iter().flatten().cloned().collect();
        let mut applied = if to_apply.is_empty() { Vec::new() } else { store.apply(account, &to_apply)? }.into_iter();
        for item in rest {
            let outcome = match &item {
                None => Outcome { status: Status::AlreadySo, detail: String::new() },
                Some(_) => applied.next().unwrap_or(Outcome { status: Status::NotTried, detail: String::new() }),
            };
            let taken = outcome.status == Status::UidConflict
                && item.is_some_and(|item| matches!(item.op, Op::MessageSaved { .. } | Op::FlagsSet { .. }));
            if taken && tries < MERGE_UID_TRIES {
                tries += 1;
                break;
            }
            if !is_fine(outcome.status) {
                outcomes.push(outcome);
                outcomes.resize(items.len(), Outcome { status: Status::NotTried, detail: String::new() });
                break;
            }
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

/// The account as it will be when what was put so far is applied.
struct Place {
    state: AccountState,
    /// Mailbox and GUID of every message.
    messages: HashSet<(MailboxGuid, String)>,
}

impl Place {
    fn read(store: &mut dyn Store, account: &str) -> Result<Self, StoreError> {
        let state = dump(store, account, DumpOptions { messages: true, bodies: false })?;
        let mut messages = HashSet::new();
        for (guid, mailbox) in &state.mailboxes {
            messages.extend(mailbox.messages.values().map(|message| (*guid, message.guid.clone())));
        }
        Ok(Self { state, messages })
    }

    /// The item with its place; `None` when it is already so.
    fn put(&mut self, item: &ApplyItem) -> Option<ApplyItem> {
        let op = match &item.op {
            Op::MessageSaved { message, .. } => Op::MessageSaved { message: self.message(message)?, snapshot: 0 },
            Op::FlagsSet { mailbox, uid, guid, flags, keywords, modseq } => {
                // By UID, as a mailbox may hold several copies of a message; gone or changed since, it is left alone.
                let here = self.state.mailboxes.get(mailbox)?.messages.get(uid)?;
                if here.guid != *guid || here.modseq > *modseq {
                    return None;
                }
                let modseq = self.next_modseq(*mailbox);
                let (mailbox, uid, guid) = (*mailbox, *uid, guid.clone());
                Op::FlagsSet { mailbox, uid, guid, flags: *flags, keywords: keywords.clone(), modseq }
            }
            Op::MailboxCreated { mailbox, .. } => {
                if self.state.mailboxes.contains_key(&mailbox.guid) {
                    return None;
                }
                let made = self.state.mailboxes.entry(mailbox.guid).or_default();
                (made.name, made.next_uid) = (mailbox.name.clone(), 1);
                item.op.clone()
            }
            other => other.clone(),
        };
        Some(ApplyItem { op, body_path: item.body_path.clone() })
    }

    fn message(&mut self, message: &Message) -> Option<Message> {
        let mut message = message.clone();
        if !self.state.mailboxes.contains_key(&message.mailbox) {
            // Somebody deleted it since the plan was made; another may have its name now.
            let named = self.state.mailboxes.iter().find(|(_, mailbox)| mailbox.name == message.mailbox_name);
            match named {
                Some((guid, _)) => message.mailbox = *guid,
                None => {
                    let made = self.state.mailboxes.entry(message.mailbox).or_default();
                    (made.name, made.next_uid) = (message.mailbox_name.clone(), 1);
                }
            }
        }
        if self.messages.contains(&(message.mailbox, message.guid.clone())) {
            return None;
        }
        message.modseq = self.next_modseq(message.mailbox);
        let mailbox = self.state.mailboxes.get_mut(&message.mailbox)?;
        message.uid = mailbox.next_uid.max(1);
        message.uid_validity = 0;
        mailbox.next_uid = message.uid + 1;
        self.messages.insert((message.mailbox, message.guid.clone()));
        Some(message)
    }

    fn next_modseq(&mut self, guid: MailboxGuid) -> u64 {
        let mailbox = self.state.mailboxes.entry(guid).or_default();
        mailbox.highest_modseq += 1;
        mailbox.highest_modseq
    }
}
