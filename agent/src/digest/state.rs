//! Canonical state of one account, built from the operations that a store's dump or a snapshot gives.
//!
//! Owns: the structure and the digest. What can hurt: a dump with operations in an unexpected order; messages of a
//! mailbox that was not named before are kept under its GUID and do not get lost.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::{BlobId, MailboxGuid};
use understudy_types::op::Op;

/// Key of a METADATA entry: private or shared, then its name.
pub type AttributeKey = (bool, String);

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageState {
    pub guid: String,
    pub flags: u32,
    pub keywords: Vec<String>,
    pub received_s: i64,
    pub received_tz_minutes: i32,
    pub saved_s: i64,
    pub size_virtual_bytes: u64,
    pub size_physical_bytes: u64,
    pub modseq: u64,
    pub blob: Option<BlobId>,
}

/// One mailbox with its messages by UID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailboxState {
    pub name: String,
    pub uid_validity: u32,
    pub next_uid: u32,
    pub highest_modseq: u64,
    pub attributes: BTreeMap<AttributeKey, Vec<u8>>,
    pub messages: BTreeMap<u32, MessageState>,
}

/// Whether `name` may be below `parent`.
#[must_use]
pub fn is_below(name: &str, parent: &str) -> bool {
    name.strip_prefix(parent)
        .and_then(|rest| rest.chars().next())
        .is_some_and(|sign| !sign.is_alphanumeric() && !matches!(sign, ' ' | '-' | '_'))
}

/// One account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountState {
    pub mailboxes: BTreeMap<MailboxGuid, MailboxState>,
    /// Names that hold mailboxes and no mail.
    pub directories: BTreeSet<String>,
    pub subscriptions: BTreeSet<String>,
    pub attributes: BTreeMap<AttributeKey, Vec<u8>>,
}

impl AccountState {
    /// Builds the state from the operations of a dump.
    #[must_use]
    pub fn from_ops(ops: impl IntoIterator<Item = Op>) -> Self {
        let mut state = Self::default();
        for op in ops {
            state.add(op);
        }
        state
    }

    /// Takes in one operation of a dump. Kinds that a dump does not hold are passed over.
    pub fn add(&mut self, op: Op) {
        match op {
            Op::MailboxCreated { mailbox, .. } | Op::MailboxUpdated { mailbox, .. } => {
                if mailbox.directory || mailbox.guid == MailboxGuid::default() {
                    self.directories.insert(mailbox.name);
                } else {
                    let state = self.mailboxes.entry(mailbox.guid).or_default();
                    state.name = mailbox.name;
                    state.uid_validity = mailbox.uid_validity;
                    state.next_uid = mailbox.next_uid;
                    state.highest_modseq = mailbox.highest_modseq;
                }
            }
            Op::Subscribed { name, .. } => {
                self.subscriptions.insert(name);
            }
            Op::MessageSaved { message, .. } => {
                let state = MessageState {
                    guid: message.guid,
                    flags: message.flags,
                    keywords: message.keywords,
                    received_s: message.received_s,
                    received_tz_minutes: message.received_tz_minutes,
                    saved_s: message.saved_s,
                    size_virtual_bytes: message.size_virtual_bytes,
                    size_physical_bytes: message.size_physical_bytes,
                    modseq: message.modseq,
                    blob: message.blob,
                };
                self.mailboxes.entry(message.mailbox).or_default().messages.insert(message.uid, state);
            }
            Op::AttributeSet { mailbox, private, key, value: Some(value), .. } => {
                let attributes = match mailbox {
                    Some(guid) => &mut self.mailboxes.entry(guid).or_default().attributes,
                    None => &mut self.attributes,
                };
                attributes.insert((private, key), value);
            }
            _ => {}
        }
    }

    /// Digest of everything a client can see: mailbox names, identities and next UIDs, subscriptions, METADATA, and
    /// of each message UID, GUID, flags, keywords, INTERNALDATE and size. Left out: modification sequences (a replica
    /// may run ahead of its active), save dates (copies get their own), sizes on disk (formats differ).
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Canonical::default();
        hasher.number(self.mailboxes.len() as u64);
        for (guid, mailbox) in &self.mailboxes {
            hasher.bytes(&guid.0);
            hasher.bytes(&mailbox.digest());
        }
        let subscriptions: BTreeSet<&String> = self.subscriptions.iter().collect();
        for names in [self.lone_directories(), subscriptions] {
            hasher.number(names.len() as u64);
            names.iter().for_each(|name| hasher.bytes(name.as_bytes()));
        }
        hasher.attributes(&self.attributes);
        hasher.finish()
    }

    /// Directories with nothing below them. One with something below it is there because of that, and stores do not
    /// agree on when they list it (seen: a Maildir that names a deleted mailbox as long as it has children).
    #[must_use]
    pub fn lone_directories(&self) -> BTreeSet<&String> {
        let names: BTreeSet<&str> = self
            .mailboxes
            .values()
            .map(|mailbox| mailbox.name.as_str())
            .chain(self.directories.iter().map(String::as_str))
            .collect();
        let is_lone = |name: &&String| {
            let after = names.range(name.as_str()..).take_while(|other| other.starts_with(name.as_str()));
            !after.into_iter().any(|other| is_below(other, name))
        };
        self.directories.iter().filter(is_lone).collect()
    }

    /// Number of messages in all mailboxes.
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.mailboxes.values().map(|mailbox| mailbox.messages.len()).sum()
    }
}

impl MailboxState {
    /// Digest of one mailbox; see [`AccountState::digest`].
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Canonical::default();
        hasher.bytes(self.name.as_bytes());
        hasher.number(u64::from(self.uid_validity));
        hasher.number(u64::from(self.next_uid));
        hasher.attributes(&self.attributes);
        hasher.number(self.messages.len() as u64);
        for (uid, message) in &self.messages {
            hasher.number(u64::from(*uid));
            hasher.bytes(message.guid.as_bytes());
            hasher.number(u64::from(message.flags));
            hasher.number(message.keywords.len() as u64);
            message.keywords.iter().for_each(|keyword| hasher.bytes(keyword.as_bytes()));
            hasher.number(message.received_s.cast_unsigned());
            hasher.number(message.size_virtual_bytes);
        }
        hasher.finish()
    }
}

/// Feeds values with their lengths, so that no two different states give the same bytes.
#[derive(Default)]
struct Canonical(blake3::Hasher);

impl Canonical {
    fn number(&mut self, value: u64) {
        self.0.update(&value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.0.update(value);
    }

    fn attributes(&mut self, attributes: &BTreeMap<AttributeKey, Vec<u8>>) {
        self.number(attributes.len() as u64);
        for ((private, key), value) in attributes {
            self.number(u64::from(*private));
            self.bytes(key.as_bytes());
            self.bytes(value);
        }
    }

    fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}
