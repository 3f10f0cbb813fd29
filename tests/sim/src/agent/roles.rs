//! What a node is for a group, and how it becomes something else.
//!
//! Owns: the way from "this is to be so" to "it is so": an active node journals the last it captured before it follows;
//! a replica fences, applies what its journal holds and raises UIDs before it serves. Until the failover decider drives
//! this, the world's own authority does. What can hurt: serving before the journal is applied; a UID that the old
//! active gave away would be given again. Refuses: choosing who is active.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use understudy_agent::batch::GroupBatch;
use understudy_agent::journal::{GroupState, Token};
use understudy_agent::node::acks::Acks;
use understudy_agent::ship::ShipEvent;
use understudy_agent::store::{ApplyItem, DumpOptions, Store};
use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::op::{Mailbox, Op};

use super::exports::replicas_text;
use super::{Agent, CLUSTER, Out, Own};
use crate::host::Host;

/// By how much UIDs and modification sequences rise when another node takes over.
const GAP: u32 = 1_000;

/// Who is active for a group, and who follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub group: GroupId,
    pub epoch: Epoch,
    pub active: NodeId,
    pub replicas: Vec<NodeId>,
}

/// What this node is for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Serves(Assignment),
    Follows(Assignment),
    /// It was active and journals what it captured.
    StepsDown(Assignment),
    /// It is to be active: the fence is on its way to the disk, or the journal's tail to the store.
    StepsUp {
        assignment: Assignment,
        fenced: bool,
    },
    /// It keeps nothing of the group.
    Nothing(Assignment),
}

impl Role {
    pub(super) fn assignment(&self) -> &Assignment {
        match self {
            Self::Serves(of) | Self::Follows(of) | Self::StepsDown(of) | Self::Nothing(of) => of,
            Self::StepsUp { assignment, .. } => assignment,
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        !matches!(self, Self::StepsDown(_) | Self::StepsUp { .. })
    }
}

impl Agent {
    /// Whether this node is to be asked for an account, or asks for it.
    pub(super) fn role_of(&self, account: &str) -> Option<&Role> {
        self.accounts.get(account).and_then(|group| self.roles.get(group))
    }

    /// The active node of a group and its epoch, as far as this node knows.
    pub(super) fn active_of(&self, group: GroupId) -> Option<(NodeId, Epoch)> {
        self.roles.get(&group).map(|role| (role.assignment().active, role.assignment().epoch))
    }

    /// Whether users may work here.
    #[must_use]
    pub fn serves(&self, group: GroupId, epoch: Epoch) -> bool {
        matches!(self.roles.get(&group), Some(Role::Serves(of)) if of.epoch == epoch)
    }

    /// The group's lease is over: nobody is told that a change is done any more.
    pub fn fence_now(&mut self, group: GroupId) {
        if let Some(own) = self.own.get_mut(&group) {
            own.acks = Acks::default();
        }
    }

    /// Replicas that hold, or will hold by frames alone, everything of a group that is active here.
    #[must_use]
    pub fn in_sync(&self, group: GroupId) -> BTreeSet<NodeId> {
        let Some(own) = self.own.get(&group) else { return BTreeSet::new() };
        let replicas = replicas_text(&own.replicas);
        let of = |account: &str| self.accounts.get(account) == Some(&group);
        let owes = self.owed.keys().any(|account| of(account))
            || self.snapshot_ends.iter().any(|(of, ..)| *of == group)
            || self.accounts.iter().any(|(account, _)| of(account) && self.copied.get(account) != Some(&replicas));
        let is_in = |peer: &&NodeId| !owes && !self.peer_resync.contains_key(&(group, **peer));
        own.replicas.iter().filter(is_in).copied().collect()
    }

    /// Whether a replica has all accounts of a group whole: nothing waits, nothing was lost.
    #[must_use]
    pub fn is_complete(&self, group: GroupId) -> bool {
        matches!(self.roles.get(&group), Some(Role::Follows(_)))
            && !self.lost_groups.contains(&group)
            && !self.rebase_next.contains(&group)
            && self.parked.values().all(|(of, _)| *of != group)
            && self.foreign_asked.iter().all(|account| self.accounts.get(account) != Some(&group))
    }

