//! Sessions that the replay service ends: of the accounts that are named, of every protocol, and nobody else's.

use understudy_agent::store::Store as _;
use understudy_tests::dovecot::{Dovecot, FORMATS, IMAP_PORT, LMTP_PORT, TIMEOUT};
use understudy_tests::imap::Imap;
use understudy_tests::wire::{Error, Wire};

use crate::{skipped, start, start_with, store};

const POP3_PORT: u16 = 10110;

fn wire(dovecot: &Dovecot, port: u16) -> Wire {
    let mut wire = Wire::connect(dovecot.ip(), port, TIMEOUT).expect("a connection");
    wire.line().expect("a greeting");
    wire
}

/// Sends a line and gives the first one of the answer that starts so.
fn say(wire: &mut Wire, line: &str, wanted: &str) {
    wire.send(format!("{line}\r\n").as_bytes()).expect("sent");
    loop {
        let answer = String::from_utf8_lossy(&wire.line().expect("an answer")).into_owned();
        if answer.starts_with(wanted) {
            return;
        }
        assert!(answer.starts_with('*') || answer.starts_with("250-"), "`{line}`: {answer}");
    }
}

fn pop3(dovecot: &Dovecot, user: &str) -> Wire {
    let mut wire = wire(dovecot, POP3_PORT);
    say(&mut wire, &format!("USER {user}"), "+OK");
    say(&mut wire, "PASS pass", "+OK");
    wire
}

/// Whether the server ends this connection, with or without a last word; error 11 is our own patience.
fn ends(wire: &mut Wire) -> bool {
    (0..3).any(|_| matches!(wire.line(), Err(Error::Connection(why)) if !why.contains("os error 11")))
}

/// A command that is on its way when the session is told to end may still be answered.
fn is_ended(imap: &mut Imap) -> bool {
    (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        matches!(imap.command("NOOP"), Err(Error::Connection(_)))
    })
}

#[test]
fn sessions_of_named_accounts_end_and_others_go_on() {
    if skipped("sessions_of_named_accounts_end_and_others_go_on") {
        return;
    }
    let config = format!(
        "protocols = imap lmtp pop3\nservice pop3-login {{\n  inet_listener pop3 {{\n    port = {POP3_PORT}\n  }}\n  \
         inet_listener pop3s {{\n    port = 0\n  }}\n}}\n# Deliveries are counted, and so known to anvil.\n\
         lmtp_user_concurrency_limit = 10\n"
    );
    let users: Vec<String> = FORMATS.iter().flat_map(|f| [format!("{f}1"), format!("{f}-kept")]).collect();
    let dovecot = start_with(&users.iter().map(String::as_str).collect::<Vec<_>>(), &config);
    let mut store = store(&dovecot);
    let kicked = FORMATS.map(|format| format!("{format}1"));
    let mut sessions = Vec::new();
    for user in &kicked {
        let mut imap = dovecot.imap(user).expect("login");
        imap.command("SELECT INBOX").expect("SELECT");
        sessions.push((imap, dovecot.imap(user).expect("a second login"), pop3(&dovecot, user)));
    }
    let mut kept: Vec<(Imap, Wire)> = FORMATS
        .iter()
        .map(|format| format!("{format}-kept"))
        .map(|user| (dovecot.imap(&user).expect("login"), pop3(&dovecot, &user)))
        .collect();
    // A delivery that is under way, to an account that is kicked and to one that is not.
    let mut lmtp = wire(&dovecot, LMTP_PORT);
    say(&mut lmtp, "LHLO client.example.test", "250 ");
    say(&mut lmtp, "MAIL FROM:<s@example.test>", "250");
    say(&mut lmtp, "RCPT TO:<maildir1>", "250");
    say(&mut lmtp, "RCPT TO:<maildir-kept>", "250");
    say(&mut lmtp, "DATA", "354");

    assert_eq!(store.kick(&["nobody".into(), "maildir".into()]).expect("asked"), 0, "a part of a name is no name");
    let mut names: Vec<String> = (0..500).map(|n| format!("other{n}")).collect();
    names.extend(kicked.iter().cloned());
    assert_eq!(store.kick(&names).expect("asked"), 9);
    for (first, second, pop3) in &mut sessions {
        assert!(is_ended(first) && is_ended(second) && ends(pop3));
    }
    for (imap, pop3) in &mut kept {
        imap.command("NOOP").expect("goes on");
        say(pop3, "NOOP", "+OK");
    }
    assert_eq!(store.kick(&[]).expect("asked"), 6, "everybody");
    for (imap, pop3) in &mut kept {
        assert!(is_ended(imap) && ends(pop3));
    }
    say(&mut lmtp, "Subject: x\r\n\r\nbody\r\n.", "250");
    assert!(lmtp.line().expect("an answer for the second").starts_with(b"250"));
    assert_eq!(store.kick(&[]).expect("asked"), 0);
    for user in &kicked {
        dovecot.imap(user).unwrap_or_else(|e| panic!("{user}: a new session: {e}")).logout();
    }
}

/// Sessions that idle and were put together into one process.
#[test]
fn hibernated_sessions_end() {
    if skipped("hibernated_sessions_end") {
        return;
    }
    let config = "imap_hibernate_timeout = 1s\nservice imap {\n  unix_listener imap-master {\n    mode = 0666\n  }\n}\n\
                  service imap-hibernate {\n  unix_listener imap-hibernate {\n    mode = 0666\n  }\n}\n";
    let dovecot = start_with(&["sdbox1"], config);
    let mut imap = wire(&dovecot, IMAP_PORT);
    say(&mut imap, "a LOGIN sdbox1 pass", "a OK");
    say(&mut imap, "b SELECT INBOX", "b OK");
    say(&mut imap, "c IDLE", "+");
    for _ in 0..1000 {
        if !dovecot.processes("imap-hibernate").is_empty() && dovecot.processes("imap").is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(dovecot.processes("imap").is_empty(), "it hibernates");
    assert_eq!(store(&dovecot).kick(&["sdbox1".into()]).expect("asked"), 1);
    assert!(ends(&mut imap));
    dovecot.imap("sdbox1").expect("a new session").logout();
}

/// A session in the middle of a command is told its result, and a stopped one ends when it goes on: nobody waits.
#[test]
fn a_session_that_hangs_holds_up_nobody() {
    if skipped("a_session_that_hangs_holds_up_nobody") {
        return;
    }
    let dovecot = start(&["maildir1", "sdbox1"]);
    let mut hung = dovecot.imap("maildir1").expect("login");
    let pids = dovecot.processes("imap");
    let &[pid] = &pids[..] else { panic!("{pids:?}") };
    let mut other = dovecot.imap("sdbox1").expect("login");
    let signal = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is ours");
    signal(nix::sys::signal::Signal::SIGSTOP);
    assert_eq!(store(&dovecot).kick(&[]).expect("asked"), 2);
    assert!(is_ended(&mut other));
    signal(nix::sys::signal::Signal::SIGCONT);
    assert!(is_ended(&mut hung));
}
