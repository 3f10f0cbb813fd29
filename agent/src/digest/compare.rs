//! The first difference between two states, as a sentence for people.
//!
//! Owns: the order of looking: mailboxes by GUID, in each its identity, then its messages by UID, then directories,
//! subscriptions, METADATA. It looks at what the digest covers and at nothing else, so that "equal digests" and "no
//! difference" mean the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::state::{AccountState, AttributeKey, MailboxState};

/// Where two states differ first; `left` and `right` say what each side has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the mailbox, if it is about one.
    pub mailbox: Option<String>,
    /// UID of the message, if it is about one.
    pub uid: Option<u32>,
    pub what: &'static str,
    pub left: String,
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mailbox) = &self.mailbox {
            write!(f, "mailbox `{mailbox}`: ")?;
        }
        if let Some(uid) = self.uid {
            write!(f, "uid {uid}: ")?;
        }
        write!(f, "{} is `{}` here and `{}` there", self.what, self.left, self.right)
    }
}

/// Finds the first difference; `None` if the states are equal as far as a client can see.
#[must_use]
pub fn first_difference(left: &AccountState, right: &AccountState) -> Option<Difference> {
    let guids: BTreeSet<_> = left.mailboxes.keys().chain(right.mailboxes.keys()).collect();
    for guid in guids {
        match (left.mailboxes.get(guid), right.mailboxes.get(guid)) {
            (Some(a), Some(b)) => {
                if let Some(found) = mailbox_difference(a, b) {
                    return Some(found);
                }
            }
            (a, b) => {
                let name = a.or(b).map(|mailbox| mailbox.name.clone());
                let tell = |side: Option<&MailboxState>| match side {
                    Some(mailbox) => format!("{guid} with {} messages", mailbox.messages.len()),
                    None => "absent".to_owned(),
                };
                return difference(name.as_deref(), None, "the mailbox", tell(a), tell(b));
            }
        }
    }
    set_difference(&left.lone_directories(), &right.lone_directories(), "the directory")
        .or_else(|| {
            let (here, there) = (left.subscriptions.iter().collect(), right.subscriptions.iter().collect());
            set_difference(&here, &there, "the subscription")
        })
        .or_else(|| attribute_difference(None, &left.attributes, &right.attributes))
}

fn difference<L: fmt::Display, R: fmt::Display>(
    mailbox: Option<&str>,
    uid: Option<u32>,
    what: &'static str,
    left: L,
    right: R,
) -> Option<Difference> {
    let (left, right) = (left.to_string(), right.to_string());
    Some(Difference { mailbox: mailbox.map(str::to_owned), uid, what, left, right })
}

fn mailbox_difference(a: &MailboxState, b: &MailboxState) -> Option<Difference> {
    let name = Some(a.name.as_str());
    if a.name != b.name {
        return difference(name, None, "the name", &a.name, &b.name);
    }
    if a.uid_validity != b.uid_validity {
        return difference(name, None, "UIDVALIDITY", a.uid_validity, b.uid_validity);
    }
    let uids: BTreeSet<u32> = a.messages.keys().chain(b.messages.keys()).copied().collect();
    for uid in uids {
        match (a.messages.get(&uid), b.messages.get(&uid)) {
            (Some(m), Some(n)) => {
                let found = if m.guid != n.guid {
                    difference(name, Some(uid), "the message", &m.guid, &n.guid)
                } else if m.flags != n.flags {
                    difference(name, Some(uid), "the flags", format!("{:#x}", m.flags), format!("{:#x}", n.flags))
                } else if m.keywords != n.keywords {
                    difference(name, Some(uid), "the keywords", m.keywords.join(" "), n.keywords.join(" "))
                } else if m.received_s != n.received_s {
                    difference(name, Some(uid), "INTERNALDATE", m.received_s, n.received_s)
                } else if m.size_virtual_bytes != n.size_virtual_bytes {
                    difference(name, Some(uid), "the size", m.size_virtual_bytes, n.size_virtual_bytes)
                } else {
                    None
                };
                if found.is_some() {
                    return found;
                }
            }
            (m, n) => {
                let tell = |side: Option<&super::MessageState>| side.map_or("absent", |_| "present");
                return difference(name, Some(uid), "the message", tell(m), tell(n));
            }
        }
    }
    if a.next_uid != b.next_uid {
        return difference(name, None, "UIDNEXT", a.next_uid, b.next_uid);
    }
    attribute_difference(name, &a.attributes, &b.attributes)
}

