//! What this node is for each group, brought about from wherever it is: as `agent/src/node/roles.rs` has it.
//!
//! Owns: the stages of a group, and what sessions are told of them. What can hurt: see the head of this folder; this is
//! the largest part that is written twice. Refuses: deciding; a [`Desired`] says what is to be.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use understudy_agent::batch::GroupBatch;
use understudy_agent::capture::view::Seat;
use understudy_agent::coordinator::record::{Cause, GroupRecord};
use understudy_agent::failover::{Desired, Role, Stands};
use understudy_agent::journal::Token;
use understudy_agent::limits::RAISE_RETRY_MS;
use understudy_agent::node::acks::Acks;
use understudy_agent::ship::ShipEvent;
use understudy_agent::store::{RaiseGap, Store, StoreError};
use understudy_agent::transport::LinkId;
use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::message::{Message, Position};

use super::{Agent, CLUSTER, Out, Own};
use crate::event::Wake;
use crate::host::Host;

/// By how much UIDs and modification sequences rise after a promotion.
const GAP: RaiseGap = RaiseGap { uid: 1_000, modseq: 1_000 };

/// Where a group is between two roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Idle,
    TakingOver,
    Active,
    Closing,
    Merging,
    Following,
}

/// One group.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) desired: Desired,
    pub(super) stage: Stage,
    pub(super) opening: BTreeSet<String>,
    ready: HashSet<String>,
    seat_told_at: u64,
    fence_due: bool,
    pub(super) told: Option<Stands>,
}

/// All groups.
#[derive(Default)]
pub(super) struct Roles {
    pub(super) groups: BTreeMap<GroupId, Standing>,
    pub(super) stood: BTreeMap<GroupId, GroupRecord>,
    early: BTreeMap<(GroupId, NodeId), (LinkId, Position)>,
    positions: BTreeMap<LinkId, Vec<Position>>,
    seats: BTreeMap<GroupId, Seat>,
    seats_changed: bool,
    pub(super) moving: BTreeSet<GroupId>,
    pub(super) next_look_ns: u64,
    merged: BTreeMap<GroupId, Epoch>,
    policy_asked: u64,
    policy_told: u64,
}

impl Roles {
    /// The group is open here, and this node has lost its right to it.
    pub(super) fn has_lost_lease(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|standing| {
            standing.desired.role != Role::Serve && !(standing.desired.role == Role::Fenced && standing.desired.hold)
        })
    }

    pub(super) fn is_closing(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|standing| standing.stage == Stage::Closing)
    }

    pub(super) fn required(&self, group: GroupId) -> impl Iterator<Item = NodeId> + '_ {
        self.groups.get(&group).into_iter().flat_map(|standing| standing.desired.required.iter().copied())
    }
}

impl Agent {
    /// The active node of a group, as far as this node knows.
    pub(super) fn active_of(&self, group: GroupId) -> Option<NodeId> {
        self.placement.get(&group).map(|(active, _)| *active)
    }

    /// Whether all of a group's accounts are served here, at this epoch.
    #[must_use]
    pub fn serves(&self, group: GroupId, epoch: u64) -> bool {
        self.roles.groups.get(&group).is_some_and(|standing| {
            let of = &standing.desired;
            standing.stage == Stage::Active
                && of.role == Role::Serve
                && of.record.epoch == epoch
                && standing.opening.is_empty()
        })
    }

    /// Whether no group is between two roles.
    pub(super) fn roles_are_settled(&self) -> bool {
        self.roles.groups.values().all(|standing| {
            matches!(
                (standing.stage, standing.desired.role),
                (Stage::Idle, Role::None) | (Stage::Following, Role::Follow) | (Stage::Active, Role::Serve)
            ) && standing.opening.is_empty()
        })
    }

    /// How the groups stand, for a world that does not come to rest.
    pub(super) fn roles_text(&self) -> String {
        let of = |(group, s): (&GroupId, &Standing)| {
            let record = &s.desired.record;
            let epoch = record.epoch;
            format!("g{group} {:?}/{:?} e{epoch} n{} opening {:?}", s.stage, s.desired.role, record.active, s.opening)
        };
        self.roles.groups.iter().map(of).collect::<Vec<_>>().join(", ")
    }

