//! As active: which replicas hold everything that was acknowledged, and what else changes in the group's record.
//!
//! Owns: joining and leaving `in_sync`, the list of replicas, where the epoch began. What can hurt: a replica that is
//! in sync by the record and lacks something acknowledged. So clients stop waiting for one only after the coordinator
//! has it out of `in_sync`, and one comes in only when it has everything captured up to a moment at which clients were
//! already waiting for it; the event loop's echo of the wish ([`super::Stands::desired`]) tells which moment that was.
//! Refuses: touching the lease; a slow replica costs nobody anything but its own place.

use std::collections::BTreeSet;

use understudy_types::id::{GroupId, NodeId, Sequence};

use super::decide::{Decider, Join, Local};
use super::observe::MS;
use super::txn::Purpose;
use super::{Record, ReplicaStands, Role, Stands, base_of};
use crate::clock::BootNs;
use crate::coordinator::record::{GroupRecord, Name};
use crate::limits::{FAILOVER_GONE_MS, FAILOVER_JOIN_OPS, FAILOVER_REJOIN_MS, FAILOVER_TXN_GROUPS_MAX};

/// A replica that clients wait for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Member {
    acked: Sequence,
    /// Since when it owes an acknowledgement without any progress.
    owes_since: Option<BootNs>,
    /// Since when it is away, or not whole.
    bad_since: Option<BootNs>,
}

fn well(replica: Option<&ReplicaStands>) -> bool {
    replica.is_some_and(|replica| replica.streaming && replica.complete)
}

impl Member {
    /// Takes the newest word; `true` when clients should wait no more.
    fn judge(&mut self, replica: Option<&ReplicaStands>, journaled: Sequence, now: BootNs, timeout_ns: u64) -> bool {
        self.bad_since = if well(replica) { None } else { self.bad_since.or(Some(now)) };
        let acked = replica.map_or(self.acked, |replica| replica.acked);
        if acked >= journaled {
            self.owes_since = None;
        } else if acked != self.acked || self.owes_since.is_none() {
            self.owes_since = Some(now);
        }
        self.acked = acked;
        let over = |since: Option<BootNs>, limit_ns| since.is_some_and(|since| now.since_ns(since) >= limit_ns);
        over(self.owes_since, timeout_ns) || over(self.bad_since, timeout_ns.min(FAILOVER_GONE_MS * MS))
    }
}

impl Decider {
    /// Brings the records of these groups up to date, for those that are active here.
    pub(super) fn amend(&mut self, groups: &[GroupId]) {
        let mut wanted = Vec::new();
        for group in groups {
            let Some(entry) = self.view.groups.get(group) else { continue };
            if entry.record.active() == Some(self.set.node) {
                let (before, revision) = (entry.record.clone(), entry.revision);
                if let Some(record) = self.amended(*group, &before) {
                    wanted.push((*group, revision, record));
                }
            }
        }
        if wanted.is_empty() || !self.may_act() {
            return;
        }
        for chunk in wanted.chunks(FAILOVER_TXN_GROUPS_MAX) {
            let mut expect = vec![self.own_expect()];
            let mut write = Vec::new();
            for (group, revision, record) in chunk {
                let known: BTreeSet<NodeId> =
                    self.view.group(*group).map(|record| record.replicas().into_iter().collect()).unwrap_or_default();
                let added = record.replicas().into_iter().filter(|node| !known.contains(node)).collect();
                self.groups.entry(*group).or_default().adding = added;
                expect.push((Name::Group(*group), *revision));
                write.push((Name::Group(*group), Some(Record::Group(record.clone())), None));
            }
            self.transact(Purpose::Amend, chunk.iter().map(|(group, ..)| *group).collect(), expect, write);
        }
    }

