//! Holding: what a replica keeps although it was told to destroy it, while everything else goes on.

use super::replay::morning;
use super::snapshots::old_account;
use super::*;
use crate::apply::hold::{aside_name, hide};
use crate::apply::orders::{Order, Ordered, Which};
use crate::apply::park::Reason;
use crate::limits::EXPUNGE_GRACE_S;
use crate::rules::OnPromotion;

const NEXT: MailboxGuid = MailboxGuid([3; 16]);
const CHILD: MailboxGuid = MailboxGuid([4; 16]);
const WINDOW_S: u64 = 3_600;

fn window() -> Hold {
    Hold { window_s: WINDOW_S, brake: false, ..Hold::default() }
}

fn brake(floor: u32) -> Hold {
    Hold { brake_floor: floor, ..Hold::default() }
}

fn deleted(guid: MailboxGuid, name: &str) -> Op {
    Op::MailboxDeleted { guid, name: name.into() }
}

fn renamed(guid: MailboxGuid, old: &str, new: &str) -> Op {
    Op::MailboxRenamed { guid, old_name: old.into(), new_name: new.into() }
}

fn expunged(mailbox: MailboxGuid, uid: u32) -> Op {
    Op::MessageExpunged { mailbox, uid, guid: String::new() }
}

impl Bench {
    /// What the replica answers for: what its store has without what is held.
    fn visible(&self, account: &str) -> AccountState {
        let mut state = self.state_of(&self.replica, account);
        let held = self.cursors.holds(GROUP).unwrap().held;
        hide(held.iter().map(|(_, held)| held).filter(|held| held.account == account), &mut state);
        state
    }

    /// Everything is applied but for what is held.
    pub(super) fn assert_equal_but_held(&self, what: &str) {
        let applier = self.applier.as_ref().unwrap();
        assert!(applier.lot().is_empty(), "{what}: {:?}", applier.lot().iter().collect::<Vec<_>>());
        assert_eq!(applier.applied(), self.next_seq - 1, "{what}");
        for account in [USER, OTHER] {
            let difference = first_difference(&self.state_of(&self.origin, account), &self.visible(account));
            assert_eq!(difference, None, "{what}: `{account}`");
        }
    }

    fn order(&mut self, order: &Order) -> Ordered {
        let mut applier = self.applier.take().unwrap();
        let mut ordered = None;
        self.with(|tools| ordered = Some(applier.order(order, tools).unwrap()));
        self.applier = Some(applier);
        ordered.unwrap()
    }

    fn release(&mut self) -> Ordered {
        self.order(&Order::Release { which: Which { account: Some(USER.into()), keys: None }, undone: false })
    }

    fn later(&mut self, s: u64) {
        self.now = MonoNs(self.now.0 + s * 1_000_000_000);
    }

    fn held(&self) -> usize {
        self.cursors.holds(GROUP).unwrap().held.len()
    }

    fn replicas(&self, mailbox: MailboxGuid) -> usize {
        self.state_of(&self.replica, USER).mailboxes.get(&mailbox).map_or(0, |mailbox| mailbox.messages.len())
    }
}

/// INBOX and Work with three messages each.
fn two_mailboxes(bench: &mut Bench) {
    bench.does_for(OTHER, created(INBOX, "INBOX"));
    bench.create(INBOX, "INBOX");
    bench.create(WORK, "Work");
    for uid in 1..=3 {
        bench.save(INBOX, uid);
        bench.save(WORK, uid);
    }
}

