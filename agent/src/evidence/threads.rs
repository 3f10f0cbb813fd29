//! The threads of the evidence: one for each source that may hang, and one that judges and tells.
//!
//! Owns: their rhythm and their end. What can hurt: a thread that hangs in the kernel with the disk; nobody waits for
//! it, also not when the agent ends. Readings are dropped when too many wait, never waited for. Refuses: judging;
//! [`Evidence`] does.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};
use understudy_types::id::NodeId;

use super::disk::DiskCanary;
use super::master;
use super::rules::{Case, Evidence, Reading, Sign, SignState};
use crate::clock::{self, BootNs};
use crate::limits::{
    EVIDENCE_CALL_NS_MIN, EVIDENCE_DISK_MS, EVIDENCE_LOOK_NS_MAX, EVIDENCE_READINGS_MAX, EVIDENCE_ROUND_MS_MIN,
    EVIDENCE_STORE_MS, EVIDENCE_TELL_MS,
};
use crate::probe::{Look, Looks};
use crate::store::Store;

/// Where the signs are looked for.
pub struct EvidenceConfig {
    pub node: NodeId,
    /// `store.master_pid_file`.
    pub pid_file: PathBuf,
    /// The first of `store.mail_paths`.
    pub mail_path: Option<PathBuf>,
    /// A connection of its own, with time-outs of some seconds.
    pub store: Box<dyn Store>,
    /// Of a probe with kernel programs.
    pub looks: Option<Looks>,
    /// `failover.store_stall_ms`: canaries are at least five times as quick.
    pub stall_ms: u64,
}

/// What the evidence is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// See [`Evidence::good_at`].
    pub good_at: Option<BootNs>,
    /// See [`Evidence::why`].
    pub why: String,
    pub signs: Vec<SignState>,
}

/// The running evidence. Dropping it ends its threads, each as soon as what it waits for lets it go.
#[derive(Debug)]
pub struct EvidenceThread {
    newest: Arc<Mutex<Report>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Told = (Reading, BootNs);

impl EvidenceThread {
    /// Starts it. `push` is called every [`EVIDENCE_TELL_MS`], and at once when a fact comes or goes. It must not
    /// block: while it does, nothing is told, and the evidence grows old.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(config: EvidenceConfig, push: impl FnMut(Report) + Send + 'static) -> std::io::Result<Self> {
        let EvidenceConfig { node, pid_file, mail_path, mut store, looks, stall_ms } = config;
        let (told, readings) = bounded(EVIDENCE_READINGS_MAX);
        // Nothing is ever sent on it: all threads end when its sender is dropped.
        let (stop, stopped) = bounded(0);
        let mut evidence = Evidence::default();
        let at = clock::boot();
        if looks.is_none() {
            evidence.on(Reading::saw(Case::CallsUnseen, "no kernel programs are in use"), at);
        }
        let every = |ms: u64| Duration::from_millis((stall_ms / 5).clamp(EVIDENCE_ROUND_MS_MIN, ms));
        match mail_path {
            None => evidence.on(Reading::saw(Case::DiskUnnamed, "`store.mail_paths` is empty"), at),
            Some(path) => {
                let mut canary = DiskCanary::new(&path, node, clock::wall_ns());
                repeat("disk canary", every(EVIDENCE_DISK_MS), &stopped, &told, move |tell| {
                    canary.round(|step| tell(Reading::Began { sign: Sign::Disk, step }))
                })?;
            }
        }
        repeat("store canary", every(EVIDENCE_STORE_MS), &stopped, &told, move |tell| {
            tell(Reading::Began { sign: Sign::Store, step: "hello" });
            match store.version() {
                Ok(_) => Reading::saw(Case::StoreAnswered, String::new()),
                Err(error) => Reading::saw(Case::StoreSilent, error.to_string()),
            }
        })?;
        repeat("store process", every(EVIDENCE_TELL_MS), &stopped, &told, move |_| master::look(&pid_file))?;
        let newest = Arc::new(Mutex::new(Report::of(&evidence)));
        let kept = Arc::clone(&newest);
        let judge = Judge { evidence, readings, looks, kept, push };
        let thread = std::thread::Builder::new().name("evidence".into()).spawn(move || judge.run(&stopped))?;
        Ok(Self { newest, stop: Some(stop), thread: Some(thread) })
    }

    /// What was told last.
    #[must_use]
    pub fn report(&self) -> Report {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for EvidenceThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The judge waits for nobody, so this ends; the others are left to themselves.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Report {
    fn of(evidence: &Evidence) -> Self {
        Self { good_at: evidence.good_at(), why: evidence.why(), signs: evidence.signs().to_vec() }
    }
}

/// Runs `round` again and again in a thread of its own until `stopped` is closed.
fn repeat(
    name: &str,
    every: Duration,
    stopped: &Receiver<()>,
    told: &Sender<Told>,
    mut round: impl FnMut(&dyn Fn(Reading)) -> Reading + Send + 'static,
) -> std::io::Result<()> {
    let (stopped, told) = (stopped.clone(), told.clone());
    let run = move || {
        // Dropped when too many wait: the judge is then not running, and the next round says it again.
        let tell = |reading| drop(told.try_send((reading, clock::boot())));
        loop {
            let reading = round(&tell);
            tell(reading);
            if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

struct Judge<F> {
    evidence: Evidence,
    readings: Receiver<Told>,
    looks: Option<Looks>,
    kept: Arc<Mutex<Report>>,
    push: F,
}

impl<F: FnMut(Report)> Judge<F> {
    fn run(mut self, stopped: &Receiver<()>) {
        let every_ns = EVIDENCE_TELL_MS * 1_000_000;
        let mut due = clock::mono();
        let mut look: Option<Look> = None;
        loop {
            let left = Duration::from_nanos(due.since_ns(clock::mono()));
            let had_fact = self.evidence.has_fact();
            crossbeam::select! {
                recv(self.readings) -> told => if let Ok((reading, at)) = told { self.evidence.on(reading, at) },
                recv(stopped) -> _ => return,
                default(left) => {}
            }
            let now = clock::mono();
            if now < due && self.evidence.has_fact() == had_fact {
                continue;
            }
            if let Some(looks) = &self.looks {
                look = looks.take().or(look);
                self.evidence.on(of_calls(look.as_ref(), now.0), clock::boot());
            }
            self.evidence.on(Reading::Tick, clock::boot());
            let report = Report::of(&self.evidence);
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = report.clone();
            (self.push)(report);
            due = clock::MonoNs(now.0.saturating_add(every_ns));
        }
    }
}

/// What the newest look says. Between two looks a call in flight grows older with the time.
fn of_calls(look: Option<&Look>, now_ns: u64) -> Reading {
    let Some(look) = look.filter(|look| now_ns.saturating_sub(look.at.0) < EVIDENCE_LOOK_NS_MAX) else {
        return Reading::saw(Case::CallsUnseen, "the kernel probe has not looked for a second");
    };
    // The next look finds a call that was young at this one, and knows when it began.
    let Some(call) = look.oldest.as_ref().filter(|call| call.age_ns >= EVIDENCE_CALL_NS_MIN) else {
        return Reading::saw(Case::CallsYoung, String::new());
    };
    let age_ns = call.age_ns.saturating_add(now_ns.saturating_sub(look.at.0));
    let text = format!("`{}` of process {} (`{}`) has not returned", call.class, call.pid, call.comm);
    Reading::Saw { case: Case::CallsOld, text, age_ns }
}
