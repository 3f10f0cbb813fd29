//! Reads a segment piece by piece, past the page cache.
//!
//! Owns: one aligned buffer as large as the largest write, so that recovery's memory does not grow with the journal.
//! What can hurt: a sector that cannot be read; only the piece that was asked for is then tried again, and its error
//! is given for that place alone. Refuses: meaning.

use std::io;
use std::sync::Arc;

use memmap2::MmapMut;
use understudy_types::segment::{SEGMENT_PAGE_BYTES, WRITE_BYTES_MAX, WRITE_HEADER_BYTES, WriteHeader};

use super::table::Found;
use crate::journal::disk::LogFile;

/// A sliding view of one segment.
pub(super) struct Window {
    file: Arc<dyn LogFile>,
    /// Length of the file, cut down to whole pages.
    len: u64,
    map: MmapMut,
    at: u64,
    have: usize,
}

/// What stands at a page, before anybody asks what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) found: Found,
    /// The write's header and checksum, where there is one.
    pub(super) write: Option<(WriteHeader, u32)>,
}

/// What the scan expects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expect {
    pub(super) journal: [u8; 16],
    pub(super) segment: u64,
    pub(super) write: u64,
    pub(super) previous: u32,
}

impl Window {
    pub(super) fn new(file: Arc<dyn LogFile>, bytes: u64) -> io::Result<Self> {
        let len = bytes - bytes % SEGMENT_PAGE_BYTES as u64;
        Ok(Self { file, len, map: MmapMut::map_anon(WRITE_BYTES_MAX)?, at: 0, have: 0 })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        self.have = 0;
        self.file.read_exact_at(&mut self.map[..len], at)?;
        (self.at, self.have) = (at, len);
        Ok(())
    }

    /// `len` bytes at `at`; `None` past the end. Both whole pages, at most [`WRITE_BYTES_MAX`].
    pub(super) fn bytes(&mut self, at: u64, len: usize) -> io::Result<Option<&[u8]>> {
        if len > self.map.len() || at.saturating_add(len as u64) > self.len {
            return Ok(None);
        }
        let inside = at >= self.at && at + len as u64 <= self.at + self.have as u64;
        if !inside {
            let most = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(self.map.len());
            self.fill(at, most).or_else(|_| self.fill(at, len))?;
        }
        let start = usize::try_from(at - self.at).unwrap_or(0);
        Ok(Some(&self.map[start..start + len]))
    }

    /// Frames of a write that was found whole.
    pub(super) fn payload(&mut self, at: u64, header: &WriteHeader) -> io::Result<Option<&[u8]>> {
        let bytes = self.bytes(at, header.padded_len())?;
        Ok(bytes.map(|bytes| &bytes[WRITE_HEADER_BYTES..WRITE_HEADER_BYTES + header.payload_len as usize]))
    }

    /// Names what stands at `at`. A read error is bytes that are no write.
    pub(super) fn look(&mut self, at: u64, expect: &Expect) -> Look {
        let nothing = |found| Look { found, write: None };
        let page = match self.bytes(at, SEGMENT_PAGE_BYTES) {
            Ok(Some(page)) => page,
            Ok(None) => return nothing(Found::Empty),
            Err(_) => return nothing(Found::Broken),
        };
        let (header, checksum) = match WriteHeader::decode(page) {
            Ok(read) => read,
            Err(understudy_types::segment::SegmentInvalid::Zero) => return nothing(Found::Empty),
            Err(understudy_types::segment::SegmentInvalid::Version(_)) => return nothing(Found::Newer),
            Err(_) => return nothing(Found::Broken),
        };
        let write = Some((header, checksum));
        if header.journal != expect.journal {
            return Look { found: Found::ForeignJournal, write };
        }
        if header.segment != expect.segment {
            let earlier = header.segment < expect.segment;
            return Look { found: if earlier { Found::Empty } else { Found::ForeignSegment }, write };
        }
        let whole = self.payload(at, &header).ok().flatten().is_some_and(|payload| whole(&header, payload));
        let found = match () {
            () if !whole => Found::Broken,
            () if header.write < expect.write => Found::Earlier,
            () if header.write > expect.write => Found::Later,
            () if header.previous_write != expect.previous => Found::Unchained,
            () => Found::Expected,
        };
        Look { found, write }
    }

    /// The next place behind `after` where a write of this segment stands whole that is not before the expected one.
    pub(super) fn next_write(&mut self, after: u64, expect: &Expect) -> Option<u64> {
        let mut at = after + SEGMENT_PAGE_BYTES as u64;
        while at < self.len {
            if matches!(self.look(at, expect).found, Found::Expected | Found::Unchained | Found::Later) {
                return Some(at);
            }
            at += SEGMENT_PAGE_BYTES as u64;
        }
        None
    }
}

/// The payload matches its checksum and is a row of frames.
fn whole(header: &WriteHeader, payload: &[u8]) -> bool {
    crc32c::crc32c(payload) == header.payload_checksum
        && super::frames(payload).all(|frame| frame.is_some())
        && super::frames(payload).count() == header.frames as usize
}
