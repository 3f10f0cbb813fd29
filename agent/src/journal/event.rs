//! What a journal answers: events, refusals, failures.
//!
//! Owns: the words between the journal's thread and the rest of the agent. Refuses: behaviour.

use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};

use crate::frame::FrameError;

use super::retain::Retired;

/// Chosen by the caller of an append, given back in its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token(pub u64);

/// Where a group's stream stands: the last frame's last sequence, its epoch and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tail {
    /// 0 = nothing yet.
    pub sequence: Sequence,
    pub epoch: Epoch,
    /// Zeros before the first frame, and when only the sequence is known (after a resync).
    pub hash: [u8; 32],
}

/// One event for every append, fence, rebase and retain that was taken, in the order of durability.
#[derive(Clone, Debug)]
pub enum JournalEvent {
    /// The frame is on disk: fsync returned. `already` = it had been there before.
    Durable { group: GroupId, first: Sequence, last: Sequence, epoch: Epoch, token: Token, already: bool },
    /// The frame does not continue its group's stream, or must not. Nothing was written.
    Refused { group: GroupId, token: Token, reason: ChainError },
    /// No frame of the group below `epoch` will ever be taken again: fsync returned.
    Fenced { group: GroupId, epoch: Epoch, token: Token },
    /// The group's stream goes on after `tail`: fsync returned.
    Rebased { group: GroupId, tail: Tail, token: Token },
    /// Segments were let go; says who must be resynchronised because of it.
    Retired { retired: Retired, token: Token },
    /// A write or fsync failed. Nothing more is taken until the journal is opened anew; what was not answered as
    /// durable is not to be counted on.
    Failed { failure: Failure },
}

/// Why a frame may not follow the last one of its group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// For ever: the sender is no longer the active node of the group.
    #[error("frame of group `{group}` has epoch `{got}`, the group is at epoch `{known}`: its sender is fenced")]
    Fenced { group: GroupId, known: Epoch, got: Epoch },
    /// The sender is to go on from `expected`.
    #[error("frame of group `{group}` begins at `{got}`, `{expected}` is expected")]
    Gap { group: GroupId, expected: Sequence, got: Sequence },
    /// The two nodes hold different operations from `at` on: the group's stream here must be rebased and its accounts
    /// compared.
    #[error("frame of group `{group}` at `{at}` does not continue what is here: the streams have diverged")]
    Diverged { group: GroupId, at: Sequence, known: Epoch, got: Epoch },
    #[error("frame belongs to cluster `{got}`, this node to `{known}`")]
    Cluster { known: ClusterId, got: ClusterId },
    /// A frame that was appended as this node's own names another node.
    #[error("frame of group `{group}` names node `{got}` as its origin")]
    Origin { group: GroupId, got: NodeId },
    #[error("journal holds as many groups as it can; frame of group `{group}` is one too many")]
    TooManyGroups { group: GroupId },
}

/// Why an append was not taken. The frame comes back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError<F> {
    /// [`crate::limits::JOURNAL_QUEUE_FRAMES_MAX`] frames wait: answer events, then try again.
    #[error("journal's queue is full")]
    Busy(F),
    /// The journal has failed or was shut down.
    #[error("journal has stopped: {1}")]
    Stopped(F, Failure),
}

/// What stopped a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error(
        "write of {bytes} bytes at {at} of journal segment `{segment}` failed: {error}; check the disk, then restart the agent"
    )]
    Write { segment: u64, at: u64, bytes: usize, error: String },
    #[error("fsync of journal segment `{segment}` failed: {error}; check the disk, then restart the agent")]
    Sync { segment: u64, error: String },
    #[error("journal cannot begin segment `{segment}`: {error}; check free space and the disk, then restart the agent")]
    Segment { segment: u64, error: String },
    #[error("journal cannot save its control file: {error}; check free space and the disk, then restart the agent")]
    Control { error: String },
    #[error("journal was shut down")]
    ShutDown,
}

/// Why frames cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The peer that needs it must be resynchronised.
    #[error("frames of group `{group}` before `{oldest}` are no longer in the journal")]
    Retired { group: GroupId, oldest: Sequence },
    /// A hole that recovery reported.
    #[error("frames of group `{group}` from `{from}` to before `{next}` are lost")]
    Gap { group: GroupId, from: Sequence, next: Sequence },
    #[error("sequence `{from}` of group `{group}` is inside a frame that begins at `{first}`")]
    Inside { group: GroupId, from: Sequence, first: Sequence },
    #[error("frame of group `{group}` at {at} of journal segment `{segment}` is damaged: {error}")]
    Damaged { group: GroupId, segment: u64, at: u64, error: FrameError },
    #[error("journal segment `{segment}` cannot be read: {error}")]
    Io { segment: u64, error: String },
}
