//! Reads durable frames, from any thread.
//!
//! Owns: the shared index and the cache of recent frames. What can hurt: a segment that is let go and used again while
//! it is read; what comes back then does not match its place, and the index is asked once more. Refuses: giving out a
//! frame whose checksums do not match (rule 6), and anything that is not durable.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use understudy_types::id::{GroupId, Sequence};

use super::GroupState;
use super::event::{Failure, ReadError, Tail};
use super::index::{Index, Plan};
use super::recover;
use super::stats::Histogram;
use crate::frame::{Frame, FrameError};

/// Recent frames, oldest first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    frames: HashMap<(GroupId, Sequence), Frame>,
    order: VecDeque<(GroupId, Sequence)>,
    bytes: usize,
}

impl Cache {
    pub(super) fn insert(&mut self, frame: Frame, bytes_max: usize) {
        let key = (frame.header().group, frame.header().first_sequence);
        self.bytes += frame.bytes().len();
        if let Some(old) = self.frames.insert(key, frame) {
            self.bytes -= old.bytes().len();
        } else {
            self.order.push_back(key);
        }
        while self.bytes > bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(frame) = self.frames.remove(&oldest) {
                self.bytes -= frame.bytes().len();
            }
        }
    }

    pub(super) fn forget(&mut self, group: GroupId) {
        let bytes = &mut self.bytes;
        self.frames.retain(|(of, _), frame| {
            let keep = *of != group;
            *bytes -= if keep { 0 } else { frame.bytes().len() };
            keep
        });
        self.order.retain(|(of, _)| *of != group);
    }

    fn get(&self, group: GroupId, first: Sequence) -> Option<Frame> {
        self.frames.get(&(group, first)).cloned()
    }
}

/// Figures that the thread counts up.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) frames: u64,
    pub(super) frame_bytes: u64,
    pub(super) writes: u64,
    pub(super) write_bytes: u64,
    pub(super) spare_bytes: u64,
    pub(super) sync: Histogram,
}

/// What the journal's thread and its readers share. Locks are held for memory work only.
#[derive(Debug, Default)]
pub(super) struct Shared {
    index: RwLock<Index>,
    cache: Mutex<Cache>,
    figures: Mutex<Figures>,
    failure: Mutex<Option<Failure>>,
}

// A panic under one of these locks is a broken rule; the journal's thread is then gone and says `Stopped`. Readers
// go on with what is there, because every frame is checked again when it is read.
impl Shared {
    pub(super) fn new(index: Index) -> Self {
        Self { index: RwLock::new(index), ..Self::default() }
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads durable frames. Cheap to clone; for any thread. Goes on working after the journal has failed or stopped.
#[derive(Clone, Debug)]
pub struct JournalReader {
    shared: Arc<Shared>,
}

impl JournalReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Whole frames of `group` from the one that begins at `from`, at least one if it is there, then as many as fit
    /// in `bytes_max`; none if `from` is after the end. Only frames that are durable. Blocks on the disk for frames
    /// that are no longer in memory.
    ///
    /// # Errors
    /// See [`ReadError`]: what has to be done differs. Frames before a damaged one are given first; the error comes
    /// when it is the first.
    pub fn read(&self, group: GroupId, from: Sequence, bytes_max: usize) -> Result<Vec<Frame>, ReadError> {
        let from = Sequence(from.0.max(1));
        // A second look at the index is needed only when a segment went while it was read.
        match self.attempt(group, from, bytes_max) {
            Err(ReadError::Damaged { .. } | ReadError::Io { .. }) => self.attempt(group, from, bytes_max),
            other => other,
        }
    }

    fn attempt(&self, group: GroupId, from: Sequence, bytes_max: usize) -> Result<Vec<Frame>, ReadError> {
        let plan = self.shared.index().plan(group, from, bytes_max)?;
        let mut frames = Vec::with_capacity(plan.len());
        for step in &plan {
            let cached = self.shared.cache().get(group, step.place.held.first);
            match cached.map_or_else(|| fetch(group, step), Ok) {
                Ok(frame) => frames.push(frame),
                Err(error) if frames.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(frames)
    }

    /// Last durable position of a group; zeros for one that is not known.
    #[must_use]
    pub fn tail(&self, group: GroupId) -> Tail {
        self.shared.index().groups.get(&group).map_or(Tail::default(), |index| index.known.tail)
    }

    /// Everything that is known of a group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<GroupState> {
        self.shared.index().groups.get(&group).map(recover::state)
    }

    /// All groups.
    #[must_use]
    pub fn groups(&self) -> std::collections::BTreeMap<GroupId, GroupState> {
        recover::states(&self.shared.index())
    }
}

/// Reads one frame from its segment and checks that it is the one that the index means.
fn fetch(group: GroupId, step: &Plan) -> Result<Frame, ReadError> {
    let place = &step.place;
    // `len` was a frame's length when the index took it: at most FRAME_BYTES_MAX.
    let mut bytes = vec![0; place.len as usize];
    let read = step.file.read_exact_at(&mut bytes, u64::from(place.at));
    read.map_err(|error| ReadError::Io { segment: place.segment, error: error.to_string() })?;
    let damaged = |error| ReadError::Damaged { group, segment: place.segment, at: u64::from(place.at), error };
    let frame = Frame::parse(Bytes::from(bytes)).map_err(damaged)?;
    let held = super::chain::Held::of(frame.header(), &frame.hash());
    if frame.header().group != group || held != place.held {
        return Err(damaged(FrameError::BodyChecksum));
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::super::chain::Held;
    use super::super::disk::LogFile;
    use super::super::index::Place;
    use super::super::tests::Stream;
    use super::*;

    #[test]
    fn a_whole_frame_that_is_not_the_one_that_was_meant_is_refused() {
        let mut stream = Stream::new(1);
        let frames = [stream.frame(1, 100), stream.frame(1, 100)];
        let file: Arc<dyn LogFile> = Arc::new(tempfile::tempfile().unwrap());
        file.write_all_at(frames[1].bytes(), 0).unwrap();
        let read = |meant: &Frame, group| {
            let held = Held::of(meant.header(), &meant.hash());
            let len = u32::try_from(meant.bytes().len()).unwrap();
            fetch(GroupId(group), &Plan { place: Place { held, segment: 1, at: 0, len }, file: file.clone() })
        };
        assert_eq!(read(&frames[1], 1), Ok(frames[1].clone()));
        assert!(matches!(read(&frames[0], 1), Err(ReadError::Damaged { .. })));
        assert!(matches!(read(&frames[1], 2), Err(ReadError::Damaged { .. })));
    }

    #[test]
    fn the_cache_keeps_its_bound_and_forgets_whole_groups() {
        let (mut one, mut two) = (Stream::new(1), Stream::new(2));
        let mut cache = Cache::default();
        let frames: Vec<Frame> = (0..10).flat_map(|_| [one.frame(1, 1000), two.frame(1, 1000)]).collect();
        let bound = frames[0].bytes().len() * 6;
        frames.iter().for_each(|frame| cache.insert(frame.clone(), bound));
        assert!(cache.bytes <= bound && cache.frames.len() == 6 && cache.order.len() == 6);
        assert_eq!(cache.get(GroupId(1), Sequence(1)), None);
        assert_eq!(cache.get(GroupId(1), Sequence(10)).as_ref(), Some(&frames[18]));
        cache.forget(GroupId(1));
        assert_eq!((cache.get(GroupId(1), Sequence(10)), cache.frames.len(), cache.order.len()), (None, 3, 3));
        assert_eq!(cache.bytes, frames[0].bytes().len() * 3);
    }
}
