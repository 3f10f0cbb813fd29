//! Whole runs of the threads, from a store that came back to the active's, with real files between.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, unbounded};
use understudy_types::id::{Epoch, GroupId, NodeId};

use super::side::{Side, USER};
use crate::blob::BlobStore;
use crate::blob::cache::BodyCache;
use crate::blob::directory::Directory;
use crate::blob::spool::Spool;
use crate::digest::AccountState;
use crate::merge::forks::Forks;
use crate::merge::wire::{self, kind};
use crate::merge::{Ask, ForkState, MergeEvent, Merger, Order, Tools, What, target};
use crate::store::memory::MemoryStore;
use crate::store::{DumpOptions, Store};

const GROUP: GroupId = GroupId(5);

fn node(raw: u16) -> NodeId {
    NodeId::new(raw).unwrap()
}

/// The other nodes: 2 is active, 3 was in between.
struct Peers {
    store: MemoryStore,
    bodies: BodyCache,
    forks: [Forks; 2],
    asked: Mutex<Vec<u16>>,
    /// Answers that are lost on their way, after what was asked is done.
    lose: Mutex<Vec<u16>>,
}

impl Ask for Peers {
    fn ask(&self, peer: NodeId, kind: u16, body: Vec<u8>) -> Result<Vec<u8>, String> {
        self.asked.lock().unwrap().push(kind);
        let mut store = self.store.clone();
        let answer = match kind {
            kind::CONTENT => {
                let account = wire::account_name(&body).unwrap();
                let mut state = AccountState::default();
                let options = DumpOptions { messages: true, bodies: false };
                store.dump(account, options, &mut |op| state.add(op)).map_err(|error| error.to_string())?;
                target::content(state).to_vec()
            }
            kind::FORK => {
                let (was, account) = wire::take_account(&body).unwrap();
                let forks = &self.forks[usize::from(peer == node(3))];
                wire::put_fork(forks.after(GROUP, account, Epoch(was)).unwrap().as_ref())
            }
            kind::STATE => {
                let (_, account) = wire::take_account(&body).unwrap();
                let mut row = Vec::new();
                let options = DumpOptions { messages: true, bodies: false };
                store
                    .dump(account, options, &mut |op| wire::put_op(&mut row, &op))
                    .map_err(|error| error.to_string())?;
                row
            }
            kind::MERGE => {
                let (_, account, ops) = wire::take_merge(&body).unwrap();
                let merged = target::merge(&mut store, &self.bodies, account, ops)?;
                serde_json::to_vec(&merged).unwrap()
            }
            other => return Err(format!("kind {other}")),
        };
        let mut lose = self.lose.lock().unwrap();
        match lose.iter().position(|lost| *lost == kind) {
            Some(at) => {
                lose.remove(at);
                Err("the answer is lost".into())
            }
            None => Ok(answer),
        }
    }
}

struct World {
    directory: tempfile::TempDir,
    here: Side,
    there: Side,
    peers: Arc<Peers>,
    storage: Arc<dyn BlobStore>,
}

fn forks_file(directory: &Path, n: u8) -> Forks {
    Forks::open(&directory.join(format!("forks-{n}"))).unwrap()
}

/// Both sides with three messages, parted at the epoch 2, and the marks still to be kept.
fn world() -> (World, ForkState) {
    let directory = tempfile::tempdir().unwrap();
    let (mut here, there) = (Side::new(directory.path(), 1), Side::new(directory.path(), 2));
    let inbox = here.create("INBOX");
    for _ in 0..3 {
        here.save(inbox);
    }
    here.replicate(&there);
    let fork = there.promote(2);
    let storage: Arc<dyn BlobStore> = Arc::new(Directory::open(&directory.path().join("blobs")).unwrap());
    let peers = Arc::new(Peers {
        store: there.store.clone(),
        bodies: BodyCache::open(&directory.path().join("bodies"), storage.clone()).unwrap(),
        forks: [forks_file(directory.path(), 2), forks_file(directory.path(), 3)],
        asked: Mutex::default(),
        lose: Mutex::default(),
    });
    (World { directory, here, there, peers, storage }, fork)
}

impl World {
    fn folder(&self) -> PathBuf {
        self.directory.path().join("merge")
    }

