//! The evidence of a real Dovecot: at work, stopped, killed, started again, and on a busy machine.
//!
//! Owns: the cases. What can hurt: a Dovecot that stays stopped when a case fails; the end of the case lets it go on.
//! Refuses: machines without Dovecot.

use nix::sys::signal::{SIGCONT, SIGSTOP, Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;

use understudy_agent::store::dovecot::{DovecotConfig, DovecotStore};
use understudy_tests::dovecot::{Dovecot, built, missing};

use crate::disks::Shell;
use crate::{STALL_MS, Watched, age_ms, skipped};

struct Real {
    dovecot: Dovecot,
}

impl Real {
    fn start() -> Self {
        let folder = built("replay").expect("the replay service builds");
        let config = format!(
            "protocol understudy-replay {{\n  mail_plugins =\n}}\nservice understudy-replay {{\n  \
             executable = {}/understudy-replay\n  client_limit = 1\n  process_limit = 8\n  \
             unix_listener understudy-replay {{\n    mode = 0600\n  }}\n}}\n",
            folder.display()
        );
        Self { dovecot: Dovecot::start(&["a"], "", &config).expect("Dovecot starts") }
    }

    fn master(&self) -> Pid {
        Pid::from_raw(self.dovecot.master())
    }

    fn pid_file(&self) -> PathBuf {
        self.dovecot.dir().join("run/master.pid")
    }

    fn watch(&self) -> Watched {
        let socket = self.dovecot.dir().join("run/understudy-replay");
        let store = Box::new(DovecotStore::new(DovecotConfig::new(socket, None)));
        let watched = Watched::start(self.pid_file(), Some(self.dovecot.dir().join("mail")), store, None);
        watched.until_good();
        watched
    }

    fn signal_service(&self, signal: Signal) {
        let services = self.dovecot.processes("understudy-repl");
        assert!(!services.is_empty(), "the canary's service runs");
        for pid in services {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.dovecot.freeze(false);
    }
}

#[test]
fn a_stopped_service_lets_the_evidence_grow_old_and_a_stopped_master_is_a_fact() {
    let name = "a_stopped_service_lets_the_evidence_grow_old_and_a_stopped_master_is_a_fact";
    if skipped(name, missing()) {
        return;
    }
    let real = Real::start();
    let watched = real.watch();
    real.signal_service(SIGSTOP);
    let report = watched.until("old", |_, age| age > STALL_MS);
    assert!(report.good_at.is_some() && report.why.contains("the store canary: `hello`"), "{report:?}");
    real.signal_service(SIGCONT);
    watched.until_good();

    kill(real.master(), SIGSTOP).expect("stopped");
    let report = watched.until("a fact", |report, _| report.good_at.is_none());
    assert!(report.why.contains("is stopped"), "{}", report.why);
    kill(real.master(), SIGCONT).expect("goes on");
    watched.until_good();
}

#[test]
fn a_killed_store_is_a_fact_until_it_is_started_again() {
    let name = "a_killed_store_is_a_fact_until_it_is_started_again";
    if skipped(name, missing()) {
        return;
    }
    let mut real = Real::start();
    let watched = real.watch();
    real.dovecot.kill();
    // Stopped for a moment, so that it makes no new process, then killed.
    watched.until("gone", |report, _| report.good_at.is_none() && !report.why.contains("stopped"));
    real.dovecot.restart().expect("starts again");
    watched.until_good();
    // An administrator's stop: the pid file goes with the process.
    real.dovecot.stop();
    let report = watched.until("a fact", |report, _| report.good_at.is_none());
    assert!(report.why.contains("master.pid") || report.why.contains("process"), "{}", report.why);
}

#[test]
fn a_busy_machine_does_not_make_the_evidence_old() {
    let name = "a_busy_machine_does_not_make_the_evidence_old";
    if skipped(name, missing()) {
        return;
    }
    let real = Real::start();
    let watched = real.watch();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load: Vec<_> = (0..2 * cores).map(|_| Shell::start("while :; do :; done")).collect();
    let mut worst = 0;
    // A report every 100 ms: six seconds.
    for _ in 0..60 {
        let (report, now) = watched.next();
        let age = age_ms(&report, now);
        worst = worst.max(age);
        assert!(age < STALL_MS, "{report:?}");
    }
    drop(load);
    println!("worst age under load: {worst} ms");
}
