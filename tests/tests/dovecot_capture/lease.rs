//! The time until which a node may change mail: past it every change is refused for the time being, before the store
//! has anything of it, also while the agent is frozen; moved on, everything works again.
//!
//! Owns: the agent as a process of its own, which can be stopped: this test program, run again with one case that does
//! nothing else. What can hurt: a slow machine; the deadlines are hours away or past, but for the frozen agent's, which
//! is waited for.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::tap::{Tap, follow, pause, peer, replica};
use crate::{message, skipped, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use understudy_agent::clock;
use understudy_ring::{Consumer, ConsumerOptions, OnTimeout, Policy};
use understudy_tests::dovecot::{Dovecot, FORMATS};
use understudy_tests::imap::Imap;
use understudy_tests::wire::Error;

const HOUR: Duration = Duration::from_secs(3600);
/// How long the stand-in that can be frozen sets its deadline ahead, and how often.
const AHEAD: Duration = Duration::from_millis(1500);
const RENEW: Duration = Duration::from_millis(100);
/// Where the stand-in is to find its ring.
const FOLDER: &str = "UNDERSTUDY_TEST_LEASE_FOLDER";

fn hence(duration: Duration) -> u64 {
    clock::boot().after(duration).0
}

fn leased() -> ConsumerOptions {
    ConsumerOptions { leased: true, ..ConsumerOptions::default() }
}

/// The client's text, if it was refused for the time being.
fn refused<T: std::fmt::Debug>(what: &str, result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused(text)) if text.starts_with("NO [UNAVAILABLE] ") || text.starts_with("451 4.") => text,
        other => panic!("{what}: not refused for the time being: {other:?}"),
    }
}

fn deliver(dovecot: &Dovecot, user: &str, n: usize) -> Result<String, Error> {
    let mut lmtp = dovecot.lmtp().expect("lmtp");
    let answer = lmtp.deliver_one("s@example.test", user, &message("delivered", n));
    lmtp.quit();
    answer.map(|_| String::new())
}

/// What the store holds of a user, by doveadm and without the plugin.
fn holds(dovecot: &Dovecot, user: &str) -> String {
    let boxes = dovecot.look(&["mailbox", "status", "-u", user, "messages unseen", "*"]).expect("status");
    let messages = dovecot.look(&["fetch", "-u", user, "mailbox uid guid flags", "all"]).expect("fetch");
    let subscribed = dovecot.look(&["mailbox", "list", "-s", "-u", user]).expect("list");
    let mut lines: Vec<&str> = boxes.lines().chain(messages.lines()).chain(subscribed.lines()).collect();
    lines.sort_unstable();
    lines.join("\n")
}

const CHANGES: [&str; 11] = [
    "STORE 1 +FLAGS (\\Flagged)",
    "STORE 1 +FLAGS (keyword)",
    "COPY 1 Kept",
    "MOVE 1 Kept",
    "EXPUNGE",
    "CREATE New",
    "CREATE Folder/",
    "RENAME Kept Other",
    "DELETE Kept",
    "SUBSCRIBE Kept",
    "SETMETADATA INBOX (/private/comment \"x\")",
];

/// Two messages in INBOX, the second with \Deleted, and a mailbox.
fn prepare(dovecot: &Dovecot, user: &str) -> Imap {
    let mut imap = dovecot.imap(user).expect("login");
    imap.append("INBOX", "", &message("before", 1)).expect("append");
    imap.append("INBOX", "(\\Deleted)", &message("before", 2)).expect("append");
    imap.command("CREATE Kept").expect("create");
    imap.command("SELECT INBOX").expect("select");
    imap
}

fn all_refused(dovecot: &Dovecot, imap: &mut Imap, user: &str) {
    for command in CHANGES {
        let why = refused(&format!("{user}: {command}"), imap.command(command));
        assert!(why.contains("may not change mail at this time"), "{user}: {command}: {why}");
    }
    let why = refused("append", imap.append("INBOX", "", &message("no", 3)));
    assert!(why.starts_with("NO [UNAVAILABLE] this server may not change mail at this time"), "{why}");
    refused("delivery", deliver(dovecot, user, 4));
    imap.command("FETCH 1 BODY.PEEK[]").expect("reading is free");
}

