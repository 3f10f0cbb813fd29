//! What the node is to be for each group, and until when its store may change mail: what follows from all the rest.
//!
//! Owns: [`Action::Desire`], [`Action::WriteUntil`], [`Action::Kick`]. What can hurt: the order. First groups lose the
//! right to be served, then the time of the node as a whole moves, then groups gain it; all before any transaction of
//! the same turn. The time is one for the whole node, so it is the earliest of all groups that are served. Refuses:
//! deciding who is active; the record says it.

use std::collections::BTreeSet;

use understudy_types::id::{GroupId, NodeId};

use super::decide::Decider;
use super::{Action, Desired, Role};
use crate::clock::BootNs;
use crate::coordinator::record::GroupRecord;

/// What was last said of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Emitted {
    pub(super) role: Role,
    revision: u64,
    required: BTreeSet<NodeId>,
    hold: bool,
    pub(super) number: u64,
}

struct Wish {
    role: Role,
    required: BTreeSet<NodeId>,
    hold: bool,
    why: String,
}

impl Decider {
    /// The role that was last wanted for a group.
    pub(super) fn role(&self, group: GroupId) -> Role {
        let emitted = self.groups.get(&group).and_then(|local| local.emitted.as_ref());
        emitted.map_or(Role::None, |emitted| emitted.role)
    }

    fn wish(&self, group: GroupId, record: &GroupRecord) -> Wish {
        let wish = |role, why: String| Wish { role, required: BTreeSet::new(), hold: false, why };
        let me = self.set.node;
        let local = self.groups.get(&group);
        if record.active() != Some(me) {
            if record.replicas.contains(&me.get()) {
                let why = format!("node {} is active at epoch {}", record.active, record.epoch);
                return Wish { hold: self.txns.promoting(group), ..wish(Role::Follow, why) };
            }
            return wish(Role::None, format!("node {me} is no replica"));
        }
        let shift = local.and_then(|local| local.shift.as_ref());
        let mut wish = if let Some(shift) = shift {
            Wish { hold: true, ..wish(Role::Fenced, format!("moves to node {}", shift.to)) }
        } else if self.txns.flipping(group) {
            Wish { hold: true, ..wish(Role::Fenced, "it is not known yet whether the move was done".to_owned()) }
        } else if local.is_some_and(|local| local.epoch_seen > record.epoch) {
            wish(Role::Fenced, "the coordinator went back to an older epoch".to_owned())
        } else if self.now < self.valid_until(group) {
            let by = if self.now < self.own.until() { "its lease is held" } else { "all replicas confirm it" };
            wish(Role::Serve, format!("active at epoch {}: {by}", record.epoch))
        } else if !self.store_fresh() {
            wish(Role::Fenced, self.store_trouble())
        } else {
            wish(Role::Fenced, "no lease is held".to_owned())
        };
        wish.required = record.in_sync().collect();
        wish.required.extend(local.into_iter().flat_map(|local| local.joining.keys()));
        wish
    }

    /// Says what changed for these groups, before everything else of this turn.
    pub(super) fn desires(&mut self, groups: Vec<GroupId>) {
        let rest = std::mem::take(&mut self.out);
        if !self.view.known {
            self.out = rest;
            return;
        }
        let (mut taken, mut given, mut kicked) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups {
            let Some(desired) = self.desire(group, &mut kicked) else { continue };
            if desired.role == Role::Serve { given.push(desired) } else { taken.push(desired) }
        }
        self.out.extend(taken.into_iter().map(Action::Desire));
        let until = self.earliest();
        if self.write_until != Some(until) {
            self.write_until = Some(until);
            self.out.push(Action::WriteUntil { until });
        }
        self.out.extend(given.into_iter().map(Action::Desire));
        if !kicked.is_empty() {
            self.out.push(Action::Kick { groups: kicked });
        }
        self.out.extend(rest);
    }

    /// The earliest end of all groups that are served; the past when there is none.
    fn earliest(&self) -> BootNs {
        let served = self
            .groups
            .iter()
            .filter(|(_, local)| local.emitted.as_ref().is_some_and(|emitted| emitted.role == Role::Serve));
        served.map(|(group, _)| self.valid_until(*group)).min().unwrap_or(BootNs(1)).max(BootNs(1))
    }

    fn desire(&mut self, group: GroupId, kicked: &mut Vec<GroupId>) -> Option<Desired> {
        let (record, revision, wish) = if let Some(entry) = self.view.groups.get(&group) {
            (entry.record.clone(), entry.revision, self.wish(group, &entry.record))
        } else {
            let record = self.groups.get(&group)?.gone.clone()?;
            let why = "the coordinator has no record of it any more".to_owned();
            (record, 0, Wish { role: Role::None, required: BTreeSet::new(), hold: false, why })
        };
        let Wish { role, required, hold, why } = wish;
        let local = self.groups.entry(group).or_default();
        let last = local.emitted.as_ref();
        let same = |last: &Emitted| {
            (last.role, last.revision, last.hold) == (role, revision, hold) && last.required == required
        };
        if last.is_some_and(same) {
            return None;
        }
        // Sessions stay while the group moves: if it is not moved after all, nobody has noticed. An agent that starts
        // ends what may be left from a time when the group was active here.
        let kick = match (last.map(|last| last.role), role) {
            (Some(Role::Serve), Role::Fenced) => !hold,
            (Some(Role::Serve | Role::Fenced), Role::Follow | Role::None) | (None, Role::Follow) => true,
            _ => false,
        };
        if kick {
            kicked.push(group);
        }
        let number = last.map_or(0, |last| last.number) + 1;
        for join in local.joining.values_mut().filter(|join| join.number == 0) {
            join.number = number;
        }
        local.emitted = Some(Emitted { role, revision, required: required.clone(), hold, number });
        Some(Desired { group, role, record, required, hold, number, why })
    }
}
