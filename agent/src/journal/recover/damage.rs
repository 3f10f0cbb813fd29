//! Damage that recovery found and lived with: typed, with its place.
//!
//! Owns: the words. Refuses: judging how bad it is; whoever opened the journal compares the groups.

use understudy_types::id::{GroupId, Sequence};
use understudy_types::segment::SegmentInvalid;

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error(
        "journal segment `{segment}`: nothing readable from {at} to {to}; writes `{expected}` to before `{next}` are lost"
    )]
    Hole { segment: u64, at: u64, to: u64, expected: u64, next: u64 },
    #[error("journal segment `{segment}`: write `{write}` at {at} does not follow the one before it")]
    Unchained { segment: u64, at: u64, write: u64 },
    #[error("journal segment `{segment}`: write `{write}` stands at {at} a second time")]
    Earlier { segment: u64, at: u64, write: u64 },
    #[error("journal segment `{segment}`: bytes at {at} belong to another journal")]
    ForeignJournal { segment: u64, at: u64 },
    #[error("journal segment `{segment}`: bytes at {at} belong to segment `{says}`")]
    ForeignSegment { segment: u64, at: u64, says: u64 },
    #[error("journal segment `{segment}` is missing")]
    SegmentMissing { segment: u64 },
    #[error("journal segment `{segment}`: {error}")]
    SegmentHeader { segment: u64, error: SegmentInvalid },
    #[error("journal segment `{segment}` belongs to another journal and is left alone")]
    SegmentForeign { segment: u64 },
    #[error("journal segment `{segment}` says that it is segment `{says}` and is left alone")]
    SegmentNumber { segment: u64, says: u64 },
    #[error("journal segment `{segment}` is {bytes} bytes long instead of {expected}")]
    SegmentShort { segment: u64, bytes: u64, expected: u64 },
    #[error(
        "journal segment `{segment}`: frame of group `{group}` at {at} begins at `{first}`, `{expected}` was expected; it is left out"
    )]
    FrameRepeated { segment: u64, at: u64, group: GroupId, first: Sequence, expected: Sequence },
    #[error("journal segment `{segment}`: frame of group `{group}` at {at} does not name the frame before it")]
    FrameUnchained { segment: u64, at: u64, group: GroupId },
}
