//! Where the replicas of each group should be, and what the loss of each node would do.
//!
//! Owns: the lists of a plan. What can hurt: a list that reads well and fails in the loss: so every single loss is
//! played through, with the order in which the decider chooses, and its limits. Refuses: taking a lost node off a list.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::{GroupId, NodeId};

use super::plan::{Facts, Loss, NodeFacts, weights};

/// How bad a loss is: groups that nobody takes, groups without a replica on another site, and how full the others are,
/// fullest first, in millionths.
type Cost = (usize, usize, Vec<u64>);

pub(super) struct Spread<'a> {
    nodes: BTreeMap<NodeId, &'a NodeFacts>,
    weights: BTreeMap<NodeId, u64>,
    cross_site: bool,
    count: usize,
    sites: BTreeSet<&'a str>,
    active: &'a BTreeMap<GroupId, NodeId>,
    lists: BTreeMap<GroupId, Vec<NodeId>>,
    why: BTreeMap<GroupId, Vec<String>>,
}

impl<'a> Spread<'a> {
    pub(super) fn new(
        facts: &'a Facts,
        count: usize,
        active: &'a BTreeMap<GroupId, NodeId>,
        lists: &BTreeMap<GroupId, Vec<NodeId>>,
    ) -> Self {
        let alive = facts.nodes.iter().filter(|node| node.alive && !node.site.is_empty());
        Self {
            nodes: facts.nodes.iter().map(|node| (node.node, node)).collect(),
            weights: weights(facts),
            cross_site: facts.cross_site,
            count,
            sites: alive.map(|node| node.site.as_str()).collect(),
            active,
            lists: lists.clone(),
            why: BTreeMap::new(),
        }
    }

    fn site(&self, node: NodeId) -> &str {
        self.nodes.get(&node).map_or("", |facts| facts.site.as_str())
    }

