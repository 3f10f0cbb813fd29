//! Planned moves: as active, give a group to another node with nothing left behind.
//!
//! Owns: the wish (`move_to`, or a drained node), its preconditions, and the steps: refuse changes and hold routing,
//! wait until the target has applied all there is, flip the record by one transaction. What can hurt: to serve again
//! while the flip may yet be done; the group stays fenced until its fate is known. And to judge by what stood before
//! the fence: the event loop's echo of the wish tells. Refuses: a target that is not in sync or has no lease; then the
//! group stays where it is.

use understudy_types::id::{GroupId, NodeId};

use super::decide::Decider;
use super::observe::MS;
use super::txn::{End, Purpose};
use super::{Record, Role, Stands, base_of};
use crate::clock::BootNs;
use crate::coordinator::record::{Cause, GroupRecord, Name};
use crate::limits::{FAILOVER_MOVE_MS_MAX, FAILOVER_MOVE_RETRY_MS, FAILOVER_MOVES_MAX};

/// A move under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shift {
    pub(super) to: NodeId,
    pub(super) since: BootNs,
    /// Number of the wish that fenced the group; 0 = not said yet.
    number: u64,
}

impl Decider {
    /// Goes on with moves, and begins those that are wanted.
    pub(super) fn shifts(&mut self, groups: &[GroupId]) {
        for group in groups {
            let Some(entry) = self.view.groups.get(group) else { continue };
            if entry.record.active() != Some(self.set.node) {
                continue;
            }
            let (record, revision) = (entry.record.clone(), entry.revision);
            if self.groups.get(group).is_some_and(|local| local.shift.is_some()) {
                self.shift_on(*group, &record, revision);
            } else {
                self.shift_begin(*group, &record);
            }
        }
    }

    /// Where a group should go, and whether somebody named that node.
    fn wanted_at(&self, group: GroupId, record: &GroupRecord) -> Option<(Option<NodeId>, bool)> {
        if let Some(raw) = record.move_to {
            let due = record.move_at_wall_ns == 0 || self.wall_ns() >= record.move_at_wall_ns;
            return due.then(|| match NodeId::new(raw) {
                Some(node) => (Some(node), true),
                None => (self.candidates(group, record).first().copied(), false),
            });
        }
        let drained = self.view.drained(self.set.node);
        drained.then(|| (self.candidates(group, record).first().copied(), false))
    }

    /// Why a node cannot take the group over as it is; `Ok` when it can.
    pub(super) fn can_take(&self, record: &GroupRecord, to: NodeId, named: bool, more: usize) -> Result<(), String> {
        if !record.replicas.contains(&to.get()) {
            return Err(format!("node {to} is no replica of it"));
        }
        if !record.in_sync.contains(&to.get()) {
            return Err(format!("node {to} is not in sync"));
        }
        if !self.alive(to) {
            return Err(format!("the lease of node {to} has run out"));
        }
        if !named && self.view.drained(to) {
            return Err(format!("node {to} is drained"));
        }
        if !self.has_room(to, more) {
            return Err(format!("node {to} may not be active for more than {} groups", self.capacity(to)));
        }
        Ok(())
    }

    fn shift_begin(&mut self, group: GroupId, record: &GroupRecord) {
        let Some((to, named)) = self.wanted_at(group, record) else {
            self.unsay("move", group);
            return;
        };
        let now = self.now;
        let local = self.groups.entry(group).or_default();
        if to == Some(self.set.node) {
            local.unwish = true;
            return;
        }
        let waits = local.unwish || now < local.shift_after;
        let ready = self.role(group) == Role::Serve && self.own.held() && now < self.own.until() && !self.stopping();
        if waits || !ready || !self.free(group) {
            return;
        }
        let running = || self.groups.values().filter_map(|local| local.shift);
        let Some(to) = to else {
            let text = "it cannot be moved yet: no replica is in sync, holds a lease and has room".to_owned();
            self.say("move", Some(group), "nobody", false, text, 0);
            return;
        };
        let more = running().filter(|shift| shift.to == to).count();
        if let Err(why) = self.can_take(record, to, named, more) {
            self.say("move", Some(group), &why, false, format!("it cannot be moved yet: {why}"), 0);
        } else if running().count() < FAILOVER_MOVES_MAX {
            self.say("move", Some(group), "begins", true, format!("it moves to node {to}: changes are held"), 0);
            self.groups.entry(group).or_default().shift = Some(Shift { to, since: now, number: 0 });
        }
    }