#[test]
fn an_expunge_waits_for_its_window_and_all_else_goes_on() {
    for ops_in_frame in [1, 4, 1000] {
        let mut bench = Bench::new();
        bench.ops_in_frame = ops_in_frame;
        bench.orders.hold = window();
        two_mailboxes(&mut bench);
        bench.expunge(INBOX, 2);
        bench.flags(INBOX, 1, 8);
        bench.save(INBOX, 4);
        bench.copy((INBOX, 4), (WORK, 4), false);
        bench.does_for(OTHER, expunged(INBOX, 9));
        bench.run();
        assert_eq!((bench.replicas(INBOX), bench.held()), (4, 2));
        bench.assert_equal_but_held("while it is held");
        // Also by another agent, that knows of it by its file alone.
        bench.applier = None;
        bench.list.first.set(bench.next_seq);
        bench.run();
        assert_eq!((bench.replicas(INBOX), bench.held()), (4, 2), "after a restart");
        bench.later(WINDOW_S);
        bench.run();
        assert_eq!((bench.replicas(INBOX), bench.held()), (3, 0), "its time has come");
        bench.assert_equal("at the end");
    }
}

#[test]
fn a_morning_with_everything_held_ends_equal_whatever_is_forgotten() {
    for ops_in_frame in [1, 5, 1000] {
        let mut bench = Bench::new();
        bench.ops_in_frame = ops_in_frame;
        bench.orders.hold = window();
        morning(&mut bench);
        bench.run();
        assert!(bench.held() > 3, "something was held");
        bench.assert_equal_but_held("the first replay");
        let held = bench.held();
        bench.lose_cursor(0);
        bench.run();
        bench.assert_equal_but_held("the second replay");
        assert_eq!(bench.held(), held);
        bench.later(WINDOW_S);
        bench.run();
        bench.assert_equal("at the end");
    }
}

#[test]
fn a_crash_while_things_are_held_and_released_loses_and_repeats_nothing() {
    let mut bench = Bench::new();
    bench.ops_in_frame = 5;
    bench.orders.hold = window();
    morning(&mut bench);
    bench.seal();
    let ends: Vec<u64> = bench.list.frames.borrow().iter().map(|frame| frame.last_sequence().0).collect();
    for reached in &ends {
        for applied in std::iter::once(&0).chain(&ends).filter(|applied| *applied <= reached) {
            bench.new_replica();
            bench.list.end.set(*reached);
            bench.run();
            bench.lose_cursor(*applied);
            bench.run();
            bench.list.end.set(u64::MAX);
            bench.run();
            let what = format!("store at {reached}, cursor at {applied}");
            assert!(bench.asked().is_empty(), "{what}: no snapshot is needed for that");
            // What was held before the cursor is forgotten with it, and stays: the comparison finds it. Nothing of what
            // came after is lost.
            let held = bench.held();
            bench.later(WINDOW_S);
            bench.run();
            assert!(bench.held() == 0, "{what}: {held} were held");
            if *applied == 0 {
                bench.assert_equal(&what);
            }
        }
    }
}

#[test]
fn a_deleted_mailbox_stands_aside_and_its_name_is_free() {
    for ops_in_frame in [1, 1000] {
        let mut bench = Bench::new();
        bench.ops_in_frame = ops_in_frame;
        bench.orders.hold = window();
        two_mailboxes(&mut bench);
        bench.does(deleted(WORK, "Work"));
        // The same name three times over: made again, renamed onto, and deleted again.
        bench.create(NEXT, "Work");
        bench.save(NEXT, 1);
        bench.does(deleted(NEXT, "Work"));
        bench.create(CHILD, "Other");
        bench.save(CHILD, 1);
        bench.does(renamed(CHILD, "Other", "Work"));
        bench.run();
        assert_eq!((bench.replicas(WORK), bench.replicas(NEXT), bench.held()), (3, 1, 2));
        let state = bench.state_of(&bench.replica, USER);
        assert_eq!(state.mailboxes[&WORK].name, aside_name(WORK));
        assert_eq!(state.mailboxes[&CHILD].name, "Work");
        bench.assert_equal_but_held("while they are held");
        bench.later(WINDOW_S);
        bench.run();
        assert_eq!((bench.replicas(WORK), bench.replicas(NEXT), bench.held()), (0, 0, 0));
        bench.assert_equal("at the end");
    }
}