    /// This is to be so from now on.
    pub fn assign(&mut self, assignment: &Assignment, host: &mut Host, out: &mut Out) {
        let group = assignment.group;
        let known = self.roles.get(&group).cloned();
        if known.as_ref().is_some_and(|role| role.assignment().epoch >= assignment.epoch) {
            return;
        }
        out.say(format_args!("n{} is told g{group} e{} active n{}", self.me, assignment.epoch, assignment.active));
        let state = self.reader.group(group).unwrap_or_default();
        let role = match &known {
            // At the start, or of a group that another node was active for.
            None if assignment.active == self.me && host.memory.served(group) == assignment.epoch => {
                self.serve(assignment, &state, host, out)
            }
            Some(Role::Serves(_) | Role::StepsDown(_)) => {
                host.ring.serves.remove(&group);
                Role::StepsDown(assignment.clone())
            }
            _ if assignment.active == self.me => self.step_up(assignment, out),
            Some(Role::Follows(_)) if assignment.replicas.contains(&self.me) => {
                let _ = self.receiver.follow(group, assignment.active, assignment.epoch, None);
                Role::Follows(assignment.clone())
            }
            _ if assignment.replicas.contains(&self.me) => self.follow(assignment, &state, out),
            _ => {
                self.receiver.close(group);
                Role::Nothing(assignment.clone())
            }
        };
        self.roles.insert(group, role);
        self.poke(out);
    }

    fn follow(&mut self, assignment: &Assignment, state: &GroupState, out: &mut Out) -> Role {
        let group = assignment.group;
        self.receiver.open(group, assignment.active, state.fence.max(assignment.epoch), state.tail, Sequence(0));
        self.shift.wake(group);
        self.wake_apply(0, out);
        // Whoever is connected already told us nothing of this group: it is to say again where it stands.
        if let Some(link) = self.listened.get(&assignment.active).copied() {
            self.close(link, out);
        }
        Role::Follows(assignment.clone())
    }

    fn step_up(&mut self, assignment: &Assignment, out: &mut Out) -> Role {
        let (group, epoch) = (assignment.group, assignment.epoch);
        self.receiver.close(group);
        self.rebase_next.remove(&group);
        let fenced = self.journal.fence(group, epoch, Token(1)).is_ok();
        if fenced {
            self.wake_journal(out);
        } else {
            self.failure = Some("the journal takes no fence".into());
        }
        Role::StepsUp { assignment: assignment.clone(), fenced: false }
    }

    /// The journal says that a fence is durable.
    pub(super) fn role_fenced(&mut self, group: GroupId, epoch: Epoch) {
        if let Some(Role::StepsUp { assignment, fenced }) = self.roles.get_mut(&group)
            && assignment.epoch <= epoch
        {
            *fenced = true;
            self.shift.wake(group);
        }
    }

    /// Once each turn: what waited for the journal or for replay goes on.
    pub(super) fn roles_turn(&mut self, host: &mut Host, out: &mut Out) {
        for (group, role) in self.roles.clone() {
            let next = match &role {
                Role::StepsDown(assignment) => self.stepped_down(assignment, host, out),
                Role::StepsUp { assignment, fenced: true } => {
                    let state = self.reader.group(group).unwrap_or_default();
                    let applied = self.applied.get(&group).copied();
                    let ready =
                        applied == Some(state.tail.sequence.0) && self.parked.values().all(|(of, _)| *of != group);
                    if ready && !host.trouble().down {
                        let role = self.serve(assignment, &state, host, out);
                        self.raise(group, host, out);
                        host.memory.serve(group, assignment.epoch);
                        Some(role)
                    } else {
                        self.wake_apply(10_000_000, out);
                        None
                    }
                }
                _ => None,
            };
            if let Some(next) = next {
                self.roles.insert(group, next);
            }
        }
    }

