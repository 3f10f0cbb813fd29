//! Frames: a sealed batch of one group's operations. The frame journaled is the frame shipped is the frame the
//! replica journals, byte for byte.
//!
//! Owns: the header (`docs/formats.md`, "Frame"). What can hurt: headers from a disk or a peer; [`FrameHeader::decode`]
//! judges one on its own, before anybody looks at, waits for or allocates room for the body. Refuses: the body, whose
//! checksum, codec and entries are the agent's (`agent/src/frame`), because they need BLAKE3 and zstd.
//!
//! Why this order of fields: what says how to read the rest comes first (magic, version, length, checksum: at these
//! offsets in every version to come), then what a receiver needs before it reads on (lengths, codec), then who and
//! where in the stream (identity, positions, chain), then what only the origin needs after a restart (ring), then
//! what only people need (times), then room.

use crate::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};

mod invalid;

pub use invalid::FrameInvalid;

/// First bytes of every frame.
pub const FRAME_MAGIC: [u8; 8] = *b"USTFRAME";
/// The header's version that this code writes and reads.
pub const FRAME_VERSION: u16 = 1;
/// Bytes of the header of version 1. A multiple of 64, so that headers start and end on cache lines.
pub const FRAME_HEADER_BYTES: usize = 192;
/// Largest body, both as stored and uncompressed. A batch is sealed before it passes this; a header that says more
/// is refused before anything is allocated.
pub const FRAME_BODY_BYTES_MAX: usize = 2 << 20;
/// Largest frame.
pub const FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES + FRAME_BODY_BYTES_MAX;
/// Most entries in one frame: an entry is at least 25 bytes long, so a frame of 2 MiB can hold more, but a receiver
/// that keeps something for each of them stays bounded.
pub const FRAME_ENTRIES_MAX: u32 = 65_536;

const RESERVED_AT: usize = 160;

/// How the body is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
    /// One zstd frame made with the dictionary of that number; see `agent/src/frame/dictionary.rs`.
    ZstdDictionary(u32),
}

impl Codec {
    const fn raw(self) -> (u8, u32) {
        match self {
            Self::Raw => (0, 0),
            Self::Zstd => (1, 0),
            Self::ZstdDictionary(id) => (2, id),
        }
    }
}

/// Position in the capture ring: which ring (a new one gets a new generation) and the record's index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RingPosition {
    /// 0 = not from a ring.
    pub generation: u64,
    pub index: u64,
}

/// A frame's header, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// First 16 bytes of the BLAKE3 of the body as stored.
    pub body_checksum: [u8; 16],
    /// Bytes of the body as stored.
    pub body_len: u32,
    /// Bytes of the body after decompression.
    pub uncompressed_len: u32,
    /// Operations in the frame, at least 1.
    pub count: u32,
    pub codec: Codec,
    pub cluster: ClusterId,
    pub group: GroupId,
    /// The node that sealed the frame: the active one of `epoch`.
    pub origin: NodeId,
    pub epoch: Epoch,
    /// Sequence of the first operation; the last is `first_sequence + count - 1`.
    pub first_sequence: Sequence,
    /// BLAKE3 of the header of the group's frame before this one; zeros before the first.
    pub previous_hash: [u8; 32],
    /// Generation of the origin's ring; 0 if no operation came from a ring.
    pub ring_generation: u64,
    /// Ring indexes of the first and last operation that came from the ring; 0 if none did.
    pub ring_index_first: u64,
    pub ring_index_last: u64,
    /// Wall time of the capture of the first and last operation, in nanoseconds since the Unix epoch. Not
    /// necessarily rising: wall clocks are set.
    pub captured_first_wall_ns: u64,
    pub captured_last_wall_ns: u64,
}

