//! What makes replay converge when operations reach the ring in another order than the store committed them.
//!
//! Owns: the newest flags seen per message, and tombstones of expunged messages and deleted mailboxes. Pure.
//! What can hurt: sessions of one account publish their flag changes without a common lock, so of two records about
//! one message the older may come last (measured: 38 to 73 of 1,200 with four sessions on one message). Refuses:
//! letting an older value win, bringing an expunged message back, making a mailbox because somebody set flags in it.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use understudy_types::id::MailboxGuid;
use understudy_types::op::{Mailbox, Message, Op};

use crate::limits::{FILTER_FLAGS_MAX, FILTER_MAILBOXES_MAX, FILTER_TOMBSTONES_MAX};

type MessageKey = (MailboxGuid, u32);

/// What to do with an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Apply(Op),
    /// A later operation that was seen already makes it void.
    Skip(&'static str),
}

/// A map that forgets its oldest entries past a bound. Forgetting is safe: it only has to span the time by which two
/// sessions' records can change places, which is milliseconds.
#[derive(Debug)]
struct Recent<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
    max: usize,
}

impl<K: Eq + Hash + Copy, V> Recent<K, V> {
    fn new(max: usize) -> Self {
        Self { map: HashMap::new(), order: VecDeque::new(), max }
    }

    fn put(&mut self, key: K, value: V) {
        if self.map.insert(key, value).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.max
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
        }
    }
}

impl<K: Eq + Hash, V> Recent<K, V> {
    fn remove(&mut self, key: &K) {
        if self.map.remove(key).is_some() {
            // Rare, and a key that stayed in the order would cost the one that is put next its place.
            self.order.retain(|kept| kept != key);
        }
    }
}

#[derive(Debug)]
struct Flags {
    modseq: u64,
    flags: u32,
    keywords: Vec<String>,
}

/// The memory of one account.
#[derive(Debug)]
pub struct Filter {
    newest: Recent<MessageKey, Flags>,
    expunged: Recent<MessageKey, ()>,
    deleted: Recent<MailboxGuid, ()>,
    /// Deletions that are journaled and not yet applied.
    coming: Recent<MailboxGuid, ()>,
    /// Where messages were moved away from.
    moved: Recent<MessageKey, ()>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            newest: Recent::new(FILTER_FLAGS_MAX),
            expunged: Recent::new(FILTER_TOMBSTONES_MAX),
            deleted: Recent::new(FILTER_MAILBOXES_MAX),
            coming: Recent::new(FILTER_MAILBOXES_MAX),
            moved: Recent::new(FILTER_TOMBSTONES_MAX),
        }
    }
}

impl Filter {
    /// Takes note of an operation that was applied before a restart: its flags are known, nothing is applied.
    pub fn remember(&mut self, op: &Op) {
        // The verdict is for operations that are still to be applied.
        let _ = self.judge(op.clone());
    }

    /// Takes note of an operation that is journaled but not yet applied: what it removes need not be made first, and
    /// flags that it sets need no older value before. Without this, a replica that lost the last moments of its cursor
    /// would save a message again that it had expunged, and find the UID gone; and show old flags for a moment.
    pub fn foresee(&mut self, op: &Op) {
        match op {
            Op::MessageExpunged { mailbox, uid, .. } => self.expunged.put((*mailbox, *uid), ()),
            // A directory has no identity of its own.
            Op::MailboxDeleted { guid, .. } if *guid != MailboxGuid::default() => self.coming.put(*guid, ()),
            Op::FlagsSet { mailbox, uid, flags, keywords, modseq, .. } => {
                let key = (*mailbox, *uid);
                if *modseq != 0 && self.newest.map.get(&key).is_none_or(|seen| seen.modseq < *modseq) {
                    self.newest.put(key, Flags { modseq: *modseq, flags: *flags, keywords: keywords.clone() });
                }
            }
            _ => {}
        }
    }

    /// Whether the mailbox was deleted in this stream.
    #[must_use]
    pub fn is_deleted(&self, mailbox: MailboxGuid) -> bool {
        self.deleted.map.contains_key(&mailbox) || self.coming.map.contains_key(&mailbox)
    }

    /// Whether the message was expunged in this stream.
    #[must_use]
    pub fn is_expunged(&self, mailbox: MailboxGuid, uid: u32) -> bool {
        self.expunged.map.contains_key(&(mailbox, uid))
    }