#[test]
fn mailboxes_below_a_deleted_one_stay_where_they_are() {
    let mut bench = Bench::new();
    bench.orders.hold = window();
    two_mailboxes(&mut bench);
    bench.create(NEXT, "Work/a");
    bench.create(CHILD, "Work/a/b");
    bench.save(CHILD, 1);
    let directory = Mailbox { name: "Work/d".into(), directory: true, ..Mailbox::default() };
    bench.does(Op::MailboxCreated { mailbox: directory, snapshot: 0 });
    bench.does(deleted(WORK, "Work"));
    bench.save(CHILD, 2);
    bench.run();
    bench.assert_equal_but_held("children stay");
    bench.later(WINDOW_S);
    bench.run();
    bench.assert_equal("at the end");
}

#[test]
fn a_mailbox_that_is_made_again_as_itself_is_not_deleted_later() {
    let mut bench = Bench::new();
    bench.orders.hold = window();
    two_mailboxes(&mut bench);
    bench.does(deleted(WORK, "Work"));
    bench.run();
    bench.create(WORK, "Work");
    bench.save(WORK, 1);
    bench.run();
    assert_eq!(bench.held(), 0);
    bench.later(WINDOW_S);
    bench.run();
    bench.assert_equal("made again under its own identity");
}

#[test]
fn a_move_destroys_nothing_and_is_not_held() {
    let mut bench = Bench::new();
    bench.orders.hold = window();
    two_mailboxes(&mut bench);
    bench.copy((INBOX, 1), (WORK, 4), true);
    bench.run();
    assert_eq!(bench.held(), 0);
    bench.assert_equal("moved at once");
}

#[test]
fn classes_are_held_each_for_itself() {
    let mut bench = Bench::new();
    bench.orders.hold = Hold { expunge: false, ..window() };
    two_mailboxes(&mut bench);
    bench.expunge(WORK, 1);
    bench.expunge(INBOX, 1);
    bench.does(deleted(WORK, "Work"));
    bench.run();
    bench.later(EXPUNGE_GRACE_S);
    bench.run();
    // The one that may have been part of the deletion waits with it.
    assert_eq!((bench.replicas(INBOX), bench.replicas(WORK), bench.held()), (2, 3, 2));
    bench.assert_equal_but_held("expunges are applied after a moment");
    bench.later(WINDOW_S);
    bench.run();
    bench.assert_equal("at the end");
}

#[test]
fn a_storm_is_held_until_somebody_says_what_it_was() {
    let mut bench = Bench::new();
    bench.ops_in_frame = 7;
    bench.orders.hold = brake(10);
    bench.create(INBOX, "INBOX");
    bench.does_for(OTHER, created(INBOX, "INBOX"));
    for uid in 1..=60 {
        bench.save(INBOX, uid);
    }
    for uid in 1..=5 {
        bench.expunge(INBOX, uid);
    }
    bench.run();
    assert_eq!((bench.replicas(INBOX), bench.held()), (55, 0), "some are nothing to speak of");
    for uid in 6..=50 {
        bench.expunge(INBOX, uid);
    }
    bench.save(INBOX, 61);
    bench.run();
    assert!(bench.held() >= 40, "{}", bench.held());
    let tripped = bench.events.iter().filter(|event| matches!(event, ApplyEvent::Braked { .. })).count();
    assert_eq!(tripped, 1);
    bench.assert_equal_but_held("while the brake is on");
    // It waits, by whatever agent, and so does what comes after it.
    bench.applier = None;
    bench.later(1_000_000);
    bench.expunge(INBOX, 60);
    bench.run();
    assert!(bench.replicas(INBOX) >= 50, "{}", bench.replicas(INBOX));
    let ordered = bench.release();
    assert!(ordered.done > 40 && ordered.left == 0, "{ordered:?}");
    bench.run();
    bench.assert_equal("let through");
    // So much is its habit now.
    for uid in 100..160 {
        bench.save(INBOX, uid);
    }
    for uid in 100..160 {
        bench.expunge(INBOX, uid);
    }
    bench.run();
    assert_eq!(bench.held(), 0);
}

