//! Placement planner: where groups should be active, and where their replicas.
//!
//! Owns: the plan ([`Plan`]): which groups move, which lists of replicas change, and what the loss of each node would
//! do then. What can hurt: a plan that moves more than it gains; so a group moves only where it evens the load by more
//! than itself, and a list changes only where a rule of it is broken or a loss would press one peer by more than one
//! group beside another. A node that is lost is never chosen, and never taken off a list either: what it alone has of
//! the group comes back only while it is listed. Refuses: doing it; an administrator applies it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use understudy_types::id::{GroupId, NodeId};

use super::decide::Decider;
use super::spread::Spread;
use crate::clock::BootNs;
use crate::coordinator::record::GroupRecord;

/// What the planner knows of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    pub node: NodeId,
    /// Empty: not known.
    pub site: String,
    pub priority: u32,
    /// Most groups that may be active there; 0 = no limit.
    pub capacity: u32,
    pub drained: bool,
    pub no_failover: bool,
    /// It holds its lease.
    pub alive: bool,
}

impl NodeFacts {
    /// Groups may be made active there, and it may take over.
    pub(super) fn able(&self) -> bool {
        self.alive && !self.drained && !self.no_failover
    }
}

/// Everything that a plan is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub nodes: Vec<NodeFacts>,
    pub groups: Vec<(GroupId, GroupRecord)>,
    /// A node of another site may take over.
    pub cross_site: bool,
    /// Replicas that each group had when it was placed: what a plan aims at unless it is told otherwise.
    pub replicas: usize,
}

/// What must be before a move can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    Nothing,
    /// The target is a replica and not in sync yet.
    Sync,
    /// The target is no replica: it gets a copy first.
    Copy,
}

/// A group that should be active elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub group: GroupId,
    pub from: NodeId,
    pub to: NodeId,
    pub needs: Needs,
    pub why: String,
}

/// A list of replicas that should be another one, first choice first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub group: GroupId,
    pub before: Vec<NodeId>,
    pub replicas: Vec<NodeId>,
    pub why: String,
}

/// What the loss of one node does when the plan was applied and everything is in sync.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// How many of its groups each peer takes.
    pub to: BTreeMap<u16, u32>,
    /// Groups that nobody can take without being past its capacity, or against the rule on sites.
    pub nobody: Vec<GroupId>,
    /// Active groups of the peer that has most then.
    pub load_max: u32,
}

/// The plan. Applied step by step: a group that moves gets its new list when it has moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub moves: Vec<Move>,
    pub replicas: Vec<Listed>,
    /// Active groups of each node now, and after the plan.
    pub before: BTreeMap<u16, u32>,
    pub after: BTreeMap<u16, u32>,
    /// By the node that is lost, after the plan.
    pub losses: BTreeMap<u16, Loss>,
    /// What cannot be planned away.
    pub notes: Vec<String>,
}

impl Plan {
    /// Nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.replicas.is_empty()
    }
}

/// Makes the plan. Deterministic: equal facts give equal plans on every node.
#[must_use]
pub fn plan(facts: &Facts, replica_count: usize) -> Plan {
    let mut out = Plan::default();
    let mut actives = Actives::new(facts);
    out.before = actives.counts();
    actives.empty_drained();
    actives.relieve();
    actives.even_out();
    out.after = actives.counts();
    out.notes.append(&mut actives.notes);
    let lists: BTreeMap<GroupId, Vec<NodeId>> = facts
        .groups
        .iter()
        .map(|(group, record)| (*group, after_move(record, actives.at.get(group).copied())))
        .collect();
    let mut spread = Spread::new(facts, replica_count, &actives.at, &lists);
    spread.fill();
    spread.balance();
    for (group, record) in &facts.groups {
        let Some(from) = record.active() else { continue };
        let moves = actives.moved.get(group);
        let before = record.replicas();
        let Some((to, why)) = moves else {
            if let Some((wanted, why)) = spread.wanted(*group)
                && wanted != before
                && !is_wished(record, &wanted)
            {
                out.replicas.push(Listed { group: *group, before, replicas: wanted, why });
            }
            continue;
        };
        let needs = match (before.contains(to), record.in_sync.contains(&to.get())) {
            (_, true) => Needs::Nothing,
            (true, false) => Needs::Sync,
            (false, false) => Needs::Copy,
        };
        if needs == Needs::Copy {
            let replicas: Vec<NodeId> = before.iter().copied().chain([*to]).collect();
            if !is_wished(record, &replicas) {
                let why = format!("node {to} gets a copy, since the group is to move there");
                out.replicas.push(Listed { group: *group, before, replicas, why });
            }
        }
        out.moves.push(Move { group: *group, from, to: *to, needs, why: why.clone() });
    }
    out.losses = spread.losses();
    for (lost, loss) in &out.losses {
        if !loss.nobody.is_empty() {
            let groups: Vec<String> = loss.nobody.iter().map(ToString::to_string).collect();
            out.notes.push(format!("when node {lost} is lost, nobody can take groups {}", groups.join(", ")));
        }
    }
    out
}

