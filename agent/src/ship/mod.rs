//! Decides what to send next to a peer. Pure: events in, actions out; the simulator runs the same code.
//!
//! Owns: positions per group and peer, and the chain `acked <= shipped <= journaled`, asserted wherever one moves.
//! What can hurt: a peer that says what cannot be (its connection is dropped), a peer whose journal differs from ours
//! (found by the hash at its position, and resynchronised), a peer that stays away (past retention it is marked).
//! Refuses: reading, sending, waiting. The window bounds what is under way; credit bounds what the peer must hold.
//!
//! When a peer connects, its position of each group is judged; the first row that fits counts:
//!
//! | the peer's position | what follows |
//! |---|---|
//! | epoch above ours | fenced: another node is active |
//! | beyond what we journaled | diverged |
//! | none, and our journal begins at the beginning | stream from 1 |
//! | before the oldest frame that is kept | below the journal |
//! | hash unknown there (rebased after a resync), or just before the oldest frame | stream; the peer checks the chain |
//! | hash equal to ours | stream from there |
//! | hash different, or no frame of ours ends there | diverged |
//! | ours is not in memory | ask the journal, then as above |

use std::collections::BTreeMap;

use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::message::{GroupAck, Message, Position, ResyncReason};

use crate::frame::Frame;
use crate::journal::Tail;
use crate::limits;
use crate::transport::LinkId;

mod group;
#[cfg(test)]
mod tests;

pub use group::{Lag, Stage};

use group::{Group, Replica};

/// What is remembered of a journaled frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    pub first: Sequence,
    pub last: Sequence,
    /// Bytes of the frame as journaled.
    pub bytes: u64,
    pub captured_first_wall_ns: u64,
    pub hash: [u8; 32],
}

impl FrameMeta {
    /// What the decider needs of a frame.
    #[must_use]
    pub fn of(frame: &Frame) -> Self {
        let header = frame.header();
        Self {
            first: header.first_sequence,
            last: header.last_sequence(),
            bytes: frame.bytes().len() as u64,
            captured_first_wall_ns: header.captured_first_wall_ns,
            hash: frame.hash(),
        }
    }

    /// Bytes on the wire: what the frame costs in credit.
    fn cost_bytes(&self) -> u64 {
        Message::frame_cost_bytes(usize::try_from(self.bytes).unwrap_or(usize::MAX))
    }
}

/// How [`ShipAction::Ship`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShipOutcome {
    /// All that was read is queued.
    Sent,
    /// The connection's queue was full before the end: try again after a while.
    Full,
    /// The journal cannot read what comes next.
    Unreadable(ResyncReason),
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum ShipEvent {
    /// This node is active for the group from now on. `first` is the oldest sequence that can be read, 0 = none.
    Opened {
        group: GroupId,
        epoch: Epoch,
        first: Sequence,
        tail: Tail,
        replicas: Vec<NodeId>,
    },
    /// This node is no longer active for the group.
    Closed {
        group: GroupId,
    },
    /// The group's list of replicas changed.
    Replicas {
        group: GroupId,
        replicas: Vec<NodeId>,
    },
    /// A frame of the group is durable here.
    Journaled {
        group: GroupId,
        frame: FrameMeta,
    },
    /// The journal let go of what is before `first`.
    Retired {
        group: GroupId,
        first: Sequence,
    },
    Connected {
        peer: NodeId,
        link: LinkId,
        credit_bytes: u64,
        positions: Vec<Position>,
    },
    /// Where a connected peer stands in groups that it has begun to follow this node in.
    Positions {
        peer: NodeId,
        link: LinkId,
        positions: Vec<Position>,
    },
    Disconnected {
        peer: NodeId,
        link: LinkId,
    },
    Credit {
        peer: NodeId,
        link: LinkId,
        bytes: u64,
    },
    Ack {
        peer: NodeId,
        link: LinkId,
        acks: Vec<GroupAck>,
    },
    /// Answer to [`ShipAction::LookUpHash`]; `None`: no frame ends there.
    HashKnown {
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        at: Sequence,
        hash: Option<[u8; 32]>,
    },
    /// Answer to [`ShipAction::Ship`]: the frames that were queued, in order.
    Shipped {
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        frames: Vec<FrameMeta>,
        outcome: ShipOutcome,
    },
    /// The peer says that it cannot go on from where it is.
    PeerNeedsResync {
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        reason: ResyncReason,
    },
    /// The peer's stream of the group was set to go on after `at`; its accounts are compared meanwhile.
    Rebased {
        peer: NodeId,
        group: GroupId,
        at: Sequence,
    },
    /// Time passed: what was held back by a full queue is tried again.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShipAction {
    /// Read frames of the group from `from` on, up to `bytes_max` (at least one), send them on `link` with
    /// `writer_epoch`, and answer with [`ShipEvent::Shipped`].
    Ship { peer: NodeId, link: LinkId, group: GroupId, writer_epoch: Epoch, from: Sequence, bytes_max: u64 },
    /// Find the hash of the frame that ends at `at`, and answer with [`ShipEvent::HashKnown`].
    LookUpHash { peer: NodeId, link: LinkId, group: GroupId, at: Sequence },
    /// Everything up to `acked` is durable at the peer.
    Acked { peer: NodeId, group: GroupId, acked: Sequence },
    /// The peer cannot be brought up to date by frames. Said once per connection.
    ResyncNeeded { peer: NodeId, link: LinkId, group: GroupId, epoch: Epoch, reason: ResyncReason },
    /// The peer knows a higher epoch: this node must not be active for the group.
    Fenced { peer: NodeId, group: GroupId, ours: Epoch, theirs: Epoch },
    /// What the peer had acknowledged is no longer there: its journal was lost.
    WentBack { peer: NodeId, group: GroupId, acked: Sequence, now: Sequence },
    /// The peer said what cannot be.
    Drop { peer: NodeId, link: LinkId, why: String },
}

