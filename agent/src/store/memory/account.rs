//! One account of the store in memory: its mailboxes and what belongs to none of them.
//!
//! Owns: operations on mailboxes, subscriptions and METADATA, and the dump. Refuses: messages; see `message`.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::MailboxGuid;
use understudy_types::op::{Mailbox, Message, Op};

use super::message::Stored;
use super::{BodyPlace, done, failed};
use crate::digest::state::AttributeKey;
use crate::store::{ApplyItem, MailboxMark, Outcome, RaiseGap, Status};

/// Separator of the names' levels.
const SEPARATOR: char = '/';

#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    pub(super) name: String,
    pub(super) uid_validity: u32,
    pub(super) next_uid: u32,
    pub(super) highest_modseq: u64,
    pub(super) attributes: BTreeMap<AttributeKey, Vec<u8>>,
    pub(super) messages: BTreeMap<u32, Stored>,
    /// What was here once: to tell a replay from a hole.
    pub(super) expunged: BTreeMap<u32, String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) mailboxes: BTreeMap<MailboxGuid, Folder>,
    directories: BTreeSet<String>,
    subscriptions: BTreeSet<String>,
    attributes: BTreeMap<AttributeKey, Vec<u8>>,
    /// Users that are logged in.
    pub(super) sessions: u64,
}

impl Account {
    pub(super) fn apply(&mut self, item: &ApplyItem, bodies: &dyn BodyPlace) -> Outcome {
        match &item.op {
            Op::MailboxCreated { mailbox, .. } if mailbox.guid == MailboxGuid::default() => {
                let exists = self.by_name(&mailbox.name).is_some();
                done(!exists && self.directories.insert(mailbox.name.clone()))
            }
            Op::MailboxCreated { mailbox, snapshot } | Op::MailboxUpdated { mailbox, snapshot } => {
                self.ensure_and_update(mailbox, *snapshot)
            }
            Op::MailboxDeleted { guid, name } if *guid == MailboxGuid::default() => done(self.directories.remove(name)),
            Op::MailboxDeleted { guid, .. } => done(self.mailboxes.remove(guid).is_some()),
            Op::MailboxRenamed { guid, old_name, new_name } => self.rename(*guid, old_name, new_name),
            Op::Subscribed { name, .. } => done(self.subscriptions.insert(name.clone())),
            Op::Unsubscribed { name } => done(self.subscriptions.remove(name)),
            Op::MessageSaved { message, .. } => self.save(message, None, item.body_path.as_deref(), bodies),
            Op::MessageCopied { message, source, source_uid, .. } => {
                self.save(message, Some((*source, *source_uid)), item.body_path.as_deref(), bodies)
            }
            Op::MessageExpunged { mailbox, uid, guid } => self.expunge(*mailbox, *uid, guid),
            Op::FlagsSet { mailbox, uid, guid, flags, keywords, modseq } => {
                self.set_flags(*mailbox, *uid, guid, *flags, keywords, *modseq)
            }
            Op::AttributeSet { mailbox, private, key, value, .. } => {
                self.set_attribute(*mailbox, (*private, key.clone()), value.as_deref())
            }
            Op::Quarantined { .. } | Op::ResyncBegin { .. } | Op::ResyncEnd { .. } => done(false),
            Op::Unknown { kind, .. } => failed(Status::Malformed, format!("operation of unknown kind `{kind}`")),
        }
    }

    fn by_name(&self, name: &str) -> Option<MailboxGuid> {
        self.mailboxes.iter().find(|(_, folder)| folder.name == name).map(|(guid, _)| *guid)
    }

    /// Makes a mailbox of this identity exist. `Ok(true)` when it had to be made.
    pub(super) fn ensure(&mut self, guid: MailboxGuid, name: &str, uid_validity: u32) -> Result<bool, Outcome> {
        if self.mailboxes.contains_key(&guid) {
            return Ok(false);
        }
        if name.is_empty() {
            return Err(failed(Status::NoMailbox, "no mailbox of this GUID"));
        }
        if let Some(other) = self.by_name(name) {
            if self.mailboxes.get(&other).is_some_and(|folder| !folder.messages.is_empty()) {
                return Err(failed(Status::UidConflict, "another mailbox of that name holds messages"));
            }
            self.mailboxes.remove(&other);
        }
        self.directories.remove(name);
        let folder = Folder { name: name.to_owned(), uid_validity, next_uid: 1, ..Folder::default() };
        self.mailboxes.insert(guid, folder);
        Ok(true)
    }

