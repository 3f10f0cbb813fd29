//! Journal segments: how a node's journal keeps frames in files.
//!
//! Owns: the segment's header and the header of each write in it (`docs/formats.md`, "Journal segment"). What can
//! hurt: bytes from a disk: torn, old, of another journal; every header carries the journal's id, the segment's
//! number and a checksum, so that each can be told apart. Refuses: deciding what a damaged place means; that is
//! the recovery's table (`agent/src/journal/recover`).

/// Unit of reading and writing: what O_DIRECT asks for on every disk in use, and one page.
pub const SEGMENT_PAGE_BYTES: usize = 4096;
/// First bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"USTSEGMT";
/// First bytes of a write.
pub const WRITE_MAGIC: [u8; 8] = *b"USTWRITE";
/// Version of both headers.
pub const SEGMENT_VERSION: u16 = 1;
/// Bytes of a segment's header; the rest of its page is zero.
pub const SEGMENT_HEADER_BYTES: usize = 128;
/// Bytes of a write's header; its frames follow at once.
pub const WRITE_HEADER_BYTES: usize = 64;
/// Largest write, header and padding included: bounds the memory of writing and of recovery. Holds the largest
/// frame; what does not fit goes into the next write.
pub const WRITE_BYTES_MAX: usize = 4 << 20;
/// Smallest segment that a reader takes: the page of its header and one more. Real ones are larger; a simulated disk
/// has small ones.
pub const SEGMENT_BYTES_LEAST: u64 = 2 * SEGMENT_PAGE_BYTES as u64;
/// Smallest segment that is made: the page of its header and the largest write.
pub const SEGMENT_BYTES_MIN: u64 = (WRITE_BYTES_MAX + SEGMENT_PAGE_BYTES) as u64;
/// Largest segment: places in it are kept as 32-bit numbers.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 31;

const _: () = assert!(
    crate::frame::FRAME_BYTES_MAX + WRITE_HEADER_BYTES <= WRITE_BYTES_MAX,
    "a write must hold the largest frame"
);
const _: () = assert!(WRITE_BYTES_MAX.is_multiple_of(SEGMENT_PAGE_BYTES), "writes are whole pages");

/// The rule that a header of a segment or of a write breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentInvalid {
    #[error("page is zero")]
    Zero,
    #[error("page does not begin with the magic")]
    Magic,
    #[error("header has version `{0}`, which this version cannot read; upgrade this node")]
    Version(u16),
    #[error("header's length, checksum or reserved bytes are wrong")]
    Damaged,
    #[error("header says `{0}` bytes, out of range")]
    Length(u64),
}

/// First page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random, made with the journal: tells one journal's files from another's.
    pub journal: [u8; 16],
    /// Rises by one from segment to segment; the first is 1.
    pub segment: u64,
    /// Number of the first write of this segment.
    pub first_write: u64,
    /// Header checksum of the write before that one; 0 before the first.
    pub previous_write: u32,
    /// Bytes of the file.
    pub segment_bytes: u64,
    pub cluster: u64,
    pub node: u16,
}

/// In front of the frames of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteHeader {
    pub journal: [u8; 16],
    pub segment: u64,
    /// Rises by one from write to write through all segments; the first is 1.
    pub write: u64,
    /// Bytes of frames after the header, without the padding.
    pub payload_len: u32,
    pub frames: u32,
    /// CRC-32C of the payload.
    pub payload_checksum: u32,
    /// Header checksum of the write before this one.
    pub previous_write: u32,
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn take<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&raw[at..at + N]);
    out
}

fn seal(out: &mut [u8], magic: &[u8; 8]) -> u32 {
    put(out, 0, magic);
    put(out, 8, &SEGMENT_VERSION.to_le_bytes());
    // Both lengths are small constants.
    put(out, 10, &(out.len() as u16).to_le_bytes());
    let checksum = checksum(out);
    put(out, 12, &checksum.to_le_bytes());
    checksum
}

fn checksum(raw: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&raw[..12]), &[0; 4]);
    crc32c::crc32c_append(crc, &raw[16..])
}

/// Magic, version, length, checksum; gives the bytes of the header.
fn judge<const N: usize>(bytes: &[u8], magic: [u8; 8]) -> Result<[u8; N], SegmentInvalid> {
    let Some((raw, _)) = bytes.split_first_chunk::<N>() else {
        return Err(SegmentInvalid::Damaged);
    };
    if raw[..8] != magic {
        let zero = raw.iter().all(|byte| *byte == 0);
        return Err(if zero { SegmentInvalid::Zero } else { SegmentInvalid::Magic });
    }
    let said = u32::from_le_bytes(take(raw, 12));
    let version = u16::from_le_bytes(take(raw, 8));
    // Torn bytes are not a newer version: whatever the version, the length and the checksum stand here.
    let len = usize::from(u16::from_le_bytes(take(raw, 10)));
    if !(16..=SEGMENT_PAGE_BYTES).contains(&len) || bytes.len() < len || checksum(&bytes[..len]) != said {
        return Err(SegmentInvalid::Damaged);
    }
    if version != SEGMENT_VERSION {
        return Err(SegmentInvalid::Version(version));
    }
    if len != N { Err(SegmentInvalid::Damaged) } else { Ok(*raw) }
}

