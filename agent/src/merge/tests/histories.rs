//! Random histories on both sides after a common one: nothing is lost, nothing is touched without need, and a second
//! plan is empty.

use proptest::prelude::*;
use understudy_types::id::MailboxGuid;
use understudy_types::op::Op;

use super::side::{Act, Side, USER};
use crate::digest::{AccountState, MailboxState};
use crate::merge::target::merge_into;
use crate::merge::{ForkState, plan};
use crate::store::{ApplyItem, Status};

fn acts(len: usize) -> impl Strategy<Value = Vec<Act>> {
    let n = any::<u8>;
    let act = prop_oneof![
        6 => n().prop_map(Act::Save),
        2 => (n(), n(), n()).prop_map(|(a, b, c)| Act::Copy(a, b, c)),
        3 => (n(), n()).prop_map(|(a, b)| Act::Expunge(a, b)),
        4 => (n(), n(), n()).prop_map(|(a, b, c)| Act::Flags(a, b, c)),
        2 => n().prop_map(Act::Create),
        1 => n().prop_map(Act::Delete),
        1 => (n(), n()).prop_map(|(a, b)| Act::Rename(a, b)),
        1 => n().prop_map(Act::Subscribe),
        1 => (n(), n()).prop_map(|(a, b)| Act::Attribute(a, b)),
    ];
    prop::collection::vec(act, 0..len)
}

fn find<'a>(mailbox: &'a MailboxState, guid: &str) -> Option<&'a crate::digest::MessageState> {
    mailbox.messages.values().find(|message| message.guid == guid)
}

/// The mailbox itself, or the one that has its name.
fn home<'a>(state: &'a AccountState, guid: MailboxGuid, name: &str) -> Option<&'a MailboxState> {
    state.mailboxes.get(&guid).or_else(|| state.mailboxes.values().find(|mailbox| mailbox.name == name))
}

struct World {
    _directory: tempfile::TempDir,
    here: Side,
    there: Side,
    base: AccountState,
    fork: ForkState,
}

fn world(before: &[Act], acts_here: &[Act], acts_there: &[Act]) -> World {
    let directory = tempfile::tempdir().unwrap();
    let (mut here, mut there) = (Side::new(directory.path(), 1), Side::new(directory.path(), 2));
    here.create("INBOX");
    before.iter().for_each(|act| here.act(act));
    here.replicate(&there);
    let base = here.state();
    assert_eq!(base.digest(), there.state().digest(), "a replica");
    let fork = there.promote(2);
    acts_here.iter().for_each(|act| here.act(act));
    acts_there.iter().for_each(|act| there.act(act));
    World { _directory: directory, here, there, base, fork }
}

/// Plans, merges, and gives the items.
fn merge(world: &World, fork: &ForkState) -> Vec<Op> {
    let own = world.here.with_bodies();
    let planned = plan(&own, &world.there.state(), fork);
    let items: Vec<ApplyItem> = planned
        .items
        .iter()
        .map(|op| ApplyItem {
            op: op.clone(),
            body_path: op.blob().map(|blob| world.here.spool.join(blob.to_string())),
        })
        .collect();
    let outcomes = merge_into(&mut world.there.store.clone(), USER, &items).unwrap();
    for (item, outcome) in items.iter().zip(&outcomes) {
        let fine = matches!(outcome.status, Status::Applied | Status::AlreadySo);
        assert!(fine, "{item:?}: {outcome:?}");
    }
    planned.items
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_else_is_touched(
        before in acts(30), acts_here in acts(25), acts_there in acts(25),
    ) {
        let world = world(&before, &acts_here, &acts_there);
        let (own, before_merge) = (world.here.state(), world.there.state());
        let items = merge(&world, &world.fork);
        let after = world.there.state();

        for (guid, mailbox) in &own.mailboxes {
            for message in mailbox.messages.values() {
                let known = world.base.mailboxes.get(guid).is_some_and(|base| find(base, &message.guid).is_some());
                let gone = |m: &MailboxState| find(m, &message.guid).is_none();
                let deleted = known && before_merge.mailboxes.get(guid).is_none_or(gone);
                let there = home(&after, *guid, &mailbox.name).is_some_and(|m| find(m, &message.guid).is_some());
                // A copy of what stood there before is as good as gone with it; only what is new has to come.
                prop_assert!(there || deleted, "{} of `{}` is lost", message.guid, mailbox.name);
            }
        }
        for (guid, mailbox) in &before_merge.mailboxes {
            let now = after.mailboxes.get(guid);
            prop_assert!(now.is_some(), "mailbox `{}` is gone", mailbox.name);
            for (uid, message) in &mailbox.messages {
                let now = now.and_then(|now| now.messages.get(uid));
                prop_assert!(now.is_some_and(|now| now.guid == message.guid), "uid {} is another", uid);
                let flags = |state: &AccountState| {
                    let there = state.mailboxes.get(guid)?.messages.get(uid)?;
                    (there.guid == message.guid).then_some(there.flags)
                };
                // As it was when they parted: then what was changed here holds.
                let untouched = modseq(&before_merge, *guid, *uid) == modseq(&world.base, *guid, *uid)
                    && flags(&world.base) == Some(message.flags);
                let expected = flags(&own).filter(|_| untouched).unwrap_or(message.flags);
                prop_assert_eq!(now.map(|now| now.flags), Some(expected), "flags of {}", &message.guid);
            }
        }
        for op in &items {
            match op {
                Op::FlagsSet { mailbox, uid, guid, .. } => {
                    let changed = modseq(&world.base, *mailbox, *uid) < modseq(&own, *mailbox, *uid);
                    prop_assert!(changed, "flags of {} did not change here", guid);
                }
                Op::MessageSaved { message, .. } => {
                    let base = world.base.mailboxes.get(&message.mailbox);
                    let known = base.and_then(|base| base.messages.get(&message.uid));
                    let known = known.is_some_and(|known| known.guid == message.guid);
                    prop_assert!(!known, "{} was there before", message.guid);
                }
                _ => {}
            }
        }
        let again = plan(&own, &after, &world.fork);
        prop_assert_eq!(again.items, Vec::<Op>::new(), "a second plan is empty");
    }

    #[test]
    fn without_the_fork_nothing_at_all_is_lost(
        before in acts(30), acts_here in acts(25), acts_there in acts(25),
    ) {
        let world = world(&before, &acts_here, &acts_there);
        let own = world.here.state();
        merge(&world, &ForkState::default());
        let after = world.there.state();
        for (guid, mailbox) in &own.mailboxes {
            for message in mailbox.messages.values() {
                let there = home(&after, *guid, &mailbox.name).is_some_and(|m| find(m, &message.guid).is_some());
                prop_assert!(there, "{} of `{}` is lost", message.guid, mailbox.name);
            }
        }
        prop_assert_eq!(plan(&own, &after, &ForkState::default()).items, Vec::<Op>::new());
    }
}

fn modseq(state: &AccountState, mailbox: MailboxGuid, uid: u32) -> Option<u64> {
    Some(state.mailboxes.get(&mailbox)?.messages.get(&uid)?.modseq)
}
