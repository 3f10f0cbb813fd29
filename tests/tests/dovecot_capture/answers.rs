//! What a client is told: acknowledgements that are waited for, agents that are absent or hung, accounts that are
//! active elsewhere.

use crate::tap::{Tap, pause, peer, replica};
use crate::{message, skipped, start};
use understudy_ring::{ConsumerOptions, Geometry, OnFull, OnTimeout, Policy, RecordKind};
use understudy_tests::dovecot::{Dovecot, FORMATS};
use understudy_tests::wire::Error;
use understudy_types::op::Op;

/// Longer than any case takes.
const LONG_MS: u32 = 60_000;

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

fn saves(ops: &[Op]) -> usize {
    ops.iter().filter(|op| matches!(op, Op::MessageSaved { .. })).count()
}

fn stored(dovecot: &Dovecot, user: &str) -> usize {
    let lines = dovecot.look(&["search", "-u", user, "mailbox", "*"]).expect("search");
    lines.lines().filter(|l| !l.starts_with("mailbox-guid")).count()
}

/// Each command is answered only after the agent has answered for its last operation, and it asks once.
#[test]
fn a_client_gets_its_ok_after_the_acknowledgement() {
    if skipped("a_client_gets_its_ok_after_the_acknowledgement") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), peer(OnTimeout::Refuse, LONG_MS));
    for format in FORMATS {
        let mut imap = dovecot.imap(format).expect("login");
        imap.append("INBOX", "", &message("first", 1)).expect("append");
        imap.append("INBOX", "", &message("second", 2)).expect("append");
        imap.command("CREATE Other").expect("create");
        imap.command("SELECT INBOX").expect("select");
        let commands = [
            "STORE 1:2 +FLAGS (\\Seen kw)",
            "COPY 1:2 Other",
            "CREATE Third",
            "RENAME Third Fourth",
            "SUBSCRIBE Fourth",
            "SETMETADATA INBOX (/private/comment \"x\")",
            "DELETE Fourth",
            "STORE 1 +FLAGS.SILENT (\\Deleted)",
            "EXPUNGE",
        ];
        for command in commands {
            tap.settle();
            let before = tap.records(format).len();
            tap.silent(true);
            std::thread::scope(|scope| {
                let session = scope.spawn(|| imap.command(command).map(|_| ()));
                for _ in 0..1000 {
                    if tap.records(format)[before..].iter().any(|r| r.wanted_answer && r.kind == RecordKind::Op) {
                        break;
                    }
                    pause();
                }
                // Time enough for an answer that does not wait.
                std::thread::sleep(std::time::Duration::from_millis(100));
                assert!(!session.is_finished(), "{format}: `{command}` did not wait");
                tap.silent(false);
                session.join().expect("no panic").unwrap_or_else(|e| panic!("{format}: `{command}`: {e}"));
            });
            let asked = tap.records(format)[before..].iter().filter(|r| r.wanted_answer).count();
            // DELETE empties the mailbox in transactions of its own.
            assert!(asked == 1 || command.starts_with("DELETE"), "{format}: `{command}` asked {asked} times");
        }
        imap.logout();
    }
    let complaints = dovecot.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn a_timeout_is_answered_as_the_policy_says() {
    if skipped("a_timeout_is_answered_as_the_policy_says") {
        return;
    }
    for on_timeout in [OnTimeout::GoOn, OnTimeout::Refuse] {
        let dovecot = start(&["maildir", "sdbox"]);
        let tap = Tap::start(dovecot.dir(), peer(on_timeout, 300));
        for user in ["maildir", "sdbox"] {
            let mut imap = dovecot.imap(user).expect("login");
            imap.append("INBOX", "", &message("answered", 1)).expect("append");
            imap.command("SELECT INBOX").expect("select");
            tap.silent(true);
            let appended = imap.append("INBOX", "", &message("not answered", 2));
            let flagged = imap.command("STORE 1 +FLAGS (\\Seen)");
            let mut lmtp = dovecot.lmtp().expect("lmtp");
            let delivered = lmtp.deliver_one("s@example.test", user, &message("not answered", 3));
            lmtp.quit();
            if on_timeout == OnTimeout::GoOn {
                appended.expect("goes on");
                flagged.expect("goes on");
                delivered.expect("goes on");
            } else {
                assert!(refused(appended).contains("NO [UNAVAILABLE] changed here, but not yet safe"));
                assert!(refused(flagged).contains("not yet safe"));
                assert!(refused(delivered).starts_with("451 4."));
            }
            tap.silent(false);
            imap.command("NOOP").expect("the session lives");
            imap.append("INBOX", "", &message("answered again", 4)).expect("append");
            imap.logout();
            // It had been committed, and is published.
            assert_eq!(stored(&dovecot, user), 4);
            tap.until(user, "four saves", |ops| saves(ops) == 4);
            assert_eq!(tap.open_intents(user), []);
        }
    }
}

