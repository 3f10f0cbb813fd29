//! What an administrator asks for: written into the coordinator from any node, done by whoever is concerned.
//!
//! Owns: checks that the answer may name, the writes, and the answers. What can hurt: two administrators at once; each
//! write expects what it was judged by, and is judged anew when that has changed. An order counts as done when the view
//! shows it, whatever became of its transactions. Refuses: making the list of replicas longer itself, since the active
//! may just be going by the promises of those it knows of (see `promise`).

use std::collections::BTreeSet;

use understudy_types::id::{GroupId, NodeId};

use super::decide::Decider;
use super::observe::MS;
use super::promote::Will;
use super::txn::{End, Purpose, Write};
use super::{Action, Order, Record};
use crate::clock::BootNs;
use crate::coordinator::record::{Cause, GroupRecord, Name, NodeRecord};
use crate::limits::{FAILOVER_ORDER_MS_MAX, FAILOVER_ORDERS_MAX, FAILOVER_TXN_GROUPS_MAX};

/// An order that is not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Running {
    order: Order,
    since: BootNs,
    /// Not again before the view has moved on from this revision.
    refused_at: Option<u64>,
    /// Of a forced promotion: what its answer will say of the loss.
    loss: Option<String>,
}

/// What is to be done next for an order.
enum Step {
    Answer(Result<String, String>),
    Write(Vec<(Name, u64)>, Vec<Write>),
    Wait,
}

impl Decider {
    pub(super) fn ordered(&mut self, id: u64, order: Order) {
        let refused = if !self.view.heard {
            Some("the coordinator is not heard: no order can be written now")
        } else if self.orders.len() >= FAILOVER_ORDERS_MAX {
            Some("too many orders are under way")
        } else {
            None
        };
        if let Some(why) = refused {
            self.out.push(Action::Reply { id, result: Err(why.to_owned()) });
            return;
        }
        // What can be refused at once is refused with nothing written.
        if let Err(why) = self.judge(&order) {
            self.out.push(Action::Reply { id, result: Err(why) });
            return;
        }
        self.orders.insert(id, Running { order, since: self.now, refused_at: None, loss: None });
    }

    pub(super) fn orders_due(&mut self) {
        for id in self.orders.keys().copied().collect::<Vec<_>>() {
            if self.txns.is(Purpose::Order { id }) {
                self.order_late(id);
                continue;
            }
            let Some(running) = self.orders.get(&id) else { continue };
            if running.refused_at == Some(self.view.revision) {
                self.order_late(id);
                continue;
            }
            match self.step(&running.order.clone(), id) {
                Step::Answer(result) => self.answer(id, result),
                Step::Write(expect, write) => {
                    self.transact(Purpose::Order { id }, Vec::new(), expect, write);
                }
                Step::Wait => self.order_late(id),
            }
        }
    }

    fn order_late(&mut self, id: u64) {
        let late = |running: &Running| self.now.since_ns(running.since) >= FAILOVER_ORDER_MS_MAX * MS;
        if self.orders.get(&id).is_some_and(late) {
            let why =
                "the coordinator did not confirm it in time; look with `understudy placement show` what is so now";
            self.answer(id, Err(why.to_owned()));
        }
    }

    fn answer(&mut self, id: u64, result: Result<String, String>) {
        self.orders.remove(&id);
        self.out.push(Action::Reply { id, result });
    }

    /// A transaction of an order ended; whether the order is done, the view tells.
    pub(super) fn order_ended(&mut self, id: u64, end: End) {
        let seen = self.view.revision;
        if let Some(running) = self.orders.get_mut(&id) {
            running.refused_at = matches!(end, End::Refused | End::Unreachable).then_some(seen);
        }
    }

