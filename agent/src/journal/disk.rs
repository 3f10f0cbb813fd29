//! What a journal asks of the disk: segments, the control file, and one write made durable at a time.
//!
//! Owns: the traits between the journal and its storage. [`super::files`] and [`super::io`] are their real side; the
//! simulator has one of its own, which tears writes, forgets what was not synced and flips bits. What can hurt: a
//! side that says "durable" too early; everything that the journal acknowledges rests on it. Refuses: knowing what a
//! frame is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use understudy_types::segment::SegmentHeader;

pub use super::io::{Buffer, IoFailure, LogIo, Way, WriteOp};

/// A segment's file.
pub trait LogFile: Send + Sync + std::fmt::Debug {
    /// Fills `buffer` from the bytes at `at`.
    ///
    /// # Errors
    /// Whatever the disk says; past the end too.
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `at`.
    ///
    /// # Errors
    /// Whatever the disk says; a part may have been written.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What was written before is then not to be counted on.
    fn sync_data(&self) -> io::Result<()>;

    /// The file behind it, for io_uring; `None` where there is none.
    fn as_file(&self) -> Option<&File>;
}

impl LogFile for File {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn as_file(&self) -> Option<&File> {
        Some(self)
    }
}

/// An open segment.
#[derive(Clone, Debug)]
pub struct OpenSegment {
    /// For writing and recovery; direct where the file system allows it.
    pub direct: Arc<dyn LogFile>,
    /// For readers in other threads: buffered, without read-ahead, so that the page cache never holds a page that has
    /// not been written yet.
    pub readable: Arc<dyn LogFile>,
    pub bytes: u64,
    pub is_direct: bool,
}

/// The journal's directory.
pub trait LogDisk: Send + std::fmt::Debug {
    /// Opens a segment that is there.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn open(&self, segment: u64) -> io::Result<OpenSegment>;

    /// Begins a segment: its first page is written and its name is there, all durable.
    ///
    /// # Errors
    /// Whatever the disk says; the segment may be there or not.
    fn begin(&mut self, header: &SegmentHeader) -> io::Result<OpenSegment>;

    /// Lets a segment go. `reuse` is false when the file system is short of space.
    ///
    /// # Errors
    /// Whatever the disk says; the segment may be there or not.
    fn retire(&mut self, segment: u64, bytes: u64, reuse: bool) -> io::Result<()>;

    /// Prepares the next file ahead of time, where that helps.
    fn prepare_ahead(&mut self);

    /// Bytes of files that wait for use.
    fn spare_bytes(&self) -> u64;

    /// Free bytes of the file system.
    fn free_bytes(&self) -> u64;

    /// The control file's bytes; `None` if there is none.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn load_control(&self) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the control file, whole or not at all, durably.
    ///
    /// # Errors
    /// Whatever the disk says; the old one or the new one is then there.
    fn save_control(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Where it is, for people.
    fn path(&self) -> &Path;

    /// Where the control file is, for people.
    fn control_path(&self) -> PathBuf {
        self.path().join("control")
    }
}
