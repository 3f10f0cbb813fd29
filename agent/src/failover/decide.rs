//! The decider of one node: takes what happened, gives what is to be done.
//!
//! Owns: the state, the dispatch of [`Input`], and the order of what comes out: what takes a right away goes before
//! everything else, so that a lease is never given back, and a group never given away, while changes still go in. What
//! can hurt: an input that comes late; so each is judged by `now`, and rights end by themselves. Refuses: clocks and
//! I/O.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::{GroupId, NodeId, Sequence};

use super::desire::Emitted;
use super::lease::Own;
use super::observe::{MS, Observed};
use super::orders::Running;
use super::promise::Promises;
use super::promote::{Fencing, Race};
use super::shift::Shift;
use super::sync::Member;
use super::txn::{Purpose, Txns};
use super::view::View;
use super::{Action, Change, Input, Record, Said, Settings, Stands};
use crate::clock::BootNs;
use crate::coordinator::record::{Base, Cause, GroupRecord, Name};
use crate::limits::FAILOVER_TXN_GROUPS_MAX;

/// Whole readings older than what was heard, after which the coordinator is taken to have gone back.
const OLDER_MAX: u32 = 3;

/// Everything that one node knows about who is active.
#[derive(Clone, Debug)]
pub struct Decider {
    pub(super) set: Settings,
    pub(super) now: BootNs,
    wall: (u64, BootNs),
    /// Whole readings in a row that were older than what was heard.
    older: u32,
    pub(super) view: View,
    pub(super) own: Own,
    pub(super) seen: Observed,
    pub(super) txns: Txns,
    pub(super) promises: Promises,
    pub(super) groups: BTreeMap<GroupId, Local>,
    /// By the node whose lease is running out.
    pub(super) races: BTreeMap<NodeId, Race>,
    pub(super) fencing: BTreeMap<NodeId, Fencing>,
    pub(super) orders: BTreeMap<u64, Running>,
    pub(super) write_until: Option<BootNs>,
    said: BTreeMap<(String, Option<GroupId>), String>,
    pub(super) out: Vec<Action>,
}

/// What this node itself knows of a group, beside its record.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    pub(super) stands: Option<Stands>,
    /// The highest epoch that was ever seen.
    pub(super) epoch_seen: u64,
    active_seen: Option<u16>,
    /// The last change of the active node that was seen to happen.
    pub(super) changed_at: Option<BootNs>,
    /// The last record of one that is gone.
    pub(super) gone: Option<GroupRecord>,
    pub(super) emitted: Option<Emitted>,
    /// Replicas that clients wait for and that are not in sync yet; with the position that makes them so.
    pub(super) joining: BTreeMap<NodeId, Join>,
    pub(super) members: BTreeMap<NodeId, Member>,
    pub(super) left_at: BTreeMap<NodeId, BootNs>,
    /// Replicas that a change under way adds.
    pub(super) adding: BTreeSet<NodeId>,
    /// Where this epoch began here.
    pub(super) base: Option<(u64, Base)>,
    pub(super) shift: Option<Shift>,
    pub(super) shift_after: BootNs,
    /// A wish to move is taken back.
    pub(super) unwish: bool,
    /// Since when this node could be promoted, for the record of this revision.
    pub(super) ranked_from: Option<(u64, BootNs)>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Join {
    /// Number of the [`super::Desired`] from which on clients wait for it; 0 = not sent yet.
    pub(super) number: u64,
    pub(super) target: Option<Sequence>,
}

/// What an input makes worth another look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    One(GroupId),
    Nothing,
}

impl Decider {
    /// A node that holds nothing and has seen nothing.
    #[must_use]
    pub fn new(settings: Settings, now: BootNs) -> Self {
        Self {
            set: settings,
            now,
            wall: (0, now),
            older: 0,
            view: View::default(),
            own: Own::default(),
            seen: Observed::default(),
            txns: Txns::default(),
            promises: Promises::default(),
            groups: BTreeMap::new(),
            races: BTreeMap::new(),
            fencing: BTreeMap::new(),
            orders: BTreeMap::new(),
            write_until: None,
            said: BTreeMap::new(),
            out: Vec::new(),
        }
    }

    /// Takes what happened, gives what is to be done, in order.
    pub fn on(&mut self, input: Input, now: BootNs) -> Vec<Action> {
        self.now = self.now.max(now);
        let scope = self.take_in(input);
        self.settle();
        if scope != Scope::Nothing {
            self.act(scope);
            self.desires(match scope {
                Scope::One(group) => vec![group],
                _ => self.all_groups(),
            });
        }
        std::mem::take(&mut self.out)
    }