impl FrameHeader {
    /// Sequence of the last operation.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        Sequence(self.first_sequence.0 + u64::from(self.count.max(1)) - 1)
    }

    /// Bytes of header and body together.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        FRAME_HEADER_BYTES + self.body_len as usize
    }

    /// The rule that the values break, if they break one. What [`FrameHeader::decode`] checks after the checksum,
    /// and what a writer asserts before it seals.
    #[must_use]
    pub fn invalid(&self) -> Option<FrameInvalid> {
        if self.count == 0 || self.count > FRAME_ENTRIES_MAX {
            return Some(FrameInvalid::Count(self.count));
        }
        if self.body_len == 0 || self.body_len as usize > FRAME_BODY_BYTES_MAX {
            return Some(FrameInvalid::BodyLength(self.body_len));
        }
        if self.uncompressed_len == 0 || self.uncompressed_len as usize > FRAME_BODY_BYTES_MAX {
            return Some(FrameInvalid::UncompressedLength(self.uncompressed_len));
        }
        match self.codec {
            Codec::Raw if self.body_len != self.uncompressed_len => {
                return Some(FrameInvalid::RawLength { body: self.body_len, uncompressed: self.uncompressed_len });
            }
            Codec::ZstdDictionary(0) => return Some(FrameInvalid::Dictionary { codec: 2, id: 0 }),
            _ => {}
        }
        // Half of the range is far beyond any life time, and keeps every sum of a sequence and a count in range.
        if self.first_sequence.0 == 0 || self.first_sequence.0 > u64::MAX / 2 {
            return Some(FrameInvalid::Sequence(self.first_sequence.0));
        }
        if self.first_sequence.0 == 1 && self.previous_hash != [0; 32] {
            return Some(FrameInvalid::FirstHasPrevious);
        }
        if self.epoch.0 == 0 || self.epoch.0 > u64::MAX / 2 {
            return Some(FrameInvalid::Epoch(self.epoch.0));
        }
        let (first, last) = (self.ring_index_first, self.ring_index_last);
        if first > last || (self.ring_generation == 0 && last != 0) {
            return Some(FrameInvalid::Ring { generation: self.ring_generation, first, last });
        }
        None
    }

    /// The header as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        let (codec, dictionary) = self.codec.raw();
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &FRAME_MAGIC);
        put(8, &FRAME_VERSION.to_le_bytes());
        put(10, &(FRAME_HEADER_BYTES as u16).to_le_bytes());
        put(16, &self.body_checksum);
        put(32, &self.body_len.to_le_bytes());
        put(36, &self.uncompressed_len.to_le_bytes());
        put(40, &self.count.to_le_bytes());
        put(44, &[codec]);
        put(48, &dictionary.to_le_bytes());
        put(56, &self.cluster.0.to_le_bytes());
        put(64, &self.group.0.to_le_bytes());
        put(68, &self.origin.get().to_le_bytes());
        put(72, &self.epoch.0.to_le_bytes());
        put(80, &self.first_sequence.0.to_le_bytes());
        put(88, &self.previous_hash);
        put(120, &self.ring_generation.to_le_bytes());
        put(128, &self.ring_index_first.to_le_bytes());
        put(136, &self.ring_index_last.to_le_bytes());
        put(144, &self.captured_first_wall_ns.to_le_bytes());
        put(152, &self.captured_last_wall_ns.to_le_bytes());
        let checksum = header_checksum(&out);
        out[12..16].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Judges and reads the header at the start of `bytes`; what follows it is not looked at.
    ///
    /// # Errors
    /// The first rule that is broken, in the order magic, version, length, checksum, reserved bytes, values.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameInvalid> {
        let Some((raw, _)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(FrameInvalid::Short { have: bytes.len(), need: FRAME_HEADER_BYTES });
        };
        if raw[..8] != FRAME_MAGIC {
            return Err(FrameInvalid::Magic(take(raw, 0)));
        }
        let version = u16::from_le_bytes(take(raw, 8));
        if version != FRAME_VERSION {
            return Err(FrameInvalid::Version(version));
        }
        let header_len = u16::from_le_bytes(take(raw, 10));
        if usize::from(header_len) != FRAME_HEADER_BYTES {
            return Err(FrameInvalid::HeaderLength(header_len));
        }
        let (said, is) = (u32::from_le_bytes(take(raw, 12)), header_checksum(raw));
        if said != is {
            return Err(FrameInvalid::HeaderChecksum { said, is });
        }
        let flags = u32::from_le_bytes(take(raw, 52));
        if flags != 0 {
            return Err(FrameInvalid::Flags(flags));
        }
        let reserved = [45..48, 70..72, RESERVED_AT..FRAME_HEADER_BYTES];
        if let Some(at) = reserved.into_iter().flatten().find(|at| raw[*at] != 0) {
            return Err(FrameInvalid::Reserved { at });
        }
        let dictionary = u32::from_le_bytes(take(raw, 48));
        let codec = match (raw[44], dictionary) {
            (0, 0) => Codec::Raw,
            (1, 0) => Codec::Zstd,
            (2, id) if id != 0 => Codec::ZstdDictionary(id),
            (codec @ 0..=2, id) => return Err(FrameInvalid::Dictionary { codec, id }),
            (codec, _) => return Err(FrameInvalid::Codec(codec)),
        };
        let node = u16::from_le_bytes(take(raw, 68));
        let header = Self {
            body_checksum: take(raw, 16),
            body_len: u32::from_le_bytes(take(raw, 32)),
            uncompressed_len: u32::from_le_bytes(take(raw, 36)),
            count: u32::from_le_bytes(take(raw, 40)),
            codec,
            cluster: ClusterId(u64::from_le_bytes(take(raw, 56))),
            group: GroupId(u32::from_le_bytes(take(raw, 64))),
            origin: NodeId::new(node).ok_or(FrameInvalid::Node(node))?,
            epoch: Epoch(u64::from_le_bytes(take(raw, 72))),
            first_sequence: Sequence(u64::from_le_bytes(take(raw, 80))),
            previous_hash: take(raw, 88),
            ring_generation: u64::from_le_bytes(take(raw, 120)),
            ring_index_first: u64::from_le_bytes(take(raw, 128)),
            ring_index_last: u64::from_le_bytes(take(raw, 136)),
            captured_first_wall_ns: u64::from_le_bytes(take(raw, 144)),
            captured_last_wall_ns: u64::from_le_bytes(take(raw, 152)),
        };
        header.invalid().map_or(Ok(header), Err)
    }
}

/// CRC-32C of the header with its own field as zero.
fn header_checksum(raw: &[u8; FRAME_HEADER_BYTES]) -> u32 {
    let crc = crc32c::crc32c(&raw[..12]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &raw[16..])
}

/// `N` bytes at a constant offset of a header, which has them.
fn take<const N: usize>(raw: &[u8; FRAME_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&raw[at..at + N]);
    out
}

#[cfg(test)]
mod tests;