    fn alive(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|facts| facts.alive)
    }

    fn able(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|facts| facts.able())
    }

    /// May take over from `lost` by itself.
    fn follows(&self, node: NodeId, lost: NodeId) -> bool {
        let (site, from) = (self.site(node), self.site(lost));
        self.able(node) && (self.cross_site || from.is_empty() || site == from)
    }

    /// A replica is on another site than the active, where there are several.
    fn site_bad(&self, active: NodeId, list: &[NodeId]) -> bool {
        let home = self.site(active);
        let wanted = self.count > 0 && !home.is_empty() && self.sites.iter().any(|site| *site != home);
        let far = |node: &NodeId| self.alive(*node) && !self.site(*node).is_empty() && self.site(*node) != home;
        wanted && !list.iter().any(far)
    }

    /// Copies that a list counts as: a lost node is listed, and counts as none.
    fn copies(&self, list: &[NodeId]) -> usize {
        list.iter().filter(|node| self.alive(**node)).count()
    }

    /// In the order in which the decider would choose among equals; then those that take nothing, then the lost.
    fn sorted(&self, active: NodeId, mut list: Vec<NodeId>) -> Vec<NodeId> {
        let home = self.site(active);
        list.sort_by_key(|node| {
            let priority = self.nodes.get(node).map_or(0, |facts| facts.priority);
            let kind = match (self.able(*node), self.alive(*node)) {
                (true, _) => 0,
                (false, true) if self.nodes.get(node).is_some_and(|facts| !facts.no_failover) => 1,
                (false, true) => 2,
                (false, false) => 3,
            };
            if kind > 0 {
                return (kind, false, Reverse(0));
            }
            (kind, !home.is_empty() && self.site(*node) != home, Reverse(priority))
        });
        list
    }

    /// How often a node is listed: new copies go where few are.
    fn listed(&self, node: NodeId) -> usize {
        self.lists.values().filter(|list| list.contains(&node)).count()
    }

    fn note(&mut self, group: GroupId, why: String) {
        self.why.entry(group).or_default().push(why);
    }

    /// Every list as long as wanted, with a replica on another site, and one that may take over.
    pub(super) fn fill(&mut self) {
        for (group, active) in self.active {
            let mut list = self.lists.get(group).cloned().unwrap_or_default();
            list.retain(|node| node != active);
            while self.copies(&list) < self.count {
                let far = self.site_bad(*active, &list) && self.copies(&list) + 1 >= self.count;
                let Some(node) = self.best_new(*active, &list, far) else { break };
                self.note(*group, format!("node {node} is added: {} replicas are wanted", self.count));
                list.push(node);
                self.lists.insert(*group, list.clone());
            }
            while self.copies(&list) > self.count {
                let Some(node) = self.worst(*active, &list) else { break };
                self.note(*group, format!("node {node} is one more than {} replicas", self.count));
                list.retain(|other| *other != node);
            }
            if self.count > 0 && self.site_bad(*active, &list) {
                self.swap(*group, *active, &mut list, true, "no replica is on another site");
            }
            let follower = list.iter().any(|node| self.follows(*node, *active));
            if self.count > 0 && !follower {
                self.swap(*group, *active, &mut list, false, "no replica may take over");
            }
            let passive = |node: &NodeId| self.nodes.get(node).is_some_and(|facts| facts.no_failover);
            let late = list.iter().skip_while(|node| !passive(node)).any(|node| !passive(node) && self.alive(*node));
            if late {
                self.note(*group, "a node with `no_failover` comes last".to_owned());
            }
            let list = self.sorted(*active, list);
            self.lists.insert(*group, list);
        }
    }

    fn swap(&mut self, group: GroupId, active: NodeId, list: &mut Vec<NodeId>, far: bool, why: &str) {
        let Some(node) = self.best_new(active, list, far) else { return };
        if !far && !self.follows(node, active) {
            return;
        }
        let before = list.clone();
        if self.copies(list) >= self.count
            && let Some(gone) = self.worst(active, list)
        {
            list.retain(|other| *other != gone);
        }
        list.push(node);
        if !far && self.site_bad(active, list) && !self.site_bad(active, &before) {
            *list = before;
            return;
        }
        self.note(group, format!("node {node} is added: {why}"));
    }

    /// The node that a list misses most.
    fn best_new(&self, active: NodeId, list: &[NodeId], far: bool) -> Option<NodeId> {
        let home = self.site(active);
        let fits = |node: &&&NodeFacts| {
            let other = !node.site.is_empty() && node.site != home;
            node.alive && !node.drained && node.node != active && !list.contains(&node.node) && (!far || other)
        };
        let best = self.nodes.values().filter(fits).min_by_key(|node| {
            let follows = self.follows(node.node, active);
            let load = self.listed(node.node) as u64 * 1_000_000 / self.weight(node.node);
            (node.no_failover, !follows, load, node.node)
        });
        best.map(|node| node.node)
    }

    /// The living node that a list can do without.
    fn worst(&self, active: NodeId, list: &[NodeId]) -> Option<NodeId> {
        let without = |node: NodeId| -> Vec<NodeId> { list.iter().copied().filter(|other| *other != node).collect() };
        let sites = |node: NodeId| self.site_bad(active, &without(node)) && !self.site_bad(active, list);
        let last = |node: NodeId| !without(node).iter().any(|other| self.follows(*other, active));
        let living = list.iter().enumerate().filter(|(_, node)| self.alive(**node));
        let worst = living.min_by_key(|(at, node)| {
            let facts = self.nodes.get(node);
            let able = facts.is_some_and(|facts| facts.able());
            (sites(**node), able && last(**node), able, Reverse(*at))
        });
        worst.map(|(_, node)| *node)
    }

    fn weight(&self, node: NodeId) -> u64 {
        self.weights.get(&node).copied().unwrap_or(1)
    }

    fn loads(&self) -> BTreeMap<NodeId, u32> {
        let mut loads: BTreeMap<NodeId, u32> = self.nodes.keys().map(|node| (*node, 0)).collect();
        self.active.values().for_each(|node| *loads.entry(*node).or_default() += 1);
        loads
    }

    /// Plays the loss of a node through; gives who takes what, and the loads then.
    fn lose(
        &self,
        lost: NodeId,
        base: &BTreeMap<NodeId, u32>,
    ) -> (BTreeMap<GroupId, Option<NodeId>>, BTreeMap<NodeId, u32>) {
        let mut loads = base.clone();
        loads.remove(&lost);
        let mut taken = BTreeMap::new();
        for (group, _) in self.active.iter().filter(|(_, active)| **active == lost) {
            let list = self.lists.get(group).map(Vec::as_slice).unwrap_or_default();
            let room = |node: &NodeId| {
                let capacity = self.nodes.get(node).map_or(0, |facts| facts.capacity);
                capacity == 0 || loads.get(node).copied().unwrap_or(0) < capacity
            };
            let to = list.iter().copied().find(|node| *node != lost && self.follows(*node, lost) && room(node));
            if let Some(to) = to {
                *loads.entry(to).or_default() += 1;
            }
            taken.insert(*group, to);
        }
        (taken, loads)
    }

    fn cost(&self, lost: NodeId, base: &BTreeMap<NodeId, u32>) -> Cost {
        let (taken, loads) = self.lose(lost, base);
        let nobody = taken.values().filter(|to| to.is_none()).count();
        let sites = taken.keys().filter(|group| self.lists.get(group).is_some_and(|list| self.site_bad(lost, list)));
        let able = loads.iter().filter(|(node, _)| self.able(**node));
        let mut full: Vec<u64> = able.map(|(node, load)| u64::from(*load) * 1_000_000 / self.weight(*node)).collect();
        full.sort_unstable_by(|a, b| b.cmp(a));
        (nobody, sites.count(), full)
    }

    /// Changes lists as long as a loss becomes better by it. Every step makes one cost smaller and touches no other, as
    /// a group has one active node; so it ends.
    pub(super) fn balance(&mut self) {
        let base = self.loads();
        let lost: Vec<NodeId> = self.nodes.keys().copied().filter(|node| self.alive(*node)).collect();
        for lost in lost {
            while self.better(lost, &base) {}
        }
    }

    fn better(&mut self, lost: NodeId, base: &BTreeMap<NodeId, u32>) -> bool {
        let (taken, loads) = self.lose(lost, base);
        let now = self.cost(lost, base);
        let each = loads.iter().map(|(node, load)| (*node, u64::from(*load) * 1_000_000 / self.weight(*node)));
        let each: BTreeMap<NodeId, u64> = each.collect();
        let full = |node: &NodeId| each.get(node).copied().unwrap_or(0);
        let mut peers: Vec<NodeId> = loads.keys().copied().filter(|node| self.follows(*node, lost)).collect();
        peers.sort_by_key(|node| (full(node), *node));
        // Those that nobody takes first, then those that press the fullest.
        let mut groups: Vec<(GroupId, Option<NodeId>)> = taken.into_iter().collect();
        groups.sort_by_key(|(group, to)| (to.is_some(), Reverse(to.as_ref().map(&full)), *group));
        for copies in [false, true] {
            for (group, from) in &groups {
                for to in &peers {
                    let gains = from.is_none_or(|from| full(&from) > full(to));
                    if !gains || Some(*to) == *from {
                        continue;
                    }
                    if self.try_first(*group, *to, *from, lost, base, &now, copies) {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Makes `to` the first choice of a group if that makes the loss better; with a new copy only where it is asked
    /// for.
    #[expect(clippy::too_many_arguments, reason = "one step of a search, with its state")]
    fn try_first(
        &mut self,
        group: GroupId,
        to: NodeId,
        from: Option<NodeId>,
        lost: NodeId,
        base: &BTreeMap<NodeId, u32>,
        now: &Cost,
        copies: bool,
    ) -> bool {
        let before = self.lists.get(&group).cloned().unwrap_or_default();
        if before.contains(&to) == copies {
            return false;
        }
        let mut ways = Vec::new();
        let first = |list: &[NodeId]| -> Vec<NodeId> {
            let rest = list.iter().copied().filter(|node| *node != to);
            [to].into_iter().chain(rest).collect()
        };
        if !copies {
            ways.push(first(&before));
        } else {
            // In place of the one that would take it; else of any other, the last first.
            let living = before.iter().rev().copied().filter(|node| self.alive(*node));
            for gone in from.into_iter().chain(living.filter(|node| Some(*node) != from)) {
                let rest: Vec<NodeId> = before.iter().copied().filter(|node| *node != gone).collect();
                ways.push(first(&rest));
            }
        }
        for way in ways {
            let way = self.sorted(lost, way);
            self.lists.insert(group, way);
            if self.cost(lost, base) < *now {
                let text = match from {
                    Some(from) => format!("the loss of node {lost} would press node {from} more than node {to}"),
                    None => format!("nobody could take it when node {lost} is lost; node {to} can"),
                };
                self.note(group, text);
                return true;
            }
        }
        self.lists.insert(group, before);
        false
    }

    /// A group's list, and why; `None` when it may stay as it is: another order of equals changes nothing.
    pub(super) fn wanted(&self, group: GroupId) -> Option<(Vec<NodeId>, String)> {
        let why = self.why.get(&group)?.join("; ");
        Some((self.lists.get(&group).cloned().unwrap_or_default(), why))
    }

    /// What each single loss does.
    pub(super) fn losses(&self) -> BTreeMap<u16, Loss> {
        let base = self.loads();
        let alive = self.nodes.keys().filter(|node| self.alive(**node));
        alive
            .map(|lost| {
                let (taken, loads) = self.lose(*lost, &base);
                let mut loss = Loss { load_max: loads.values().copied().max().unwrap_or(0), ..Loss::default() };
                for (group, to) in taken {
                    match to {
                        Some(to) => *loss.to.entry(to.get()).or_default() += 1,
                        None => loss.nobody.push(group),
                    }
                }
                (lost.get(), loss)
            })
            .collect()
    }
}