    fn take_in(&mut self, input: Input) -> Scope {
        match input {
            Input::Tick { wall_ns } => self.wall = (wall_ns, self.now),
            Input::Whole { changes, revision } => self.whole(changes, revision),
            Input::Changed { changes } => {
                // Until everything was read again, single changes tell nothing.
                for change in changes.iter().filter(|_| self.view.heard).collect::<Vec<_>>() {
                    self.changed(change);
                }
            }
            Input::Lost { reason } => {
                self.view.heard = false;
                self.own.trouble = true;
                self.say("coordinator", None, "lost", false, format!("the coordinator is not heard: {reason}"), 0);
            }
            Input::Answered { id, answer, rtt_ns } => {
                if !self.put_answered(id, &answer, rtt_ns) {
                    self.txn_answered(id, &answer);
                }
            }
            Input::Store { good_at, why } => self.store_seen(good_at, why),
            Input::Stands(stands) => {
                let group = stands.group;
                self.groups.entry(group).or_default().stands = Some(stands);
                return Scope::One(group);
            }
            Input::PromiseAsked { peer, id, groups, duration_ns } => {
                self.promise_asked(peer, id, &groups, duration_ns);
                return Scope::Nothing;
            }
            Input::Promised { peer, id, groups } => self.promised(peer, id, &groups),
            Input::Candidate { peer, group, tail_epoch, journaled } => {
                self.tail_told(peer, group, tail_epoch, journaled);
            }
            Input::CandidateAsked { peer, groups } => {
                self.tails_asked(peer, &groups);
                return Scope::Nothing;
            }
            Input::Suspicion { peer, phi_milli } => {
                self.seen.suspicion.insert(peer, phi_milli);
                return Scope::Nothing;
            }
            Input::Observed { by, of, failing_ns, healthy, why } => {
                self.observed(by, of, failing_ns, healthy, why);
                return Scope::Nothing;
            }
            Input::FenceDone { node, ok } => self.fence_done(node, ok),
            Input::Order { id, order, wall_ns } => {
                self.wall = (wall_ns, self.now);
                self.ordered(id, order);
            }
            Input::Stop => self.stop(),
        }
        Scope::All
    }

    fn whole(&mut self, changes: Vec<Change>, revision: u64) {
        let first = !self.view.known;
        let before = self.view.revision;
        if revision < before && self.view.heard && self.older < OLDER_MAX {
            // Most likely read before a change that was heard first. A coordinator that was restored stays older.
            self.older += 1;
            self.reread();
            return;
        }
        self.older = 0;
        if !first && revision < before {
            self.forget_done();
            let text = format!("the coordinator went back from revision {before} to {revision}");
            self.say("coordinator", None, "back", false, text, 0);
        } else {
            self.say("coordinator", None, "heard", true, "the coordinator is heard".to_owned(), 0);
        }
        let last: Vec<_> = self.view.groups.iter().map(|(group, entry)| (*group, entry.record.clone())).collect();
        let different = self.view.replace(changes, revision);
        for (group, record) in last {
            if self.view.group(group).is_none() {
                self.groups.entry(group).or_default().gone = Some(record);
            }
        }
        for change in &different {
            self.noticed(change, first);
        }
        if first || revision != before {
            self.gap_seen(first);
        }
        self.own_reread();
    }

    fn changed(&mut self, change: &Change) {
        if let (Name::Group(group), None) = (&change.name, &change.record) {
            self.groups.entry(*group).or_default().gone = self.view.group(*group).cloned();
        }
        if self.view.apply(change) {
            self.noticed(change, false);
        }
    }

    /// A change that the view has taken.
    fn noticed(&mut self, change: &Change, first: bool) {
        match &change.name {
            Name::Lease(node) => {
                let record = self.view.lease(*node).cloned();
                if *node == self.set.node {
                    self.own_seen(record.as_ref(), change.revision, first);
                } else {
                    self.lease_seen(*node, record.as_ref(), change.revision);
                }
            }
            Name::Group(group) => {
                let Some(record) = self.view.group(*group).cloned() else { return };
                let now = self.now;
                let local = self.groups.entry(*group).or_default();
                local.gone = None;
                if local.active_seen.is_some_and(|active| active != record.active) {
                    local.changed_at = Some(now);
                }
                local.active_seen = Some(record.active);
                if record.epoch != local.epoch_seen {
                    local.joining.clear();
                    local.members.clear();
                    local.left_at.clear();
                    local.shift = None;
                    local.unwish = false;
                }
                local.epoch_seen = local.epoch_seen.max(record.epoch);
                let kept: BTreeSet<NodeId> = record.replicas().into_iter().collect();
                local.joining.retain(|node, _| kept.contains(node) && !record.in_sync.contains(&node.get()));
            }
            Name::Node(_) | Name::Pause(_) => {}
        }
    }