    /// As `first_roles` of `node/start.rs`.
    pub(super) fn first_roles(&mut self, host: &mut Host, out: &mut Out) {
        self.roles.stood = host.memory.stood();
        let plan = out.plan.clone();
        let desired = |group, role, record, why: &str| Desired {
            group,
            role,
            record,
            required: BTreeSet::new(),
            hold: false,
            number: 0,
            why: why.to_owned(),
        };
        for group in &plan.groups {
            self.placement.insert(group.id, (group.active, group.replicas.clone()));
        }
        let mut wanted = Vec::new();
        if plan.shared {
            for group in &plan.groups {
                self.roles.seats.insert(group.id, Seat::Fenced("the coordinator was not heard yet".into()));
            }
            for (group, record) in &self.roles.stood {
                wanted.push(desired(*group, Role::Fenced, record.clone(), "the coordinator was not heard yet"));
            }
        } else {
            for group in &plan.groups {
                let role = match () {
                    () if group.active == self.me => Role::Serve,
                    () if group.replicas.contains(&self.me) => Role::Follow,
                    () => Role::None,
                };
                wanted.push(desired(group.id, role, group.record(), "as configured"));
            }
        }
        for desired in wanted {
            self.desire(desired, host, out);
        }
    }

    /// Takes what this node is to be for a group.
    pub(super) fn desire(&mut self, desired: Desired, host: &mut Host, out: &mut Out) {
        let (group, record) = (desired.group, desired.record.clone());
        let Some(active) = record.active() else { return };
        self.placement.insert(group, (active, record.replicas()));
        let standing = self.roles.groups.entry(group).or_insert_with(|| Standing {
            desired: desired.clone(),
            stage: Stage::Idle,
            opening: BTreeSet::new(),
            ready: HashSet::new(),
            seat_told_at: 0,
            fence_due: false,
            told: None,
        });
        if out.trace.is_kept() {
            let (role, epoch, hold) = (desired.role, record.epoch, desired.hold);
            let required = &desired.required;
            out.say(format_args!(
                "n{} is to be {role:?} of g{group} e{epoch} active n{active} hold {hold} required {required:?}: {}",
                self.me, desired.why
            ));
        }
        standing.desired = desired;
        self.dirty.insert(group);
        self.roles.moving.insert(group);
        self.advance(group, host, out);
        self.poke(out);
    }

    /// Once a turn: groups on their way go on, seats are told, positions are sent.
    pub(super) fn advance_roles(&mut self, host: &mut Host, out: &mut Out) {
        for group in std::mem::take(&mut self.roles.moving) {
            self.advance(group, host, out);
        }
        for group in self.merge_asks.clone() {
            if self.roles.groups.get(&group).is_some_and(|standing| standing.stage == Stage::Following) {
                self.merge_asks.remove(&group);
                self.names_of(group).iter().for_each(|account| self.ask_active(account, host));
            }
        }
        if std::mem::take(&mut self.roles.seats_changed) {
            self.policy_changed(out);
        }
        for (link, positions) in std::mem::take(&mut self.roles.positions) {
            self.send(link, Message::Positions(positions), out);
        }
        if out.plan.shared {
            self.tell_stands(host, out);
        }
    }

    pub(super) fn policy_changed(&mut self, out: &mut Out) {
        self.roles.policy_asked += 1;
        let delay = out.random.below(3_000_000);
        self.wake_after(delay, Wake::Policy, out);
    }

    /// The capture thread has sessions ask again: from now on they know how groups stand.
    pub(super) fn policy_is_told(&mut self, host: &mut Host, out: &mut Out) {
        host.ring.seats.clone_from(&self.roles.seats);
        self.roles.policy_told += 1;
        self.poke(out);
    }

    pub(super) fn is_seat_known(&self, group: GroupId) -> bool {
        self.roles.groups.get(&group).is_some_and(|standing| self.roles.policy_told >= standing.seat_told_at)
    }

