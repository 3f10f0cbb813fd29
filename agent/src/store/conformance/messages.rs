//! Cases about messages: UIDs, copies, flags, bodies.

use understudy_types::op::{Op, flag};

use super::{Bench, check, created, equal, guid, message, message_guid, plain, uids};
use crate::store::{ApplyItem, Status};

fn expunge(n: u8, uid: u32) -> Op {
    Op::MessageExpunged { mailbox: guid(n), uid, guid: message_guid(n, uid) }
}

fn set(n: u8, uid: u32, flags: u32, keywords: &[&str], modseq: u64) -> Op {
    let keywords = keywords.iter().map(|&keyword| keyword.to_owned()).collect();
    Op::FlagsSet { mailbox: guid(n), uid, guid: message_guid(n, uid), flags, keywords, modseq }
}

pub(super) fn saved(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX")])?;
    let items = [bench.save(1, "INBOX", 3)?, bench.save(1, "INBOX", 4)?, bench.save(1, "INBOX", 9)?];
    bench.apply(&items)?;
    // Into a mailbox that nobody said was made: a store makes INBOX by itself.
    let unseen = bench.save(2, "Unseen", 6)?;
    bench.apply(&[unseen])?;
    let state = bench.state()?;
    equal("UIDs", uids(&state, 1), vec![3, 4, 9])?;
    equal("UIDs", uids(&state, 2), vec![6])?;
    equal("UIDVALIDITY", state.mailboxes[&guid(2)].uid_validity, 1002)?;
    equal("UIDNEXT", state.mailboxes[&guid(1)].next_uid, 10)?;
    for uid in [3, 4, 9] {
        let (got, wanted) = (&state.mailboxes[&guid(1)].messages[&uid], message(1, "INBOX", uid));
        equal("GUID", &got.guid, &wanted.guid)?;
        equal("flags", got.flags, wanted.flags)?;
        equal("keywords", &got.keywords, &wanted.keywords)?;
        equal("INTERNALDATE", got.received_s, wanted.received_s)?;
        equal("save date", got.saved_s, wanted.saved_s)?;
        check(got.modseq >= wanted.modseq, "the modification sequence is too low")?;
        let text = format!("Subject: message {uid} of 1\nFrom: a@example.test\n\nbody {uid}\n");
        equal("size", got.size_virtual_bytes, (text.len() + text.matches('\n').count()) as u64)?;
    }
    bench.expect(&items, &[Status::AlreadySo; 3])
}

pub(super) fn uid_conflicts(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX")])?;
    let items = [bench.save(1, "INBOX", 5)?, bench.save(1, "INBOX", 8)?];
    bench.apply(&items)?;
    let hole = bench.save(1, "INBOX", 6)?;
    bench.expect(&[hole], &[Status::UidConflict])?;
    let mut other = bench.save(1, "INBOX", 8)?;
    if let Op::MessageSaved { message, .. } = &mut other.op {
        message.guid = message_guid(1, 77);
    }
    bench.expect(&[other], &[Status::UidConflict])?;
    bench.apply_ops(&[expunge(1, 5)])?;
    // What was here and went is a replay, not a hole.
    bench.expect(&items, &[Status::AlreadySo; 2])?;
    equal("UIDs", uids(&bench.state()?, 1), vec![8])
}

pub(super) fn stops(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX"), created(2, "Work")])?;
    let mut items = vec![bench.save(1, "INBOX", 1)?, bench.save(1, "INBOX", 2)?, bench.save(1, "INBOX", 3)?];
    items[1].body_path = Some(bench.folder.join("not-there"));
    items.extend(plain(&[super::subscribed("Work")]));
    let wanted = [Status::Applied, Status::BodyUnreadable, Status::NotTried, Status::NotTried];
    bench.expect(&items, &wanted)?;
    let state = bench.state()?;
    equal("UIDs", uids(&state, 1), vec![1])?;
    check(state.subscriptions.is_empty(), "an operation after the failure was applied")?;
    // What failed can be sent again.
    items[1] = bench.save(1, "INBOX", 2)?;
    bench.expect(&items, &[Status::AlreadySo, Status::Applied, Status::Applied, Status::Applied])?;
    equal("UIDs", uids(&bench.state()?, 1), vec![1, 2, 3])
}

