//! Who is active for what, until the failover decider drives the world: an authority that sees everything.
//!
//! Owns: assignments with their epochs, and when one may change: only to a replica that holds all that was acknowledged.
//! It does what a coordinator and a lease do together: the node that was active is fenced before the next one is told.
//! What can hurt: an authority that is too kind leaves nothing to find; nodes that it cannot reach hear of a change late,
//! and go on with what they have. Refuses: being right about anything but who is active.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::{Epoch, GroupId, NodeId};

use super::World;
use crate::agent::{Agent, Assignment};
use crate::host::Frozen;
use crate::net::Net;
use crate::plan::Plan;

/// See the module.
#[derive(Debug)]
pub(super) struct Director {
    assignments: BTreeMap<GroupId, Assignment>,
    /// Replicas that were in sync when the active's agent died.
    in_sync: BTreeMap<GroupId, BTreeSet<NodeId>>,
    pub(super) moves: u64,
}

impl Director {
    pub(super) fn new(plan: &Plan) -> Self {
        let first = |group: &crate::plan::GroupPlan| Assignment {
            group: group.id,
            epoch: Epoch(1),
            active: group.active,
            replicas: group.replicas.clone(),
        };
        let assignments = plan.groups.iter().map(|group| (group.id, first(group))).collect();
        Self { assignments, in_sync: BTreeMap::new(), moves: 0 }
    }

    pub(super) fn assignments(&self) -> Vec<Assignment> {
        self.assignments.values().cloned().collect()
    }

    pub(super) fn assignment(&self, group: GroupId) -> Option<&Assignment> {
        self.assignments.get(&group)
    }

    /// A node that is cut off from all others does not hear of us either.
    pub(super) fn reaches(&self, node: NodeId, net: &Net, plan: &Plan) -> bool {
        plan.nodes.iter().any(|peer| *peer != node && !net.is_blocked(*peer, node) && !net.is_blocked(node, *peer))
    }

    /// What an active knew of its replicas goes with it; we remember it.
    pub(super) fn agent_died(&mut self, agent: &Agent, plan: &Plan) {
        for group in &plan.groups {
            if self
                .assignments
                .get(&group.id)
                .is_some_and(|of| of.active == agent.me && agent.serves(group.id, of.epoch))
            {
                self.in_sync.insert(group.id, agent.in_sync(group.id));
            }
        }
    }
}

impl World {
    /// Once a second: whoever can be reached is told.
    pub(super) fn direct(&mut self) {
        for index in 0..self.nodes.len() {
            let node = self.nodes[index].host.id;
            if self.nodes[index].host.frozen != Frozen::Nothing
                || !self.director.reaches(node, &self.out.net, &self.out.plan)
            {
                continue;
            }
            for assignment in self.director.assignments() {
                let super::Node { host, agent } = &mut self.nodes[index];
                if let Some(agent) = agent {
                    agent.assign(&assignment, host, &mut self.out);
                }
            }
            self.after_agent(index);
        }
    }

    /// A group moves to one of its replicas, if one may have it.
    pub(super) fn move_group(&mut self) {
        let groups: Vec<GroupId> = self.director.assignments.keys().copied().collect();
        let Some(group) = self.random.pick(&groups).copied() else { return };
        let Some(now) = self.director.assignments.get(&group).cloned() else { return };
        let active = self.index(now.active);
        // One change at a time: whoever was told last must have got there.
        if !self.nodes[active].host.ring.serves.contains(&group)
            || self.nodes[active].host.memory.served(group) > now.epoch
        {
            return;
        }
        let in_sync = match &self.nodes[active].agent {
            Some(agent) if agent.serves(group, now.epoch) => agent.in_sync(group),
            Some(_) => return,
            None => self.director.in_sync.get(&group).cloned().unwrap_or_default(),
        };
        let fit = |node: &NodeId| {
            let super::Node { host, agent } = &self.nodes[self.index(*node)];
            let whole = agent.as_ref().is_some_and(|agent| agent.is_complete(group));
            let reached = self.director.reaches(*node, &self.out.net, &self.out.plan);
            in_sync.contains(node)
                && whole
                && reached
                && host.frozen == Frozen::Nothing
                && self.out.checker.holds_all(*node, group)
        };
        let fit: Vec<NodeId> = now.replicas.iter().copied().filter(fit).collect();
        let Some(next) = self.random.pick(&fit).copied() else { return };
        self.out.say(format_args!("g{group} moves from n{} to n{next}, e{}", now.active, now.epoch.0 + 1));
        self.director.moves += 1;
        let mut replicas: Vec<NodeId> = now.replicas.iter().copied().filter(|node| *node != next).collect();
        replicas.push(now.active);
        let then = Assignment { group, epoch: Epoch(now.epoch.0 + 1), active: next, replicas };
        // The lease of the old one is over, whether it hears of it or not.
        let super::Node { host, agent } = &mut self.nodes[active];
        host.ring.serves.remove(&group);
        if let Some(agent) = agent {
            agent.fence_now(group);
        }
        self.director.in_sync.remove(&group);
        self.director.assignments.insert(group, then.clone());
        let index = self.index(next);
        let super::Node { host, agent } = &mut self.nodes[index];
        if let Some(agent) = agent {
            agent.assign(&then, host, &mut self.out);
        }
        self.after_agent(index);
    }
}
