//! From a snapshot of an account and the state that a replica's store has now to the operations that make them equal.
//!
//! Owns: the difference as operations. Pure. What can hurt: a store assigns UIDs upwards only, so a message that is
//! missing below a mailbox's next UID cannot be put in; such a mailbox is made anew, under the same identity. Names
//! are put right first, by `names`. One plan may need another after it: the caller dumps, plans and applies until
//! the plan is empty, and gives up after [`crate::limits::PLAN_ROUNDS_MAX`].

use std::collections::{BTreeMap, HashSet};

use understudy_types::id::MailboxGuid;
use understudy_types::op::{Mailbox, Message, Op};

use super::names;
use crate::digest::{AccountState, MailboxState, MessageState};

/// What live operations after the snapshot's begin made: it is not in the snapshot and is to stay.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub messages: HashSet<(MailboxGuid, u32)>,
    pub mailboxes: HashSet<MailboxGuid>,
    pub renamed: HashSet<MailboxGuid>,
    /// Names that live operations subscribed or unsubscribed.
    pub subscriptions: HashSet<String>,
    /// What live operations took away: not to be made again from a snapshot that was read before.
    pub expunged: HashSet<(MailboxGuid, u32)>,
    pub deleted: HashSet<MailboxGuid>,
    /// Mailboxes of which the store refused an operation: the next plan makes them anew, as a way out.
    pub anew: HashSet<MailboxGuid>,
}

impl Live {
    /// Takes note of one live operation.
    pub fn note(&mut self, op: &Op) {
        match op {
            Op::MessageSaved { message, snapshot: 0 } | Op::MessageCopied { message, .. } => {
                self.messages.insert((message.mailbox, message.uid));
            }
            Op::MessageExpunged { mailbox, uid, .. } => {
                self.expunged.insert((*mailbox, *uid));
            }
            // A name without mail has no identity.
            Op::MailboxCreated { mailbox, snapshot: 0 } if mailbox.guid != MailboxGuid::default() => {
                self.mailboxes.insert(mailbox.guid);
            }
            Op::MailboxRenamed { guid, .. } => {
                self.renamed.insert(*guid);
            }
            Op::MailboxDeleted { guid, .. } if op.mailbox().is_some() => {
                self.deleted.insert(*guid);
            }
            Op::Subscribed { name, snapshot: 0 } | Op::Unsubscribed { name } => {
                self.subscriptions.insert(name.clone());
            }
            _ => {}
        }
    }
}

/// Operations that bring `current` closer to `target`; empty when nothing is left to do. Messages to be saved carry
/// the blob that `target` knows, which may be none.
#[must_use]
pub fn plan(target: &AccountState, current: &AccountState, live: &Live) -> Vec<Op> {
    let names = names::put_right(target, current, live);
    if !names.is_empty() {
        return names;
    }
    let mut ops = Vec::new();
    let (directories, spare) = names::directories(target, current);
    ops.extend(directories);
    // By name, so that a parent is made before its children.
    let by_name: BTreeMap<&str, (&MailboxGuid, &MailboxState)> =
        target.mailboxes.iter().map(|(guid, mailbox)| (mailbox.name.as_str(), (guid, mailbox))).collect();
    for (guid, mailbox) in by_name.into_values().filter(|(guid, _)| !live.deleted.contains(guid)) {
        fill(&mut ops, *guid, mailbox, current.mailboxes.get(guid), live);
    }
    for name in
        target.subscriptions.difference(&current.subscriptions).filter(|name| !live.subscriptions.contains(*name))
    {
        ops.push(Op::Subscribed { name: name.clone(), snapshot: 0 });
    }
    for name in
        current.subscriptions.difference(&target.subscriptions).filter(|name| !live.subscriptions.contains(*name))
    {
        ops.push(Op::Unsubscribed { name: name.clone() });
    }
    attributes(&mut ops, None, &target.attributes, &current.attributes);
    ops.extend(spare);
    ops
}

/// Whether the mailbox cannot be completed by adding at its end.
pub(super) fn must_be_made_anew(guid: MailboxGuid, target: &MailboxState, current: &MailboxState, live: &Live) -> bool {
    if target.uid_validity != 0 && target.uid_validity != current.uid_validity && !current.messages.is_empty() {
        return true;
    }
    let hole = target.messages.iter().any(|(uid, message)| match current.messages.get(uid) {
        Some(have) => have.guid != message.guid,
        None => *uid < current.next_uid && !live.expunged.contains(&(guid, *uid)),
    });
    // A message above what the snapshot saw, that no live operation made, was put there behind the active's back.
    let foreign = current.messages.keys().any(|uid| *uid >= target.next_uid && !live.messages.contains(&(guid, *uid)));
    let too_high = current.next_uid > target.next_uid
        && current.next_uid > live.messages.iter().filter(|m| m.0 == guid).map(|m| m.1 + 1).max().unwrap_or(0);
    hole || foreign || too_high
}

