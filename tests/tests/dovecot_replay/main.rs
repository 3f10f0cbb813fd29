//! The replay service in a real Dovecot: operations in, the same account for IMAP and doveadm out.
//!
//! Owns: the cases; each starts a Dovecot of its own. What can hurt: a slow machine; no case asserts a time. Refuses:
//! machines without root, Dovecot or its headers; there every case is skipped by name.

mod hostile;
mod identity;
mod kick;
mod merge;
mod outside;
mod suite;
mod takeover;
mod users;

use std::path::PathBuf;

use understudy_agent::store::dovecot::{DovecotConfig, DovecotStore};
use understudy_tests::dovecot::{self, Dovecot};

/// Says so and gives true when this machine cannot run case `name`.
pub(crate) fn skipped(name: &str) -> bool {
    let missing = dovecot::missing();
    if let Some(why) = missing {
        println!("SKIPPED {name}: {why}");
    }
    missing.is_some()
}

/// A Dovecot with these users and the replay service.
pub(crate) fn start(users: &[&str]) -> Dovecot {
    start_with(users, "")
}

/// The same with more text for the configuration.
pub(crate) fn start_with(users: &[&str], more: &str) -> Dovecot {
    let built = dovecot::built("replay").expect("the replay service builds");
    let config = format!(
        r"protocol understudy-replay {{
  mail_plugins =
}}
service understudy-replay {{
  executable = {}/understudy-replay
  client_limit = 1
  process_limit = 8
  vsz_limit = 1G
  unix_listener understudy-replay {{
    mode = 0600
  }}
}}
{more}
",
        built.display()
    );
    let dovecot = Dovecot::start(users, "", &config).expect("Dovecot starts");
    std::fs::create_dir(bodies(&dovecot)).expect("the folder is ours");
    // Dovecot's master makes its sockets one after the other; this one comes late.
    for _ in 0..1000 {
        if std::os::unix::net::UnixStream::connect(socket(&dovecot)).is_ok() {
            return dovecot;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("no socket of the replay service: {}", dovecot.log());
}

/// Folder for bodies that the replay service reads.
pub(crate) fn bodies(dovecot: &Dovecot) -> PathBuf {
    dovecot.dir().join("bodies")
}

pub(crate) fn socket(dovecot: &Dovecot) -> PathBuf {
    dovecot.dir().join("run/understudy-replay")
}

pub(crate) fn store(dovecot: &Dovecot) -> DovecotStore {
    DovecotStore::new(DovecotConfig::new(socket(dovecot), Some(dovecot.dir().join("spool"))))
}

/// Nothing in Dovecot's log tells of a failure.
pub(crate) fn assert_quiet(dovecot: &Dovecot) {
    let complaints: Vec<String> = dovecot
        .complaints()
        .into_iter()
        // Of the test's own folders.
        .filter(|line| !line.contains("Fixing permissions of") && !line.contains("Killed with signal 15"))
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
