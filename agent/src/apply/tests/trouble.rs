//! A store that dies, does not answer, or refuses one account, in the middle of what it is given.

use crossbeam::atomic::AtomicCell;

use super::replay::morning;
use super::snapshots::old_account;
use super::*;
use crate::apply::orders::Order;
use crate::apply::park::Reason;
use crate::store::{MailboxMark, Outcome, RaiseGap, StoreError};

/// A store that fails in every way it can, and then works.
pub(super) struct Failing {
    pub(super) inner: MemoryStore,
    pub(super) calls: u32,
}

impl Failing {
    fn trouble(&mut self) -> Option<StoreError> {
        self.calls += 1;
        match self.calls % 4 {
            1 => Some(StoreError::Unreachable { path: "/socket".into(), source: std::io::ErrorKind::NotFound.into() }),
            2 => Some(StoreError::Broken(std::io::ErrorKind::ConnectionReset.into())),
            _ => None,
        }
    }
}

impl Store for Failing {
    fn apply(&mut self, account: &str, items: &[ApplyItem]) -> Result<Vec<Outcome>, StoreError> {
        match self.trouble() {
            Some(StoreError::Broken(error)) => {
                // Some of it was done, and the answer is lost.
                self.inner.apply(account, &items[..items.len() / 2])?;
                Err(StoreError::Broken(error))
            }
            Some(error) => Err(error),
            None => self.inner.apply(account, items),
        }
    }

    fn dump(&mut self, account: &str, options: DumpOptions, sink: &mut dyn FnMut(Op)) -> Result<(), StoreError> {
        self.trouble().map_or_else(|| self.inner.dump(account, options, sink), Err)
    }

    fn accounts(&mut self, sink: &mut dyn FnMut(String)) -> Result<(), StoreError> {
        self.inner.accounts(sink)
    }

    fn raise(&mut self, account: &str, gap: RaiseGap) -> Result<Vec<MailboxMark>, StoreError> {
        self.inner.raise(account, gap)
    }

    fn kick(&mut self, accounts: &[String]) -> Result<u64, StoreError> {
        self.inner.kick(accounts)
    }

    fn version(&mut self) -> Result<String, StoreError> {
        self.inner.version()
    }
}

#[test]
fn a_store_that_cannot_be_asked_makes_nothing_be_skipped() {
    for ops_in_frame in [1, 7, 1000] {
        let mut bench = Bench::new();
        bench.ops_in_frame = ops_in_frame;
        bench.store = Box::new(Failing { inner: bench.replica.clone(), calls: 0 });
        morning(&mut bench);
        bench.run();
        bench.assert_equal("after all failures");
        assert!(bench.asked().is_empty());
    }
}

/// The last position that was told.
fn told(bench: &Bench) -> Option<u64> {
    let applied = |event: &ApplyEvent| match event {
        ApplyEvent::Applied { seq, .. } => Some(*seq),
        _ => None,
    };
    bench.events.iter().rev().find_map(applied)
}

#[test]
fn a_snapshot_whose_store_dies_is_looked_at_again_and_the_position_is_told() {
    for first in 0..4 {
        for ops_in_frame in [1, 7, 1000] {
            let mut bench = Bench::new();
            bench.ops_in_frame = ops_in_frame;
            bench.store = Box::new(Failing { inner: bench.replica.clone(), calls: first });
            old_account(&mut bench);
            bench.snapshot(1);
            bench.run();
            let what = format!("failing from call {first} on, {ops_in_frame} operations in a frame");
            bench.assert_equal(&what);
            assert_eq!(told(&bench), Some(bench.next_seq - 1), "{what}: nobody would hear of it later");
            assert!(bench.asked().is_empty(), "{what}: the snapshot is there already");
        }
    }
}

#[test]
fn a_complete_snapshot_that_an_agent_died_over_is_taken_up_by_the_next() {
    let mut bench = Bench::new();
    old_account(&mut bench);
    bench.snapshot(1);
    bench.seal();
    let end = bench.next_seq - 1;
    let parked = Parked { since_seq: 1, detail: String::new(), reason: Reason::Snapshot { number: 1 } };
    let update = Update { applied: Some(end), park: vec![(USER.into(), parked)], ..Update::default() };
    bench.cursors.store(GROUP, &update, true).unwrap();
    bench.run();
    bench.assert_equal("no frame comes after its end");
    assert!(bench.asked().is_empty());
}

