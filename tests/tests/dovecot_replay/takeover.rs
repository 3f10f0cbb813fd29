//! What a node does before it serves an account that another node served: seen by users over IMAP.

use understudy_agent::store::{MailboxMark, RaiseGap, Store as _};
use understudy_tests::dovecot::FORMATS;
use understudy_tests::imap::{Imap, Value};

use crate::{assert_quiet, skipped, start, store};

const GAP: RaiseGap = RaiseGap { uid: 1000, modseq: 1_000_000 };
const UIDS: u64 = GAP.uid as u64;
const BODY: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

/// UIDNEXT and HIGHESTMODSEQ, as a user sees them.
fn counters(imap: &mut Imap, mailbox: &str) -> (u64, u64) {
    let reply = imap.command(&format!("STATUS {mailbox} (UIDNEXT HIGHESTMODSEQ)")).expect("STATUS");
    let items: Vec<&Value> = reply.untagged.iter().flatten().flat_map(Value::items).collect();
    let number = |key: &str| items.windows(2).find(|pair| pair[0].text().as_deref() == Some(key))?[1].number();
    number("UIDNEXT").zip(number("HIGHESTMODSEQ")).unwrap_or_else(|| panic!("{:?}", reply.untagged))
}

/// Raised counters hold for sessions that were open before, for new ones, and after a restart.
#[test]
fn a_new_message_gets_a_uid_above_the_gap() {
    if skipped("a_new_message_gets_a_uid_above_the_gap") {
        return;
    }
    let users: Vec<String> = FORMATS.iter().map(|format| format!("{format}1")).collect();
    let mut dovecot = start(&users.iter().map(String::as_str).collect::<Vec<_>>());
    for user in &users {
        let mut open = dovecot.imap(user).expect("login");
        for mailbox in ["INBOX", "Work"] {
            if mailbox != "INBOX" {
                open.command(&format!("CREATE {mailbox}")).expect("CREATE");
            }
            for _ in 0..3 {
                open.append(mailbox, "", BODY).expect("APPEND");
            }
        }
        open.command("SELECT INBOX").expect("SELECT");
        open.command("UID STORE 2 +FLAGS (\\Seen)").expect("STORE");
        let before = ["INBOX", "Work"].map(|name| counters(&mut open, name));
        let marks = store(&dovecot).raise(user, GAP).expect("raised");
        let told = |m: &MailboxMark| (u64::from(m.next_uid), m.highest_modseq);
        assert_eq!(marks.iter().map(told).collect::<Vec<_>>(), before, "{user}");
        let wanted = before.map(|(uid, modseq)| (uid + UIDS, modseq + GAP.modseq));
        let mut new = dovecot.imap(user).expect("login");
        assert_eq!(["INBOX", "Work"].map(|name| counters(&mut new, name)), wanted, "{user}: a new session");
        // Of the selected mailbox, too.
        let (_, uid) = open.append("INBOX", "", BODY).expect("APPEND");
        assert_eq!(uid, wanted[0].0, "{user}: the session that was open");
        open.command("NOOP").expect("NOOP");
        open.command("UID STORE 1 +FLAGS (\\Flagged)").expect("STORE");
        assert!(counters(&mut open, "INBOX").1 > wanted[0].1, "{user}: HIGHESTMODSEQ goes on above the gap");
        open.logout();
        new.logout();
    }
    dovecot.restart().expect("Dovecot comes up");
    for user in &users {
        let mut imap = dovecot.imap(user).expect("login");
        assert_eq!(imap.append("Work", "", BODY).expect("APPEND").1, 4 + UIDS, "{user}: after a restart");
        let seen = imap.mailbox("INBOX").expect("EXAMINE");
        assert_eq!(seen.messages.iter().map(|m| m.uid).collect::<Vec<_>>(), [1, 2, 3, 4 + UIDS], "{user}");
        imap.logout();
    }
    assert_quiet(&dovecot);
}
