//! A stand-in for the agent: takes all records, answers as the test says, remembers what it saw.
//!
//! Owns: the ring's consumer, in a thread of its own. What can hurt: a test that asks before the thread has seen the
//! record; [`Tap::until`] waits. Refuses: judging; the cases do.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use understudy_ring::{
    AckLevel, CompletionRef, Consumer, ConsumerOptions, Event, OnTimeout, Owner, Policy, RecordKind, Role, Status,
    WriteLease, gap_bucket,
};
use understudy_types::op::Op;

/// One record.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) account: String,
    pub(crate) kind: RecordKind,
    /// Of operations.
    pub(crate) op: Option<Op>,
    pub(crate) intent: u64,
    pub(crate) closes: bool,
    pub(crate) producer: Owner,
    pub(crate) wanted_answer: bool,
}

#[derive(Debug, Default)]
struct Notes {
    seen: Vec<Seen>,
    gaps: Vec<u16>,
    orphans: Vec<String>,
    strange: Vec<String>,
}

/// What the stand-in does with what it gets.
#[derive(Debug)]
struct Manner {
    stop: AtomicBool,
    /// Looks at nothing and answers nothing, like a stopped process.
    frozen: AtomicBool,
    /// Answers no operation.
    silent: AtomicBool,
    /// The answer to operations: a [`Status`] as a number.
    status: AtomicU32,
    fenced: AtomicBool,
}

/// The running stand-in.
#[derive(Debug)]
pub(crate) struct Tap {
    notes: Arc<Mutex<Notes>>,
    manner: Arc<Manner>,
    lease: WriteLease,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Everything as by default, with an acknowledgement by a peer that is waited for at most `ms`.
pub(crate) fn peer(on_timeout: OnTimeout, ms: u32) -> Policy {
    Policy { level: AckLevel::Peer, peers: 1, on_timeout, wait_timeout_ms: ms, ..Policy::default() }
}

/// Users change these accounts elsewhere.
pub(crate) fn replica() -> Policy {
    Policy { role: Role::Replica, ..Policy::default() }
}

impl Tap {
    /// Takes the ring at `dir/ring`, or makes it, and answers every question about an account with `policy`.
    pub(crate) fn start(dir: &Path, policy: Policy) -> Self {
        Self::start_with(dir, policy, ConsumerOptions::default())
    }

    /// The same with a ring of other sizes.
    pub(crate) fn start_with(dir: &Path, policy: Policy, options: ConsumerOptions) -> Self {
        let options = ConsumerOptions { mode: 0o666, default_policy: policy, ..options };
        let manner = Arc::new(Manner {
            stop: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            status: AtomicU32::new(Status::Replicated as u32),
            fenced: AtomicBool::new(false),
        });
        let notes = Arc::new(Mutex::new(Notes::default()));
        let path: PathBuf = dir.join("ring");
        let consumer = Consumer::attach(&path, &options, 0).expect("the ring can be taken");
        // As an agent must: what the one before it said of accounts may no longer hold.
        consumer.bump_policy_generation();
        let lease = consumer.write_lease();
        let thread = {
            let (notes, manner) = (Arc::clone(&notes), Arc::clone(&manner));
            std::thread::spawn(move || work(consumer, policy, &notes, &manner))
        };
        Self { notes, manner, lease, thread: Some(thread) }
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        self.manner.frozen.store(frozen, Ordering::SeqCst);
        pause();
    }

    pub(crate) fn silent(&self, silent: bool) {
        self.manner.silent.store(silent, Ordering::SeqCst);
    }

    pub(crate) fn fence(&self, fenced: bool) {
        self.manner.fenced.store(fenced, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(600));
    }

    /// The time until which mail may be changed.
    pub(crate) fn lease(&self) -> &WriteLease {
        &self.lease
    }

    /// Whether the account is marked for comparison by now.
    pub(crate) fn marked(&self, account: &str) -> bool {
        self.notes(|n| n.gaps.contains(&gap_bucket(account.as_bytes())))
    }

    fn notes<T>(&self, f: impl FnOnce(&Notes) -> T) -> T {
        f(&self.notes.lock().expect("nobody panics holding it"))
    }

    /// Every record of `account` so far, in order.
    pub(crate) fn records(&self, account: &str) -> Vec<Seen> {
        self.notes(|n| n.seen.iter().filter(|s| s.account == account).cloned().collect())
    }

    /// Every operation of `account` so far, in order.
    pub(crate) fn ops(&self, account: &str) -> Vec<Op> {
        self.records(account).into_iter().filter_map(|s| s.op).collect()
    }

    /// Waits for `condition` on the operations of `account`.
    pub(crate) fn until(&self, account: &str, what: &str, condition: impl Fn(&[Op]) -> bool) -> Vec<Op> {
        for _ in 0..3000 {
            let ops = self.ops(account);
            if condition(&ops) {
                return ops;
            }
            pause();
        }
        panic!("not seen: {what}; but {:#?}", self.ops(account));
    }

