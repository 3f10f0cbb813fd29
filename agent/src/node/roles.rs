//! What this node is for each group, brought about from wherever it is.
//!
//! Owns: the steps between active and replica, in an order in which nothing is lost: what was accepted is durable and
//! applied before a group is served; what was captured is durable before it is let go of; what only this node has goes
//! to the new active before this node follows. What can hurt: two steps of one group at one time; each group has one
//! stage, and every turn moves it on as far as it goes. Refuses: deciding; `failover` does.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::message::{Message, Position};

use super::core::Core;
use super::council::kick::Kicker;
use super::raise::Raiser;
use super::stood::Stood;
use crate::capture::view::Seat;
use crate::clock::MonoNs;
use crate::config::model::Automation;
use crate::config::placement::Group;
use crate::coordinator::record::Cause;
use crate::failover::{Desired, Role, Stands};
use crate::journal::Token;
use crate::ship::ShipEvent;
use crate::transport::LinkId;

/// Where a group is between two roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing of it is open.
    Idle,
    /// Frames of the node before are refused; what was accepted becomes durable and is applied.
    TakingOver,
    /// Its stream goes on here.
    Active,
    /// No longer active; what was captured becomes durable.
    Closing,
    /// What only this node has goes to the active first.
    Merging,
    Following,
}

/// One group.
pub(super) struct Standing {
    pub desired: Desired,
    pub stage: Stage,
    /// Accounts that are not ready to be served; only after a promotion.
    pub opening: BTreeSet<String>,
    pub ready: HashSet<String>,
    /// When the stage or the role changed last.
    since: MonoNs,
    /// Until sessions were told so often, some may not know of the last change of the seat.
    seat_told_at: u64,
    /// The journal is to refuse lower epochs, and had no room for the order.
    pub fence_due: bool,
    pub told: Option<Stands>,
}

/// All groups.
pub(super) struct Roles {
    /// A coordinator says who is active.
    shared: bool,
    pub groups: BTreeMap<GroupId, Standing>,
    pub stood: Stood,
    pub raiser: Raiser,
    /// Every account that was ever heard of here.
    pub names: BTreeSet<String>,
    /// Where replicas stand in groups that this node does not know to be its own yet.
    pub early: BTreeMap<(GroupId, NodeId), (LinkId, Position)>,
    /// To be told to the active nodes at the end of the turn.
    positions: BTreeMap<LinkId, Vec<Position>>,
    seats_changed: bool,
    /// Groups that are on their way from one role to another.
    pub moving: BTreeSet<GroupId>,
    /// When all groups are looked at again for the decider.
    pub next_look: MonoNs,
    /// Epochs whose changes of this node alone are with the active.
    pub merged: BTreeMap<GroupId, Epoch>,
    kicker: Kicker,
    /// How often sessions were to be told to ask for their policy again, and how often they were.
    policy_asked: u64,
    pub policy_told: u64,
}

impl Standing {
    /// Everything that a promotion asks for is done.
    pub(super) fn is_open(&self) -> bool {
        self.opening.is_empty()
    }
}

impl Roles {
    pub(super) fn new(shared: bool, stood: Stood, raiser: Raiser, kicker: Kicker) -> Self {
        Self {
            shared,
            groups: BTreeMap::new(),
            stood,
            raiser,
            names: BTreeSet::new(),
            early: BTreeMap::new(),
            positions: BTreeMap::new(),
            seats_changed: false,
            moving: BTreeSet::new(),
            next_look: MonoNs::default(),
            merged: BTreeMap::new(),
            kicker,
            policy_asked: 0,
            policy_told: 0,
        }
    }

    /// Groups that are on their way from one role to another.
    pub(super) fn on_their_way(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.moving.iter().copied()
    }

    /// Whether a coordinator says who is active.
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// The group is open here, and this node has lost its right to it.
    pub(super) fn has_lost_lease(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|standing| {
            standing.desired.role != Role::Serve && !(standing.desired.role == Role::Fenced && standing.desired.hold)
        })
    }

    /// The group's last frames are on their way to disk.
    pub(super) fn is_closing(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|standing| standing.stage == Stage::Closing)
    }

    /// Replicas that nobody of level `peer` is answered without.
    pub(super) fn required(&self, group: GroupId) -> impl Iterator<Item = NodeId> + '_ {
        self.groups.get(&group).into_iter().flat_map(|standing| standing.desired.required.iter().copied())
    }
}

