//! Cursors and descriptors: the words by which producers and consumer agree on what is where.
//!
//! Owns: their bits. What can hurt: any word may have been written by a hostile process; what is read out of one is at
//! most as wide as its field. Refuses: atomics; the `understudy-ring` crate has them.

use super::*;

/// A place in the ring: record index (40 bits) and position in the data area (24 bits, units of 8 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub u64);

impl Cursor {
    /// Packs both; surplus bits are cut off.
    #[must_use]
    pub const fn new(index: u64, position: u32) -> Self {
        Self((index & INDEX_MASK) << POSITION_BITS | (position & POSITION_MASK) as u64)
    }

    /// The 40-bit index.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0 >> POSITION_BITS
    }

    /// The position, in units of 8 bytes.
    #[must_use]
    pub const fn position(self) -> u32 {
        low(self.0) & POSITION_MASK
    }

    /// The place after a record of `units`.
    #[must_use]
    pub const fn after(self, units: u32) -> Self {
        Self::new(self.index().wrapping_add(1), self.position().wrapping_add(units))
    }

    /// Records from `earlier` to here, modulo 2^40.
    #[must_use]
    pub const fn records_since(self, earlier: Self) -> u64 {
        self.index().wrapping_sub(earlier.index()) & INDEX_MASK
    }

    /// Units from `earlier` to here, modulo 2^24.
    #[must_use]
    pub const fn units_since(self, earlier: Self) -> u32 {
        self.position().wrapping_sub(earlier.position()) & POSITION_MASK
    }
}

/// A producer process: its slot and how often that slot had been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Producer slot, below [`PRODUCERS_MAX`].
    pub slot: u16,
    /// Incarnation of the slot.
    pub incarnation: u32,
}

impl Owner {
    /// The nine bits of the incarnation that descriptors and completion slots have room for.
    #[must_use]
    pub const fn short_incarnation(self) -> u32 {
        self.incarnation & 0x1FF
    }
}

/// State of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has it.
    Free = 0,
    /// A producer fills the record.
    Reserved = 1,
    /// The record is whole.
    Committed = 2,
    /// The producer died; the record is skipped.
    Abandoned = 3,
}

/// One descriptor word: state (2 bits), producer slot (13), units (16), short incarnation (9), lap (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Bits of the lap number.
    pub const LAP_MASK: u64 = 0xFF_FFFF;

    /// A free descriptor of `lap`. Lap 0 is the zero word, so a new file needs no initialisation.
    #[must_use]
    pub const fn free(lap: u64) -> Self {
        Self((lap & Self::LAP_MASK) << 40)
    }

    /// A descriptor that `owner` reserved for `units` of 8 bytes.
    #[must_use]
    pub const fn reserved(lap: u64, units: u32, owner: Owner) -> Self {
        Self(
            Self::free(lap).0
                | (owner.short_incarnation() as u64) << 31
                | (units as u64 & 0xFFFF) << 15
                | (owner.slot as u64 & 0x1FFF) << 2
                | State::Reserved as u64,
        )
    }

    /// The same descriptor in another state.
    #[must_use]
    pub const fn with_state(self, state: State) -> Self {
        Self(self.0 & !3 | state as u64)
    }

    /// The state bits.
    #[must_use]
    pub const fn state(self) -> State {
        match self.0 & 3 {
            0 => State::Free,
            1 => State::Reserved,
            2 => State::Committed,
            _ => State::Abandoned,
        }
    }

    /// Producer slot.
    #[must_use]
    pub const fn slot(self) -> u16 {
        (self.0 >> 2 & 0x1FFF) as u16
    }

    /// Length in units of 8 bytes.
    #[must_use]
    pub const fn units(self) -> u32 {
        (self.0 >> 15 & 0xFFFF) as u32
    }

    /// The nine bits of the owner's incarnation.
    #[must_use]
    pub const fn short_incarnation(self) -> u32 {
        (self.0 >> 31 & 0x1FF) as u32
    }

    /// The lap number.
    #[must_use]
    pub const fn lap(self) -> u64 {
        self.0 >> 40
    }
}
