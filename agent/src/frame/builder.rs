//! Seals batches: entries go in, one frame comes out.
//!
//! Owns: the uncompressed body while it grows, and the header's arithmetic. What can hurt: a batch that no reader
//! would accept; `push` refuses what would pass a format limit, before it changes anything. Refuses: deciding when
//! to seal; `batch` does.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use understudy_types::frame::{
    Codec, FRAME_BODY_BYTES_MAX, FRAME_ENTRIES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameInvalid, RingPosition,
};
use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};
use understudy_types::op::{ACCOUNT_BYTES_MAX, ENTRY_HEAD_BYTES, OP_BYTES_MAX, OP_HEAD_BYTES, put_entry};

use super::{Frame, FrameCodec, Level, body_checksum};

/// Why an entry cannot go into this frame, or a frame cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuilderError {
    /// Seal, then push again.
    #[error("frame is full")]
    Full,
    /// Seal, then push again.
    #[error("operation comes from ring generation `{got}`, the frame's others from `{have}`")]
    RingGeneration { have: u64, got: u64 },
    /// Never fits in any frame: the account is to be compared instead.
    #[error("operation of {op_bytes} bytes for an account name of {account_bytes} bytes is out of range")]
    OutOfRange { account_bytes: usize, op_bytes: usize },
    #[error("frame has no operations")]
    Empty,
    #[error(transparent)]
    Header(#[from] FrameInvalid),
}

/// Who seals, and where in the stream the frame stands.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    pub cluster: ClusterId,
    pub origin: NodeId,
    pub group: GroupId,
    pub epoch: Epoch,
    pub first_sequence: Sequence,
    /// [`Frame::hash`] of the group's frame before this one; zeros before the first.
    pub previous_hash: [u8; 32],
    pub level: Level,
}

/// A batch that grows.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    body: Vec<u8>,
    count: u32,
    ring: Option<(RingPosition, RingPosition)>,
    captured_wall_ns: (u64, u64),
}

impl FrameBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Uncompressed bytes so far.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// True when nothing was pushed since the last seal.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one operation. `ring` is where it was in the capture ring, `None` for one that the agent wrote itself.
    ///
    /// # Errors
    /// Nothing was added; see [`BuilderError`] for what to do.
    pub fn push(
        &mut self,
        account: &str,
        captured_wall_ns: u64,
        op: &[u8],
        ring: Option<RingPosition>,
    ) -> Result<(), BuilderError> {
        let account_fits = (1..=ACCOUNT_BYTES_MAX).contains(&account.len()) && !account.chars().any(char::is_control);
        if !account_fits || !(OP_HEAD_BYTES..=OP_BYTES_MAX).contains(&op.len()) {
            return Err(BuilderError::OutOfRange { account_bytes: account.len(), op_bytes: op.len() });
        }
        let after = self.body.len() + ENTRY_HEAD_BYTES + account.len() + op.len();
        if after > FRAME_BODY_BYTES_MAX || self.count >= FRAME_ENTRIES_MAX {
            return Err(BuilderError::Full);
        }
        if let Some(position) = ring.filter(|position| position.generation != 0) {
            let (first, last) = self.ring.unwrap_or((position, position));
            if first.generation != position.generation {
                return Err(BuilderError::RingGeneration { have: first.generation, got: position.generation });
            }
            self.ring = Some((first.min(position), last.max(position)));
        }
        if self.count == 0 {
            self.captured_wall_ns.0 = captured_wall_ns;
        }
        self.captured_wall_ns.1 = captured_wall_ns;
        put_entry(&mut self.body, account, captured_wall_ns, op);
        self.count += 1;
        Ok(())
    }

    /// Seals what was pushed into a frame and leaves the builder empty, its room kept.
    ///
    /// # Errors
    /// [`BuilderError::Empty`]; [`BuilderError::Header`] for a place in the stream that no reader would accept. The
    /// builder keeps its operations then.
    pub fn seal(&mut self, seal: &Seal, codec: &mut FrameCodec) -> Result<Frame, BuilderError> {
        if self.count == 0 {
            return Err(BuilderError::Empty);
        }
        let stored = codec.compress(&self.body, seal.level);
        let (codec, body) = stored.as_ref().map_or((Codec::Raw, &self.body[..]), |(codec, body)| (*codec, &body[..]));
        let (first, last) = self.ring.unwrap_or_default();
        let header = FrameHeader {
            body_checksum: body_checksum(body),
            body_len: u32::try_from(body.len()).unwrap_or(u32::MAX),
            uncompressed_len: u32::try_from(self.body.len()).unwrap_or(u32::MAX),
            count: self.count,
            codec,
            cluster: seal.cluster,
            group: seal.group,
            origin: seal.origin,
            epoch: seal.epoch,
            first_sequence: seal.first_sequence,
            previous_hash: seal.previous_hash,
            ring_generation: first.generation,
            ring_index_first: first.index,
            ring_index_last: last.index,
            captured_first_wall_ns: self.captured_wall_ns.0,
            captured_last_wall_ns: self.captured_wall_ns.1,
        };
        if let Some(broken) = header.invalid() {
            return Err(broken.into());
        }
        let mut bytes = BytesMut::with_capacity(FRAME_HEADER_BYTES + body.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(body);
        self.body.clear();
        self.count = 0;
        self.ring = None;
        Ok(Frame { header: Arc::new(header), bytes: Bytes::from(bytes) })
    }
}
