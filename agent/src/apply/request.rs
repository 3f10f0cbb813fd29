//! One request to the store: what is gathered for it, and its outcomes as counts.
//!
//! Owns: that bodies live until the store has taken them. What can hurt: a store that answers for fewer operations than
//! it was given; nothing of its answer counts then. Refuses: deciding what an outcome means.

use std::collections::{HashMap, HashSet};

use understudy_types::op::{Mailbox, Op};

use super::applier::{ApplyEvent, Tools};
use super::hold::Held;
use super::park::Parked;
use crate::blob::cache::Body;
use crate::clock;
use crate::limits::APPLY_OPS_MAX;
use crate::store::{ApplyItem, Outcome, Status, StoreError};

/// Items on their way to the store, with the bodies that must live until they are there.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: Vec<ApplyItem>,
    pub(super) seqs: Vec<u64>,
    bodies: Vec<Body>,
    /// What is held of it, once what stands before it is in the store.
    pub(super) held: Vec<(u64, Held)>,
    pub(super) stop: Option<Parked>,
}

impl Batch {
    pub(super) fn push(&mut self, seq: u64, item: ApplyItem, body: Option<Body>) {
        self.items.push(item);
        self.seqs.push(seq);
        self.bodies.extend(body);
    }

    /// A UID was given to a message that need not be made any more. One operation for a row of them: each would end
    /// the store's transaction.
    pub(super) fn raise(&mut self, seq: u64, mailbox: Mailbox) {
        if let Some(ApplyItem { op: Op::MailboxUpdated { mailbox: last, .. }, .. }) = self.items.last_mut()
            && last.guid == mailbox.guid
            && last.next_uid != 0
        {
            last.next_uid = last.next_uid.max(mailbox.next_uid);
            last.highest_modseq = last.highest_modseq.max(mailbox.highest_modseq);
            return;
        }
        self.push(seq, ApplyItem { op: Op::MailboxUpdated { mailbox, snapshot: 0 }, body_path: None }, None);
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.seqs.clear();
        self.bodies.clear();
    }
}

/// Whether the operation is done with.
pub(super) fn is_fine(status: Status) -> bool {
    matches!(status, Status::Applied | Status::AlreadySo)
}

/// Applies and reports the outcomes by kind and status; operations that were not tried are not counted.
pub(super) fn apply_counted(
    tools: &mut Tools<'_>,
    account: &str,
    items: &[ApplyItem],
) -> Result<Vec<Outcome>, StoreError> {
    let before = clock::mono();
    let outcomes = tools.store.apply(account, items)?;
    (tools.report)(ApplyEvent::Took { ns: clock::mono().since_ns(before) });
    if outcomes.len() != items.len() {
        return Err(StoreError::Protocol(format!("{} outcomes for {} operations", outcomes.len(), items.len())));
    }
    let mut counts: HashMap<(u16, Status), u64> = HashMap::new();
    for (item, outcome) in items.iter().zip(&outcomes).filter(|(_, outcome)| outcome.status != Status::NotTried) {
        *counts.entry((item.op.kind(), outcome.status)).or_default() += 1;
    }
    for ((kind, status), count) in counts {
        (tools.report)(ApplyEvent::Count { kind, status, count });
    }
    Ok(outcomes)
}

/// Applies operations without bodies, each by itself as far as that goes: one whose mailbox is gone, or whose place is
/// another's, does not stop those after it. What stops them leaves the rest untried.
pub(super) fn apply_each(tools: &mut Tools<'_>, account: &str, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(ops.len());
    let mut gone = HashSet::new();
    while let Some(next) = ops.get(outcomes.len()) {
        if next.mailbox().is_some_and(|guid| gone.contains(&guid)) {
            outcomes.push(Outcome { status: Status::NoMailbox, detail: String::new() });
            continue;
        }
        let some = ops[outcomes.len()..].iter().take(APPLY_OPS_MAX);
        let items: Vec<ApplyItem> = some.map(|op| ApplyItem { op: op.clone(), body_path: None }).collect();
        let tried = apply_counted(tools, account, &items)?.into_iter().take_while(|o| o.status != Status::NotTried);
        let before = outcomes.len();
        outcomes.extend(tried);
        match outcomes.last().map(|outcome| outcome.status) {
            Some(status) if is_fine(status) && outcomes.len() > before => {}
            Some(Status::NoMailbox) => gone.extend(ops[outcomes.len() - 1].mailbox()),
            Some(Status::UidConflict) => {}
            _ => {
                outcomes.resize(ops.len(), Outcome { status: Status::NotTried, detail: String::new() });
                break;
            }
        }
    }
    Ok(outcomes)
}