    /// Why an order cannot be taken at all.
    fn judge(&self, order: &Order) -> Result<(), String> {
        match order {
            Order::Move { groups, to, .. } => groups
                .iter()
                .try_for_each(|group| self.judge_move(*group, *to))
                .and_then(|()| match groups.is_empty() {
                    true => Err("no group is named".to_owned()),
                    false => Ok(()),
                }),
            Order::CancelMove { groups } => groups.iter().try_for_each(|group| self.known(*group).map(|_| ())),
            Order::Force { group } => self.judge_force(*group),
            Order::Replicas { group, replicas } => {
                let record = self.known(*group)?;
                let distinct: BTreeSet<&NodeId> = replicas.iter().collect();
                if distinct.len() != replicas.len() {
                    return Err("a replica is named twice".to_owned());
                }
                match record.active().filter(|active| replicas.contains(active)) {
                    Some(active) => Err(format!("node {active} is the active of group {group}, and no replica")),
                    None => Ok(()),
                }
            }
            Order::Resume { id } => match self.view.pauses.contains_key(id) {
                true => Ok(()),
                false => Err(format!("there is no pause `{id}`")),
            },
            Order::Drain { .. } | Order::Pause { .. } => Ok(()),
        }
    }

    fn known(&self, group: GroupId) -> Result<&GroupRecord, String> {
        self.view.group(group).ok_or_else(|| format!("the coordinator has no record of group {group}"))
    }

    fn judge_move(&self, group: GroupId, to: Option<NodeId>) -> Result<(), String> {
        let record = self.known(group)?;
        let refused = |why: String| Err(format!("group {group}: {why}"));
        let Some(to) = to else {
            return match self.candidates(group, record).iter().any(|node| Some(*node) != record.active()) {
                true => Ok(()),
                false => refused("no replica is in sync, holds a lease and has room".to_owned()),
            };
        };
        if record.active() == Some(to) {
            return refused(format!("node {to} is already its active"));
        }
        self.can_take(record, to, true, 0).or_else(refused)
    }

    fn judge_force(&self, group: GroupId) -> Result<(), String> {
        let record = self.known(group)?;
        if record.active() == Some(self.set.node) {
            return Err(format!("node {} is already the active of group {group}", self.set.node));
        }
        if !record.replicas.contains(&self.set.node.get()) {
            return Err(format!("node {} is no replica of group {group}", self.set.node));
        }
        Ok(())
    }

    fn step(&mut self, order: &Order, id: u64) -> Step {
        match order {
            Order::Move { groups, to, at_wall_ns } => {
                let wanted = to.map_or(0, NodeId::get);
                let done = |record: &GroupRecord| {
                    let is = (record.move_to, record.move_at_wall_ns) == (Some(wanted), *at_wall_ns);
                    is || to.is_some_and(|to| record.active() == Some(to))
                };
                let change = |record: &mut GroupRecord| {
                    (record.move_to, record.move_at_wall_ns) = (Some(wanted), *at_wall_ns);
                };
                self.step_groups(groups, done, change, "the move is ordered")
            }
            Order::CancelMove { groups } => {
                let change = |record: &mut GroupRecord| (record.move_to, record.move_at_wall_ns) = (None, 0);
                self.step_groups(groups, |record| record.move_to.is_none(), change, "no move is wanted any more")
            }
            Order::Drain { node, drained, reason, owner } => {
                let is = self.view.nodes.get(node).is_some_and(|entry| {
                    entry.record.drained == *drained && entry.record.reason == *reason && entry.record.owner == *owner
                });
                if is || (!drained && !self.view.drained(*node)) {
                    let text = if *drained { "is drained" } else { "may be active again" };
                    return Step::Answer(Ok(format!("node {node} {text}")));
                }
                let (reason, owner) = (reason.clone(), owner.clone());
                let record = NodeRecord { drained: *drained, reason, owner, since_wall_ns: self.wall_ns() };
                self.step_write(Name::Node(*node), Some(Record::Node(record)))
            }
            Order::Pause { id, pause } => {
                if self.view.pauses.get(id).is_some_and(|entry| entry.record == *pause) {
                    return Step::Answer(Ok(format!("pause `{id}` holds")));
                }
                self.step_write(Name::Pause(id.clone()), Some(Record::Pause(pause.clone())))
            }
            Order::Resume { id } => {
                if !self.view.pauses.contains_key(id) {
                    return Step::Answer(Ok(format!("pause `{id}` is gone")));
                }
                self.step_write(Name::Pause(id.clone()), None)
            }
            Order::Replicas { group, replicas } => {
                let wanted: Vec<u16> = replicas.iter().map(|node| node.get()).collect();
                let (done, change) = (wanted.clone(), wanted);
                self.step_groups(
                    &[*group],
                    move |record| record.replicas == done || record.replicas_wanted.as_ref() == Some(&done),
                    move |record| record.replicas_wanted = Some(change.clone()),
                    "the replicas are ordered; the group's active node changes the list",
                )
            }
            Order::Force { group } => self.step_force(*group, id),
        }
    }

