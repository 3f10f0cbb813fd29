//! The event loops of the tiny world: what a node does with what its decider wants, and what it tells it.
//!
//! Owns: a store that writes while it may, a journal one turn behind, replicas that take what the active has, and what
//! must hold of them ([`World::check`]). What can hurt: an active that acknowledges what a replica in sync lacks; it
//! acknowledges exactly what all required replicas have. Refuses: more of the real thing than the decider can see.

use std::collections::BTreeSet;

use super::super::*;
use super::world::{Op, World};
use crate::coordinator::record::Cause;

/// The event loops, as far as the decider sees them.
impl World {
    pub(super) fn desire(&mut self, node: usize, desired: Desired) {
        let group = desired.group;
        let n = &mut self.nodes[node];
        let before = n.desired.get(&group).map(|desired| desired.role);
        if before == Some(Role::Serve) && desired.role == Role::Fenced && !desired.hold {
            n.demotions += 1;
        }
        let epoch = n.epochs.entry(group).or_default();
        *epoch = (*epoch).max(desired.record.epoch);
        if n.desired.get(&group).is_some_and(|last| last.record.epoch != desired.record.epoch) {
            n.acked.retain(|(of, _), _| *of != group);
        }
        let first = desired.role == Role::Serve
            && self.served.get(&group).is_none_or(|(epoch, _)| *epoch < desired.record.epoch);
        if first {
            // Whoever serves an epoch first has everything that was acknowledged in those before.
            let log: BTreeSet<Op> = n.logs.get(&group).into_iter().flatten().copied().collect();
            let lost = self.acked.get(&group).is_some_and(|acked| !acked.is_subset(&log));
            self.served.insert(group, (desired.record.epoch, desired.record.active));
            if lost {
                self.fails(format!("group {group}: node {} serves and lacks acknowledged operations", node + 1));
            }
        }
        self.nodes[node].desired.insert(group, desired);
    }

    /// Whether a node's store may change a group's mail now: also while its agent is frozen or dead.
    pub(super) fn writes(&self, node: usize, group: GroupId) -> bool {
        let n = &self.nodes[node];
        let serves = n.desired.get(&group).is_some_and(|desired| desired.role == Role::Serve);
        n.machine && serves && self.clock(node).0 < n.write_until
    }

    /// What must hold at every moment.
    pub(super) fn check(&mut self) {
        let groups: BTreeSet<GroupId> = self.nodes.iter().flat_map(|n| n.desired.keys().copied()).collect();
        for group in groups {
            let writers: Vec<usize> = (0..self.nodes.len()).filter(|node| self.writes(*node, group)).collect();
            if writers.len() > 1 {
                self.fails(format!("group {group}: nodes {writers:?} (+1) may write at one time"));
            }
        }
    }

    fn check_in_sync(&mut self, group: GroupId) {
        let Some(record) = self.record(group.0).cloned() else { return };
        let Some(acked) = self.acked.get(&group) else { return };
        let served = self.served.get(&group).is_some_and(|(epoch, _)| *epoch == record.epoch);
        for node in record.in_sync().chain(record.active().filter(|_| served)) {
            let log = self.nodes[usize::from(node.get()) - 1].logs.get(&group);
            let log: BTreeSet<Op> = log.into_iter().flatten().copied().collect();
            if !acked.is_subset(&log) {
                self.fails(format!(
                    "group {group}: node {node} is active or in sync and lacks acknowledged operations"
                ));
                return;
            }
        }
    }

    pub(super) fn turn(&mut self, node: usize) {
        let wall_ns = self.now;
        let store = self.nodes[node].store_bad_since.is_none().then(|| self.clock(node));
        if store.is_some() || self.rng.one_in(5) {
            let why = if store.is_some() { "" } else { "disk hangs" };
            self.tell(node, Input::Store { good_at: store, why: why.to_owned() });
        }
        if self.rng.one_in(10) {
            self.canaries(node);
        }
        self.tell(node, Input::Tick { wall_ns });
        let groups: Vec<GroupId> = self.nodes[node].desired.keys().copied().collect();
        for group in groups {
            self.work(node, group);
            if self.rng.one_in(10) {
                self.check_in_sync(group);
            }
        }
        if self.nodes[node].stopped {
            self.nodes[node].agent = false;
        }
    }

    /// What the node sees of the others' services, told to all.
    fn canaries(&mut self, node: usize) {
        let by = self.nodes[node].set.node;
        for of in (0..self.nodes.len()).filter(|of| *of != node) {
            let since = self.nodes[of].store_bad_since;
            let failing_ns = since.map_or(0, |since| self.now - since);
            let why = "login times out".to_owned();
            let input = Input::Observed { by, of: self.nodes[of].set.node, failing_ns, healthy: true, why };
            self.tell(node, input.clone());
            for peer in (0..self.nodes.len()).filter(|peer| *peer != node).collect::<Vec<_>>() {
                self.post(node, self.nodes[peer].set.node, input.clone());
            }
        }
    }

