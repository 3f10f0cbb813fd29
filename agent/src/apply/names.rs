//! The part of a plan that gives every mailbox its name: what has to go, and renames.
//!
//! Owns: the order in which names are freed and taken. Pure. What can hurt: renaming a mailbox takes those below it
//! along, and a name may be held by another mailbox, or by one without mail that others are below. So where more than
//! one name is concerned, all those mailboxes are first put aside, those deepest down first, each under a flat name of
//! its own, and then take their names, parents first. Refuses: knowing the store's separator: any sign that is not
//! part of a word may be one. A wrong guess costs another round, for every round starts from what the store has.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::MailboxGuid;
use understudy_types::op::Op;

use super::plan::{Live, must_be_made_anew};
use crate::digest::{AccountState, MailboxState};

/// Whether `name` may be below `parent`.
pub(crate) fn is_below(name: &str, parent: &str) -> bool {
    name.strip_prefix(parent)
        .and_then(|rest| rest.chars().next())
        .is_some_and(|sign| !sign.is_alphanumeric() && !matches!(sign, ' ' | '-' | '_'))
}

/// Where a mailbox waits until its name is free.
fn aside(guid: MailboxGuid) -> String {
    format!("understudy-{guid}")
}

/// Deletions, or renames; empty when every mailbox that is to stay has its name.
pub(super) fn put_right(target: &AccountState, current: &AccountState, live: &Live) -> Vec<Op> {
    let wanted: BTreeMap<&str, MailboxGuid> =
        target.mailboxes.iter().map(|(guid, mailbox)| (mailbox.name.as_str(), *guid)).collect();
    let doomed = doomed(target, current, live, &wanted);
    if !doomed.is_empty() {
        return doomed;
    }
    let wrong: BTreeMap<MailboxGuid, (&str, &str)> = target
        .mailboxes
        .iter()
        .filter_map(|(guid, want)| Some((*guid, (current.mailboxes.get(guid)?.name.as_str(), want.name.as_str()))))
        .filter(|(guid, (have, want))| have != want && !live.deleted.contains(guid))
        .collect();
    if wrong.values().all(|(have, want)| is_simple(have, want, &wrong, current)) {
        let mut simple: Vec<_> = wrong.iter().collect();
        // Parents first: below a name that no mailbox has, the store makes one without mail, which then holds the name.
        simple.sort_unstable_by_key(|(_, (_, want))| *want);
        return simple.into_iter().map(|(guid, (have, want))| rename(*guid, have, want)).collect();
    }
    // What live operations made and the snapshot does not know is made again by them.
    let unknown = current.mailboxes.iter().filter(|(guid, _)| live.mailboxes.contains(guid));
    let unknown: Vec<Op> = unknown
        .filter(|(guid, _)| !target.mailboxes.contains_key(guid))
        .map(|(guid, mailbox)| delete(*guid, mailbox))
        .collect();
    if unknown.is_empty() { by_way_of_aside(target, current, live, &wrong) } else { unknown }
}

/// Whether the rename touches nothing but its own two names.
fn is_simple(have: &str, want: &str, wrong: &BTreeMap<MailboxGuid, (&str, &str)>, current: &AccountState) -> bool {
    current.mailboxes.values().all(|other| other.name != want && !is_below(&other.name, have))
        && current.directories.iter().all(|name| name != want && !is_below(name, have))
        && wrong.values().all(|(other, _)| !is_below(want, other))
}

/// The mailboxes that cannot stay, those deepest down first.
fn doomed(target: &AccountState, current: &AccountState, live: &Live, wanted: &BTreeMap<&str, MailboxGuid>) -> Vec<Op> {
    let is_doomed = |guid: &MailboxGuid, have: &MailboxState| {
        let owner = wanted.get(have.name.as_str()).filter(|owner| *owner != guid);
        match target.mailboxes.get(guid) {
            None if live.mailboxes.contains(guid) || live.renamed.contains(guid) => owner.is_some(),
            // An empty mailbox of a wanted name takes over the wanted identity when that is created.
            None => !have.messages.is_empty() || owner.is_none_or(|owner| current.mailboxes.contains_key(owner)),
            Some(_) if live.deleted.contains(guid) => owner.is_some(),
            Some(want) => live.anew.contains(guid) || must_be_made_anew(*guid, want, have, live),
        }
    };
    let mut doomed: Vec<_> = current.mailboxes.iter().filter(|(guid, have)| is_doomed(guid, have)).collect();
    doomed.sort_by_key(|(_, have)| std::cmp::Reverse(&have.name));
    doomed.into_iter().map(|(guid, have)| delete(*guid, have)).collect()
}

