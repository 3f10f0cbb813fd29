//! Several sessions at once: saves are published in UID order, and flags end at what the store has.

use crate::model::Account;
use crate::tap::Tap;
use crate::{message, skipped, start};
use understudy_ring::Policy;
use understudy_tests::dovecot::FORMATS;
use understudy_types::op::Op;

const MESSAGES: usize = 40;

#[test]
fn concurrent_saves_are_published_in_uid_order() {
    if skipped("concurrent_saves_are_published_in_uid_order") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        // Sessions that make INBOX at the same moment can meet a deadlock on Dovecot's list index (sdbox, mdbox), which
        // ends them, with the plugin and without any; this test is about the order of saves.
        let mut first = dovecot.imap(format).expect("login");
        first.command("EXAMINE INBOX").expect("INBOX is made");
        first.logout();
        std::thread::scope(|scope| {
            for writer in 0..6 {
                let dovecot = &dovecot;
                scope.spawn(move || {
                    if writer % 2 == 0 {
                        let mut lmtp = dovecot.lmtp().expect("lmtp");
                        for n in 0..MESSAGES {
                            let text = message("by lmtp", writer * 1000 + n);
                            lmtp.deliver_one("s@example.test", format, &text).expect("delivered");
                        }
                    } else {
                        let mut imap = dovecot.imap(format).expect("login");
                        for n in 0..MESSAGES {
                            let flags = if n % 3 == 0 { "(\\Seen kw)" } else { "" };
                            imap.append("INBOX", flags, &message("by imap", writer * 1000 + n)).expect("append");
                        }
                    }
                });
            }
        });
        tap.settle();
        let ops = tap.ops(format);
        let uids = ops.iter().filter_map(|op| match op {
            Op::MessageSaved { message, .. } => Some(message.uid),
            _ => None,
        });
        let uids: Vec<u32> = uids.collect();
        assert_eq!(uids.len(), 6 * MESSAGES, "{format}");
        assert!(uids.windows(2).all(|pair| pair[0] < pair[1]), "{format}: {uids:?}");
        let (published, stored) = (Account::of(&ops), Account::stored(&dovecot, format));
        assert_eq!(published.difference(&stored), None, "{format}");
    }
    let complaints = dovecot.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn concurrent_flags_end_at_what_the_store_has() {
    if skipped("concurrent_flags_end_at_what_the_store_has") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        let mut imap = dovecot.imap(format).expect("login");
        imap.append("INBOX", "", &message("fought over", 1)).expect("append");
        imap.append("INBOX", "", &message("fought over", 2)).expect("append");
        std::thread::scope(|scope| {
            for session in 0..4 {
                let dovecot = &dovecot;
                scope.spawn(move || {
                    let mut imap = dovecot.imap(format).expect("login");
                    imap.command("SELECT INBOX").expect("select");
                    for turn in 0..40 {
                        let sign = if (turn + session) % 2 == 0 { '+' } else { '-' };
                        let what = format!("STORE 1:2 {sign}FLAGS (\\Seen kw{session})");
                        imap.command(&what).expect("store");
                    }
                });
            }
        });
        imap.logout();
        tap.settle();
        let (published, stored) = (Account::of(&tap.ops(format)), Account::stored(&dovecot, format));
        assert_eq!(published.difference(&stored), None, "{format}");
    }
}

#[test]
fn creation_by_several_sessions_at_once_tells_one_identity() {
    if skipped("creation_by_several_sessions_at_once_tells_one_identity") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        std::thread::scope(|scope| {
            for session in 0..4 {
                let dovecot = &dovecot;
                scope.spawn(move || {
                    let mut imap = dovecot.imap(format).expect("login");
                    imap.command("SELECT INBOX").expect("select");
                    for n in 0..15 {
                        // Only one of them succeeds.
                        let _ = imap.command(&format!("CREATE Race{n}"));
                        imap.append(&format!("Race{n}"), "", &message("race", session * 100 + n)).expect("append");
                    }
                });
            }
        });
        tap.settle();
        let (published, stored) = (Account::of(&tap.ops(format)), Account::stored(&dovecot, format));
        assert_eq!(published.difference(&stored), None, "{format}");
    }
}

/// A session whose view is older than the store changes the store all the same, though nothing changes in its view.
#[test]
fn a_change_made_in_an_old_view_is_published() {
    if skipped("a_change_made_in_an_old_view_is_published") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        let mut first = dovecot.imap(format).expect("login");
        first.append("INBOX", "(kept)", &message("looked at by two", 1)).expect("append");
        first.command("SELECT INBOX").expect("select");
        let mut second = dovecot.imap(format).expect("login");
        second.command("SELECT INBOX").expect("select");
        first.command("STORE 1 +FLAGS.SILENT (\\Seen \\Flagged)").expect("store");
        second.command("STORE 1 -FLAGS.SILENT (\\Seen)").expect("store");
        first.command("STORE 1 -FLAGS.SILENT (kept)").expect("store");
        second.command("STORE 1 +FLAGS.SILENT (kept)").expect("store");
        first.logout();
        second.logout();
        tap.settle();
        let (published, stored) = (Account::of(&tap.ops(format)), Account::stored(&dovecot, format));
        assert_eq!(published.difference(&stored), None, "{format}");
    }
}

/// What an administrator or another program does to the files of a Maildir is found by the next look into it.
#[test]
fn flags_changed_in_the_files_of_a_maildir_are_published() {
    if skipped("flags_changed_in_the_files_of_a_maildir_are_published") {
        return;
    }
    let dovecot = start(&["maildir"]);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    let mut imap = dovecot.imap("maildir").expect("login");
    imap.append("INBOX", "(\\Flagged)", &message("renamed", 1)).expect("append");
    imap.command("SELECT INBOX").expect("select");
    let folder = dovecot.dir().join("mail/maildir/mail/cur");
    let file = std::fs::read_dir(folder).expect("a folder").next().expect("the message's file").expect("read").path();
    let name = file.to_str().expect("text");
    let (base, _) = name.split_once(":2,").expect("flags in its name");
    std::thread::sleep(std::time::Duration::from_millis(1100)); // Dovecot tells a folder's changes by its mtime
    std::fs::rename(&file, format!("{base}:2,S")).expect("renamed");
    imap.command("NOOP").expect("noop");
    imap.logout();
    tap.settle();
    let (published, stored) = (Account::of(&tap.ops("maildir")), Account::stored(&dovecot, "maildir"));
    assert_eq!(published.difference(&stored), None);
    let state = published.mailboxes.values().next().expect("INBOX").messages[&1].flags.clone();
    assert!(state.contains("\\Seen") && !state.contains("\\Flagged"), "{state:?}");
}
