//! What every store must do, as one suite that runs against any [`Store`].
//!
//! Owns: the cases. The store in memory passes them in a unit test, Dovecot with each of its formats in the crate
//! `tests`; what one of them does not do is not a case. What can hurt: a case that only looks at the answers; so each
//! also dumps the account and looks at its state. Refuses: measuring time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use understudy_types::id::MailboxGuid;
use understudy_types::op::{Mailbox, Message, Op, flag};

use super::{ApplyItem, DumpOptions, Status, Store};
use crate::digest::{AccountState, first_difference};

mod mailboxes;
mod messages;
mod takeover;
mod whole;

/// Runs every case; gives how many there were.
///
/// `fresh` names an account that the store knows and that nobody has used. `folder` is a directory that the store can
/// read, for bodies; `spool` is where the store puts the bodies of a dump.
///
/// # Errors
/// With the name of the first case that failed, and what it saw.
pub fn run(
    store: &mut dyn Store,
    fresh: &mut dyn FnMut() -> String,
    folder: &Path,
    spool: &Path,
) -> Result<usize, String> {
    let cases: &[(&str, Case)] = &[
        ("version and unknown account", unknown_account),
        ("mailboxes are created", mailboxes::creation),
        ("an empty mailbox of the name takes on the identity", mailboxes::adoption),
        ("mailboxes are renamed with their children", mailboxes::renaming),
        ("mailboxes are deleted with their messages", mailboxes::deletion),
        ("INBOX can be made anew", mailboxes::inbox_anew),
        ("subscriptions", mailboxes::subscriptions),
        ("metadata", mailboxes::metadata),
        ("counters are raised", mailboxes::counters),
        ("messages are saved", messages::saved),
        ("a UID is given once", messages::uid_conflicts),
        ("the first failure stops the request", messages::stops),
        ("messages are copied", messages::copied),
        ("messages are expunged", messages::expunged),
        ("flags and keywords", messages::flags),
        ("bodies that cannot be read", messages::bodies),
        ("a second replay changes nothing", whole::second_replay),
        ("a dump applied elsewhere gives an equal account", whole::dump_applied),
        ("a large batch", whole::large_batch),
        ("counters are told and raised by a gap", takeover::raised),
        ("accounts without sessions are kicked", takeover::kicked),
        ("the counters of an account without mailboxes", takeover::nothing_to_raise),
    ];
    for (name, case) in cases {
        let mut bench = Bench { store: &mut *store, account: fresh(), other: fresh(), folder, spool, bodies: 0 };
        case(&mut bench).map_err(|why| format!("case `{name}`, account `{}`: {why}", bench.account))?;
    }
    Ok(cases.len())
}

type Case = fn(&mut Bench<'_>) -> Result<(), String>;

/// What a case works with.
pub(super) struct Bench<'a> {
    store: &'a mut dyn Store,
    account: String,
    /// A second account of the case.
    other: String,
    folder: &'a Path,
    spool: &'a Path,
    bodies: usize,
}

