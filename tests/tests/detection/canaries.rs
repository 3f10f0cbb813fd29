//! Canaries against a real Dovecot: greeting, login, the known message, writes, and a store that does not serve.
//!
//! Owns: the cases. What can hurt: Dovecot's wait before it refuses a wrong password; a case waits as long. Refuses:
//! machines without Dovecot.

use std::time::Duration;

use understudy_agent::canary::round::{Canary, Login, RoundError};
use understudy_agent::canary::{Canaries, CanaryConfig, Words};
use understudy_agent::clock;
use understudy_tests::dovecot::{Dovecot, missing};
use understudy_types::id::NodeId;

use crate::skipped;

fn node(number: u16) -> NodeId {
    NodeId::new(number).expect("in range")
}

fn login() -> Login {
    Login { account: "canary".to_owned(), password: "pass".to_owned() }
}

fn subjects(dovecot: &Dovecot) -> Vec<String> {
    let mut imap = dovecot.imap("canary").expect("a session");
    let mut found: Vec<String> = imap
        .mailbox("INBOX")
        .expect("an INBOX")
        .messages
        .iter()
        .map(|message| String::from_utf8_lossy(&message.body).into_owned())
        .filter_map(|body| body.lines().find_map(|line| line.strip_prefix("Subject: ")).map(str::to_owned))
        .collect();
    found.sort();
    found
}

#[test]
fn two_observers_read_and_write_and_leave_each_others_messages_alone() {
    let name = "two_observers_read_and_write_and_leave_each_others_messages_alone";
    if skipped(name, missing()) {
        return;
    }
    for user in ["canary", "mdbox-canary"] {
        let dovecot = Dovecot::start(&[user], "", "").expect("Dovecot starts");
        let login = Login { account: user.to_owned(), ..login() };
        let mut two = Canary::new(node(2), dovecot.imap_address());
        let mut twelve = Canary::new(node(12), dovecot.imap_address());
        for round in 1..=21 {
            two.round(Some(&login), round).expect("a good round");
            twelve.round(Some(&login), round).expect("a good round");
        }
        if user == "canary" {
            let of = |number| format!("Understudy canary of node {number}.");
            assert_eq!(subjects(&dovecot), [of(12), of(12), of(2), of(2)]);
        }
        // An agent that was started anew knows no message, and finds its own.
        Canary::new(node(2), dovecot.imap_address()).round(Some(&login), 100).expect("a good round");
    }
}

#[test]
fn a_message_that_is_gone_is_told_and_written_anew() {
    let name = "a_message_that_is_gone_is_told_and_written_anew";
    if skipped(name, missing()) {
        return;
    }
    let dovecot = Dovecot::start(&["canary"], "", "").expect("Dovecot starts");
    let mut canary = Canary::new(node(2), dovecot.imap_address());
    canary.round(Some(&login()), 1).expect("a good round");
    canary.round(Some(&login()), 2).expect("a good round");
    dovecot.doveadm(&["expunge", "-u", "canary", "mailbox", "INBOX", "all"]).expect("expunged");
    let error = canary.round(Some(&login()), 3).expect_err("gone");
    assert!(matches!(error, RoundError::Gone), "{error}");
    canary.round(Some(&login()), 4).expect("a good round");
}

#[test]
fn a_wrong_password_is_told_and_accuses_nobody() {
    let name = "a_wrong_password_is_told_and_accuses_nobody";
    if skipped(name, missing()) {
        return;
    }
    let dovecot = Dovecot::start(&["canary"], "", "").expect("Dovecot starts");
    let mut canary = Canary::new(node(2), dovecot.imap_address());
    let wrong = Login { password: "wrong".to_owned(), ..login() };
    let error = canary.round(Some(&wrong), 1).expect_err("refused").to_string();
    assert!(error.contains("LOGIN was refused") && !error.contains("wrong"), "{error}");
    canary.round(None, 2).expect("a greeting is enough without an account");
}

#[test]
fn a_store_that_is_stopped_or_killed_fails_from_then_on_until_it_serves_again() {
    let name = "a_store_that_is_stopped_or_killed_fails_from_then_on_until_it_serves_again";
    if skipped(name, missing()) {
        return;
    }
    let mut dovecot = Dovecot::start(&["canary"], "", "").expect("Dovecot starts");
    let other = Dovecot::start(&["canary"], "", "").expect("Dovecot starts");
    let file = dovecot.dir().join("password");
    std::fs::write(&file, "pass\n").expect("written");
    let config = CanaryConfig {
        node: node(1),
        peers: vec![(node(2), dovecot.imap_address()), (node(3), other.imap_address())],
        every: Duration::from_millis(100),
        account: Some(("canary".to_owned(), file)),
    };
    let canaries = Canaries::start(&config).expect("starts");
    let until = |what: &str, is_so: &dyn Fn(&Words) -> bool| {
        for _ in 0..3000 {
            let words = canaries.words(true, clock::mono());
            if is_so(&words) {
                return words;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("not {what}: {:?}", canaries.words(true, clock::mono()));
    };
    let is_fine = |words: &Words| words.words.iter().all(|word| word.failing_ns == 0 && word.healthy);
    until("fine", &is_fine);

    dovecot.freeze(true);
    let words = until("failing for 3 s", &|words| words.words[0].failing_ns > 3_000_000_000);
    assert_eq!((words.words[0].of, words.words[0].healthy, words.words[1].failing_ns), (node(2), true, 0), "{words:?}");
    dovecot.freeze(false);
    until("fine", &is_fine);

    dovecot.kill();
    let words = until("failing", &|words| words.words[0].failing_ns > 500_000_000);
    assert!(words.words[0].healthy && !words.words[0].why.is_empty(), "{words:?}");
    dovecot.restart().expect("starts again");
    until("fine", &is_fine);
}
