//! Operation by operation: repeated, in another order, without bodies, from a store that fails.

use super::*;
use crate::apply::park::Reason;
use crate::limits::APPLY_REMEMBER_OPS;

/// A morning's work of two users: of everything something, and much of it undone again.
pub(super) fn morning(bench: &mut Bench) {
    bench.create(INBOX, "INBOX");
    bench.create(WORK, "Work");
    bench.does_for(OTHER, created(INBOX, "INBOX"));
    for uid in 1..=4 {
        bench.save(INBOX, uid);
        let op = bench.saved(INBOX, uid, "other");
        bench.does_for(OTHER, op);
    }
    bench.flags(INBOX, 1, 8);
    bench.copy((INBOX, 1), (WORK, 1), false);
    bench.copy((INBOX, 2), (WORK, 2), true);
    bench.expunge(INBOX, 1);
    bench.copy((WORK, 1), (WORK, 3), false);
    bench.expunge(WORK, 1);
    bench.save(INBOX, 5);
    bench.flags(INBOX, 5, 1);
    bench.expunge(INBOX, 5);
    let temporary = MailboxGuid([9; 16]);
    bench.create(temporary, "Temporary");
    bench.save(temporary, 1);
    bench.does(Op::Subscribed { name: "Work".into(), snapshot: 0 });
    bench.does(Op::MailboxDeleted { guid: temporary, name: "Temporary".into() });
    bench.does(Op::MailboxRenamed { guid: WORK, old_name: "Work".into(), new_name: "Old/Work".into() });
    let value = Some(b"note".to_vec());
    bench.does(Op::AttributeSet { mailbox: Some(INBOX), private: true, key: "comment".into(), value, snapshot: 0 });
    bench.flags(INBOX, 3, 2);
    bench.flags(INBOX, 3, 16);
}

#[test]
fn a_second_replay_of_everything_changes_nothing() {
    for ops_in_frame in [1, 5, 1000] {
        let mut bench = Bench::new();
        bench.ops_in_frame = ops_in_frame;
        morning(&mut bench);
        bench.run();
        bench.assert_equal("the first replay");
        bench.lose_cursor(0);
        bench.run();
        bench.assert_equal("the second replay");
        assert_eq!(bench.counts().keys().copied().collect::<Vec<_>>(), [Status::AlreadySo], "{:?}", bench.counts());
    }
}

#[test]
fn a_crash_between_the_stores_commit_and_the_cursors_loses_and_repeats_nothing() {
    let mut bench = Bench::new();
    bench.ops_in_frame = 5;
    morning(&mut bench);
    bench.seal();
    let ends: Vec<u64> = bench.list.frames.borrow().iter().map(|frame| frame.last_sequence().0).collect();
    // Killed when the store had `reached`, with a cursor that had `applied`; both at every frame. With and without
    // the store's own memory of what it expunged, which a store keeps for a while only.
    for forgetful in [false, true] {
        for reached in &ends {
            for applied in std::iter::once(&0).chain(&ends).filter(|applied| *applied <= reached) {
                bench.new_replica();
                bench.list.end.set(*reached);
                bench.run();
                bench.lose_cursor(*applied);
                if forgetful {
                    bench.replica.forget_expunged();
                }
                bench.run();
                bench.list.end.set(u64::MAX);
                bench.run();
                bench.assert_equal(&format!("store at {reached}, cursor at {applied}, forgetful {forgetful}"));
                assert!(bench.asked().is_empty(), "no snapshot is needed for that");
            }
        }
    }
}

#[test]
fn a_move_whose_source_is_gone_is_made_from_the_body() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    bench.create(WORK, "Work");
    bench.save(INBOX, 1);
    bench.run();
    // The replica lost the source, as when the expunge was applied and the copy was not.
    bench
        .replica
        .apply(
            USER,
            &[ApplyItem { op: Op::MessageExpunged { mailbox: INBOX, uid: 1, guid: String::new() }, body_path: None }],
        )
        .unwrap();
    bench.copy((INBOX, 1), (WORK, 1), true);
    bench.run();
    bench.assert_equal("moved by its body");
    assert_eq!(bench.counts().get(&Status::SourceMissing), Some(&1), "the case was met");
}

