//! What the checker knows of frames: who sealed them, where they are durable, and which changes they hold.
//!
//! Owns: the rules about the stream itself: one writer for each epoch, one frame for each place in it, every record of
//! a ring journaled once and in order, and nothing released or acknowledged before its bytes were synced. It reads the
//! bytes that a disk synced, not what the journal says of itself. Refuses: mail.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::frame::{FRAME_HEADER_BYTES, FrameHeader};
use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::segment::{WRITE_HEADER_BYTES, WriteHeader};

/// A record of a ring: node, generation, index.
pub type RingAt = (NodeId, u64, u64);

/// The begin or the end of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub account: String,
    pub snapshot: u64,
    pub is_end: bool,
}

/// One operation of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub ring: Option<RingAt>,
    /// The change of a user that it tells of.
    pub number: Option<u64>,
    pub mark: Option<Mark>,
}

#[derive(Debug)]
struct Sealed {
    origin: NodeId,
    group: GroupId,
    epoch: Epoch,
    first: Sequence,
    ops: Vec<Held>,
    durable: BTreeSet<NodeId>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Log {
    frames: BTreeMap<[u8; 32], Sealed>,
    writers: BTreeMap<(GroupId, Epoch), NodeId>,
    /// Given a sequence, not sealed yet.
    pending: BTreeMap<(NodeId, GroupId, Sequence), Held>,
    /// Where each change is.
    changes: BTreeMap<u64, ([u8; 32], Sequence)>,
    places: BTreeMap<(GroupId, Epoch, Sequence), [u8; 32]>,
    homes: BTreeMap<RingAt, [u8; 32]>,
    /// Highest record that is durable, by node, group and generation, with its sequence.
    order: BTreeMap<(NodeId, GroupId, u64), (u64, Sequence)>,
    /// Nodes whose disk lost what it had made durable.
    tainted: BTreeSet<NodeId>,
    /// By account: the node that made it, where it began, and the frame that holds its end.
    snapshots: BTreeMap<String, Vec<Snapshot>>,
}

#[derive(Debug)]
struct Snapshot {
    number: u64,
    origin: NodeId,
    begin: (Epoch, Sequence),
    end: Option<[u8; 32]>,
}

impl Log {
    /// An agent gave an operation its place.
    pub fn pushed(&mut self, node: NodeId, group: GroupId, seq: Sequence, held: Held) {
        self.pending.insert((node, group, seq), held);
    }

    /// An agent died: what it had not sealed is nowhere.
    pub fn forget_pending(&mut self, node: NodeId) {
        self.pending.retain(|(of, ..), _| *of != node);
    }

    /// A disk lost something of what it had made durable, nobody knows what.
    pub fn taint(&mut self, node: NodeId) {
        self.tainted.insert(node);
        self.homes.retain(|(of, ..), _| *of != node);
        self.order.retain(|(of, ..), _| *of != node);
    }

    /// An agent sealed a frame.
    pub fn sealed(&mut self, node: NodeId, header: &FrameHeader, hash: [u8; 32]) -> Result<(), String> {
        let (group, epoch, first) = (header.group, header.epoch, header.first_sequence);
        let writer = *self.writers.entry((group, epoch)).or_insert(node);
        if writer != node {
            return Err(format!("two writers of group {group} in epoch {epoch}: nodes {writer} and {node}"));
        }
        let mut ops = Vec::new();
        for seq in first.0..=header.last_sequence().0 {
            let Some(held) = self.pending.remove(&(node, group, Sequence(seq))) else {
                return Err(format!("node {node} sealed {seq} of group {group}, which it never gave away"));
            };
            if let Some(number) = held.number {
                self.changes.insert(number, (hash, Sequence(seq)));
            }
            if let Some(mark) = &held.mark {
                self.marked(node, mark, (epoch, Sequence(seq)), hash);
            }
            ops.push(held);
        }
        let durable = BTreeSet::new();
        self.frames.insert(hash, Sealed { origin: node, group, epoch, first, ops, durable });
        Ok(())
    }

    fn marked(&mut self, origin: NodeId, mark: &Mark, at: (Epoch, Sequence), hash: [u8; 32]) {
        let list = self.snapshots.entry(mark.account.clone()).or_default();
        if !mark.is_end {
            list.push(Snapshot { number: mark.snapshot, origin, begin: at, end: None });
        } else if let Some(known) = list.iter_mut().find(|known| known.number == mark.snapshot) {
            known.end = Some(hash);
        }
    }

