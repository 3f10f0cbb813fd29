//! Mailboxes that are created, renamed and deleted while others stand below them or sessions have them open.
//!
//! Owns: one case for each thing that Dovecot leaves in a state of its own; what is published is what the store has,
//! and an account is not marked for comparison where nothing is missing. What can hurt: cases of two sessions do their
//! steps one after another, so that none depends on time; only the last one races. Refuses: all kinds of traffic at
//! once.

use crate::model::Account;
use crate::tap::Tap;
use crate::{message, skipped, start};
use std::sync::atomic::{AtomicBool, Ordering};
use understudy_ring::Policy;
use understudy_tests::dovecot::{Dovecot, FORMATS};
use understudy_tests::wire::Error;
use understudy_types::op::Op;

const SAVES: usize = 300;

/// That the account is published as it is, and was not marked for comparison.
fn whole(dovecot: &Dovecot, tap: &Tap, user: &str) -> Vec<Op> {
    tap.settle();
    let ops = tap.ops(user);
    let (published, stored) = (Account::of(&ops), Account::stored(dovecot, user));
    assert_eq!(published.difference(&stored), None, "{user}: {ops:#?}");
    assert_eq!(tap.open_intents(user), [], "{user}");
    let log = dovecot.log();
    let marked: Vec<&str> = log.lines().filter(|l| l.contains(&format!("Error: understudy: {user}: "))).collect();
    assert!(marked.is_empty(), "{marked:#?}");
    ops
}

#[test]
fn an_empty_mailbox_is_created_with_the_identity_that_it_has() {
    if skipped("an_empty_mailbox_is_created_with_the_identity_that_it_has") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        let mut imap = dovecot.imap(format).expect("login");
        imap.command("SELECT INBOX").expect("select");
        imap.command("CREATE A").expect("create");
        imap.logout();
        let ops = whole(&dovecot, &tap, format);
        let created = ops.iter().find_map(|op| match op {
            Op::MailboxCreated { mailbox, .. } if mailbox.name == "A" => Some(mailbox.uid_validity),
            _ => None,
        });
        assert!(created.is_some_and(|validity| validity != 0), "{format}: {ops:#?}");
    }
}

#[test]
fn a_mailbox_that_follows_a_deleted_one_has_an_identity_of_its_own() {
    if skipped("a_mailbox_that_follows_a_deleted_one_has_an_identity_of_its_own") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        let mut imap = dovecot.imap(format).expect("login");
        // Deleted while another is below it, the list goes on naming it and telling its GUID.
        for command in
            ["SELECT INBOX", "CREATE A", "CREATE A/B", "STATUS A (MESSAGES)", "DELETE A", "LIST \"\" *", "CREATE A"]
        {
            imap.command(command).unwrap_or_else(|e| panic!("{format}: {command}: {e}"));
        }
        imap.logout();
        whole(&dovecot, &tap, format);
    }
}

#[test]
fn mailboxes_below_a_name_without_a_mailbox_are_renamed() {
    if skipped("mailboxes_below_a_name_without_a_mailbox_are_renamed") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        let mut imap = dovecot.imap(format).expect("login");
        let commands = [
            "SELECT INBOX",
            "CREATE A",
            "CREATE A/B",
            "CREATE A/B/C",
            "DELETE A",
            "RENAME A D",
            "CREATE E/B/C",
            "RENAME D/B E/F",
        ];
        for command in commands {
            imap.command(command).unwrap_or_else(|e| panic!("{format}: {command}: {e}"));
        }
        imap.logout();
        let ops = whole(&dovecot, &tap, format);
        // A Maildir has no names without a mailbox, so a replica would not find one.
        let nameless = |op: &&Op| matches!(op, Op::MailboxRenamed { .. }) && op.mailbox().is_none();
        assert_eq!(ops.iter().filter(nameless).count(), usize::from(format != "maildir"), "{format}: {ops:#?}");
    }
}

#[test]
fn a_maildir_that_is_renamed_onto_others_leaves_them_and_its_own_behind() {
    if skipped("a_maildir_that_is_renamed_onto_others_leaves_them_and_its_own_behind") {
        return;
    }
    let dovecot = start(&["maildir"]);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    let mut imap = dovecot.imap("maildir").expect("login");
    for command in ["SELECT INBOX", "CREATE A", "CREATE A/B", "CREATE A/C", "CREATE D/B", "CREATE D/B/X", "RENAME A D"]
    {
        imap.command(command).unwrap_or_else(|e| panic!("{command}: {e}"));
    }
    imap.logout();
    whole(&dovecot, &tap, "maildir");
}

#[test]
fn what_is_refused_because_the_mailbox_is_gone_marks_nothing() {
    if skipped("what_is_refused_because_the_mailbox_is_gone_marks_nothing") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        let mut imap = dovecot.imap(format).expect("login");
        imap.command("CREATE A").expect("create");
        imap.append("A", "", &message("kept", 1)).expect("append");
        imap.append("INBOX", "", &message("kept", 2)).expect("append");
        imap.command("SELECT A").expect("select");
        let mut other = dovecot.imap(format).expect("login");
        other.command("DELETE A").expect("delete");
        // The session may be told that it is over.
        let _ = imap.command("STORE 1 +FLAGS (\\Seen)");
        let _ = imap.command("COPY 1 A");
        let mut imap = dovecot.imap(format).expect("login");
        imap.command("CREATE A").expect("create");
        let answer = imap.append_in_two("A", &message("deleted meanwhile", 3), || {
            other.command("DELETE A").expect("delete");
        });
        assert!(answer.is_err(), "{format}: {answer:?}");
        imap.logout();
        other.logout();
        whole(&dovecot, &tap, format);
    }
}

/// Without us, Dovecot 2.3.19 ends the session with signal 11 in about one of twenty saves: it cannot make the folder
/// durable, and has no message to name in the error.
#[test]
fn sessions_outlive_renames_while_they_save() {
    if skipped("sessions_outlive_renames_while_they_save") {
        return;
    }
    let users = ["sdbox", "mdbox"];
    let dovecot = start(&users);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for user in users {
        let saving = AtomicBool::new(true);
        let mut imap = dovecot.imap(user).expect("login");
        imap.command("CREATE A").expect("create");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut other = dovecot.imap(user).expect("login");
                while saving.load(Ordering::SeqCst) {
                    let _ = other.command("RENAME A B");
                    let _ = other.command("RENAME B A");
                }
                other.logout();
            });
            // One that comes to a name that is not there is refused; none ends the session.
            let lost = (0..SAVES).find_map(|n| match imap.append("A", "", &message("renamed meanwhile", n)) {
                Err(Error::Connection(why)) => Some(format!("{user}, save {n}: {why}")),
                _ => None,
            });
            saving.store(false, Ordering::SeqCst);
            assert_eq!(lost, None);
        });
        imap.logout();
        tap.settle();
        assert_eq!(tap.open_intents(user), [], "{user}");
    }
    assert!(!dovecot.log().contains("killed with signal"), "{}", dovecot.log());
}