    /// The record as it should be; `None` when it is.
    fn amended(&mut self, group: GroupId, before: &GroupRecord) -> Option<GroupRecord> {
        let (now, timeout_ns, me) = (self.now, self.set.in_sync_timeout_ns, self.set.node);
        let serves = self.role(group) == Role::Serve;
        let free = self.free(group);
        let busy = self.txns.busy(group);
        let local = self.groups.entry(group).or_default();
        if !busy {
            local.adding.clear();
        }
        let mut record = before.clone();
        let stands = local.stands.clone();
        let stands =
            stands.filter(|stands| stands.epoch == before.epoch() && matches!(stands.role, Role::Serve | Role::Fenced));
        if let Some(stands) = &stands {
            note_base(local, before.epoch, stands);
            // While a change is under way, what clients wait for must not shrink: it may be about to count.
            members(local, &mut record, stands, now, timeout_ns, busy);
            if serves && !busy {
                joins(local, &mut record, stands, now);
            }
            if record.base.is_none() && stands.ready {
                record.base = local.base.clone().filter(|(epoch, _)| *epoch == before.epoch).map(|(_, base)| base);
            }
        }
        if let Some(wanted) = record.replicas_wanted.take() {
            let mut list: Vec<u16> = Vec::new();
            for node in wanted.into_iter().filter(|node| *node != me.get() && NodeId::new(*node).is_some()) {
                if !list.contains(&node) {
                    list.push(node);
                }
            }
            record.in_sync.retain(|node| list.contains(node));
            record.replicas = list;
        }
        local.unwish &= before.move_to.is_some();
        if local.unwish {
            (record.move_to, record.move_at_wall_ns) = (None, 0);
        }
        (free && record != *before).then_some(record)
    }
}

/// Remembers where the epoch began: what is journaled when nothing of the epoch itself is.
fn note_base(local: &mut Local, epoch: u64, stands: &Stands) {
    let known = local.base.as_ref().is_some_and(|(of, _)| *of == epoch);
    if !known && stands.tail_epoch.0 < epoch {
        local.base = Some((epoch, base_of(stands)));
    }
}

/// Takes out those that clients should wait for no more.
fn members(local: &mut Local, record: &mut GroupRecord, stands: &Stands, now: BootNs, timeout_ns: u64, busy: bool) {
    let waited: BTreeSet<NodeId> = record.in_sync().chain(local.joining.keys().copied()).collect();
    local.members.retain(|node, _| waited.contains(node));
    for node in waited {
        let replica = stands.replicas.iter().find(|replica| replica.node == node);
        let out = local.members.entry(node).or_default().judge(replica, stands.journaled, now, timeout_ns);
        if !out {
            continue;
        }
        if record.in_sync.remove(&node.get()) {
            local.left_at.insert(node, now);
        } else if !busy {
            local.joining.remove(&node);
            local.left_at.insert(node, now);
        }
    }
}

/// Lets those in that have everything, and begins to wait for those that nearly have it.
fn joins(local: &mut Local, record: &mut GroupRecord, stands: &Stands, now: BootNs) {
    let mut ready = Vec::new();
    for (node, join) in &mut local.joining {
        let Some(replica) = stands.replicas.iter().find(|replica| replica.node == *node) else { continue };
        if join.target.is_none() && join.number > 0 && stands.desired >= join.number {
            join.target = Some(stands.captured);
        }
        if join.target.is_some_and(|target| replica.acked >= target) && well(Some(replica)) {
            ready.push(*node);
        }
    }
    record.in_sync.extend(ready.iter().map(|node| node.get()));
    for replica in &stands.replicas {
        let node = replica.node;
        let listed = record.replicas.contains(&node.get()) && !record.in_sync.contains(&node.get());
        let rested = local.left_at.get(&node).is_none_or(|at| now.since_ns(*at) >= FAILOVER_REJOIN_MS * MS);
        let near = replica.acked.0.saturating_add(FAILOVER_JOIN_OPS) >= stands.journaled.0;
        if listed && rested && near && well(Some(replica)) && !local.joining.contains_key(&node) {
            local.joining.insert(node, Join::default());
        }
    }
}
