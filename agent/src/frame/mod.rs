//! Frames in memory: bytes that were sealed once and are passed on as they are.
//!
//! Owns: [`Frame`] (a judged header and the frame's bytes), [`FrameBuilder`] (seals a batch), [`FrameCodec`] (zstd
//! with and without dictionary). What can hurt: bytes from a disk or a peer; [`Frame::parse`] judges header, length
//! and body checksum, and [`FrameCodec::open`] never decompresses more than the header says. Refuses: operations;
//! an entry that holds an operation nobody can read is the reader's to set aside, it does not damage the frame.

use std::sync::Arc;

use bytes::Bytes;
use understudy_types::frame::{FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameInvalid};
use understudy_types::id::Sequence;
use understudy_types::op::{Entry, EntryError, entries};

mod builder;
mod codec;
mod dictionary;
pub mod traffic;

pub use builder::{BuilderError, FrameBuilder, Seal};
pub use codec::{FrameCodec, Level, level_for};
pub use dictionary::{DICTIONARY_BYTES_MAX, DICTIONARY_ID, dictionary, train_dictionary};

/// Why bytes are not a frame, or a frame's body cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error(transparent)]
    Header(#[from] FrameInvalid),
    #[error("frame is {have} bytes long, its header says {said}")]
    Length { have: usize, said: usize },
    #[error("frame's body does not match its checksum")]
    BodyChecksum,
    #[error("frame needs dictionary `{0}`, which this version does not have; upgrade this node")]
    NoDictionary(u32),
    #[error("frame's body does not decompress: {0}")]
    Decompress(String),
    #[error("frame's body decompresses to {have} bytes, its header says {said}")]
    Decompressed { have: usize, said: usize },
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error("frame holds {have} entries, its header says {said}")]
    Count { have: u32, said: u32 },
}

/// A frame: judged header and the bytes it came from. Cheap to clone; the bytes are never encoded again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    header: Arc<FrameHeader>,
    bytes: Bytes,
}

impl Frame {
    /// Judges `bytes` as exactly one frame: header, length, checksum of the body. Does not decompress.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn parse(bytes: Bytes) -> Result<Self, FrameError> {
        let header = FrameHeader::decode(&bytes)?;
        if bytes.len() != header.frame_len() {
            return Err(FrameError::Length { have: bytes.len(), said: header.frame_len() });
        }
        if body_checksum(&bytes[FRAME_HEADER_BYTES..]) != header.body_checksum {
            return Err(FrameError::BodyChecksum);
        }
        Ok(Self { header: Arc::new(header), bytes })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// Header and body, as journaled and shipped.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The body as stored.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER_BYTES..]
    }

    /// Sequence of the last operation.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        self.header.last_sequence()
    }

    /// What the group's next frame names as its previous one. The header holds the body's checksum, so this stands
    /// for the whole frame and for all frames before it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        header_hash(&self.bytes[..FRAME_HEADER_BYTES])
    }
}

/// BLAKE3 of a frame's header as it stands in bytes.
#[must_use]
pub fn header_hash(header: &[u8]) -> [u8; 32] {
    *blake3::hash(header).as_bytes()
}

/// First 16 bytes of the BLAKE3 of a body.
#[must_use]
pub fn body_checksum(body: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(body).as_bytes()[..16]);
    out
}

/// A frame's uncompressed body, all of whose entries are known to be well formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    body: Bytes,
    count: u32,
    first: Sequence,
}

impl Opened {
    fn check(header: &FrameHeader, body: Bytes) -> Result<Self, FrameError> {
        debug_assert!(body.len() <= FRAME_BODY_BYTES_MAX);
        let mut have = 0;
        for entry in entries(&body) {
            entry?;
            have += 1;
        }
        if have != header.count {
            return Err(FrameError::Count { have, said: header.count });
        }
        Ok(Self { body, count: have, first: header.first_sequence })
    }

    /// Number of entries.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The entries in order, each with its sequence.
    pub fn entries(&self) -> impl Iterator<Item = (Sequence, Entry<'_>)> {
        let sequences = (self.first.0..).map(Sequence);
        // `check` walked the same bytes without an error.
        sequences.zip(entries(&self.body).filter_map(Result::ok))
    }
}

#[cfg(test)]
mod tests;
