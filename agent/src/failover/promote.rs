//! Promotion: this node takes the groups of one whose lease has run out.
//!
//! Owns: the rules, each with a name, in the order in which `explain` shows them; and the one transaction. What can
//! hurt: two promotions of one group, or one beside an active that still counts on its lease. The transaction fails
//! unless the group's record, the lost node's lease (the very record that was seen to run out) and the own lease are
//! still the same, and it takes the lost node's lease away, so that its holder cannot renew it and reads everything
//! anew before it serves again. Refuses: a replica that is not in sync, unless an administrator forces it.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};

use super::decide::Decider;
use super::observe::MS;
use super::txn::Purpose;
use super::{Action, Record, Said};
use crate::clock::BootNs;
use crate::config::model::Automation;
use crate::coordinator::record::{Cause, GroupRecord, Name};
use crate::limits::{FAILOVER_FENCE_RETRY_MS, FAILOVER_TXN_GROUPS_MAX};

/// A lease that is running out, seen by one who could take its holder's groups.
#[derive(Clone, Debug)]
pub(super) struct Race {
    pub(super) begun: BootNs,
    pub(super) asked: BTreeMap<NodeId, BootNs>,
    pub(super) tails: BTreeMap<(GroupId, NodeId), (Epoch, Sequence)>,
}

impl Race {
    pub(super) fn begin(now: BootNs) -> Self {
        Self { begun: now, asked: BTreeMap::new(), tails: BTreeMap::new() }
    }
}

/// How the fence hook stands with a node, for the lease of this revision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fencing {
    revision: u64,
    at: BootNs,
    /// `None`: it runs.
    ok: Option<bool>,
}

/// Which rules count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Will {
    Own,
    /// An administrator's: only what protects from two writers counts.
    Forced,
}

impl Decider {
    /// Every rule with its present outcome, in order. `more`: groups that are taken in the same turn.
    pub(super) fn promotion_rules(&self, group: GroupId, record: &GroupRecord, will: Will, more: usize) -> Vec<Said> {
        let mut rules = Vec::new();
        let mut rule = |name: &str, holds: bool, left_ns: u64, text: String| {
            let (rule, group) = (name.to_owned(), Some(group));
            rules.push(Said { rule, group, holds, text, left_ns: if holds { 0 } else { left_ns } });
        };
        let (me, now) = (self.set.node, self.now);
        let Some(old) = record.active() else { return rules };
        let own = will == Will::Own;
        if own {
            let text = format!("failover.mode is {:?}", self.set.mode).to_lowercase();
            rule("mode", self.set.mode != Automation::Off, 0, text);
        }
        rule("coordinator", self.view.heard, 0, "the coordinator must be heard".to_owned());
        let left = self.lease_left_ns(old);
        rule("lease-of-active", left == 0, left, format!("the lease of node {old} must have run out"));
        let left = self.promises.given_left_ns(group, record.epoch(), now);
        rule("promise", left == 0, left, format!("node {old} must not have our promise"));
        if own {
            let text = format!("node {me} must be in sync: {:?} are", record.in_sync);
            rule("in-sync", record.in_sync.contains(&me.get()), 0, text);
            let pause = self.view.failover_pause(group, &[old, me], self.wall_ns());
            let text = pause.map_or("failover is not paused".to_owned(), |(id, pause)| {
                format!("pause `{id}` of {} holds: {}", pause.owner, pause.reason)
            });
            let left = pause.map_or(0, |(_, pause)| pause.until_wall_ns.saturating_sub(self.wall_ns()));
            rule("paused", pause.is_none(), left, text);
            let may = !self.set.no_failover && !self.view.drained(me);
            rule("node", may, 0, format!("node {me} must be neither `no_failover` nor drained"));
        }
        let more = more + self.txns.promoting_count();
        let text = format!("node {me} may be active for {} groups (0 = no limit)", self.set.capacity_groups);
        rule("capacity", !own || self.has_room(me, more), 0, text);
        if own {
            let site = self.site_of(old);
            let same = site.as_ref().is_none_or(|site| *site == self.set.site);
            let text = format!("node {old} is of site `{}`, this one of `{}`", site.unwrap_or_default(), self.set.site);
            rule("site", same || self.set.cross_site, 0, text);
        }
        let text = if self.store_fresh() { "the store makes progress".to_owned() } else { self.store_trouble() };
        rule("store", self.store_fresh(), 0, text);
        rule("own-lease", now < self.own.until(), 0, "the own lease must be held".to_owned());
        if own {
            let changed = self.groups.get(&group).and_then(|local| local.changed_at);
            let left = changed.map_or(0, |at| at.after_ns(self.set.dwell_ns).since_ns(now));
            rule("dwell", left == 0, left, "the active node must not have changed a short time ago".to_owned());
            let left = self.rank_left_ns(group, record);
            let order: Vec<String> = self.candidates(group, record).iter().map(ToString::to_string).collect();
            rule("rank", left == 0, left, format!("best candidates first: {}", order.join(", ")));
        }
        let (fenced, left) = self.fenced(old);
        rule("fence-hook", fenced, left, format!("the fence hook must have succeeded against node {old}"));
        rules
    }

