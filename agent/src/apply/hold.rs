//! Held operations: what a replica has been told to destroy, and has not destroyed yet.
//!
//! Owns: the record of one held operation, and all those of a group with what they stand for. Pure. What can hurt: the
//! frame that held the operation is retired meanwhile, so the record carries the operation itself, and what it would
//! have destroyed where the store could not go on holding that. Refuses: touching the store; `shelve` does.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use understudy_types::id::{GroupId, MailboxGuid};
use understudy_types::op::{Message, Op};

use crate::digest::AccountState;
use crate::limits::MAILBOX_DELETE_SPAN_S;
use crate::rules::Class;

/// Where a held operation stands: its place in the group's stream, and a number among those that one snapshot gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeldKey {
    pub seq: u64,
    pub n: u32,
}

impl HeldKey {
    /// For people: `group-sequence`, with `.number` when a snapshot gave it. The same on every replica.
    #[must_use]
    pub fn id(self, group: GroupId) -> String {
        if self.n == 0 { format!("{group}-{}", self.seq) } else { format!("{group}-{}.{}", self.seq, self.n) }
    }

    /// Reads what [`Self::id`] wrote.
    #[must_use]
    pub fn parse(id: &str) -> Option<(GroupId, Self)> {
        let (group, place) = id.split_once('-')?;
        let (seq, n) = place.split_once('.').unwrap_or((place, "0"));
        Some((GroupId(group.parse().ok()?), Self { seq: seq.parse().ok()?, n: n.parse().ok()? }))
    }
}

/// One held operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub account: String,
    #[serde(with = "as_hex")]
    pub op: Op,
    /// Name of the mailbox when it was held, where it is known; for people, and to make it anew.
    #[serde(default)]
    pub name: String,
    pub captured_wall_ns: u64,
    pub held_wall_ns: u64,
    /// When it is applied. The brake makes it wait longer.
    pub due_wall_ns: u64,
    /// What it destroys, once the store does not have it any more: the operation is then applied already, and this is
    /// what an undo brings back.
    #[serde(default, with = "as_hex_option", skip_serializing_if = "Option::is_none")]
    pub kept: Option<Op>,
    /// As `kept`, for a mailbox: it is gone from the store, and its messages have records of their own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

impl Held {
    /// What kind of loss it is.
    #[must_use]
    pub fn class(&self) -> Class {
        Class::of(&self.op).unwrap_or(Class::Expunge)
    }

    /// Whether it is an expunge that a store made to empty this mailbox before it deleted it.
    #[must_use]
    pub fn is_part_of(&self, guid: MailboxGuid, deletion: &Self) -> bool {
        let since = deletion.captured_wall_ns.saturating_sub(MAILBOX_DELETE_SPAN_S * 1_000_000_000);
        matches!(&self.op, Op::MessageExpunged { mailbox, .. } if *mailbox == guid)
            && (since..=deletion.captured_wall_ns).contains(&self.captured_wall_ns)
    }

    /// Whether the store still has what it destroys.
    #[must_use]
    pub fn is_in_store(&self) -> bool {
        !self.gone && self.kept.is_none()
    }
}

/// A mailbox whose deletion is held stands under this name, out of the way of those that are made after it.
#[must_use]
pub fn aside_name(guid: MailboxGuid) -> String {
    format!("understudy-held-{guid}")
}

/// Takes out of a state what held operations of its account would have destroyed: what is left is what the replica
/// answers for.
pub fn hide<'a>(held: impl IntoIterator<Item = &'a Held>, state: &mut AccountState) {
    for held in held.into_iter().filter(|held| held.is_in_store()) {
        match &held.op {
            Op::MessageExpunged { mailbox, uid, .. } => {
                if let Some(mailbox) = state.mailboxes.get_mut(mailbox) {
                    mailbox.messages.remove(uid);
                }
            }
            Op::MailboxDeleted { guid, .. } => {
                state.mailboxes.remove(guid);
            }
            _ => {}
        }
    }
}

/// As [`hide`], for one operation of a dump.
#[must_use]
pub fn hides(held: &Held, op: &Op) -> bool {
    match (&held.op, op) {
        _ if !held.is_in_store() => false,
        (Op::MessageExpunged { mailbox, uid, .. }, Op::MessageSaved { message, .. }) => {
            (*mailbox, *uid) == (message.mailbox, message.uid)
        }
        (Op::MailboxDeleted { guid, .. }, op) => op.mailbox() == Some(*guid),
        _ => false,
    }
}