/// Found by the simulator (seed 41): the group stood still for ever, and said ten times a second that frames are lost.
#[test]
fn an_account_whose_operations_the_disk_lost_holds_up_no_other() {
    let mut bench = Bench::new();
    bench.create(INBOX, "INBOX");
    let op = bench.saved(INBOX, 1, "");
    let path = bench.blob_path(op.blob().unwrap());
    std::fs::remove_file(path).unwrap();
    let waits = bench.does(op);
    bench.run();
    assert_eq!(bench.parked(USER).map(|parked| parked.since_seq), Some(waits), "its body is not there");
    bench.list.lost.set((waits, waits + 1));
    bench.does_for(OTHER, created(INBOX, "INBOX"));
    bench.run();
    assert_eq!(bench.difference(OTHER), None, "the other account goes on");
    let reason = bench.parked(USER).map(|parked| parked.reason);
    assert_eq!(reason, Some(Reason::NeedsSnapshot { bodies: true }));
}

/// A store in which one account waits for a lock: each request of it is done half, and not answered in time.
struct Stuck {
    inner: MemoryStore,
    left: Arc<AtomicCell<u32>>,
}

impl Stuck {
    fn waits(&self, account: &str) -> bool {
        let left = self.left.load();
        if account == USER && left > 0 {
            self.left.store(left - 1);
        }
        account == USER && left > 0
    }
}

impl Store for Stuck {
    fn apply(&mut self, account: &str, items: &[ApplyItem]) -> Result<Vec<Outcome>, StoreError> {
        if self.waits(account) {
            self.inner.apply(account, &items[..items.len().div_ceil(2)])?;
            return Err(StoreError::TimedOut { timeout_ms: 5_000 });
        }
        self.inner.apply(account, items)
    }

    fn dump(&mut self, account: &str, options: DumpOptions, sink: &mut dyn FnMut(Op)) -> Result<(), StoreError> {
        if self.waits(account) {
            return Err(StoreError::Failed {
                account: account.into(),
                detail: "an earlier request has not ended".into(),
            });
        }
        self.inner.dump(account, options, sink)
    }

    fn accounts(&mut self, sink: &mut dyn FnMut(String)) -> Result<(), StoreError> {
        self.inner.accounts(sink)
    }

    fn raise(&mut self, account: &str, gap: RaiseGap) -> Result<Vec<MailboxMark>, StoreError> {
        self.inner.raise(account, gap)
    }

    fn kick(&mut self, accounts: &[String]) -> Result<u64, StoreError> {
        self.inner.kick(accounts)
    }

    fn version(&mut self) -> Result<String, StoreError> {
        self.inner.version()
    }
}

#[test]
fn an_account_that_the_store_is_stuck_with_holds_up_no_other() {
    for with_snapshot in [false, true] {
        let mut bench = Bench::new();
        bench.ops_in_frame = 5;
        let left = Arc::new(AtomicCell::new(u32::MAX));
        bench.store = Box::new(Stuck { inner: bench.replica.clone(), left: left.clone() });
        if with_snapshot {
            old_account(&mut bench);
            bench.snapshot(1);
            bench.does_for(OTHER, created(INBOX, "INBOX"));
        } else {
            morning(&mut bench);
        }
        bench.run();
        assert_eq!(bench.difference(OTHER), None, "the other account goes on");
        assert_eq!(bench.applier.as_ref().unwrap().applied(), bench.next_seq - 1, "and so does the stream");
        let parked = bench.parked(USER).expect("set aside");
        assert!(matches!(parked.reason, Reason::Store { .. }), "{parked:?}");
        for times in [3, 0] {
            left.store(times);
            bench.run();
        }
        bench.assert_equal("the lock is gone");
        assert!(bench.asked().is_empty(), "nothing was missed");
    }
}

