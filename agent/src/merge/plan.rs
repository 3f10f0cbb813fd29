//! From the states of both sides and where they parted to what the active is to be given, and what is to be told.
//!
//! Owns: mailboxes, their names, subscriptions and METADATA; messages are in [`super::messages`]. Pure. What can hurt:
//! a second run after a crash; the plan for a state that was merged is empty. Items are operations for
//! [`super::target::merge_into`]: of a saved message the UID is the one it had here, and the active gives it another;
//! flags carry the modification sequence that the active's message had, so that a user's later change is left alone.
//! Refuses: repeating deletions, expunges and removals of this node; they are told and the active's state stays. Names
//! that hold mailboxes and no mail are not compared: some stores keep none.

use std::collections::BTreeMap;

use understudy_types::id::MailboxGuid;
use understudy_types::op::{Mailbox, Op};

use super::messages;
use super::{Finding, ForkState, MailboxMark, What};
use crate::apply::names::is_below;
use crate::digest::state::AttributeKey;
use crate::digest::{AccountState, MailboxState};

/// What is to be done for one account, in this order, and what is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergePlan {
    pub items: Vec<Op>,
    pub report: Vec<Finding>,
}

impl MergePlan {
    /// Messages that are to be brought.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.items.iter().filter(|op| matches!(op, Op::MessageSaved { .. })).count()
    }

    /// Findings that are conflicts.
    #[must_use]
    pub fn conflicts(&self) -> usize {
        self.report.iter().filter(|finding| finding.what.is_conflict()).count()
    }
}

/// Where messages of one of this node's mailboxes belong on the active.
pub(super) struct Target<'a> {
    pub guid: MailboxGuid,
    pub name: String,
    /// `None`: the active has no such mailbox.
    pub state: Option<&'a MailboxState>,
    /// The active's mailbox is the same one, with the same UIDVALIDITY: UIDs and modification sequences mean the same
    /// on both sides. One that was deleted there and made anew by a merge is another.
    pub same: bool,
}

/// Plans the merge of one account.
#[must_use]
pub fn plan(own: &AccountState, active: &AccountState, fork: &ForkState) -> MergePlan {
    let mut plan = Planner {
        own,
        active,
        fork,
        names: active.mailboxes.iter().map(|(guid, mailbox)| (*guid, mailbox.name.clone())).collect(),
        done: MergePlan::default(),
    };
    plan.renames();
    plan.mailboxes();
    plan.deleted_here();
    plan.subscriptions();
    attributes(&mut plan.done, None, "", &own.attributes, &active.attributes);
    if !fork.is_known() && !plan.done.items.is_empty() {
        let here = format!("{} messages", own.message_count());
        let there = format!("{} messages", active.message_count());
        let decision = "nothing that is here counts as deleted there";
        plan.done.report.insert(0, finding(What::ForkUnknown, "", here, there, decision));
    }
    plan.done
}

pub(super) fn finding(
    what: What,
    mailbox: &str,
    here: impl Into<String>,
    there: impl Into<String>,
    decision: &str,
) -> Finding {
    Finding {
        what,
        mailbox: mailbox.to_owned(),
        object: String::new(),
        uid: 0,
        here: here.into(),
        there: there.into(),
        decision: decision.to_owned(),
    }
}

struct Planner<'a> {
    own: &'a AccountState,
    active: &'a AccountState,
    fork: &'a ForkState,
    /// Names on the active when what was planned so far is done.
    names: BTreeMap<MailboxGuid, String>,
    done: MergePlan,
}