    fn work(&mut self, node: usize, group: GroupId) {
        let Some(desired) = self.nodes[node].desired.get(&group).cloned() else { return };
        let epoch = desired.record.epoch;
        let active = matches!(desired.role, Role::Serve | Role::Fenced);
        // The journal is one turn behind what was captured.
        let length = self.nodes[node].logs.entry(group).or_default().len();
        self.nodes[node].journaled.insert(group, length);
        let mut replicas = Vec::new();
        if active {
            for replica in desired.record.replicas() {
                let other = usize::from(replica.get()) - 1;
                if let Some(stands) = self.ship(node, other, group, epoch) {
                    replicas.push(stands);
                }
            }
            self.acknowledge(node, group, &desired);
            if self.loads
                && self.nodes[node].store_bad_since.is_none()
                && self.writes(node, group)
                && self.rng.one_in(5)
            {
                for _ in 0..=self.rng.below(3) {
                    self.serial += 1;
                    let op = (epoch, self.serial);
                    self.nodes[node].logs.entry(group).or_default().push(op);
                }
            }
        }
        let n = &self.nodes[node];
        let (log, journaled) = (&n.logs[&group], n.journaled[&group]);
        let stands = Stands {
            group,
            epoch: Epoch(epoch),
            role: desired.role,
            ready: true,
            quiet: log.len() == journaled,
            captured: Sequence(log.len() as u64),
            journaled: Sequence(journaled as u64),
            applied: Sequence(journaled as u64),
            hash: String::new(),
            tail_epoch: Epoch(log[..journaled].last().map_or(0, |op| op.0)),
            complete: true,
            parked: 0,
            replicas,
            desired: desired.number,
        };
        self.tell(node, Input::Stands(stands));
    }

    /// Sends a replica what it lacks; gives how it stands for the active.
    fn ship(&mut self, node: usize, other: usize, group: GroupId, epoch: u64) -> Option<ReplicaStands> {
        let replica = &self.nodes[other];
        let me = self.nodes[node].set.node;
        let follows = replica.desired.get(&group).is_some_and(|desired| {
            desired.role == Role::Follow && desired.record.active() == Some(me) && desired.record.epoch == epoch
        });
        let fenced = replica.epochs.get(&group).is_some_and(|highest| *highest > epoch);
        if !self.linked(node, other) || replica.frozen_until > self.now || replica.stopped || !follows || fenced {
            self.nodes[node].acked.remove(&(group, other));
            return None;
        }
        let journaled = self.nodes[node].journaled[&group];
        // Positions that the active heard of a turn ago.
        let heard = self.nodes[node].acked.get(&(group, other)).copied();
        let mut theirs = self.nodes[other].logs.remove(&group).unwrap_or_default();
        let log = &self.nodes[node].logs[&group][..journaled];
        // Operations are unique: where one stands alike, all before it do.
        let from = heard.filter(|at| *at > 0 && theirs.get(at - 1) == log.get(at - 1)).unwrap_or(0);
        let alike =
            |theirs: &[Op]| from + theirs[from..].iter().zip(log.iter().skip(from)).take_while(|(a, b)| a == b).count();
        let mut common = alike(&theirs);
        if !self.nodes[other].lags {
            let count = 1 + usize::try_from(self.rng.below(8)).expect("small");
            theirs.truncate(common);
            theirs.extend(log.iter().skip(common).take(count));
            common = theirs.len();
            self.nodes[other].journaled.insert(group, common);
        }
        self.nodes[other].logs.insert(group, theirs);
        self.nodes[node].acked.insert((group, other), common);
        let acked = Sequence(heard.unwrap_or(0) as u64);
        let complete = heard.is_some();
        Some(ReplicaStands { node: self.nodes[other].set.node, streaming: true, complete, acked, applied: acked })
    }

    /// Tells clients that what all required replicas have is safe.
    fn acknowledge(&mut self, node: usize, group: GroupId, desired: &Desired) {
        let n = &self.nodes[node];
        let acked = |node: &NodeId| n.acked.get(&(group, usize::from(node.get()) - 1)).copied().unwrap_or(0);
        let safe = desired.required.iter().map(acked).min().unwrap_or(usize::MAX).min(n.journaled[&group]);
        let forced = |record: &GroupRecord| record.cause == Cause::Forced && record.epoch > desired.record.epoch;
        if self.record(group.0).is_some_and(forced) {
            return;
        }
        // Only this epoch's own: what came before was acknowledged, or not, by whoever was active then.
        let epoch = desired.record.epoch;
        let from = self.nodes[node].told.get(&(group, epoch)).copied().unwrap_or(0);
        let ops = self.nodes[node].logs[&group][from.min(safe)..safe].to_vec();
        self.nodes[node].told.insert((group, epoch), safe.max(from));
        self.acked.entry(group).or_default().extend(ops.into_iter().filter(|op| op.0 == epoch));
    }

    /// Nodes that serve a group, by their own belief and right.
    pub(super) fn servers(&self, group: u32) -> Vec<u16> {
        let serves = |node: &usize| self.nodes[*node].agent && self.writes(*node, GroupId(group));
        (0..self.nodes.len()).filter(serves).map(|node| self.nodes[node].set.node.get()).collect()
    }
}
