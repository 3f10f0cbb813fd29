//! Opening a group's stream on the node that becomes its active: after a start, a planned move, or a promotion.
//!
//! Owns: the order. The node before is fenced, what was accepted from it is durable and applied, that this node stands
//! for the group is durable, and only then its stream goes on here; after a promotion each account is raised before its
//! first client. What can hurt: replaying what was captured from this very store. Refuses: deciding who is active.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use understudy_types::id::{GroupId, NodeId, Sequence};
use understudy_types::op::{Mailbox, Op};

use super::core::{Core, Own};
use super::raise::Raised;
use super::roles::Stage;
use crate::batch::GroupBatch;
use crate::clock;
use crate::coordinator::record::{Cause, GroupRecord};
use crate::ship::ShipEvent;

impl Core {
    /// A group that nobody else was active for since: nothing is to be fenced, applied or raised.
    pub(super) fn may_open_at_once(&self, group: GroupId) -> bool {
        let Some(standing) = self.roles.groups.get(&group) else { return false };
        let record = &standing.desired.record;
        !self.roles.is_shared()
            || self.roles.stood.get(group).is_some_and(|stood| stood.epoch == record.epoch)
            || (record.epoch == 1 && record.cause == Cause::Placement)
    }

    /// Fences the node before, and looks whether all that was accepted from it is durable and applied.
    pub(super) fn has_taken_over(&mut self, group: GroupId) -> bool {
        let Some(standing) = self.roles.groups.get_mut(&group) else { return false };
        let epoch = standing.desired.record.epoch();
        let first = self.receiver.positions(group).is_some_and(|at| at.epoch < epoch);
        standing.fence_due |= first;
        let idle = self.receiver.take_over(group, self.node, epoch)
            && !self.unsent.iter().any(|(frame, _)| frame.header().group == group);
        let tail = self.reader.tail(group).sequence.0;
        let applied = self.board.lock().applied.get(&group).copied().unwrap_or(0);
        if idle && applied < tail {
            self.workers.wake(group);
        }
        idle && applied >= tail && self.are_holds_settled(group)
    }

    /// Opens the group's stream here.
    pub(super) fn open_own(&mut self, group: GroupId) -> Option<Stage> {
        let standing = self.roles.groups.get(&group)?;
        let record = standing.desired.record.clone();
        let is_news = self.roles.stood.get(group).is_none_or(|stood| stood.epoch < record.epoch);
        self.roles.stood.put(group, &record);
        if let Err(error) = self.roles.stood.save() {
            tracing::error!(group = group.0, %error, "cannot note that this node stands for the group; it is not served");
            return None;
        }
        if is_news {
            let to = &self.metrics.failover;
            match record.cause {
                Cause::Failover | Cause::Forced => to.promotions.inc(),
                Cause::Switchover => to.switchovers.inc(),
                Cause::Placement => 0,
            };
        }
        let tail = self.reader.tail(group);
        let first = self.reader.group(group).map_or(Sequence(0), |state| state.first);
        let generation = self.capture.generation;
        let ring = self.recovered.groups.get(&group).map(|state| state.ring.clone()).unwrap_or_default();
        let replicas = record.replicas();
        self.own.insert(
            group,
            Own {
                batch: GroupBatch::new(self.cluster, self.node, group, record.epoch(), tail),
                journaled: tail.sequence.0,
                told: tail.sequence,
                inherited: tail.sequence.0,
                replicas: replicas.clone(),
                acked: BTreeMap::new(),
                acks: super::acks::Acks::default(),
                in_flight: std::collections::VecDeque::new(),
                ring_journaled: ring.iter().find(|(of, _)| *of == generation).map(|(_, index)| *index),
            },
        );
        self.receiver.close(group);
        self.lost_groups.remove(&group);
        if self.roles.is_shared() {
            // After a restart the cursor stands where this node was a replica last. What came after was captured from
            // the store here: replayed, an old snapshot would take away what is newer (seen: an empty INBOX).
            self.workers.rebase(group, tail.sequence.0);
            self.workers.stand(group, tail.sequence.0);
        }
        let names = self.names_of(group);
        self.assume_copies(group, &record, &names);
        self.ship(ShipEvent::Opened { group, epoch: record.epoch(), first, tail, replicas: replicas.clone() });
        for peer in replicas {
            if let Some((link, position)) = self.roles.early.remove(&(group, peer)) {
                self.ship(ShipEvent::Positions { peer, link, positions: vec![position] });
            }
        }
        self.begin_opening(group, &record, &names);
        names.iter().for_each(|account| self.seen(account));
        self.take_up_debts(group);
        Some(Stage::Active)
    }

    /// After a promotion every account is raised before its first client.
    pub(super) fn begin_opening(&mut self, group: GroupId, record: &GroupRecord, names: &[String]) {
        let promoted = matches!(record.cause, Cause::Failover | Cause::Forced) && record.base.is_none();
        let parked: HashSet<String> = self.board.lock().parked.keys().cloned().collect();
        let Some(standing) = self.roles.groups.get_mut(&group) else { return };
        standing.ready.clear();
        standing.opening.clear();
        if promoted {
            standing.opening.extend(names.iter().cloned());
            for account in names.iter().filter(|account| !parked.contains(*account)) {
                self.roles.raiser.want(group, record.epoch(), account, false);
            }
        }
    }

    /// An account was raised, or could not be.
    pub(super) fn raised(&mut self, raised: Raised) {
        let Some(standing) = self.roles.groups.get_mut(&raised.group) else { return };
        if standing.desired.record.epoch() != raised.epoch || standing.stage != Stage::Active {
            return;
        }
        if let Some(error) = raised.error {
            tracing::warn!(account = raised.account, error, "the account cannot be served yet; it is tried again");
            return;
        }
        standing.opening.remove(&raised.account);
        standing.ready.insert(raised.account.clone());
        self.roles.moving.insert(raised.group);
        // The replay service is not captured, and replicas are to have the same counters.
        for mark in raised.marks {
            let mailbox = Mailbox {
                guid: mark.guid,
                name: mark.name,
                uid_validity: mark.uid_validity,
                next_uid: mark.next_uid,
                highest_modseq: mark.highest_modseq,
                ..Mailbox::default()
            };
            let op = Op::MailboxUpdated { mailbox, snapshot: 0 };
            let _ = self.push(raised.group, &raised.account, clock::wall_ns(), &op.encode(), None);
        }
    }

    /// A session asks for an account that was never heard of: it is raised before the others.
    pub(super) fn asked_for(&mut self, account: &str) {
        let group = self.view.read().placement.group_of(account);
        let Some(standing) = self.roles.groups.get_mut(&group) else { return };
        let is_opening = standing.stage == Stage::Active && !standing.opening.is_empty();
        if is_opening && !standing.ready.contains(account) {
            standing.opening.insert(account.to_owned());
            self.roles.raiser.want(group, standing.desired.record.epoch(), account, true);
        }
    }

    /// Replicas that were in sync, and the node that was active before, have whole copies.
    pub(super) fn assume_copies(&mut self, group: GroupId, record: &GroupRecord, names: &[String]) {
        if record.cause == Cause::Placement || record.epoch == 1 {
            return;
        }
        let whole: BTreeSet<NodeId> = record.in_sync().chain(record.before.and_then(NodeId::new)).collect();
        for account in names {
            self.accounts.see(account, group);
        }
        if let Err(error) = self.accounts.copied(names.iter().map(String::as_str), &whole) {
            tracing::warn!(group = group.0, %error, "cannot note who has copies; they are made again after a restart");
        }
    }
}
