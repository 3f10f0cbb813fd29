//! Export threads: each reads one account from the store and hands its state over, operation by operation.
//!
//! Owns: the threads and their connections to the store. What can hurt: a snapshot that begins before its place in
//! the stream is known; the begin is sequenced first, and only then is the store read, so that whatever the reading
//! misses stands after the begin as a live operation.

use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use understudy_types::op::Op;

use super::queue::Job;
use crate::limits::EXPORTS_AT_ONCE;
use crate::store::{DumpOptions, Store};

/// What the event loop gets from an export.
pub enum ExportEvent {
    /// The snapshot begins: give it a number and a place in the stream, and answer with the number.
    Begin { account: String, number: Sender<u64> },
    /// One operation of the snapshot; its number stands in it.
    Op { account: String, op: Op },
    /// The snapshot is complete; `Err` says why there is none.
    End { account: String, result: Result<u64, String> },
}

/// The threads; dropping the handle ends them after the account at hand.
pub struct Exporters {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Exporters {
    /// Starts the threads. `connect` makes one store each; `events` may block them.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(connect: impl Fn() -> Box<dyn Store>, events: &Sender<ExportEvent>) -> std::io::Result<Self> {
        let (jobs, orders) = unbounded();
        let mut threads = Vec::new();
        for n in 0..EXPORTS_AT_ONCE {
            let (orders, events, mut store) = (orders.clone(), events.clone(), connect());
            let thread = std::thread::Builder::new().name(format!("export-{n}"));
            threads.push(thread.spawn(move || run(&orders, store.as_mut(), &events))?);
        }
        Ok(Self { jobs: Some(jobs), threads })
    }

    /// Starts a job; the caller keeps to [`EXPORTS_AT_ONCE`].
    pub fn start_job(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The threads are gone only at shutdown.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Exporters {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(orders: &Receiver<Job>, store: &mut dyn Store, events: &Sender<ExportEvent>) {
    while let Ok(job) = orders.recv() {
        let result = export(&job, store, events);
        if events.send(ExportEvent::End { account: job.account, result }).is_err() {
            return;
        }
    }
}

fn export(job: &Job, store: &mut dyn Store, events: &Sender<ExportEvent>) -> Result<u64, String> {
    let gone = "the agent is stopping";
    let (number, given) = bounded(1);
    events.send(ExportEvent::Begin { account: job.account.clone(), number }).map_err(|_| gone)?;
    let snapshot = given.recv().map_err(|_| gone)?;
    let options = DumpOptions { messages: true, bodies: job.bodies };
    let mut lost = false;
    store
        .dump(&job.account, options, &mut |op| {
            let op = numbered(op, snapshot);
            lost |= events.send(ExportEvent::Op { account: job.account.clone(), op }).is_err();
        })
        .map_err(|error| error.to_string())?;
    if lost { Err(gone.to_owned()) } else { Ok(snapshot) }
}

/// Marks an operation of a dump as part of a snapshot.
#[must_use]
pub fn numbered(op: Op, number: u64) -> Op {
    match op {
        Op::MailboxCreated { mailbox, .. } => Op::MailboxCreated { mailbox, snapshot: number },
        Op::MailboxUpdated { mailbox, .. } => Op::MailboxUpdated { mailbox, snapshot: number },
        Op::Subscribed { name, .. } => Op::Subscribed { name, snapshot: number },
        Op::MessageSaved { message, .. } => Op::MessageSaved { message, snapshot: number },
        Op::AttributeSet { mailbox, private, key, value, .. } => {
            Op::AttributeSet { mailbox, private, key, value, snapshot: number }
        }
        other => other,
    }
}
