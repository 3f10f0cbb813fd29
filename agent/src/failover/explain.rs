//! Why a group is where it is, rule by rule; and all that is known, for `status` and the control interface.
//!
//! Owns: texts and the shape of [`Overview`]. What can hurt: an explanation that differs from what is done; so the
//! rules are the very ones that decide. Refuses: changing anything.

use std::collections::BTreeMap;

use serde::Serialize;
use understudy_types::id::{GroupId, NodeId};

use super::decide::Decider;
use super::observe::MS;
use super::promote::Will;
use super::{Role, Said};
use crate::clock::BootNs;
use crate::coordinator::record::GroupRecord;

/// Everything that a node knows of the cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    pub node: NodeId,
    pub coordinator_heard: bool,
    pub revision: u64,
    /// 0 = no lease is held.
    pub lease_left_ms: u64,
    /// Peers are asked for promises, since the coordinator does not answer as it should.
    pub failsafe: bool,
    /// How long an answer of the coordinator may take before that.
    pub patience_ms: u64,
    /// What is missing of the store; empty = nothing.
    pub store_trouble: String,
    pub groups: BTreeMap<u32, GroupView>,
    pub nodes: BTreeMap<u16, NodeView>,
}

#[derive(Clone, Debug, Serialize)]
pub struct GroupView {
    pub record: GroupRecord,
    /// What this node is for it.
    pub role: Role,
    /// As active: for how long it may be served without another renewal or promise.
    pub valid_left_ms: u64,
    /// Replicas that clients wait for and that are not in sync yet.
    pub joining: Vec<NodeId>,
    /// Where it is moving to.
    pub moving_to: Option<NodeId>,
    /// For how long this node promised not to take it.
    pub promised_left_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// 0 = run out, as far as this node knows.
    pub lease_left_ms: u64,
    /// A lease of it stands in the coordinator.
    pub lease: bool,
    pub released: bool,
    pub site: String,
    pub priority: u32,
    pub no_failover: bool,
    pub capacity_groups: u32,
    pub active_groups: usize,
    pub drained: bool,
    pub phi_milli: u32,
    /// Healthy observers that see its service fail.
    pub accused_by: Vec<NodeId>,
}

impl Decider {
    /// Every rule with its present outcome for a group, as this node sees it.
    #[must_use]
    pub fn explain(&self, group: GroupId, now: BootNs) -> Vec<Said> {
        let mut at = self.clone();
        at.now = now.max(at.now);
        let said = |rule: &str, holds: bool, text: String, left_ns: u64| Said {
            rule: rule.to_owned(),
            group: Some(group),
            holds,
            text,
            left_ns,
        };
        let Some(record) = at.view.group(group).cloned() else {
            return vec![said("record", false, "the coordinator has no record of it".to_owned(), 0)];
        };
        let cause = format!(
            "node {} is active at epoch {}, by {:?}; in sync: {:?}",
            record.active, record.epoch, record.cause, record.in_sync
        );
        let mut rules = vec![said("record", true, cause, 0)];
        let me = at.set.node;
        if record.active() == Some(me) {
            let text = if at.store_fresh() { "the store makes progress".to_owned() } else { at.store_trouble() };
            rules.push(said("store", at.store_fresh(), text, 0));
            let left = at.own.until().since_ns(at.now);
            rules.push(said("own-lease", left > 0, format!("the own lease holds for {} ms", left / MS), 0));
            let left = at.valid_until(group).since_ns(at.now);
            let text = format!("it may be served for {} ms by the lease, or by the promise of all replicas", left / MS);
            rules.push(said("valid", left > 0, text, 0));
            if let Some(raw) = record.move_to {
                let wall = at.wall_ns();
                let left = record.move_at_wall_ns.saturating_sub(wall);
                let to = NodeId::new(raw);
                let able = to.map_or(Ok(()), |to| at.can_take(&record, to, true, 0));
                let text = able.as_ref().err().cloned().unwrap_or_else(|| "the move can be done".to_owned());
                rules.push(said("move", able.is_ok() && left == 0, text, left));
            }
        } else if record.replicas.contains(&me.get()) {
            rules.extend(at.promotion_rules(group, &record, Will::Own, 0));
        } else {
            rules.push(said("replica", false, format!("node {me} is no replica of it"), 0));
        }
        rules
    }

    /// Everything that is known.
    #[must_use]
    pub fn overview(&self, now: BootNs) -> Overview {
        let mut at = self.clone();
        at.now = now.max(at.now);
        let groups = at.view.groups.iter().map(|(group, entry)| {
            let local = at.groups.get(group);
            let mine = entry.record.active() == Some(at.set.node);
            let view = GroupView {
                record: entry.record.clone(),
                role: at.role(*group),
                valid_left_ms: if mine { at.valid_until(*group).since_ns(at.now) / MS } else { 0 },
                joining: local.map(|local| local.joining.keys().copied().collect()).unwrap_or_default(),
                moving_to: local.and_then(|local| local.shift).map(|shift| shift.to),
                promised_left_ms: at.promises.given_left_ns(*group, entry.record.epoch(), at.now) / MS,
            };
            (group.0, view)
        });
        let listed =
            at.view.groups.values().flat_map(|entry| entry.record.replicas().into_iter().chain(entry.record.active()));
        let nodes: std::collections::BTreeSet<NodeId> =
            at.view.leases.keys().chain(at.view.nodes.keys()).copied().chain(listed).collect();
        Overview {
            node: at.set.node,
            coordinator_heard: at.view.heard,
            revision: at.view.revision,
            lease_left_ms: at.own.until().since_ns(at.now) / MS,
            failsafe: at.own.trouble,
            patience_ms: at.own.patience_ns(at.set.lease_ns) / MS,
            store_trouble: if at.store_fresh() { String::new() } else { at.store_trouble() },
            groups: groups.collect(),
            nodes: nodes.into_iter().map(|node| (node.get(), at.node_view(node))).collect(),
        }
    }

    fn node_view(&self, node: NodeId) -> NodeView {
        let lease = self.view.lease(node);
        let mine = node == self.set.node;
        let left = if mine { self.own.until().since_ns(self.now) } else { self.lease_left_ns(node) };
        NodeView {
            lease_left_ms: if left == u64::MAX { 0 } else { left / MS },
            lease: lease.is_some(),
            released: lease.is_some_and(|lease| lease.released),
            site: self.site_of(node).unwrap_or_default(),
            priority: lease.map_or(0, |lease| lease.priority),
            no_failover: lease.is_some_and(|lease| lease.no_failover),
            capacity_groups: lease.map_or(0, |lease| lease.capacity_groups),
            active_groups: self.view.active_count(node),
            drained: self.view.drained(node),
            phi_milli: self.seen.suspicion.get(&node).copied().unwrap_or(0),
            accused_by: self.accusers(node).map(|(accusers, _)| accusers).unwrap_or_default(),
        }
    }
}
