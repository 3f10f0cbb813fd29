//! Cases about mailboxes, subscriptions and METADATA.

use understudy_types::id::MailboxGuid;
use understudy_types::op::{Mailbox, Op};

use super::{Bench, check, created, equal, guid, mailbox, names, plain, subscribed, uids};
use crate::store::Status;

fn updated(mailbox: Mailbox, snapshot: u64) -> Op {
    Op::MailboxUpdated { mailbox, snapshot }
}

fn renamed(n: u8, old_name: &str, new_name: &str) -> Op {
    Op::MailboxRenamed { guid: guid(n), old_name: old_name.into(), new_name: new_name.into() }
}

fn deleted(n: u8, name: &str) -> Op {
    Op::MailboxDeleted { guid: guid(n), name: name.into() }
}

fn created_twice_is_once(bench: &mut Bench<'_>, op: Op) -> Result<(), String> {
    bench.expect_one(op.clone(), Status::Applied)?;
    bench.expect_one(op, Status::AlreadySo)
}

fn created_names(bench: &mut Bench<'_>) -> Result<Vec<String>, String> {
    Ok(names(&bench.state()?).into_values().collect())
}

pub(super) fn creation(bench: &mut Bench<'_>) -> Result<(), String> {
    created_twice_is_once(bench, created(1, "INBOX"))?;
    created_twice_is_once(bench, created(2, "Work"))?;
    created_twice_is_once(bench, created(3, "Work/A b&ä"))?;
    let state = bench.state()?;
    for (n, name) in [(1, "INBOX"), (2, "Work"), (3, "Work/A b&ä")] {
        let Some(found) = state.mailboxes.get(&guid(n)) else { return Err(format!("`{name}` is missing")) };
        equal("name", found.name.as_str(), name)?;
        equal("UIDVALIDITY", found.uid_validity, 1000 + u32::from(n))?;
        equal("UIDNEXT", found.next_uid, 1)?;
    }
    equal("number of mailboxes", created_names(bench)?.len(), 3)?;
    // Known without a UIDVALIDITY first, which comes later.
    let late = Mailbox { uid_validity: 0, ..mailbox(4, "Late") };
    bench.expect_one(Op::MailboxCreated { mailbox: late, snapshot: 0 }, Status::Applied)?;
    bench.expect_one(updated(mailbox(4, "Late"), 0), Status::Applied)?;
    bench.expect_one(updated(mailbox(4, "Late"), 0), Status::AlreadySo)?;
    equal("late UIDVALIDITY", bench.state()?.mailboxes[&guid(4)].uid_validity, 1004)?;
    // A name that no namespace of the user has, or that no store can have, is refused and harms nothing.
    let outcome = bench.store.apply(&bench.account, &plain(&[created(5, "")])).map_err(|e| e.to_string())?;
    check(!matches!(outcome[0].status, Status::Applied), "a mailbox without a name was made")
}

pub(super) fn adoption(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX"), created(2, "Work")])?;
    bench.expect_one(created(3, "Work"), Status::Applied)?;
    let state = bench.state()?;
    check(!state.mailboxes.contains_key(&guid(2)), "the old identity is still there")?;
    equal("UIDVALIDITY", state.mailboxes[&guid(3)].uid_validity, 1003)?;
    let other_inbox = created(4, "INBOX");
    bench.expect_one(other_inbox, Status::Applied)?;
    equal("UIDVALIDITY of INBOX", bench.state()?.mailboxes[&guid(4)].uid_validity, 1004)?;
    // With a message in it, it keeps its identity.
    let save = bench.save(3, "Work", 1)?;
    bench.apply(&[save])?;
    bench.expect_one(created(5, "Work"), Status::UidConflict)?;
    let contrary = Mailbox { uid_validity: 9, ..mailbox(3, "Work") };
    bench.expect_one(updated(contrary, 0), Status::UidConflict)?;
    equal("UIDVALIDITY", bench.state()?.mailboxes[&guid(3)].uid_validity, 1003)?;
    // One that held messages takes on an identity whose UIDs begin again.
    bench.apply_ops(&[Op::MessageExpunged { mailbox: guid(3), uid: 1, guid: String::new() }])?;
    bench.apply_ops(&[created(6, "Work")])?;
    let save = bench.save(6, "Work", 1)?;
    bench.apply(&[save])?;
    equal("UIDs", uids(&bench.state()?, 6), vec![1])
}

pub(super) fn renaming(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "A"), created(2, "A/b"), created(3, "Ab")])?;
    let save = bench.save(2, "A/b", 1)?;
    bench.apply(&[save])?;
    bench.expect_one(renamed(1, "A", "X"), Status::Applied)?;
    bench.expect_one(renamed(1, "A", "X"), Status::AlreadySo)?;
    let state = bench.state()?;
    equal("name", state.mailboxes[&guid(1)].name.as_str(), "X")?;
    equal("name of the child", state.mailboxes[&guid(2)].name.as_str(), "X/b")?;
    equal("name of another", state.mailboxes[&guid(3)].name.as_str(), "Ab")?;
    equal("messages of the child", uids(&state, 2), vec![1])?;
    bench.expect_one(renamed(9, "none", "Y"), Status::NoMailbox)?;
    bench.expect_one(renamed(1, "X", "X/b"), Status::UidConflict)?;
    // By identity, whatever the old name was.
    bench.expect_one(renamed(2, "some other name", "Z"), Status::Applied)?;
    equal("name", bench.state()?.mailboxes[&guid(2)].name.as_str(), "Z")?;
    // A snapshot's name moves the mailbox, a live operation's does not.
    bench.expect_one(updated(mailbox(2, "Old"), 0), Status::AlreadySo)?;
    bench.expect_one(updated(mailbox(2, "Snap"), 7), Status::Applied)?;
    equal("name", bench.state()?.mailboxes[&guid(2)].name.as_str(), "Snap")
}