    /// The message goes on elsewhere: its expunge, which follows, destroys nothing.
    pub fn moved(&mut self, mailbox: MailboxGuid, uid: u32) {
        self.moved.put((mailbox, uid), ());
    }

    /// Whether the message was moved away from there.
    #[must_use]
    pub fn is_moved(&self, mailbox: MailboxGuid, uid: u32) -> bool {
        self.moved.map.contains_key(&(mailbox, uid))
    }

    /// Decides about the next operation of the account.
    pub fn judge(&mut self, op: Op) -> Verdict {
        if let Op::MailboxCreated { mailbox, .. } = &op {
            if self.coming.map.contains_key(&mailbox.guid) {
                return Verdict::Skip("it is deleted later");
            }
            self.deleted.remove(&mailbox.guid);
        } else if !matches!(op, Op::MailboxDeleted { .. }) && op.mailbox().is_some_and(|guid| self.is_deleted(guid)) {
            return Verdict::Skip("its mailbox is deleted later");
        }
        match op {
            Op::MessageSaved { mut message, snapshot } => {
                if self.is_expunged(message.mailbox, message.uid) {
                    return Verdict::Apply(uid_is_taken(message));
                }
                self.newest_into(
                    &mut message.modseq,
                    &mut message.flags,
                    &mut message.keywords,
                    message.mailbox,
                    message.uid,
                );
                Verdict::Apply(Op::MessageSaved { message, snapshot })
            }
            Op::MessageCopied { mut message, source, source_uid, moved } => {
                if self.is_expunged(message.mailbox, message.uid) {
                    return Verdict::Apply(uid_is_taken(message));
                }
                self.newest_into(
                    &mut message.modseq,
                    &mut message.flags,
                    &mut message.keywords,
                    message.mailbox,
                    message.uid,
                );
                Verdict::Apply(Op::MessageCopied { message, source, source_uid, moved })
            }
            Op::FlagsSet { mailbox, uid, guid, flags, keywords, modseq } => {
                if self.is_expunged(mailbox, uid) {
                    return Verdict::Skip("the message is expunged later");
                }
                if modseq != 0 && self.newest.map.get(&(mailbox, uid)).is_some_and(|seen| modseq < seen.modseq) {
                    return Verdict::Skip("a newer value of the flags was seen");
                }
                self.newest.put((mailbox, uid), Flags { modseq, flags, keywords: keywords.clone() });
                Verdict::Apply(Op::FlagsSet { mailbox, uid, guid, flags, keywords, modseq })
            }
            Op::MessageExpunged { mailbox, uid, .. } => {
                self.expunged.put((mailbox, uid), ());
                Verdict::Apply(op)
            }
            Op::MailboxDeleted { guid, .. } => {
                self.coming.remove(&guid);
                if guid != MailboxGuid::default() {
                    self.deleted.put(guid, ());
                }
                Verdict::Apply(op)
            }
            other => Verdict::Apply(other),
        }
    }

    /// A save whose flags were changed by a record that came before it takes over the newer value.
    fn newest_into(
        &self,
        modseq: &mut u64,
        flags: &mut u32,
        keywords: &mut Vec<String>,
        mailbox: MailboxGuid,
        uid: u32,
    ) {
        if let Some(seen) = self.newest.map.get(&(mailbox, uid))
            && seen.modseq > *modseq
        {
            *modseq = seen.modseq;
            *flags = seen.flags;
            keywords.clone_from(&seen.keywords);
        }
    }
}