    /// Waits until all that was published is taken.
    pub(crate) fn settle(&self) {
        let mut before = usize::MAX;
        loop {
            let now = self.notes(|n| n.seen.len());
            if now == before {
                return;
            }
            before = now;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether the account is marked for comparison; waits a little for the mark.
    pub(crate) fn gap(&self, account: &str) -> bool {
        let bucket = gap_bucket(account.as_bytes());
        (0..200).any(|_| {
            self.notes(|n| n.gaps.contains(&bucket)) || {
                pause();
                false
            }
        })
    }

    /// Accounts of intents whose process died.
    pub(crate) fn orphans(&self) -> Vec<String> {
        self.notes(|n| n.orphans.clone())
    }

    /// What should not happen: damage, operations that cannot be read.
    pub(crate) fn strange(&self) -> Vec<String> {
        self.notes(|n| n.strange.clone())
    }

    /// Intents of `account` that were begun and never ended.
    pub(crate) fn open_intents(&self, account: &str) -> Vec<(Owner, u64)> {
        let mut open = Vec::new();
        for seen in self.records(account) {
            if seen.kind == RecordKind::Intent {
                open.push((seen.producer, seen.intent));
            } else if seen.kind == RecordKind::IntentEnd || seen.closes {
                open.retain(|one| *one != (seen.producer, seen.intent));
            }
        }
        open
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.manner.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

fn work(mut consumer: Consumer, policy: Policy, notes: &Mutex<Notes>, manner: &Manner) {
    let mut fenced = false;
    let mut held: Vec<CompletionRef> = Vec::new();
    while !manner.stop.load(Ordering::SeqCst) {
        if manner.frozen.load(Ordering::SeqCst) {
            pause();
            continue;
        }
        if manner.fenced.load(Ordering::SeqCst) != fenced {
            fenced = !fenced;
            consumer.set_fenced(fenced);
        }
        if !manner.silent.load(Ordering::SeqCst) {
            for at in held.drain(..) {
                consumer.complete(at, Status::Replicated, &[]);
            }
        }
        let buckets = consumer.take_gaps();
        if !buckets.is_empty() {
            notes.lock().expect("nobody panics holding it").gaps.extend_from_slice(&buckets);
            consumer.gaps_done(&buckets);
        }
        let Some(event) = consumer.poll() else {
            consumer.wait(10_000_000);
            continue;
        };
        let mut notes = notes.lock().expect("nobody panics holding it");
        match event {
            Event::Record(record) => {
                let account = String::from_utf8_lossy(&record.account).into_owned();
                let op = (record.kind == RecordKind::Op).then(|| Op::decode(&record.payload));
                if let Some(Err(error)) = &op {
                    notes.strange.push(format!("{account}: {error}: {:02x?}", record.payload));
                }
                notes.seen.push(Seen {
                    account,
                    kind: record.kind,
                    op: op.and_then(Result::ok),
                    intent: record.intent,
                    closes: record.flags & 1 != 0,
                    producer: record.producer,
                    wanted_answer: record.completion.is_some(),
                });
                match record.completion {
                    Some(at) if record.kind == RecordKind::AccountOpen => {
                        consumer.complete_policy(at, &policy);
                    }
                    Some(at) if manner.silent.load(Ordering::SeqCst) => held.push(at),
                    Some(at) => {
                        let peer = manner.status.load(Ordering::SeqCst) == Status::Replicated as u32;
                        let status = if peer { Status::Replicated } else { Status::TimedOut };
                        consumer.complete(at, status, &[]);
                    }
                    None => {}
                }
            }
            Event::Orphaned(orphan) => {
                notes.orphans.push(String::from_utf8_lossy(&orphan.account.unwrap_or_default()).into_owned());
            }
            Event::Abandoned { .. } => {}
            Event::Damaged { .. } => notes.strange.push(format!("{event:?}")),
        }
        drop(notes);
        consumer.release(consumer.read_index());
    }
}

/// One turn of a stand-in that notes nothing: answers what there is, and waits a little.
pub(crate) fn follow(consumer: &mut Consumer, policy: &Policy) {
    while let Some(event) = consumer.poll() {
        let Event::Record(record) = event else { continue };
        match record.completion {
            Some(at) if record.kind == RecordKind::AccountOpen => drop(consumer.complete_policy(at, policy)),
            Some(at) => drop(consumer.complete(at, Status::Replicated, &[])),
            None => {}
        }
        consumer.release(consumer.read_index());
    }
    let buckets = consumer.take_gaps();
    consumer.gaps_done(&buckets);
    consumer.wait(10_000_000);
}
