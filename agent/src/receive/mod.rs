//! Turns what a peer sends into decisions: is this frame the next one, and what do we answer. Pure.
//!
//! Owns: positions of the groups that this node is a replica of, with `applied <= journaled <= received` asserted
//! wherever one moves; what is acknowledged and when; credit that goes back. What can hurt: a peer that is fenced, a
//! frame out of order, a journal that differs; none of them reaches our journal. Refuses: bytes, disk, waiting.
//!
//! A frame is judged by the first row that fits:
//!
//! | frame | what follows |
//! |---|---|
//! | of a group that this node is no replica of | the connection is closed |
//! | writer's epoch below the highest we saw, or equal but from another node | fenced: answered with our epoch |
//! | begins after what is next | gap: the connection is closed; the peer resumes from our position |
//! | ends at or before what we have | duplicate: acknowledged again; at our very end the hashes must be equal |
//! | begins before what is next, ends after | diverged |
//! | epoch below the last frame's, or above its writer's | diverged |
//! | previous hash is not our last frame's hash (where we know it) | diverged |
//! | else | accepted: journaled, then acknowledged |

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use understudy_types::frame::FrameHeader;
use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::message::{GROUPS_MAX, GroupAck, Message, Position, ResyncReason};

use crate::clock::MonoNs;
use crate::journal::Tail;
use crate::limits::{ACK_APPLIED_MS, CREDIT_RETURN_BYTES};
use crate::transport::LinkId;

#[cfg(test)]
mod tests;

const UNKNOWN_HASH: [u8; 32] = [0; 32];

/// A frame that arrived, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    pub peer: NodeId,
    pub link: LinkId,
    pub writer_epoch: Epoch,
    pub header: &'a FrameHeader,
    /// The frame's own hash.
    pub hash: [u8; 32],
    /// What it took on the wire: what it costs in credit.
    pub wire_bytes: u64,
}

/// What to do with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Give it to the journal; say [`Receiver::journaled`] when it is durable. `raise_fence`: first make the journal
    /// refuse lower epochs for ever.
    Accept { raise_fence: Option<Epoch> },
    /// Nothing to do; it is acknowledged again.
    Duplicate { raise_fence: Option<Epoch> },
    /// The sender is no longer active; the next acknowledgement tells it so.
    Fenced { known: Epoch },
    /// Close the link: the peer comes back and goes on from our position.
    Gap { expected: Sequence },
    /// Close the link: this node is no replica of the group.
    NotReplica,
    /// The two nodes hold different operations: send ResyncNeeded. Frames of the group are not taken until a rebase.
    Diverged { at: Sequence },
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub link: LinkId,
    pub message: Message,
}

#[derive(Clone, Debug)]
struct Group {
    /// The node whose frames are expected, by placement or by the last frame.
    active: NodeId,
    /// Highest epoch seen.
    epoch: Epoch,
    /// Who wrote in `epoch`; `None` until a frame of it came.
    writer: Option<NodeId>,
    /// The last frame given to the journal.
    received: Tail,
    journaled: Tail,
    applied: Sequence,
    /// What the appliers said: they read the journal themselves and may be ahead of the news that it is durable.
    applied_said: Sequence,
    /// Frames given to the journal and not durable: end, and what they cost on which link.
    waiting: VecDeque<(Tail, LinkId, u64)>,
    diverged: bool,
    /// Where acknowledgements go.
    link: Option<LinkId>,
    /// When the next acknowledgement is due; `None` = nothing new to say.
    due: Option<MonoNs>,
}

/// Positions of this node as a replica.
#[derive(Clone, Debug, Default)]
pub struct Receiver {
    groups: BTreeMap<GroupId, Group>,
    /// Credit to give back, by link.
    credit: BTreeMap<LinkId, u64>,
    /// Links whose writer is to learn that it is fenced.
    fenced: BTreeSet<(LinkId, GroupId)>,
}

impl Receiver {
    /// A receiver that is a replica of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This node is a replica of the group, whose journal ends at `tail` here and was fenced below `fence`.
    pub fn open(&mut self, group: GroupId, active: NodeId, fence: Epoch, tail: Tail, applied: Sequence) {
        let epoch = fence.max(tail.epoch);
        let fresh = Group {
            active,
            epoch,
            writer: None,
            received: tail,
            journaled: tail,
            applied: applied.min(tail.sequence),
            applied_said: applied,
            waiting: VecDeque::new(),
            diverged: false,
            link: None,
            due: None,
        };
        self.groups.insert(group, fresh);
    }

    /// This node is no longer a replica of the group.
    pub fn close(&mut self, group: GroupId) {
        self.groups.remove(&group);
    }

