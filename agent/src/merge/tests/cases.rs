//! Single cases: what happens to what, and what is told of it.

use understudy_types::id::{Epoch, MailboxGuid};
use understudy_types::op::Op;

use crate::digest::{AccountState, MailboxState, MessageState};
use crate::merge::{ForkState, MailboxMark, MergePlan, What, plan};

const BOX: MailboxGuid = MailboxGuid([1; 16]);
const OTHER: MailboxGuid = MailboxGuid([2; 16]);

/// `(uid, guid, flags, modseq)`
type Row = (u32, &'static str, u32, u64);

fn mailbox(name: &str, rows: &[Row]) -> MailboxState {
    let message = |&(uid, guid, flags, modseq): &Row| {
        (uid, MessageState { guid: guid.into(), flags, modseq, ..MessageState::default() })
    };
    let next_uid = rows.iter().map(|row| row.0 + 1).max().unwrap_or(1);
    let (name, messages) = (name.to_owned(), rows.iter().map(message).collect());
    MailboxState { name, uid_validity: 7, next_uid, messages, ..MailboxState::default() }
}

fn state(mailboxes: &[(MailboxGuid, &str, &[Row])]) -> AccountState {
    let mailboxes = mailboxes.iter().map(|(guid, name, rows)| (*guid, mailbox(name, rows))).collect();
    AccountState { mailboxes, ..AccountState::default() }
}

/// Both had UIDs below 10 and modification sequences up to 100.
fn fork(boxes: &[(MailboxGuid, &str)]) -> ForkState {
    let mark = |(guid, name): &(MailboxGuid, &str)| MailboxMark {
        guid: *guid,
        name: (*name).to_owned(),
        uid_validity: 7,
        next_uid: 10,
        highest_modseq: 100,
    };
    ForkState::of(Epoch(2), boxes.iter().map(mark))
}

fn inbox(own: &[Row], active: &[Row]) -> MergePlan {
    plan(&state(&[(BOX, "INBOX", own)]), &state(&[(BOX, "INBOX", active)]), &fork(&[(BOX, "INBOX")]))
}

fn told(planned: &MergePlan) -> Vec<What> {
    planned.report.iter().map(|finding| finding.what).collect()
}

fn brought(planned: &MergePlan) -> Vec<(u32, &str)> {
    fn saved(op: &Op) -> Option<(u32, &str)> {
        match op {
            Op::MessageSaved { message, .. } => Some((message.uid, message.guid.as_str())),
            _ => None,
        }
    }
    planned.items.iter().filter_map(saved).collect()
}

#[test]
fn a_message_that_never_arrived_comes_back_and_one_that_was_deleted_does_not() {
    let planned = inbox(
        &[(1, "old", 0, 5), (2, "gone", 0, 6), (3, "gone-changed", 8, 101), (10, "new", 0, 102)],
        &[(1, "old", 0, 5)],
    );
    assert_eq!(brought(&planned), [(10, "new")]);
    assert_eq!(told(&planned), [What::DeletedThere, What::MessageBrought]);
    assert_eq!((planned.items.len(), planned.conflicts()), (1, 1));
}

#[test]
fn two_messages_under_one_uid_both_stay() {
    let planned = inbox(&[(4, "mine", 0, 5), (10, "new", 0, 101)], &[(4, "theirs", 0, 5), (10, "newer", 0, 2_000)]);
    assert_eq!(brought(&planned), [(4, "mine"), (10, "new")]);
    assert_eq!(planned.report.iter().filter(|f| f.what == What::UidConflict).count(), 2);
}

#[test]
fn another_uid_validity_makes_uids_mean_nothing() {
    let mut own = state(&[(BOX, "INBOX", &[(1, "a", 0, 5), (2, "b", 0, 6)])]);
    own.mailboxes.get_mut(&BOX).unwrap().uid_validity = 8;
    let planned = plan(&own, &state(&[(BOX, "INBOX", &[(1, "a", 0, 5)])]), &fork(&[(BOX, "INBOX")]));
    assert_eq!(brought(&planned), [(2, "b")]);
}

#[test]
fn flags_follow_who_changed_them() {
    // Nobody; only here; only there; both.
    let own = [(1, "a", 0, 5), (2, "b", 8, 101), (3, "c", 0, 7), (4, "d", 1, 103)];
    let active = [(1, "a", 0, 5), (2, "b", 0, 6), (3, "c", 8, 5_000), (4, "d", 2, 5_001)];
    let planned = inbox(&own, &active);
    assert_eq!(told(&planned), [What::FlagsBrought, What::FlagsConflict]);
    let [Op::FlagsSet { uid: 2, flags: 8, modseq: 6, .. }] = &planned.items[..] else { panic!("{:?}", planned.items) };
    let conflict = &planned.report[1];
    assert_eq!((conflict.here.as_str(), conflict.there.as_str(), conflict.uid), ("\\Answered", "\\Flagged", 4));
}

#[test]
fn a_change_here_counts_also_where_the_replica_counted_ahead() {
    // The change has 50, and the replica's mailbox was at 100 already.
    let planned = inbox(&[(1, "a", 8, 50)], &[(1, "a", 0, 60)]);
    assert_eq!(told(&planned), [What::FlagsBrought]);
}

#[test]
fn what_was_expunged_here_is_kept_and_told() {
    let planned = inbox(&[(1, "a", 0, 5)], &[(1, "a", 0, 5), (2, "b", 0, 6), (1_010, "later", 0, 5_000)]);
    assert!(planned.items.is_empty());
    assert_eq!(told(&planned), [What::ExpungedHere]);
    assert_eq!(planned.report[0].object, "b");
}

#[test]
fn a_second_copy_in_the_same_mailbox_is_not_repeated() {
    let planned = inbox(&[(1, "a", 0, 5), (10, "a", 0, 101), (11, "b", 0, 102), (12, "b", 0, 103)], &[(1, "a", 0, 5)]);
    assert_eq!(brought(&planned), [(11, "b")]);
    assert_eq!(told(&planned), [What::CopyLeft, What::MessageBrought, What::CopyLeft]);
}

#[test]
fn what_a_merge_before_brought_is_not_brought_again() {
    let planned = inbox(&[(10, "new", 8, 101)], &[(1_010, "new", 0, 5_000)]);
    assert_eq!(planned, MergePlan::default(), "the user changed its flags there meanwhile");
}

#[test]
fn a_mailbox_that_only_this_node_had_is_made_with_its_messages() {
    let own = state(&[(BOX, "INBOX", &[]), (OTHER, "new", &[(1, "a", 0, 5)])]);
    let planned = plan(&own, &state(&[(BOX, "INBOX", &[])]), &fork(&[(BOX, "INBOX")]));
    assert_eq!(told(&planned), [What::MailboxBrought, What::MessageBrought]);
    let Op::MailboxCreated { mailbox, .. } = &planned.items[0] else { panic!("made first") };
    assert_eq!((mailbox.guid, mailbox.uid_validity), (OTHER, 0));
}

#[test]
fn mailboxes_of_one_name_become_one() {
    let own = state(&[(BOX, "new", &[(1, "a", 0, 5)])]);
    let planned = plan(&own, &state(&[(OTHER, "new", &[(1, "b", 0, 5)])]), &fork(&[]));
    let [Op::MessageSaved { message, .. }] = &planned.items[..] else { panic!("{:?}", planned.items) };
    assert_eq!((message.mailbox, message.guid.as_str()), (OTHER, "a"));
}

#[test]
fn of_a_mailbox_that_was_deleted_there_only_what_it_never_had_comes_back() {
    let own = state(&[(BOX, "old", &[(1, "a", 0, 5), (10, "b", 0, 101)])]);
    let marks = fork(&[(BOX, "old")]);
    let planned = plan(&own, &state(&[]), &marks);
    assert_eq!(told(&planned), [What::MailboxDeletedThere, What::MessageBrought]);
    assert_eq!(brought(&planned), [(10, "b")]);
    assert!(matches!(planned.items[0], Op::MailboxCreated { .. }));
    let nothing = plan(&state(&[(BOX, "old", &[(1, "a", 0, 5)])]), &state(&[]), &marks);
    assert_eq!(nothing, MergePlan::default(), "it stays deleted");
}

#[test]
fn a_mailbox_that_was_deleted_here_is_kept_and_told() {
    let planned = plan(&state(&[]), &state(&[(BOX, "old", &[(1, "a", 0, 5)])]), &fork(&[(BOX, "old")]));
    assert!(planned.items.is_empty());
    assert_eq!(told(&planned), [What::MailboxDeletedHere]);
}

#[test]
fn names_follow_who_renamed() {
    let run = |mine: &str, theirs: &str| {
        let planned = plan(&state(&[(BOX, mine, &[])]), &state(&[(BOX, theirs, &[])]), &fork(&[(BOX, "old")]));
        (told(&planned), planned.items.len())
    };
    assert_eq!(run("new", "old"), (vec![What::MailboxRenamed], 1));
    assert_eq!(run("old", "new"), (vec![], 0));
    assert_eq!(run("mine", "theirs"), (vec![What::RenameConflict], 0));
    assert_eq!(run("new", "new"), (vec![], 0));
    let own = state(&[(BOX, "taken", &[])]);
    let active = state(&[(BOX, "old", &[]), (OTHER, "taken", &[(1, "a", 0, 5)])]);
    let planned = plan(&own, &active, &fork(&[(BOX, "old")]));
    assert_eq!((told(&planned), planned.items.len()), (vec![What::RenameConflict], 0));
}

#[test]
fn a_renamed_parent_takes_those_below_along_once() {
    let own = state(&[(BOX, "new", &[]), (OTHER, "new/x", &[(10, "a", 0, 101)])]);
    let active = state(&[(BOX, "old", &[]), (OTHER, "old/x", &[])]);
    let planned = plan(&own, &active, &fork(&[(BOX, "old"), (OTHER, "old/x")]));
    let renames = planned.items.iter().filter(|op| matches!(op, Op::MailboxRenamed { .. })).count();
    assert_eq!((renames, brought(&planned)), (1, vec![(10, "a")]));
}

#[test]
fn subscriptions_are_joined_and_attributes_stay_where_they_differ() {
    let (mut own, mut active) = (state(&[(BOX, "gone", &[])]), state(&[]));
    own.subscriptions = ["gone", "shared/x", "both"].map(str::to_owned).into();
    active.subscriptions = ["both", "theirs"].map(str::to_owned).into();
    own.attributes = [((true, "a".to_owned()), vec![1]), ((true, "b".to_owned()), vec![1])].into();
    active.attributes = [((true, "a".to_owned()), vec![2])].into();
    let planned = plan(&own, &active, &fork(&[(BOX, "gone")]));
    assert_eq!(told(&planned), [What::SubscriptionBrought, What::AttributeConflict, What::AttributeBrought]);
    assert_eq!(planned.report[0].object, "shared/x");
    assert_eq!(planned.items.len(), 2);
}

#[test]
fn without_a_fork_everything_counts_as_never_seen_there() {
    let own = state(&[(BOX, "INBOX", &[(1, "a", 0, 5), (2, "b", 8, 6)])]);
    let planned = plan(&own, &state(&[(BOX, "INBOX", &[(2, "b", 0, 5)])]), &ForkState::default());
    assert_eq!(told(&planned), [What::ForkUnknown, What::MessageBrought, What::FlagsBrought]);
}