impl Core {
    /// Takes what this node is to be for a group.
    pub(super) fn desire(&mut self, desired: Box<Desired>) {
        let (group, record) = (desired.group, &desired.record);
        let Some(active) = record.active() else { return };
        let placed = Group { id: group, active, replicas: record.replicas(), epoch: record.epoch() };
        self.view.change(|view| view.placement.put_group(placed));
        let now = self.now;
        let standing = self.roles.groups.entry(group).or_insert_with(|| Standing {
            desired: (*desired).clone(),
            stage: Stage::Idle,
            opening: BTreeSet::new(),
            ready: HashSet::new(),
            since: now,
            seat_told_at: 0,
            fence_due: false,
            told: None,
        });
        if standing.desired.role != desired.role || standing.desired.record.epoch != desired.record.epoch {
            tracing::info!(
                group = group.0,
                role = ?desired.role,
                epoch = desired.record.epoch,
                active = self.config.node_name(active),
                why = desired.why,
                "the group's role here"
            );
            standing.since = now;
        }
        if (standing.desired.role, desired.role, desired.hold) == (Role::Serve, Role::Fenced, false) {
            self.metrics.failover.fenced.inc();
        }
        standing.desired = *desired;
        self.dirty.insert(group);
        self.roles.moving.insert(group);
        self.advance(group);
    }

    /// Once a turn: groups on their way go on, seats are told, positions are sent.
    pub(super) fn advance_roles(&mut self) {
        for group in std::mem::take(&mut self.roles.moving) {
            self.advance(group);
        }
        if std::mem::take(&mut self.roles.seats_changed) {
            self.policy_changed();
        }
        for (link, positions) in std::mem::take(&mut self.roles.positions) {
            // A link that is gone is dialled again, and then tells all positions.
            let _ = self.transport.send_on(link, &Message::Positions(positions));
        }
        self.tell_stands();
    }

    /// Has sessions ask for their policy again.
    pub(super) fn policy_changed(&mut self) {
        self.roles.policy_asked += 1;
        self.capture.policy_changed();
    }

    /// Every change that is begun from now on is begun by a session that knows how the group stands.
    pub(super) fn is_seat_known(&self, group: GroupId) -> bool {
        self.roles.groups.get(&group).is_some_and(|standing| self.roles.policy_told >= standing.seat_told_at)
    }

    /// Moves a group on as far as it goes now.
    fn advance(&mut self, group: GroupId) {
        while let Some(standing) = self.roles.groups.get(&group) {
            let (stage, role) = (standing.stage, standing.desired.role);
            let next = match (stage, role) {
                (Stage::Idle, Role::Serve | Role::Fenced) if self.may_open_at_once(group) => self.open_own(group),
                (Stage::Idle | Stage::Following | Stage::Merging, Role::Serve | Role::Fenced) => {
                    Some(Stage::TakingOver)
                }
                (Stage::TakingOver, Role::Serve | Role::Fenced) => {
                    if self.has_taken_over(group) {
                        self.open_own(group)
                    } else {
                        None
                    }
                }
                (Stage::Idle, Role::Follow) if self.must_merge(group) => Some(Stage::Merging),
                (Stage::Merging, Role::Follow) if self.must_merge(group) => {
                    self.begin_merge(group);
                    None
                }
                (Stage::Idle | Stage::Merging | Stage::TakingOver, Role::Follow) => self.open_replica(group),
                (Stage::Following, Role::Follow) => {
                    self.follow(group);
                    None
                }
                (Stage::Active, Role::Serve | Role::Fenced) => self.go_on(group),
                (Stage::Active, Role::Follow | Role::None) => {
                    self.seal(group);
                    Some(Stage::Closing)
                }
                (Stage::Closing, _) => self.close_own(group),
                (Stage::Following | Stage::TakingOver | Stage::Merging, Role::None) => {
                    self.receiver.close(group);
                    Some(Stage::Idle)
                }
                (Stage::Idle, Role::None) => None,
            };
            self.fence_journal(group);
            self.seat(group);
            let Some(next) = next.filter(|next| *next != stage) else { break };
            tracing::info!(group = group.0, from = ?stage, to = ?next, "the group moves on");
            if stage == Stage::Merging {
                self.end_merge(group);
            }
            if let Some(standing) = self.roles.groups.get_mut(&group) {
                standing.stage = next;
                standing.since = self.now;
            }
        }
        let on_its_way = self.roles.groups.get(&group).is_some_and(|standing| {
            !matches!(
                (standing.stage, standing.desired.role),
                (Stage::Idle, Role::None) | (Stage::Following, Role::Follow) | (Stage::Active, Role::Serve)
            ) || standing.fence_due
                || !standing.opening.is_empty()
        });
        if on_its_way {
            self.roles.moving.insert(group);
        }
    }