    fn stepped_down(&mut self, assignment: &Assignment, host: &mut Host, out: &mut Out) -> Option<Role> {
        let group = assignment.group;
        // What its store changed before it was fenced is still read from the ring.
        if !host.ring.is_read(self.ring_read) {
            return None;
        }
        self.seal(group, host, out);
        let own = self.own.get(&group)?;
        if !own.in_flight.is_empty() {
            return None;
        }
        self.own.remove(&group);
        self.peer_resync.retain(|(of, _), _| *of != group);
        self.snapshot_ends.retain(|(of, ..)| *of != group);
        self.ship(ShipEvent::Closed { group }, host, out);
        // Its own store has everything that its own journal has.
        let tail = self.reader.tail(group);
        self.shift.rebase(group, tail.sequence.0);
        let accounts: Vec<String> =
            self.accounts.iter().filter(|(_, of)| **of == group).map(|(account, _)| account.clone()).collect();
        for account in accounts {
            if self.owed.remove(&account).is_some() {
                host.memory.settled(&account);
            }
        }
        let state = self.reader.group(group).unwrap_or_default();
        if assignment.active == self.me {
            return Some(self.step_up(assignment, out));
        }
        if !assignment.replicas.contains(&self.me) {
            return Some(Role::Nothing(assignment.clone()));
        }
        Some(self.follow(assignment, &state, out))
    }

    fn serve(&mut self, assignment: &Assignment, state: &GroupState, host: &mut Host, out: &mut Out) -> Role {
        let (group, epoch) = (assignment.group, assignment.epoch);
        let generation = host.ring.generation;
        let ring_journaled = state.ring.iter().find(|(of, _)| *of == generation).map(|(_, index)| *index);
        let own = Own {
            batch: GroupBatch::new(CLUSTER, self.me, group, epoch, state.tail),
            journaled: state.tail.sequence.0,
            told: state.tail.sequence,
            replicas: assignment.replicas.clone(),
            acked: BTreeMap::new(),
            acks: Acks::default(),
            in_flight: VecDeque::new(),
            ring_journaled,
        };
        self.own.insert(group, own);
        self.shift.rebase(group, state.tail.sequence.0);
        self.shift.stand(group, state.tail.sequence.0);
        self.parked.retain(|_, (of, _)| *of != group);
        let replicas = assignment.replicas.clone();
        self.ship(ShipEvent::Opened { group, epoch, first: state.first, tail: state.tail, replicas }, host, out);
        out.say(format_args!("n{} serves g{group} e{epoch} from {}", self.me, state.tail.sequence));
        host.ring.serves.insert(group);
        if host.memory.served(group) != epoch {
            // What its replicas have is not known any more: another node was active.
            let of = self.accounts.iter().filter(|(_, of)| **of == group).map(|(account, _)| account.clone());
            for account in of.collect::<Vec<_>>() {
                host.memory.copied(&account, "");
                self.copied.remove(&account);
            }
        }
        let names: Vec<String> =
            self.accounts.iter().filter(|(_, of)| **of == group).map(|(account, _)| account.clone()).collect();
        names.iter().for_each(|account| self.seen(account));
        Role::Serves(assignment.clone())
    }

    /// UIDs and modification sequences that the node before may have given away are not given again.
    fn raise(&mut self, group: GroupId, host: &mut Host, out: &mut Out) {
        let names: Vec<String> =
            self.accounts.iter().filter(|(_, of)| **of == group).map(|(account, _)| account.clone()).collect();
        for account in names {
            let mut last: BTreeMap<understudy_types::id::MailboxGuid, Mailbox> = BTreeMap::new();
            let options = DumpOptions { messages: false, bodies: false };
            let read = self.door.dump(&account, options, &mut |op| {
                if let Op::MailboxUpdated { mailbox, .. } = op {
                    last.insert(mailbox.guid, mailbox);
                }
            });
            if read.is_err() {
                self.failure = Some("the store cannot be read for its UIDs".into());
                return;
            }
            for mut mailbox in last.into_values() {
                mailbox.next_uid += GAP;
                mailbox.highest_modseq += u64::from(GAP);
                let op = Op::MailboxUpdated { mailbox, snapshot: 0 };
                let item = ApplyItem { op: op.clone(), body_path: None };
                if host.store.apply(&account, std::slice::from_ref(&item)).is_ok() {
                    self.push(group, &account, &op.encode(), None, host, out);
                }
            }
        }
    }
}