/// Ordered already, and the active has not come to it.
fn is_wished(record: &GroupRecord, wanted: &[NodeId]) -> bool {
    let wanted: Vec<u16> = wanted.iter().map(|node| node.get()).collect();
    record.replicas_wanted.as_ref() == Some(&wanted)
}

/// The list as a switchover leaves it.
fn after_move(record: &GroupRecord, to: Option<NodeId>) -> Vec<NodeId> {
    let mut list = record.replicas();
    if let (Some(to), Some(from)) = (to, record.active())
        && to != from
    {
        list.retain(|node| *node != to);
        list.push(from);
    }
    list
}

/// Compares loads by capacity: `a` groups of a node that weighs `wa` are more than `b` of one that weighs `wb`.
pub(super) fn fuller(a: u32, wa: u64, b: u32, wb: u64) -> bool {
    u64::from(a) * wb > u64::from(b) * wa
}

/// What each node weighs: its capacity; one without a limit as much as the largest.
pub(super) fn weights(facts: &Facts) -> BTreeMap<NodeId, u64> {
    let largest = facts.nodes.iter().map(|node| node.capacity).max().unwrap_or(0).max(1);
    let weight = |node: &NodeFacts| if node.capacity == 0 { largest } else { node.capacity };
    facts.nodes.iter().map(|node| (node.node, u64::from(weight(node)))).collect()
}

/// Who is active for what, as the plan goes.
struct Actives<'a> {
    facts: &'a Facts,
    weights: BTreeMap<NodeId, u64>,
    at: BTreeMap<GroupId, NodeId>,
    moved: BTreeMap<GroupId, (NodeId, String)>,
    /// Moves that somebody ordered stay as they are.
    fixed: BTreeSet<GroupId>,
    notes: Vec<String>,
}

impl<'a> Actives<'a> {
    fn new(facts: &'a Facts) -> Self {
        let mut at = BTreeMap::new();
        let mut fixed = BTreeSet::new();
        for (group, record) in &facts.groups {
            let ordered = record.move_to.and_then(NodeId::new);
            if record.move_to.is_some() {
                fixed.insert(*group);
            }
            if let Some(node) = ordered.or_else(|| record.active()) {
                at.insert(*group, node);
            }
        }
        Self { facts, weights: weights(facts), at, moved: BTreeMap::new(), fixed, notes: Vec::new() }
    }

    fn count(&self, node: NodeId) -> u32 {
        u32::try_from(self.at.values().filter(|at| **at == node).count()).unwrap_or(u32::MAX)
    }

    fn counts(&self) -> BTreeMap<u16, u32> {
        self.facts.nodes.iter().map(|node| (node.node.get(), self.count(node.node))).collect()
    }

    fn weight(&self, node: NodeId) -> u64 {
        self.weights.get(&node).copied().unwrap_or(1)
    }

    /// The node that is least full with one more, if one has room.
    fn emptiest(&self, not: NodeId) -> Option<NodeId> {
        let room = |node: &&NodeFacts| node.capacity == 0 || self.count(node.node) < node.capacity;
        let mut best: Option<&NodeFacts> = None;
        for node in self.facts.nodes.iter().filter(|node| node.able() && node.node != not).filter(room) {
            let (count, weight) = (self.count(node.node) + 1, self.weight(node.node));
            if best.is_none_or(|b| fuller(self.count(b.node) + 1, self.weight(b.node), count, weight)) {
                best = Some(node);
            }
        }
        best.map(|node| node.node)
    }