    fn start(&self) -> (Merger, Receiver<MergeEvent>) {
        let store = self.here.store.clone();
        let tools = Tools {
            connect: Arc::new(move || Box::new(store.clone())),
            peers: self.peers.clone(),
            storage: self.storage.clone(),
            spool: Spool::new(&self.here.spool),
            directory: self.folder(),
            group_of: Arc::new(|account| (account != "of-another-group@x").then_some(GROUP)),
        };
        let (events, told) = unbounded();
        (Merger::start(tools, move |event| drop(events.send(event))).unwrap(), told)
    }

    fn keep(&self, at: usize, fork: &ForkState) {
        let marks: Vec<_> = fork.marks.values().cloned().collect();
        self.peers.forks[at].keep(GROUP, fork.epoch.unwrap(), USER, &marks).unwrap();
    }

    fn times(&self, kind: u16) -> usize {
        self.peers.asked.lock().unwrap().iter().filter(|asked| **asked == kind).count()
    }
}

fn order(epoch: u64, accounts: &[&str]) -> Order {
    let accounts = accounts.iter().map(|account| (*account).to_owned()).collect();
    Order { group: GROUP, was: Epoch(1), epoch: Epoch(epoch), active: node(2), peers: vec![node(3)], accounts }
}

/// Events up to the end of the group.
fn until_done(told: &Receiver<MergeEvent>) -> Vec<MergeEvent> {
    let mut events = Vec::new();
    loop {
        let event = told.recv_timeout(Duration::from_secs(120)).expect("an end");
        let done = matches!(event, MergeEvent::Done { .. });
        events.push(event);
        if done {
            return events;
        }
    }
}

#[test]
fn what_only_the_returning_node_had_is_brought_once_and_reported() {
    let (mut world, fork) = world();
    world.keep(0, &fork);
    let inbox = *fork.marks.keys().next().unwrap();
    let mine: Vec<String> = (0..70).map(|_| world.here.save(inbox)).collect();
    let theirs = world.there.save(inbox);
    world.here.set_flags(inbox, 1, 8);
    world.here.set_flags(inbox, 2, 1);
    world.there.set_flags(inbox, 2, 2);
    // What was asked for is done, and nobody hears of it.
    *world.peers.lose.lock().unwrap() = vec![kind::CONTENT, kind::MERGE];
    let (merger, told) = world.start();
    merger.begin(order(2, &[USER]));
    let events = until_done(&told);
    let waits = events.iter().filter(|event| matches!(event, MergeEvent::Waiting { .. })).count();
    assert_eq!(waits, 2, "{events:?}");
    let brought = u32::try_from(mine.len()).unwrap();
    let done = MergeEvent::Done { group: GROUP, epoch: Epoch(2), accounts: 1, brought, conflicts: 1 };
    assert_eq!(events.last(), Some(&done));

    let after = world.there.state();
    let guids: Vec<&str> = after.mailboxes[&inbox].messages.values().map(|m| m.guid.as_str()).collect();
    assert_eq!(guids.len(), 3 + mine.len() + 1, "each once");
    assert!(mine.iter().chain([&theirs]).all(|guid| guids.contains(&guid.as_str())));
    assert_eq!((after.mailboxes[&inbox].messages[&1].flags, after.mailboxes[&inbox].messages[&2].flags), (8, 2));
    for (uid, message) in &after.mailboxes[&inbox].messages {
        let body = world.there.store.body(USER, inbox, *uid).unwrap();
        assert_eq!(body, message.guid.as_bytes(), "the body is its own");
    }
    assert_eq!(std::fs::read_dir(&world.here.spool).unwrap().count(), 0, "the spool is empty again");

    let lines = merger.report(GROUP, Epoch(2)).unwrap();
    let count = |what| lines.iter().filter(|line| line.finding.what == what).count();
    assert_eq!((count(What::MessageBrought), count(What::FlagsBrought), count(What::FlagsConflict)), (70, 1, 1));
    assert!(lines.iter().all(|line| line.account == USER && line.wall_ns > 0));

    // Asked for again, also by another life of the agent, nothing is asked of anybody.
    drop(merger);
    let asked = world.peers.asked.lock().unwrap().len();
    let (merger, told) = world.start();
    merger.begin(order(2, &[USER]));
    assert_eq!(until_done(&told), [done]);
    assert_eq!(world.peers.asked.lock().unwrap().len(), asked);
    let stands = merger.stands().unwrap();
    assert_eq!((stands.len(), stands[0].merged, stands[0].brought, stands[0].conflicts), (1, 1, brought, 1));
    assert!(stands[0].kept.done_wall_ns > 0 && stands[0].waiting.is_empty());
}