#[test]
fn a_storm_by_snapshot_is_held_too() {
    let mut bench = Bench::new();
    bench.orders.hold = brake(10);
    bench.create(INBOX, "INBOX");
    bench.create(WORK, "Work");
    for uid in 1..=60 {
        bench.save(INBOX, uid);
    }
    for uid in 1..=3 {
        bench.save(WORK, uid);
    }
    bench.run();
    // Somebody removed it all behind the store's back, and the comparison made a snapshot of what is left.
    let mut origin = bench.origin.clone();
    let gone = (1..=58).map(|uid| ApplyItem { op: expunged(INBOX, uid), body_path: None });
    let gone = gone.chain([ApplyItem { op: deleted(WORK, "Work"), body_path: None }]).collect::<Vec<_>>();
    origin.apply(USER, &gone).unwrap();
    bench.snapshot(1);
    bench.run();
    assert_eq!((bench.replicas(INBOX), bench.replicas(WORK), bench.held()), (60, 3, 59));
    bench.assert_equal_but_held("while it is held");
    // Another snapshot, as of the next comparison, changes nothing of that.
    bench.snapshot(2);
    bench.save(INBOX, 61);
    bench.run();
    assert_eq!((bench.replicas(INBOX), bench.held()), (61, 59));
    bench.assert_equal_but_held("after another snapshot");
    bench.release();
    bench.run();
    bench.assert_equal("let through");
}

#[test]
fn what_a_snapshot_brings_back_is_held_no_longer() {
    let mut bench = Bench::new();
    bench.orders.hold = window();
    two_mailboxes(&mut bench);
    bench.run();
    let before = bench.origin.clone();
    let kept = bench.state_of(&before, USER);
    // The mail was out of sight for a moment: a file system that was not mounted.
    bench.origin = MemoryStore::new(Some(bench.dir.path().join("spool")));
    [USER, OTHER].iter().for_each(|account| bench.origin.add_account(account));
    bench.snapshot(1);
    bench.run();
    assert_eq!(bench.held(), 2, "both mailboxes");
    bench.origin = before;
    bench.snapshot(2);
    bench.run();
    assert_eq!(bench.held(), 0);
    assert_eq!(bench.state_of(&bench.replica, USER), kept);
}

#[test]
fn a_mailbox_that_must_be_made_anew_leaves_records_of_what_it_held() {
    let mut bench = Bench::new();
    bench.orders.hold = window();
    two_mailboxes(&mut bench);
    bench.expunge(INBOX, 2);
    bench.run();
    // The replica lost a message that the snapshot has, below its next UID.
    let lost = ApplyItem { op: expunged(INBOX, 1), body_path: None };
    bench.replica.apply(USER, &[lost]).unwrap();
    bench.snapshot(1);
    bench.run();
    bench.assert_equal_but_held("made anew");
    let held = bench.cursors.holds(GROUP).unwrap().held;
    assert_eq!(held.len(), 1);
    let Some(Op::MessageSaved { message, .. }) = &held[0].1.kept else { panic!("{held:?}") };
    assert_eq!((message.uid, message.mailbox_name.as_str()), (2, "INBOX"));
    assert!(message.blob.is_some(), "its body can be had");
    bench.later(WINDOW_S);
    bench.run();
    assert_eq!(bench.held(), 0);
    bench.assert_equal("at the end");
}