pub(super) fn deletion(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX"), created(2, "Gone")])?;
    let save = bench.save(2, "Gone", 4)?;
    bench.apply(&[save])?;
    bench.expect_one(deleted(2, "Gone"), Status::Applied)?;
    bench.expect_one(deleted(2, "Gone"), Status::AlreadySo)?;
    check(!bench.state()?.mailboxes.contains_key(&guid(2)), "the mailbox is still there")?;
    bench.expect_one(Op::MessageExpunged { mailbox: guid(2), uid: 4, guid: String::new() }, Status::NoMailbox)?;
    // The name is free for another, and for the same one again with lower UIDs.
    bench.apply_ops(&[created(3, "Gone"), deleted(3, "Gone"), created(2, "Gone")])?;
    let save = bench.save(2, "Gone", 1)?;
    bench.apply(&[save])?;
    equal("UIDs", uids(&bench.state()?, 2), vec![1])
}

/// A replica whose INBOX has a hole can only make it anew.
pub(super) fn inbox_anew(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX")])?;
    let save = bench.save(1, "INBOX", 5)?;
    bench.apply(&[save])?;
    let low = bench.save(1, "INBOX", 2)?;
    bench.expect(std::slice::from_ref(&low), &[Status::UidConflict])?;
    bench.expect_one(deleted(1, "INBOX"), Status::Applied)?;
    bench.expect_one(created(1, "INBOX"), Status::Applied)?;
    bench.apply(&[low])?;
    let state = bench.state()?;
    equal("UIDs", uids(&state, 1), vec![2])?;
    equal("UIDVALIDITY", state.mailboxes[&guid(1)].uid_validity, 1001)?;
    equal("UIDNEXT", state.mailboxes[&guid(1)].next_uid, 3)
}

pub(super) fn subscriptions(bench: &mut Bench<'_>) -> Result<(), String> {
    // A name needs no mailbox to be subscribed.
    bench.apply_ops(&[subscribed("Work/A"), subscribed("INBOX")])?;
    bench.expect_one(subscribed("INBOX"), Status::AlreadySo)?;
    let un = |name: &str| Op::Unsubscribed { name: name.into() };
    bench.expect_one(un("Work/A"), Status::Applied)?;
    bench.expect_one(un("Work/A"), Status::AlreadySo)?;
    equal("subscriptions", bench.state()?.subscriptions.into_iter().collect::<Vec<_>>(), vec!["INBOX".to_owned()])
}

pub(super) fn metadata(bench: &mut Bench<'_>) -> Result<(), String> {
    let set = |mailbox: Option<MailboxGuid>, private: bool, key: &str, value: Option<&[u8]>| Op::AttributeSet {
        mailbox,
        private,
        key: key.into(),
        value: value.map(<[u8]>::to_vec),
        snapshot: 0,
    };
    bench.apply_ops(&[created(1, "INBOX"), created(2, "Work")])?;
    let comment = set(Some(guid(2)), true, "comment", Some(b"mine \xc3\xa4\r\nand more"));
    bench.expect_one(comment.clone(), Status::Applied)?;
    bench.expect_one(comment, Status::AlreadySo)?;
    bench.apply_ops(&[
        set(Some(guid(2)), false, "comment", Some(b"ours")),
        set(Some(guid(1)), false, "vendor/x/one", Some(b"1")),
        set(None, true, "vendor/x/server", Some(b"all")),
    ])?;
    bench.expect_one(set(Some(guid(2)), false, "comment", Some(b"changed")), Status::Applied)?;
    bench.expect_one(set(Some(guid(1)), false, "vendor/x/one", None), Status::Applied)?;
    bench.expect_one(set(Some(guid(1)), false, "vendor/x/one", None), Status::AlreadySo)?;
    bench.expect_one(set(Some(guid(8)), false, "comment", Some(b"x")), Status::NoMailbox)?;
    bench.expect_one(set(Some(guid(2)), false, "comment", Some(b"a\0b")), Status::Refused)?;
    let state = bench.state()?;
    let attributes: Vec<_> = state.mailboxes[&guid(2)].attributes.clone().into_iter().collect();
    let wanted = vec![
        ((false, "comment".to_owned()), b"changed".to_vec()),
        ((true, "comment".to_owned()), b"mine \xc3\xa4\r\nand more".to_vec()),
    ];
    equal("attributes", attributes, wanted)?;
    check(state.mailboxes[&guid(1)].attributes.is_empty(), "a removed attribute is there")?;
    let server: Vec<_> = state.attributes.into_iter().collect();
    equal("server attributes", server, vec![((true, "vendor/x/server".to_owned()), b"all".to_vec())])
}

pub(super) fn counters(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX")])?;
    let raise = Mailbox { next_uid: 40, highest_modseq: 900, ..mailbox(1, "INBOX") };
    bench.expect_one(updated(raise.clone(), 0), Status::Applied)?;
    bench.expect_one(updated(raise.clone(), 0), Status::AlreadySo)?;
    bench.expect_one(updated(Mailbox { next_uid: 7, highest_modseq: 1, ..raise }, 0), Status::AlreadySo)?;
    let state = bench.state()?;
    equal("UIDNEXT", state.mailboxes[&guid(1)].next_uid, 40)?;
    check(state.mailboxes[&guid(1)].highest_modseq >= 900, "HIGHESTMODSEQ was not raised")?;
    let low = bench.save(1, "INBOX", 39)?;
    bench.expect(&[low], &[Status::UidConflict])?;
    let save = bench.save(1, "INBOX", 40)?;
    bench.apply(&[save])
}