#[test]
fn past_the_deadline_every_change_is_refused_and_later_it_works_again() {
    if skipped("past_the_deadline_every_change_is_refused_and_later_it_works_again") {
        return;
    }
    for policy in [Policy::default(), peer(OnTimeout::GoOn, 5000), Policy { intents: false, ..Policy::default() }] {
        let dovecot = start(&FORMATS);
        let tap = Tap::start_with(dovecot.dir(), policy, leased());
        for user in FORMATS {
            refused("no lease was ever held", deliver(&dovecot, user, 0));
        }
        tap.lease().set_until(hence(HOUR));
        for user in FORMATS {
            tap.lease().set_until(hence(HOUR));
            let mut imap = prepare(&dovecot, user);
            let before = holds(&dovecot, user);
            tap.settle();
            let published = tap.ops(user).len();
            for until in [1, hence(Duration::ZERO)] {
                tap.lease().set_until(until);
                all_refused(&dovecot, &mut imap, user);
                // A session that begins now.
                let mut other = dovecot.imap(user).expect("login");
                other.command("SELECT INBOX").expect("select");
                all_refused(&dovecot, &mut other, user);
                other.logout();
                assert_eq!(holds(&dovecot, user), before, "{user}");
            }
            tap.settle();
            assert_eq!(tap.ops(user).len(), published, "{:#?}", tap.ops(user));
            assert!(!tap.marked(user), "what was refused before it happened needs no comparison");

            tap.lease().set_until(hence(HOUR));
            imap.append("INBOX", "", &message("after", 5)).expect("append");
            imap.command("STORE 1 +FLAGS (\\Seen)").expect("store");
            deliver(&dovecot, user, 6).expect("delivered");
            tap.until(user, "all of it", |ops| ops.len() >= published + 3);
            assert_eq!(tap.open_intents(user), []);
            imap.logout();
        }
        let bad = ["Panic", "Fatal"];
        assert!(!dovecot.log().lines().any(|l| bad.iter().any(|b| l.contains(b))), "{}", dovecot.log());
    }
}

/// The deadline passes between the commit and the answer: the client is not told that its change is safe, and it is
/// published, or its account marked.
#[test]
fn a_deadline_that_passes_while_a_client_waits_is_no_success() {
    if skipped("a_deadline_that_passes_while_a_client_waits_is_no_success") {
        return;
    }
    let dovecot = start(&["maildir"]);
    let tap = Tap::start_with(dovecot.dir(), peer(OnTimeout::GoOn, 60_000), leased());
    tap.lease().set_until(hence(HOUR));
    let mut imap = prepare(&dovecot, "maildir");
    tap.silent(true);
    std::thread::scope(|scope| {
        let session = scope.spawn(|| imap.append("INBOX", "", &message("late", 3)));
        let saves = |ops: &[understudy_types::op::Op]| ops.iter().filter(|op| op.blob().is_some()).count();
        tap.until("maildir", "the save", |ops| saves(ops) == 3);
        tap.lease().set_until(1);
        tap.silent(false);
        let why = refused("append", session.join().expect("no panic"));
        assert!(why.contains("changed here, but this server may not change mail any more"), "{why}");
    });
}

