//! One group and its replicas: positions, what is in flight, and how far each is behind.

use std::collections::{BTreeMap, VecDeque};

use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::message::{GroupAck, Position, ResyncReason};

use super::{FrameMeta, ShipAction};
use crate::journal::Tail;
use crate::transport::LinkId;

/// Frames that every replica has and that are kept all the same, for a peer that reconnects a moment behind.
const FRAMES_KEPT: usize = 64;
const UNKNOWN_HASH: [u8; 32] = [0; 32];

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stage {
    /// Not connected.
    #[default]
    Down,
    /// Connected; the hash at its position is being looked up.
    Checking(Sequence, [u8; 32]),
    /// Frames go out as they come.
    Streaming,
    /// Frames cannot bring it up to date.
    Resync(ResyncReason),
}

/// How far a replica is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    pub stage: Stage,
    pub journaled: Sequence,
    pub acked: Sequence,
    pub applied: Sequence,
    /// Operations, bytes and age of what is not durable at the peer; all 0 when it has everything.
    pub operations: u64,
    pub bytes: u64,
    pub age_ns: u64,
    /// Operations and age of what is not applied at the peer.
    pub apply_operations: u64,
    pub apply_age_ns: u64,
    /// It is away, and what it needs next is no longer in the journal: it will need a resync. Not told of a peer that
    /// was not heard of in this life of the agent, whose position is not known.
    pub below_journal: bool,
    /// `false`: bytes and ages are lower bounds, because older frames are no longer remembered.
    pub exact: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Replica {
    pub(super) stage: Stage,
    pub(super) acked: Sequence,
    pub(super) applied: Sequence,
    pub(super) shipped: Sequence,
    /// Last sequence and cost of what was shipped and is not acknowledged.
    in_flight: VecDeque<(Sequence, u64)>,
    in_flight_bytes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) epoch: Epoch,
    /// Oldest sequence that can be read; 0 = none yet.
    pub(super) first: Sequence,
    tail: Tail,
    /// Recent frames, each with the bytes of all frames up to its end.
    frames: VecDeque<(FrameMeta, u64)>,
    bytes_total: u64,
    pub(super) replicas: BTreeMap<NodeId, Replica>,
}

impl Group {
    pub(super) fn new(epoch: Epoch, first: Sequence, tail: Tail, replicas: &[NodeId]) -> Self {
        let replicas = replicas.iter().map(|peer| (*peer, Replica::default())).collect();
        Self { epoch, first, tail, frames: VecDeque::new(), bytes_total: 0, replicas }
    }

    /// The chain of positions of one replica (rule 1).
    fn check(&self, peer: NodeId) {
        if let Some(replica) = self.replicas.get(&peer) {
            assert!(
                replica.applied <= replica.acked
                    && replica.acked <= replica.shipped
                    && replica.shipped <= self.tail.sequence,
                "positions out of order at peer {peer}: applied {}, acked {}, shipped {}, journaled {}",
                replica.applied,
                replica.acked,
                replica.shipped,
                self.tail.sequence
            );
        }
    }

    pub(super) fn journaled(&mut self, frame: FrameMeta, frames_max: usize) {
        // Told twice is not journaled twice.
        if frame.last <= self.tail.sequence {
            return;
        }
        assert!(
            frame.first == self.tail.sequence.next(),
            "frame begins at {}, journaled is {}",
            frame.first,
            self.tail.sequence
        );
        self.tail = Tail { sequence: frame.last, epoch: self.epoch, hash: frame.hash };
        if self.first == Sequence(0) {
            self.first = frame.first;
        }
        self.bytes_total += frame.bytes;
        self.frames.push_back((frame, self.bytes_total));
        let everywhere = self.replicas.values().map(|replica| replica.applied).min().unwrap_or(self.tail.sequence);
        while self.frames.len() > frames_max
            || (self.frames.len() > FRAMES_KEPT
                && self.frames.front().is_some_and(|(frame, _)| frame.last <= everywhere))
        {
            self.frames.pop_front();
        }
    }

