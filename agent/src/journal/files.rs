//! Segment files: preallocated, reused, opened for direct I/O.
//!
//! Owns: the names in the journal's directory (`segment-<number>.ujl`, `spare-<number>.ujl`) and the thread that
//! prepares the next file ahead of time. What can hurt: a segment whose blocks are not allocated makes every fdatasync
//! write metadata too, and can run out of space in the middle of a write; so a file is filled with zeros once, and
//! used again instead of being made anew. Refuses: what stands in the files, except the first page of a new segment.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use memmap2::MmapMut;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use understudy_types::segment::{SEGMENT_PAGE_BYTES, SegmentHeader};

use super::disk::{LogDisk, OpenSegment};
use crate::durable::sync_directory;

/// Files that are kept for reuse. One more is removed.
const SPARES_MAX: usize = 2;
/// Bytes of zeros written at once when a file is prepared.
const ZEROS_BYTES: usize = 1 << 20;

/// The journal's directory.
#[derive(Debug)]
pub(super) struct SegmentFiles {
    directory: PathBuf,
    segment_bytes: u64,
    spares: Vec<PathBuf>,
    preparing: Option<JoinHandle<io::Result<PathBuf>>>,
    next_spare: u64,
}

fn segment_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("segment-{segment:016}.ujl"))
}

fn open_direct(path: &Path, flags: &mut OpenOptions) -> io::Result<(File, bool)> {
    match flags.custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => Ok((file, true)),
        // Some file systems (older tmpfs, some FUSE) do not have O_DIRECT.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((flags.custom_flags(0).open(path)?, false)),
        Err(error) => Err(error),
    }
}

/// Makes a file of zeros whose blocks are allocated and written, durable.
fn prepare(path: &Path, bytes: u64) -> io::Result<()> {
    let (file, _) = open_direct(path, OpenOptions::new().write(true).create(true).truncate(true).mode(0o600))?;
    let len = i64::try_from(bytes).map_err(io::Error::other)?;
    match fallocate(&file, FallocateFlags::empty(), 0, len) {
        // Writing the zeros allocates just as well.
        Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = MmapMut::map_anon(ZEROS_BYTES)?;
    let mut at = 0;
    while at < bytes {
        let len = usize::try_from(bytes - at).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
        file.write_all_at(&zeros[..len], at)?;
        at += len as u64;
    }
    file.sync_all()
}

impl SegmentFiles {
    /// Lists a directory: its segments by number, and what can be used again. Temporary and surplus files go.
    pub(super) fn list(directory: &Path, segment_bytes: u64) -> io::Result<(Self, Vec<u64>)> {
        let mut segments = Vec::new();
        let mut spares = Vec::new();
        let mut next_spare = 1;
        let number = |name: &str, prefix| {
            name.strip_prefix(prefix)
                .and_then(|rest| rest.strip_suffix(".ujl"))
                .and_then(|rest| rest.parse::<u64>().ok())
        };
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(segment) = number(name, "segment-") {
                segments.push(segment);
            } else if let Some(spare) = number(name, "spare-") {
                next_spare = next_spare.max(spare.saturating_add(1));
                spares.push(entry.path());
            }
        }
        segments.sort_unstable();
        // A file that was being prepared when the agent died has not all its blocks: its zeros are only known to be
        // complete after the rename from `new-`, so what stands here as a spare of the right length is whole.
        let keep = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.len() == segment_bytes);
        let (mut kept, mut surplus): (Vec<_>, Vec<_>) = spares.into_iter().partition(keep);
        surplus.extend(kept.split_off(kept.len().min(SPARES_MAX)));
        for path in surplus {
            std::fs::remove_file(path)?;
        }
        let directory = directory.to_owned();
        Ok((Self { directory, segment_bytes, spares: kept, preparing: None, next_spare }, segments))
    }

    fn new_spare(&mut self) -> (PathBuf, PathBuf) {
        let number = self.next_spare;
        self.next_spare += 1;
        (self.directory.join("new.ujl"), self.directory.join(format!("spare-{number:016}.ujl")))
    }
}

