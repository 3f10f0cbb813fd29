//! The suite that every store passes, with each of Dovecot's formats.

use crate::{assert_quiet, bodies, skipped, start, store};
use understudy_agent::store::conformance;

/// Accounts of one run; each case takes two.
const ACCOUNTS: usize = 60;

fn conforms(format: &str, name: &str) {
    if skipped(name) {
        return;
    }
    let users: Vec<String> = (1..=ACCOUNTS).map(|n| format!("{format}{n}")).collect();
    let dovecot = start(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let mut names = users.iter().cloned();
    let mut fresh = || names.next().expect("there are enough accounts");
    let spool = dovecot.dir().join("spool");
    let cases = conformance::run(&mut store(&dovecot), &mut fresh, &bodies(&dovecot), &spool);
    assert!(cases.unwrap_or_else(|why| panic!("{format}: {why}\n{}", dovecot.log())) >= 10);
    assert_quiet(&dovecot);
}

#[test]
fn maildir_conforms() {
    conforms("maildir", "maildir_conforms");
}

#[test]
fn sdbox_conforms() {
    conforms("sdbox", "sdbox_conforms");
}

#[test]
fn mdbox_conforms() {
    conforms("mdbox", "mdbox_conforms");
}
