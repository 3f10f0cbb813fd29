//! Many users, and several mail uids, in one process of the service.

use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::Path;

use understudy_agent::store::{ApplyItem, Status, Store as _};
use understudy_types::id::MailboxGuid;
use understudy_types::op::{Mailbox, Message, Op};

use crate::{bodies, skipped, start, store};

/// More than the service keeps open.
const USERS: usize = 80;

fn owners(folder: &Path, uid: u32) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        assert_eq!(metadata.uid(), uid, "owner of `{}`", entry.path().display());
        assert_eq!(metadata.gid(), uid, "group of `{}`", entry.path().display());
        if metadata.is_dir() {
            owners(&entry.path(), uid);
        }
    }
}

#[test]
fn every_user_keeps_its_own_rights() {
    if skipped("every_user_keeps_its_own_rights") {
        return;
    }
    let dovecot = start(&["first"]);
    let mut lines = String::new();
    let uid_of = |n: usize| 5000 + u32::try_from(n % 3).unwrap();
    for n in 0..USERS {
        let home = dovecot.dir().join("mail").join(format!("u{n}"));
        let uid = uid_of(n);
        std::fs::create_dir(&home).unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
        std::fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).unwrap();
        let format = ["maildir", "sdbox", "mdbox"][n / 3 % 3];
        let _ = writeln!(lines, "u{n}:{{PLAIN}}pass:{uid}:{uid}::{}::userdb_mail={format}:~/mail", home.display());
    }
    let mut database = std::fs::OpenOptions::new().append(true).open(dovecot.dir().join("users")).unwrap();
    std::io::Write::write_all(&mut database, lines.as_bytes()).unwrap();
    let body = bodies(&dovecot).join("body");
    std::fs::write(&body, b"Subject: x\n\nbody\n").unwrap();

    // One connection, so one process; round after round over users of different uids, more than it keeps open.
    let mut store = store(&dovecot);
    for uid in 1..=3 {
        for n in 0..USERS {
            let mailbox = MailboxGuid([9; 16]);
            let message = Message {
                mailbox,
                mailbox_name: "INBOX".into(),
                uid_validity: 77,
                uid,
                guid: format!("{n:016x}{uid:016x}"),
                ..Message::default()
            };
            let saved = ApplyItem { op: Op::MessageSaved { message, snapshot: 0 }, body_path: Some(body.clone()) };
            let identity = Mailbox { guid: mailbox, name: "INBOX".into(), uid_validity: 77, ..Mailbox::default() };
            let known = ApplyItem { op: Op::MailboxUpdated { mailbox: identity, snapshot: 0 }, body_path: None };
            let outcomes = store.apply(&format!("u{n}"), &[saved, known]).unwrap();
            let statuses: Vec<_> = outcomes.iter().map(|outcome| outcome.status).collect();
            assert_eq!(statuses, [Status::Applied, Status::AlreadySo], "u{n}: {outcomes:?} {}", dovecot.log());
        }
    }
    for n in 0..USERS {
        owners(&dovecot.dir().join("mail").join(format!("u{n}")), uid_of(n));
    }
    // Its database names them all.
    let mut names = Vec::new();
    store.accounts(&mut |name| names.push(name)).unwrap();
    assert_eq!(names.len(), USERS + 1);
    crate::assert_quiet(&dovecot);
}
