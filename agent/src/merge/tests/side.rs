//! One side of a partition: a store in memory that a user works on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use understudy_types::id::{BlobId, MailboxGuid};
use understudy_types::op::{Mailbox, Message, Op};

use crate::digest::{AccountState, MailboxState};
use crate::merge::ForkState;
use crate::merge::target::dump;
use crate::store::memory::MemoryStore;
use crate::store::{ApplyItem, DumpOptions, RaiseGap, Status, Store};
use understudy_types::id::Epoch;

pub(super) const USER: &str = "u@x";
const UID_GAP: u32 = 1_000;
const MODSEQ_GAP: u64 = 1_000_000;

/// What a user does.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Save(u8),
    /// Into a mailbox, from another.
    Copy(u8, u8, u8),
    Expunge(u8, u8),
    Flags(u8, u8, u8),
    Create(u8),
    Delete(u8),
    Rename(u8, u8),
    Subscribe(u8),
    Attribute(u8, u8),
}

const NAMES: [&str; 7] = ["INBOX", "a", "a/x", "b", "b/y", "c", "a/x/z"];

pub(super) struct Side {
    pub store: MemoryStore,
    pub spool: PathBuf,
    /// Tells the two sides' messages and mailboxes apart.
    pub tag: u8,
    made: u32,
}

impl Side {
    pub(super) fn new(directory: &Path, tag: u8) -> Self {
        let spool = directory.join(format!("spool-{tag}"));
        std::fs::create_dir_all(&spool).unwrap();
        let store = MemoryStore::new(Some(spool.clone()));
        store.add_account(USER);
        Self { store, spool, tag, made: 0 }
    }

    pub(super) fn state(&self) -> AccountState {
        dump(&mut self.store.clone(), USER, DumpOptions { messages: true, bodies: false }).unwrap()
    }

    pub(super) fn with_bodies(&self) -> AccountState {
        dump(&mut self.store.clone(), USER, DumpOptions { messages: true, bodies: true }).unwrap()
    }

    pub(super) fn apply(&self, op: Op) {
        let body_path = op.blob().map(|blob| self.spool.join(blob.to_string()));
        let item = ApplyItem { op, body_path };
        let outcome = self.store.clone().apply(USER, std::slice::from_ref(&item)).unwrap().remove(0);
        assert!(matches!(outcome.status, Status::Applied | Status::AlreadySo), "{item:?}: {outcome:?}");
    }

    pub(super) fn body(&self, bytes: &[u8]) -> BlobId {
        let blob = BlobId(*blake3::hash(bytes).as_bytes());
        std::fs::write(self.spool.join(blob.to_string()), bytes).unwrap();
        blob
    }

    /// Makes `other` what this is, as a replica is.
    pub(super) fn replicate(&self, other: &Side) {
        let mut ops = Vec::new();
        let options = DumpOptions { messages: true, bodies: true };
        self.store.clone().dump(USER, options, &mut |op| ops.push(op)).unwrap();
        for op in ops {
            if let Some(blob) = op.blob() {
                std::fs::copy(self.spool.join(blob.to_string()), other.spool.join(blob.to_string())).unwrap();
            }
            other.apply(op);
        }
    }

    /// What a promotion does; gives where the histories part.
    pub(super) fn promote(&self, epoch: u64) -> ForkState {
        let marks = self.store.clone().raise(USER, RaiseGap::default()).unwrap();
        self.store.clone().raise(USER, RaiseGap { uid: UID_GAP, modseq: MODSEQ_GAP }).unwrap();
        ForkState::of(Epoch(epoch), marks)
    }

    fn pick(state: &AccountState, at: u8) -> Option<(MailboxGuid, MailboxState)> {
        let n = usize::from(at) % state.mailboxes.len().max(1);
        state.mailboxes.iter().nth(n).map(|(guid, mailbox)| (*guid, mailbox.clone()))
    }

    pub(super) fn create(&mut self, name: &str) -> MailboxGuid {
        self.made += 1;
        let mut guid = [self.tag; 16];
        guid[..4].copy_from_slice(&self.made.to_le_bytes());
        let mailbox = Mailbox {
            guid: MailboxGuid(guid),
            name: name.to_owned(),
            uid_validity: u32::from(self.tag) * 1_000 + self.made,
            ..Mailbox::default()
        };
        self.apply(Op::MailboxCreated { mailbox, snapshot: 0 });
        MailboxGuid(guid)
    }

