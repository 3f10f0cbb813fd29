//! Batches: operations of one group between capture and frame.
//!
//! Owns: the group's next sequence and the hash chain of its frames. Pure. What can hurt: a sequence given twice or
//! left out; it is counted here and nowhere else, and a frame that could not be sealed keeps its operations.
//! Refuses: deciding when to seal by a clock of its own.

use understudy_types::frame::RingPosition;
use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};

use crate::clock::MonoNs;
use crate::frame::{BuilderError, Frame, FrameBuilder, FrameCodec, Level, Seal};
use crate::journal::Tail;
use crate::limits::FRAMES_IN_FLIGHT_MAX;

/// When a batch is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    pub ops_max: usize,
    pub bytes_max: usize,
    /// How long an operation may wait for company while the disk is busy with others, in nanoseconds.
    pub linger_ns: u64,
}

/// The batch of one group.
#[derive(Debug)]
pub struct GroupBatch {
    pub group: GroupId,
    cluster: ClusterId,
    node: NodeId,
    epoch: Epoch,
    /// Sequence of the next operation.
    next: Sequence,
    previous_hash: [u8; 32],
    builder: FrameBuilder,
    oldest: MonoNs,
    in_flight: usize,
}

impl GroupBatch {
    /// Goes on after `tail`.
    #[must_use]
    pub fn new(cluster: ClusterId, node: NodeId, group: GroupId, epoch: Epoch, tail: Tail) -> Self {
        Self {
            group,
            cluster,
            node,
            epoch,
            next: tail.sequence.next(),
            previous_hash: tail.hash,
            builder: FrameBuilder::new(),
            oldest: MonoNs::default(),
            in_flight: 0,
        }
    }

    /// The epoch in which its frames are sealed.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Last sequence that was given away.
    #[must_use]
    pub fn captured(&self) -> Sequence {
        Sequence(self.next.0 - 1)
    }

    /// Whether something waits to be sealed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Adds one operation and gives its sequence.
    ///
    /// # Errors
    /// [`BuilderError::Full`]: seal first. Others: the operation is none.
    pub fn push(
        &mut self,
        account: &str,
        captured_wall_ns: u64,
        op: &[u8],
        ring: Option<RingPosition>,
        now: MonoNs,
    ) -> Result<Sequence, BuilderError> {
        self.builder.push(account, captured_wall_ns, op, ring)?;
        if self.builder.count() == 1 {
            self.oldest = now;
        }
        let given = self.next;
        self.next = given.next();
        Ok(given)
    }

    /// Whether the batch is to be sealed now. `idle` = nothing more is waiting to be added.
    #[must_use]
    pub fn is_due(&self, limits: &BatchLimits, idle: bool, now: MonoNs) -> bool {
        if self.builder.is_empty() {
            return false;
        }
        let full = self.builder.count() as usize >= limits.ops_max || self.builder.body_bytes() >= limits.bytes_max;
        // While frames are on their way to disk, waiting costs nothing and makes the next frame larger.
        let disk_free = self.in_flight < FRAMES_IN_FLIGHT_MAX;
        full || (disk_free && (idle || now.since_ns(self.oldest) >= limits.linger_ns))
    }

    /// Seals the batch.
    ///
    /// # Errors
    /// When no reader would accept the frame; a bug.
    pub fn seal(&mut self, level: Level, codec: &mut FrameCodec) -> Result<Frame, BuilderError> {
        let first = Sequence(self.next.0 - u64::from(self.builder.count()));
        let seal = Seal {
            cluster: self.cluster,
            origin: self.node,
            group: self.group,
            epoch: self.epoch,
            first_sequence: first,
            previous_hash: self.previous_hash,
            level,
        };
        let frame = self.builder.seal(&seal, codec)?;
        self.previous_hash = frame.hash();
        self.in_flight += 1;
        Ok(frame)
    }

    /// A frame of this group became durable.
    pub fn durable(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_types::op::Op;

    const LIMITS: BatchLimits = BatchLimits { ops_max: 3, bytes_max: 1 << 20, linger_ns: 1_000 };

    fn batch() -> GroupBatch {
        let node = NodeId::new(1).unwrap();
        let tail = Tail { sequence: Sequence(41), ..Tail::default() };
        GroupBatch::new(ClusterId(7), node, GroupId(3), Epoch(1), tail)
    }

    fn push(batch: &mut GroupBatch, now: u64) -> Sequence {
        let op = Op::Unsubscribed { name: "x".into() }.encode();
        batch.push("u@example.test", 5, &op, None, MonoNs(now)).unwrap()
    }

    #[test]
    fn sequences_go_on_after_the_journal_and_frames_are_chained() {
        let (mut batch, mut codec) = (batch(), FrameCodec::new());
        assert_eq!(push(&mut batch, 0), Sequence(42));
        assert_eq!(push(&mut batch, 0), Sequence(43));
        let first = batch.seal(Level::Fast, &mut codec).unwrap();
        assert_eq!((first.header().first_sequence, first.last_sequence()), (Sequence(42), Sequence(43)));
        assert_eq!(push(&mut batch, 0), Sequence(44));
        let second = batch.seal(Level::Fast, &mut codec).unwrap();
        assert_eq!(second.header().previous_hash, first.hash());
        assert_eq!(batch.captured(), Sequence(44));
    }

    #[test]
    fn sealed_when_idle_when_old_when_full_and_not_while_the_disk_is_busy() {
        let (mut batch, mut codec) = (batch(), FrameCodec::new());
        assert!(!batch.is_due(&LIMITS, true, MonoNs(0)), "nothing is never due");
        push(&mut batch, 100);
        assert!(batch.is_due(&LIMITS, true, MonoNs(100)));
        assert!(!batch.is_due(&LIMITS, false, MonoNs(1_099)));
        assert!(batch.is_due(&LIMITS, false, MonoNs(1_100)));
        for _ in 0..FRAMES_IN_FLIGHT_MAX {
            batch.seal(Level::Fast, &mut codec).unwrap();
            push(&mut batch, 0);
        }
        assert!(!batch.is_due(&LIMITS, true, MonoNs(9_999)), "the disk is busy: the batch grows");
        push(&mut batch, 0);
        push(&mut batch, 0);
        assert!(batch.is_due(&LIMITS, false, MonoNs(0)), "full is full");
        batch.durable();
        batch.seal(Level::Fast, &mut codec).unwrap();
    }
}