impl SegmentHeader {
    /// The header as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        put(&mut out, 16, &self.journal);
        put(&mut out, 32, &self.segment.to_le_bytes());
        put(&mut out, 40, &self.first_write.to_le_bytes());
        put(&mut out, 48, &self.previous_write.to_le_bytes());
        put(&mut out, 56, &self.segment_bytes.to_le_bytes());
        put(&mut out, 64, &self.cluster.to_le_bytes());
        put(&mut out, 72, &self.node.to_le_bytes());
        seal(&mut out, &SEGMENT_MAGIC);
        out
    }

    /// Judges and reads the first page of a segment.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentInvalid> {
        let raw: [u8; SEGMENT_HEADER_BYTES] = judge(bytes, SEGMENT_MAGIC)?;
        if raw[52..56] != [0; 4] || raw[74..] != [0; SEGMENT_HEADER_BYTES - 74] {
            return Err(SegmentInvalid::Damaged);
        }
        let segment_bytes = u64::from_le_bytes(take(&raw, 56));
        if !(SEGMENT_BYTES_LEAST..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
            return Err(SegmentInvalid::Length(segment_bytes));
        }
        Ok(Self {
            journal: take(&raw, 16),
            segment: u64::from_le_bytes(take(&raw, 32)),
            first_write: u64::from_le_bytes(take(&raw, 40)),
            previous_write: u32::from_le_bytes(take(&raw, 48)),
            segment_bytes,
            cluster: u64::from_le_bytes(take(&raw, 64)),
            node: u16::from_le_bytes(take(&raw, 72)),
        })
    }
}

impl WriteHeader {
    /// The header as bytes, and its checksum, which the next write names.
    #[must_use]
    pub fn encode(&self) -> ([u8; WRITE_HEADER_BYTES], u32) {
        let mut out = [0; WRITE_HEADER_BYTES];
        put(&mut out, 16, &self.journal);
        put(&mut out, 32, &self.segment.to_le_bytes());
        put(&mut out, 40, &self.write.to_le_bytes());
        put(&mut out, 48, &self.payload_len.to_le_bytes());
        put(&mut out, 52, &self.frames.to_le_bytes());
        put(&mut out, 56, &self.payload_checksum.to_le_bytes());
        put(&mut out, 60, &self.previous_write.to_le_bytes());
        let checksum = seal(&mut out, &WRITE_MAGIC);
        (out, checksum)
    }

    /// Judges and reads the header at the start of a page; gives its checksum too.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<(Self, u32), SegmentInvalid> {
        let raw: [u8; WRITE_HEADER_BYTES] = judge(bytes, WRITE_MAGIC)?;
        let payload_len = u32::from_le_bytes(take(&raw, 48));
        if payload_len == 0 || payload_len as usize > WRITE_BYTES_MAX - WRITE_HEADER_BYTES {
            return Err(SegmentInvalid::Length(u64::from(payload_len)));
        }
        let header = Self {
            journal: take(&raw, 16),
            segment: u64::from_le_bytes(take(&raw, 32)),
            write: u64::from_le_bytes(take(&raw, 40)),
            payload_len,
            frames: u32::from_le_bytes(take(&raw, 52)),
            payload_checksum: u32::from_le_bytes(take(&raw, 56)),
            previous_write: u32::from_le_bytes(take(&raw, 60)),
        };
        Ok((header, u32::from_le_bytes(take(&raw, 12))))
    }

    /// Bytes on disk: header, frames, padding to whole pages.
    #[must_use]
    pub fn padded_len(&self) -> usize {
        (WRITE_HEADER_BYTES + self.payload_len as usize).next_multiple_of(SEGMENT_PAGE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write() -> WriteHeader {
        WriteHeader {
            journal: [3; 16],
            segment: 4,
            write: 99,
            payload_len: 5000,
            frames: 2,
            payload_checksum: 7,
            previous_write: 8,
        }
    }

    fn segment() -> SegmentHeader {
        let segment_bytes = SEGMENT_BYTES_MIN;
        SegmentHeader {
            journal: [3; 16],
            segment: 4,
            first_write: 90,
            previous_write: 8,
            segment_bytes,
            cluster: 6,
            node: 2,
        }
    }

    #[test]
    fn headers_round_trip_and_every_bit_counts() {
        let (bytes, checksum) = write().encode();
        assert_eq!(WriteHeader::decode(&bytes), Ok((write(), checksum)));
        assert_eq!(write().padded_len(), 8192);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(WriteHeader::decode(&bad).is_err(), "bit {bit}");
        }
        let bytes = segment().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(segment()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn zero_foreign_and_newer_are_told_apart() {
        assert_eq!(WriteHeader::decode(&[0; 4096]), Err(SegmentInvalid::Zero));
        assert_eq!(WriteHeader::decode(&[1; 4096]), Err(SegmentInvalid::Magic));
        assert_eq!(WriteHeader::decode(&[1; 3]), Err(SegmentInvalid::Damaged));
        let (mut bytes, _) = write().encode();
        bytes[8] = 2;
        assert_eq!(WriteHeader::decode(&bytes), Err(SegmentInvalid::Damaged), "a torn version is no version");
        let crc = checksum(&bytes);
        put(&mut bytes, 12, &crc.to_le_bytes());
        assert_eq!(WriteHeader::decode(&bytes), Err(SegmentInvalid::Version(2)));
        let (bytes, _) = WriteHeader { payload_len: u32::MAX, ..write() }.encode();
        assert_eq!(WriteHeader::decode(&bytes), Err(SegmentInvalid::Length(u64::from(u32::MAX))));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = WriteHeader::decode(&bytes);
            let _ = SegmentHeader::decode(&bytes);
        }
    }
}
