//! Changes by other processes between two requests: the service, which leaves mailboxes open, notices them.

use std::path::Path;

use understudy_agent::store::dovecot::DovecotStore;
use understudy_agent::store::{ApplyItem, Status, Store as _};
use understudy_tests::dovecot::FORMATS;
use understudy_types::id::MailboxGuid;
use understudy_types::op::{Mailbox, Message, Op};

use crate::{bodies, skipped, start, store};

const WORK: MailboxGuid = MailboxGuid([4; 16]);

fn guid(uid: u32) -> String {
    format!("{uid:032x}")
}

fn save(uid: u32, body: &Path) -> ApplyItem {
    let message = Message {
        mailbox: WORK,
        mailbox_name: "Work".into(),
        uid_validity: 9,
        uid,
        guid: guid(uid),
        ..Message::default()
    };
    ApplyItem { op: Op::MessageSaved { message, snapshot: 0 }, body_path: Some(body.to_owned()) }
}

fn flags(uid: u32, flags: u32) -> ApplyItem {
    let op = Op::FlagsSet { mailbox: WORK, uid, guid: guid(uid), flags, keywords: vec![], modseq: 0 };
    ApplyItem { op, body_path: None }
}

fn want(store: &mut DovecotStore, user: &str, item: ApplyItem, status: Status) {
    let outcomes = store.apply(user, std::slice::from_ref(&item)).expect("outcomes");
    assert_eq!(outcomes[0].status, status, "{user}: {item:?}: {outcomes:?}");
}

#[test]
fn changes_of_others_are_noticed() {
    if skipped("changes_of_others_are_noticed") {
        return;
    }
    let users: Vec<String> = FORMATS.iter().map(|format| format!("{format}1")).collect();
    let dovecot = start(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let body = bodies(&dovecot).join("body");
    std::fs::write(&body, b"Subject: x\n\nbody\n").unwrap();
    let mut store = store(&dovecot);
    for user in &users {
        let mut imap = dovecot.imap(user).expect("login");
        let mut imap = |command: &str| drop(imap.command(command).unwrap_or_else(|e| panic!("{user}: {command}: {e}")));
        for uid in 1..=3 {
            want(&mut store, user, save(uid, &body), Status::Applied);
        }
        want(&mut store, user, flags(1, 1), Status::Applied);
        imap("RENAME Work Moved");
        want(&mut store, user, flags(1, 2), Status::Applied);
        imap("SELECT Moved");
        imap("UID STORE 2 +FLAGS.SILENT (\\Deleted)");
        imap("UID EXPUNGE 2");
        want(&mut store, user, flags(2, 2), Status::AlreadySo);
        imap("UID COPY 1 Moved");
        imap("CLOSE");
        let taken = save(4, &body);
        want(&mut store, user, taken, Status::UidConflict);
        let moved = dovecot.imap(user).expect("login").mailbox("Moved").expect("the mailbox");
        assert_eq!(moved.messages.iter().map(|m| m.uid).collect::<Vec<_>>(), [1, 3, 4], "{user}");
        assert!(moved.messages[0].flags.contains("\\Flagged"), "{user}: {:?}", moved.messages[0].flags);
        imap("DELETE Moved");
        want(&mut store, user, flags(1, 1), Status::NoMailbox);
        // An empty mailbox of the name, made by somebody else, takes on the identity.
        imap("CREATE Work");
        want(&mut store, user, save(1, &body), Status::Applied);
        let identity = Mailbox { guid: WORK, name: "Work".into(), uid_validity: 9, ..Mailbox::default() };
        let known = ApplyItem { op: Op::MailboxUpdated { mailbox: identity, snapshot: 0 }, body_path: None };
        want(&mut store, user, known, Status::AlreadySo);
        // The same for an operation on the mailbox itself.
        imap("DELETE Work");
        let identity = Mailbox { guid: WORK, name: "Work".into(), uid_validity: 10, ..Mailbox::default() };
        let anew = ApplyItem { op: Op::MailboxCreated { mailbox: identity, snapshot: 0 }, body_path: None };
        want(&mut store, user, anew.clone(), Status::Applied);
        want(&mut store, user, anew, Status::AlreadySo);
        // Away and there again, with messages of somebody else: a conflict, and nothing of theirs is lost.
        imap("DELETE Work");
        imap("CREATE Work");
        let text = b"Subject: theirs\r\n\r\nx\r\n";
        dovecot.imap(user).and_then(|mut session| Ok(session.append("Work", "", text)?)).expect("APPEND");
        want(&mut store, user, save(2, &body), Status::UidConflict);
        let work = dovecot.imap(user).expect("login").mailbox("Work").expect("the mailbox");
        assert_eq!(work.messages.len(), 1, "{user}");
        assert_eq!(work.messages[0].body, text, "{user}");
    }
    crate::assert_quiet(&dovecot);
}