#[test]
fn a_hung_agent_costs_the_configured_time_and_nothing_is_lost() {
    if skipped("a_hung_agent_costs_the_configured_time_and_nothing_is_lost") {
        return;
    }
    let dovecot = start(&["maildir"]);
    let tap = Tap::start(dovecot.dir(), peer(OnTimeout::GoOn, 200));
    let mut imap = dovecot.imap("maildir").expect("login");
    imap.append("INBOX", "", &message("before", 0)).expect("append");
    tap.freeze(true);
    for n in 1..6 {
        imap.append("INBOX", "", &message("hung", n)).expect("goes on");
    }
    // A new session does not know its policy and cannot ask.
    let mut other = dovecot.imap("maildir").expect("login");
    other.append("INBOX", "", &message("hung", 6)).expect("goes on");
    tap.freeze(false);
    tap.until("maildir", "all saves", |ops| saves(ops) == 7);
    imap.logout();
    other.logout();
}

#[test]
fn without_an_agent_the_store_goes_on_or_refuses() {
    if skipped("without_an_agent_the_store_goes_on_or_refuses") {
        return;
    }
    for on_full in [OnFull::GoOnAndMarkGap, OnFull::Refuse] {
        let dovecot = start(&["sdbox"]);
        let policy = Policy { on_full, ..peer(OnTimeout::GoOn, 200) };
        let tap = Tap::start(dovecot.dir(), policy);
        let mut imap = dovecot.imap("sdbox").expect("login");
        imap.append("INBOX", "", &message("before", 1)).expect("append");
        drop(tap); // the agent ends; its ring stays
        let appended = imap.append("INBOX", "", &message("without", 2));
        if on_full == OnFull::Refuse {
            assert!(refused(appended).contains("[UNAVAILABLE] mail is not being replicated at this time"));
            assert_eq!(stored(&dovecot, "sdbox"), 1, "refused before it was committed");
        } else {
            appended.expect("goes on");
        }
        let tap = Tap::start(dovecot.dir(), policy);
        imap.append("INBOX", "", &message("after", 3)).expect("append");
        imap.logout();
        let expected = stored(&dovecot, "sdbox") - 1;
        let ops = tap.until("sdbox", "all but the first", |ops| saves(ops) == expected);
        assert_eq!(saves(&ops), if on_full == OnFull::Refuse { 1 } else { 2 });
    }
}

