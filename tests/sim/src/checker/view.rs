//! What a client would see of an account, read from a store's dump.
//!
//! Owns: the checker's own idea of "equal". What can hurt: the product has one too (`digest`); if this one were built
//! on it, a figure that both leave out would hide a loss. So it is written anew from the operations of a dump, and the
//! two must agree. Refuses: figures in which stores may differ unseen (modification sequences, save dates).

use std::collections::{BTreeMap, BTreeSet};

use understudy_agent::digest::AccountState;
use understudy_agent::store::memory::MemoryStore;
use understudy_agent::store::{DumpOptions, Store};
use understudy_types::id::MailboxGuid;
use understudy_types::op::Op;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageView {
    pub guid: String,
    pub flags: u32,
    pub keywords: Vec<String>,
    received_s: i64,
    size_bytes: u64,
}

/// A mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailboxView {
    pub name: String,
    pub uid_validity: u32,
    pub next_uid: u32,
    attributes: BTreeMap<(bool, String), Vec<u8>>,
    pub messages: BTreeMap<u32, MessageView>,
}

/// An account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountView {
    pub mailboxes: BTreeMap<MailboxGuid, MailboxView>,
    directories: BTreeSet<String>,
    pub subscriptions: BTreeSet<String>,
    attributes: BTreeMap<(bool, String), Vec<u8>>,
    /// The product's own digest of the same dump.
    pub digest: [u8; 32],
}

impl AccountView {
    /// Reads an account; `None` if the store does not know it.
    #[must_use]
    pub fn of(store: &MemoryStore, account: &str) -> Option<Self> {
        let mut view = Self::default();
        let mut theirs = AccountState::default();
        let options = DumpOptions { messages: true, bodies: false };
        let mut sink = |op: Op| {
            view.take(&op);
            theirs.add(op);
        };
        store.clone().dump(account, options, &mut sink).ok()?;
        view.digest = theirs.digest();
        Some(view)
    }

    fn take(&mut self, op: &Op) {
        match op {
            Op::MailboxCreated { mailbox, .. } | Op::MailboxUpdated { mailbox, .. } if mailbox.directory => {
                self.directories.insert(mailbox.name.clone());
            }
            Op::MailboxCreated { mailbox, .. } | Op::MailboxUpdated { mailbox, .. } => {
                let view = self.mailboxes.entry(mailbox.guid).or_default();
                view.name.clone_from(&mailbox.name);
                view.uid_validity = mailbox.uid_validity;
                view.next_uid = mailbox.next_uid;
            }
            Op::MessageSaved { message, .. } => {
                let view = MessageView {
                    guid: message.guid.clone(),
                    flags: message.flags,
                    keywords: message.keywords.clone(),
                    received_s: message.received_s,
                    size_bytes: message.size_virtual_bytes,
                };
                self.mailboxes.entry(message.mailbox).or_default().messages.insert(message.uid, view);
            }
            Op::Subscribed { name, .. } => {
                self.subscriptions.insert(name.clone());
            }
            Op::AttributeSet { mailbox, private, key, value: Some(value), .. } => {
                let attributes = match mailbox {
                    Some(guid) => &mut self.mailboxes.entry(*guid).or_default().attributes,
                    None => &mut self.attributes,
                };
                attributes.insert((*private, key.clone()), value.clone());
            }
            _ => {}
        }
    }

    /// The first difference as a sentence; `None` if there is none.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        for (guid, ours) in &self.mailboxes {
            let Some(theirs) = other.mailboxes.get(guid) else { return Some(format!("mailbox {guid} is only here")) };
            for (uid, message) in &ours.messages {
                match theirs.messages.get(uid) {
                    None => return Some(format!("`{}` uid {uid} ({}) is only here", ours.name, message.guid)),
                    Some(theirs) if theirs != message => {
                        return Some(format!("`{}` uid {uid}: {message:?} and {theirs:?}", ours.name));
                    }
                    Some(_) => {}
                }
            }
            if let Some((uid, message)) = theirs.messages.iter().find(|(uid, _)| !ours.messages.contains_key(uid)) {
                return Some(format!("`{}` uid {uid} ({}) is only there", ours.name, message.guid));
            }
            if ours != theirs {
                let of = |view: &MailboxView| format!("{} {} {}", view.name, view.uid_validity, view.next_uid);
                return Some(format!("mailbox {guid}: `{}` and `{}`", of(ours), of(theirs)));
            }
        }
        if let Some(guid) = other.mailboxes.keys().find(|guid| !self.mailboxes.contains_key(guid)) {
            return Some(format!("mailbox {guid} is only there"));
        }
        let same = (&self.directories, &self.subscriptions, &self.attributes)
            == (&other.directories, &other.subscriptions, &other.attributes);
        (!same).then(|| "directories, subscriptions or attributes differ".to_owned())
    }
}