    /// Something that the group waited for has come.
    pub(super) fn start_moving(&mut self, group: GroupId) {
        self.roles.moving.insert(group);
    }

    /// Its record changed while it is active: other replicas, or a new epoch of its own.
    fn go_on(&mut self, group: GroupId) -> Option<Stage> {
        let standing = self.roles.groups.get(&group)?;
        let record = standing.desired.record.clone();
        let own = self.own.get_mut(&group)?;
        if own.batch.epoch() != record.epoch() {
            self.seal(group);
            return Some(Stage::Closing);
        }
        let replicas = record.replicas();
        if own.replicas != replicas {
            own.replicas.clone_from(&replicas);
            own.acked.retain(|peer, _| replicas.contains(peer));
            self.roles.stood.put(group, &record);
            if let Err(error) = self.roles.stood.save() {
                tracing::warn!(group = group.0, %error, "cannot note the group's replicas");
            }
            self.ship(ShipEvent::Replicas { group, replicas: replicas.clone() });
            for peer in replicas {
                if let Some((link, position)) = self.roles.early.remove(&(group, peer)) {
                    self.ship(ShipEvent::Positions { peer, link, positions: vec![position] });
                }
            }
            for account in self.names_of(group) {
                self.seen(&account);
            }
        }
        None
    }

    /// Lets go of the stream once all that was captured is durable.
    fn close_own(&mut self, group: GroupId) -> Option<Stage> {
        if let Some(own) = self.own.get_mut(&group) {
            if !own.batch.is_empty() || !own.in_flight.is_empty() {
                self.seal(group);
                return None;
            }
            for ready in own.acks.fence() {
                self.capture.complete(ready.at, ready.status);
            }
        }
        self.own.remove(&group);
        if self.roles.shared {
            // All of it was captured from the store here.
            let tail = self.reader.tail(group).sequence.0;
            self.workers.rebase(group, tail);
            self.board.lock().applied.insert(group, tail);
        }
        self.ship(ShipEvent::Closed { group });
        self.roles.raiser.forget(group);
        self.peer_resync.retain(|(of, _), _| *of != group);
        self.snapshot_ends.retain(|(of, ..)| *of != group);
        Some(Stage::Idle)
    }

    /// The journal refused a last frame of a stream that another node goes on with: it is in the store, and merged.
    pub(super) fn own_refused(&mut self, group: GroupId) {
        if let Some(own) = self.own.get_mut(&group) {
            own.in_flight.clear();
            own.batch.durable();
        }
        self.roles.moving.insert(group);
    }

    /// Opens the group as a replica.
    fn open_replica(&mut self, group: GroupId) -> Option<Stage> {
        let record = self.roles.groups.get(&group)?.desired.record.clone();
        let tail = self.reader.tail(group);
        let stood = self.roles.stood.get(group).is_some();
        // What was captured from the store here is in it.
        let applied = if stood { tail.sequence } else { Sequence(0) };
        if stood {
            self.workers.rebase(group, tail.sequence.0);
            self.board.lock().applied.insert(group, tail.sequence.0);
            self.roles.stood.remove(group);
            if let Err(error) = self.roles.stood.save() {
                tracing::warn!(group = group.0, %error, "cannot note that the group is followed; it is compared again after a restart");
            }
        }
        let fence = self.recovered.groups.get(&group).map_or(Epoch(0), |state| state.fence);
        self.receiver.open(group, record.active()?, fence.max(record.epoch()), tail, applied);
        if let Some(standing) = self.roles.groups.get_mut(&group) {
            standing.fence_due = record.epoch() > fence && self.roles.shared;
        }
        // What an agent before this one found lost may not have been told.
        if self.reader.group(group).is_some_and(|state| !state.gaps.is_empty()) {
            self.lost_groups.entry(group).or_default();
        }
        self.workers.wake(group);
        Some(Stage::Following)
    }

