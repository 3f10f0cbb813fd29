//! Plans are judged by their effect: a model of a store, which refuses what a store refuses, follows them until the
//! plan is empty, and must then equal the target.

use proptest::prelude::*;

use super::*;
use crate::digest::first_difference;
use crate::limits::PLAN_ROUNDS_MAX;

/// Those below a name, in a store whose separator is `/`.
fn below<'a>(state: &'a AccountState, name: &str) -> Vec<&'a str> {
    let names = state.mailboxes.values().map(|have| &have.name).chain(&state.directories);
    names.filter_map(|have| have.strip_prefix(name)?.starts_with('/').then_some(have.as_str())).collect()
}

/// A folder stands for every name that others are below; it stays when they go.
fn make_parents(state: &mut AccountState) {
    let names: Vec<String> = state.mailboxes.values().map(|have| have.name.clone()).collect();
    let names = names.into_iter().chain(state.directories.clone());
    for name in names {
        for (at, _) in name.match_indices('/') {
            let parent = &name[..at];
            if state.mailboxes.values().all(|have| have.name != parent) {
                state.directories.insert(parent.to_owned());
            }
        }
    }
}

/// What a store does with an operation; an error where it would refuse.
fn apply(state: &mut AccountState, op: &Op) -> Result<(), String> {
    apply_one(state, op)?;
    make_parents(state);
    Ok(())
}

fn apply_one(state: &mut AccountState, op: &Op) -> Result<(), String> {
    match op {
        Op::MailboxCreated { mailbox, .. } if mailbox.directory => drop(state.directories.insert(mailbox.name.clone())),
        Op::MailboxCreated { mailbox, .. } => {
            let same_name = state.mailboxes.iter().find(|(_, have)| have.name == mailbox.name).map(|(guid, _)| *guid);
            if let Some(guid) = same_name {
                if !state.mailboxes[&guid].messages.is_empty() {
                    return Err(format!("`{}` is taken", mailbox.name));
                }
                state.mailboxes.remove(&guid);
            }
            let fresh = MailboxState {
                name: mailbox.name.clone(),
                uid_validity: mailbox.uid_validity,
                next_uid: 1,
                ..MailboxState::default()
            };
            state.directories.remove(&mailbox.name);
            state.mailboxes.insert(mailbox.guid, fresh);
        }
        Op::MailboxDeleted { guid, name } if *guid == MailboxGuid::default() => {
            if !below(state, name).is_empty() || !state.directories.remove(name) {
                return Err(format!("`{name}` holds mailboxes, or is none"));
            }
        }
        Op::MailboxDeleted { guid, .. } => drop(state.mailboxes.remove(guid).ok_or("no such mailbox")?),
        Op::MailboxRenamed { guid, new_name, .. } => {
            let old_name = state.mailboxes.get(guid).ok_or("no such mailbox")?.name.clone();
            let taken = state.mailboxes.values().any(|have| have.name == *new_name);
            if taken || !below(state, new_name).is_empty() || new_name.starts_with(&format!("{old_name}/")) {
                return Err(format!("`{new_name}` is taken or below `{old_name}`"));
            }
            state.directories.remove(new_name);
            let moved = |name: &str| match name.strip_prefix(&old_name) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{new_name}{rest}"),
                _ => name.to_owned(),
            };
            state.mailboxes.values_mut().for_each(|have| have.name = moved(&have.name));
            state.directories = state.directories.iter().map(|name| moved(name)).collect();
        }
        Op::MailboxUpdated { mailbox, .. } => {
            let have = state.mailboxes.get_mut(&mailbox.guid).ok_or("no such mailbox")?;
            have.next_uid = have.next_uid.max(mailbox.next_uid);
            if mailbox.uid_validity != 0 {
                have.uid_validity = mailbox.uid_validity;
            }
        }
        Op::MessageSaved { message, .. } => {
            let have = state.mailboxes.get_mut(&message.mailbox).ok_or("no such mailbox")?;
            if message.uid < have.next_uid {
                return Err(format!("uid {} is below the next one", message.uid));
            }
            have.next_uid = message.uid + 1;
            let kept = MessageState {
                guid: message.guid.clone(),
                flags: message.flags,
                keywords: message.keywords.clone(),
                ..MessageState::default()
            };
            have.messages.insert(message.uid, kept);
        }
        Op::MessageExpunged { mailbox, uid, .. } => {
            state.mailboxes.get_mut(mailbox).ok_or("no such mailbox")?.messages.remove(uid).ok_or("no such message")?;
        }
        Op::FlagsSet { mailbox, uid, flags, keywords, .. } => {
            let have = state.mailboxes.get_mut(mailbox).ok_or("no such mailbox")?;
            let message = have.messages.get_mut(uid).ok_or("no such message")?;
            message.flags = *flags;
            message.keywords.clone_from(keywords);
        }
        Op::Subscribed { name, .. } => drop(state.subscriptions.insert(name.clone())),
        Op::Unsubscribed { name } => drop(state.subscriptions.remove(name)),
        other => return Err(format!("a plan does not hold {other:?}")),
    }
    Ok(())
}

