//! One account that is merged into its active.
//!
//! Owns: the order of the steps. Compare; ask where the histories parted; plan; write the report; put missing bodies
//! into central storage; have the active merge; and plan again: the account is done when nothing is left to be planned.
//! What can hurt: a crash anywhere; every step may be repeated. Refuses: trying again; [`super::run`] does.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::{BlobId, NodeId};
use understudy_types::op::Op;

use super::queue::Job;
use super::report::{Count, Report};
use super::run::{Order, Shared, locked};
use super::wire::{self, Merged, kind};
use super::{ForkState, MergePlan, plan, target};
use crate::blob::upload;
use crate::clock;
use crate::digest::AccountState;
use crate::limits::{MERGE_BYTES_MAX, MERGE_FORK_TRIES, MERGE_OPS_MAX, MERGE_ROUNDS_MAX};
use crate::store::{DumpOptions, Store};

/// One account being merged.
pub(super) struct Account<'a> {
    shared: &'a Shared,
    order: &'a Order,
    job: &'a Job,
    store: Box<dyn Store>,
}

impl<'a> Account<'a> {
    pub(super) fn new(shared: &'a Shared, order: &'a Order, job: &'a Job) -> Self {
        Self { shared, order, job, store: (shared.tools.connect)() }
    }

    fn name(&self) -> &'a str {
        &self.job.account
    }

    pub(super) fn merge(mut self) -> Result<Count, String> {
        let mut own = self.dump(false)?;
        let content = self.ask(self.order.active, kind::CONTENT, self.name().as_bytes().to_vec())?;
        if content == target::content(own.clone()) {
            return Ok(self.count());
        }
        let fork = self.fork()?;
        let mut left = String::new();
        for _ in 0..MERGE_ROUNDS_MAX {
            let state = self.ask(self.order.active, kind::STATE, wire::put_account(0, self.name()))?;
            let active = AccountState::from_ops(wire::take_ops(&state)?);
            let mut planned = plan(&own, &active, &fork);
            self.tell(&planned)?;
            if planned.items.is_empty() {
                return Ok(self.count());
            }
            left = describe(&planned.items[0]);
            self.bodies(&mut planned)?;
            self.send(&planned.items)?;
            // What was made there in this merge is another history, even if its new UIDVALIDITY happens to be the old
            // one: Dovecot counts them in seconds, and one made and deleted within them may be given its own again.
            for op in &planned.items {
                if let Op::MailboxCreated { mailbox, .. } = op
                    && let Some(mailbox) = own.mailboxes.get_mut(&mailbox.guid)
                {
                    mailbox.uid_validity = 0;
                }
            }
        }
        Err(format!("its active does not become whole: {left} is still missing"))
    }

    fn dump(&mut self, bodies: bool) -> Result<AccountState, String> {
        let options = DumpOptions { messages: true, bodies };
        target::dump(self.store.as_mut(), &self.job.account, options)
            .map_err(|error| format!("this node's store: {error}"))
    }

    fn ask(&self, peer: NodeId, kind: u16, body: Vec<u8>) -> Result<Vec<u8>, String> {
        self.shared.tools.peers.ask(peer, kind, body)
    }

    /// Where the histories parted: what the first promotion after this node's own epoch kept. Another one's says
    /// nothing: it knows messages of the node in between, and would take UIDs of this one for known.
    fn fork(&self) -> Result<ForkState, String> {
        let mut away = String::new();
        for peer in std::iter::once(&self.order.active).chain(&self.order.peers) {
            let asked = self.ask(*peer, kind::FORK, wire::put_account(self.order.was.0, self.name()));
            match asked.and_then(|body| wire::take_fork(&body)) {
                Ok(Some((epoch, marks))) if epoch.0 == self.order.was.0 + 1 => return Ok(ForkState::of(epoch, marks)),
                Ok(_) => {}
                Err(why) => away = why,
            }
        }
        if !away.is_empty() && self.job.failed < MERGE_FORK_TRIES {
            return Err(format!("where the histories parted is not known yet: {away}"));
        }
        Ok(ForkState::default())
    }

    fn count(&self) -> Count {
        let reports = locked(&self.shared.reports);
        reports
            .get(&(self.order.group, self.order.epoch))
            .map_or_else(Count::default, |report| report.count(self.name()))
    }

    /// Writes findings down, and logs conflicts that are new.
    fn tell(&self, planned: &MergePlan) -> Result<(), String> {
        let (group, epoch) = (self.order.group, self.order.epoch);
        let failed = |error: std::io::Error| format!("the report cannot be written: {error}");
        let mut reports = locked(&self.shared.reports);
        let report = match reports.entry((group, epoch)) {
            std::collections::btree_map::Entry::Occupied(slot) => slot.into_mut(),
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(Report::open(&self.shared.tools.directory, group, epoch).map_err(failed)?)
            }
        };
        let new = report.add(self.name(), &planned.report, clock::wall_ns()).map_err(failed)?;
        drop(reports);
        for found in new.iter().filter(|found| found.what.is_conflict()) {
            tracing::warn!(
                group = group.0,
                account = self.name(),
                what = found.what.name(),
                mailbox = found.mailbox,
                object = found.object,
                here = found.here,
                there = found.there,
                decision = found.decision,
                "a conflict in a merge"
            );
        }
        Ok(())
    }

    /// Names the bodies of the messages that are brought, and has them in central storage. What else the dump put into
    /// the spool goes there, too: central storage has most of it, and then it costs a look.
    fn bodies(&mut self, planned: &mut MergePlan) -> Result<(), String> {
        if planned.messages() == 0 {
            return Ok(());
        }
        let with = self.dump(true)?;
        let mut bodies: BTreeMap<&str, (BlobId, u64)> = BTreeMap::new();
        for message in with.mailboxes.values().flat_map(|mailbox| mailbox.messages.values()) {
            if let Some(blob) = message.blob {
                bodies.insert(&message.guid, (blob, message.size_physical_bytes));
            }
        }
        let mut needed = BTreeSet::new();
        for op in &mut planned.items {
            if let Op::MessageSaved { message, .. } = op {
                let Some((blob, bytes)) = bodies.get(message.guid.as_str()) else {
                    return Err(format!("the body of message {} cannot be had from this node's store", message.guid));
                };
                (message.blob, message.size_physical_bytes) = (Some(*blob), *bytes);
                needed.insert(*blob);
            }
        }
        needed.iter().try_for_each(|blob| self.upload(*blob))?;
        for (blob, _) in bodies.into_values().filter(|(blob, _)| !needed.contains(blob)) {
            // Tried again when the agent starts.
            let _ = self.upload(blob);
        }
        Ok(())
    }

    fn upload(&self, blob: BlobId) -> Result<(), String> {
        let tools = &self.shared.tools;
        match upload::upload(&tools.spool, tools.storage.as_ref(), blob) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(format!("body {blob} is neither in the spool nor in central storage")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Gives the items to the active, a bounded number at a time.
    fn send(&self, items: &[Op]) -> Result<(), String> {
        let mut rest = items;
        while !rest.is_empty() {
            let (mut row, mut taken) = (Vec::new(), 0);
            for op in rest.iter().take(MERGE_OPS_MAX) {
                let before = row.len();
                wire::put_op(&mut row, op);
                if taken > 0 && row.len() > MERGE_BYTES_MAX {
                    row.truncate(before);
                    break;
                }
                taken += 1;
            }
            let body = wire::put_merge(self.order.epoch, self.name(), &row);
            let answer = self.ask(self.order.active, kind::MERGE, body)?;
            let merged: Merged = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
            if let Some(failed) = merged.failed {
                return Err(format!("its active cannot merge it: {failed}"));
            }
            rest = &rest[taken..];
        }
        Ok(())
    }
}

fn describe(op: &Op) -> String {
    let kind = Op::kind_name(op.kind());
    match op {
        Op::MessageSaved { message, .. } => format!("{kind} of {} in `{}`", message.guid, message.mailbox_name),
        Op::FlagsSet { guid, .. } => format!("{kind} of {guid}"),
        Op::MailboxCreated { mailbox, .. } => format!("{kind} of `{}`", mailbox.name),
        Op::MailboxRenamed { new_name, .. } => format!("{kind} to `{new_name}`"),
        Op::AttributeSet { key, .. } => format!("{kind} of `{key}`"),
        Op::Subscribed { name, .. } => format!("{kind} of `{name}`"),
        _ => kind.to_owned(),
    }
}