pub(super) fn copied(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX"), created(2, "Work")])?;
    let save = bench.save(1, "INBOX", 1)?;
    let source = message(1, "INBOX", 1);
    let copy = |n: u8, uid: u32, from: u32, guid: &str| {
        let mut message = message(n, if n == 1 { "INBOX" } else { "Work" }, uid);
        message.guid = guid.to_owned();
        message.flags = flag::FLAGGED;
        message.received_s = source.received_s;
        Op::MessageCopied { message, source: super::guid(1), source_uid: from, moved: false }
    };
    let mut items = vec![save];
    // In one request with its source, into another mailbox and into the same one.
    items.extend(plain(&[copy(2, 4, 1, &source.guid), copy(1, 7, 1, &source.guid)]));
    bench.apply(&items)?;
    bench.expect(&items, &[Status::AlreadySo; 3])?;
    let state = bench.state()?;
    for (n, uid) in [(2, 4), (1, 7)] {
        let got = &state.mailboxes[&guid(n)].messages[&uid];
        equal("GUID", &got.guid, &source.guid)?;
        equal("flags", got.flags, flag::FLAGGED)?;
        equal("INTERNALDATE", got.received_s, source.received_s)?;
        equal("keywords", &got.keywords, &source.keywords)?;
        equal("size", got.size_virtual_bytes, state.mailboxes[&guid(1)].messages[&1].size_virtual_bytes)?;
    }
    let lost = copy(2, 6, 3, &message_guid(1, 3));
    bench.expect_one(lost.clone(), Status::SourceMissing)?;
    let body_path = Some(bench.body(b"Subject: x\n\nfrom the body\n")?);
    bench.apply(&[ApplyItem { op: lost, body_path }])?;
    equal("UIDs", uids(&bench.state()?, 2), vec![4, 6])
}

pub(super) fn expunged(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX")])?;
    let items = [bench.save(1, "INBOX", 1)?, bench.save(1, "INBOX", 2)?, bench.save(1, "INBOX", 3)?];
    bench.apply(&items)?;
    bench.expect(&plain(&[expunge(1, 1), expunge(1, 3)]), &[Status::Applied; 2])?;
    bench.expect(&plain(&[expunge(1, 1), expunge(1, 3), expunge(1, 50)]), &[Status::AlreadySo; 3])?;
    let other = Op::MessageExpunged { mailbox: guid(1), uid: 2, guid: message_guid(1, 9) };
    bench.expect_one(other, Status::UidConflict)?;
    bench.expect_one(expunge(7, 1), Status::NoMailbox)?;
    let state = bench.state()?;
    equal("UIDs", uids(&state, 1), vec![2])?;
    equal("UIDNEXT", state.mailboxes[&guid(1)].next_uid, 4)
}

pub(super) fn flags(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX")])?;
    let items = [bench.save(1, "INBOX", 1)?, bench.save(1, "INBOX", 2)?];
    bench.apply(&items)?;
    let all = set(1, 1, flag::ALL, &["a", "b"], 100);
    bench.expect_one(all.clone(), Status::Applied)?;
    bench.expect_one(all, Status::AlreadySo)?;
    // The second restores the keywords that are committed: a store that compares with those would drop it.
    bench.apply_ops(&[set(1, 1, 0, &[], 101), set(1, 1, 0, &["a", "b"], 102), set(1, 2, flag::DRAFT, &["b"], 103)])?;
    let state = bench.state()?;
    let message = &state.mailboxes[&guid(1)].messages[&1];
    equal("flags", message.flags, 0)?;
    equal("keywords", &message.keywords, &vec!["a".to_owned(), "b".to_owned()])?;
    check(message.modseq >= 102, "the modification sequence is too low")?;
    equal("flags", state.mailboxes[&guid(1)].messages[&2].flags, flag::DRAFT)?;
    bench.apply_ops(&[expunge(1, 1)])?;
    bench.expect_one(set(1, 1, 0, &[], 110), Status::AlreadySo)?;
    bench.expect_one(set(1, 9, 0, &[], 110), Status::UidConflict)?;
    bench.expect_one(set(7, 1, 0, &[], 110), Status::NoMailbox)?;
    check(!bench.state()?.mailboxes.contains_key(&guid(7)), "flags made a mailbox")
}

pub(super) fn bodies(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX")])?;
    let good = bench.save(1, "INBOX", 1)?;
    let folder = ApplyItem { body_path: Some(bench.folder.to_owned()), ..good.clone() };
    let mut size = good.clone();
    if let Op::MessageSaved { message, .. } = &mut size.op {
        message.size_physical_bytes += 1;
    }
    for bad in [ApplyItem { body_path: None, ..good.clone() }, folder, size] {
        bench.expect(&[bad], &[Status::BodyUnreadable])?;
        equal("UIDs", uids(&bench.state()?, 1), vec![])?;
    }
    bench.apply(&[good])?;
    // Bytes that line-ended formats find hard: no last line end, CRLF, NUL-free binary, a From line, nothing at all.
    let hard: [&[u8]; 5] = [b"no end", b"A: b\r\n\r\nx\r\n", b"\xff\xfe\n\n\x80", b"From me\n\nFrom you\n", b""];
    for (n, bytes) in hard.iter().enumerate() {
        let uid = 10 + u32::try_from(n).unwrap_or(0);
        let body_path = Some(bench.body(bytes)?);
        let message = message(1, "INBOX", uid);
        bench.apply(&[ApplyItem { op: Op::MessageSaved { message, snapshot: 0 }, body_path }])?;
        // As a client sees it; a store may keep other line ends than it was given.
        let lone = bytes.iter().enumerate().filter(|&(at, b)| *b == b'\n' && (at == 0 || bytes[at - 1] != b'\r'));
        let wanted = bytes.len() + lone.count();
        let got = bench.state()?.mailboxes[&guid(1)].messages[&uid].size_virtual_bytes;
        equal("size", got, wanted as u64)?;
    }
    Ok(())
}