/// Sizes; the defaults are those of [`limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShipLimits {
    pub window_bytes: u64,
    pub read_bytes: u64,
    pub frames_max: usize,
}

impl Default for ShipLimits {
    fn default() -> Self {
        Self {
            window_bytes: limits::SHIP_WINDOW_BYTES,
            read_bytes: limits::SHIP_READ_BYTES,
            frames_max: limits::SHIP_FRAMES_MAX,
        }
    }
}

#[derive(Clone, Debug)]
struct Peer {
    link: LinkId,
    /// Bytes of frames that may be sent; below zero when one frame was larger than what was left, until the peer gives
    /// more.
    credit_bytes: i64,
    /// What each Ship that is not answered yet may take of the credit.
    reading: BTreeMap<GroupId, u64>,
    /// The group that was served last, so that all have their turn.
    turn: GroupId,
}

/// The decider of one node.
#[derive(Clone, Debug, Default)]
pub struct Shipper {
    limits: ShipLimits,
    groups: BTreeMap<GroupId, Group>,
    peers: BTreeMap<NodeId, Peer>,
}

impl Shipper {
    /// A decider that knows no group and no peer.
    #[must_use]
    pub fn new(limits: ShipLimits) -> Self {
        Self { limits, groups: BTreeMap::new(), peers: BTreeMap::new() }
    }