#[test]
fn a_missing_body_holds_up_its_account_alone_and_heals_in_order() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    bench.does_for(OTHER, created(INBOX, "INBOX"));
    bench.save(INBOX, 1);
    let op = bench.saved(INBOX, 2, "");
    let blob = op.blob().unwrap();
    let seq = bench.does(op);
    bench.flags(INBOX, 2, 8);
    bench.save(INBOX, 3);
    let op = bench.saved(INBOX, 1, "other");
    bench.does_for(OTHER, op);
    std::fs::rename(bench.blob_path(blob), bench.dir.path().join("away")).unwrap();
    bench.run();
    let parked = bench.parked(USER).expect("parked");
    assert_eq!((parked.since_seq, &parked.reason), (seq, &Reason::Body { blob: blob.to_string(), damaged: false }));
    assert!(parked.detail.contains("uid 2") && parked.detail.contains(&blob.to_string()), "{}", parked.detail);
    assert_eq!(bench.difference(OTHER), None, "the other account goes on");
    assert_eq!(bench.state_of(&bench.replica, USER).mailboxes[&INBOX].messages.len(), 1, "nothing after it is applied");
    // Also after a restart, and for operations that come meanwhile.
    bench.applier = None;
    bench.expunge(INBOX, 1);
    bench.run();
    assert_eq!(bench.parked(USER).map(|parked| parked.since_seq), Some(seq));
    let told = bench.events.iter().filter(|event| matches!(event, ApplyEvent::Parked { .. })).count();
    assert_eq!(told, 1, "told once: {:?}", bench.events);
    std::fs::rename(bench.dir.path().join("away"), bench.blob_path(blob)).unwrap();
    bench.run();
    bench.assert_equal("healed");
    assert!(bench.events.iter().any(|event| matches!(event, ApplyEvent::Released { account, .. } if account == USER)));
    assert!(bench.asked().iter().all(|bodies| *bodies), "only for the body");
}

#[test]
fn a_damaged_body_is_told_as_such_and_heals() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    let op = bench.saved(INBOX, 1, "");
    let blob = op.blob().unwrap();
    bench.does(op);
    let whole = std::fs::read(bench.blob_path(blob)).unwrap();
    for damage in [&whole[..whole.len() - 1], b"", &whole.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()] {
        std::fs::write(bench.blob_path(blob), damage).unwrap();
        bench.run();
        let parked = bench.parked(USER).expect("parked");
        assert_eq!(parked.reason, Reason::Body { blob: blob.to_string(), damaged: true }, "{}", parked.detail);
    }
    std::fs::write(bench.blob_path(blob), whole).unwrap();
    bench.run();
    bench.assert_equal("healed");
}

#[test]
fn flags_in_another_order_than_they_were_set_converge() {
    for at_once in [1, 100] {
        let mut bench = Bench::new();
        bench.list.at_once.set(at_once);
        bench.create(INBOX, "INBOX");
        bench.save(INBOX, 1);
        let (first, second, third) =
            (bench.flags_op(INBOX, 1, 1), bench.flags_op(INBOX, 1, 8), bench.flags_op(INBOX, 1, 4));
        let last = ApplyItem { op: third.clone(), body_path: None };
        bench.origin.apply(USER, &[last]).unwrap();
        for op in [&third, &first, &second] {
            bench.journal(USER, &op.encode());
        }
        bench.run();
        bench.assert_equal("the newest wins");
        // After a restart with the cursor in the middle, the newest is still known.
        bench.lose_cursor(3);
        const { assert!(APPLY_REMEMBER_OPS > 3) };
        bench.run();
        bench.assert_equal("the newest still wins");
    }
}

#[test]
fn a_malformed_operation_holds_up_its_account_alone() {
    let mut bench = Bench::new();
    bench.ops_in_frame = 4;
    bench.create(INBOX, "INBOX");
    bench.does_for(OTHER, created(INBOX, "INBOX"));
    let mut bytes = created(WORK, "Work").encode();
    bytes.truncate(bytes.len() - 1);
    let seq = bench.journal(USER, &bytes);
    bench.save(INBOX, 1);
    let op = bench.saved(INBOX, 1, "other");
    bench.does_for(OTHER, op);
    bench.run();
    let parked = bench.parked(USER).expect("parked");
    assert_eq!((parked.since_seq, &parked.reason), (seq, &Reason::Store { status: "malformed".into() }));
    assert!(!parked.detail.is_empty());
    assert_eq!(bench.difference(OTHER), None);
    assert_eq!(bench.applier.as_ref().unwrap().applied(), 5, "the stream goes on");
}

#[test]
fn a_store_that_has_no_room_for_a_moment_is_tried_again() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    bench.save(INBOX, 1);
    bench.replica = MemoryStore::new(None);
    bench.replica.add_account(OTHER);
    bench.store = Box::new(bench.replica.clone());
    bench.does_for(OTHER, created(INBOX, "INBOX"));
    bench.run();
    let parked = bench.parked(USER).expect("parked");
    assert_eq!((parked.since_seq, &parked.reason), (1, &Reason::Store { status: "unknownuser".into() }));
    assert_eq!(bench.difference(OTHER), None);
    bench.replica.add_account(USER);
    bench.run();
    bench.assert_equal("the user was made");
}

#[test]
fn a_mailbox_that_is_deleted_later_is_made_and_renamed_first() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    bench.run();
    bench.events.clear();
    bench.ops_in_frame = 3;
    bench.create(WORK, "a");
    let renamed = Op::MailboxRenamed { guid: WORK, old_name: "a".into(), new_name: "b".into() };
    let kind = renamed.kind();
    bench.does(renamed);
    bench.does(Op::MailboxDeleted { guid: WORK, name: "b".into() });
    bench.run();
    // With it the store moves the mailboxes below, which stay.
    let count = ApplyEvent::Count { kind, status: Status::Applied, count: 1 };
    assert!(bench.events.contains(&count), "{:?}", bench.events);
    bench.assert_equal("made, renamed and deleted in one frame");
}
