//! Capture: the thread that takes records out of the ring, answers sessions that open an account, and hands every
//! operation to the event loop.
//!
//! Owns: the ring's consumer. What can hurt: a record is gone from the ring only once [`Capture::release_to`] says
//! that the journal has it, so the death of this process loses nothing; records that a hostile store process wrote
//! are checked here and marked as gaps where they are no operation. Refuses: looking into operations further than
//! their kind.

pub mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::atomic::AtomicCell;
use crossbeam::channel::{Receiver, Sender, unbounded};
use understudy_ring::{
    AttachError, Completer, CompletionRef, Consumer, ConsumerOptions, ConsumerStats, Event, Record, RecordKind, Status,
    Waker, WriteLease, gap_bucket,
};
use understudy_types::op::Fields;

use crate::clock;
use crate::limits::{CAPTURE_BURST_MAX, CAPTURE_WAIT_MS};
use view::SharedView;

/// One operation out of the ring.
#[derive(Clone, Debug)]
pub struct CapturedOp {
    pub index: u64,
    pub account: String,
    pub kind: u16,
    pub op: Vec<u8>,
    pub captured_wall_ns: u64,
    pub completion: Option<CompletionRef>,
}

/// What the event loop gets.
#[derive(Clone, Debug)]
pub enum Captured {
    Op(CapturedOp),
    /// A session of this account began.
    Opened {
        account: String,
    },
    /// Something about this account may have been missed: compare it.
    Compare {
        account: String,
        why: String,
        /// It is noted in the ring as well, until [`Capture::gaps_done`] is told this bucket.
        bucket: Option<u16>,
    },
    /// As [`Captured::Compare`], for every account whose [`gap_bucket`] is one of these, all noted in the ring.
    CompareBuckets {
        buckets: Vec<u16>,
    },
    /// As [`Captured::Compare`], for every account of this node.
    CompareAll {
        why: String,
    },
    /// Everything before this index has been handed over, and nothing more is there now.
    Idle {
        read_index: u64,
        /// [`bucket_of`] the accounts with a change under way, which no operation tells of yet; `None` = as before.
        open: Option<BTreeSet<u16>>,
    },
}

enum Command {
    GapsDone(Vec<u16>),
    PolicyChanged,
    Stop,
}

/// Handle on the capture thread.
pub struct Capture {
    /// Generation of the ring; with an index it names a record for ever.
    pub generation: u64,
    /// Where the ring is read from: what is before was released.
    pub first_index: u64,
    completer: Completer,
    waker: Waker,
    write_lease: WriteLease,
    release: Arc<AtomicCell<u64>>,
    stats: Arc<AtomicCell<ConsumerStats>>,
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Attaches to the ring and starts the thread.
    ///
    /// # Errors
    /// [`AttachError`]; when the thread cannot be made, as its I/O error.
    pub fn start(
        path: &Path,
        options: &ConsumerOptions,
        view: SharedView,
        events: Sender<Captured>,
    ) -> Result<Self, AttachError> {
        let consumer = Consumer::attach(path, options, clock::wall_ns())?;
        if !options.leased {
            // An agent with leases may have been here before, and left its limit.
            consumer.write_lease().set_until(0);
        }
        let (commands, orders) = unbounded();
        let release = Arc::new(AtomicCell::new(consumer.release_index()));
        let stats = Arc::new(AtomicCell::new(consumer.stats()));
        let mut this = Self {
            generation: consumer.generation(),
            first_index: consumer.release_index(),
            completer: consumer.completer(),
            waker: consumer.waker(),
            write_lease: consumer.write_lease(),
            release: release.clone(),
            stats: stats.clone(),
            commands,
            thread: None,
        };
        let state = State { consumer, view, events, orders, release, stats, open: Vec::new(), noted: BTreeMap::new() };
        let thread = std::thread::Builder::new().name("capture".into()).spawn(move || state.run());
        this.thread = Some(thread.map_err(|source| AttachError::Io {
            what: "start a thread for",
            path: path.to_path_buf(),
            source,
        })?);
        Ok(this)
    }

    /// Until when the store may change mail; usable from any thread.
    #[must_use]
    pub fn write_lease(&self) -> WriteLease {
        self.write_lease.clone()
    }

    /// Everything before this index is durable elsewhere: its space may be used again.
    pub fn release_to(&self, index: u64) {
        self.release.store(index);
        self.waker.wake();
    }

    /// Answers a producer that waits. `false` when it waits no more.
    pub fn complete(&self, at: CompletionRef, status: Status) -> bool {
        self.completer.complete(at, status, &[])
    }

    /// The accounts of these buckets are compared, or are to be, and the next agent will know; once for each time that
    /// a bucket was told.
    pub fn gaps_done(&self, buckets: Vec<u16>) {
        // The thread is gone only at shutdown; the buckets then stay pending in the ring, which is right.
        let _ = self.commands.send(Command::GapsDone(buckets));
        self.waker.wake();
    }

    /// Sessions are to ask for their policy again.
    pub fn policy_changed(&self) {
        let _ = self.commands.send(Command::PolicyChanged);
        self.waker.wake();
    }

    /// Records that are in the ring and that this agent has not read, when it has read up to `read_index`.
    #[must_use]
    pub fn unread(&self, read_index: u64) -> u64 {
        self.waker.unread(read_index)
    }