    /// A node's disk synced these bytes, from a page on.
    pub fn synced(&mut self, node: NodeId, bytes: &[u8]) -> Result<(), String> {
        let Ok((write, _)) = WriteHeader::decode(bytes) else { return Ok(()) };
        let end = WRITE_HEADER_BYTES + write.payload_len as usize;
        let mut at = WRITE_HEADER_BYTES;
        while at < end.min(bytes.len()) {
            let Ok(header) = FrameHeader::decode(&bytes[at..]) else { return Ok(()) };
            let Some(frame) = bytes.get(at..at + header.frame_len()) else { return Ok(()) };
            let body = blake3::hash(&frame[FRAME_HEADER_BYTES..]);
            let whole = body.as_bytes()[..16] == header.body_checksum;
            if whole {
                self.durable(node, &header, *blake3::hash(&frame[..FRAME_HEADER_BYTES]).as_bytes())?;
            }
            at += header.frame_len();
        }
        Ok(())
    }

    fn durable(&mut self, node: NodeId, header: &FrameHeader, hash: [u8; 32]) -> Result<(), String> {
        let (group, epoch) = (header.group, header.epoch);
        let Some(frame) = self.frames.get_mut(&hash) else {
            return Err(format!("node {node} has a frame of group {group} that nobody sealed: {header:?}"));
        };
        if !frame.durable.insert(node) {
            return Ok(());
        }
        if self.tainted.contains(&frame.origin) {
            return Ok(());
        }
        let place = *self.places.entry((group, epoch, frame.first)).or_insert(hash);
        if place != hash {
            return Err(format!("two frames of group {group}, epoch {epoch}, begin at {}", frame.first));
        }
        if node != frame.origin {
            return Ok(());
        }
        for (held, seq) in frame.ops.iter().zip(frame.first.0..) {
            let Some(ring) = held.ring else { continue };
            if *self.homes.entry(ring).or_insert(hash) != hash {
                return Err(format!("record {} of node {node}'s ring is journaled twice, again at {seq}", ring.2));
            }
            let (index, before) = self.order.get(&(node, group, ring.1)).copied().unwrap_or((0, Sequence(0)));
            if before.0 != 0 && (seq > before.0) != (ring.2 > index) {
                return Err(format!("group {group}: {seq} holds record {}, {before} holds {index}", ring.2));
            }
            if seq > before.0 {
                self.order.insert((node, group, ring.1), (ring.2, Sequence(seq)));
            }
        }
        Ok(())
    }

    /// Nodes whose disk holds the change: the operation itself, or a snapshot of the account that its node made after
    /// it.
    #[must_use]
    pub fn nodes_of(&self, number: u64, account: &str) -> BTreeSet<NodeId> {
        let Some((hash, seq)) = self.changes.get(&number) else { return BTreeSet::new() };
        let Some(frame) = self.frames.get(hash) else { return BTreeSet::new() };
        let mut nodes = frame.durable.clone();
        let after = |snapshot: &&Snapshot| snapshot.origin == frame.origin && snapshot.begin > (frame.epoch, *seq);
        for snapshot in self.snapshots.get(account).into_iter().flatten().filter(after) {
            nodes.extend(snapshot.end.and_then(|end| self.frames.get(&end)).into_iter().flat_map(|end| &end.durable));
        }
        nodes
    }

    /// Whether the record of a ring is durable on its own node.
    #[must_use]
    pub fn is_home(&self, ring: RingAt) -> bool {
        self.homes.contains_key(&ring)
    }

    /// The epoch of the frame that holds the change.
    #[must_use]
    pub fn epoch_of(&self, number: u64) -> Option<Epoch> {
        self.changes.get(&number).and_then(|(hash, _)| self.frames.get(hash)).map(|frame| frame.epoch)
    }

    /// Whether the disk of this node ever lost what was durable.
    #[must_use]
    pub fn is_tainted(&self, node: NodeId) -> bool {
        self.tainted.contains(&node)
    }

    /// Groups and their frames, for the end of a report.
    #[must_use]
    pub fn count(&self) -> usize {
        self.frames.values().filter(|frame| frame.group.0 < u32::MAX).count()
    }
}