    /// `active` is active from `epoch` on; its frames come on `link`, if it is connected. Gives where the group stands
    /// here, for the active node to be told; `None` when this node is no replica of the group, or knows a newer epoch.
    pub fn follow(&mut self, group: GroupId, active: NodeId, epoch: Epoch, link: Option<LinkId>) -> Option<Position> {
        let state = self.groups.get_mut(&group).filter(|state| epoch >= state.epoch)?;
        state.active = active;
        state.raise(epoch);
        state.link = link;
        state.due = None;
        Some(state.position(group))
    }

    /// This node takes the group for itself at `epoch`: whatever comes from the node before is fenced. `true` when
    /// nothing that was accepted is still on its way to disk.
    pub fn take_over(&mut self, group: GroupId, node: NodeId, epoch: Epoch) -> bool {
        let Some(state) = self.groups.get_mut(&group) else { return true };
        if epoch > state.epoch {
            state.raise(epoch);
            state.writer = Some(node);
            state.active = node;
        }
        state.waiting.is_empty()
    }

    /// A peer dialled: what to answer, and from now on acknowledgements of its groups go to this link. `journaled`,
    /// not `received`: what is under way to our disk may come again, and is then a duplicate.
    pub fn greeted(&mut self, peer: NodeId, link: LinkId) -> Vec<Position> {
        let mut positions = Vec::new();
        for (group, state) in self.groups.iter_mut().filter(|(_, state)| state.active == peer).take(GROUPS_MAX) {
            state.link = Some(link);
            state.due = None;
            positions.push(state.position(*group));
        }
        positions
    }

    /// A link is gone; what it was owed is no longer owed.
    pub fn disconnected(&mut self, link: LinkId) {
        self.credit.remove(&link);
        self.fenced.retain(|(fenced, _)| *fenced != link);
        for state in self.groups.values_mut().filter(|state| state.link == Some(link)) {
            state.link = None;
            state.due = None;
        }
    }

    /// Judges a frame; the table is in the module's head.
    pub fn frame(&mut self, arrived: &Arrived<'_>, now: MonoNs) -> Decision {
        let decision = self.judge(arrived, now);
        if !matches!(decision, Decision::Accept { .. }) {
            self.owe(arrived.link, arrived.wire_bytes);
        }
        decision
    }

    fn judge(&mut self, arrived: &Arrived<'_>, now: MonoNs) -> Decision {
        let header = arrived.header;
        let Some(state) = self.groups.get_mut(&header.group) else { return Decision::NotReplica };
        let epoch = arrived.writer_epoch;
        if epoch < state.epoch || (epoch == state.epoch && state.writer.is_some_and(|writer| writer != arrived.peer)) {
            self.fenced.insert((arrived.link, header.group));
            return Decision::Fenced { known: state.epoch };
        }
        let raise_fence = (epoch > state.epoch).then_some(epoch);
        state.raise(epoch);
        state.writer = Some(arrived.peer);
        state.active = arrived.peer;
        state.link = Some(arrived.link);

        let (first, last, have) = (header.first_sequence, header.last_sequence(), state.received);
        if state.diverged {
            return Decision::Diverged { at: have.sequence };
        }
        if first > have.sequence.next() {
            return Decision::Gap { expected: have.sequence.next() };
        }
        if last <= have.sequence {
            if last == have.sequence && have.hash != UNKNOWN_HASH && have.hash != arrived.hash {
                state.diverged = true;
                return Decision::Diverged { at: first };
            }
            state.due = Some(now);
            return Decision::Duplicate { raise_fence };
        }
        let chained = have.hash == UNKNOWN_HASH || have.hash == header.previous_hash;
        if first <= have.sequence || header.epoch < have.epoch || header.epoch > epoch || !chained {
            state.diverged = true;
            return Decision::Diverged { at: first };
        }
        state.received = Tail { sequence: last, epoch: header.epoch, hash: arrived.hash };
        state.waiting.push_back((state.received, arrived.link, arrived.wire_bytes));
        state.check();
        Decision::Accept { raise_fence }
    }