    /// Judges a peer's position; the table is in the module's head. A position that fits is an acknowledgement.
    pub(super) fn connected(
        &mut self,
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        position: &Position,
        out: &mut Vec<ShipAction>,
    ) {
        self.down(peer);
        let at = position.journaled;
        if position.epoch > self.epoch {
            out.push(ShipAction::Fenced { peer, group, ours: self.epoch, theirs: position.epoch });
            return;
        }
        if at > self.tail.sequence {
            return self.needs_resync(peer, link, group, ResyncReason::Diverged, out);
        }
        let begins_at = if self.first == Sequence(0) { self.tail.sequence.next() } else { self.first };
        if at.next() < begins_at {
            return self.needs_resync(peer, link, group, ResyncReason::BelowJournal, out);
        }
        let proven = at > Sequence(0) && at.next() > begins_at;
        let stage = match self.hash_at(at) {
            _ if at == Sequence(0) || position.hash == UNKNOWN_HASH => Stage::Streaming,
            Some(Some(hash)) if hash == position.hash || hash == UNKNOWN_HASH => Stage::Streaming,
            Some(_) => return self.needs_resync(peer, link, group, ResyncReason::Diverged, out),
            None if at.next() == begins_at => Stage::Streaming,
            None => Stage::Checking(at, position.hash),
        };
        match stage {
            Stage::Checking(..) => out.push(ShipAction::LookUpHash { peer, link, group, at }),
            // The acknowledgement may have been lost with the last connection, and nothing else would come after it
            // (seen in the simulator: sessions that waited for ever for what the peer had).
            _ if proven => out.push(ShipAction::Acked { peer, group, acked: at }),
            _ => {}
        }
        self.stand(peer, at, position.applied.min(at), stage);
    }

    /// Hash of the frame that ends at `at`: `None` when it is not in memory, `Some(None)` when no frame ends there.
    fn hash_at(&self, at: Sequence) -> Option<Option<[u8; 32]>> {
        if at == self.tail.sequence {
            return Some(Some(self.tail.hash));
        }
        let index = self.frames.partition_point(|(frame, _)| frame.last < at);
        let (frame, _) = self.frames.get(index)?;
        (frame.first <= at).then(|| (frame.last == at).then_some(frame.hash))
    }

    pub(super) fn hash_known(
        &mut self,
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        at: Sequence,
        hash: Option<[u8; 32]>,
        out: &mut Vec<ShipAction>,
    ) {
        let first = self.first;
        let Some(replica) = self.replicas.get_mut(&peer) else { return };
        let Stage::Checking(asked, theirs) = replica.stage else { return };
        if asked != at {
            return;
        }
        match hash {
            Some(ours) if ours == theirs => {
                replica.stage = Stage::Streaming;
                out.push(ShipAction::Acked { peer, group, acked: at });
            }
            // Retention moved on while the journal looked.
            None if at.next() < first => self.needs_resync(peer, link, group, ResyncReason::BelowJournal, out),
            _ => self.needs_resync(peer, link, group, ResyncReason::Diverged, out),
        }
    }

    pub(super) fn down(&mut self, peer: NodeId) {
        if let Some(replica) = self.replicas.get_mut(&peer) {
            *replica = Replica {
                acked: replica.acked,
                applied: replica.applied,
                shipped: replica.acked,
                ..Replica::default()
            };
        }
        self.check(peer);
    }

    fn stand(&mut self, peer: NodeId, at: Sequence, applied: Sequence, stage: Stage) {
        if let Some(replica) = self.replicas.get_mut(&peer) {
            *replica = Replica { stage, acked: at, applied, shipped: at, ..Replica::default() };
        }
        self.check(peer);
    }

    pub(super) fn needs_resync(
        &mut self,
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        reason: ResyncReason,
        out: &mut Vec<ShipAction>,
    ) {
        let epoch = self.epoch;
        let Some(replica) = self.replicas.get_mut(&peer) else { return };
        if matches!(replica.stage, Stage::Resync(_)) {
            return;
        }
        replica.stage = Stage::Resync(reason);
        out.push(ShipAction::ResyncNeeded { peer, link, group, epoch, reason });
    }

    pub(super) fn rebased(&mut self, peer: NodeId, at: Sequence, connected: bool) {
        let at = at.min(self.tail.sequence);
        self.stand(peer, at, at, if connected { Stage::Streaming } else { Stage::Down });
    }

