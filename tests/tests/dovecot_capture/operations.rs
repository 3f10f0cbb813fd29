//! Every kind of operation, in all three formats: nothing is missing, doubled, or different from what the store has.

use crate::model::Account;
use crate::tap::Tap;
use crate::{PLUGINS, message, skipped, start};
use understudy_ring::{Policy, RecordKind};
use understudy_tests::dovecot::{Dovecot, FORMATS};
use understudy_types::op::Op;

/// One of everything. Gives the names of the mailboxes that are left.
fn everything(dovecot: &Dovecot, user: &str) {
    let mut imap = dovecot.imap(user).expect("login");
    let mut say = |command: &str| imap.command(command).unwrap_or_else(|e| panic!("{command}: {e}"));
    say("SELECT INBOX");
    say("CREATE A");
    say("CREATE A/B");
    say("CREATE Dir/");
    say("CREATE Gone");
    say("SUBSCRIBE A/B");
    say("SUBSCRIBE Gone");
    say("UNSUBSCRIBE Gone");
    let date = r#"(\Seen $Label kw) "17-Jul-1996 02:44:25 -0700""#;
    imap.append("INBOX", date, &message("dated", 1)).expect("append");
    for n in 2..8 {
        imap.append("INBOX", "", &message("plain", n)).expect("append");
    }
    imap.append("Gone", "", &message("gone", 1)).expect("append");
    let mut say = |command: &str| imap.command(command).unwrap_or_else(|e| panic!("{command}: {e}"));
    say("SELECT INBOX");
    say("STORE 1:3 +FLAGS (\\Flagged more)");
    say("STORE 2 -FLAGS (\\Flagged)");
    say("STORE 4 FLAGS (\\Answered \\Draft)");
    say("FETCH 5 BODY[]"); // sets \Seen
    say("COPY 1:2 A");
    say("COPY 3 INBOX");
    say("MOVE 4 A/B");
    say("STORE 1 +FLAGS.SILENT (\\Deleted)");
    say("EXPUNGE");
    say("RENAME A Renamed/Deep");
    say("DELETE Gone");
    say("SETMETADATA INBOX (/private/comment \"mine\" /shared/comment \"ours\")");
    say("SETMETADATA INBOX (/private/comment NIL)");
    say("LOGOUT");
    let mut lmtp = dovecot.lmtp().expect("lmtp");
    lmtp.deliver_one("s@example.test", user, &message("delivered", 1)).expect("delivered");
    lmtp.quit();
    dovecot.doveadm(&["flags", "add", "-u", user, "\\Flagged", "mailbox", "INBOX", "uid", "6"]).expect("flags");
    dovecot.doveadm(&["mailbox", "create", "-u", user, "ByAdmin", "Empty"]).expect("create");
    // Dovecot damages a Maildir whose next UID is raised before it has a UIDVALIDITY.
    dovecot.imap(user).expect("login").append("ByAdmin", "", &message("first", 1)).expect("append");
    dovecot.doveadm(&["mailbox", "update", "-u", user, "--min-next-uid", "500", "ByAdmin"]).expect("update");
    let mut imap = dovecot.imap(user).expect("login");
    imap.append("ByAdmin", "", &message("after", 1)).expect("append");
    imap.command("SELECT Empty").expect("select");
    imap.logout();
}

