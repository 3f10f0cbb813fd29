//! The part of a plan that is about the messages of one mailbox of the node that came back.
//!
//! Owns: which messages the active never had, which it deleted, and whose flags hold. Pure. What can hurt: counters
//! that do not mean what they seem to. A replica may count modification sequences ahead of its active, so a change here
//! may be below the fork's highest; but what the active changed is above it for certain. So flags that differ and that
//! the active did not change were changed here. Refuses: matching by UID; the store's GUID says what a message is.

use std::collections::{HashMap, HashSet};

use understudy_types::op::{Message, Op};

use super::finding::flags_text;
use super::plan::{MergePlan, Target, finding};
use super::{MailboxMark, What};
use crate::digest::{MailboxState, MessageState};

/// Plans one mailbox. Without a mark nothing of it counts as known to both.
pub(super) fn plan(own: &MailboxState, mark: Option<&MailboxMark>, target: &Target<'_>) -> MergePlan {
    let mut done = MergePlan::default();
    let empty = MailboxState::default();
    let there = target.state.unwrap_or(&empty);
    let known_there = by_guid(there);
    let mut brought = HashSet::new();
    let copy = |uid: u32, guid: &str| {
        let mut found = finding(What::CopyLeft, &own.name, "copied", "once", "once is enough");
        (found.object, found.uid) = (guid.to_owned(), uid);
        found
    };
    for (uid, message) in &own.messages {
        match known_there.get(message.guid.as_str()) {
            None if brought.contains(message.guid.as_str()) => done.report.push(copy(*uid, &message.guid)),
            None => {
                if missing(&mut done, own, (*uid, message), mark, target, there) {
                    brought.insert(message.guid.as_str());
                }
            }
            Some(uids) if target.same && uids.contains(uid) => {
                flags(&mut done, own, (*uid, message), mark, target, &there.messages[uid]);
            }
            Some(uids) if target.same => {
                // Under another UID it is another copy, or what a merge before this one brought.
                let newer = mark.is_none_or(|mark| *uid >= mark.next_uid);
                let first = |at| own.messages.get(at).is_some_and(|first| first.guid == message.guid);
                if newer && uids.iter().any(first) {
                    done.report.push(copy(*uid, &message.guid));
                }
            }
            // A mailbox that was made there after the fork: what is in it is newer.
            Some(_) => {}
        }
    }
    if let (true, Some(mark)) = (target.same, mark) {
        let here = by_guid(own);
        for (uid, message) in there.messages.range(..mark.next_uid) {
            if !here.contains_key(message.guid.as_str()) {
                let mut found = finding(What::ExpungedHere, &own.name, "expunged", "present", "kept");
                (found.object, found.uid) = (message.guid.clone(), *uid);
                done.report.push(found);
            }
        }
    }
    done
}

fn by_guid(mailbox: &MailboxState) -> HashMap<&str, Vec<u32>> {
    let mut known: HashMap<&str, Vec<u32>> = HashMap::new();
    for (uid, message) in &mailbox.messages {
        known.entry(message.guid.as_str()).or_default().push(*uid);
    }
    known
}

/// A message that is not there. `true` when it is brought.
fn missing(
    done: &mut MergePlan,
    own: &MailboxState,
    (uid, message): (u32, &MessageState),
    mark: Option<&MailboxMark>,
    target: &Target<'_>,
    there: &MailboxState,
) -> bool {
    let other = there.messages.get(&uid).filter(|_| target.same);
    let about = |what, have: &str, decision| {
        let flags = flags_text(message.flags, &message.keywords);
        let mut found = finding(what, &own.name, format!("uid {uid}, flags {flags}"), have, decision);
        (found.object, found.uid) = (message.guid.clone(), uid);
        found
    };
    if let (Some(mark), None) = (mark, other)
        && uid < mark.next_uid
    {
        if message.modseq > mark.highest_modseq {
            done.report.push(about(What::DeletedThere, "deleted", "it stays deleted"));
        }
        return false;
    }
    if let Some(other) = other {
        let have = format!("uid {uid} is message {}", other.guid);
        done.report.push(about(What::UidConflict, &have, "both stay; this one gets a new UID"));
    }
    done.report.push(about(What::MessageBrought, "absent", "it comes back with a new UID"));
    let message = Message {
        mailbox: target.guid,
        mailbox_name: target.name.clone(),
        uid_validity: 0,
        uid,
        guid: message.guid.clone(),
        blob: message.blob,
        size_physical_bytes: message.size_physical_bytes,
        size_virtual_bytes: message.size_virtual_bytes,
        received_s: message.received_s,
        received_tz_minutes: message.received_tz_minutes,
        saved_s: message.saved_s,
        flags: message.flags,
        keywords: message.keywords.clone(),
        modseq: 0,
    };
    done.items.push(Op::MessageSaved { message, snapshot: 0 });
    true
}

/// A message that both sides have, under one UID.
fn flags(
    done: &mut MergePlan,
    own: &MailboxState,
    (uid, here): (u32, &MessageState),
    mark: Option<&MailboxMark>,
    target: &Target<'_>,
    there: &MessageState,
) {
    if here.flags == there.flags && here.keywords == there.keywords {
        return;
    }
    let changed_there = match mark {
        Some(mark) => there.modseq > mark.highest_modseq,
        None => there.modseq >= here.modseq,
    };
    let changed_here = !changed_there || mark.is_none_or(|mark| here.modseq > mark.highest_modseq);
    if !changed_here {
        return;
    }
    let (what, decision) = if changed_there {
        (What::FlagsConflict, "the active's flags stay")
    } else {
        (What::FlagsBrought, "set there")
    };
    let (mine, theirs) = (flags_text(here.flags, &here.keywords), flags_text(there.flags, &there.keywords));
    let mut found = finding(what, &own.name, mine, theirs, decision);
    (found.object, found.uid) = (here.guid.clone(), uid);
    done.report.push(found);
    if !changed_there {
        done.items.push(Op::FlagsSet {
            mailbox: target.guid,
            uid,
            guid: here.guid.clone(),
            flags: here.flags,
            keywords: here.keywords.clone(),
            modseq: there.modseq,
        });
    }
}
