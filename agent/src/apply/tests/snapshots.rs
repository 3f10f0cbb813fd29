//! Snapshots: from whatever the replica has to what the origin has, while the origin's user goes on.

use super::*;
use crate::apply::park::Reason;

const NEWS: MailboxGuid = MailboxGuid([4; 16]);

impl Bench {
    pub(super) fn begin(&mut self, number: u64) {
        self.journal(USER, &Op::ResyncBegin { snapshot: number }.encode());
    }

    fn end(&mut self, number: u64) {
        self.journal(USER, &Op::ResyncEnd { snapshot: number }.encode());
    }

    /// What an export reads from the origin's store at this moment.
    fn read(&mut self, number: u64) -> Vec<Op> {
        let mut ops = Vec::new();
        let options = DumpOptions { messages: true, bodies: true };
        self.origin.clone().dump(USER, options, &mut |op| ops.push(op)).unwrap();
        for entry in std::fs::read_dir(self.dir.path().join("spool")).unwrap().flatten() {
            let blob = BlobId::from_hex(entry.file_name().to_str().unwrap()).unwrap();
            self.blobs.put(blob, &entry.path()).unwrap();
        }
        ops.into_iter().map(|op| numbered(op, number)).collect()
    }

    pub(super) fn snapshot(&mut self, number: u64) {
        self.begin(number);
        for op in self.read(number) {
            self.journal(USER, &op.encode());
        }
        self.end(number);
    }

    /// Changes one store, and nobody hears of it.
    fn quietly(&mut self, at_origin: bool, op: Op) {
        let body_path = op.blob().map(|blob| self.text_path(blob));
        let mut store = if at_origin { self.origin.clone() } else { self.replica.clone() };
        let outcomes = store.apply(USER, &[ApplyItem { op, body_path }]).unwrap();
        assert!(outcomes[0].status <= Status::AlreadySo, "{outcomes:?}");
    }
}

fn numbered(mut op: Op, number: u64) -> Op {
    match &mut op {
        Op::MailboxCreated { snapshot, .. }
        | Op::MailboxUpdated { snapshot, .. }
        | Op::Subscribed { snapshot, .. }
        | Op::MessageSaved { snapshot, .. }
        | Op::AttributeSet { snapshot, .. } => *snapshot = number,
        other => panic!("a dump does not hold {other:?}"),
    }
    op
}

fn expunged(mailbox: MailboxGuid, uid: u32) -> Op {
    Op::MessageExpunged { mailbox, uid, guid: String::new() }
}

fn deleted(guid: MailboxGuid) -> Op {
    Op::MailboxDeleted { guid, name: String::new() }
}

fn renamed(guid: MailboxGuid, old: &str, new: &str) -> Op {
    Op::MailboxRenamed { guid, old_name: old.into(), new_name: new.into() }
}

/// An account that was there before anybody captured anything.
pub(super) fn old_account(bench: &mut Bench) {
    bench.quietly(true, created(INBOX, "INBOX"));
    bench.quietly(true, created(WORK, "Work"));
    for uid in 1..=6 {
        for mailbox in [INBOX, WORK] {
            let op = bench.saved(mailbox, uid, "");
            bench.quietly(true, op);
        }
    }
    bench.quietly(true, expunged(INBOX, 3));
    bench.quietly(true, expunged(WORK, 6));
    bench.quietly(true, Op::Subscribed { name: "Work".into(), snapshot: 0 });
    let value = Some(b"v".to_vec());
    let op = Op::AttributeSet { mailbox: None, private: true, key: "vendor/x".into(), value, snapshot: 0 };
    bench.quietly(true, op);
}

#[test]
fn a_first_copy_gives_an_equal_account() {
    for at_once in [1, 3, 100] {
        let mut bench = Bench::new();
        bench.list.at_once.set(at_once);
        old_account(&mut bench);
        bench.snapshot(1);
        bench.run();
        bench.assert_equal("first copy");
        bench.save(INBOX, 7);
        bench.flags(WORK, 2, 8);
        bench.run();
        bench.assert_equal("goes on by operations");
        bench.lose_cursor(0);
        bench.run();
        bench.assert_equal("all of it again");
    }
}