    fn shift_on(&mut self, group: GroupId, record: &GroupRecord, revision: u64) {
        if self.txns.flipping(group) {
            return;
        }
        let now = self.now;
        let local = self.groups.entry(group).or_default();
        let Some(shift) = local.shift.as_mut() else { return };
        let fenced = local.emitted.as_ref().filter(|last| last.role == Role::Fenced);
        if let (0, Some(fenced)) = (shift.number, fenced) {
            shift.number = fenced.number;
        }
        let shift = *shift;
        let stands = local.stands.clone().filter(|stands| all_there(&shift, record, stands));
        if now.since_ns(shift.since) >= FAILOVER_MOVE_MS_MAX * MS {
            let text = format!("not moved: node {} did not have everything within {FAILOVER_MOVE_MS_MAX} ms", shift.to);
            self.shift_ends(group, FAILOVER_MOVE_RETRY_MS, true, text);
            return;
        }
        if now >= self.own.until() {
            self.shift_ends(group, 1_000, false, "not moved: the own lease has ended".to_owned());
            return;
        }
        if let Err(why) = self.can_take(record, shift.to, true, 0) {
            self.shift_ends(group, 1_000, false, format!("not moved: {why}"));
            return;
        }
        let Some(stands) = stands else { return };
        if self.free(group) && self.may_act() {
            let target = Name::Lease(shift.to);
            let expect = vec![
                self.own_expect(),
                (Name::Group(group), revision),
                (target.clone(), self.view.revision_of(&target)),
            ];
            let flipped = self.flipped(group, record, shift.to, &stands);
            let write = vec![(Name::Group(group), Some(Record::Group(flipped)), None)];
            self.transact(Purpose::Flip, vec![group], expect, write);
        }
    }

    fn shift_ends(&mut self, group: GroupId, pause_ms: u64, unwish: bool, text: String) {
        let after = self.now.after_ns(pause_ms * MS);
        let local = self.groups.entry(group).or_default();
        local.shift = None;
        local.shift_after = after;
        local.unwish |= unwish;
        self.say("move", Some(group), &format!("ended {}", after.0), false, text, pause_ms * MS);
    }

    fn flipped(&self, group: GroupId, before: &GroupRecord, to: NodeId, stands: &Stands) -> GroupRecord {
        let me = self.set.node.get();
        let mut replicas: Vec<u16> = before.replicas.iter().copied().filter(|node| *node != to.get()).collect();
        replicas.push(me);
        let mut in_sync = before.in_sync.clone();
        in_sync.remove(&to.get());
        in_sync.insert(me);
        GroupRecord {
            epoch: self.epoch_known(group) + 1,
            active: to.get(),
            replicas,
            in_sync,
            before: Some(me),
            base: Some(base_of(stands)),
            cause: Cause::Switchover,
            move_to: None,
            move_at_wall_ns: 0,
            replicas_wanted: before.replicas_wanted.clone(),
            since_wall_ns: self.wall_ns(),
        }
    }

    /// A flip whose fate is known. Not done: the move goes on, or runs out of time.
    pub(super) fn flip_ended(&mut self, groups: &[GroupId], end: End) {
        for group in groups {
            let mine = self.view.group(*group).is_some_and(|record| record.active() == Some(self.set.node));
            if end == End::Done || !mine {
                self.groups.entry(*group).or_default().shift = None;
                self.say("move", Some(*group), "done", true, "moved: the other node is active".to_owned(), 0);
            }
        }
    }
}

/// Nothing of the group is left to send, and the target has applied it all; seen after changes were refused.
fn all_there(shift: &Shift, record: &GroupRecord, stands: &Stands) -> bool {
    let since = shift.number > 0 && stands.desired >= shift.number;
    let quiet = stands.role == Role::Fenced && stands.quiet && stands.captured == stands.journaled;
    let target = stands.replicas.iter().find(|replica| replica.node == shift.to);
    let has = |replica: &super::ReplicaStands| {
        let all = replica.acked == stands.journaled && replica.applied == stands.journaled;
        replica.streaming && replica.complete && all
    };
    stands.epoch == record.epoch() && since && quiet && target.is_some_and(has)
}
