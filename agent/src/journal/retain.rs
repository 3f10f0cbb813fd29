//! Which segments may go, and who pays for it: a pure decider.
//!
//! Owns: the order "what nobody needs goes first, then, past the bound, the oldest goes anyway". What can hurt: a
//! peer that stays away must never fill the disk (rule 11), and a segment that somebody needs must not go silently
//! (rule 4): every (group, peer) that loses frames is named. Refuses: files; the journal's thread acts.

use understudy_types::id::{GroupId, NodeId, Sequence};

/// What one consumer of one group still needs. `peer` is a peer that has not acknowledged (own frames), or this node
/// itself for what it has not applied (received frames).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub group: GroupId,
    pub peer: NodeId,
    /// The last sequence that is not needed any more: acknowledged or applied. Frames above it are needed.
    pub done: Sequence,
}

/// Answer of a retention run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Segments that went.
    pub segments: Vec<u64>,
    /// (group, peer) pairs that now miss frames and need a resync.
    pub resync: Vec<(GroupId, NodeId)>,
}