#[derive(Clone, Debug, Default)]
struct OfAccount {
    keys: BTreeSet<HeldKey>,
    messages: HashMap<(MailboxGuid, u32), HeldKey>,
    mailboxes: HashMap<MailboxGuid, HeldKey>,
}

fn forget<K: Eq + std::hash::Hash>(map: &mut HashMap<K, HeldKey>, of: &K, key: HeldKey) {
    if map.get(of) == Some(&key) {
        map.remove(of);
    }
}

/// All held operations of one group.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    rows: BTreeMap<HeldKey, Held>,
    due: BTreeSet<(u64, HeldKey)>,
    accounts: HashMap<String, OfAccount>,
}

impl Shelf {
    /// Takes back what was kept on disk.
    #[must_use]
    pub fn restore(rows: impl IntoIterator<Item = (HeldKey, Held)>) -> Self {
        let mut shelf = Self::default();
        rows.into_iter().for_each(|(key, held)| shelf.put(key, held));
        shelf
    }

    /// Holds an operation, or changes its record.
    pub fn put(&mut self, key: HeldKey, held: Held) {
        self.take(key);
        self.due.insert((held.due_wall_ns, key));
        let of = self.accounts.entry(held.account.clone()).or_default();
        of.keys.insert(key);
        match &held.op {
            Op::MessageExpunged { mailbox, uid, .. } => drop(of.messages.insert((*mailbox, *uid), key)),
            Op::MailboxDeleted { guid, .. } => drop(of.mailboxes.insert(*guid, key)),
            _ => {}
        }
        self.rows.insert(key, held);
    }

    /// Lets one go.
    pub fn take(&mut self, key: HeldKey) -> Option<Held> {
        let held = self.rows.remove(&key)?;
        self.due.remove(&(held.due_wall_ns, key));
        if let Some(of) = self.accounts.get_mut(&held.account) {
            of.keys.remove(&key);
            match &held.op {
                Op::MessageExpunged { mailbox, uid, .. } => forget(&mut of.messages, &(*mailbox, *uid), key),
                Op::MailboxDeleted { guid, .. } => forget(&mut of.mailboxes, guid, key),
                _ => {}
            }
            if of.keys.is_empty() {
                self.accounts.remove(&held.account);
            }
        }
        Some(held)
    }

    /// One record.
    #[must_use]
    pub fn get(&self, key: HeldKey) -> Option<&Held> {
        self.rows.get(&key)
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Accounts with held operations, and how many.
    pub fn accounts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.accounts.iter().map(|(account, of)| (account.as_str(), of.keys.len()))
    }

    /// How many an account has.
    #[must_use]
    pub fn count(&self, account: &str) -> usize {
        self.accounts.get(account).map_or(0, |of| of.keys.len())
    }

    /// An account's, in the order of the stream.
    pub fn of(&self, account: &str) -> impl Iterator<Item = (HeldKey, &Held)> {
        let keys = self.accounts.get(account).into_iter().flat_map(|of| &of.keys);
        keys.filter_map(|key| Some((*key, self.rows.get(key)?)))
    }

    /// The record that holds this message's expunge.
    #[must_use]
    pub fn message(&self, account: &str, mailbox: MailboxGuid, uid: u32) -> Option<HeldKey> {
        self.accounts.get(account)?.messages.get(&(mailbox, uid)).copied()
    }

    /// The record that holds this mailbox's deletion.
    #[must_use]
    pub fn mailbox(&self, account: &str, guid: MailboxGuid) -> Option<HeldKey> {
        self.accounts.get(account)?.mailboxes.get(&guid).copied()
    }

    /// What is to be applied now, by account. `waits`: accounts that wait for something else.
    #[must_use]
    pub fn due(&self, now_wall_ns: u64, waits: impl Fn(&str) -> bool) -> Vec<(String, Vec<HeldKey>)> {
        let mut due: BTreeMap<&str, Option<Vec<HeldKey>>> = BTreeMap::new();
        for (_, key) in self.due.iter().take_while(|(due, _)| *due <= now_wall_ns) {
            let Some(held) = self.rows.get(key) else { continue };
            let account = held.account.as_str();
            if let Some(keys) = due.entry(account).or_insert_with(|| (!waits(account)).then(Vec::new)) {
                keys.push(*key);
            }
        }
        due.into_iter()
            .filter_map(|(account, keys)| {
                let mut keys = keys?;
                keys.sort_unstable();
                Some((account.to_owned(), keys))
            })
            .collect()
    }

