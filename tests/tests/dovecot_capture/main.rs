//! The capture plugin in a real Dovecot: what users do is published, once, in order, with the store's identities.
//!
//! Owns: the cases; each starts a Dovecot and a stand-in for the agent of its own. What can hurt: a slow machine; no
//! case asserts a time. Refuses: machines without root, Dovecot or its headers; there every case is skipped by name.

mod answers;
mod death;
mod lease;
mod mixed;
mod model;
mod operations;
mod order;
mod tap;
mod vanish;

use understudy_tests::dovecot::Dovecot;

/// `mail_plugins` of most cases.
pub(crate) const PLUGINS: &str = "notify understudy";

/// Says so and gives true when this machine cannot run case `name`.
pub(crate) fn skipped(name: &str) -> bool {
    let missing = understudy_tests::dovecot::missing();
    if let Some(why) = missing {
        println!("SKIPPED {name}: {why}");
    }
    missing.is_some()
}

pub(crate) fn start(users: &[&str]) -> Dovecot {
    Dovecot::start(users, PLUGINS, "").expect("Dovecot starts")
}

/// A small message with this subject; `n` makes it different from all others.
pub(crate) fn message(subject: &str, n: usize) -> Vec<u8> {
    format!("From: a@example.test\r\nTo: b@example.test\r\nSubject: {subject} {n}\r\n\r\nBody {n}.\r\n").into_bytes()
}