    /// Moves a group on as far as it goes now.
    fn advance(&mut self, group: GroupId, host: &mut Host, out: &mut Out) {
        while let Some(standing) = self.roles.groups.get(&group) {
            let (stage, role) = (standing.stage, standing.desired.role);
            let next = match (stage, role) {
                (Stage::Idle, Role::Serve | Role::Fenced) if self.may_open_at_once(group, out) => {
                    self.open_own(group, host, out)
                }
                (Stage::Idle | Stage::Following | Stage::Merging, Role::Serve | Role::Fenced) => {
                    Some(Stage::TakingOver)
                }
                (Stage::TakingOver, Role::Serve | Role::Fenced) => {
                    if self.has_taken_over(group, out) {
                        self.open_own(group, host, out)
                    } else {
                        None
                    }
                }
                (Stage::Idle, Role::Follow) if self.must_merge(group, out) => Some(Stage::Merging),
                (Stage::Merging, Role::Follow) if self.must_merge(group, out) => {
                    self.merge(group, out);
                    None
                }
                (Stage::Idle | Stage::Merging | Stage::TakingOver, Role::Follow) => self.open_replica(group, host, out),
                (Stage::Following, Role::Follow) => {
                    self.follow(group, out);
                    None
                }
                (Stage::Active, Role::Serve | Role::Fenced) => self.go_on(group, host, out),
                (Stage::Active, Role::Follow | Role::None) => {
                    self.seal(group, host, out);
                    Some(Stage::Closing)
                }
                (Stage::Closing, _) => self.close_own(group, host, out),
                (Stage::Following | Stage::TakingOver | Stage::Merging, Role::None) => {
                    self.receiver.close(group);
                    Some(Stage::Idle)
                }
                (Stage::Idle, Role::None) => None,
            };
            self.fence_journal(group, out);
            self.seat(group);
            let Some(next) = next.filter(|next| *next != stage) else { break };
            out.say(format_args!("n{} g{group} {stage:?} -> {next:?}", self.me));
            if let Some(standing) = self.roles.groups.get_mut(&group) {
                standing.stage = next;
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

    fn may_open_at_once(&self, group: GroupId, out: &Out) -> bool {
        let Some(standing) = self.roles.groups.get(&group) else { return false };
        let record = &standing.desired.record;
        !out.plan.shared
            || self.roles.stood.get(&group).is_some_and(|stood| stood.epoch == record.epoch)
            || (record.epoch == 1 && record.cause == Cause::Placement)
    }

    fn has_taken_over(&mut self, group: GroupId, out: &mut Out) -> bool {
        let Some(standing) = self.roles.groups.get_mut(&group) else { return false };
        let epoch = standing.desired.record.epoch();
        let first = self.receiver.positions(group).is_some_and(|at| at.epoch < epoch);
        standing.fence_due |= first;
        let idle = self.receiver.take_over(group, self.me, epoch)
            && !self.unsent.iter().any(|(frame, _)| frame.header().group == group);
        let tail = self.reader.tail(group).sequence.0;
        let applied = self.applied.get(&group).copied().unwrap_or(0);
        if idle && applied < tail {
            self.shift.wake(group);
            self.wake_apply(100_000, out);
        }
        idle && applied >= tail
    }

    fn save_stood(&self, host: &Host) -> bool {
        host.memory.set_stood(&self.roles.stood)
    }

    /// Notes what matters after a restart, as `node/stood.rs` does.
    fn put_stood(&mut self, group: GroupId, record: &GroupRecord) {
        self.roles.stood.insert(group, record.clone());
    }

    fn open_own(&mut self, group: GroupId, host: &mut Host, out: &mut Out) -> Option<Stage> {
        let record = self.roles.groups.get(&group)?.desired.record.clone();
        self.put_stood(group, &record);
        if !self.save_stood(host) {
            return None;
        }
        let tail = self.reader.tail(group);
        let first = self.reader.group(group).map_or(Sequence(0), |state| state.first);
        let generation = host.ring.generation;
        let ring = self.recovered.groups.get(&group).map(|state| state.ring.clone()).unwrap_or_default();
        let replicas = record.replicas();
        let own = Own {
            batch: GroupBatch::new(CLUSTER, self.me, group, record.epoch(), tail),
            journaled: tail.sequence.0,
            told: tail.sequence,
            replicas: replicas.clone(),
            acked: BTreeMap::new(),
            acks: Acks::default(),
            in_flight: VecDeque::new(),
            ring_journaled: ring.iter().find(|(of, _)| *of == generation).map(|(_, index)| *index),
        };
        self.own.insert(group, own);
        self.receiver.close(group);
        self.lost_groups.remove(&group);
        if out.plan.shared {
            self.shift.stand(group, tail.sequence.0);
            self.wake_apply(0, out);
        }
        let names = self.names_of(group);
        self.assume_copies(&record, &names, host);
        let (epoch, of) = (record.epoch(), replicas.clone());
        self.ship(ShipEvent::Opened { group, epoch, first, tail, replicas: of }, host, out);
        for peer in replicas {
            if let Some((link, position)) = self.roles.early.remove(&(group, peer)) {
                self.ship(ShipEvent::Positions { peer, link, positions: vec![position] }, host, out);
            }
        }
        self.begin_opening(group, &record, &names, out);
        names.iter().for_each(|account| self.seen(account));
        self.take_up_debts(group);
        Some(Stage::Active)
    }

    fn begin_opening(&mut self, group: GroupId, record: &GroupRecord, names: &[String], out: &mut Out) {
        let promoted = matches!(record.cause, Cause::Failover | Cause::Forced) && record.base.is_none();
        let parked: BTreeSet<String> = self.parked.keys().cloned().collect();
        let Some(standing) = self.roles.groups.get_mut(&group) else { return };
        standing.ready.clear();
        standing.opening.clear();
        if promoted {
            standing.opening.extend(names.iter().cloned());
            let epoch = record.epoch();
            for account in names.iter().filter(|account| !parked.contains(*account)) {
                let delay = out.random.within(100_000, 5_000_000);
                self.wake_after(delay, Wake::Raise { group, epoch, account: account.clone() }, out);
            }
        }
    }

    /// A raiser's turn: `node/raise.rs`. Reads, keeps, then raises.
    pub(super) fn raise(&mut self, group: GroupId, epoch: Epoch, account: &str, host: &mut Host, out: &mut Out) {
        let still = self
            .roles
            .groups
            .get(&group)
            .is_some_and(|standing| standing.desired.record.epoch() == epoch && standing.stage == Stage::Active);
        if !still {
            return;
        }
        let kept = host.memory.fork(group, account).is_some_and(|known| known >= epoch);
        let read = if kept { Ok(()) } else { self.door.raise(account, RaiseGap::default()).map(drop) };
        let kept = kept || (read.is_ok() && host.memory.keep_fork(group, account, epoch));
        let done = kept && matches!(self.door.raise(account, GAP), Ok(_) | Err(StoreError::UnknownAccount(_)));
        if !done {
            let wake = Wake::Raise { group, epoch, account: account.to_owned() };
            self.wake_after(RAISE_RETRY_MS * 1_000_000, wake, out);
            return;
        }
        out.say(format_args!("n{} raised {account} for e{epoch}", self.me));
        if let Some(standing) = self.roles.groups.get_mut(&group) {
            standing.opening.remove(account);
            standing.ready.insert(account.to_owned());
        }
        self.roles.moving.insert(group);
        self.poke(out);
    }

    fn go_on(&mut self, group: GroupId, host: &mut Host, out: &mut Out) -> Option<Stage> {
        let record = self.roles.groups.get(&group)?.desired.record.clone();
        let own = self.own.get_mut(&group)?;
        if own.batch.epoch() != record.epoch() {
            self.seal(group, host, out);
            return Some(Stage::Closing);
        }
        let replicas = record.replicas();
        if own.replicas != replicas {
            own.replicas.clone_from(&replicas);
            own.acked.retain(|peer, _| replicas.contains(peer));
            self.put_stood(group, &record);
            let _ = self.save_stood(host);
            self.ship(ShipEvent::Replicas { group, replicas: replicas.clone() }, host, out);
            for peer in replicas {
                if let Some((link, position)) = self.roles.early.remove(&(group, peer)) {
                    self.ship(ShipEvent::Positions { peer, link, positions: vec![position] }, host, out);
                }
            }
            for account in self.names_of(group) {
                self.seen(&account);
            }
        }
        None
    }

    fn close_own(&mut self, group: GroupId, host: &mut Host, out: &mut Out) -> Option<Stage> {
        if let Some(own) = self.own.get_mut(&group) {
            if !own.batch.is_empty() || !own.in_flight.is_empty() {
                self.seal(group, host, out);
                return None;
            }
            for ready in own.acks.fence() {
                out.answer(host, ready.at, ready.status);
            }
        }
        self.own.remove(&group);
        if out.plan.shared {
            // All of it was captured from the store here.
            let tail = self.reader.tail(group).sequence.0;
            self.shift.rebase(group, tail);
            self.wake_apply(0, out);
            self.applied.insert(group, tail);
        }
        self.ship(ShipEvent::Closed { group }, host, out);
        self.peer_resync.retain(|(of, _), _| *of != group);
        self.snapshot_ends.retain(|(of, ..)| *of != group);
        Some(Stage::Idle)
    }

    /// The journal refused a last frame of a stream that another node goes on with.
    pub(super) fn own_refused(&mut self, group: GroupId) {
        if let Some(own) = self.own.get_mut(&group) {
            own.in_flight.clear();
            own.batch.durable();
        }
        self.roles.moving.insert(group);
    }

    fn open_replica(&mut self, group: GroupId, host: &mut Host, out: &mut Out) -> Option<Stage> {
        let record = self.roles.groups.get(&group)?.desired.record.clone();
        let tail = self.reader.tail(group);
        let stood = self.roles.stood.contains_key(&group);
        let applied = if stood { tail.sequence } else { Sequence(0) };
        if stood {
            self.shift.rebase(group, tail.sequence.0);
            self.applied.insert(group, tail.sequence.0);
            self.roles.stood.remove(&group);
            let _ = self.save_stood(host);
        }
        let fence = self.recovered.groups.get(&group).map_or(Epoch(0), |state| state.fence);
        self.receiver.open(group, record.active()?, fence.max(record.epoch()), tail, applied);
        if let Some(standing) = self.roles.groups.get_mut(&group) {
            standing.fence_due = record.epoch() > fence && out.plan.shared;
        }
        if self.reader.group(group).is_some_and(|state| !state.gaps.is_empty()) {
            self.lost_groups.entry(group).or_default();
        }
        self.shift.wake(group);
        self.wake_apply(0, out);
        Some(Stage::Following)
    }

    fn follow(&mut self, group: GroupId, out: &Out) {
        let Some(standing) = self.roles.groups.get_mut(&group) else { return };
        let record = &standing.desired.record;
        let Some(active) = record.active() else { return };
        let known = self.receiver.positions(group).map(|at| at.epoch);
        let is_news = known.is_some_and(|known| known < record.epoch()) || self.receiver.active(group) != Some(active);
        let link = self.dialled_by.get(&active).copied();
        if is_news || (self.receiver.link(group) != link && link.is_some()) {
            standing.fence_due |= is_news && out.plan.shared;
            if let (Some(position), Some(link)) = (self.receiver.follow(group, active, record.epoch(), link), link) {
                self.roles.positions.entry(link).or_default().push(position);
            }
        }
    }

    fn fence_journal(&mut self, group: GroupId, out: &mut Out) {
        let Some(standing) = self.roles.groups.get_mut(&group).filter(|standing| standing.fence_due) else { return };
        let epoch = standing.desired.record.epoch();
        standing.fence_due = self.journal.fence(group, epoch, Token(0)).is_err();
        self.wake_journal(out);
    }

    pub(super) fn positions_told(
        &mut self,
        peer: NodeId,
        link: LinkId,
        positions: Vec<Position>,
        host: &mut Host,
        out: &mut Out,
    ) {
        let (ours, early): (Vec<Position>, Vec<Position>) =
            positions.into_iter().partition(|position| self.own.contains_key(&position.group));
        for position in early {
            self.roles.early.insert((position.group, peer), (link, position));
        }
        self.ship(ShipEvent::Positions { peer, link, positions: ours }, host, out);
    }

    pub(super) fn names_of(&self, group: GroupId) -> Vec<String> {
        self.accounts.iter().filter(|(_, of)| **of == group).map(|(account, _)| account.clone()).collect()
    }

    fn assume_copies(&mut self, record: &GroupRecord, names: &[String], host: &Host) {
        if record.cause == Cause::Placement || record.epoch == 1 {
            return;
        }
        let whole: BTreeSet<NodeId> = record.in_sync().chain(record.before.and_then(NodeId::new)).collect();
        for account in names {
            host.memory.copied(account, &whole);
            self.copied.insert(account.clone(), whole.clone());
        }
    }

    fn must_merge(&mut self, group: GroupId, out: &Out) -> bool {
        let Some(standing) = self.roles.groups.get(&group) else { return false };
        let record = &standing.desired.record;
        let Some(stood) = self.roles.stood.get(&group) else { return false };
        if !out.plan.shared || stood.epoch >= record.epoch {
            return false;
        }
        let tail = self.reader.tail(group);
        let planned = record.cause == Cause::Switchover && record.before == Some(self.me.get());
        let same =
            record.base.as_ref().is_some_and(|base| base.sequence == tail.sequence.0 && base.hash == hex(&tail.hash));
        let merged = self.roles.merged.get(&group).is_some_and(|merged| *merged >= record.epoch());
        let left_nothing = planned && same;
        !left_nothing && !merged
    }

    /// What only this node has goes to the active: a part of the product that the simulator does not have. It gives it
    /// up, and has every account copied anew.
    fn merge(&mut self, group: GroupId, out: &mut Out) {
        let Some(standing) = self.roles.groups.get(&group) else { return };
        let epoch = standing.desired.record.epoch();
        self.roles.merged.insert(group, epoch);
        self.merge_asks.insert(group);
        self.poke(out);
    }

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
        if self.roles.seats.get(&group) != Some(&seat) {
            self.roles.seats.insert(group, seat);
            self.roles.seats_changed = true;
            let told_at = self.roles.policy_asked + 1;
            if let Some(standing) = self.roles.groups.get_mut(&group) {
                standing.seat_told_at = told_at;
            }
        }
    }
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
