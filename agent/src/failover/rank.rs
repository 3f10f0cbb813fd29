//! Which replica should take a group: an order that all candidates compute alike from what they know.
//!
//! Owns: the candidates, their tails, and the wait of each. What can hurt: nothing but time, since all candidates are
//! in sync and a transaction lets one of them through. The most advanced one goes first, so that what was on its way
//! when the node was lost is kept too. Refuses: replicas that are not in sync; a forced promotion does not ask here.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};

use super::Action;
use super::decide::Decider;
use super::observe::MS;
use super::promote::Race;
use crate::coordinator::record::GroupRecord;
use crate::limits::{FAILOVER_RANK_STEP_MS, FAILOVER_TAILS_ASK_MS, FAILOVER_TAILS_MS_MAX};

impl Decider {
    /// What limits a node as a target: its own settings for this one, its lease's record for others.
    pub(super) fn capacity(&self, node: NodeId) -> u32 {
        if node == self.set.node {
            return self.set.capacity_groups;
        }
        self.view.lease(node).map_or(0, |lease| lease.capacity_groups)
    }

    /// Whether one more group is not too much for a node; `more`: groups that are on their way to it.
    pub(super) fn has_room(&self, node: NodeId, more: usize) -> bool {
        let capacity = usize::try_from(self.capacity(node)).unwrap_or(usize::MAX);
        capacity == 0 || self.view.active_count(node) + more < capacity
    }

    pub(super) fn site_of(&self, node: NodeId) -> Option<String> {
        if node == self.set.node {
            return Some(self.set.site.clone());
        }
        let now = self.view.lease(node).map(|lease| lease.site.clone());
        now.or_else(|| self.seen.sites.get(&node).cloned()).filter(|site| !site.is_empty())
    }

    fn priority(&self, node: NodeId) -> u32 {
        if node == self.set.node {
            return self.set.priority;
        }
        self.view.lease(node).map_or(0, |lease| lease.priority)
    }

    fn may_be_chosen(&self, node: NodeId) -> bool {
        let no_failover = if node == self.set.node {
            self.set.no_failover
        } else {
            self.view.lease(node).is_some_and(|lease| lease.no_failover)
        };
        self.alive(node) && !no_failover && !self.view.drained(node) && self.has_room(node, 0)
    }

    /// Replicas in sync that may take the group, best first, as far as this node knows.
    pub(super) fn candidates(&self, group: GroupId, record: &GroupRecord) -> Vec<NodeId> {
        let tails = record.active().and_then(|old| self.races.get(&old)).map(|race| &race.tails);
        let stands = self.groups.get(&group).and_then(|local| local.stands.as_ref());
        let own = stands.map_or((Epoch(0), Sequence(0)), |stands| (stands.tail_epoch, stands.journaled));
        let told = |node: &NodeId| tails.and_then(|tails| tails.get(&(group, *node))).copied().unwrap_or(own);
        let site = record.active().and_then(|old| self.site_of(old));
        let mut list: Vec<(usize, NodeId)> = record.replicas().into_iter().enumerate().collect();
        list.retain(|(_, node)| record.in_sync.contains(&node.get()) && self.may_be_chosen(*node));
        list.sort_by_key(|(position, node)| {
            let other_site = site.is_some() && self.site_of(*node) != site;
            (Reverse(told(node)), other_site, Reverse(self.priority(*node)), *position)
        });
        list.into_iter().map(|(_, node)| node).collect()
    }

    /// Time until it is this node's turn; 0 = now.
    pub(super) fn rank_left_ns(&self, group: GroupId, record: &GroupRecord) -> u64 {
        let me = self.set.node;
        let candidates = self.candidates(group, record);
        let rank = candidates.iter().position(|node| *node == me).unwrap_or(candidates.len());
        let from = self.groups.get(&group).and_then(|local| local.ranked_from).map_or(self.now, |(_, at)| at);
        let turn = from.after_ns(u64::try_from(rank).unwrap_or(u64::MAX).saturating_mul(FAILOVER_RANK_STEP_MS * MS));
        let race = record.active().and_then(|old| self.races.get(&old));
        let told = |node: &NodeId| race.is_some_and(|race| race.tails.contains_key(&(group, *node)));
        if candidates.iter().filter(|node| **node != me).all(told) {
            return turn.since_ns(self.now);
        }
        let asked = race.map_or(self.now, |race| race.begun);
        turn.max(asked.after_ns(FAILOVER_TAILS_MS_MAX * MS)).since_ns(self.now)
    }

    /// As soon as a lease has lost half its time: asks the others who could take its groups how far they are.
    pub(super) fn race(&mut self) {
        let me = self.set.node;
        let mut concerned: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
        for (group, entry) in &self.view.groups {
            let Some(old) = entry.record.active() else { continue };
            if old != me && entry.record.in_sync.contains(&me.get()) && self.lease_half_gone(old) {
                concerned.entry(old).or_default().push(*group);
            }
        }
        self.races.retain(|old, _| concerned.contains_key(old));
        for (old, groups) in concerned {
            let mut asks: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
            for group in groups {
                let others = self.view.group(group).map(|record| self.candidates(group, record)).unwrap_or_default();
                for peer in others.into_iter().filter(|node| *node != me) {
                    asks.entry(peer).or_default().push(group);
                }
            }
            let now = self.now;
            let race = self.races.entry(old).or_insert_with(|| Race::begin(now));
            for (peer, groups) in asks {
                let again = |at: &crate::clock::BootNs| now.since_ns(*at) >= FAILOVER_TAILS_ASK_MS * MS;
                if race.asked.get(&peer).is_none_or(again) {
                    race.asked.insert(peer, now);
                    self.out.push(Action::AskCandidate { peer, groups });
                }
            }
        }
    }

    pub(super) fn tail_told(&mut self, peer: NodeId, group: GroupId, tail_epoch: Epoch, journaled: Sequence) {
        let old = self.view.group(group).and_then(GroupRecord::active);
        if let Some(race) = old.and_then(|old| self.races.get_mut(&old)) {
            race.tails.insert((group, peer), (tail_epoch, journaled));
        }
    }

    /// Tells how far this node is with the groups.
    pub(super) fn tails_asked(&mut self, peer: NodeId, groups: &[GroupId]) {
        let tail = |group: &GroupId| {
            let stands = self.groups.get(group)?.stands.as_ref()?;
            Some((*group, stands.tail_epoch, stands.journaled))
        };
        let tails: Vec<_> = groups.iter().filter_map(tail).collect();
        self.out.push(Action::TellCandidate { peer, tails });
    }
}
