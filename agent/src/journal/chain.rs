//! May this frame follow what is here? A pure decider.
//!
//! Owns: rule 3 (a lower epoch is refused for ever) and the chain of every group. What can hurt: taking a frame twice,
//! with a hole before it, or from a node that is no longer the active one. Refuses: state; it is given what is known
//! and the frame's header.
//!
//! | sender's epoch | frame begins | frame here that begins there | verdict |
//! |---|---|---|---|
//! | below the fence, or below the frame's | | | fenced |
//! | fine | up to the base (retired or rebased), frame's epoch not above the base's | | already |
//! | fine | up to the base, otherwise | | diverged |
//! | fine | up to the tail | the same | already |
//! | fine | up to the tail | none, or another | diverged |
//! | fine | after the tail with a hole | | gap |
//! | fine | right after the tail, epoch below the tail's, or not naming the tail's hash | | diverged |
//! | fine | right after the tail | | next |

use understudy_types::frame::FrameHeader;
use understudy_types::id::{Epoch, Sequence};

use super::event::{ChainError, Tail};

/// What is known of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Known {
    /// Highest epoch seen, by a frame or by word.
    pub(super) fence: Epoch,
    /// Frames up to here are no longer in the journal.
    pub(super) base: Tail,
    /// Last frame that was taken.
    pub(super) tail: Tail,
}

/// What tells one frame from another at the same place: boundaries, epoch and the first bytes of its hash. Eight
/// bytes of BLAKE3 suffice, because only accidents are to be found: a peer that lies can write what it likes anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) first: Sequence,
    pub(super) count: u32,
    pub(super) epoch: Epoch,
    pub(super) mark: u64,
}

impl Held {
    pub(super) fn of(header: &FrameHeader, hash: &[u8; 32]) -> Self {
        let mut mark = [0; 8];
        mark.copy_from_slice(&hash[..8]);
        let mark = u64::from_le_bytes(mark);
        Self { first: header.first_sequence, count: header.count, epoch: header.epoch, mark }
    }
}

/// What to do with a frame that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write it.
    Next,
    /// It is here, or was.
    Already,
}

/// Judges a frame. `held` is the frame here that holds its first sequence, if there is one.
pub(super) fn check(
    known: &Known,
    authority: Epoch,
    header: &FrameHeader,
    frame: &Held,
    held: Option<Held>,
) -> Result<Verdict, ChainError> {
    let group = header.group;
    let lowest = known.fence.max(header.epoch);
    if authority < lowest {
        return Err(ChainError::Fenced { group, known: lowest, got: authority });
    }
    let first = header.first_sequence;
    let diverged = ChainError::Diverged { group, at: first, known: known.tail.epoch, got: header.epoch };
    if first <= known.base.sequence {
        let before = header.last_sequence() <= known.base.sequence && header.epoch <= known.base.epoch;
        return if before { Ok(Verdict::Already) } else { Err(diverged) };
    }
    if first <= known.tail.sequence {
        return if held == Some(*frame) { Ok(Verdict::Already) } else { Err(diverged) };
    }
    let expected = known.tail.sequence.next();
    if first != expected {
        return Err(ChainError::Gap { group, expected, got: first });
    }
    let hash_known = known.tail.hash != [0; 32];
    if header.epoch < known.tail.epoch || (hash_known && header.previous_hash != known.tail.hash) {
        return Err(diverged);
    }
    Ok(Verdict::Next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_types::frame::Codec;
    use understudy_types::id::{ClusterId, GroupId, NodeId};

    fn header(first: u64, count: u32, epoch: u64, previous: u8) -> FrameHeader {
        FrameHeader {
            body_checksum: [0; 16],
            body_len: 40,
            uncompressed_len: 40,
            count,
            codec: Codec::Raw,
            cluster: ClusterId(1),
            group: GroupId(1),
            origin: NodeId::new(1).unwrap(),
            epoch: Epoch(epoch),
            first_sequence: Sequence(first),
            previous_hash: [previous; 32],
            ring_generation: 0,
            ring_index_first: 0,
            ring_index_last: 0,
            captured_first_wall_ns: 0,
            captured_last_wall_ns: 0,
        }
    }

    /// Base at 10 in epoch 2, tail at 20 in epoch 3 with hash 7, fence at 4.
    fn judge(authority: u64, header: &FrameHeader, here: Option<[u8; 32]>) -> Result<Verdict, ChainError> {
        let tail = Tail { sequence: Sequence(20), epoch: Epoch(3), hash: [7; 32] };
        let base = Tail { sequence: Sequence(10), epoch: Epoch(2), hash: [0; 32] };
        let known = Known { fence: Epoch(4), base, tail };
        let held = here.map(|hash| Held::of(header, &hash));
        check(&known, Epoch(authority), header, &Held::of(header, &[1; 32]), held)
    }

    #[test]
    fn every_row_of_the_table() {
        let group = GroupId(1);
        let fenced = |known, got| Err(ChainError::Fenced { group, known: Epoch(known), got: Epoch(got) });
        let diverged =
            |at, got| Err(ChainError::Diverged { group, at: Sequence(at), known: Epoch(3), got: Epoch(got) });
        assert_eq!(judge(3, &header(21, 1, 3, 7), None), fenced(4, 3));
        assert_eq!(judge(4, &header(21, 1, 5, 7), None), fenced(5, 4));
        assert_eq!(judge(4, &header(9, 2, 2, 0), None), Ok(Verdict::Already));
        assert_eq!(judge(4, &header(9, 2, 3, 0), None), diverged(9, 3));
        assert_eq!(judge(4, &header(9, 3, 2, 0), None), diverged(9, 2));
        assert_eq!(judge(4, &header(15, 3, 3, 0), Some([1; 32])), Ok(Verdict::Already));
        assert_eq!(judge(4, &header(15, 3, 3, 0), Some([2; 32])), diverged(15, 3));
        assert_eq!(judge(4, &header(15, 3, 3, 0), None), diverged(15, 3));
        let gap = Err(ChainError::Gap { group, expected: Sequence(21), got: Sequence(22) });
        assert_eq!(judge(4, &header(22, 1, 4, 7), None), gap);
        assert_eq!(judge(4, &header(21, 1, 2, 7), None), diverged(21, 2));
        assert_eq!(judge(4, &header(21, 1, 4, 8), None), diverged(21, 4));
        assert_eq!(judge(4, &header(21, 1, 4, 7), None), Ok(Verdict::Next));
        assert_eq!(judge(9, &header(21, 1, 3, 7), None), Ok(Verdict::Next), "history, shipped by a later active node");
    }

    #[test]
    fn unknown_hash_of_the_tail_takes_any() {
        let known = Known { tail: Tail { sequence: Sequence(5), epoch: Epoch(1), hash: [0; 32] }, ..Known::default() };
        let next = header(6, 1, 1, 9);
        assert_eq!(check(&known, Epoch(1), &next, &Held::of(&next, &[1; 32]), None), Ok(Verdict::Next));
    }
}