    fn step_write(&self, name: Name, record: Option<Record>) -> Step {
        let expect = vec![(name.clone(), self.view.revision_of(&name))];
        Step::Write(expect, vec![(name, record, None)])
    }

    /// Writes the next groups of an order, until the view shows all as wanted.
    fn step_groups(
        &self,
        groups: &[GroupId],
        done: impl Fn(&GroupRecord) -> bool,
        change: impl Fn(&mut GroupRecord),
        text: &str,
    ) -> Step {
        let left: Vec<_> = groups
            .iter()
            .filter_map(|group| self.view.groups.get(group).map(|entry| (*group, entry)))
            .filter(|(_, entry)| !done(&entry.record))
            .take(FAILOVER_TXN_GROUPS_MAX)
            .collect();
        if left.is_empty() {
            return Step::Answer(Ok(text.to_owned()));
        }
        let expect = left.iter().map(|(group, entry)| (Name::Group(*group), entry.revision)).collect();
        let write = left.into_iter().map(|(group, entry)| {
            let mut record = entry.record.clone();
            change(&mut record);
            (Name::Group(group), Some(Record::Group(record)), None)
        });
        Step::Write(expect, write.collect())
    }

    fn step_force(&mut self, group: GroupId, id: u64) -> Step {
        let Some(record) = self.view.group(group).cloned() else { return Step::Wait };
        if record.active() == Some(self.set.node) {
            let loss = self.orders.get(&id).and_then(|running| running.loss.clone()).unwrap_or_default();
            return Step::Answer(Ok(format!("promoted at epoch {}. {loss}", record.epoch)));
        }
        let Some(old) = record.active() else { return Step::Wait };
        let rules = self.promotion_rules(group, &record, Will::Forced, 0);
        if let Some(held) = rules.into_iter().find(|rule| !rule.holds) {
            if held.rule == "fence-hook" {
                self.fence(old);
                return Step::Wait;
            }
            let left = if held.left_ns > 0 { format!(" ({} ms left)", Self::ms(held.left_ns)) } else { String::new() };
            return Step::Answer(Err(format!("held back: {}: {}{left}", held.rule, held.text)));
        }
        if self.free(group) && !self.txns.taking_from(old) && self.may_act() {
            let stands = self.groups.get(&group).and_then(|local| local.stands.as_ref());
            let tail = stands.map_or("nothing".to_owned(), |stands| {
                format!("operations up to {} of epoch {}", stands.journaled, stands.tail_epoch)
            });
            let loss = format!(
                "What may be lost: whatever node {old} acknowledged and this node does not have; it has {tail}; in sync \
                 were {:?}",
                record.in_sync
            );
            if let Some(running) = self.orders.get_mut(&id) {
                running.loss = Some(loss);
            }
            self.promote(old, &[group], Cause::Forced);
        }
        Step::Wait
    }
}
