//! A disk for a journal: what was synced stays, what was not may be there, torn or gone.
//!
//! Owns: the simulated side of the journal's [`LogDisk`], [`LogFile`] and [`LogIo`], and what a crash makes of it. Each
//! segment has what the system shows (`cached`) and what a power cut would leave (`durable`), and knows which sectors
//! differ. What can hurt: a disk that is kinder than a real one; so a write that is under way tears at any sector, a
//! sync that fails leaves pages that look written and are not (Rebello et al., ATC 2020), and spare files keep their
//! old content. Refuses: frames; what became durable is told as bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use understudy_agent::journal::disk::{IoFailure, LogDisk, LogFile, LogIo, OpenSegment, WriteOp};
use understudy_types::segment::{SEGMENT_PAGE_BYTES, SegmentHeader};

use crate::fuse::Fuse;
use crate::random::Random;

const SECTOR_BYTES: usize = 512;
/// Spare files that are kept, as the real side does.
const SPARES_MAX: usize = 2;

/// One file.
#[derive(Debug)]
struct Platter {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that the next sync makes durable.
    dirty: BTreeSet<usize>,
}

impl Platter {
    fn write(&mut self, bytes: &[u8], at: usize) -> io::Result<()> {
        let place = self.cached.get_mut(at..at + bytes.len()).ok_or(io::ErrorKind::WriteZero)?;
        place.copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR_BYTES..(at + bytes.len()).div_ceil(SECTOR_BYTES));
        Ok(())
    }

    /// Makes a sector durable.
    fn keep(&mut self, sector: usize) {
        let range = sector * SECTOR_BYTES..((sector + 1) * SECTOR_BYTES).min(self.cached.len());
        self.durable[range.clone()].copy_from_slice(&self.cached[range]);
    }

    fn sync(&mut self) -> BTreeSet<usize> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.iter().for_each(|sector| self.keep(*sector));
        dirty
    }
}

/// A write on its way.
#[derive(Debug)]
struct InFlight {
    file: Arc<Mutex<Platter>>,
    at: usize,
    bytes: Vec<u8>,
}

/// What the next write meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The write fails in the middle.
    Write,
    /// The sync fails, and what was written looks written.
    Sync,
}

#[derive(Debug)]
struct State {
    segment_bytes: usize,
    segments: BTreeMap<u64, Arc<Mutex<Platter>>>,
    spares: Vec<Arc<Mutex<Platter>>>,
    control: Option<Vec<u8>>,
    in_flight: Option<InFlight>,
    trouble: Option<Trouble>,
    fuse: Fuse,
    /// Pages that became durable since somebody asked, as they stand.
    news: Vec<Vec<u8>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node's disk; handles share it.
#[derive(Clone, Debug)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl Disk {
    /// An empty disk whose segments have so many bytes.
    #[must_use]
    pub fn new(segment_bytes: u64, path: PathBuf) -> Self {
        let state = State {
            segment_bytes: usize::try_from(segment_bytes).unwrap_or(usize::MAX),
            segments: BTreeMap::new(),
            spares: Vec::new(),
            control: None,
            in_flight: None,
            trouble: None,
            fuse: Fuse::default(),
            news: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), path }
    }

    /// A new process has it in hand.
    pub fn take(&self, fuse: Fuse) {
        lock(&self.state).fuse = fuse;
    }

    /// Its segments, in order.
    #[must_use]
    pub fn segments(&self) -> Vec<u64> {
        lock(&self.state).segments.keys().copied().collect()
    }

    /// The next write meets this.
    pub fn trouble(&self, trouble: Trouble) {
        lock(&self.state).trouble = Some(trouble);
    }

    /// What became durable since the last call: each time the bytes from a page on to the end of what was synced.
    #[must_use]
    pub fn news(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.state).news)
    }

    /// The process died: what it was writing is there, not there, or torn. Nothing else is lost.
    pub fn process_died(&self, random: &mut Random) {
        let mut state = lock(&self.state);
        let share = random.one_of(&[0, 500, 1000]);
        if let Some(write) = state.in_flight.take() {
            let mut file = lock(&write.file);
            for (index, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                if random.chance(share) {
                    // Inside the file: the writer saw to that.
                    let _ = file.write(sector, write.at + index * SECTOR_BYTES);
                }
            }
        }
    }

    /// The power went: of what was not synced, any sector is there or not.
    pub fn power_cut(&self, random: &mut Random) {
        self.process_died(random);
        let state = lock(&self.state);
        let share = random.one_of(&[0, 500, 1000]);
        for file in state.segments.values().chain(&state.spares) {
            let mut file = lock(file);
            let dirty = std::mem::take(&mut file.dirty);
            for sector in dirty {
                if random.chance(share) {
                    file.keep(sector);
                }
            }
            let file = &mut *file;
            file.cached.copy_from_slice(&file.durable);
        }
    }

    /// Turns one bit over, in a page that holds something. `false` if there is none.
    pub fn flip(&self, random: &mut Random) -> bool {
        let state = lock(&self.state);
        let mut written: Vec<(u64, usize)> = Vec::new();
        for (segment, file) in &state.segments {
            let file = lock(file);
            let pages = file.durable.chunks(SEGMENT_PAGE_BYTES).enumerate();
            written.extend(pages.filter(|(_, p)| p.iter().any(|b| *b != 0)).map(|(page, _)| (*segment, page)));
        }
        let Some((segment, page)) = random.pick(&written).copied() else { return false };
        let Some(file) = state.segments.get(&segment) else { return false };
        let mut file = lock(file);
        // Where something stands, most of the time: a page is mostly padding.
        let used = file.durable[page * SEGMENT_PAGE_BYTES..(page + 1) * SEGMENT_PAGE_BYTES]
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(1, |last| last + 1);
        let at = page * SEGMENT_PAGE_BYTES + random.index(used);
        let bit = 1 << random.below(8);
        file.durable[at] ^= bit;
        file.cached[at] ^= bit;
        true
    }

    /// The disk is replaced by an empty one.
    pub fn replace(&self) {
        let mut state = lock(&self.state);
        state.segments.clear();
        state.spares.clear();
        state.control = None;
        state.in_flight = None;
    }

    fn opened(&self, file: &Arc<Mutex<Platter>>) -> OpenSegment {
        let bytes = lock(file).cached.len() as u64;
        let file: Arc<dyn LogFile> = Arc::new(Segment { file: file.clone(), state: self.state.clone() });
        OpenSegment { direct: file.clone(), readable: file, bytes, is_direct: true }
    }
}