#[test]
fn an_account_that_is_equal_costs_one_question() {
    let (world, _) = world();
    let (merger, told) = world.start();
    merger.begin(order(2, &[USER]));
    let events = until_done(&told);
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(*world.peers.asked.lock().unwrap(), [kind::CONTENT], "raised counters are no difference");
}

#[test]
fn an_account_that_fails_holds_up_no_other_and_is_named() {
    let (mut world, fork) = world();
    world.keep(0, &fork);
    world.here.store.add_account("only-here@x");
    world.here.store.add_account("of-another-group@x");
    world.here.save(*fork.marks.keys().next().unwrap());
    let (merger, told) = world.start();
    // The store lists the other one.
    merger.begin(order(2, &[USER]));
    let mut accounts = Vec::new();
    while accounts.len() < 2 {
        match told.recv_timeout(Duration::from_secs(60)).unwrap() {
            MergeEvent::Account { account, brought: 1, .. } => accounts.push(account),
            MergeEvent::Waiting { account, .. } if accounts.iter().all(|told| *told != account) => {
                accounts.push(account)
            }
            MergeEvent::Waiting { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let stands = merger.stands().unwrap();
    assert!(stands[0].waiting.contains_key("only-here@x"), "{stands:?}");
    world.there.store.add_account("only-here@x");
    assert!(matches!(until_done(&told).last(), Some(MergeEvent::Done { accounts: 2, .. })));
}

#[test]
fn the_fork_of_the_first_promotion_counts_wherever_it_is_kept() {
    let (mut world, fork) = world();
    let inbox = *fork.marks.keys().next().unwrap();
    // Node 3 was promoted first and knows; the active was promoted after it, and its fork would hide the new message.
    world.keep(1, &fork);
    let later = world.there.promote(3);
    world.keep(0, &later);
    let new = world.here.save(inbox);
    let doomed = world.there.state().mailboxes[&inbox].messages[&1].clone();
    world.there.apply(understudy_types::op::Op::MessageExpunged { mailbox: inbox, uid: 1, guid: doomed.guid.clone() });
    let (merger, told) = world.start();
    merger.begin(order(3, &[USER]));
    until_done(&told);
    let after = world.there.state();
    let has = |guid: &str| after.mailboxes[&inbox].messages.values().any(|message| message.guid == guid);
    assert!(has(&new) && !has(&doomed.guid));
    assert_eq!(world.times(kind::FORK), 2);
}

#[test]
fn without_the_first_fork_nothing_counts_as_deleted() {
    let (mut world, fork) = world();
    let inbox = *fork.marks.keys().next().unwrap();
    let later = world.there.promote(3);
    world.keep(0, &later);
    let new = world.here.save(inbox);
    let doomed = world.there.state().mailboxes[&inbox].messages[&1].clone();
    world.there.apply(understudy_types::op::Op::MessageExpunged { mailbox: inbox, uid: 1, guid: doomed.guid.clone() });
    let (merger, told) = world.start();
    merger.begin(order(3, &[USER]));
    until_done(&told);
    let after = world.there.state();
    let has = |guid: &str| after.mailboxes[&inbox].messages.values().any(|message| message.guid == guid);
    assert!(has(&new) && has(&doomed.guid));
    let lines = merger.report(GROUP, Epoch(3)).unwrap();
    assert!(lines.iter().any(|line| line.finding.what == What::ForkUnknown));
}

#[test]
fn a_newer_epoch_begins_anew_and_a_cancelled_group_ends() {
    let (mut world, fork) = world();
    world.keep(0, &fork);
    world.here.save(*fork.marks.keys().next().unwrap());
    let (merger, told) = world.start();
    merger.begin(order(2, &[USER]));
    until_done(&told);
    merger.begin(order(4, &[USER]));
    assert!(matches!(until_done(&told).last(), Some(MergeEvent::Done { epoch: Epoch(4), accounts: 1, .. })));
    merger.begin(order(5, &["nobody@x"]));
    assert!(matches!(told.recv_timeout(Duration::from_secs(60)).unwrap(), MergeEvent::Waiting { .. }));
    merger.cancel(GROUP);
    merger.begin(order(6, &[USER]));
    let events = until_done(&told);
    assert!(matches!(events.last(), Some(MergeEvent::Done { epoch: Epoch(6), .. })), "{events:?}");
}