fn by_way_of_aside(
    target: &AccountState,
    current: &AccountState,
    live: &Live,
    wrong: &BTreeMap<MailboxGuid, (&str, &str)>,
) -> Vec<Op> {
    let mut ops = Vec::new();
    // The names as the operations so far will have left them.
    let mut names: BTreeMap<MailboxGuid, String> =
        current.mailboxes.iter().map(|(guid, mailbox)| (*guid, mailbox.name.clone())).collect();
    let want = |guid: &MailboxGuid| {
        target.mailboxes.get(guid).filter(|_| !live.deleted.contains(guid)).map(|mailbox| mailbox.name.as_str())
    };
    // A name without mail that is wanted for mail must be empty to go.
    let held: BTreeSet<&str> =
        wrong.values().map(|(_, want)| *want).filter(|want| current.directories.contains(*want)).collect();
    let moves = |guid: &MailboxGuid, name: &str| {
        want(guid).is_some_and(|want| want != name) || held.iter().any(|held| is_below(name, held))
    };
    let next = |names: &BTreeMap<MailboxGuid, String>| {
        let moving = names.iter().filter(|(guid, name)| **name != aside(**guid) && moves(guid, name));
        moving.max_by_key(|(_, name)| name.len()).map(|(guid, _)| *guid)
    };
    while let Some(guid) = next(&names) {
        ops.push(move_to(&mut names, guid, &aside(guid)));
    }
    // Names without mail went along with those above them: the next round sees where they are.
    if !ops.is_empty() && !held.is_empty() {
        return ops;
    }
    let in_the_way = |name: &str| held.iter().any(|held| name == *held || is_below(name, held));
    for name in current.directories.iter().rev().filter(|name| in_the_way(name)) {
        ops.push(Op::MailboxDeleted { guid: MailboxGuid::default(), name: name.clone() });
    }
    let mut last: Vec<(&str, MailboxGuid)> = names
        .iter()
        .filter(|(guid, name)| **name == aside(**guid))
        .filter_map(|(guid, _)| Some((want(guid)?, *guid)))
        .collect();
    last.sort_unstable();
    for (name, guid) in last {
        ops.push(move_to(&mut names, guid, name));
    }
    ops
}

fn move_to(names: &mut BTreeMap<MailboxGuid, String>, guid: MailboxGuid, new_name: &str) -> Op {
    let old_name = names.get(&guid).cloned().unwrap_or_default();
    for name in names.values_mut() {
        if is_below(name, &old_name) {
            name.replace_range(..old_name.len(), new_name);
        }
    }
    names.insert(guid, new_name.to_owned());
    rename(guid, &old_name, new_name)
}

fn rename(guid: MailboxGuid, have: &str, want: &str) -> Op {
    Op::MailboxRenamed { guid, old_name: have.to_owned(), new_name: want.to_owned() }
}

fn delete(guid: MailboxGuid, mailbox: &MailboxState) -> Op {
    Op::MailboxDeleted { guid, name: mailbox.name.clone() }
}

/// Names without mail: those that are missing, and those that are too many and hold nothing, deepest down first.
pub(super) fn directories(target: &AccountState, current: &AccountState) -> (Vec<Op>, Vec<Op>) {
    use understudy_types::op::Mailbox;

    let is_mailbox = |name: &String| current.mailboxes.values().any(|mailbox| mailbox.name == *name);
    let missing = target.directories.difference(&current.directories).filter(|name| !is_mailbox(name));
    let made = missing.map(|name| {
        let mailbox = Mailbox { name: name.clone(), directory: true, ..Mailbox::default() };
        Op::MailboxCreated { mailbox, snapshot: 0 }
    });
    let mut kept: Vec<&str> = current.mailboxes.values().map(|mailbox| mailbox.name.as_str()).collect();
    kept.extend(target.mailboxes.values().map(|mailbox| mailbox.name.as_str()));
    kept.extend(target.directories.iter().map(String::as_str));
    let spare = current.directories.difference(&target.directories);
    let mut spare: Vec<&String> =
        spare.filter(|name| !kept.iter().any(|kept| *kept == name.as_str() || is_below(kept, name))).collect();
    spare.reverse();
    let gone = spare.into_iter().map(|name| Op::MailboxDeleted { guid: MailboxGuid::default(), name: name.clone() });
    (made.collect(), gone.collect())
}