    fn ensure_and_update(&mut self, mailbox: &Mailbox, snapshot: u64) -> Outcome {
        let mut changed = match self.ensure(mailbox.guid, &mailbox.name, mailbox.uid_validity) {
            Ok(made) => made,
            Err(outcome) => return outcome,
        };
        let here = self.mailboxes.get(&mailbox.guid).map(|folder| folder.name.clone()).unwrap_or_default();
        if snapshot != 0 && here != mailbox.name {
            let outcome = self.rename(mailbox.guid, &here, &mailbox.name);
            if outcome.status != Status::Applied {
                return outcome;
            }
            changed = true;
        }
        match self.open(mailbox.guid, mailbox.uid_validity) {
            Ok((folder, adopted)) => {
                changed |= adopted | (mailbox.next_uid > folder.next_uid);
                changed |= mailbox.highest_modseq > folder.highest_modseq;
                folder.next_uid = folder.next_uid.max(mailbox.next_uid);
                folder.highest_modseq = folder.highest_modseq.max(mailbox.highest_modseq);
                done(changed)
            }
            Err(outcome) => outcome,
        }
    }

    /// The mailbox, with this UIDVALIDITY. `true` when it had to take it on.
    pub(super) fn open(&mut self, guid: MailboxGuid, uid_validity: u32) -> Result<(&mut Folder, bool), Outcome> {
        let Some(folder) = self.mailboxes.get_mut(&guid) else {
            return Err(failed(Status::NoMailbox, "no mailbox of this GUID"));
        };
        let adopt = uid_validity != 0 && uid_validity != folder.uid_validity;
        if adopt && !folder.messages.is_empty() {
            return Err(failed(Status::UidConflict, "mailbox has another UIDVALIDITY and messages"));
        }
        if adopt {
            folder.uid_validity = uid_validity;
        }
        Ok((folder, adopt))
    }

    fn rename(&mut self, guid: MailboxGuid, old_name: &str, new_name: &str) -> Outcome {
        let from = if guid == MailboxGuid::default() {
            if self.directories.contains(old_name) {
                old_name.to_owned()
            } else if self.directories.contains(new_name) {
                return done(false);
            } else {
                return failed(Status::NoMailbox, "neither the old nor the new name exists");
            }
        } else {
            match self.mailboxes.get(&guid) {
                Some(folder) => folder.name.clone(),
                None => return failed(Status::NoMailbox, "no mailbox of this GUID"),
            }
        };
        if from == new_name {
            return done(false);
        }
        if let Some(other) = self.by_name(new_name) {
            if self.mailboxes.get(&other).is_some_and(|folder| !folder.messages.is_empty()) {
                return failed(Status::UidConflict, "another mailbox has the new name");
            }
            self.mailboxes.remove(&other);
        }
        let moved = |name: &str| -> Option<String> {
            let rest = name.strip_prefix(from.as_str())?;
            (rest.is_empty() || rest.starts_with(SEPARATOR)).then(|| format!("{new_name}{rest}"))
        };
        for folder in self.mailboxes.values_mut() {
            if let Some(name) = moved(&folder.name) {
                folder.name = name;
            }
        }
        let directories = std::mem::take(&mut self.directories);
        self.directories = directories.into_iter().map(|name| moved(&name).unwrap_or(name)).collect();
        done(true)
    }