    fn act(&mut self, scope: Scope) {
        self.lease_due();
        self.txns.wanted = false;
        if !self.view.known {
            return;
        }
        let groups = match scope {
            Scope::One(group) => vec![group],
            _ => self.all_groups(),
        };
        if scope == Scope::All {
            self.failsafe();
            self.create();
            self.accuse();
        }
        self.shifts(&groups);
        self.amend(&groups);
        if scope == Scope::All {
            self.promotions();
            self.orders_due();
        }
    }

    fn all_groups(&self) -> Vec<GroupId> {
        let known: BTreeSet<GroupId> = self.view.groups.keys().chain(self.groups.keys()).copied().collect();
        known.into_iter().collect()
    }

    /// First records of groups that are placed here and have none.
    fn create(&mut self) {
        let me = self.set.node;
        let missing = |placed: &&super::Placed| placed.active == me && self.view.group(placed.group).is_none();
        let missing: Vec<super::Placed> = self.set.placement.iter().filter(missing).cloned().collect();
        let mut fresh = Vec::new();
        for placed in missing {
            let epoch = self.epoch_known(placed.group);
            if epoch > 1 {
                let text = format!(
                    "group {} has been at epoch {epoch}, and the coordinator knows nothing of it: restore the \
                     coordinator, or `understudy promote --force` the group where its mail is newest",
                    placed.group
                );
                self.say("placement", Some(placed.group), "older", false, text, 0);
            } else if self.free(placed.group) {
                fresh.push(placed);
            }
        }
        if fresh.is_empty() || !self.view.heard || !self.may_act() {
            return;
        }
        for chunk in fresh.chunks(FAILOVER_TXN_GROUPS_MAX) {
            let mut expect = vec![self.own_expect()];
            let mut write = Vec::new();
            for placed in chunk {
                let record = GroupRecord {
                    epoch: 1,
                    active: me.get(),
                    replicas: placed.replicas.iter().filter(|node| **node != me).map(|node| node.get()).collect(),
                    in_sync: BTreeSet::new(),
                    before: None,
                    base: None,
                    cause: Cause::Placement,
                    move_to: None,
                    move_at_wall_ns: 0,
                    replicas_wanted: None,
                    since_wall_ns: self.wall_ns(),
                };
                expect.push((Name::Group(placed.group), 0));
                write.push((Name::Group(placed.group), Some(Record::Group(record)), None));
            }
            self.transact(Purpose::Create, chunk.iter().map(|placed| placed.group).collect(), expect, write);
        }
    }

    /// The highest epoch of a group that this node knows of.
    pub(super) fn epoch_known(&self, group: GroupId) -> u64 {
        let record = self.view.group(group).map_or(0, |record| record.epoch);
        let local = self.groups.get(&group);
        let tail =
            local.and_then(|local| local.stands.as_ref()).map_or(0, |stands| stands.tail_epoch.0.max(stands.epoch.0));
        record.max(tail).max(local.map_or(0, |local| local.epoch_seen))
    }

    /// Wall time, for records and what people wrote down.
    pub(super) fn wall_ns(&self) -> u64 {
        self.wall.0.saturating_add(self.now.since_ns(self.wall.1))
    }

    /// Says it unless it was the last word on this rule and group; `key` is what makes it another word.
    pub(super) fn say(
        &mut self,
        rule: &str,
        group: Option<GroupId>,
        key: &str,
        holds: bool,
        text: String,
        left_ns: u64,
    ) {
        let last = self.said.insert((rule.to_owned(), group), key.to_owned());
        if last.as_deref() != Some(key) {
            self.out.push(Action::Say(Said { rule: rule.to_owned(), group, holds, text, left_ns }));
        }
    }

    /// The rule has nothing to say of the group any more: the next word counts as new.
    pub(super) fn unsay(&mut self, rule: &str, group: GroupId) {
        self.said.remove(&(rule.to_owned(), Some(group)));
    }

    /// Milliseconds, for texts.
    pub(super) fn ms(ns: u64) -> u64 {
        ns / MS
    }
}
