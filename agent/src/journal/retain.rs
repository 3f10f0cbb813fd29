//! Which segments may go, and who pays for it: a pure decider.
//!
//! Owns: the order "what nobody needs goes first, then, past the bound, the oldest goes anyway". What can hurt: a
//! peer that stays away must never fill the disk (rule 11), and a segment that somebody needs must not go silently
//! (rule 4): every (group, peer) that loses frames is named. Refuses: files; the journal's thread acts. Only the
//! oldest segments go, so that what is kept is one piece.

use std::collections::BTreeSet;

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

/// A full segment; the one that is being written is never given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    pub segment: u64,
    pub bytes: u64,
    /// Last sequence of each group that has frames in it.
    pub last: Vec<(GroupId, Sequence)>,
}

/// How much the journal may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all segments now, the one that is being written included.
    pub used_bytes: u64,
    pub bytes_max: u64,
    /// Free bytes of the file system now.
    pub free_bytes: u64,
    pub free_bytes_min: u64,
}

/// What a retention run may let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// `needs` is complete as of now: what it does not name is needed by nobody.
    Unneeded,
    /// `needs` may be old or not known yet: only what is past the bounds goes. A need that it does not name shows when
    /// its reader meets `ReadError::Retired`.
    PastBounds,
}

/// Decides which of `segments`, oldest first, go.
#[must_use]
pub fn decide(segments: &[SegmentFacts], needs: &[Need], mut bounds: Bounds, extent: Extent) -> Retired {
    let mut segments_out = Vec::new();
    let mut resync = BTreeSet::new();
    for segment in segments {
        let last_of = |group| segment.last.iter().find(|(of, _)| *of == group).map(|(_, last)| *last);
        let losers = needs.iter().filter(|need| last_of(need.group).is_some_and(|last| last > need.done));
        let losers: BTreeSet<(GroupId, NodeId)> = losers.map(|need| (need.group, need.peer)).collect();
        let past_bound = bounds.used_bytes > bounds.bytes_max || bounds.free_bytes < bounds.free_bytes_min;
        let free_to_go = losers.is_empty() && extent == Extent::Unneeded;
        if !free_to_go && !past_bound {
            break;
        }
        resync.extend(losers);
        segments_out.push(segment.segment);
        bounds.used_bytes = bounds.used_bytes.saturating_sub(segment.bytes);
        bounds.free_bytes = bounds.free_bytes.saturating_add(segment.bytes);
    }
    Retired { segments: segments_out, resync: resync.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments() -> Vec<SegmentFacts> {
        let facts = |segment, last: &[(u32, u64)]| SegmentFacts {
            segment,
            bytes: 100,
            last: last.iter().map(|(group, last)| (GroupId(*group), Sequence(*last))).collect(),
        };
        vec![facts(1, &[(1, 10), (2, 5)]), facts(2, &[(1, 20)]), facts(3, &[(1, 30), (2, 9)])]
    }

    fn need(group: u32, peer: u16, done: u64) -> Need {
        Need { group: GroupId(group), peer: NodeId::new(peer).unwrap(), done: Sequence(done) }
    }

    fn decide(segments: &[SegmentFacts], needs: &[Need], bounds: Bounds) -> Retired {
        super::decide(segments, needs, bounds, Extent::Unneeded)
    }

    #[test]
    fn needs_that_may_be_old_let_nothing_go_within_the_bounds() {
        assert_eq!(super::decide(&segments(), &[], ROOM, Extent::PastBounds), Retired::default());
        let tight = Bounds { bytes_max: 350, ..ROOM };
        assert_eq!(super::decide(&segments(), &[], tight, Extent::PastBounds).segments, [1]);
    }

    const ROOM: Bounds = Bounds { used_bytes: 400, bytes_max: 1000, free_bytes: 1000, free_bytes_min: 100 };

    #[test]
    fn what_nobody_needs_goes() {
        assert_eq!(decide(&segments(), &[], ROOM).segments, [1, 2, 3]);
        assert_eq!(decide(&segments(), &[need(1, 2, 10), need(2, 3, 5)], ROOM).segments, [1]);
        assert_eq!(decide(&segments(), &[need(1, 2, 9)], ROOM), Retired::default());
        assert_eq!(decide(&segments(), &[need(1, 2, 29), need(2, 2, 9)], ROOM).segments, [1, 2]);
        assert_eq!(
            decide(&segments(), &[need(7, 2, 0)], ROOM).segments,
            [1, 2, 3],
            "a group without frames needs none"
        );
    }

    #[test]
    fn past_the_bound_the_oldest_goes_and_the_losers_are_named() {
        let needs = [need(1, 2, 15), need(1, 3, 30), need(2, 2, 0)];
        let tight = Bounds { bytes_max: 250, ..ROOM };
        let retired = decide(&segments(), &needs, tight);
        assert_eq!(retired.segments, [1, 2]);
        let pair = |group, peer| (GroupId(group), NodeId::new(peer).unwrap());
        assert_eq!(retired.resync, [pair(1, 2), pair(2, 2)]);
        let full_disk = Bounds { free_bytes: 50, ..ROOM };
        let retired = decide(&segments(), &needs, full_disk);
        assert_eq!((retired.segments, retired.resync), (vec![1], vec![pair(2, 2)]));
    }
}