/// What a user may do while the snapshot is read: each changes the origin and is journaled.
fn live(bench: &mut Bench, what: usize) {
    match what {
        0 => drop(bench.save(INBOX, 7)),
        1 => drop(bench.expunge(INBOX, 2)),
        2 => drop(bench.flags(WORK, 2, 16)),
        3 => bench.copy((WORK, 1), (INBOX, 7), true),
        4 => drop(bench.does(renamed(WORK, "Work", "Done"))),
        5 => drop(bench.does(deleted(WORK))),
        6 => {
            bench.create(NEWS, "News");
            bench.save(NEWS, 1);
        }
        7 => {
            bench.save(INBOX, 7);
            bench.expunge(INBOX, 7);
            bench.save(INBOX, 8);
        }
        8 => {
            bench.does(deleted(WORK));
            bench.create(NEWS, "Work");
            bench.save(NEWS, 1);
        }
        9 => {
            bench.does(Op::Unsubscribed { name: "Work".into() });
            bench.does(Op::Subscribed { name: "INBOX".into(), snapshot: 0 });
        }
        10 => {
            let value = Some(b"w".to_vec());
            bench.does(Op::AttributeSet { mailbox: None, private: true, key: "vendor/x".into(), value, snapshot: 0 });
        }
        11 => {
            bench.does(renamed(WORK, "Work", "Done"));
            bench.create(NEWS, "Work");
            bench.does(renamed(NEWS, "Work", "Other"));
            bench.does(renamed(WORK, "Done", "Work"));
        }
        12 => {
            bench.create(NEWS, "News");
            bench.copy((WORK, 1), (NEWS, 1), true);
            bench.does(deleted(WORK));
        }
        _ => {
            bench.create(NEWS, "News");
            bench.save(NEWS, 1);
            bench.does(deleted(NEWS));
        }
    }
}

#[test]
fn what_a_user_does_while_the_snapshot_is_read_is_neither_lost_nor_done_twice() {
    for what in 0..14 {
        // Before the reading, so that it is in the snapshot too, or after it; with an empty replica, or an equal one.
        for (before, equal) in [(true, false), (false, false), (true, true), (false, true)] {
            let mut bench = Bench::new();
            old_account(&mut bench);
            if equal {
                bench.snapshot(1);
                bench.run();
                bench.assert_equal("before");
            }
            bench.begin(2);
            if before {
                live(&mut bench, what);
            }
            let ops = bench.read(2);
            let half = ops.len() / 2;
            ops[..half].iter().for_each(|op| _ = bench.journal(USER, &op.encode()));
            if !before {
                live(&mut bench, what);
            }
            ops[half..].iter().for_each(|op| _ = bench.journal(USER, &op.encode()));
            bench.end(2);
            let case = format!("change {what}, in the snapshot: {before}, replica equal before: {equal}");
            bench.run();
            bench.assert_equal(&case);
            bench.lose_cursor(0);
            bench.run();
            bench.assert_equal(&format!("{case}, replayed"));
        }
    }
}

#[test]
fn a_replica_that_differs_is_brought_back() {
    type Differ = fn(&mut Bench);
    let differences: [(&str, Differ); 9] = [
        ("a hole", |bench| bench.quietly(false, expunged(INBOX, 2))),
        ("a message of its own", |bench| {
            let op = bench.saved(INBOX, 7, "foreign");
            bench.quietly(false, op);
        }),
        ("another message of a UID", |bench| {
            let (foreign, own) = (bench.saved(INBOX, 7, "foreign"), bench.saved(INBOX, 7, "own"));
            bench.quietly(false, foreign);
            bench.quietly(true, own);
        }),
        ("flags", |bench| {
            let op = bench.flags_op(INBOX, 1, 4);
            bench.quietly(true, op);
        }),
        ("a renamed mailbox", |bench| bench.quietly(false, renamed(WORK, "Work", "Elsewhere"))),
        ("a deleted mailbox", |bench| bench.quietly(false, deleted(WORK))),
        ("a mailbox deleted at the origin", |bench| bench.quietly(true, deleted(WORK))),
        ("two names exchanged", |bench| {
            bench.quietly(true, created(NEWS, "News"));
            bench.quietly(false, created(NEWS, "News"));
            let op = bench.saved(NEWS, 1, "");
            bench.quietly(false, op.clone());
            bench.quietly(true, op);
            bench.quietly(true, renamed(WORK, "Work", "x"));
            bench.quietly(true, renamed(NEWS, "News", "Work"));
            bench.quietly(true, renamed(WORK, "x", "News"));
        }),
        ("subscriptions and attributes", |bench| {
            bench.quietly(false, Op::Subscribed { name: "z".into(), snapshot: 0 });
            bench.quietly(false, Op::Unsubscribed { name: "Work".into() });
            let value = Some(b"foreign".to_vec());
            let key = "comment".into();
            bench.quietly(false, Op::AttributeSet { mailbox: Some(INBOX), private: false, key, value, snapshot: 0 });
        }),
    ];
    for (what, differ) in differences {
        let mut bench = Bench::new();
        old_account(&mut bench);
        bench.snapshot(1);
        bench.run();
        bench.assert_equal(what);
        differ(&mut bench);
        assert!(bench.difference(USER).is_some(), "{what}: nothing differs");
        bench.snapshot(2);
        bench.run();
        bench.assert_equal(what);
    }
}

