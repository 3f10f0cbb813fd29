//! Cases about failover: counters that jump over what another node may have given, sessions that end.
//!
//! Owns: what can be seen without a client; how a session ends is not a case here.

use understudy_types::op::{Mailbox, Op};

use super::{Bench, check, created, equal, guid, message_guid, names, subscribed, uids};
use crate::store::{MailboxMark, RaiseGap, Status};

const GAP: RaiseGap = RaiseGap { uid: 1000, modseq: 100_000 };

fn raise(bench: &mut Bench<'_>, gap: RaiseGap) -> Result<Vec<MailboxMark>, String> {
    bench.store.raise(&bench.account, gap).map_err(|error| error.to_string())
}

pub(super) fn raised(bench: &mut Bench<'_>) -> Result<(), String> {
    let directory = Mailbox { name: "Folder".into(), directory: true, ..Mailbox::default() };
    bench.apply_ops(&[created(1, "INBOX"), created(2, "Work"), created(3, "Work/\u{e4} Sub"), subscribed("Work")])?;
    // Maildir has no directories that hold no mail; whatever a store makes of it, it has no counters.
    bench
        .store
        .apply(&bench.account, &super::plain(&[Op::MailboxCreated { mailbox: directory, snapshot: 0 }]))
        .map_err(|error| error.to_string())?;
    let items = [bench.save(1, "INBOX", 3)?, bench.save(1, "INBOX", 7)?, bench.save(2, "Work", 40)?];
    bench.apply(&items)?;
    bench.apply_ops(&[Op::MessageExpunged { mailbox: guid(1), uid: 7, guid: message_guid(1, 7) }])?;
    let before = bench.state()?;

    let read = raise(bench, RaiseGap::default())?;
    check(before == bench.state()?, "reading the counters changed the account")?;
    equal("names", read.iter().map(|m| (m.guid, m.name.clone())).collect(), names(&before))?;
    check(read.is_sorted_by(|a, b| a.name < b.name), "the mailboxes are not in the order of their names")?;
    for mark in &read {
        let state = &before.mailboxes[&mark.guid];
        equal("UIDVALIDITY", mark.uid_validity, state.uid_validity)?;
        equal("UIDNEXT", mark.next_uid, state.next_uid)?;
        equal("HIGHESTMODSEQ", mark.highest_modseq, state.highest_modseq)?;
    }
    equal("marks of the raise", raise(bench, GAP)?, read.clone())?;

    let after = bench.state()?;
    for mark in &read {
        let state = &after.mailboxes[&mark.guid];
        equal("UIDVALIDITY", state.uid_validity, mark.uid_validity)?;
        equal("UIDNEXT", state.next_uid, mark.next_uid + GAP.uid)?;
        check(state.highest_modseq >= mark.highest_modseq + GAP.modseq, "HIGHESTMODSEQ was not raised")?;
        equal("messages", &state.messages, &before.mailboxes[&mark.guid].messages)?;
    }
    let low = bench.save(1, "INBOX", 8 + GAP.uid - 1)?;
    bench.expect(&[low], &[Status::UidConflict])?;
    let next = bench.save(1, "INBOX", 8 + GAP.uid)?;
    bench.apply(&[next])?;
    equal("UIDs", uids(&bench.state()?, 1), vec![3, 8 + GAP.uid])?;

    // Once more: from where they are now.
    let again = raise(bench, RaiseGap { uid: 1, modseq: 0 })?;
    equal("UIDNEXT", again.iter().map(|m| m.next_uid).max(), Some(41 + GAP.uid))?;
    let end = RaiseGap { uid: u32::MAX - 10, modseq: 0 };
    check(raise(bench, end).is_err_and(|why| why.contains("near their end")), "counters were raised past their end")?;
    bench.account = "nobody-of-this-name".into();
    check(raise(bench, GAP).is_err(), "the counters of an unknown account were raised")
}

pub(super) fn nothing_to_raise(bench: &mut Bench<'_>) -> Result<(), String> {
    equal("marks", raise(bench, GAP)?, vec![])?;
    check(bench.state()?.mailboxes.is_empty(), "raising the counters made a mailbox")
}

pub(super) fn kicked(bench: &mut Bench<'_>) -> Result<(), String> {
    bench.apply_ops(&[created(1, "INBOX")])?;
    let mut many: Vec<String> = (0..20_000).map(|n| format!("nobody-{n}")).collect();
    many.push(bench.account.clone());
    many.push(bench.other.clone());
    for accounts in [&many[..], &many[..1], &[]] {
        equal("sessions", bench.store.kick(accounts).map_err(|error| error.to_string())?, 0)?;
    }
    // The store itself has gone on.
    bench.apply_ops(&[subscribed("INBOX")])
}