fn set_difference(a: &BTreeSet<&String>, b: &BTreeSet<&String>, what: &'static str) -> Option<Difference> {
    let name = a.symmetric_difference(b).next()?;
    let tell = |set: &BTreeSet<&String>| if set.contains(name) { "present" } else { "absent" };
    difference(Some(name), None, what, tell(a), tell(b))
}

fn attribute_difference(
    mailbox: Option<&str>,
    a: &BTreeMap<AttributeKey, Vec<u8>>,
    b: &BTreeMap<AttributeKey, Vec<u8>>,
) -> Option<Difference> {
    let keys: BTreeSet<&AttributeKey> = a.keys().chain(b.keys()).collect();
    let key = keys.into_iter().find(|key| a.get(*key) != b.get(*key))?;
    let tell = |map: &BTreeMap<AttributeKey, Vec<u8>>| match map.get(key) {
        Some(value) => format!("{} = {}", key.1, String::from_utf8_lossy(value)),
        None => format!("{} absent", key.1),
    };
    difference(mailbox, None, "METADATA", tell(a), tell(b))
}

#[cfg(test)]
mod tests {
    use super::super::MessageState;
    use super::*;
    use understudy_types::id::MailboxGuid;

    fn base() -> AccountState {
        let mut state = AccountState::default();
        let mailbox = state.mailboxes.entry(MailboxGuid([1; 16])).or_default();
        mailbox.name = "INBOX".into();
        mailbox.uid_validity = 7;
        mailbox.next_uid = 3;
        mailbox.messages.insert(1, MessageState { guid: "a".into(), ..MessageState::default() });
        mailbox.messages.insert(2, MessageState { guid: "b".into(), ..MessageState::default() });
        state.subscriptions.insert("INBOX".into());
        state
    }

    /// Every change that a client could see changes the digest and is found; every other does neither.
    #[test]
    fn digest_and_comparison_agree() {
        type Change = fn(&mut AccountState);
        fn inbox(state: &mut AccountState) -> &mut MailboxState {
            state.mailboxes.get_mut(&MailboxGuid([1; 16])).unwrap()
        }
        let visible: [Change; 14] = [
            |s| inbox(s).name = "Inbox".into(),
            |s| inbox(s).uid_validity = 8,
            |s| inbox(s).next_uid = 4,
            |s| drop(inbox(s).messages.remove(&2)),
            |s| inbox(s).messages.get_mut(&1).unwrap().guid = "x".into(),
            |s| inbox(s).messages.get_mut(&1).unwrap().flags = 1,
            |s| inbox(s).messages.get_mut(&1).unwrap().keywords = vec!["k".into()],
            |s| inbox(s).messages.get_mut(&1).unwrap().received_s = 1,
            |s| inbox(s).messages.get_mut(&1).unwrap().size_virtual_bytes = 1,
            |s| drop(inbox(s).attributes.insert((true, "k".into()), vec![1])),
            |s| drop(s.mailboxes.insert(MailboxGuid([2; 16]), MailboxState::default())),
            |s| assert!(s.directories.insert("d".into())),
            |s| assert!(s.subscriptions.remove("INBOX")),
            |s| drop(s.attributes.insert((false, "k".into()), vec![])),
        ];
        for (n, change) in visible.iter().enumerate() {
            let mut other = base();
            change(&mut other);
            assert_ne!(base().digest(), other.digest(), "change {n}");
            assert!(first_difference(&base(), &other).is_some(), "change {n}");
            assert!(first_difference(&other, &base()).is_some(), "change {n}");
        }
        let invisible: [Change; 3] = [
            |s| inbox(s).highest_modseq = 99,
            |s| inbox(s).messages.get_mut(&1).unwrap().modseq = 99,
            |s| inbox(s).messages.get_mut(&1).unwrap().saved_s = 99,
        ];
        for change in invisible {
            let mut other = base();
            change(&mut other);
            assert_eq!(base().digest(), other.digest());
            assert_eq!(first_difference(&base(), &other), None);
        }
    }

    #[test]
    fn the_sentence_names_mailbox_and_message() {
        let mut other = base();
        other.mailboxes.get_mut(&MailboxGuid([1; 16])).unwrap().messages.remove(&2);
        let found = first_difference(&base(), &other).unwrap();
        assert_eq!(found.to_string(), "mailbox `INBOX`: uid 2: the message is `present` here and `absent` there");
    }
}
