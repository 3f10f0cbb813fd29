//! What a user made on one account, dumped and replayed into another, is the same for IMAP and for doveadm.

use understudy_agent::digest::{AccountState, first_difference};
use understudy_agent::store::{ApplyItem, DumpOptions, Status, Store as _};
use understudy_tests::dovecot::{Dovecot, FORMATS};
use understudy_tests::imap::Imap;

use crate::{assert_quiet, skipped, start, store};

fn make_history(imap: &mut Imap) {
    let append = |imap: &mut Imap, mailbox: &str, rest: &str, n: usize| {
        let text = format!("From: a@example.test\r\nSubject: {n}\r\n\r\n{}\r\n", "line\r\n".repeat(n));
        imap.append(mailbox, rest, text.as_bytes()).expect("APPEND")
    };
    for command in ["CREATE Work", "CREATE \"Work/Sub &AOQ-\"", "CREATE Empty", "CREATE Gone", "SUBSCRIBE Work"] {
        imap.command(command).expect(command);
    }
    append(imap, "INBOX", "", 1);
    append(imap, "INBOX", "(\\Seen \\Flagged $Label1 urgent) \"17-Jul-1996 02:44:25 -0700\"", 2);
    append(imap, "INBOX", "(\\Draft) \" 1-Jan-2020 00:00:00 +1300\"", 300);
    append(imap, "Work", "", 4);
    append(imap, "Gone", "", 5);
    for command in [
        "SELECT INBOX",
        "UID STORE 1 +FLAGS (\\Answered later)",
        "UID COPY 1:2 Work",
        "UID COPY 3 INBOX",
        "UID MOVE 3 \"Work/Sub &AOQ-\"",
        "UID STORE 2 +FLAGS (\\Deleted)",
        "EXPUNGE",
        "CLOSE",
        "DELETE Gone",
        "RENAME Work Job",
        "SUBSCRIBE Job",
        "SETMETADATA Job (/private/comment \"about\" /shared/vendor/x/y \"z\")",
    ] {
        imap.command(command).expect(command);
    }
}

/// Identities that IMAP does not show.
fn guids(dovecot: &Dovecot, user: &str) -> (String, String) {
    let mailboxes = dovecot.look(&["mailbox", "status", "-u", user, "guid uidvalidity uidnext messages", "*"]);
    let messages = dovecot.look(&["fetch", "-u", user, "mailbox uid guid date.received size.virtual", "all"]);
    let sorted = |text: String| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    (sorted(mailboxes.expect("doveadm")), sorted(messages.expect("doveadm")))
}

fn metadata(imap: &mut Imap) -> String {
    let reply = imap.command("GETMETADATA (DEPTH infinity) Job (/private /shared)").expect("GETMETADATA");
    format!("{:?}", reply.untagged)
}

fn dump(dovecot: &Dovecot, user: &str, bodies: bool) -> Vec<understudy_types::op::Op> {
    let mut ops = Vec::new();
    let options = DumpOptions { messages: true, bodies };
    store(dovecot).dump(user, options, &mut |op| ops.push(op)).expect("a dump");
    ops
}

#[test]
fn an_account_replayed_elsewhere_is_the_same_account() {
    if skipped("an_account_replayed_elsewhere_is_the_same_account") {
        return;
    }
    let users: Vec<String> = FORMATS.iter().flat_map(|f| [format!("{f}-a"), format!("{f}-b")]).collect();
    let dovecot = start(&users.iter().map(String::as_str).collect::<Vec<_>>());
    for pair in users.chunks(2) {
        let (a, b) = (pair[0].as_str(), pair[1].as_str());
        make_history(&mut dovecot.imap(a).expect("login"));
        let recent = |user: &str| {
            let reply = dovecot.imap(user).and_then(|mut imap| Ok(imap.command("STATUS INBOX (RECENT UNSEEN)")?));
            format!("{:?}", reply.expect("STATUS").untagged)
        };
        let before = (dovecot.imap(a).expect("login").account().expect("an account"), recent(a));
        let ops = dump(&dovecot, a, true);
        let after = (dovecot.imap(a).expect("login").account().expect("an account"), recent(a));
        assert_eq!(before, after, "{a}: a dump changed what the user sees");

        // The replica's user has been logged in before: Dovecot made an INBOX with an identity of its own.
        dovecot.imap(b).expect("login").command("SELECT INBOX").expect("INBOX");
        let spool = dovecot.dir().join("spool");
        let items: Vec<ApplyItem> = ops
            .iter()
            .map(|op| ApplyItem { op: op.clone(), body_path: op.blob().map(|blob| spool.join(blob.to_string())) })
            .collect();
        let outcomes = store(&dovecot).apply(b, &items).expect("outcomes");
        let failed = outcomes.iter().find(|o| !matches!(o.status, Status::Applied | Status::AlreadySo));
        assert_eq!(failed, None, "{b}");

        let (mut session_a, mut session_b) = (dovecot.imap(a).expect("login"), dovecot.imap(b).expect("login"));
        let (account_a, account_b) = (session_a.account().unwrap(), session_b.account().unwrap());
        assert_eq!(account_a.difference(&account_b), None, "{a} and {b}");
        assert!(account_a.messages() == 6, "{account_a:?}");
        assert_eq!(metadata(&mut session_a), metadata(&mut session_b));
        assert_eq!(guids(&dovecot, a), guids(&dovecot, b));

        let (state_a, state_b) =
            (AccountState::from_ops(dump(&dovecot, a, false)), AccountState::from_ops(dump(&dovecot, b, false)));
        assert_eq!(first_difference(&state_a, &state_b).map(|d| d.to_string()), None);
        assert_eq!(state_a.digest(), state_b.digest());
        for (guid, mailbox) in &state_a.mailboxes {
            let there = state_b.mailboxes[guid].highest_modseq;
            assert!(there >= mailbox.highest_modseq, "{b} `{}`: HIGHESTMODSEQ went back", mailbox.name);
        }
    }
    assert_quiet(&dovecot);
}

/// The digest sees what a user does.
#[test]
fn a_change_on_one_side_is_found() {
    if skipped("a_change_on_one_side_is_found") {
        return;
    }
    let dovecot = start(&["sdbox1"]);
    let mut imap = dovecot.imap("sdbox1").expect("login");
    make_history(&mut imap);
    let before = AccountState::from_ops(dump(&dovecot, "sdbox1", false));
    imap.command("SELECT INBOX").unwrap();
    imap.command("UID STORE 1 +FLAGS (new)").unwrap();
    let after = AccountState::from_ops(dump(&dovecot, "sdbox1", false));
    let found = first_difference(&before, &after).expect("a difference").to_string();
    assert!(found.contains("INBOX") && found.contains("uid 1") && found.contains("keywords"), "{found}");
    assert_ne!(before.digest(), after.digest());
}
