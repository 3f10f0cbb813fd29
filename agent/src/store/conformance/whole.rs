//! Cases about whole accounts: replay twice, dump here and apply there, many at once.

use std::collections::BTreeMap;

use understudy_types::id::BlobId;
use understudy_types::op::{Op, flag};

use super::{Bench, check, created, equal, guid, message, message_guid, plain, same, subscribed, uids};
use crate::digest::AccountState;
use crate::store::{ApplyItem, DumpOptions, Status};

/// A bit of everything, in an order in which it could have happened.
fn history(bench: &mut Bench<'_>) -> Result<Vec<ApplyItem>, String> {
    let mut items = plain(&[created(1, "INBOX"), created(2, "Work"), created(3, "Work/Sub"), subscribed("Work")]);
    for uid in [1, 2, 5, 6] {
        items.push(bench.save(1, "INBOX", uid)?);
    }
    items.push(bench.save(3, "Work/Sub", 7)?);
    let mut copy = message(2, "Work", 3);
    copy.guid = message_guid(1, 2);
    copy.received_s = message(1, "INBOX", 2).received_s;
    items.extend(plain(&[
        Op::MessageCopied { message: copy, source: guid(1), source_uid: 2, moved: true },
        Op::MessageExpunged { mailbox: guid(1), uid: 2, guid: message_guid(1, 2) },
        Op::FlagsSet {
            mailbox: guid(1),
            uid: 5,
            guid: message_guid(1, 5),
            flags: flag::ANSWERED | flag::DELETED,
            keywords: vec!["later".into()],
            modseq: 200,
        },
        Op::AttributeSet {
            mailbox: Some(guid(2)),
            private: true,
            key: "comment".into(),
            value: Some(b"text".to_vec()),
            snapshot: 0,
        },
    ]));
    Ok(items)
}

pub(super) fn second_replay(bench: &mut Bench<'_>) -> Result<(), String> {
    let items = history(bench)?;
    bench.apply(&items)?;
    let first = bench.state()?;
    equal("UIDs", uids(&first, 1), vec![1, 5, 6])?;
    bench.expect(&items, &vec![Status::AlreadySo; items.len()])?;
    let second = bench.state()?;
    same(&first, &second)?;
    // Modification sequences, too: what changes nothing must not look like a change to a client.
    check(first == second, "a second replay changed the state")
}

pub(super) fn dump_applied(bench: &mut Bench<'_>) -> Result<(), String> {
    let items = history(bench)?;
    bench.apply(&items)?;
    bench.apply_ops(&[Op::MailboxUpdated {
        mailbox: understudy_types::op::Mailbox { next_uid: 50, highest_modseq: 700, ..super::mailbox(2, "Work") },
        snapshot: 0,
    }])?;
    let mut ops = Vec::new();
    let options = DumpOptions { messages: true, bodies: true };
    bench.store.dump(&bench.account, options, &mut |op| ops.push(op)).map_err(|error| error.to_string())?;
    let source = AccountState::from_ops(ops.clone());
    let mut copies = Vec::new();
    for op in ops {
        let body_path = op.blob().map(|blob| bench.spool.join(blob.to_string()));
        if let (Op::MessageSaved { message, .. }, Some(path)) = (&op, &body_path) {
            let body = std::fs::read(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
            equal("BLAKE3 of the body", message.blob, Some(BlobId(*blake3::hash(&body).as_bytes())))?;
            equal("size of the body", body.len() as u64, message.size_physical_bytes)?;
        }
        copies.push(ApplyItem { op, body_path });
    }
    let other = bench.other.clone();
    let outcomes = bench.store.apply(&other, &copies).map_err(|error| error.to_string())?;
    let mut counted: BTreeMap<Status, usize> = BTreeMap::new();
    for outcome in &outcomes {
        *counted.entry(outcome.status).or_default() += 1;
    }
    check(counted.keys().all(|s| matches!(s, Status::Applied | Status::AlreadySo)), &format!("{outcomes:?}"))?;
    let there = bench.state_of(&other)?;
    same(&source, &there)?;
    equal("UIDNEXT", there.mailboxes[&guid(2)].next_uid, 50)?;
    // Once more, over what is there: nothing is left to do.
    let again = bench.store.apply(&other, &copies).map_err(|error| error.to_string())?;
    check(again.iter().all(|outcome| outcome.status == Status::AlreadySo), &format!("{again:?}"))?;
    same(&source, &bench.state_of(&other)?)
}

pub(super) fn large_batch(bench: &mut Bench<'_>) -> Result<(), String> {
    let mut items = plain(&[created(1, "INBOX")]);
    let first = bench.save(1, "INBOX", 1)?;
    for uid in 1..=400 {
        let mut item = first.clone();
        if let Op::MessageSaved { message: saved, .. } = &mut item.op {
            let size_physical_bytes = saved.size_physical_bytes;
            *saved = message(1, "INBOX", uid);
            saved.size_physical_bytes = size_physical_bytes;
        }
        items.push(item);
    }
    for uid in 1..=400 {
        items.push(ApplyItem {
            op: match uid % 2 {
                0 => Op::MessageExpunged { mailbox: guid(1), uid, guid: message_guid(1, uid) },
                _ => Op::FlagsSet {
                    mailbox: guid(1),
                    uid,
                    guid: message_guid(1, uid),
                    flags: flag::FLAGGED,
                    keywords: vec![],
                    modseq: 1000 + u64::from(uid),
                },
            },
            body_path: None,
        });
    }
    bench.apply(&items)?;
    let state = bench.state()?;
    equal("messages", state.message_count(), 200)?;
    check(state.mailboxes[&guid(1)].messages.values().all(|m| m.flags == flag::FLAGGED), "flags are missing")
}
