//! The durable, ordered log of frames on a node: its own and those it received, of many groups interleaved.
//!
//! Owns: segments on disk, group commit, recovery, the chain of every group, retention. What can hurt: losing what
//! was acknowledged (rule 2), taking a frame from a fenced node (rule 3), filling the disk (rule 11), trusting what a
//! disk gives back (rule 6). Refuses: knowing that peers exist beyond the positions that `retain` is given, and
//! looking into frames.
//!
//! Reading order: `event` (what it answers), `chain` (may a frame follow), `disk` (the seam to the disk), `io`,
//! `plain`, `uring`, `files` (its real side), `control`, `index`, `reader`, `writer` (the thread), `retain`, `recover`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use nix::fcntl::{Flock, FlockArg};
use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};
use understudy_types::segment::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_PAGE_BYTES};

use crate::clock::MonoNs;
use crate::frame::Frame;
use crate::limits::{
    JOURNAL_EVENTS_MAX, JOURNAL_LOCK_PAUSE_MS, JOURNAL_LOCK_TRIES, JOURNAL_QUEUE_BYTES_MAX, JOURNAL_QUEUE_FRAMES_MAX,
};

mod chain;
mod control;
pub mod disk;
mod event;
mod files;
mod index;
mod io;
mod plain;
mod reader;
mod recover;
mod retain;
mod stats;
mod uring;
mod writer;

#[cfg(test)]
mod tests;

pub use control::ControlInvalid;
pub use event::{AppendError, ChainError, Failure, JournalEvent, ReadError, Tail, Token};
pub use io::{IoRefusal, io_uring_available};
pub use reader::JournalReader;
pub use recover::Damage;
pub use retain::{Bounds, Extent, Need, Retired, SegmentFacts, decide};
pub use stats::JournalStats;

use control::Control;
use disk::LogDisk;
use reader::Shared;
use writer::{Channels, Command, Current, Writer};

pub use writer::Turns;

/// Which system calls the journal uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IoBackend {
    /// io_uring where the kernel lets us, else plain system calls; the reason is in [`Recovered::io_refusal`].
    #[default]
    Auto,
    /// io_uring or an error.
    IoUring,
    /// `pwrite` and `fdatasync`.
    Plain,
}

/// How to open a journal.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// Made if it is not there. One agent at a time.
    pub directory: PathBuf,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub io_backend: IoBackend,
    /// A multiple of 4096, from [`SEGMENT_BYTES_MIN`] (4 MiB and a page) to [`SEGMENT_BYTES_MAX`]. For new segments.
    pub segment_bytes: u64,
    /// Past it the oldest segment goes, needed or not. Up to two spare files come on top.
    pub journal_bytes_max: u64,
    /// Free space of the file system below which the oldest segment goes, needed or not.
    pub free_bytes_min: u64,
    /// Recent frames kept in memory for shippers. The oldest go past it.
    pub cache_bytes_max: usize,
}

impl JournalConfig {
    /// Usual values for a directory.
    #[must_use]
    pub fn new(directory: PathBuf, cluster: ClusterId, node: NodeId) -> Self {
        Self {
            directory,
            cluster,
            node,
            io_backend: IoBackend::Auto,
            segment_bytes: 64 << 20,
            journal_bytes_max: 4 << 30,
            free_bytes_min: 1 << 30,
            cache_bytes_max: 32 << 20,
        }
    }
}