/// An open file.
#[derive(Debug)]
struct Segment {
    file: Arc<Mutex<Platter>>,
    state: Arc<Mutex<State>>,
}

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX / 2)
}

impl LogFile for Segment {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let file = lock(&self.file);
        let bytes = file.cached.get(place(at)..place(at) + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        lock(&self.state).fuse.check()?;
        lock(&self.file).write(bytes, place(at))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.fuse.check()?;
        let mut file = lock(&self.file);
        let synced = file.sync();
        let pages: BTreeSet<usize> = synced.iter().map(|sector| sector * SECTOR_BYTES / SEGMENT_PAGE_BYTES).collect();
        for page in pages.iter().filter(|page| **page != 0 && !pages.contains(&(**page - 1)) || **page == 1) {
            let end = pages.range(page..).zip(*page..).take_while(|(have, want)| *have == want).count() + page;
            state.news.push(file.durable[page * SEGMENT_PAGE_BYTES..end * SEGMENT_PAGE_BYTES].to_vec());
        }
        Ok(())
    }

    fn as_file(&self) -> Option<&File> {
        None
    }
}

impl LogDisk for Disk {
    fn open(&self, segment: u64) -> io::Result<OpenSegment> {
        let file = lock(&self.state).segments.get(&segment).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.opened(&file))
    }

    fn begin(&mut self, header: &SegmentHeader) -> io::Result<OpenSegment> {
        let mut state = lock(&self.state);
        state.fuse.check()?;
        let bytes = state.segment_bytes;
        let file = state.spares.pop().unwrap_or_else(|| {
            let empty = Platter { cached: vec![0; bytes], durable: vec![0; bytes], dirty: BTreeSet::new() };
            Arc::new(Mutex::new(empty))
        });
        {
            let mut file = lock(&file);
            let mut page = [0; SEGMENT_PAGE_BYTES];
            let encoded = header.encode();
            page[..encoded.len()].copy_from_slice(&encoded);
            file.write(&page, 0)?;
            file.sync();
        }
        if let Err(died) = state.fuse.check() {
            // Written, and not yet under its name.
            state.spares.push(file);
            return Err(died);
        }
        state.segments.insert(header.segment, file.clone());
        drop(state);
        Ok(self.opened(&file))
    }

    fn retire(&mut self, segment: u64, _bytes: u64, reuse: bool) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.fuse.check()?;
        if let Some(file) = state.segments.remove(&segment)
            && reuse
            && state.spares.len() < SPARES_MAX
        {
            state.spares.push(file);
        }
        Ok(())
    }

    fn prepare_ahead(&mut self) {}

    fn spare_bytes(&self) -> u64 {
        let state = lock(&self.state);
        (state.spares.len() * state.segment_bytes) as u64
    }

    fn free_bytes(&self) -> u64 {
        u64::MAX
    }

    fn load_control(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(lock(&self.state).control.clone())
    }

    fn save_control(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.fuse.check()?;
        state.control = Some(bytes.to_vec());
        // Renamed and synced; the process may still die before it hears of it.
        state.fuse.check()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// The way of a journal's writes to the disk: under way from `submit` until somebody says that they are done.
#[derive(Debug)]
pub struct Way {
    disk: Disk,
    file: Option<Arc<dyn LogFile>>,
    target: Option<Arc<Mutex<Platter>>>,
    write: Option<WriteOp>,
}

impl Way {
    /// A way to this disk.
    #[must_use]
    pub fn new(disk: &Disk) -> Self {
        Self { disk: disk.clone(), file: None, target: None, write: None }
    }

    fn finish(&self) -> Result<(), IoFailure> {
        let (write, trouble) = {
            let mut state = lock(&self.disk.state);
            let trouble = state.trouble.take();
            if !state.fuse.burn() {
                return Err(IoFailure::Write(io::Error::other("the process died here")));
            }
            (state.in_flight.take(), trouble)
        };
        let Some(write) = write else { return Err(IoFailure::Write(io::ErrorKind::NotFound.into())) };
        let eio = || io::Error::from_raw_os_error(5);
        if trouble == Some(Trouble::Write) {
            let part = write.bytes.len() / 2 / SECTOR_BYTES * SECTOR_BYTES;
            let _ = lock(&write.file).write(&write.bytes[..part], write.at);
            return Err(IoFailure::Write(eio()));
        }
        lock(&write.file).write(&write.bytes, write.at).map_err(IoFailure::Write)?;
        if trouble == Some(Trouble::Sync) {
            // The kernel says it once, marks the pages clean, and forgets.
            lock(&write.file).dirty.clear();
            return Err(IoFailure::Sync(eio()));
        }
        self.file.as_ref().map_or(Ok(()), |file| file.sync_data()).map_err(IoFailure::Sync)
    }
}

impl LogIo for Way {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn install(&mut self, file: &Arc<dyn LogFile>) -> io::Result<()> {
        self.file = Some(file.clone());
        // The trait does not give the inner file away; the disk knows its newest one.
        self.target = lock(&self.disk.state).segments.values().next_back().cloned();
        Ok(())
    }

    fn submit(&mut self, write: WriteOp) -> Result<(), (IoFailure, WriteOp)> {
        let Some(file) = self.target.clone().filter(|_| self.write.is_none()) else {
            return Err((IoFailure::Write(io::ErrorKind::InvalidInput.into()), write));
        };
        let bytes = write.buffer.map[..write.len].to_vec();
        lock(&self.disk.state).in_flight = Some(InFlight { file, at: place(write.at), bytes });
        self.write = Some(write);
        Ok(())
    }

    fn complete(&mut self) -> Option<(WriteOp, Result<(), IoFailure>)> {
        let write = self.write.take()?;
        let done = self.finish();
        Some((write, done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(disk: &mut Disk) -> OpenSegment {
        let header = SegmentHeader {
            journal: [1; 16],
            segment: 1,
            first_write: 1,
            previous_write: 0,
            segment_bytes: 16384,
            cluster: 1,
            node: 1,
        };
        disk.begin(&header).unwrap()
    }

    #[test]
    fn what_was_synced_outlives_a_power_cut_and_the_rest_is_any_mixture() {
        let (mut kept, mut lost, mut torn) = (false, false, false);
        for seed in 0..200 {
            let mut disk = Disk::new(16384, PathBuf::new());
            let open = segment(&mut disk);
            open.direct.write_all_at(&[7; 4096], 4096).unwrap();
            open.direct.sync_data().unwrap();
            open.direct.write_all_at(&[9; 4096], 8192).unwrap();
            disk.power_cut(&mut Random::new(seed, 0));
            let mut bytes = [0; 8192];
            open.direct.read_exact_at(&mut bytes, 4096).unwrap();
            assert_eq!(bytes[..4096], [7; 4096]);
            let there = bytes[4096..].iter().filter(|byte| **byte == 9).count();
            kept |= there == 4096;
            lost |= there == 0;
            torn |= there != 0 && there != 4096;
        }
        assert!(kept && lost && torn);
    }
}
