//! Replay against a store in memory: an origin that does things, their operations as frames, and a replica that must
//! become equal, whatever happens on the way.
//!
//! Owns: the bench. Cases of single operations are in `replay`, those of snapshots in `snapshots`,
//! those of stores in trouble in `trouble`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use understudy_types::id::{BlobId, ClusterId, Epoch, GroupId, MailboxGuid, NodeId, Sequence};
use understudy_types::op::{Mailbox, Message, Op};

use super::applier::{ApplyEvent, Frames, GroupApplier, Tools};
use super::cursor::{Cursors, Remember, Update};
use super::orders::Orders;
use super::park::Parked;
use crate::blob::cache::BodyCache;
use crate::blob::directory::Directory;
use crate::blob::{BlobStore, relative_path};
use crate::clock::MonoNs;
use crate::digest::{AccountState, first_difference};
use crate::frame::{Frame, FrameBuilder, FrameCodec, Level, Seal};
use crate::journal::ReadError;
use crate::rules::Hold;
use crate::store::memory::MemoryStore;
use crate::store::{ApplyItem, DumpOptions, Status, Store};

mod holds;
mod replay;
mod snapshots;
mod trouble;

const GROUP: GroupId = GroupId(3);
const USER: &str = "user@example.test";
const OTHER: &str = "other@example.test";
const INBOX: MailboxGuid = MailboxGuid([1; 16]);
const WORK: MailboxGuid = MailboxGuid([2; 16]);

/// The group's journal as a list.
#[derive(Default)]
struct List {
    frames: RefCell<Vec<Frame>>,
    /// Frames that one read gives.
    at_once: Cell<usize>,
    /// First sequence that is still kept.
    first: Cell<u64>,
    /// Last sequence that a reader may see.
    end: Cell<u64>,
    /// What a disk lost: from here to before there.
    lost: Cell<(u64, u64)>,
}

impl Frames for List {
    fn read(&self, group: GroupId, from: Sequence, _bytes_max: usize) -> Result<Vec<Frame>, ReadError> {
        if from.0 < self.first.get() {
            return Err(ReadError::Retired { group, oldest: Sequence(self.first.get()) });
        }
        let (lost, next) = self.lost.get();
        if (lost..next).contains(&from.0) {
            return Err(ReadError::Gap { group, from, next: Sequence(next) });
        }
        let frames = self.frames.borrow();
        let rest = frames.iter().filter(|f| f.last_sequence() >= from && f.last_sequence().0 <= self.end.get());
        let found: Vec<Frame> = rest.take(self.at_once.get()).cloned().collect();
        match found.first().map(|frame| frame.header().first_sequence) {
            Some(first) if first < from => Err(ReadError::Inside { group, from, first }),
            _ => Ok(found),
        }
    }

    fn tail(&self, _group: GroupId) -> u64 {
        self.frames.borrow().last().map_or(0, |frame| frame.last_sequence().0.min(self.end.get()))
    }
}

/// Origin, journal, central storage and replica.
struct Bench {
    dir: tempfile::TempDir,
    origin: MemoryStore,
    store: Box<dyn Store>,
    replica: MemoryStore,
    list: List,
    blobs: Arc<dyn BlobStore>,
    bodies: BodyCache,
    cursors: Cursors,
    codec: FrameCodec,
    builder: FrameBuilder,
    /// Operations in the frame that is being built; 0 = one frame for each.
    ops_in_frame: u32,
    next_seq: u64,
    next_modseq: u64,
    events: Vec<ApplyEvent>,
    now: MonoNs,
    orders: Given,
    applier: Option<GroupApplier>,
    files: u64,
}

/// What an administrator has ordered.
struct Given {
    hold: Hold,
    paused_group: bool,
    paused_account: Option<&'static str>,
}

impl Orders for Given {
    fn hold(&self, _account: &str) -> Hold {
        self.hold
    }

    fn group_paused(&self, _group: GroupId, _now_wall_ns: u64) -> Option<String> {
        self.paused_group.then(|| "paused".to_owned())
    }

