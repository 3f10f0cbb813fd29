//! What makes replay converge when operations reach the ring in another order than the store committed them.
//!
//! Owns: the newest flags seen per message, and tombstones of expunged messages and deleted mailboxes. Pure.
//! What can hurt: sessions of one account publish their flag changes without a common lock, so of two records about
//! one message the older may come last (measured: 38 to 73 of 1,200 with four sessions on one message). Refuses:
//! letting an older value win, bringing an expunged message back, making a mailbox because somebody set flags in it.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use understudy_types::id::MailboxGuid;
use understudy_types::op::Op;

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
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            newest: Recent::new(FILTER_FLAGS_MAX),
            expunged: Recent::new(FILTER_TOMBSTONES_MAX),
            deleted: Recent::new(FILTER_MAILBOXES_MAX),
        }
    }
}

impl Filter {
    /// Takes note of an operation that was applied before a restart: its flags are known, nothing is applied.
    pub fn remember(&mut self, op: &Op) {
        // The verdict is for operations that are still to be applied.
        let _ = self.judge(op.clone());
    }

    /// Takes note of an operation that is journaled but not yet applied: what it removes need not be made first.
    /// Without this, a replica that lost the last moments of its cursor would save a message again that it had
    /// expunged, and find the UID gone.
    pub fn foresee(&mut self, op: &Op) {
        match op {
            Op::MessageExpunged { mailbox, uid, .. } => self.expunged.put((*mailbox, *uid), ()),
            Op::MailboxDeleted { guid, .. } => self.deleted.put(*guid, ()),
            _ => {}
        }
    }

    /// Whether the mailbox was deleted in this stream.
    #[must_use]
    pub fn is_deleted(&self, mailbox: MailboxGuid) -> bool {
        self.deleted.map.contains_key(&mailbox)
    }

    /// Whether the message was expunged in this stream.
    #[must_use]
    pub fn is_expunged(&self, mailbox: MailboxGuid, uid: u32) -> bool {
        self.expunged.map.contains_key(&(mailbox, uid))
    }

    /// Decides about the next operation of the account.
    pub fn judge(&mut self, op: Op) -> Verdict {
        if let Op::MailboxCreated { mailbox, .. } = &op {
            self.deleted.map.remove(&mailbox.guid);
        } else if !matches!(op, Op::MailboxDeleted { .. }) && op.mailbox().is_some_and(|guid| self.is_deleted(guid)) {
            return Verdict::Skip("its mailbox is deleted later");
        }
        match op {
            Op::MessageSaved { mut message, snapshot } => {
                if self.is_expunged(message.mailbox, message.uid) {
                    return Verdict::Skip("the message is expunged later");
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
                    return Verdict::Skip("the message is expunged later");
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
                self.deleted.put(guid, ());
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

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_types::op::{Mailbox, Message};

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
        assert!(matches!(filter.judge(save(1, 9)), Verdict::Skip(_)));
        assert!(matches!(filter.judge(flags(1, 12, 1)), Verdict::Skip(_)));
        filter.judge(Op::MailboxDeleted { guid: BOX, name: "b".into() });
        assert!(matches!(filter.judge(save(2, 9)), Verdict::Skip(_)));
        let mailbox = Mailbox { guid: BOX, name: "b".into(), ..Mailbox::default() };
        assert!(matches!(filter.judge(Op::MailboxCreated { mailbox, snapshot: 0 }), Verdict::Apply(_)));
        assert!(matches!(filter.judge(save(3, 9)), Verdict::Apply(_)), "a mailbox made again takes mail again");
    }

    #[test]
    fn what_is_expunged_later_in_the_journal_is_not_saved_first() {
        let mut filter = Filter::default();
        filter.foresee(&expunge(5));
        assert!(matches!(filter.judge(save(5, 1)), Verdict::Skip(_)));
        assert!(matches!(filter.judge(expunge(5)), Verdict::Apply(_)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::new(3);
        (0..100u32).for_each(|n| recent.put(n, n));
        assert_eq!((recent.map.len(), recent.order.len()), (3, 3));
        assert!(recent.map.contains_key(&99) && !recent.map.contains_key(&96));
    }
}
