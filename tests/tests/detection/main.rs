//! What a node's lease hangs on, shown on the real thing: a Dovecot that is stopped or killed, file systems that fill,
//! fail and hang, and a machine that is merely busy.
//!
//! Owns: the cases, and the run of the evidence that each of them watches. What can hurt: a slow machine; a case waits
//! until it sees what it expects, and asserts no maximum but the bound that it is about. Refuses: machines without
//! root; there every case is skipped by name.

mod canaries;
mod disks;
mod stores;

use std::path::PathBuf;
use std::time::Duration;

use understudy_agent::clock::{self, BootNs};
use understudy_agent::evidence::{EvidenceConfig, EvidenceThread, Report};
use understudy_agent::probe::Looks;
use understudy_agent::store::Store;
use understudy_types::id::NodeId;

/// `failover.store_stall_ms` as it is when nobody sets it.
pub(crate) const STALL_MS: u64 = 2000;

/// A running evidence, and every report of it.
pub(crate) struct Watched {
    // Dropped first: its threads end.
    _thread: EvidenceThread,
    reports: std::sync::mpsc::Receiver<(Report, BootNs)>,
}

impl Watched {
    pub(crate) fn start(
        pid_file: PathBuf,
        mail_path: Option<PathBuf>,
        store: Box<dyn Store>,
        looks: Option<Looks>,
    ) -> Self {
        let (sender, reports) = std::sync::mpsc::channel();
        let node = NodeId::new(1).expect("in range");
        let config = EvidenceConfig { node, pid_file, mail_path, store, looks, stall_ms: STALL_MS };
        let push = move |report| drop(sender.send((report, clock::boot())));
        Self { _thread: EvidenceThread::start(config, push).expect("starts"), reports }
    }

    /// The next report, newer than what waits.
    pub(crate) fn next(&self) -> (Report, BootNs) {
        while self.reports.try_recv().is_ok() {}
        self.reports.recv_timeout(Duration::from_secs(30)).expect("it tells ten times a second, whatever hangs")
    }

    /// The first report for which `is_so` holds; half a minute without one is a failure.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Report, u64) -> bool) -> Report {
        let mut last = None;
        for _ in 0..300 {
            let (report, now) = self.reports.recv_timeout(Duration::from_secs(30)).expect("it tells");
            if is_so(&report, age_ms(&report, now)) {
                return report;
            }
            last = Some((age_ms(&report, now), report));
        }
        panic!("not {what}: {last:?}");
    }

    pub(crate) fn until_good(&self) -> Report {
        self.until("good", |report, age| age < 1000 && report.why.is_empty())
    }
}

/// Age of the evidence; `u64::MAX` when there is none.
pub(crate) fn age_ms(report: &Report, now: BootNs) -> u64 {
    report.good_at.map_or(u64::MAX, |at| now.since_ns(at) / 1_000_000)
}

/// Says so and gives true when this machine cannot run case `name`.
pub(crate) fn skipped(name: &str, missing: Option<&str>) -> bool {
    if let Some(why) = missing {
        println!("SKIPPED {name}: {why}");
    }
    missing.is_some()
}