    pub(super) fn save(&mut self, mailbox: MailboxGuid) -> String {
        self.made += 1;
        let guid = format!("m{}-{}", self.tag, self.made);
        let blob = self.body(guid.as_bytes());
        self.put(mailbox, &guid, blob);
        guid
    }

    fn put(&self, mailbox: MailboxGuid, guid: &str, blob: BlobId) {
        let state = self.state();
        let there = &state.mailboxes[&mailbox];
        let message = Message {
            mailbox,
            mailbox_name: there.name.clone(),
            uid: there.next_uid.max(1),
            guid: guid.to_owned(),
            blob: Some(blob),
            received_s: 1_000,
            modseq: there.highest_modseq + 1,
            ..Message::default()
        };
        self.apply(Op::MessageSaved { message, snapshot: 0 });
    }

    pub(super) fn set_flags(&self, mailbox: MailboxGuid, uid: u32, flags: u32) {
        let state = self.state();
        let modseq = state.mailboxes[&mailbox].highest_modseq + 1;
        self.apply(Op::FlagsSet { mailbox, uid, guid: String::new(), flags, keywords: vec![], modseq });
    }

    pub(super) fn act(&mut self, act: &Act) {
        let state = self.state();
        let names: BTreeMap<&str, MailboxGuid> = state.mailboxes.iter().map(|(g, m)| (m.name.as_str(), *g)).collect();
        let name = |n: u8| NAMES[usize::from(n) % NAMES.len()];
        let nth = |mailbox: &MailboxState, n: u8| {
            let at = usize::from(n) % mailbox.messages.len().max(1);
            mailbox.messages.keys().nth(at).copied()
        };
        match *act {
            Act::Save(at) => {
                if let Some((guid, _)) = Self::pick(&state, at) {
                    self.save(guid);
                }
            }
            Act::Copy(from, n, to) => {
                if let (Some((from, mailbox)), Some((to, _))) = (Self::pick(&state, from), Self::pick(&state, to))
                    && let Some(uid) = nth(&mailbox, n)
                    && from != to
                {
                    let body = self.store.body(USER, from, uid).unwrap();
                    let blob = self.body(&body);
                    self.put(to, &mailbox.messages[&uid].guid, blob);
                }
            }
            Act::Expunge(at, n) => {
                if let Some((guid, mailbox)) = Self::pick(&state, at)
                    && let Some(uid) = nth(&mailbox, n)
                {
                    self.apply(Op::MessageExpunged { mailbox: guid, uid, guid: String::new() });
                }
            }
            Act::Flags(at, n, flags) => {
                if let Some((guid, mailbox)) = Self::pick(&state, at)
                    && let Some(uid) = nth(&mailbox, n)
                {
                    self.set_flags(guid, uid, u32::from(flags & 0x1f));
                }
            }
            Act::Create(n) => {
                if !names.contains_key(name(n)) {
                    self.create(name(n));
                }
            }
            Act::Delete(at) => {
                if let Some((guid, mailbox)) = Self::pick(&state, at)
                    && mailbox.name != "INBOX"
                {
                    self.apply(Op::MailboxDeleted { guid, name: mailbox.name });
                }
            }
            Act::Rename(at, n) => {
                if let Some((guid, mailbox)) = Self::pick(&state, at)
                    && mailbox.name != "INBOX"
                    && !names.keys().any(|have| have.starts_with(name(n)))
                    && !name(n).starts_with(&mailbox.name)
                {
                    let (old_name, new_name) = (mailbox.name, name(n).to_owned());
                    self.apply(Op::MailboxRenamed { guid, old_name, new_name });
                }
            }
            Act::Subscribe(n) => self.apply(Op::Subscribed { name: name(n).to_owned(), snapshot: 0 }),
            Act::Attribute(at, value) => {
                if let Some((guid, _)) = Self::pick(&state, at) {
                    let (mailbox, key, value) = (Some(guid), format!("k{}", value % 3), Some(vec![value | 1]));
                    self.apply(Op::AttributeSet { mailbox, private: true, key, value, snapshot: 0 });
                }
            }
        }
    }
}