#[test]
fn promotion_applies_or_keeps_as_the_rule_says() {
    for on_promotion in [OnPromotion::Apply, OnPromotion::Keep] {
        let mut bench = Bench::new();
        bench.orders.hold = Hold { on_promotion, ..window() };
        two_mailboxes(&mut bench);
        bench.expunge(INBOX, 2);
        bench.does(deleted(WORK, "Work"));
        bench.create(NEXT, "Work");
        bench.run();
        assert_eq!(bench.held(), 2);
        let ordered = bench.order(&Order::Promote);
        assert_eq!((ordered.done, ordered.left, bench.held()), (2, 0, 0));
        let state = bench.state_of(&bench.replica, USER);
        if on_promotion == OnPromotion::Apply {
            assert!(ordered.kept.is_empty());
            bench.assert_equal("applied");
        } else {
            assert_eq!(ordered.kept, [USER]);
            assert_eq!((bench.replicas(INBOX), bench.replicas(WORK)), (3, 3));
            assert_eq!(state.mailboxes[&WORK].name, "Work (kept)", "its name was taken");
        }
    }
}

#[test]
fn one_of_many_is_released_by_its_id() {
    let mut bench = Bench::new();
    bench.orders.hold = window();
    two_mailboxes(&mut bench);
    bench.expunge(INBOX, 1);
    bench.expunge(INBOX, 2);
    bench.run();
    let (key, _) = bench.cursors.holds(GROUP).unwrap().held[1].clone();
    let which = Which { account: None, keys: Some(vec![key]) };
    let ordered = bench.order(&Order::Release { which, undone: false });
    assert_eq!((ordered.done, bench.held(), bench.replicas(INBOX)), (1, 1, 2));
    bench.run();
    bench.assert_equal_but_held("the other one waits on");
}

#[test]
fn a_store_that_is_away_releases_later() {
    let mut bench = Bench::new();
    bench.orders.hold = window();
    two_mailboxes(&mut bench);
    bench.expunge(INBOX, 1);
    bench.run();
    bench.store = Box::new(super::trouble::Failing { inner: bench.replica.clone(), calls: 0 });
    bench.later(WINDOW_S);
    bench.run();
    assert_eq!(bench.held(), 0);
    bench.assert_equal("at the end");
}

#[test]
fn a_paused_account_or_group_waits_and_goes_on() {
    for snapshot in [false, true] {
        let mut bench = Bench::new();
        old_account(&mut bench);
        bench.snapshot(1);
        bench.does_for(OTHER, created(INBOX, "INBOX"));
        bench.run();
        bench.orders.paused_account = Some(USER);
        bench.save(INBOX, 7);
        bench.flags(INBOX, 7, 8);
        if snapshot {
            bench.snapshot(2);
        }
        let op = bench.saved(INBOX, 1, "other");
        bench.does_for(OTHER, op);
        bench.run();
        assert_eq!(bench.parked(USER).map(|parked| parked.reason), Some(Reason::Paused));
        assert!(!bench.state_of(&bench.replica, USER).mailboxes[&INBOX].messages.contains_key(&7));
        assert_eq!(bench.difference(OTHER), None, "the other account goes on");
        bench.applier = None;
        bench.run();
        assert!(!bench.state_of(&bench.replica, USER).mailboxes[&INBOX].messages.contains_key(&7), "restarted");
        bench.orders.paused_account = None;
        bench.run();
        bench.assert_equal("resumed");

        bench.orders.paused_group = true;
        bench.save(INBOX, 8);
        bench.run();
        assert!(bench.applier.as_ref().unwrap().applied() < bench.next_seq - 1, "nothing of the group is applied");
        bench.orders.paused_group = false;
        bench.run();
        bench.assert_equal("the group goes on");
    }
}

#[test]
fn an_order_for_a_group_that_is_not_replayed_here_replays_nothing() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    bench.save(INBOX, 1);
    bench.seal();
    let mut shift = crate::apply::worker::Shift::default();
    let order = Order::Release { which: Which { account: Some(USER.into()), keys: None }, undone: false };
    bench.with_means(|means| {
        assert_eq!(shift.order(GROUP, &order, means).unwrap(), Ordered::default());
        shift.turn(means);
    });
    assert!(bench.state_of(&bench.replica, USER).mailboxes.is_empty());
}