impl LogDisk for SegmentFiles {
    fn open(&self, segment: u64) -> io::Result<OpenSegment> {
        let path = segment_path(&self.directory, segment);
        let (direct, is_direct) = open_direct(&path, OpenOptions::new().read(true).write(true))?;
        let readable = File::open(&path)?;
        // Only advice: without it reads are still checked.
        let _ = posix_fadvise(&readable, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
        let bytes = direct.metadata()?.len();
        Ok(OpenSegment { direct: Arc::new(direct), readable: Arc::new(readable), bytes, is_direct })
    }

    /// By a thread, if there is no spare file.
    fn prepare_ahead(&mut self) {
        if !self.spares.is_empty() || self.preparing.is_some() {
            return;
        }
        let (new, spare) = self.new_spare();
        let bytes = self.segment_bytes;
        let work = move || prepare(&new, bytes).and_then(|()| std::fs::rename(&new, &spare)).map(|()| spare);
        // Without the thread the file is prepared when it is needed.
        self.preparing = std::thread::Builder::new().name("journal-spare".into()).spawn(work).ok();
    }

    /// A spare file gets its first page and its name.
    fn begin(&mut self, header: &SegmentHeader) -> io::Result<OpenSegment> {
        if let Some(thread) = self.preparing.take_if(|_| self.spares.is_empty()) {
            match thread.join().unwrap_or_else(|_| Err(io::Error::other("thread `journal-spare` failed"))) {
                Ok(made) => self.spares.push(made),
                // Below it is made from the start, now that retention may have made room; nothing of it is kept.
                Err(error) => tracing::warn!(%error, "cannot prepare a journal segment ahead of time"),
            }
        }
        let spare = match self.spares.pop() {
            Some(spare) => spare,
            None => {
                let (new, spare) = self.new_spare();
                prepare(&new, self.segment_bytes)?;
                std::fs::rename(&new, &spare)?;
                spare
            }
        };
        let (file, _) = open_direct(&spare, OpenOptions::new().write(true))?;
        let mut page = MmapMut::map_anon(SEGMENT_PAGE_BYTES)?;
        let encoded = header.encode();
        page[..encoded.len()].copy_from_slice(&encoded);
        file.write_all_at(&page, 0)?;
        file.sync_all()?;
        std::fs::rename(&spare, segment_path(&self.directory, header.segment))?;
        sync_directory(&self.directory)?;
        self.prepare_ahead();
        self.open(header.segment)
    }

    /// Kept as a spare if it is whole and there is room, else removed.
    fn retire(&mut self, segment: u64, bytes: u64, reuse: bool) -> io::Result<()> {
        let path = segment_path(&self.directory, segment);
        if reuse && bytes == self.segment_bytes && self.spares.len() < SPARES_MAX {
            let (_, spare) = self.new_spare();
            std::fs::rename(&path, &spare)?;
            self.spares.push(spare);
        } else {
            std::fs::remove_file(&path)?;
        }
        sync_directory(&self.directory)
    }

    fn spare_bytes(&self) -> u64 {
        self.spares.len() as u64 * self.segment_bytes
    }

    /// For this user; a file system that does not say is taken as having room, since the bound in bytes still holds.
    fn free_bytes(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.directory);
        stat.map_or(u64::MAX, |stat| stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    fn load_control(&self) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.control_path()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn save_control(&mut self, bytes: &[u8]) -> io::Result<()> {
        crate::durable::write(&self.control_path(), bytes)
    }

    fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for SegmentFiles {
    fn drop(&mut self) {
        if let Some(thread) = self.preparing.take() {
            // A file that could not be prepared is tried again by the next journal.
            let _ = thread.join();
        }
    }
}