    fn account_paused(&self, _group: GroupId, account: &str, _now_wall_ns: u64) -> Option<String> {
        (self.paused_account == Some(account)).then(|| "paused".to_owned())
    }
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("spool")).unwrap();
        let blobs: Arc<dyn BlobStore> = Arc::new(Directory::open(&path("blobs")).unwrap());
        let (origin, replica) = (MemoryStore::new(Some(path("spool"))), MemoryStore::new(None));
        for account in [USER, OTHER] {
            origin.add_account(account);
            replica.add_account(account);
        }
        let list = List::default();
        list.at_once.set(100);
        list.end.set(u64::MAX);
        Self {
            origin,
            store: Box::new(replica.clone()),
            replica,
            list,
            bodies: BodyCache::open(&path("staging"), blobs.clone()).unwrap(),
            blobs,
            cursors: Cursors::open(&path("cursors")).unwrap(),
            codec: FrameCodec::new(),
            builder: FrameBuilder::new(),
            ops_in_frame: 1,
            next_seq: 1,
            next_modseq: 1,
            events: Vec::new(),
            now: MonoNs(1_000_000_000),
            orders: Given { hold: Hold::OFF, paused_group: false, paused_account: None },
            applier: None,
            files: 0,
            dir,
        }
    }

    /// A replica that has nothing, and a cursor that knows nothing.
    fn new_replica(&mut self) {
        self.replica = MemoryStore::new(None);
        [USER, OTHER].iter().for_each(|account| self.replica.add_account(account));
        self.store = Box::new(self.replica.clone());
        self.lose_cursor(0);
    }

    /// The agent was killed, and its cursor fell back to `applied`.
    fn lose_cursor(&mut self, applied: u64) {
        self.files += 1;
        self.cursors = Cursors::open(&self.dir.path().join(format!("cursors-{}", self.files))).unwrap();
        let update = Update { applied: Some(applied), ..Update::default() };
        self.cursors.store(GROUP, &update, false).unwrap();
        self.applier = None;
        self.events.clear();
    }

    /// Appends bytes as an operation to the stream.
    fn journal(&mut self, account: &str, op: &[u8]) -> u64 {
        self.builder.push(account, 7, op, None).unwrap();
        self.next_seq += 1;
        if self.builder.count() >= self.ops_in_frame {
            self.seal();
        }
        self.next_seq - 1
    }

    fn seal(&mut self) {
        if self.builder.is_empty() {
            return;
        }
        let first_sequence = Sequence(self.next_seq - u64::from(self.builder.count()));
        let seal = Seal {
            cluster: ClusterId(1),
            origin: NodeId::new(1).unwrap(),
            group: GROUP,
            epoch: Epoch(1),
            first_sequence,
            previous_hash: [u8::from(first_sequence.0 > 1); 32],
            level: Level::default(),
        };
        self.list.frames.borrow_mut().push(self.builder.seal(&seal, &mut self.codec).unwrap());
    }

    /// The origin's user does something, and it is journaled.
    fn does(&mut self, op: Op) -> u64 {
        self.does_for(USER, op)
    }

    fn does_for(&mut self, account: &str, op: Op) -> u64 {
        let body_path = op.blob().map(|blob| self.text_path(blob));
        let item = ApplyItem { op: op.clone(), body_path };
        let outcomes = self.origin.apply(account, &[item]).unwrap();
        assert!(outcomes[0].status <= Status::AlreadySo, "{op:?}: {outcomes:?}");
        self.journal(account, &op.encode())
    }

    fn text_path(&self, blob: BlobId) -> PathBuf {
        self.dir.path().join("texts").join(blob.to_string())
    }

    /// Where central storage keeps a body.
    fn blob_path(&self, blob: BlobId) -> PathBuf {
        self.dir.path().join("blobs").join(relative_path(blob))
    }

    fn text(&self, text: &str) -> BlobId {
        let blob = BlobId(*blake3::hash(text.as_bytes()).as_bytes());
        let path = self.text_path(blob);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        self.blobs.put(blob, &path).unwrap();
        blob
    }

    fn modseq(&mut self) -> u64 {
        self.next_modseq += 1;
        self.next_modseq
    }

    fn create(&mut self, guid: MailboxGuid, name: &str) -> u64 {
        self.does(created(guid, name))
    }

    fn save(&mut self, mailbox: MailboxGuid, uid: u32) -> u64 {
        let op = self.saved(mailbox, uid, "");
        self.does(op)
    }

    /// A save whose body says which message it is, and `more`.
    fn saved(&mut self, mailbox: MailboxGuid, uid: u32, more: &str) -> Op {
        let modseq = self.modseq();
        let text = format!("Subject: {uid}\r\n\r\nmessage {uid} of {mailbox} {more}\r\n");
        let message = Message {
            mailbox,
            uid_validity: 77,
            uid,
            guid: format!("guid-{uid}-{mailbox}{more}"),
            blob: Some(self.text(&text)),
            size_physical_bytes: text.len() as u64,
            received_s: 1_600_000_000 + i64::from(uid),
            modseq,
            ..Message::default()
        };
        Op::MessageSaved { message, snapshot: 0 }
    }

    /// Copies a message, and takes the source away when it is a move.
    fn copy(&mut self, from: (MailboxGuid, u32), to: (MailboxGuid, u32), moved: bool) {
        let modseq = self.modseq();
        let state = self.state_of(&self.origin.clone(), USER);
        let source = &state.mailboxes[&from.0].messages[&from.1];
        let message = Message {
            mailbox: to.0,
            uid_validity: 77,
            uid: to.1,
            guid: source.guid.clone(),
            received_s: source.received_s,
            flags: source.flags,
            size_physical_bytes: source.size_physical_bytes,
            blob: source.blob.or(self.blob_of(from)),
            modseq,
            ..Message::default()
        };
        self.does(Op::MessageCopied { message, source: from.0, source_uid: from.1, moved });
        if moved {
            self.expunge(from.0, from.1);
        }
    }

    fn blob_of(&self, (mailbox, uid): (MailboxGuid, u32)) -> Option<BlobId> {
        self.origin.body(USER, mailbox, uid).map(|body| BlobId(*blake3::hash(&body).as_bytes()))
    }

    fn expunge(&mut self, mailbox: MailboxGuid, uid: u32) -> u64 {
        self.does(Op::MessageExpunged { mailbox, uid, guid: String::new() })
    }

    fn flags(&mut self, mailbox: MailboxGuid, uid: u32, flags: u32) -> u64 {
        let op = self.flags_op(mailbox, uid, flags);
        self.does(op)
    }

    fn flags_op(&mut self, mailbox: MailboxGuid, uid: u32, flags: u32) -> Op {
        let modseq = self.modseq();
        Op::FlagsSet { mailbox, uid, guid: String::new(), flags, keywords: vec![format!("k{flags}")], modseq }
    }

    /// Replays until nothing is left, some time later.
    fn run(&mut self) {
        self.seal();
        for _ in 0..6 {
            self.now = MonoNs(self.now.0 + 5_500_000_000);
            let mut applier = self.applier.take();
            self.with(|tools| {
                let mut working = match applier.take() {
                    Some(working) => working,
                    None => GroupApplier::open(GROUP, tools).unwrap(),
                };
                // A store that cannot be asked: the same is tried again.
                for _ in 0..1000 {
                    if let Ok(false) = working.step(tools) {
                        break;
                    }
                }
                applier = Some(working);
            });
            self.applier = applier;
        }
    }

    fn with(&mut self, work: impl FnOnce(&mut Tools<'_>)) {
        let events = &mut self.events;
        let mut report = |event| events.push(event);
        work(&mut Tools {
            store: self.store.as_mut(),
            frames: &self.list,
            bodies: &self.bodies,
            cursors: &self.cursors,
            codec: &mut self.codec,
            report: &mut report,
            orders: &self.orders,
            now: self.now,
            wall_ns: self.now.0,
        });
    }

    fn with_means(&mut self, work: impl FnOnce(&mut crate::apply::worker::Means<'_>)) {
        let (events, now) = (&mut self.events, self.now);
        let mut report = |event| events.push(event);
        work(&mut crate::apply::worker::Means {
            store: self.store.as_mut(),
            frames: &self.list,
            bodies: &self.bodies,
            cursors: &self.cursors,
            codec: &mut self.codec,
            report: &mut report,
            orders: &self.orders,
            clock: &|| now,
            wall: &|| now.0,
        });
    }

    fn state_of(&self, store: &MemoryStore, account: &str) -> AccountState {
        let mut state = AccountState::default();
        store.clone().dump(account, DumpOptions { messages: true, bodies: false }, &mut |op| state.add(op)).unwrap();
        state
    }

    /// What differs between the two stores.
    fn difference(&self, account: &str) -> Option<String> {
        let (here, there) = (self.state_of(&self.origin, account), self.state_of(&self.replica, account));
        if let Some(difference) = first_difference(&here, &there) {
            return Some(difference.to_string());
        }
        let bodies = here.mailboxes.iter().flat_map(|(guid, m)| m.messages.keys().map(|uid| (*guid, *uid)));
        let differs = |(guid, uid): &(MailboxGuid, u32)| {
            self.origin.body(account, *guid, *uid) != self.replica.body(account, *guid, *uid)
        };
        bodies.into_iter().find(differs).map(|place| format!("the body of {place:?}"))
    }

    /// Nothing waits, everything is applied, and both accounts are equal.
    fn assert_equal(&self, what: &str) {
        let applier = self.applier.as_ref().unwrap();
        let waiting: Vec<_> = applier.lot().iter().collect();
        assert!(waiting.is_empty(), "{what}: {waiting:?}");
        assert_eq!(applier.applied(), self.next_seq - 1, "{what}");
        for account in [USER, OTHER] {
            assert_eq!(self.difference(account), None, "{what}: `{account}`");
        }
    }

    fn parked(&self, account: &str) -> Option<Parked> {
        self.applier.as_ref()?.lot().get(account).cloned()
    }

    /// Operations that the store answered for, by status.
    fn counts(&self) -> BTreeMap<Status, u64> {
        let mut counts = BTreeMap::new();
        for event in &self.events {
            if let ApplyEvent::Count { status, count, .. } = event {
                *counts.entry(*status).or_default() += count;
            }
        }
        counts
    }

    fn asked(&self) -> Vec<bool> {
        let ask = |event: &ApplyEvent| match event {
            ApplyEvent::Ask { account, bodies, .. } if account == USER => Some(*bodies),
            _ => None,
        };
        self.events.iter().filter_map(ask).collect()
    }
}

fn created(guid: MailboxGuid, name: &str) -> Op {
    let mailbox = Mailbox { guid, name: name.into(), uid_validity: 77, ..Mailbox::default() };
    Op::MailboxCreated { mailbox, snapshot: 0 }
}