    /// Promotes this node where all rules hold; says which does not where one holds it back.
    pub(super) fn promotions(&mut self) {
        self.race();
        let me = self.set.node;
        let mut lost: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
        for (group, entry) in &self.view.groups {
            let Some(old) = entry.record.active() else { continue };
            if old != me && entry.record.replicas.contains(&me.get()) && self.lease_left_ns(old) == 0 {
                lost.entry(old).or_default().push(*group);
            }
        }
        let out: BTreeSet<GroupId> = lost.values().flatten().copied().collect();
        let idle = |(group, local): (&GroupId, &super::decide::Local)| {
            (local.ranked_from.is_some() && !out.contains(group)).then_some(*group)
        };
        for group in self.groups.iter().filter_map(idle).collect::<Vec<_>>() {
            self.groups.entry(group).or_default().ranked_from = None;
            self.unsay("promotion", group);
        }
        self.fencing.retain(|old, _| lost.contains_key(old));
        for (old, groups) in lost {
            self.take_over(old, &groups);
        }
    }

    fn take_over(&mut self, old: NodeId, groups: &[GroupId]) {
        let mut ready = Vec::new();
        let mut unfenced = false;
        for group in groups {
            let Some(entry) = self.view.groups.get(group) else { continue };
            let (record, revision) = (entry.record.clone(), entry.revision);
            let now = self.now;
            let local = self.groups.entry(*group).or_default();
            if local.ranked_from.is_none_or(|(of, _)| of != revision) {
                local.ranked_from = Some((revision, now));
            }
            let rules = self.promotion_rules(*group, &record, Will::Own, ready.len());
            let held = rules.into_iter().find(|rule| !rule.holds);
            if let Some(held) = held {
                unfenced |= held.rule == "fence-hook";
                let text = format!("not promoted: {}: {}", held.rule, held.text);
                let key = format!("{revision} {}", held.rule);
                self.say("promotion", Some(*group), &key, false, text, held.left_ns);
            } else if self.set.mode == Automation::DryRun {
                let text = format!("would be promoted in place of node {old} (`failover.mode` is `dry-run`)");
                self.say("promotion", Some(*group), &format!("{revision} would"), false, text, 0);
            } else if self.free(*group) {
                ready.push(*group);
            }
        }
        if unfenced && self.set.mode == Automation::On {
            self.fence(old);
        }
        ready.truncate(FAILOVER_TXN_GROUPS_MAX);
        if !ready.is_empty() && !self.txns.taking_from(old) && self.may_act() {
            self.promote(old, &ready, Cause::Failover);
        }
    }

    /// The one transaction that makes this node the active of groups of a lost one.
    pub(super) fn promote(&mut self, old: NodeId, groups: &[GroupId], cause: Cause) {
        let lease = Name::Lease(old);
        let lease_revision = self.view.revision_of(&lease);
        let mut expect = vec![self.own_expect(), (lease.clone(), lease_revision)];
        let mut write = Vec::new();
        if lease_revision != 0 {
            write.push((lease, None, None));
        }
        for group in groups {
            let Some(entry) = self.view.groups.get(group) else { continue };
            let (record, revision) = (self.taken(*group, &entry.record, cause), entry.revision);
            expect.push((Name::Group(*group), revision));
            let text = format!("node {} takes it at epoch {} in place of node {old}", self.set.node, record.epoch);
            write.push((Name::Group(*group), Some(Record::Group(record)), None));
            self.say("promotion", Some(*group), &format!("{revision} promotes"), true, text, 0);
        }
        self.transact(Purpose::Promote { old }, groups.to_vec(), expect, write);
    }

    /// The record with this node as its active.
    pub(super) fn taken(&self, group: GroupId, before: &GroupRecord, cause: Cause) -> GroupRecord {
        let me = self.set.node.get();
        let mut replicas: Vec<u16> =
            before.replicas.iter().copied().filter(|node| *node != me && *node != before.active).collect();
        replicas.push(before.active);
        let mut in_sync = before.in_sync.clone();
        in_sync.retain(|node| *node != me && *node != before.active);
        if cause == Cause::Forced {
            // They may hold what this node does not, and follow it from wherever it is.
            in_sync.clear();
        }
        GroupRecord {
            epoch: self.epoch_known(group).max(before.epoch) + 1,
            active: me,
            replicas,
            in_sync,
            before: Some(before.active),
            base: None,
            cause,
            move_to: None,
            move_at_wall_ns: 0,
            replicas_wanted: before.replicas_wanted.clone(),
            since_wall_ns: self.wall_ns(),
        }
    }

    /// Whether a lost node needs no (more) fencing by the hook, and when the hook may run again.
    fn fenced(&self, old: NodeId) -> (bool, u64) {
        if !self.set.fence_hook {
            return (true, 0);
        }
        let revision = self.seen.leases.get(&old).map_or(0, |entry| entry.revision);
        match self.fencing.get(&old).filter(|fencing| fencing.revision == revision) {
            Some(Fencing { ok: Some(true), .. }) => (true, 0),
            Some(Fencing { ok: Some(false), at, .. }) => {
                (false, at.after_ns(FAILOVER_FENCE_RETRY_MS * MS).since_ns(self.now))
            }
            _ => (false, 0),
        }
    }

    /// Runs the hook once for each lease that ran out, and again some time after it failed.
    pub(super) fn fence(&mut self, old: NodeId) {
        let revision = self.seen.leases.get(&old).map_or(0, |entry| entry.revision);
        let now = self.now;
        let due = match self.fencing.get(&old).filter(|fencing| fencing.revision == revision) {
            None => true,
            Some(Fencing { ok: Some(false), at, .. }) => now.since_ns(*at) >= FAILOVER_FENCE_RETRY_MS * MS,
            Some(_) => false,
        };
        if due {
            self.fencing.insert(old, Fencing { revision, at: now, ok: None });
            self.out.push(Action::Fence { node: old });
        }
    }

    pub(super) fn fence_done(&mut self, node: NodeId, ok: bool) {
        if let Some(fencing) = self.fencing.get_mut(&node) {
            (fencing.ok, fencing.at) = (Some(ok), self.now);
        }
    }
}