    /// Everything of the group up to `last` is durable here.
    pub fn journaled(&mut self, group: GroupId, last: Sequence, now: MonoNs) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let mut owed = Vec::new();
        while let Some((tail, link, bytes)) = state.waiting.front().copied().filter(|(tail, ..)| tail.sequence <= last)
        {
            state.waiting.pop_front();
            state.journaled = tail;
            state.applied = state.applied_said.min(tail.sequence);
            state.due = Some(now);
            owed.push((link, bytes));
        }
        state.check();
        for (link, bytes) in owed {
            self.owe(link, bytes);
        }
    }

    /// The journal did not take a frame that was accepted: what was received after its end is void. Close the link;
    /// the peer goes on from what is durable.
    pub fn refused(&mut self, group: GroupId) -> Option<LinkId> {
        let state = self.groups.get_mut(&group)?;
        state.received = state.journaled;
        let void = std::mem::take(&mut state.waiting);
        let link = state.link;
        for (_, link, bytes) in void {
            self.owe(link, bytes);
        }
        link
    }

    /// Everything of the group up to `applied` is in the store.
    pub fn applied(&mut self, group: GroupId, applied: Sequence, now: MonoNs) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        state.applied_said = state.applied_said.max(applied);
        let applied = state.applied_said.min(state.journaled.sequence);
        if applied > state.applied {
            state.applied = applied;
            state.due.get_or_insert(MonoNs(now.0.saturating_add(ACK_APPLIED_MS * 1_000_000)));
        }
        state.check();
    }

    /// The group's stream goes on after `tail` here, whatever was before: a resync.
    pub fn rebased(&mut self, group: GroupId, tail: Tail, applied: Sequence, now: MonoNs) {
        let _ = self.refused(group);
        if let Some(state) = self.groups.get_mut(&group) {
            (state.received, state.journaled) = (tail, tail);
            state.applied_said = applied;
            state.applied = applied.min(tail.sequence);
            state.diverged = false;
            state.due = Some(now);
            state.check();
        }
    }

    /// When [`Self::take`] has something next; `None` = not before something happens.
    #[must_use]
    pub fn due(&self) -> Option<MonoNs> {
        let urgent = !self.fenced.is_empty() || self.credit.values().any(|bytes| *bytes >= CREDIT_RETURN_BYTES);
        let acks = self.groups.values().filter(|state| state.link.is_some()).filter_map(|state| state.due).min();
        urgent.then_some(MonoNs(0)).into_iter().chain(acks).min()
    }

    /// Acknowledgements and credit that are due, one message of each kind per link.
    pub fn take(&mut self, now: MonoNs) -> Vec<Outgoing> {
        let mut links: Vec<_> = self
            .groups
            .values()
            .filter(|state| state.due.is_some_and(|due| due <= now))
            .filter_map(|state| state.link)
            .collect();
        links.extend(self.credit.iter().filter(|(_, bytes)| **bytes >= CREDIT_RETURN_BYTES).map(|(link, _)| *link));
        links.extend(self.fenced.iter().map(|(link, _)| *link));
        links.sort_unstable();
        links.dedup();
        let mut out = Vec::new();
        for link in links {
            // What is due later goes along: it costs 36 bytes now or a message of its own then.
            let mut acks = Vec::new();
            for (group, state) in &mut self.groups {
                if acks.len() == GROUPS_MAX {
                    break;
                }
                let is_due = state.link == Some(link) && state.due.take().is_some();
                if is_due || self.fenced.contains(&(link, *group)) {
                    acks.push(state.ack(*group));
                }
            }
            self.fenced.retain(|(fenced, _)| *fenced != link);
            if !acks.is_empty() {
                out.push(Outgoing { link, message: Message::Ack(acks) });
            }
            if let Some(bytes) = self.credit.remove(&link) {
                out.push(Outgoing { link, message: Message::Credit { bytes } });
            }
        }
        out
    }

    /// ResyncNeeded for a group whose frames do not continue ours.
    #[must_use]
    pub fn resync_needed(&self, group: GroupId) -> Option<Outgoing> {
        let state = self.groups.get(&group)?;
        let message = Message::ResyncNeeded { group, epoch: state.epoch, reason: ResyncReason::Diverged };
        Some(Outgoing { link: state.link?, message })
    }

    /// The node whose frames are expected.
    #[must_use]
    pub fn active(&self, group: GroupId) -> Option<NodeId> {
        self.groups.get(&group).map(|state| state.active)
    }

    /// The link on which the group's frames come.
    #[must_use]
    pub fn link(&self, group: GroupId) -> Option<LinkId> {
        self.groups.get(&group)?.link
    }

    /// Positions of a group, for status: received, journaled, applied.
    #[must_use]
    pub fn positions(&self, group: GroupId) -> Option<GroupAck> {
        self.groups.get(&group).map(|state| state.ack(group))
    }

    fn owe(&mut self, link: LinkId, bytes: u64) {
        if bytes > 0 {
            *self.credit.entry(link).or_default() += bytes;
        }
    }
}

impl Group {
    fn raise(&mut self, epoch: Epoch) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.writer = None;
        }
    }

    fn position(&self, group: GroupId) -> Position {
        Position {
            group,
            epoch: self.epoch,
            journaled: self.journaled.sequence,
            applied: self.applied,
            hash: self.journaled.hash,
        }
    }

    fn ack(&self, group: GroupId) -> GroupAck {
        GroupAck {
            group,
            epoch: self.epoch,
            received: self.received.sequence,
            journaled: self.journaled.sequence,
            applied: self.applied,
        }
    }

    /// The chain of positions of a replica (rule 1).
    fn check(&self) {
        assert!(
            self.applied <= self.journaled.sequence && self.journaled.sequence <= self.received.sequence,
            "positions out of order: applied {}, journaled {}, received {}",
            self.applied,
            self.journaled.sequence,
            self.received.sequence
        );
    }
}