    /// The group that moves most easily: to where it is in sync, then to where it is, then any.
    fn easiest(&self, from: NodeId, to: NodeId) -> Option<GroupId> {
        let movable = self.facts.groups.iter().filter(|(group, _)| {
            self.at.get(group) == Some(&from) && !self.fixed.contains(group) && !self.moved.contains_key(group)
        });
        let (group, _) = movable.min_by_key(|(group, record)| {
            (!record.in_sync.contains(&to.get()), !record.replicas.contains(&to.get()), *group)
        })?;
        Some(*group)
    }

    fn put(&mut self, group: GroupId, to: NodeId, why: String) {
        self.at.insert(group, to);
        self.moved.insert(group, (to, why));
    }

    fn empty_drained(&mut self) {
        for node in self.facts.nodes.iter().filter(|node| node.drained && node.alive) {
            let from = node.node;
            while self
                .facts
                .groups
                .iter()
                .any(|(group, _)| self.at.get(group) == Some(&from) && !self.fixed.contains(group))
            {
                let Some(to) = self.emptiest(from) else {
                    self.notes.push(format!("node {from} is drained, and no other node has room for its groups"));
                    break;
                };
                let Some(group) = self.easiest(from, to) else { break };
                self.put(group, to, format!("node {from} is drained"));
            }
        }
    }

    fn relieve(&mut self) {
        for node in self.facts.nodes.iter().filter(|node| node.alive && node.capacity > 0) {
            while self.count(node.node) > node.capacity {
                let to = self.emptiest(node.node);
                let Some((to, group)) = to.and_then(|to| Some((to, self.easiest(node.node, to)?))) else {
                    let text = format!("node {} is past its capacity of {} groups", node.node, node.capacity);
                    self.notes.push(text + ", and no other node has room");
                    break;
                };
                self.put(group, to, format!("node {} is past its capacity of {}", node.node, node.capacity));
            }
        }
    }

    /// Each step takes a group from a node that stays fuller than the other becomes; so the fullest of the two is less
    /// full after it, and it ends.
    fn even_out(&mut self) {
        loop {
            let mut able: Vec<NodeId> = self.facts.nodes.iter().filter(|n| n.able()).map(|n| n.node).collect();
            able.sort_by(|a, b| {
                let (ca, cb) = (self.count(*a), self.count(*b));
                (u64::from(cb) * self.weight(*a)).cmp(&(u64::from(ca) * self.weight(*b))).then(a.cmp(b))
            });
            let step = able.into_iter().find_map(|from| {
                let to = self.emptiest(from)?;
                let (have, becomes) = (self.count(from), self.count(to) + 1);
                let gains = fuller(have, self.weight(from), becomes, self.weight(to));
                let group = gains.then(|| self.easiest(from, to)).flatten()?;
                Some((group, to, format!("node {from} has {have} active groups, node {to} has {}", becomes - 1)))
            });
            let Some((group, to, why)) = step else { return };
            self.put(group, to, why);
        }
    }
}

impl Decider {
    /// What a plan is made of, as this node sees it. Making the plan may take longer than the council may wait.
    #[must_use]
    pub fn placement_facts(&self, now: BootNs) -> Facts {
        let overview = self.overview(now);
        let alive = |node: NodeId| overview.nodes.get(&node.get()).is_some_and(|seen| seen.lease_left_ms > 0);
        let mut nodes = Vec::new();
        for (raw, seen) in &overview.nodes {
            let Some(node) = NodeId::new(*raw) else { continue };
            let (mine, set) = (node == self.set.node, &self.set);
            nodes.push(NodeFacts {
                node,
                site: seen.site.clone(),
                priority: if mine { set.priority } else { seen.priority },
                capacity: if mine { set.capacity_groups } else { seen.capacity_groups },
                drained: seen.drained,
                no_failover: if mine { set.no_failover } else { seen.no_failover },
                alive: alive(node) && (mine || (seen.lease && !seen.released)),
            });
        }
        let groups: Vec<(GroupId, GroupRecord)> =
            self.view.groups.iter().map(|(group, entry)| (*group, entry.record.clone())).collect();
        let placed = self.set.placement.iter().map(|placed| placed.replicas.len()).max();
        let listed = groups.iter().map(|(_, record)| record.replicas.len()).max();
        Facts { nodes, groups, cross_site: self.set.cross_site, replicas: placed.or(listed).unwrap_or(1) }
    }

    /// The plan for this many replicas of each group.
    #[must_use]
    pub fn placement_plan(&self, replica_count: usize, now: BootNs) -> Plan {
        plan(&self.placement_facts(now), replica_count)
    }
}
