//! Failsafe: when the coordinator is silent, an active node goes on while every replica gives its word not to take
//! over.
//!
//! Owns: what was promised to this node and by it, and until when a group may be served ([`Decider::valid_until`]).
//! What can hurt: a replica that the active does not know of and did not ask; so only the active makes the list longer,
//! and counts a replica from before it asks for the change. And a promise given while a promotion is under way, or by
//! an agent that does not know what an earlier run of it sent; so neither gives one. A promise counts for its holder
//! from before it asked, for its giver from when it was asked, with the drift of clocks. Refuses: promises that nobody
//! asked for.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::{Epoch, GroupId, NodeId};

use super::Action;
use super::decide::Decider;
use super::observe::MS;
use crate::clock::BootNs;
use crate::limits::FAILOVER_PROMISE_MS_MAX;

#[derive(Clone, Debug)]
struct Ask {
    peer: NodeId,
    at: BootNs,
    groups: Vec<(GroupId, Epoch)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Promises {
    asked: BTreeMap<u64, Ask>,
    next_at: BootNs,
    /// Until when each replica of a group will not take it, if it is at this epoch.
    to_us: BTreeMap<GroupId, BTreeMap<NodeId, (Epoch, BootNs)>>,
    /// Until when we will not take a group, if it is at this epoch.
    by_us: BTreeMap<GroupId, (Epoch, BootNs)>,
}

impl Promises {
    /// Time until our word on a group at this epoch ends.
    pub(super) fn given_left_ns(&self, group: GroupId, epoch: Epoch, now: BootNs) -> u64 {
        self.by_us.get(&group).filter(|(given, _)| *given == epoch).map_or(0, |(_, until)| until.since_ns(now))
    }
}

impl Decider {
    /// All who could take a group from this node, which is its active: the replicas that stand in the record, and those
    /// that a change under way adds.
    fn takers(&self, group: GroupId) -> BTreeSet<NodeId> {
        let listed = self.view.group(group).map(|record| record.replicas()).unwrap_or_default();
        let added = self.groups.get(&group).map(|local| local.adding.clone()).unwrap_or_default();
        listed.into_iter().chain(added).filter(|node| *node != self.set.node).collect()
    }

    /// Until when this node may serve a group of which it is the active.
    pub(super) fn valid_until(&self, group: GroupId) -> BootNs {
        let Some(record) = self.view.group(group) else { return BootNs(0) };
        let epoch = record.epoch();
        let Some(given) = self.promises.to_us.get(&group) else { return self.own.until() };
        let promised = |node: NodeId| {
            let word = given.get(&node).filter(|(of, _)| *of == epoch);
            word.map_or(BootNs(0), |(_, until)| *until)
        };
        let takers = self.takers(group);
        // With nobody to ask, this node's own word, written down when it would have asked.
        let by_all = takers.iter().map(|node| promised(*node)).min().unwrap_or_else(|| promised(self.set.node));
        self.own.until().max(by_all)
    }

    /// Asks, as long as the coordinator does not answer as it should.
    pub(super) fn failsafe(&mut self) {
        let now = self.now;
        self.promises.asked.retain(|_, ask| now.since_ns(ask.at) <= self.set.lease_ns);
        self.promises.by_us.retain(|_, (_, until)| now < *until);
        self.promises.to_us.retain(|_, given| given.values().any(|(_, until)| now < *until));
        let counts = self.own.ever && self.store_fresh() && !self.stopping();
        if !counts || !self.own.trouble || now < self.promises.next_at {
            return;
        }
        self.promises.next_at = now.after_ns(self.set.renew_ns);
        let mut asks: BTreeMap<NodeId, Vec<(GroupId, Epoch)>> = BTreeMap::new();
        let mine = self.view.groups.iter().filter(|(_, entry)| entry.record.active() == Some(self.set.node));
        for (group, epoch) in mine.map(|(group, entry)| (*group, entry.record.epoch())).collect::<Vec<_>>() {
            // One that is about to be given away is not held on to.
            if self.txns.flipping(group) {
                continue;
            }
            let takers = self.takers(group);
            if takers.is_empty() {
                let until = now.after_ns(self.set.lease_ns);
                self.promises.to_us.entry(group).or_default().insert(self.set.node, (epoch, until));
            }
            for peer in takers {
                asks.entry(peer).or_default().push((group, epoch));
            }
        }
        let duration_ns = self.set.lease_ns;
        for (peer, groups) in asks {
            let id = self.txns.next_id();
            self.promises.asked.insert(id, Ask { peer, at: now, groups: groups.clone() });
            self.out.push(Action::AskPromise { peer, id, groups, duration_ns });
        }
    }

    /// A peer gave its word for some of the groups for which it was asked.
    pub(super) fn promised(&mut self, peer: NodeId, id: u64, groups: &[GroupId]) {
        let Some(ask) = self.promises.asked.get(&id).filter(|ask| ask.peer == peer) else { return };
        let until = ask.at.after_ns(self.set.lease_ns);
        for (group, epoch) in ask.groups.iter().filter(|(group, _)| groups.contains(group)) {
            let given = self.promises.to_us.entry(*group).or_default();
            let entry = given.entry(peer).or_insert((*epoch, until));
            *entry = if entry.0 == *epoch { (*epoch, entry.1.max(until)) } else { (*epoch, until) };
        }
        self.promises.asked.remove(&id);
    }

    /// What was promised counts no more, and answers that are on their way will not.
    pub(super) fn promises_forgotten(&mut self) {
        self.promises.to_us.clear();
        self.promises.asked.clear();
    }

    /// A peer asks for our word.
    pub(super) fn promise_asked(&mut self, peer: NodeId, id: u64, groups: &[(GroupId, Epoch)], duration_ns: u64) {
        let drift = self.wait_ns(duration_ns);
        let able = self.view.known && self.own.ever && duration_ns <= FAILOVER_PROMISE_MS_MAX * MS;
        let mut granted = Vec::new();
        for (group, epoch) in groups {
            let record = self.view.group(*group);
            let same = record.is_some_and(|record| record.active() == Some(peer) && record.epoch() == *epoch);
            if able && same && peer != self.set.node && !self.txns.promoting(*group) {
                let until = self.now.after_ns(drift);
                let entry = self.promises.by_us.entry(*group).or_insert((*epoch, until));
                *entry = if entry.0 == *epoch { (*epoch, entry.1.max(until)) } else { (*epoch, until) };
                granted.push(*group);
            }
        }
        self.out.push(Action::Promise { peer, id, groups: granted });
    }
}