fn follow(target: &AccountState, mut current: AccountState, live: &Live) -> AccountState {
    for _ in 0..PLAN_ROUNDS_MAX {
        let ops = plan(target, &current, live);
        if ops.is_empty() {
            return current;
        }
        for op in &ops {
            apply(&mut current, op).unwrap_or_else(|error| panic!("{error}: {op:?}\nin plan {ops:#?}"));
        }
    }
    panic!("no end after {PLAN_ROUNDS_MAX} rounds: {:?}", first_difference(target, &current));
}

/// Some are below others.
const NAMES: [&str; 9] = ["a", "b", "c/d", "a/b", "a/b/c", "d/e/f", "b/x", "c", "d"];

fn mailbox(name: usize, messages: &[(u32, u8, u32)], spare: u32, uid_validity: u32) -> MailboxState {
    let messages: BTreeMap<u32, MessageState> = messages
        .iter()
        .map(|(uid, guid, flags)| {
            (*uid, MessageState { guid: format!("m{guid}"), flags: *flags, ..MessageState::default() })
        })
        .collect();
    let next_uid = messages.keys().next_back().map_or(1, |uid| uid + 1) + spare;
    MailboxState { name: NAMES[name].to_owned(), uid_validity, next_uid, messages, ..MailboxState::default() }
}

fn states() -> impl Strategy<Value = AccountState> {
    let messages = prop::collection::vec((1u32..12, 0u8..3, 0u32..4), 0..8);
    let one = (0u8..6, messages, 0u32..3, 1u32..3);
    let boxes = (prop::collection::vec(one, 0..6), Just((0..NAMES.len()).collect::<Vec<_>>()).prop_shuffle());
    (boxes, prop::collection::btree_set("[a-c]", 0..3)).prop_map(|((boxes, names), subscriptions)| {
        let mut state = AccountState { subscriptions, ..AccountState::default() };
        // Names are spread by another order than GUIDs, so that renames cross.
        for (name, (guid, messages, spare, uid_validity)) in names.into_iter().zip(boxes) {
            state.mailboxes.insert(MailboxGuid([guid + 1; 16]), mailbox(name, &messages, spare, uid_validity));
        }
        make_parents(&mut state);
        state
    })
}

proptest! {
    #[test]
    fn a_store_that_follows_the_plans_equals_the_snapshot(target in states(), current in states()) {
        let reached = follow(&target, current, &Live::default());
        prop_assert_eq!(first_difference(&target, &reached), None);
    }

    #[test]
    fn equal_states_need_nothing(state in states()) {
        prop_assert_eq!(plan(&state, &state, &Live::default()), Vec::<Op>::new());
    }
}

#[test]
fn what_live_operations_did_since_the_begin_is_left_alone() {
    let guid = MailboxGuid([1; 16]);
    let mut target = AccountState::default();
    target.mailboxes.insert(guid, mailbox(0, &[(1, 1, 0), (2, 2, 0)], 0, 1));
    // Before the crash of an earlier try, live operations had saved 3 and expunged 2.
    let mut current = AccountState::default();
    current.mailboxes.insert(guid, mailbox(0, &[(1, 1, 0), (3, 0, 0)], 0, 1));
    let mut live = Live::default();
    live.messages.insert((guid, 3));
    live.expunged.insert((guid, 2));
    assert_eq!(plan(&target, &current, &live), []);
    assert!(!plan(&target, &current, &Live::default()).is_empty(), "without them the mailbox is made anew");
}

#[test]
fn a_name_without_mail_goes_when_nothing_is_below_it() {
    let target = AccountState::default();
    let mut current = AccountState::default();
    current.directories.extend(["Old".to_owned(), "Old/x".to_owned()]);
    let deleted = |name: &str| Op::MailboxDeleted { guid: MailboxGuid::default(), name: name.into() };
    assert_eq!(plan(&target, &current, &Live::default()), [deleted("Old/x"), deleted("Old")]);
}

#[test]
fn the_uids_of_messages_that_are_gone_meanwhile_stay_taken() {
    let guid = MailboxGuid([1; 16]);
    let mut target = AccountState::default();
    target.mailboxes.insert(guid, mailbox(0, &[(1, 1, 0), (4, 2, 0)], 0, 1));
    let mut live = Live::default();
    live.expunged.insert((guid, 4));
    let reached = follow(&target, AccountState::default(), &live);
    let reached = &reached.mailboxes[&guid];
    assert_eq!((reached.messages.keys().copied().collect::<Vec<_>>(), reached.next_uid), (vec![1], 5));
    live.expunged.insert((guid, 1));
    let reached = follow(&target, AccountState::default(), &live);
    assert_eq!((reached.mailboxes[&guid].messages.len(), reached.mailboxes[&guid].next_uid), (0, 5));
}