    /// Takes an event, gives what to do, in order.
    pub fn apply(&mut self, event: ShipEvent) -> Vec<ShipAction> {
        let mut out = Vec::new();
        match event {
            // A replica that is connected says where it stands as soon as it follows this node; it may have done so
            // before this node knew that it is active, and then `Positions` comes right after this.
            ShipEvent::Opened { group, epoch, first, tail, replicas } => {
                self.groups.insert(group, Group::new(epoch, first, tail, &replicas));
            }
            ShipEvent::Closed { group } => {
                self.groups.remove(&group);
            }
            ShipEvent::Replicas { group, replicas } => self.replicas(group, &replicas),
            ShipEvent::Journaled { group, frame } => self.journaled(group, frame, &mut out),
            ShipEvent::Retired { group, first } => self.retired(group, first, &mut out),
            ShipEvent::Connected { peer, link, credit_bytes, positions } => {
                self.connected(peer, link, credit_bytes, &positions, &mut out)
            }
            ShipEvent::Positions { peer, link, positions } => {
                if self.is_link(peer, link) {
                    for position in &positions {
                        self.position(peer, link, position, &mut out);
                    }
                    self.pump(peer, &mut out);
                }
            }
            ShipEvent::Disconnected { peer, link } => self.disconnected(peer, link),
            ShipEvent::Credit { peer, link, bytes } => {
                if let Some(known) = self.peers.get_mut(&peer).filter(|known| known.link == link) {
                    known.credit_bytes = known.credit_bytes.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
                    self.pump(peer, &mut out);
                }
            }
            ShipEvent::Ack { peer, link, acks } => {
                if self.is_link(peer, link) {
                    for ack in acks {
                        self.acked(peer, link, ack, &mut out);
                    }
                    self.pump(peer, &mut out);
                }
            }
            ShipEvent::HashKnown { peer, link, group, at, hash } => {
                if self.is_link(peer, link) {
                    self.hash_known(peer, link, group, at, hash, &mut out);
                    self.pump(peer, &mut out);
                }
            }
            ShipEvent::Shipped { peer, link, group, frames, outcome } => {
                if self.is_link(peer, link) {
                    self.shipped(peer, link, group, &frames, outcome, &mut out);
                    // Nothing sent and nothing wrong: asking again at once would spin.
                    if outcome != ShipOutcome::Full && !(outcome == ShipOutcome::Sent && frames.is_empty()) {
                        self.pump(peer, &mut out);
                    }
                }
            }
            ShipEvent::PeerNeedsResync { peer, link, group, reason } => {
                if self.is_link(peer, link) {
                    self.needs_resync(peer, link, group, reason, &mut out);
                }
            }
            ShipEvent::Rebased { peer, group, at } => self.rebased(peer, group, at, &mut out),
            ShipEvent::Tick => {
                for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                    self.pump(peer, &mut out);
                }
            }
        }
        out
    }

    /// How far the peer is behind in the group; `None` if it is no replica of it. `now_wall_ns` as in the frames.
    #[must_use]
    pub fn lag(&self, group: GroupId, peer: NodeId, now_wall_ns: u64) -> Option<Lag> {
        self.groups.get(&group)?.lag(peer, now_wall_ns)
    }

    /// Every group with its replicas, for status and metrics.
    pub fn replicas_of(&self) -> impl Iterator<Item = (GroupId, NodeId)> + '_ {
        self.groups.iter().flat_map(|(group, state)| state.replicas.keys().map(|peer| (*group, *peer)))
    }

    /// Lowest sequence of the group that some replica still needs from the journal; `None` if none does.
    #[must_use]
    pub fn needed_from(&self, group: GroupId, peer: NodeId) -> Option<Sequence> {
        let replica = self.groups.get(&group)?.replicas.get(&peer)?;
        (!matches!(replica.stage, Stage::Resync(_))).then(|| replica.acked.next())
    }

    fn is_link(&self, peer: NodeId, link: LinkId) -> bool {
        self.peers.get(&peer).is_some_and(|known| known.link == link)
    }

    fn replicas(&mut self, group: GroupId, replicas: &[NodeId]) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        state.replicas.retain(|peer, _| replicas.contains(peer));
        for peer in replicas {
            if state.replicas.contains_key(peer) {
                continue;
            }
            // It says where it stands when it follows.
            state.replicas.insert(*peer, Replica::default());
        }
    }

    fn journaled(&mut self, group: GroupId, frame: FrameMeta, out: &mut Vec<ShipAction>) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        state.journaled(frame, self.limits.frames_max);
        for peer in state.replicas.keys().copied().collect::<Vec<_>>() {
            self.pump_group(peer, group, out);
        }
    }

    fn retired(&mut self, group: GroupId, first: Sequence, out: &mut Vec<ShipAction>) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        state.first = state.first.max(first);
        let first = state.first;
        let lost: Vec<_> = state
            .replicas
            .iter()
            .filter(|(_, replica)| replica.stage == Stage::Streaming && replica.shipped.next() < first)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in lost {
            if let Some(link) = self.peers.get(&peer).map(|known| known.link) {
                self.needs_resync(peer, link, group, ResyncReason::BelowJournal, out);
            }
        }
    }

    fn connected(
        &mut self,
        peer: NodeId,
        link: LinkId,
        credit_bytes: u64,
        positions: &[Position],
        out: &mut Vec<ShipAction>,
    ) {
        let credit_bytes = i64::try_from(credit_bytes).unwrap_or(i64::MAX);
        self.peers.insert(peer, Peer { link, credit_bytes, reading: BTreeMap::new(), turn: GroupId(0) });
        for (group, state) in &mut self.groups {
            // One that says nothing of a group does not follow this node in it yet, and says so when it does.
            state.down(peer);
            if let Some(position) = positions.iter().find(|position| position.group == *group) {
                Self::judge(state, peer, link, position, out);
            }
        }
        self.pump(peer, out);
    }

    fn position(&mut self, peer: NodeId, link: LinkId, position: &Position, out: &mut Vec<ShipAction>) {
        let Some(state) = self.groups.get_mut(&position.group) else { return };
        // Asked for when the peer was down; one that is served already goes on as it is.
        if state.replicas.get(&peer).is_some_and(|replica| replica.stage == Stage::Down) {
            Self::judge(state, peer, link, position, out);
        }
    }

    fn judge(state: &mut Group, peer: NodeId, link: LinkId, position: &Position, out: &mut Vec<ShipAction>) {
        let Some(replica) = state.replicas.get(&peer) else { return };
        let group = position.group;
        if position.journaled < replica.acked {
            out.push(ShipAction::WentBack { peer, group, acked: replica.acked, now: position.journaled });
        }
        state.connected(peer, link, group, position, out);
    }

    fn disconnected(&mut self, peer: NodeId, link: LinkId) {
        if !self.is_link(peer, link) {
            return;
        }
        self.peers.remove(&peer);
        for state in self.groups.values_mut() {
            state.down(peer);
        }
    }

    fn hash_known(
        &mut self,
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        at: Sequence,
        hash: Option<[u8; 32]>,
        out: &mut Vec<ShipAction>,
    ) {
        if let Some(state) = self.groups.get_mut(&group) {
            state.hash_known(peer, link, group, at, hash, out);
        }
    }

    fn acked(&mut self, peer: NodeId, link: LinkId, ack: GroupAck, out: &mut Vec<ShipAction>) {
        // A group that moved away, or a replica that was taken off the list, a moment ago.
        let Some(state) = self.groups.get_mut(&ack.group) else { return };
        state.acked(peer, link, &ack, out);
    }

    fn shipped(
        &mut self,
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        frames: &[FrameMeta],
        outcome: ShipOutcome,
        out: &mut Vec<ShipAction>,
    ) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        // The bytes are with the transport, whatever became of the group meanwhile.
        known.reading.remove(&group);
        let cost: u64 = frames.iter().map(FrameMeta::cost_bytes).sum();
        known.credit_bytes = known.credit_bytes.saturating_sub(i64::try_from(cost).unwrap_or(i64::MAX));
        let Some(state) = self.groups.get_mut(&group) else { return };
        state.shipped(peer, frames, self.limits.frames_max);
        if let ShipOutcome::Unreadable(reason) = outcome {
            self.needs_resync(peer, link, group, reason, out);
        }
    }

    fn needs_resync(
        &mut self,
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        reason: ResyncReason,
        out: &mut Vec<ShipAction>,
    ) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        state.needs_resync(peer, link, group, reason, out);
    }

    fn rebased(&mut self, peer: NodeId, group: GroupId, at: Sequence, out: &mut Vec<ShipAction>) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        state.rebased(peer, at, self.peers.contains_key(&peer));
        self.pump_group(peer, group, out);
    }

    /// Serves every group of the peer once, beginning after the one that was served last.
    fn pump(&mut self, peer: NodeId, out: &mut Vec<ShipAction>) {
        let Some(turn) = self.peers.get(&peer).map(|known| known.turn) else { return };
        let after = (std::ops::Bound::Excluded(turn), std::ops::Bound::Unbounded);
        let order: Vec<_> =
            self.groups.range(after).chain(self.groups.range(..=turn)).map(|(group, _)| *group).collect();
        for group in order {
            self.pump_group(peer, group, out);
        }
    }

    fn pump_group(&mut self, peer: NodeId, group: GroupId, out: &mut Vec<ShipAction>) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let Some(state) = self.groups.get_mut(&group) else { return };
        if known.reading.contains_key(&group) {
            return;
        }
        let reserved: u64 = known.reading.values().sum();
        let credit = u64::try_from(known.credit_bytes).unwrap_or(0).saturating_sub(reserved);
        if credit == 0 {
            return;
        }
        let Some((from, room)) = state.next(peer, self.limits.window_bytes) else { return };
        let bytes_max = self.limits.read_bytes.min(room).min(credit);
        known.turn = group;
        known.reading.insert(group, bytes_max);
        out.push(ShipAction::Ship { peer, link: known.link, group, writer_epoch: state.epoch, from, bytes_max });
    }
}
