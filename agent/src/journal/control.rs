//! The journal's control file: who it belongs to, and what every group needs that its frames no longer say.
//!
//! Owns: `control` in the journal's directory (`docs/formats.md`, "Journal control file"), replaced whole by
//! `durable::write` when a fence is raised, a stream is rebased or a segment goes. What can hurt: a fence that is
//! forgotten lets a fenced node write again; so a journal whose control file is gone or damaged is not opened.
//! Refuses: frames.

use std::collections::BTreeMap;

use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};

use super::JournalError;
use super::disk::LogDisk;
use super::event::Tail;
use super::index::RingMarks;

const MAGIC: [u8; 8] = *b"USTCNTRL";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 64;
const GROUP_BYTES: usize = 128;
const RING_AT: usize = 72;
/// Groups of one journal. A frame or fence of one more is refused.
pub(super) const GROUPS_MAX: usize = 16_384;

/// What is kept of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupControl {
    pub(super) fence: Epoch,
    pub(super) base: Tail,
    pub(super) from_write: u64,
    pub(super) ring: RingMarks,
}

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) journal: [u8; 16],
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) groups: BTreeMap<GroupId, GroupControl>,
}

/// Why a control file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlInvalid {
    #[error("it is cut short, or longer than it says")]
    Length,
    #[error("it does not begin with its magic")]
    Magic,
    #[error("it has version `{0}`, which this version cannot read; upgrade this node")]
    Version(u16),
    #[error("its checksum does not match")]
    Checksum,
    #[error("its node or its number of groups is out of range")]
    Range,
}

fn take<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&raw[at..at + N]);
    out
}

impl Control {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEAD_BYTES + self.groups.len() * GROUP_BYTES];
        let put = |out: &mut [u8], at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(&mut out, 0, &MAGIC);
        put(&mut out, 8, &VERSION.to_le_bytes());
        put(&mut out, 16, &self.journal);
        put(&mut out, 32, &self.cluster.0.to_le_bytes());
        put(&mut out, 40, &self.node.get().to_le_bytes());
        put(&mut out, 44, &u32::try_from(self.groups.len()).unwrap_or(u32::MAX).to_le_bytes());
        for ((id, group), raw) in self.groups.iter().zip(out[HEAD_BYTES..].chunks_exact_mut(GROUP_BYTES)) {
            put(raw, 0, &id.0.to_le_bytes());
            put(raw, 8, &group.fence.0.to_le_bytes());
            put(raw, 16, &group.base.sequence.0.to_le_bytes());
            put(raw, 24, &group.base.epoch.0.to_le_bytes());
            put(raw, 32, &group.base.hash);
            put(raw, 64, &group.from_write.to_le_bytes());
            for (slot, (generation, index)) in group.ring.as_slice().iter().enumerate() {
                put(raw, RING_AT + slot * 16, &generation.to_le_bytes());
                put(raw, RING_AT + slot * 16 + 8, &index.to_le_bytes());
            }
        }
        let checksum = crc32c::crc32c(&out);
        put(&mut out, 12, &checksum.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ControlInvalid> {
        if bytes.len() < HEAD_BYTES {
            return Err(ControlInvalid::Length);
        }
        if bytes[..8] != MAGIC {
            return Err(ControlInvalid::Magic);
        }
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &[0; 4]);
        if crc32c::crc32c_append(checksum, &bytes[16..]) != u32::from_le_bytes(take(bytes, 12)) {
            return Err(ControlInvalid::Checksum);
        }
        let version = u16::from_le_bytes(take(bytes, 8));
        if version != VERSION {
            return Err(ControlInvalid::Version(version));
        }
        let count = u32::from_le_bytes(take(bytes, 44)) as usize;
        let node = NodeId::new(u16::from_le_bytes(take(bytes, 40))).ok_or(ControlInvalid::Range)?;
        if count > GROUPS_MAX {
            return Err(ControlInvalid::Range);
        }
        if bytes.len() != HEAD_BYTES + count * GROUP_BYTES {
            return Err(ControlInvalid::Length);
        }
        let groups = bytes[HEAD_BYTES..].chunks_exact(GROUP_BYTES).map(|raw| {
            let number = |at| u64::from_le_bytes(take(raw, at));
            let mut ring = RingMarks::default();
            for at in (RING_AT..RING_AT + 48).step_by(16) {
                ring.note(number(at), number(at + 8));
            }
            let base = Tail { sequence: Sequence(number(16)), epoch: Epoch(number(24)), hash: take(raw, 32) };
            let group = GroupControl { fence: Epoch(number(8)), base, from_write: number(64), ring };
            (GroupId(u32::from_le_bytes(take(raw, 0))), group)
        });
        let cluster = ClusterId(u64::from_le_bytes(take(bytes, 32)));
        Ok(Self { journal: take(bytes, 16), cluster, node, groups: groups.collect() })
    }

    /// Reads the control file; `None` if there is none.
    pub(super) fn load(disk: &dyn LogDisk) -> Result<Option<Self>, JournalError> {
        let path = disk.control_path();
        let bytes = match disk.load_control() {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) => return Err(JournalError::Directory { path, error }),
        };
        Self::decode(&bytes).map(Some).map_err(|error| JournalError::Control { path, error })
    }

    /// Replaces the control file.
    pub(super) fn save(&self, disk: &mut dyn LogDisk) -> std::io::Result<()> {
        disk.save_control(&self.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_every_damaged_bit_is_noticed() {
        let mut ring = RingMarks::default();
        ring.note(9, 100);
        ring.note(2, 7);
        let base = Tail { sequence: Sequence(5), epoch: Epoch(2), hash: [4; 32] };
        let group = GroupControl { fence: Epoch(3), base, from_write: 8, ring };
        let groups = [(GroupId(1), group), (GroupId(0), GroupControl::default())].into();
        let control = Control { journal: [1; 16], cluster: ClusterId(2), node: NodeId::new(3).unwrap(), groups };
        let bytes = control.encode();
        assert_eq!(Control::decode(&bytes), Ok(control));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Control::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Control::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }
}