    /// Counters and fill, at most some moments old.
    #[must_use]
    pub fn stats(&self) -> ConsumerStats {
        self.stats.load()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The bucket in which the ring marks a gap for an account.
#[must_use]
pub fn bucket_of(account: &str) -> u16 {
    gap_bucket(account.as_bytes())
}

struct State {
    consumer: Consumer,
    view: SharedView,
    events: Sender<Captured>,
    orders: Receiver<Command>,
    release: Arc<AtomicCell<u64>>,
    stats: Arc<AtomicCell<ConsumerStats>>,
    /// Open intents as they were told last.
    open: Vec<u16>,
    /// How often each bucket was told and is not answered.
    noted: BTreeMap<u16, u32>,
}

impl State {
    fn run(mut self) {
        loop {
            self.consumer.release(self.release.load());
            while let Ok(command) = self.orders.try_recv() {
                match command {
                    Command::GapsDone(buckets) => self.gaps_done(buckets),
                    Command::PolicyChanged => drop(self.consumer.bump_policy_generation()),
                    Command::Stop => return,
                }
            }
            let mut taken = 0;
            while taken < CAPTURE_BURST_MAX {
                let Some(event) = self.consumer.poll() else { break };
                taken += 1;
                if !self.hand_over(event) {
                    return;
                }
            }
            let buckets = self.consumer.take_gaps();
            buckets.iter().for_each(|bucket| self.noted(*bucket));
            self.stats.store(self.consumer.stats());
            if !buckets.is_empty() && self.events.send(Captured::CompareBuckets { buckets }).is_err() {
                return;
            }
            if taken < CAPTURE_BURST_MAX {
                let now = self.consumer.open_intents();
                let open = (now != self.open).then(|| now.iter().copied().collect());
                self.open = now;
                if self.events.send(Captured::Idle { read_index: self.consumer.read_index(), open }).is_err() {
                    return;
                }
                self.consumer.wait(CAPTURE_WAIT_MS * 1_000_000);
            }
        }
    }

    fn noted(&mut self, bucket: u16) {
        *self.noted.entry(bucket).or_default() += 1;
    }

    /// Takes the note out of the ring, unless the bucket was told again meanwhile.
    fn gaps_done(&mut self, buckets: Vec<u16>) {
        let noted = &mut self.noted;
        let mut answered = |bucket: &u16| {
            let left = noted.get(bucket).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                noted.remove(bucket)
            } else {
                noted.insert(*bucket, left)
            };
            left == 0
        };
        let done: Vec<u16> = buckets.into_iter().filter(|bucket| answered(bucket)).collect();
        self.consumer.gaps_done(&done);
    }

    /// `false` when the event loop is gone.
    fn hand_over(&mut self, event: Event) -> bool {
        let captured = match event {
            Event::Record(record) => match self.record(record) {
                Some(captured) => captured,
                None => return true,
            },
            Event::Orphaned(intent) => {
                // Opened while another agent was here: the name is gone, its bucket is known.
                let bucket = intent.bucket;
                self.noted(bucket);
                intent.account.map_or(Captured::CompareBuckets { buckets: vec![bucket] }, |account| {
                    let account = String::from_utf8_lossy(&account).into_owned();
                    let why = "a store process died between commit and publication".into();
                    Captured::Compare { account, why, bucket: Some(bucket) }
                })
            }
            // Nobody was told that it was published, and a change that was committed had an intent open.
            Event::Abandoned { .. } => return true,
            Event::Damaged { from, to, fault } => {
                tracing::error!(from, to, %fault, "records of the ring are damaged; all accounts are compared");
                Captured::CompareAll { why: format!("ring records {from} to {to} are damaged: {fault}") }
            }
        };
        self.events.send(captured).is_ok()
    }

    fn record(&self, record: Record) -> Option<Captured> {
        let Ok(account) = String::from_utf8(record.account) else {
            tracing::warn!(index = record.index, "a record names an account that is not UTF-8; it is left out");
            self.answer(record.completion, Status::Refused);
            return None;
        };
        match record.kind {
            RecordKind::AccountOpen => {
                let policy = self.view.read().decide(&account);
                if let Some(at) = record.completion {
                    self.consumer.complete_policy(at, &policy);
                }
                Some(Captured::Opened { account })
            }
            RecordKind::Op => match Fields::of(&record.payload) {
                Ok((kind, _)) => Some(Captured::Op(CapturedOp {
                    index: record.index,
                    account,
                    kind,
                    op: record.payload,
                    captured_wall_ns: record.captured_wall_ns,
                    completion: record.completion,
                })),
                Err(error) => {
                    self.answer(record.completion, Status::Refused);
                    Some(Captured::Compare {
                        account,
                        why: format!("a record holds no operation: {error}"),
                        bucket: None,
                    })
                }
            },
            RecordKind::Gap => Some(Captured::Compare { account, why: "the store marked a gap".into(), bucket: None }),
            RecordKind::Intent | RecordKind::IntentEnd => None,
        }
    }

    fn answer(&self, completion: Option<CompletionRef>, status: Status) {
        if let Some(at) = completion {
            self.consumer.complete(at, status, &[]);
        }
    }
}