/// A delivery by Sieve, which saves on its own, is put off as well: on a node without a lease, and on a replica.
#[test]
fn a_delivery_with_sieve_is_put_off() {
    if skipped("a_delivery_with_sieve_is_put_off") {
        return;
    }
    if !std::path::Path::new("/usr/lib/dovecot/modules/lib90_sieve_plugin.so").exists() {
        println!("SKIPPED a_delivery_with_sieve_is_put_off: Pigeonhole is not installed (package dovecot-sieve)");
        return;
    }
    let config =
        "protocol lmtp {\n  mail_plugins = notify understudy sieve\n}\nplugin {\n  sieve = file:%{dir}/sieve/%u\n}\n";
    let dovecot = Dovecot::start(&FORMATS, crate::PLUGINS, config).expect("Dovecot starts");
    let scripts = dovecot.dir().join("sieve");
    std::fs::create_dir(&scripts).expect("the folder is ours");
    for user in FORMATS {
        let script = "require [\"fileinto\", \"mailbox\", \"imap4flags\"];\naddflag \"\\\\Flagged\";\nfileinto :create \"Filed\";\n";
        std::fs::write(scripts.join(user), script).expect("the folder is ours");
    }
    let tap = Tap::start_with(dovecot.dir(), Policy::default(), leased());
    for user in FORMATS {
        tap.lease().set_until(hence(HOUR));
        deliver(&dovecot, user, 0).expect("delivered");
        let before = holds(&dovecot, user);
        assert!(before.contains("Filed"), "{before}");
        tap.lease().set_until(1);
        refused("delivery", deliver(&dovecot, user, 1));
        assert_eq!(holds(&dovecot, user), before);
    }
    drop(tap);
    let tap = Tap::start(dovecot.dir(), replica());
    tap.lease().set_until(0);
    for user in FORMATS {
        let before = holds(&dovecot, user);
        refused("delivery", deliver(&dovecot, user, 2));
        assert_eq!(holds(&dovecot, user), before);
    }
}

/// Not a case: the stand-in that another case runs, until that case ends it.
#[test]
fn stand_in_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let policy = Policy::default();
    let options = ConsumerOptions { mode: 0o666, default_policy: policy, ..leased() };
    let path = std::path::Path::new(&folder).join("ring");
    let mut consumer = Consumer::attach(&path, &options, 0).expect("the ring can be taken");
    consumer.bump_policy_generation();
    let lease = consumer.write_lease();
    let renewing = std::thread::spawn(move || {
        loop {
            lease.set_until(hence(AHEAD));
            std::thread::sleep(RENEW);
        }
    });
    while !renewing.is_finished() {
        follow(&mut consumer, &policy);
    }
}

struct StandIn(Child);

impl StandIn {
    fn start(dovecot: &Dovecot) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a name"));
        command.args(["--exact", "lease::stand_in_process", "--nocapture"]).env(FOLDER, dovecot.dir());
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("this program runs"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).expect("a process id")), signal).expect("it is ours");
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_frozen_or_dead_agent_stops_the_store_from_changing_mail() {
    if skipped("a_frozen_or_dead_agent_stops_the_store_from_changing_mail") {
        return;
    }
    let dovecot = start(&FORMATS);
    let agent = StandIn::start(&dovecot);
    let mut sessions = Vec::new();
    for user in FORMATS {
        soon("the stand-in comes up", |n| deliver(&dovecot, user, n).is_ok());
        sessions.push((user, prepare(&dovecot, user)));
    }
    let stopped = |sessions: &mut [(&str, Imap)]| {
        std::thread::sleep(AHEAD + RENEW);
        for (user, imap) in sessions {
            let before = holds(&dovecot, user);
            all_refused(&dovecot, imap, user);
            let mut other = dovecot.imap(user).expect("login");
            refused("append", other.append("INBOX", "", &message("no", 1)));
            other.logout();
            assert_eq!(holds(&dovecot, user), before, "{user}");
        }
    };
    agent.signal(Signal::SIGSTOP);
    stopped(&mut sessions);
    agent.signal(Signal::SIGCONT);
    for (_, imap) in &mut sessions {
        soon("the thawed agent renews", |n| imap.append("INBOX", "", &message("thawed", n)).is_ok());
    }
    drop(agent);
    stopped(&mut sessions);
    let agent = StandIn::start(&dovecot);
    for (_, imap) in &mut sessions {
        soon("another agent comes", |n| imap.append("INBOX", "", &message("again", n)).is_ok());
    }
    drop(agent);
    stopped(&mut sessions);
}

fn soon(what: &str, mut done: impl FnMut(usize) -> bool) {
    let all = (0..1000).any(|n| {
        pause();
        done(n)
    });
    assert!(all, "not so: {what}");
}