    /// The active node, or its epoch, may be another one now.
    fn follow(&mut self, group: GroupId) {
        let Some(standing) = self.roles.groups.get_mut(&group) else { return };
        let record = &standing.desired.record;
        let Some(active) = record.active() else { return };
        let known = self.receiver.positions(group).map(|at| at.epoch);
        let is_news = known.is_some_and(|known| known < record.epoch()) || self.receiver.active(group) != Some(active);
        let link = self.dialled_by.get(&active).copied();
        if is_news || (self.receiver.link(group) != link && link.is_some()) {
            standing.fence_due |= is_news && self.roles.shared;
            if let (Some(position), Some(link)) = (self.receiver.follow(group, active, record.epoch(), link), link) {
                self.roles.positions.entry(link).or_default().push(position);
            }
        }
    }

    fn fence_journal(&mut self, group: GroupId) {
        let Some(standing) = self.roles.groups.get_mut(&group).filter(|standing| standing.fence_due) else { return };
        let epoch = standing.desired.record.epoch();
        standing.fence_due = self.journal.fence(group, epoch, Token(0)).is_err();
    }

    /// Where replicas stand, told by themselves.
    pub(super) fn positions_told(&mut self, peer: NodeId, link: LinkId, positions: Vec<Position>) {
        let (ours, early): (Vec<Position>, Vec<Position>) =
            positions.into_iter().partition(|position| self.own.contains_key(&position.group));
        for position in early {
            if self.view.read().placement.group(position.group).is_some() {
                self.roles.early.insert((position.group, peer), (link, position));
            }
        }
        self.ship(ShipEvent::Positions { peer, link, positions: ours });
    }

    /// Accounts of a group, as far as they were ever heard of.
    pub(super) fn names_of(&self, group: GroupId) -> Vec<String> {
        let view = self.view.read();
        let of = |name: &&String| view.placement.group_of(name) == group && view.rules.resolve(name).replicate;
        self.roles.names.iter().filter(of).cloned().collect()
    }

    /// Whether changes that only this node has must go to the active before it follows.
    fn must_merge(&mut self, group: GroupId) -> bool {
        let Some(standing) = self.roles.groups.get(&group) else { return false };
        let record = &standing.desired.record;
        let Some(stood) = self.roles.stood.get(group) else { return false };
        if !self.roles.shared || stood.epoch >= record.epoch {
            return false;
        }
        let tail = self.reader.tail(group);
        let planned = record.cause == Cause::Switchover && record.before == Some(self.node.get());
        let same = record
            .base
            .as_ref()
            .is_some_and(|base| base.sequence == tail.sequence.0 && base.hash == hex::encode(tail.hash));
        // A planned move left nothing behind; after anything else the store itself is looked at.
        let left_nothing = planned && same;
        !left_nothing && !self.is_merged(group, record.epoch())
    }

    fn is_merged(&mut self, group: GroupId, epoch: Epoch) -> bool {
        self.roles.merged.get(&group).is_some_and(|merged| *merged >= epoch)
    }

    /// Ends the sessions of the groups' accounts here.
    pub(super) fn kick(&mut self, groups: &[GroupId]) {
        if self.config.failover.kick == Automation::On {
            let accounts = groups.iter().flat_map(|group| self.names_of(*group)).collect();
            self.roles.kicker.kick(accounts);
        }
    }

    /// Tells threads that answer sessions and proxies how the group stands.
    fn seat(&mut self, group: GroupId) {
        let Some(standing) = self.roles.groups.get(&group) else { return };
        let (desired, record) = (&standing.desired, &standing.desired.record);
        let seat = match (standing.stage, desired.role) {
            (Stage::Active, Role::Serve) if standing.opening.is_empty() => Seat::Serving,
            (Stage::Active, Role::Serve) => Seat::Opening { ready: standing.ready.clone() },
            (_, Role::Serve) => Seat::Moving,
            (_, Role::Fenced) if desired.hold => Seat::Moving,
            (_, Role::Fenced) => Seat::Fenced(desired.why.clone()),
            (_, Role::Follow | Role::None) => {
                let ready = record.base.is_some() || !matches!(record.cause, Cause::Failover | Cause::Forced);
                Seat::Elsewhere { ready }
            }
        };
        let changed = self.view.change(|view| {
            let changed = view.seats.get(&group) != Some(&seat);
            if changed {
                view.seats.insert(group, seat);
            }
            changed
        });
        if changed {
            self.roles.seats_changed = true;
            let told_at = self.roles.policy_asked + 1;
            if let Some(standing) = self.roles.groups.get_mut(&group) {
                standing.seat_told_at = told_at;
            }
        }
    }
}
