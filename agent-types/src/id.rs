//! Newtypes for ids and positions, each with its range in the constructor.
//!
//! Owns: identity only. What can hurt: mixing a node with a group, or a sequence with an epoch; the types
//! refuse that at compile time.

use core::fmt;

/// A node of the mesh: 1 to [`NodeId::MAX`]. 0 is never a node, so that zeroed bytes name nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "u16", into = "u16"))]
pub struct NodeId(u16);

impl TryFrom<u16> for NodeId {
    type Error = &'static str;

    fn try_from(raw: u16) -> Result<Self, Self::Error> {
        Self::new(raw).ok_or("a node is a number from 1 to 4095")
    }
}

impl From<NodeId> for u16 {
    fn from(node: NodeId) -> Self {
        node.0
    }
}

impl NodeId {
    /// The largest node id.
    pub const MAX: u16 = 4095;

    /// `None` for 0 and for anything above [`NodeId::MAX`].
    #[must_use]
    pub const fn new(raw: u16) -> Option<Self> {
        if raw == 0 || raw > Self::MAX { None } else { Some(Self(raw)) }
    }

    /// The number as it stands in layouts.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A cluster: agents of different clusters refuse each other, so that staging cannot talk to production.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

/// A group of accounts: the unit of placement, order, batching, epoch and failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GroupId(pub u32);

/// Fencing number of a group: rises at every change of the active node. 0 is before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Epoch(pub u64);

/// Position of an operation in its group's stream. The first operation is 1; 0 means "none yet".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Sequence(pub u64);

impl Sequence {
    /// The position that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Identity of a mailbox, as the store assigned it: 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MailboxGuid(pub [u8; 16]);

/// A message body in central storage: the BLAKE3 hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub [u8; 32]);

impl BlobId {
    /// Reads 64 hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut raw = [0u8; 32];
        for (byte, pair) in raw.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self(raw))
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for MailboxGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for MailboxGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

display_number!(NodeId, ClusterId, GroupId, Epoch, Sequence);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn node_zero_and_too_large_are_refused() {
        assert!(NodeId::new(0).is_none());
        assert!(NodeId::new(NodeId::MAX + 1).is_none());
        assert_eq!(NodeId::new(7).map(NodeId::get), Some(7));
    }

    #[test]
    fn blob_id_round_trips_through_hex() {
        let id = BlobId([0xa5; 32]);
        assert_eq!(BlobId::from_hex(&id.to_string()), Some(id));
        assert_eq!(BlobId::from_hex("a5"), None);
        assert_eq!(BlobId::from_hex(&"zz".repeat(32)), None);
    }
}