    pub(super) fn acked(&mut self, peer: NodeId, link: LinkId, ack: &GroupAck, out: &mut Vec<ShipAction>) {
        let (epoch, group) = (self.epoch, ack.group);
        let Some(replica) = self.replicas.get_mut(&peer) else { return };
        if ack.epoch > epoch {
            replica.stage = Stage::Down;
            out.push(ShipAction::Fenced { peer, group, ours: epoch, theirs: ack.epoch });
            return;
        }
        if replica.stage != Stage::Streaming {
            return;
        }
        if ack.journaled > replica.shipped {
            let why =
                format!("it acknowledges `{}` of group `{group}`, shipped is `{}`", ack.journaled, replica.shipped);
            replica.stage = Stage::Down;
            out.push(ShipAction::Drop { peer, link, why });
            return;
        }
        replica.applied = replica.applied.max(ack.applied);
        if ack.journaled > replica.acked {
            replica.acked = ack.journaled;
            while let Some((_, bytes)) = replica.in_flight.front().copied().filter(|(last, _)| *last <= ack.journaled) {
                replica.in_flight_bytes -= bytes;
                replica.in_flight.pop_front();
            }
            out.push(ShipAction::Acked { peer, group, acked: ack.journaled });
        }
        self.check(peer);
    }

    /// From where to ship, and how many bytes the window lets through; `None` while nothing is to be done.
    pub(super) fn next(&self, peer: NodeId, window_bytes: u64) -> Option<(Sequence, u64)> {
        let replica = self.replicas.get(&peer)?;
        if replica.stage != Stage::Streaming || replica.shipped >= self.tail.sequence {
            return None;
        }
        let room = window_bytes.checked_sub(replica.in_flight_bytes).filter(|room| *room > 0)?;
        Some((replica.shipped.next(), room))
    }

    pub(super) fn shipped(&mut self, peer: NodeId, frames: &[FrameMeta], frames_max: usize) {
        // The journal gives only what is durable, but may do so before its news of it was taken: shipped follows
        // journaled here, too.
        for frame in frames.iter().filter(|frame| frame.last > self.tail.sequence).copied().collect::<Vec<_>>() {
            if frame.first == self.tail.sequence.next() {
                self.journaled(frame, frames_max);
            }
        }
        let Some(replica) = self.replicas.get_mut(&peer) else { return };
        // An answer to what was asked before the stream was set elsewhere: the peer sees to it that it does no harm.
        if replica.stage != Stage::Streaming
            || frames.first().is_some_and(|frame| frame.first != replica.shipped.next())
        {
            return;
        }
        for frame in frames {
            assert!(
                frame.first == replica.shipped.next(),
                "frame at {} was shipped after {}",
                frame.first,
                replica.shipped
            );
            replica.shipped = frame.last;
            replica.in_flight.push_back((frame.last, frame.cost_bytes()));
            replica.in_flight_bytes += frame.cost_bytes();
        }
        self.check(peer);
    }

    pub(super) fn lag(&self, peer: NodeId, now_wall_ns: u64) -> Option<Lag> {
        let replica = self.replicas.get(&peer)?;
        let journaled = self.tail.sequence;
        let behind = |at: Sequence| {
            let index = self.frames.partition_point(|(frame, _)| frame.last <= at);
            let before = index.checked_sub(1).and_then(|index| self.frames.get(index)).map(|(_, bytes)| *bytes);
            let oldest = self.frames.get(index).map(|(frame, _)| frame);
            let floor = self.frames.front().map_or(self.bytes_total, |(frame, bytes)| bytes - frame.bytes);
            let exact = at >= journaled || oldest.is_some_and(|frame| frame.first <= at.next());
            let age_ns = oldest.map_or(0, |frame| now_wall_ns.saturating_sub(frame.captured_first_wall_ns));
            (self.bytes_total - before.unwrap_or(floor), age_ns, exact)
        };
        let (bytes, age_ns, acked_exact) = behind(replica.acked);
        let (_, apply_age_ns, applied_exact) = behind(replica.applied);
        Some(Lag {
            stage: replica.stage,
            journaled,
            acked: replica.acked,
            applied: replica.applied,
            operations: journaled.0 - replica.acked.0,
            bytes,
            age_ns,
            apply_operations: journaled.0 - replica.applied.0,
            apply_age_ns,
            below_journal: replica.stage == Stage::Down
                && replica.acked != Sequence(0)
                && replica.acked.next() < self.first,
            exact: acked_exact && applied_exact,
        })
    }
}