fn fill(ops: &mut Vec<Op>, guid: MailboxGuid, target: &MailboxState, current: Option<&MailboxState>, live: &Live) {
    let identity = Mailbox {
        guid,
        name: target.name.clone(),
        uid_validity: target.uid_validity,
        next_uid: target.next_uid,
        highest_modseq: target.highest_modseq,
        directory: false,
    };
    let empty = MailboxState::default();
    match current {
        None => {
            let created = Mailbox { next_uid: 0, highest_modseq: 0, ..identity.clone() };
            ops.push(Op::MailboxCreated { mailbox: created, snapshot: 0 });
        }
        Some(have) if have.uid_validity != target.uid_validity && target.uid_validity != 0 => {
            let updated = Mailbox { next_uid: 0, highest_modseq: 0, ..identity.clone() };
            ops.push(Op::MailboxUpdated { mailbox: updated, snapshot: 0 });
        }
        Some(_) => {}
    }
    let current = current.unwrap_or(&empty);
    for (uid, message) in &target.messages {
        match current.messages.get(uid) {
            _ if live.expunged.contains(&(guid, *uid)) => {}
            None => {
                let message = to_message(guid, &target.name, target.uid_validity, *uid, message);
                ops.push(Op::MessageSaved { message, snapshot: 0 });
            }
            Some(have) if have.flags != message.flags || have.keywords != message.keywords => {
                ops.push(Op::FlagsSet {
                    mailbox: guid,
                    uid: *uid,
                    guid: message.guid.clone(),
                    flags: message.flags,
                    keywords: message.keywords.clone(),
                    modseq: message.modseq,
                });
            }
            Some(_) => {}
        }
    }
    for (uid, message) in &current.messages {
        if !target.messages.contains_key(uid) && !live.messages.contains(&(guid, *uid)) {
            ops.push(Op::MessageExpunged { mailbox: guid, uid: *uid, guid: message.guid.clone() });
        }
    }
    if current.next_uid < target.next_uid {
        // Those that are gone meanwhile are not saved: their UIDs are taken all the same.
        let saved = target.messages.keys().rev().find(|uid| !live.expunged.contains(&(guid, **uid)));
        let next_after_saves = saved.map_or(1, |uid| uid + 1).max(current.next_uid);
        if next_after_saves < target.next_uid || current.next_uid >= next_after_saves {
            ops.push(Op::MailboxUpdated { mailbox: identity, snapshot: 0 });
        }
    }
    attributes(ops, Some(guid), &target.attributes, &current.attributes);
}

fn attributes(
    ops: &mut Vec<Op>,
    mailbox: Option<MailboxGuid>,
    target: &BTreeMap<(bool, String), Vec<u8>>,
    current: &BTreeMap<(bool, String), Vec<u8>>,
) {
    for ((private, key), value) in target {
        if current.get(&(*private, key.clone())) != Some(value) {
            let value = Some(value.clone());
            ops.push(Op::AttributeSet { mailbox, private: *private, key: key.clone(), value, snapshot: 0 });
        }
    }
    for (private, key) in current.keys().filter(|key| !target.contains_key(*key)) {
        ops.push(Op::AttributeSet { mailbox, private: *private, key: key.clone(), value: None, snapshot: 0 });
    }
}

/// A message as an operation saves it.
#[must_use]
pub fn to_message(mailbox: MailboxGuid, name: &str, uid_validity: u32, uid: u32, state: &MessageState) -> Message {
    Message {
        mailbox,
        mailbox_name: name.to_owned(),
        uid_validity,
        uid,
        guid: state.guid.clone(),
        blob: state.blob,
        size_physical_bytes: state.size_physical_bytes,
        size_virtual_bytes: state.size_virtual_bytes,
        received_s: state.received_s,
        received_tz_minutes: state.received_tz_minutes,
        saved_s: state.saved_s,
        flags: state.flags,
        keywords: state.keywords.clone(),
        modseq: state.modseq,
    }
}

#[cfg(test)]
mod tests;