#[test]
fn without_a_ring_the_store_goes_on_or_refuses() {
    if skipped("without_a_ring_the_store_goes_on_or_refuses") {
        return;
    }
    let dovecot = start(&["sdbox"]);
    let mut imap = dovecot.imap("sdbox").expect("login");
    imap.append("INBOX", "", &message("before any agent", 1)).expect("goes on");
    let tap = Tap::start(dovecot.dir(), Policy::default());
    // The session finds the ring by itself, at most a second later, and says what was missed.
    for n in 0..30 {
        imap.append("INBOX", "", &message("found", n)).expect("append");
        if saves(&tap.ops("sdbox")) > 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    imap.logout();
    assert!(tap.gap("sdbox"), "the account is compared");
    assert!(saves(&tap.ops("sdbox")) > 0);
    drop(tap);

    let config = "plugin {\n  understudy_on_absent = refuse\n}\n";
    let dovecot = Dovecot::start(&["maildir"], crate::PLUGINS, config).expect("Dovecot starts");
    let mut imap = dovecot.imap("maildir").expect("login");
    // Dovecot hides why an INBOX could not be made.
    refused(imap.append("INBOX", "", &message("no", 1)));
    assert!(refused(imap.command("CREATE X")).contains("[UNAVAILABLE]"));
    let mut lmtp = dovecot.lmtp().expect("lmtp");
    assert!(refused(lmtp.deliver_one("s@example.test", "maildir", &message("no", 2))).starts_with("451"));
    imap.command("LOGOUT").expect("the session lives");
}

#[test]
fn an_account_that_is_active_elsewhere_is_not_changed() {
    if skipped("an_account_that_is_active_elsewhere_is_not_changed") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for user in FORMATS {
        let mut imap = dovecot.imap(user).expect("login");
        imap.append("INBOX", "", &message("before", 1)).expect("append");
        imap.command("CREATE Kept").expect("create");
        imap.logout();
    }
    drop(tap);
    let tap = Tap::start(dovecot.dir(), replica());
    for user in FORMATS {
        tap.settle();
        let before = tap.records(user).iter().filter(|r| r.kind != RecordKind::AccountOpen).count();
        let mut imap = dovecot.imap(user).expect("login");
        imap.command("SELECT INBOX").expect("select");
        for command in [
            "STORE 1 +FLAGS (\\Seen)",
            "COPY 1 Kept",
            "MOVE 1 Kept",
            "CREATE New",
            "RENAME Kept Other",
            "DELETE Kept",
            "SUBSCRIBE Kept",
            "SETMETADATA INBOX (/private/comment \"x\")",
        ] {
            let why = refused(imap.command(command));
            assert!(why.contains("active on another server"), "{user}: {command}: {why}");
        }
        let why = refused(imap.append("INBOX", "", &message("no", 2)));
        assert!(why.starts_with("NO [UNAVAILABLE] this account is active on another server"), "{why}");
        imap.command("FETCH 1 BODY.PEEK[]").expect("reading is free");
        let mut lmtp = dovecot.lmtp().expect("lmtp");
        let why = refused(lmtp.deliver_one("s@example.test", user, &message("no", 3)));
        assert!(why.starts_with("451 4."), "{why}");
        lmtp.quit();
        let seen = imap.mailbox("INBOX").expect("examine");
        assert_eq!(seen.messages.len(), 1);
        assert!(seen.messages[0].flags.is_empty(), "{:?}", seen.messages[0].flags);
        let names: Vec<String> = imap.list().expect("list").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        imap.logout();
        tap.settle();
        let after = tap.records(user).iter().filter(|r| r.kind != RecordKind::AccountOpen).count();
        assert_eq!(after, before, "{:#?}", tap.records(user));
    }
    let bad = ["Panic", "Fatal"];
    assert!(!dovecot.log().lines().any(|l| bad.iter().any(|b| l.contains(b))), "{}", dovecot.log());
}

#[test]
fn a_fenced_node_changes_nothing() {
    if skipped("a_fenced_node_changes_nothing") {
        return;
    }
    let dovecot = start(&["mdbox"]);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    let mut imap = dovecot.imap("mdbox").expect("login");
    imap.append("INBOX", "", &message("before", 1)).expect("append");
    tap.fence(true);
    assert!(refused(imap.append("INBOX", "", &message("no", 2))).contains("may not change mail"));
    assert!(refused(imap.command("CREATE No")).contains("may not change mail"));
    tap.fence(false);
    imap.append("INBOX", "", &message("after", 3)).expect("append");
    imap.logout();
    assert_eq!(stored(&dovecot, "mdbox"), 2);
    tap.until("mdbox", "both", |ops| saves(ops) == 2);
}

#[test]
fn an_account_that_is_not_replicated_leaves_no_trace() {
    if skipped("an_account_that_is_not_replicated_leaves_no_trace") {
        return;
    }
    let dovecot = start(&["mdbox"]);
    let tap = Tap::start(dovecot.dir(), Policy { replicated: false, ..Policy::default() });
    let mut imap = dovecot.imap("mdbox").expect("login");
    imap.append("INBOX", "", &message("private", 1)).expect("append");
    imap.command("CREATE X").expect("create");
    imap.command("SELECT INBOX").expect("select");
    imap.command("STORE 1 +FLAGS (\\Seen)").expect("store");
    imap.logout();
    tap.settle();
    assert!(tap.records("mdbox").iter().all(|r| r.kind == RecordKind::AccountOpen), "{:?}", tap.records("mdbox"));
    assert_eq!(std::fs::read_dir(dovecot.dir().join("spool")).expect("spool").count(), 0);
}

/// A ring that is full while the agent is hung: the store goes on and marks, or refuses before the commit.
#[test]
fn a_full_ring_is_answered_as_the_policy_says() {
    if skipped("a_full_ring_is_answered_as_the_policy_says") {
        return;
    }
    for on_full in [OnFull::GoOnAndMarkGap, OnFull::Wait, OnFull::Refuse] {
        let dovecot = start(&["maildir"]);
        let policy = Policy { on_full, wait_timeout_ms: 200, ..Policy::default() };
        let geometry = Geometry { data_bytes: 16 * 1024, descriptors: 32, ..Geometry::default() };
        let tap = Tap::start_with(dovecot.dir(), policy, ConsumerOptions { geometry, ..ConsumerOptions::default() });
        let mut imap = dovecot.imap("maildir").expect("login");
        imap.append("INBOX", "", &message("before", 0)).expect("append");
        tap.settle();
        tap.freeze(true);
        let mut done = 1;
        for n in 0..40 {
            match imap.append("INBOX", "", &message("full", n)) {
                Ok(_) => done += 1,
                Err(error) => {
                    assert_ne!(on_full, OnFull::GoOnAndMarkGap, "{error}");
                    assert!(refused::<()>(Err(error)).contains("not being replicated"));
                    break;
                }
            }
        }
        assert_eq!(done == 41, on_full == OnFull::GoOnAndMarkGap, "{on_full:?}: {done}");
        assert_eq!(stored(&dovecot, "maildir"), done, "{on_full:?}");
        tap.freeze(false);
        imap.command("NOOP").expect("the session lives");
        imap.append("INBOX", "", &message("after", 1)).expect("append");
        imap.logout();
        tap.settle();
        // Either all is there, or the account is marked.
        let published = saves(&tap.ops("maildir"));
        assert!(published == done + 1 || tap.gap("maildir"), "{on_full:?}: {published} of {}", done + 1);
        assert!(on_full != OnFull::GoOnAndMarkGap || published < done + 1, "the ring was never full");
    }
}

/// A session that is open while its account moves away, and while the agent that said so is gone.
#[test]
fn a_session_learns_that_its_account_moved_and_does_not_forget_it() {
    if skipped("a_session_learns_that_its_account_moved_and_does_not_forget_it") {
        return;
    }
    let dovecot = start(&["sdbox"]);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    let mut imap = dovecot.imap("sdbox").expect("login");
    imap.append("INBOX", "", &message("here", 1)).expect("append");
    drop(tap);
    let tap = Tap::start(dovecot.dir(), replica());
    assert!(refused(imap.append("INBOX", "", &message("moved", 2))).contains("active on another server"));
    drop(tap);
    // The default of an agent that says nothing would be to go on.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(refused(imap.append("INBOX", "", &message("moved", 3))).contains("active on another server"));
    let tap = Tap::start(dovecot.dir(), Policy::default());
    imap.append("INBOX", "", &message("back", 4)).expect("append");
    imap.logout();
    tap.until("sdbox", "the last", |ops| saves(ops) == 1);
    assert_eq!(stored(&dovecot, "sdbox"), 2);
}

/// Without a spool a save goes on and is marked, unless the client's OK depends on the body.
#[test]
fn a_body_that_cannot_be_written_is_marked_or_refused() {
    if skipped("a_body_that_cannot_be_written_is_marked_or_refused") {
        return;
    }
    for policy in [Policy::default(), peer(OnTimeout::Refuse, LONG_MS)] {
        let dovecot = start(&["mdbox"]);
        let tap = Tap::start(dovecot.dir(), policy);
        let mut imap = dovecot.imap("mdbox").expect("login");
        imap.append("INBOX", "", &message("with body", 1)).expect("append");
        std::fs::rename(dovecot.dir().join("spool"), dovecot.dir().join("away")).expect("renamed");
        let appended = imap.append("INBOX", "", &message("without body", 2));
        if policy.on_timeout == OnTimeout::Refuse {
            assert!(refused(appended).contains("cannot be replicated at this time"));
            assert_eq!(stored(&dovecot, "mdbox"), 1);
        } else {
            appended.expect("goes on");
            let ops = tap.until("mdbox", "both", |ops| saves(ops) == 2);
            let bodies = ops.iter().filter(|op| op.blob().is_some()).count();
            assert_eq!(bodies, 1);
            assert!(tap.gap("mdbox"));
        }
        imap.logout();
    }
}