#[test]
fn every_operation_is_published_once_with_the_identities_of_the_store() {
    let name = "every_operation_is_published_once_with_the_identities_of_the_store";
    if skipped(name) {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        everything(&dovecot, format);
        tap.settle();
        let ops = tap.ops(format);
        let (published, stored) = (Account::of(&ops), Account::stored(&dovecot, format));
        assert_eq!(published.difference(&stored), None, "{format}: {ops:#?}");
        assert!(stored.mailboxes.len() >= 5, "{stored:?}");

        let kinds: std::collections::BTreeSet<u16> = ops.iter().map(Op::kind).collect();
        assert_eq!(kinds, (1..=11).collect(), "{format}: kinds seen");
        attributes(format, &ops);
        bodies(&dovecot, format, &ops);
        let date = ops.iter().find_map(|op| match op {
            Op::MessageSaved { message, .. } if message.uid == 1 && message.mailbox_name == "INBOX" => {
                Some((message.received_s, message.received_tz_minutes))
            }
            _ => None,
        });
        assert_eq!(date, Some((837_596_665, -420)), "{format}");
        let moved = ops.iter().filter(|op| matches!(op, Op::MessageCopied { moved: true, .. })).count();
        assert_eq!(moved, 1, "{format}");
        let raised = ops.iter().any(|op| matches!(op, Op::MailboxUpdated { mailbox, .. } if mailbox.next_uid == 500));
        assert!(raised, "{format}: {ops:#?}");

        assert_eq!(tap.open_intents(format), [], "{format}");
        let records = tap.records(format);
        let told = records.iter().filter(|r| r.kind == RecordKind::Intent).count();
        assert!(told > 20, "{format}: {told} intents");
    }
    assert_eq!(tap.strange(), Vec::<String>::new());
    assert_eq!(tap.orphans(), Vec::<String>::new());
    let complaints = dovecot.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

fn attributes(format: &str, ops: &[Op]) {
    let set: Vec<(bool, bool, &str, Option<&[u8]>)> = ops
        .iter()
        .filter_map(|op| match op {
            Op::AttributeSet { mailbox, private, key, value, .. } => {
                Some((mailbox.is_some(), *private, key.as_str(), value.as_deref()))
            }
            _ => None,
        })
        .collect();
    let mine = (true, true, "comment", Some(&b"mine"[..]));
    let ours = (true, false, "comment", Some(&b"ours"[..]));
    assert_eq!(set.iter().filter(|a| **a == mine).count(), 1, "{format}: {set:?}");
    assert_eq!(set.iter().filter(|a| **a == ours).count(), 1, "{format}: {set:?}");
    assert!(set.contains(&(true, true, "comment", None)), "{format}: {set:?}");
}

/// The body of each saved message is in the spool, under its name, and is what IMAP shows with other line ends.
fn bodies(dovecot: &Dovecot, format: &str, ops: &[Op]) {
    let mut shown = std::collections::BTreeMap::new();
    let mut imap = dovecot.imap(format).expect("login");
    for mailbox in ["INBOX", "ByAdmin"] {
        for message in imap.mailbox(mailbox).expect("examine").messages {
            shown.insert((mailbox, message.uid), message.body);
        }
    }
    imap.logout();
    let mut compared = 0;
    for op in ops {
        let Op::MessageSaved { message, .. } = op else { continue };
        let blob = message.blob.expect("a saved message names its body");
        let bytes = std::fs::read(dovecot.dir().join("spool").join(blob.to_string())).expect("the body is there");
        assert_eq!(blake3::hash(&bytes).as_bytes(), &blob.0);
        assert_eq!(bytes.len() as u64, message.size_physical_bytes);
        if let Some(body) = shown.get(&(message.mailbox_name.as_str(), u64::from(message.uid))) {
            let text = String::from_utf8(bytes).expect("text");
            assert_eq!(text.replace("\r\n", "\n"), String::from_utf8_lossy(body).replace("\r\n", "\n"));
            compared += 1;
        }
    }
    assert!(compared >= 6, "{format}: {compared} bodies");
    let left: Vec<_> = std::fs::read_dir(dovecot.dir().join("spool")).expect("spool").flatten().collect();
    assert!(left.iter().all(|f| !f.file_name().to_string_lossy().starts_with("tmp.")), "{left:?}");
}

#[test]
fn a_delivery_to_several_recipients_is_published_for_each() {
    if skipped("a_delivery_to_several_recipients_is_published_for_each") {
        return;
    }
    let users = ["maildir1", "maildir2", "sdbox1", "sdbox2", "mdbox1", "mdbox2"];
    let dovecot = start(&users);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    let mut lmtp = dovecot.lmtp().expect("lmtp");
    for n in 0..2 {
        let answers = lmtp.deliver("s@example.test", &users, &message("to all", n)).expect("delivered");
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    lmtp.quit();
    tap.settle();
    for user in users {
        let (published, stored) = (Account::of(&tap.ops(user)), Account::stored(&dovecot, user));
        assert_eq!(published.difference(&stored), None, "{user}: {:#?}", tap.ops(user));
        assert_eq!(stored.mailboxes.values().map(|m| m.messages.len()).sum::<usize>(), 2);
    }
}

/// The owner's account gets what others do in a shared mailbox, under the owner's names.
#[test]
fn changes_of_a_shared_mailbox_belong_to_its_owner() {
    if skipped("changes_of_a_shared_mailbox_belong_to_its_owner") {
        return;
    }
    let shared = r"
namespace shared {
  type = shared
  separator = /
  prefix = shared/%%u/
  location = maildir:%{dir}/mail/%%u/mail:INDEXPVT=~/private/%%u
  subscriptions = no
  list = children
}
mail_attribute_dict = file:%h/dovecot-attributes
";
    let dovecot = Dovecot::start(&["owner", "guest"], PLUGINS, shared).expect("Dovecot starts");
    let tap = Tap::start(dovecot.dir(), Policy::default());
    let mut owner = dovecot.imap("owner").expect("login");
    owner.command("SELECT INBOX").expect("select");
    owner.command("CREATE Team").expect("create");
    owner.append("Team", "", &message("from the owner", 1)).expect("append");
    let mut guest = dovecot.imap("guest").expect("login");
    guest.append("shared/owner/Team", "", &message("from the guest", 2)).expect("append");
    guest.command("SELECT shared/owner/Team").expect("select");
    guest.command("STORE 1 +FLAGS (\\Flagged)").expect("store");
    guest.command("STORE 2 +FLAGS (\\Seen)").expect("store"); // private: INDEXPVT
    guest.append("INBOX", "", &message("own", 3)).expect("append");
    guest.command("COPY 1 INBOX").expect("copy");
    guest.command("SUBSCRIBE shared/owner/Team").expect("subscribe");
    guest.logout();
    owner.logout();
    tap.settle();

    let ops = tap.ops("owner");
    let published = Account::of(&ops);
    assert_eq!(published.difference(&Account::stored(&dovecot, "owner")), None, "{ops:#?}");
    let names: Vec<_> = published.mailboxes.values().map(|m| (m.name.as_str(), m.messages.len())).collect();
    assert!(names.contains(&("Team", 2)), "{names:?}");
    let flags = ops.iter().filter_map(|op| match op {
        Op::FlagsSet { uid, flags, .. } => Some((*uid, *flags)),
        _ => None,
    });
    assert_eq!(flags.collect::<Vec<_>>(), [(1, 2), (2, 0)], "the private flag is not the owner's");

    let ops = tap.ops("guest");
    assert!(ops.contains(&Op::Subscribed { name: "shared/owner/Team".to_owned(), snapshot: 0 }), "{ops:#?}");
    let saved = ops.iter().filter(|op| matches!(op, Op::MessageSaved { .. })).count();
    assert_eq!(saved, 2, "a copy out of another account comes with its body: {ops:#?}");
    assert!(!ops.iter().any(|op| matches!(op, Op::MessageCopied { .. })), "{ops:#?}");
    assert_eq!(tap.strange(), Vec::<String>::new());
}