#[test]
fn a_conflict_asks_for_a_snapshot_and_goes_on_with_it() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    bench.save(INBOX, 1);
    bench.run();
    let op = bench.saved(INBOX, 2, "foreign");
    bench.quietly(false, op);
    let seq = bench.save(INBOX, 2);
    bench.save(INBOX, 3);
    bench.run();
    let parked = bench.parked(USER).expect("parked");
    assert_eq!(
        (parked.since_seq, &parked.reason),
        (seq, &Reason::NeedsSnapshot { bodies: false }),
        "{}",
        parked.detail
    );
    assert!(parked.detail.contains("uid 2"), "{}", parked.detail);
    let asked = bench.asked().len();
    assert!(asked >= 1);
    // Nobody answers: it is asked again.
    bench.run();
    assert!(bench.asked().len() > asked);
    bench.begin(5);
    bench.run();
    assert_eq!(bench.parked(USER).map(|parked| parked.reason), Some(Reason::Snapshot { number: 5 }));
    for op in bench.read(5) {
        bench.journal(USER, &op.encode());
    }
    bench.flags(INBOX, 3, 8);
    bench.end(5);
    bench.save(INBOX, 4);
    bench.run();
    bench.assert_equal("with the snapshot");
}

#[test]
fn an_unfinished_snapshot_gives_way_to_a_newer_one() {
    for whole_first in [false, true] {
        let mut bench = Bench::new();
        old_account(&mut bench);
        if whole_first {
            bench.snapshot(1);
        }
        bench.begin(2);
        let half = bench.read(2);
        half.iter().take(5).for_each(|op| _ = bench.journal(USER, &op.encode()));
        // The active died here and was started again.
        bench.save(INBOX, 7);
        bench.expunge(INBOX, 1);
        bench.run();
        assert_eq!(
            bench.parked(USER).map(|parked| parked.reason),
            Some(Reason::Snapshot { number: 2 }),
            "{whole_first}"
        );
        bench.snapshot(3);
        bench.flags(INBOX, 2, 8);
        bench.run();
        bench.assert_equal("the newer one");
        bench.lose_cursor(0);
        bench.run();
        bench.assert_equal("all of it again");
    }
}

#[test]
fn a_snapshot_frees_an_account_that_waits_for_a_body() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    let op = bench.saved(INBOX, 1, "");
    let blob = op.blob().unwrap();
    bench.does(op);
    std::fs::remove_file(bench.blob_path(blob)).unwrap();
    bench.run();
    assert!(bench.parked(USER).is_some());
    // With bodies, as an administrator's resync makes it: the body comes from the active's store again.
    bench.snapshot(1);
    bench.run();
    bench.assert_equal("with the body exported again");
}

#[test]
fn a_parked_account_whose_operations_were_let_go_asks_for_a_snapshot() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    let op = bench.saved(INBOX, 1, "");
    let blob = op.blob().unwrap();
    bench.does(op);
    bench.save(INBOX, 2);
    std::fs::remove_file(bench.blob_path(blob)).unwrap();
    bench.run();
    bench.list.first.set(3);
    bench.run();
    let parked = bench.parked(USER).expect("parked");
    assert_eq!((parked.since_seq, parked.reason), (4, Reason::NeedsSnapshot { bodies: true }));
    assert!(bench.asked().contains(&true));
    bench.snapshot(1);
    bench.run();
    bench.assert_equal("with the snapshot");
}