/// What one group's stream looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Oldest sequence that can be read; 0 = none.
    pub first: Sequence,
    pub tail: Tail,
    /// Senders of lower epochs are refused for ever. At least `tail.epoch`.
    pub fence: Epoch,
    /// Highest ring index that is journaled, per ring generation, of own frames; the newest few generations.
    pub ring: Vec<(u64, u64)>,
    /// Sequences that damage took: the last frame before, the first sequence after. A rebase to that frame lets a
    /// peer ship them again.
    pub gaps: Vec<(Tail, Sequence)>,
    /// Damage was found behind the group's last frame: there may have been more of them.
    pub tail_suspect: bool,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub groups: std::collections::BTreeMap<GroupId, GroupState>,
    /// Damage that is not a torn end; what stands around it was kept.
    pub damage: Vec<Damage>,
    /// Bytes of a write that was cut off behind its header and had been acknowledged to nobody.
    pub torn_bytes: u64,
    /// Why io_uring is not used though it was wished for, with the remedy.
    pub io_refusal: Option<IoRefusal>,
    /// How long it took, in nanoseconds.
    pub took_ns: u64,
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal `{path}`: {error}")]
    Directory { path: PathBuf, error: std::io::Error },
    #[error("journal `{path}` is in use by another agent; stop it first")]
    Locked { path: PathBuf },
    #[error(
        "control file `{path}` cannot be used: {error}; move the journal's directory away, then every account of this node is copied anew"
    )]
    Control { path: PathBuf, error: ControlInvalid },
    #[error(
        "journal `{path}` has segments and no control file; restore it, or move the directory away, then every account of this node is copied anew"
    )]
    ControlMissing { path: PathBuf },
    #[error("journal `{path}` belongs to node `{node}` of cluster `{cluster}`; give this agent a directory of its own")]
    Foreign { path: PathBuf, node: NodeId, cluster: ClusterId },
    #[error("journal segment `{segment}` was written by version `{version}` of the format; upgrade this node")]
    Newer { segment: u64, version: u16 },
    #[error("journal segment `{segment}` holds a write of a newer version at {at}; upgrade this node")]
    NewerWrite { segment: u64, at: u64 },
    #[error("journal segment `{segment}`: {error}")]
    Segment { segment: u64, error: std::io::Error },
    #[error(
        "segment size `{0}` is out of range; it is a multiple of 4096, at least {SEGMENT_BYTES_MIN}, at most {SEGMENT_BYTES_MAX}"
    )]
    SegmentBytes(u64),
    #[error(transparent)]
    IoUring(#[from] IoRefusal),
    #[error("no memory for the journal's buffers: {0}")]
    Memory(std::io::Error),
    #[error("journal's thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// How many commands and answers wait at most.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Past it an append is given back (`Busy`).
    pub queued_frames: usize,
    /// Past it the journal waits for its reader.
    pub events: usize,
}

/// Bytes of frames that wait in the queue. Relaxed everywhere: it is a bound, the queue itself orders the frames.
#[derive(Debug, Default)]
struct QueuedBytes(AtomicUsize);