impl<'a> Planner<'a> {
    /// The fork's mark of a mailbox, if it speaks of the same UIDs.
    fn mark(&self, guid: MailboxGuid, own: &MailboxState) -> Option<&'a MailboxMark> {
        let same = |mark: &&MailboxMark| {
            mark.uid_validity == 0 || own.uid_validity == 0 || mark.uid_validity == own.uid_validity
        };
        self.fork.marks.get(&guid).filter(same)
    }

    fn owner_of(&self, name: &str) -> Option<MailboxGuid> {
        self.names.iter().find(|(_, have)| *have == name).map(|(guid, _)| *guid)
    }

    /// Mailboxes of this node by name, so that parents come before those below them.
    fn own_by_name(&self) -> BTreeMap<&'a str, (MailboxGuid, &'a MailboxState)> {
        self.own.mailboxes.iter().map(|(guid, mailbox)| (mailbox.name.as_str(), (*guid, mailbox))).collect()
    }

    fn renames(&mut self) {
        for (want, (guid, _)) in self.own_by_name() {
            let (Some(there), Some(have)) = (self.active.mailboxes.get(&guid), self.names.get(&guid).cloned()) else {
                continue;
            };
            if have == want {
                continue;
            }
            let before = self.fork.marks.get(&guid).map(|mark| mark.name.as_str());
            if before == Some(want) {
                // Only the active renamed it.
                continue;
            }
            if before != Some(there.name.as_str()) {
                let decision = "the active's name stays";
                self.done.report.push(finding(What::RenameConflict, want, want, &have, decision));
            } else if self.owner_of(want).is_some() {
                let decision = "the name is taken there: the active's name stays";
                self.done.report.push(finding(What::RenameConflict, want, want, &have, decision));
            } else {
                self.rename(guid, &have, want);
            }
        }
    }

    fn rename(&mut self, guid: MailboxGuid, have: &str, want: &str) {
        for name in self.names.values_mut() {
            if is_below(name, have) {
                name.replace_range(..have.len(), want);
            }
        }
        self.names.insert(guid, want.to_owned());
        self.done.items.push(Op::MailboxRenamed { guid, old_name: have.to_owned(), new_name: want.to_owned() });
        self.done.report.push(finding(What::MailboxRenamed, want, want, have, "renamed there"));
    }

    fn mailboxes(&mut self) {
        for (name, (guid, own)) in self.own_by_name() {
            let mark = self.mark(guid, own);
            let deleted = self.fork.marks.contains_key(&guid) && !self.active.mailboxes.contains_key(&guid);
            let target = self.target(guid, name);
            let found = messages::plan(own, mark, &target);
            let comes_back = found.items.iter().any(|op| matches!(op, Op::MessageSaved { .. }));
            if deleted && comes_back {
                let (here, there) = (format!("{} messages", own.messages.len()), "deleted");
                let decision = "those that it never had come back in a mailbox of that name";
                self.done.report.push(finding(What::MailboxDeletedThere, name, here, there, decision));
            }
            if target.state.is_none() && (comes_back || !deleted) {
                self.names.insert(guid, name.to_owned());
                // Its UIDs are given anew, so its UIDVALIDITY is, too.
                let mailbox = Mailbox { guid, name: name.to_owned(), ..Mailbox::default() };
                self.done.items.push(Op::MailboxCreated { mailbox, snapshot: 0 });
                if !deleted {
                    let here = format!("{} messages", own.messages.len());
                    self.done.report.push(finding(What::MailboxBrought, name, here, "absent", "made there"));
                }
                attributes(&mut self.done, Some(guid), name, &own.attributes, &BTreeMap::new());
            } else if let (true, Some(there)) = (target.same, target.state) {
                attributes(&mut self.done, Some(guid), name, &own.attributes, &there.attributes);
            }
            self.done.items.extend(found.items);
            self.done.report.extend(found.report);
        }
    }

    fn target(&self, guid: MailboxGuid, name: &str) -> Target<'a> {
        if let Some(state) = self.active.mailboxes.get(&guid) {
            let name = self.names.get(&guid).cloned().unwrap_or_default();
            let same = self.own.mailboxes.get(&guid).is_some_and(|own| own.uid_validity == state.uid_validity);
            return Target { guid, name, state: Some(state), same };
        }
        let owner = self.owner_of(name).filter(|owner| self.active.mailboxes.contains_key(owner));
        let guid = owner.unwrap_or(guid);
        let state = owner.and_then(|owner| self.active.mailboxes.get(&owner));
        Target { guid, name: name.to_owned(), state, same: false }
    }

    fn deleted_here(&mut self) {
        for (guid, there) in &self.active.mailboxes {
            if self.fork.marks.contains_key(guid) && !self.own.mailboxes.contains_key(guid) {
                let have = format!("{} messages", there.messages.len());
                self.done.report.push(finding(What::MailboxDeletedHere, &there.name, "deleted", have, "kept"));
            }
        }
    }

    /// What is subscribed here: who took one away is not known, and one too many does no harm.
    fn subscriptions(&mut self) {
        for name in self.own.subscriptions.difference(&self.active.subscriptions) {
            let gone =
                self.owner_of(name).is_none() && self.own.mailboxes.values().any(|mailbox| mailbox.name == *name);
            if gone {
                continue;
            }
            self.done.items.push(Op::Subscribed { name: name.clone(), snapshot: 0 });
            let mut found = finding(What::SubscriptionBrought, "", "subscribed", "not", "subscribed there");
            found.object.clone_from(name);
            self.done.report.push(found);
        }
    }
}

/// Entries have no history: one that is only here is brought, one that differs stays as the active has it.
fn attributes(
    done: &mut MergePlan,
    mailbox: Option<MailboxGuid>,
    name: &str,
    own: &BTreeMap<AttributeKey, Vec<u8>>,
    active: &BTreeMap<AttributeKey, Vec<u8>>,
) {
    for ((private, key), value) in own {
        let there = active.get(&(*private, key.clone()));
        if there == Some(value) {
            continue;
        }
        let here = String::from_utf8_lossy(value);
        let (what, have, decision) = match there {
            None => (What::AttributeBrought, "absent".into(), "set there"),
            Some(there) => (What::AttributeConflict, String::from_utf8_lossy(there), "the active's stays"),
        };
        let mut found = finding(what, name, here, have, decision);
        found.object = format!("/{}/{key}", if *private { "private" } else { "shared" });
        done.report.push(found);
        if there.is_none() {
            let value = Some(value.clone());
            done.items.push(Op::AttributeSet { mailbox, private: *private, key: key.clone(), value, snapshot: 0 });
        }
    }
}
