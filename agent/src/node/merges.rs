//! Merges of this node's own changes, as the event loop sees them: begun, told of, ended.
//!
//! Owns: which group waits for which merge. What can hurt: following before the merge is done would put aside what only
//! this node has; so a group stays in its stage until the merge says that it is done. Refuses: merging; `merge` does.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender};
use understudy_types::id::{Epoch, GroupId, NodeId};

use super::core::Core;
use super::query::Query;
use crate::coordinator::record::Cause;
use crate::merge::{MergeEvent, Merger, Order};

/// What is under way, and what is done.
pub(super) struct Merges {
    merger: Arc<Merger>,
    /// The active and the epoch that a group is merged towards.
    under_way: BTreeMap<GroupId, (NodeId, Epoch)>,
    done: BTreeMap<GroupId, Epoch>,
    /// Accounts that cannot be merged now, and why.
    pub waiting: BTreeMap<String, String>,
}

impl Merges {
    pub(super) fn new(merger: Arc<Merger>) -> Self {
        Self { merger, under_way: BTreeMap::new(), done: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    /// Groups that are being merged.
    pub(super) fn under_way(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.under_way.keys().copied()
    }

    /// The group has another role now.
    pub(super) fn cancel(&mut self, group: GroupId) {
        if self.under_way.remove(&group).is_some() {
            self.merger.cancel(group);
        }
    }
}

/// Hands what the merger tells to the event loop.
///
/// # Errors
/// When no thread can be made.
pub(super) fn forward(events: Receiver<MergeEvent>, queries: Sender<Query>) -> std::io::Result<()> {
    let work = move || {
        while let Ok(event) = events.recv() {
            if queries.send(Query::Merged(event)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("merge-told".into()).spawn(work).map(drop)
}

impl Core {
    /// Whether changes that only this node has must go to the active before it follows.
    pub(super) fn must_merge(&self, group: GroupId) -> bool {
        let Some(standing) = self.roles.groups.get(&group) else { return false };
        let record = &standing.desired.record;
        let Some(stood) = self.roles.stood.get(group) else { return false };
        if !self.roles.is_shared() || stood.epoch >= record.epoch {
            return false;
        }
        let tail = self.reader.tail(group);
        let planned = record.cause == Cause::Switchover && record.before == Some(self.node.get());
        let same = record
            .base
            .as_ref()
            .is_some_and(|base| base.sequence == tail.sequence.0 && base.hash == hex::encode(tail.hash));
        // A planned move left nothing behind; after anything else the store itself is looked at.
        let done = self.roles.merges.done.get(&group).is_some_and(|done| *done >= record.epoch());
        !(planned && same) && !done
    }

    /// Begins to merge a group, unless that is under way.
    pub(super) fn merge(&mut self, group: GroupId) {
        let Some(standing) = self.roles.groups.get(&group) else { return };
        let record = standing.desired.record.clone();
        let (Some(active), Some(was)) = (record.active(), self.roles.stood.get(group).map(|stood| stood.epoch()))
        else {
            return;
        };
        let towards = (active, record.epoch());
        if self.roles.merges.under_way.get(&group) == Some(&towards) {
            return;
        }
        let accounts = self.names_of(group);
        tracing::warn!(group = group.0, accounts = accounts.len(), "what only this node has goes to the active first");
        let peers = record.replicas().into_iter().filter(|node| *node != self.node).collect();
        self.roles.merges.under_way.insert(group, towards);
        self.roles.merges.merger.begin(Order { group, was, epoch: record.epoch(), active, peers, accounts });
    }

    /// How a merge goes.
    pub(super) fn merge_event(&mut self, event: MergeEvent) {
        match event {
            MergeEvent::Account { account, brought, conflicts, .. } => {
                self.roles.merges.waiting.remove(&account);
                if brought + conflicts > 0 {
                    tracing::warn!(
                        account,
                        brought,
                        conflicts,
                        "the account was merged; `understudy merge list` has more"
                    );
                }
            }
            MergeEvent::Waiting { account, why, .. } => {
                tracing::warn!(account, why, "the account cannot be merged yet; it is tried again");
                self.roles.merges.waiting.insert(account, why);
            }
            MergeEvent::Done { group, epoch, accounts, brought, conflicts } => {
                tracing::info!(group = group.0, epoch = epoch.0, accounts, brought, conflicts, "the group was merged");
                self.roles.merges.under_way.remove(&group);
                self.roles.merges.done.insert(group, epoch);
                self.roles.moving.insert(group);
            }
        }
    }
}