/// What is left of a message that is expunged later: its UID is never given again (seen: UIDNEXT one less than on the
/// active).
fn uid_is_taken(message: Message) -> Op {
    let mailbox = Mailbox {
        guid: message.mailbox,
        name: message.mailbox_name,
        uid_validity: message.uid_validity,
        next_uid: message.uid.saturating_add(1),
        ..Mailbox::default()
    };
    Op::MailboxUpdated { mailbox, snapshot: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: MailboxGuid = MailboxGuid([1; 16]);

    fn flags(uid: u32, modseq: u64, flags: u32) -> Op {
        Op::FlagsSet { mailbox: BOX, uid, guid: "g".into(), flags, keywords: vec![], modseq }
    }

    fn save(uid: u32, modseq: u64) -> Op {
        let message = Message { mailbox: BOX, uid, guid: "g".into(), modseq, ..Message::default() };
        Op::MessageSaved { message, snapshot: 0 }
    }

    fn expunge(uid: u32) -> Op {
        Op::MessageExpunged { mailbox: BOX, uid, guid: "g".into() }
    }

    #[test]
    fn the_newest_flags_win_in_whatever_order_they_come() {
        let mut filter = Filter::default();
        assert_eq!(filter.judge(flags(1, 10, 8)), Verdict::Apply(flags(1, 10, 8)));
        assert!(matches!(filter.judge(flags(1, 9, 1)), Verdict::Skip(_)));
        assert_eq!(filter.judge(flags(1, 11, 2)), Verdict::Apply(flags(1, 11, 2)));
        assert_eq!(filter.judge(flags(2, 9, 1)), Verdict::Apply(flags(2, 9, 1)), "another message is another matter");
    }

    #[test]
    fn a_save_that_comes_after_its_flags_takes_them_over() {
        let mut filter = Filter::default();
        filter.judge(flags(1, 10, 8));
        let Verdict::Apply(Op::MessageSaved { message, .. }) = filter.judge(save(1, 9)) else { panic!("applies") };
        assert_eq!((message.flags, message.modseq), (8, 10));
    }

    #[test]
    fn what_was_expunged_or_deleted_does_not_come_back() {
        let mut filter = Filter::default();
        filter.judge(expunge(1));
        assert!(matches!(filter.judge(save(1, 9)), Verdict::Apply(Op::MailboxUpdated { .. })));
        assert!(matches!(filter.judge(flags(1, 12, 1)), Verdict::Skip(_)));
        filter.judge(Op::MailboxDeleted { guid: BOX, name: "b".into() });
        assert!(matches!(filter.judge(save(2, 9)), Verdict::Skip(_)));
        let mailbox = Mailbox { guid: BOX, name: "b".into(), ..Mailbox::default() };
        assert!(matches!(filter.judge(Op::MailboxCreated { mailbox, snapshot: 0 }), Verdict::Apply(_)));
        assert!(matches!(filter.judge(save(3, 9)), Verdict::Apply(_)), "a mailbox made again takes mail again");
    }

    #[test]
    fn a_deleted_directory_does_not_void_what_happens_to_others() {
        let mut filter = Filter::default();
        let none = MailboxGuid::default();
        filter.foresee(&Op::MailboxDeleted { guid: none, name: "d".into() });
        filter.judge(Op::MailboxDeleted { guid: none, name: "d".into() });
        let renamed = Op::MailboxRenamed { guid: none, old_name: "e".into(), new_name: "f".into() };
        assert_eq!(filter.judge(renamed.clone()), Verdict::Apply(renamed));
    }

    #[test]
    fn what_is_expunged_later_in_the_journal_is_not_saved_first() {
        let mut filter = Filter::default();
        filter.foresee(&expunge(5));
        let Verdict::Apply(Op::MailboxUpdated { mailbox, .. }) = filter.judge(save(5, 1)) else { panic!("its UID") };
        assert_eq!((mailbox.guid, mailbox.next_uid), (BOX, 6), "the UID is taken all the same");
        assert!(matches!(filter.judge(expunge(5)), Verdict::Apply(_)));
    }

    #[test]
    fn a_mailbox_that_is_deleted_later_in_the_journal_is_not_made_first() {
        let (mut filter, deleted) = (Filter::default(), Op::MailboxDeleted { guid: BOX, name: "b".into() });
        let created = || Op::MailboxCreated {
            mailbox: Mailbox { guid: BOX, name: "b".into(), ..Mailbox::default() },
            snapshot: 0,
        };
        filter.foresee(&deleted);
        assert!(matches!(filter.judge(created()), Verdict::Skip(_)));
        assert!(matches!(filter.judge(save(1, 1)), Verdict::Skip(_)));
        assert!(matches!(filter.judge(deleted), Verdict::Apply(_)));
        assert!(matches!(filter.judge(created()), Verdict::Apply(_)), "only what comes before the deletion");
    }

    #[test]
    fn flags_that_are_set_later_in_the_journal_are_not_set_to_something_older_first() {
        let mut filter = Filter::default();
        filter.foresee(&flags(1, 12, 8));
        filter.foresee(&flags(1, 11, 2));
        assert!(matches!(filter.judge(flags(1, 11, 2)), Verdict::Skip(_)));
        assert_eq!(filter.judge(flags(1, 12, 8)), Verdict::Apply(flags(1, 12, 8)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::new(3);
        (0..100u32).for_each(|n| recent.put(n, n));
        assert_eq!((recent.map.len(), recent.order.len()), (3, 3));
        assert!(recent.map.contains_key(&99) && !recent.map.contains_key(&96));
    }
}