impl Bench<'_> {
    /// Writes a body where the store can read it.
    fn body(&mut self, bytes: &[u8]) -> Result<PathBuf, String> {
        self.bodies += 1;
        let path = self.folder.join(format!("body-{}-{}", self.account, self.bodies));
        let tell = |error: std::io::Error| format!("cannot write `{}`: {error}", path.display());
        fs::write(&path, bytes).map_err(tell)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(tell)?;
        Ok(path)
    }

    /// A save of a small message of its own.
    fn save(&mut self, mailbox: u8, name: &str, uid: u32) -> Result<ApplyItem, String> {
        let text = format!("Subject: message {uid} of {mailbox}\nFrom: a@example.test\n\nbody {uid}\n");
        let body_path = Some(self.body(text.as_bytes())?);
        let mut message = message(mailbox, name, uid);
        message.size_physical_bytes = text.len() as u64;
        Ok(ApplyItem { op: Op::MessageSaved { message, snapshot: 0 }, body_path })
    }

    /// Applies to the case's account and wants these statuses.
    fn expect(&mut self, items: &[ApplyItem], wanted: &[Status]) -> Result<(), String> {
        let outcomes = self.store.apply(&self.account, items).map_err(|error| error.to_string())?;
        let got: Vec<Status> = outcomes.iter().map(|outcome| outcome.status).collect();
        if got == wanted {
            return Ok(());
        }
        let told: Vec<_> = outcomes.iter().map(|outcome| format!("{:?} {}", outcome.status, outcome.detail)).collect();
        Err(format!("wanted {wanted:?}, got {told:?}"))
    }

    /// Applies and wants every operation applied.
    fn apply(&mut self, items: &[ApplyItem]) -> Result<(), String> {
        self.expect(items, &vec![Status::Applied; items.len()])
    }

    fn apply_ops(&mut self, ops: &[Op]) -> Result<(), String> {
        self.apply(&plain(ops))
    }

    fn expect_one(&mut self, op: Op, wanted: Status) -> Result<(), String> {
        self.expect(&plain(&[op]), &[wanted])
    }

    fn state(&mut self) -> Result<AccountState, String> {
        let account = self.account.clone();
        self.state_of(&account)
    }

    fn state_of(&mut self, account: &str) -> Result<AccountState, String> {
        let mut ops = Vec::new();
        let options = DumpOptions { messages: true, bodies: false };
        self.store.dump(account, options, &mut |op| ops.push(op)).map_err(|error| error.to_string())?;
        Ok(AccountState::from_ops(ops))
    }
}

fn unknown_account(bench: &mut Bench<'_>) -> Result<(), String> {
    check(!bench.store.version().map_err(|e| e.to_string())?.is_empty(), "an empty version")?;
    bench.account = "nobody-of-this-name".into();
    bench.expect(&plain(&[subscribed("a"), subscribed("b")]), &[Status::UnknownUser, Status::NotTried])?;
    match bench.state() {
        Ok(_) => Err("an unknown account was dumped".into()),
        Err(_) => Ok(()),
    }
}

fn check(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what} is {got:?}, wanted {wanted:?}")) }
}

fn same(left: &AccountState, right: &AccountState) -> Result<(), String> {
    match first_difference(left, right) {
        Some(difference) => Err(difference.to_string()),
        None => check(left.digest() == right.digest(), "equal states with different digests"),
    }
}

fn guid(n: u8) -> MailboxGuid {
    MailboxGuid([n; 16])
}

fn mailbox(n: u8, name: &str) -> Mailbox {
    Mailbox { guid: guid(n), name: name.into(), uid_validity: 1000 + u32::from(n), ..Mailbox::default() }
}

fn created(n: u8, name: &str) -> Op {
    Op::MailboxCreated { mailbox: mailbox(n, name), snapshot: 0 }
}

fn subscribed(name: &str) -> Op {
    Op::Subscribed { name: name.into(), snapshot: 0 }
}

fn plain(ops: &[Op]) -> Vec<ApplyItem> {
    ops.iter().map(|op| ApplyItem { op: op.clone(), body_path: None }).collect()
}

fn message_guid(mailbox: u8, uid: u32) -> String {
    format!("{mailbox:08x}{uid:024x}")
}

/// A message without body; its size is filled in by [`Bench::save`].
fn message(mailbox: u8, name: &str, uid: u32) -> Message {
    Message {
        mailbox: guid(mailbox),
        mailbox_name: name.into(),
        uid_validity: 1000 + u32::from(mailbox),
        uid,
        guid: message_guid(mailbox, uid),
        received_s: 1_600_000_000 + i64::from(uid),
        saved_s: 1_600_000_500,
        flags: flag::SEEN,
        keywords: vec!["$Label1".into(), "urgent".into()],
        modseq: 10 + u64::from(uid),
        ..Message::default()
    }
}

fn names(state: &AccountState) -> BTreeMap<MailboxGuid, String> {
    state.mailboxes.iter().map(|(guid, mailbox)| (*guid, mailbox.name.clone())).collect()
}

fn uids(state: &AccountState, n: u8) -> Vec<u32> {
    state.mailboxes.get(&guid(n)).map(|mailbox| mailbox.messages.keys().copied().collect()).unwrap_or_default()
}