impl QueuedBytes {
    fn add(&self, bytes: usize) -> bool {
        let fits = |now: usize| (now == 0 || now + bytes <= JOURNAL_QUEUE_BYTES_MAX).then_some(now + bytes);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn sub(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A running journal: a thread of its own, fed by a bounded queue. Dropping it writes what was queued, then stops.
#[derive(Debug)]
pub struct Journal {
    commands: Option<Sender<Command>>,
    events: Receiver<JournalEvent>,
    queued_bytes: Arc<QueuedBytes>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    backend: &'static str,
    direct: bool,
    /// Held while the journal is open; there is none in a simulated world.
    _lock: Option<Flock<std::fs::File>>,
}

impl Journal {
    /// Opens or makes the journal, reads it back, and starts its thread.
    ///
    /// # Errors
    /// What the administrator must see to first.
    pub fn open(config: JournalConfig, now: MonoNs) -> Result<(Self, Recovered), JournalError> {
        let (way, io_refusal) = io::open(config.io_backend)?;
        let (journal, mut recovered) = Self::open_on(config, now, way)?;
        recovered.io_refusal = io_refusal;
        Ok((journal, recovered))
    }

    fn open_on(config: JournalConfig, now: MonoNs, way: io::Way) -> Result<(Self, Recovered), JournalError> {
        let bytes = config.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(SEGMENT_PAGE_BYTES as u64)
        {
            return Err(JournalError::SegmentBytes(bytes));
        }
        let path = config.directory.clone();
        let failed = |error| JournalError::Directory { path: path.clone(), error };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let lock = lock(&config)?;
        let (files, segments) = files::SegmentFiles::list(&path, bytes).map_err(failed)?;
        let room = Room { queued_frames: JOURNAL_QUEUE_FRAMES_MAX, events: JOURNAL_EVENTS_MAX };
        let (mut journal, turns, mut recovered) =
            Self::open_still(config, Box::new(files), &segments, way, rand::random(), room)?;
        journal._lock = Some(lock);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || turns.run());
        journal.thread = Some(thread.map_err(JournalError::Thread)?);
        recovered.took_ns = crate::clock::mono().since_ns(now);
        Ok((journal, recovered))
    }

    /// Opens or makes a journal that has no thread: whoever called takes its [`Turns`]. `segments` are those of `disk`
    /// in order, `id` is the journal's name if it is a new one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_still(
        config: JournalConfig,
        mut disk: Box<dyn LogDisk>,
        segments: &[u64],
        (mut io, buffers): io::Way,
        id: [u8; 16],
        room: Room,
    ) -> Result<(Self, Turns, Recovered), JournalError> {
        let path = config.directory.clone();
        let control = match Control::load(disk.as_ref())? {
            Some(control) => control,
            None if !segments.is_empty() => return Err(JournalError::ControlMissing { path }),
            None => {
                let groups = std::collections::BTreeMap::new();
                let control = Control { journal: id, cluster: config.cluster, node: config.node, groups };
                let failed = |error| JournalError::Directory { path: path.clone(), error };
                control.save(disk.as_mut()).map_err(failed)?;
                control
            }
        };
        if (control.cluster, control.node) != (config.cluster, config.node) {
            return Err(JournalError::Foreign { path, node: control.node, cluster: control.cluster });
        }
        let mut found = recover::recover(disk.as_ref(), segments, &control, config.cluster, config.node)?;
        let current = match found.append.take() {
            Some(point) => Current { segment: point.segment, open: point.open, at: point.at },
            None => {
                let segment = found.last_segment + 1;
                let (next, previous) = (found.next_write, found.previous_write);
                let header = writer::segment_header(&config, control.journal, segment, next, previous);
                let open = disk.begin(&header).map_err(|error| JournalError::Segment { segment, error })?;
                let last = std::collections::HashMap::new();
                let entry = index::SegmentEntry { file: open.readable.clone(), bytes: open.bytes, last };
                found.index.segments.insert(segment, entry);
                Current { segment, open, at: SEGMENT_PAGE_BYTES as u64 }
            }
        };
        disk.prepare_ahead();
        let segment = current.segment;
        io.install(&current.open.direct).map_err(|error| JournalError::Segment { segment, error })?;
        let recovered = Recovered {
            groups: recover::states(&found.index),
            damage: found.damage,
            torn_bytes: found.torn_bytes,
            io_refusal: None,
            took_ns: 0,
        };
        let (backend, direct) = (io.name(), current.open.is_direct);
        let shared = Arc::new(Shared::new(found.index));
        let queued_bytes = Arc::new(QueuedBytes::default());
        let (commands, receive_commands) = bounded(room.queued_frames);
        let (send_events, events) = bounded(room.events);
        let channels = Channels { queued_bytes: queued_bytes.clone(), commands: receive_commands, events: send_events };
        let position = (found.next_write, found.previous_write);
        let writer =
            Writer::new(config, control.journal, shared.clone(), channels, io, buffers, disk, current, position);
        let commands = Some(commands);
        let journal = Self { commands, events, queued_bytes, shared, thread: None, backend, direct, _lock: None };
        Ok((journal, Turns(writer), recovered))
    }

    /// Queues a frame that this node sealed. Never waits. Exactly one event answers it.
    ///
    /// # Errors
    /// The frame comes back.
    pub fn append(&self, frame: Frame, token: Token) -> Result<(), AppendError<Frame>> {
        let authority = frame.header().epoch;
        self.queue(frame, authority, true, token)
    }

    /// Queues a frame that a peer sent. Never waits. Exactly one event answers it. `authority` is the epoch in which
    /// the sender is active now: it may ship frames that were sealed in an earlier one, and is refused for ever once
    /// the group has seen a higher one. The frame's bytes stay in memory until they are written and for as long as the
    /// cache holds them, so they should not be a slice of a larger buffer.
    ///
    /// # Errors
    /// The frame comes back.
    pub fn append_received(&self, frame: Frame, authority: Epoch, token: Token) -> Result<(), AppendError<Frame>> {
        self.queue(frame, authority, false, token)
    }

    fn queue(&self, frame: Frame, authority: Epoch, own: bool, token: Token) -> Result<(), AppendError<Frame>> {
        let bytes = frame.bytes().len();
        if !self.queued_bytes.add(bytes) {
            return match self.stopped() {
                Some(failure) => Err(AppendError::Stopped(frame, failure)),
                None => Err(AppendError::Busy(frame)),
            };
        }
        let command = Command::Append { frame, authority, own, token };
        self.send(command).map_err(|(command, failure)| {
            self.queued_bytes.sub(bytes);
            match (command, failure) {
                (Command::Append { frame, .. }, Some(failure)) => AppendError::Stopped(frame, failure),
                (Command::Append { frame, .. }, None) => AppendError::Busy(frame),
                _ => unreachable!("the command that was sent comes back"),
            }
        })
    }

    fn stopped(&self) -> Option<Failure> {
        self.shared.failure().clone()
    }

    fn send(&self, command: Command) -> Result<(), (Command, Option<Failure>)> {
        let Some(commands) = &self.commands else { return Err((command, Some(Failure::ShutDown))) };
        match commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(command)) => Err((command, None)),
            Err(TrySendError::Disconnected(command)) => {
                Err((command, Some(self.stopped().unwrap_or(Failure::ShutDown))))
            }
        }
    }

    fn order(&self, command: Command) -> Result<(), AppendError<()>> {
        self.send(command).map_err(|(_, failure)| match failure {
            Some(failure) => AppendError::Stopped((), failure),
            None => AppendError::Busy(()),
        })
    }

    /// Raises the group's fence: senders below `epoch` are refused for ever. Answered by [`JournalEvent::Fenced`].
    ///
    /// # Errors
    /// Not taken.
    pub fn fence(&self, group: GroupId, epoch: Epoch, token: Token) -> Result<(), AppendError<()>> {
        self.order(Command::Fence { group, epoch, token })
    }

    /// Makes the group's stream go on after `tail`, whatever was here: after a resync, or on a node that was active
    /// and holds operations which the new active node never saw. Frames of the group before this cannot be read
    /// any more. Answered by [`JournalEvent::Rebased`].
    ///
    /// # Errors
    /// Not taken.
    pub fn rebase(&self, group: GroupId, tail: Tail, token: Token) -> Result<(), AppendError<()>> {
        self.order(Command::Rebase { group, tail, token })
    }

    /// Lets segments go that nobody needs, and past the bounds the oldest ones anyway. A group that `needs` does not
    /// name is needed by nobody. The needs are kept: when a segment is full and the bounds are passed, the oldest goes
    /// at once, and a [`JournalEvent::Retired`] with token 0 says who of them loses frames.
    ///
    /// # Errors
    /// Not taken.
    pub fn retain(&self, needs: Vec<Need>, token: Token) -> Result<(), AppendError<()>> {
        self.order(Command::Retain { needs, token })
    }

    /// Events. One consumer: each event is received once. The journal's thread is gone when the channel is
    /// disconnected; unless [`JournalEvent::Failed`] came before, a rule was broken and the panic was reported.
    #[must_use]
    pub fn events(&self) -> &Receiver<JournalEvent> {
        &self.events
    }

    /// A reader for other threads.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.shared.clone())
    }

    /// Times of the fsyncs since the last call, in nanoseconds; at most some thousands.
    #[must_use]
    pub fn take_sync_ns(&self) -> Vec<u64> {
        self.shared.figures().sync.take_fresh()
    }

    /// A snapshot of the figures.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        let (segments, bytes) = {
            let index = self.shared.index();
            (index.segments.len() as u64, index.segments.values().map(|segment| segment.bytes).sum::<u64>())
        };
        let figures = self.shared.figures();
        JournalStats {
            backend: self.backend,
            direct: self.direct,
            segments,
            segment_bytes: bytes + figures.spare_bytes,
            frames: figures.frames,
            frame_bytes: figures.frame_bytes,
            writes: figures.writes,
            write_bytes: figures.write_bytes,
            sync_p50_ns: figures.sync.percentile(50),
            sync_p99_ns: figures.sync.percentile(99),
            sync_max_ns: figures.sync.max(),
            queued_frames: self.commands.as_ref().map_or(0, Sender::len),
            failed: self.stopped().map(|failure| failure.to_string()),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.commands = None;
        // Answers that nobody takes must not hold the thread up.
        let (_, nobody) = bounded(0);
        drop(std::mem::replace(&mut self.events, nobody));
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already told by the panic hook.
            let _ = thread.join();
        }
    }
}

/// One journal, one agent: two would write over each other. An agent that was killed may hold the lock for a moment
/// longer: the kernel ends its ring of requests, and what that holds open, after the process is gone (seen).
fn lock(config: &JournalConfig) -> Result<Flock<std::fs::File>, JournalError> {
    let path = config.directory.join("lock");
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|error| JournalError::Directory { path: path.clone(), error })?;
    let mut file = file;
    for _ in 0..JOURNAL_LOCK_TRIES {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(JournalError::Directory { path, error: errno.into() }),
        };
        std::thread::sleep(Duration::from_millis(JOURNAL_LOCK_PAUSE_MS));
    }
    Err(JournalError::Locked { path })
}