    fn set_attribute(&mut self, mailbox: Option<MailboxGuid>, key: AttributeKey, value: Option<&[u8]>) -> Outcome {
        let attributes = match mailbox {
            None => &mut self.attributes,
            Some(guid) => match self.mailboxes.get_mut(&guid) {
                Some(folder) => &mut folder.attributes,
                None => return failed(Status::NoMailbox, "no mailbox of this GUID"),
            },
        };
        match value {
            Some(value) if value.contains(&0) => failed(Status::Refused, "attribute value holds a NUL byte"),
            Some(value) => {
                let changed = attributes.get(&key).map(Vec::as_slice) != Some(value);
                attributes.insert(key, value.to_vec());
                done(changed)
            }
            None => done(attributes.remove(&key).is_some()),
        }
    }

    /// Where the mailboxes stand; then all are raised, or none.
    pub(super) fn raise(&mut self, gap: RaiseGap) -> Result<Vec<MailboxMark>, String> {
        let near_end = |folder: &Folder| {
            folder.next_uid.checked_add(gap.uid).is_none() || folder.highest_modseq.checked_add(gap.modseq).is_none()
        };
        if let Some(folder) = self.mailboxes.values().find(|folder| near_end(folder)) {
            return Err(format!("counters of mailbox `{}` are too near their end", folder.name));
        }
        let mut marks: Vec<MailboxMark> = Vec::new();
        for (guid, folder) in &mut self.mailboxes {
            let (next_uid, highest_modseq) = (folder.next_uid, folder.highest_modseq);
            let (name, uid_validity) = (folder.name.clone(), folder.uid_validity);
            marks.push(MailboxMark { guid: *guid, name, uid_validity, next_uid, highest_modseq });
            folder.next_uid += gap.uid;
            folder.highest_modseq += gap.modseq;
        }
        marks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(marks)
    }

    /// The account as operations, in the order of `docs/formats.md`.
    pub(super) fn dump(&self, messages: bool, bodies: bool) -> Vec<Op> {
        let mut ops = Vec::new();
        let mut names: BTreeMap<&str, Option<MailboxGuid>> = BTreeMap::new();
        names.extend(self.directories.iter().map(|name| (name.as_str(), None)));
        names.extend(self.mailboxes.iter().map(|(guid, folder)| (folder.name.as_str(), Some(*guid))));
        for (name, guid) in names {
            let folder = guid.and_then(|guid| self.mailboxes.get(&guid).map(|folder| (guid, folder)));
            let Some((guid, folder)) = folder else {
                let mailbox = Mailbox { name: name.to_owned(), directory: true, ..Mailbox::default() };
                ops.push(Op::MailboxCreated { mailbox, snapshot: 0 });
                continue;
            };
            let uid_validity = folder.uid_validity;
            let mailbox = Mailbox { guid, name: name.to_owned(), uid_validity, ..Mailbox::default() };
            ops.push(Op::MailboxUpdated { mailbox: mailbox.clone(), snapshot: 0 });
            ops.extend(attribute_ops(Some(guid), &folder.attributes));
            if messages {
                for (uid, stored) in &folder.messages {
                    let mut message =
                        Message { mailbox: guid, mailbox_name: name.to_owned(), ..stored.message.clone() };
                    (message.uid, message.uid_validity) = (*uid, uid_validity);
                    message.blob = bodies.then(|| stored.blob());
                    ops.push(Op::MessageSaved { message, snapshot: 0 });
                }
            }
            let (next_uid, highest_modseq) = (folder.next_uid, folder.highest_modseq);
            ops.push(Op::MailboxUpdated { mailbox: Mailbox { next_uid, highest_modseq, ..mailbox }, snapshot: 0 });
        }
        ops.extend(self.subscriptions.iter().map(|name| Op::Subscribed { name: name.clone(), snapshot: 0 }));
        ops.extend(attribute_ops(None, &self.attributes));
        ops
    }
}

fn attribute_ops(
    mailbox: Option<MailboxGuid>,
    attributes: &BTreeMap<AttributeKey, Vec<u8>>,
) -> impl Iterator<Item = Op> {
    attributes.iter().map(move |((private, key), value)| Op::AttributeSet {
        mailbox,
        private: *private,
        key: key.clone(),
        value: Some(value.clone()),
        snapshot: 0,
    })
}