/// A store whose process dies whenever it comes to one operation.
struct Dying {
    inner: MemoryStore,
    over: Arc<AtomicCell<bool>>,
}

impl Dying {
    fn dies(&self, account: &str, op: &Op) -> bool {
        account == USER
            && self.over.load()
            && matches!(op, Op::MessageSaved { message, .. } if (message.mailbox, message.uid) == (INBOX, 4))
    }
}

impl Store for Dying {
    fn apply(&mut self, account: &str, items: &[ApplyItem]) -> Result<Vec<Outcome>, StoreError> {
        if let Some(at) = items.iter().position(|item| self.dies(account, &item.op)) {
            // What came before it in the same transaction dies with it.
            self.inner.apply(account, &items[..at / 2])?;
            return Err(StoreError::Broken(std::io::ErrorKind::ConnectionReset.into()));
        }
        self.inner.apply(account, items)
    }

    fn dump(&mut self, account: &str, options: DumpOptions, sink: &mut dyn FnMut(Op)) -> Result<(), StoreError> {
        self.inner.dump(account, options, sink)
    }

    fn accounts(&mut self, sink: &mut dyn FnMut(String)) -> Result<(), StoreError> {
        self.inner.accounts(sink)
    }

    fn version(&mut self) -> Result<String, StoreError> {
        self.inner.version()
    }

    fn raise(&mut self, account: &str, gap: RaiseGap) -> Result<Vec<MailboxMark>, StoreError> {
        self.inner.raise(account, gap)
    }

    fn kick(&mut self, accounts: &[String]) -> Result<u64, StoreError> {
        self.inner.kick(accounts)
    }
}

#[test]
fn an_operation_that_kills_the_store_sets_its_account_aside_alone() {
    for with_snapshot in [false, true] {
        let mut bench = Bench::new();
        bench.ops_in_frame = 9;
        let over = Arc::new(AtomicCell::new(true));
        bench.store = Box::new(Dying { inner: bench.replica.clone(), over: over.clone() });
        if with_snapshot {
            old_account(&mut bench);
            bench.snapshot(1);
            bench.does_for(OTHER, created(INBOX, "INBOX"));
        } else {
            morning(&mut bench);
        }
        bench.run();
        assert_eq!(bench.difference(OTHER), None, "the other account goes on");
        assert_eq!(bench.applier.as_ref().unwrap().applied(), bench.next_seq - 1, "and so does the stream");
        let parked = bench.parked(USER).expect("set aside");
        assert_eq!(parked.reason, Reason::Poison);
        if !with_snapshot {
            assert!(parked.detail.contains("uid 4"), "the operation is named: {}", parked.detail);
            let state = bench.state_of(&bench.replica, USER);
            assert_eq!(state.mailboxes[&INBOX].messages.len(), 1, "what comes before it is applied");
        }
        // It stays so, also by another agent, until somebody mends the store and says so.
        bench.applier = None;
        bench.run();
        assert_eq!(bench.parked(USER).map(|parked| parked.reason), Some(Reason::Poison));
        over.store(false);
        let retry = Order::Retry { account: USER.into() };
        let mut applier = bench.applier.take().unwrap();
        bench.with(|tools| assert_eq!(applier.order(&retry, tools).unwrap().done, 1));
        bench.applier = Some(applier);
        bench.run();
        bench.assert_equal("mended");
    }
}

#[test]
fn an_account_that_is_passed_over_gets_a_snapshot() {
    let mut bench = Bench::new();
    let over = Arc::new(AtomicCell::new(true));
    bench.store = Box::new(Dying { inner: bench.replica.clone(), over });
    morning(&mut bench);
    bench.run();
    let skip = Order::Skip { account: USER.into() };
    let mut applier = bench.applier.take().unwrap();
    bench.with(|tools| assert_eq!(applier.order(&skip, tools).unwrap().done, 1));
    bench.applier = Some(applier);
    bench.run();
    assert_eq!(bench.asked(), [true; 3], "asked for, with bodies");
    // The user removed the message meanwhile.
    bench.expunge(INBOX, 4);
    bench.snapshot(1);
    bench.run();
    bench.assert_equal("copied anew");
}