    /// The next time at which something is due.
    #[must_use]
    pub fn next_due_wall_ns(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }
}

/// The messages of a mailbox as an undo brings them back.
#[must_use]
pub fn saved(message: Message) -> Op {
    Op::MessageSaved { message, snapshot: 0 }
}

mod as_hex {
    use serde::{Deserialize, Deserializer, Serializer};
    use understudy_types::op::Op;

    pub(super) fn serialize<S: Serializer>(op: &Op, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(op.encode()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Op, D::Error> {
        super::op_of_hex(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

mod as_hex_option {
    use serde::{Deserialize, Deserializer, Serializer};
    use understudy_types::op::Op;

    pub(super) fn serialize<S: Serializer>(op: &Option<Op>, serializer: S) -> Result<S::Ok, S::Error> {
        match op {
            Some(op) => serializer.serialize_str(&hex::encode(op.encode())),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Op>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::op_of_hex(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

fn op_of_hex(text: &str) -> Result<Op, String> {
    let bytes = hex::decode(text).map_err(|error| error.to_string())?;
    Op::decode(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: MailboxGuid = MailboxGuid([1; 16]);

    fn held(account: &str, uid: u32, due: u64) -> Held {
        Held {
            account: account.into(),
            op: Op::MessageExpunged { mailbox: BOX, uid, guid: "g".into() },
            name: "INBOX".into(),
            captured_wall_ns: 1,
            held_wall_ns: 2,
            due_wall_ns: due,
            kept: None,
            gone: false,
        }
    }

    #[test]
    fn ids_round_trip_and_others_are_refused() {
        for key in [HeldKey { seq: 7, n: 0 }, HeldKey { seq: u64::MAX, n: 3 }] {
            assert_eq!(HeldKey::parse(&key.id(GroupId(4))), Some((GroupId(4), key)));
        }
        for text in ["", "4", "4-", "-7", "4-x", "u@x", "4-7.x", "4-7.1.2"] {
            assert_eq!(HeldKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_record_is_kept_as_text_with_its_operation() {
        let mut held = held("u@x", 3, 9);
        let text = serde_json::to_string(&held).unwrap();
        assert_eq!(serde_json::from_str::<Held>(&text).unwrap(), held);
        held.kept = Some(saved(Message { mailbox: BOX, uid: 3, guid: "g".into(), ..Message::default() }));
        let text = serde_json::to_string(&held).unwrap();
        assert_eq!(serde_json::from_str::<Held>(&text).unwrap(), held);
        assert!(serde_json::from_str::<Held>(&text.replace("\"op\":\"", "\"op\":\"zz")).is_err());
    }

    #[test]
    fn a_shelf_knows_what_is_due_of_whom() {
        let mut shelf = Shelf::default();
        let key = |seq| HeldKey { seq, n: 0 };
        shelf.put(key(5), held("a", 1, 50));
        shelf.put(key(6), held("b", 1, 40));
        shelf.put(key(7), held("a", 2, 60));
        assert_eq!(shelf.next_due_wall_ns(), Some(40));
        assert!(shelf.due(39, |_| false).is_empty());
        assert_eq!(shelf.due(55, |_| false), [("a".to_owned(), vec![key(5)]), ("b".to_owned(), vec![key(6)])]);
        assert_eq!(shelf.due(55, |account| account == "a").len(), 1);
        assert_eq!(shelf.message("a", BOX, 2), Some(key(7)));
        assert_eq!(shelf.message("b", BOX, 2), None);
        assert!(shelf.take(key(7)).is_some() && shelf.take(key(7)).is_none());
        assert_eq!((shelf.count("a"), shelf.message("a", BOX, 2)), (1, None));
        shelf.take(key(5));
        shelf.take(key(6));
        assert!(shelf.is_empty() && shelf.accounts().next().is_none());
    }

    #[test]
    fn what_is_held_is_hidden_from_a_state() {
        let mut state = AccountState::default();
        state.mailboxes.entry(BOX).or_default().messages.insert(3, crate::digest::MessageState::default());
        let other = MailboxGuid([2; 16]);
        state.mailboxes.entry(other).or_default();
        let deletion = Held { op: Op::MailboxDeleted { guid: other, name: "o".into() }, ..held("a", 1, 1) };
        hide([&held("a", 3, 1), &deletion], &mut state);
        assert_eq!((state.mailboxes.len(), state.message_count()), (1, 0));
    }
}
