//! The durable, ordered log of frames on a node: its own and those it received, of many groups interleaved.
//!
//! Owns: segments on disk, group commit, recovery, the chain of every group, retention. What can hurt: losing what
//! was acknowledged (rule 2), taking a frame from a fenced node (rule 3), filling the disk (rule 11), trusting what a
//! disk gives back (rule 6). Refuses: knowing that peers exist beyond the positions that `retain` is given, and
//! looking into frames.

use std::path::PathBuf;

use bytes::Bytes;
use crossbeam::channel::Receiver;
use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};

use crate::clock::MonoNs;
use crate::frame::Frame;

mod event;
mod retain;
mod stats;

pub use event::{AppendError, ChainError, Failure, JournalEvent, ReadError, Tail, Token};
pub use retain::{Need, Retired};
pub use stats::JournalStats;

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
    pub directory: PathBuf,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub io_backend: IoBackend,
    /// A multiple of 4096.
    pub segment_bytes: u64,
    /// Past it the oldest segment goes, needed or not.
    pub journal_bytes_max: u64,
    /// Free space of the file system below which the oldest segment goes, needed or not.
    pub free_bytes_min: u64,
    /// Recent frames kept in memory for shippers.
    pub cache_bytes_max: usize,
}

/// What one group's stream looks like after recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Oldest sequence that can be read; 0 = none.
    pub first: Sequence,
    pub tail: Tail,
    /// Frames of lower epochs are refused for ever. At least `tail.epoch`.
    pub fence: Epoch,
    /// Highest ring index that is journaled, per ring generation, of own frames; the newest few generations.
    pub ring: Vec<(u64, u64)>,
    /// Sequences that a damaged part of the journal held: from, up to and without.
    pub gaps: Vec<(Sequence, Sequence)>,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub groups: std::collections::BTreeMap<GroupId, GroupState>,
    /// Damage that is not a torn tail; what stands around it was kept.
    pub damage: Vec<String>,
    /// Bytes of a write that was cut off and had been acknowledged to nobody.
    pub torn_bytes: u64,
    /// Why io_uring is not used, with the remedy.
    pub io_refusal: Option<String>,
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal directory `{path}`: {error}")]
    Directory { path: PathBuf, error: std::io::Error },
}

/// A running journal: a thread of its own, fed by a bounded queue.
pub struct Journal {
    events: Receiver<JournalEvent>,
}

impl Journal {
    /// Opens or makes the journal and starts its thread.
    ///
    /// # Errors
    /// What the administrator must see to first.
    pub fn open(config: JournalConfig, now: MonoNs) -> Result<(Self, Recovered), JournalError> {
        let _ = now;
        Err(JournalError::Directory { path: config.directory, error: std::io::ErrorKind::Unsupported.into() })
    }

    /// Queues a frame that this node sealed. Never waits. Exactly one event answers it.
    ///
    /// # Errors
    /// The frame comes back.
    pub fn append(&self, frame: Frame, token: Token) -> Result<(), AppendError<Frame>> {
        let _ = token;
        Err(AppendError::Busy(frame))
    }

    /// Queues a frame that a peer sent. Never waits. Exactly one event answers it. `authority` is the epoch in which
    /// the sender is active now: it may ship frames that were sealed in an earlier one, and is refused for ever once
    /// the group has seen a higher one.
    ///
    /// # Errors
    /// The frame comes back.
    pub fn append_received(&self, frame: Frame, authority: Epoch, token: Token) -> Result<(), AppendError<Frame>> {
        let _ = (authority, token);
        Err(AppendError::Busy(frame))
    }

    /// Raises the group's fence: frames below `epoch` are refused for ever.
    ///
    /// # Errors
    /// Not taken.
    pub fn fence(&self, group: GroupId, epoch: Epoch, token: Token) -> Result<(), AppendError<()>> {
        let _ = (group, epoch, token);
        Err(AppendError::Busy(()))
    }

    /// Makes the group's stream go on after `tail`, whatever was here: after a resync, or on a node that was active
    /// and holds operations which the new active node never saw. Frames of the group before this cannot be read
    /// any more.
    ///
    /// # Errors
    /// Not taken.
    pub fn rebase(&self, group: GroupId, tail: Tail, token: Token) -> Result<(), AppendError<()>> {
        let _ = (group, tail, token);
        Err(AppendError::Busy(()))
    }

    /// Lets segments go that nobody needs, and past the bounds the oldest ones anyway. A group that `needs` does not
    /// name is needed by nobody.
    ///
    /// # Errors
    /// Not taken.
    pub fn retain(&self, needs: Vec<Need>, token: Token) -> Result<(), AppendError<()>> {
        let _ = (needs, token);
        Err(AppendError::Busy(()))
    }

    /// Events, for one consumer.
    #[must_use]
    pub fn events(&self) -> &Receiver<JournalEvent> {
        &self.events
    }

    /// A reader for other threads.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        JournalReader {}
    }

    /// A snapshot of the figures.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        JournalStats::default()
    }
}

/// Reads durable frames. Cheap to clone; for any thread.
#[derive(Clone, Debug)]
pub struct JournalReader {}

impl JournalReader {
    /// Whole frames of `group` from the one that begins at `from`, at least one if it is there, then as many as fit
    /// in `bytes_max`; none if `from` is after the end. Only frames that are durable.
    ///
    /// # Errors
    /// See [`ReadError`]: what has to be done differs.
    pub fn read(&self, group: GroupId, from: Sequence, bytes_max: usize) -> Result<Vec<Frame>, ReadError> {
        let _ = (group, from, bytes_max);
        let _: Option<Bytes> = None;
        Ok(Vec::new())
    }

    /// Last durable position of a group.
    #[must_use]
    pub fn tail(&self, group: GroupId) -> Tail {
        let _ = group;
        Tail::default()
    }
}
