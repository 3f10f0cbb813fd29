//! The byte layout of the shared-memory ring: file header, cursors, descriptors, records, policies, answers.
//!
//! Owns: every offset, bit and limit that producer and consumer share; they are drawn in `docs/formats.md`.
//! What can hurt: both sides map the same file writable, so every word read here may have been written by a
//! broken or hostile process. Decoders take words or bytes that were already copied out, check each field
//! against its limit and answer with a value or with an error that names the broken rule.
//! Refuses: atomics, pointers and waiting, which belong to the `understudy-ring` crate.

use thiserror::Error;

mod cursor;
mod policy;

pub use cursor::{Cursor, Descriptor, Owner, State};
pub use policy::{AckLevel, OnFull, OnTimeout, Policy, Role, Status};

/// First word of a ring file.
pub const RING_MAGIC: u64 = u64::from_le_bytes(*b"USTDRING");
/// Version of the whole layout. A producer refuses any other.
pub const RING_VERSION: u32 = 1;
/// First four bytes of every record.
pub const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"URec");
/// Version of the record header.
pub const RECORD_VERSION: u8 = 1;

/// Bytes of a record's header; account and payload follow, each padded with zeros to 8 bytes.
pub const RECORD_HEADER_BYTES: usize = 64;
/// Words of a record's header.
pub const RECORD_HEADER_WORDS: usize = RECORD_HEADER_BYTES / 8;
/// Bytes of the largest record, header and padding included. A longer one is refused by the producer.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Bytes of the longest account name. A longer one is refused by the producer.
pub const ACCOUNT_BYTES_MAX: usize = 1024;
/// Bytes of the largest answer in a completion slot. A longer one is refused by the consumer.
pub const ANSWER_BYTES_MAX: usize = 32;
/// Buckets of the gap bitmap; accounts are hashed into them.
pub const GAP_BUCKETS: usize = 65_536;

/// Bits of a record index that are kept in shared words; the consumer derives the other 24.
///
/// 40 bits and not 32: a producer that sleeps between its load and its compare-and-swap must not find the same
/// index again when it wakes. At a million records a second 2^32 come round in 71 minutes, 2^40 in 12 days.
pub const INDEX_BITS: u32 = 40;
/// Mask of a 40-bit index.
pub const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// Bits of a position, in units of 8 bytes.
pub const POSITION_BITS: u32 = 24;
/// Mask of a 24-bit position.
pub const POSITION_MASK: u32 = (1 << POSITION_BITS) - 1;
/// Smallest data area, in bytes.
pub const DATA_BYTES_MIN: u32 = 4 * 1024;
/// Largest data area, in bytes: half of what a position can name, so that full and empty differ.
pub const DATA_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Most producer slots, and so most producer processes at one time (13 bits in a descriptor).
pub const PRODUCERS_MAX: u32 = 8192;
/// Most descriptors.
pub const DESCRIPTORS_MAX: u32 = 1 << 20;

const _: () = assert!((DATA_BYTES_MAX / 8) * 2 == 1 << POSITION_BITS, "a position names twice the data area");
const _: () = assert!(RECORD_BYTES_MAX / 8 <= 0xFFFF, "the length of a record fits a descriptor");

/// Why bytes of the ring were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// The file is not a ring.
    #[error("`magic` is {0:#018x}, not a ring")]
    Magic(u64),
    /// The ring was made by another version.
    #[error("`version` of the ring is {0}, this program knows 1; restart the older of agent and store")]
    Version(u32),
    /// The header's checksum is wrong.
    #[error("`checksum` of the ring header does not match")]
    HeaderChecksum,
    /// A size of the header is out of its range or no power of two.
    #[error("`{0}` of the ring header is out of range")]
    Geometry(&'static str),
    /// A field that must be zero is not.
    #[error("`reserved` bytes are not zero")]
    Reserved,
    /// No record starts here.
    #[error("`magic` of the record is {0:#010x}")]
    RecordMagic(u32),
    /// The record's header is of another version.
    #[error("`version` of the record is {0}")]
    RecordVersion(u8),
    /// The kind is unknown.
    #[error("`kind` of the record is {0}")]
    RecordKind(u8),
    /// The record belongs to another index.
    #[error("`index` of the record is {found}, expected {expected}")]
    RecordIndex {
        /// What the header says.
        found: u64,
        /// What the place says.
        expected: u64,
    },
    /// A length is past its limit.
    #[error("`{field}` of the record is {found}, at most {max}")]
    RecordLength {
        /// The name of the field.
        field: &'static str,
        /// What the header says, in bytes.
        found: u32,
        /// The limit, in bytes.
        max: u32,
    },
    /// The record's checksum is wrong.
    #[error("`checksum` of the record does not match")]
    RecordChecksum,
    /// A policy answer holds a value out of its range.
    #[error("`{0}` of the policy is out of range")]
    Policy(&'static str),
}

/// The sizes that a ring file was made with. All are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the data area.
    pub data_bytes: u32,
    /// Number of descriptors: records in the ring at one time.
    pub descriptors: u32,
    /// Number of completion slots.
    pub completions: u32,
    /// Number of producer slots: processes at one time.
    pub producers: u32,
    /// Number of entries in the table of open intents.
    pub intents: u32,
}

impl Default for Geometry {
    /// 16 MiB of data: a store process may have an address space of only 256 MiB.
    fn default() -> Self {
        Self { data_bytes: 16 << 20, descriptors: 1 << 16, completions: 4096, producers: 8192, intents: 8192 }
    }
}

/// Words of the file header.
pub const HEADER_WORDS: usize = 16;

/// Offsets of single words, in words of 8 bytes from the start of the file. Each group has a cache line of its own.
pub mod word {
    /// Flags ([`super::FLAG_FENCED`], [`super::FLAG_RETIRED`]); read by every publication.
    pub const FLAGS: usize = 16;
    /// Policy generation, rises when the rules change.
    pub const POLICY_GENERATION: usize = 17;
    /// The policy for accounts whose question is not answered in time: four words.
    pub const DEFAULT_POLICY: usize = 18;
    /// CLOCK_BOOTTIME nanoseconds from which on this node may not change mail; 0 = it may without limit. On the line
    /// of the flags, which every publication reads.
    pub const WRITE_UNTIL: usize = 22;
    /// 1 while a consumer is attached.
    pub const CONSUMER_ATTACHED: usize = 32;
    /// CLOCK_MONOTONIC nanoseconds of the consumer's last sign of life.
    pub const CONSUMER_BEAT: usize = 33;
    /// Process id of the consumer, for people.
    pub const CONSUMER_PID: usize = 34;
    /// Futex (low half): 1 while the consumer sleeps.
    pub const CONSUMER_SLEEPS: usize = 40;
    /// The head cursor.
    pub const HEAD: usize = 48;
    /// The released tail cursor.
    pub const RELEASE: usize = 64;
    /// The cursor that a release in progress goes to.
    pub const RELEASING: usize = 65;
    /// The absolute 64-bit index of the released tail.
    pub const RELEASE_ABSOLUTE: usize = 66;
    /// Futex (low half): counts releases that somebody waited for.
    pub const SPACE_FUTEX: usize = 72;
    /// 1 when a producer waits for space.
    pub const SPACE_WANTED: usize = 73;
    /// Records that producers dropped and marked as gaps, ever.
    pub const DROPPED_TOTAL: usize = 80;
    /// 1 when the bitmap of fresh gaps may hold a bit.
    pub const GAPS_FRESH: usize = 81;
    /// Where the next producer starts to look for a slot.
    pub const PRODUCER_HINT: usize = 82;
    /// First word after the single words.
    pub const END: usize = 512;
}

/// Bit of [`word::FLAGS`]: this node may not write; publication of operations is refused.
pub const FLAG_FENCED: u64 = 1;
/// Value of [`word::WRITE_UNTIL`] that is past on every host: a lease is needed, and none is held.
pub const WRITE_UNTIL_EXPIRED: u64 = 1;
/// Bit of [`word::FLAGS`]: this file was replaced; producers open the path again.
pub const FLAG_RETIRED: u64 = 2;

/// Where each table of a ring with a given geometry starts, in words of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The geometry that this layout belongs to.
    pub geometry: Geometry,
    /// Bitmap of gaps that the consumer has not taken.
    pub gaps_fresh: usize,
    /// Bitmap of gaps that the consumer took and has not finished.
    pub gaps_pending: usize,
    /// Producer table, one word each: incarnation (low half), process id (high half).
    pub producers: usize,
    /// Table of open intents, four words each.
    pub intents: usize,
    /// Completion slots, eight words each.
    pub completions: usize,
    /// Descriptors, one word each.
    pub descriptors: usize,
    /// Data area; starts on a multiple of 4096 bytes.
    pub data: usize,
    /// Words of the whole file.
    pub total: usize,
}

/// Words of an entry of the intent table.
pub const INTENT_WORDS: usize = 4;
/// Words of a completion slot.
pub const COMPLETION_WORDS: usize = 8;

impl Geometry {
    /// Checks every size against its range.
    ///
    /// # Errors
    /// [`RingError::Geometry`] with the name of the first size that is out of range or no power of two.
    pub fn layout(self) -> Result<Layout, RingError> {
        let check = |name, value: u32, min: u32, max: u32| {
            if value.is_power_of_two() && (min..=max).contains(&value) {
                Ok(value as usize)
            } else {
                Err(RingError::Geometry(name))
            }
        };
        let data_words = check("data_bytes", self.data_bytes, DATA_BYTES_MIN, DATA_BYTES_MAX)? / 8;
        let descriptors = check("descriptors", self.descriptors, 4, DESCRIPTORS_MAX)?;
        let completions = check("completions", self.completions, 1, 65_536)?;
        let producers = check("producers", self.producers, 1, PRODUCERS_MAX)?;
        let intents = check("intents", self.intents, 1, 65_536)?;
        let gaps_fresh = word::END;
        let gaps_pending = gaps_fresh + GAP_BUCKETS / 64;
        let producers_at = gaps_pending + GAP_BUCKETS / 64;
        let intents_at = (producers_at + producers).next_multiple_of(8);
        let completions_at = (intents_at + intents * INTENT_WORDS).next_multiple_of(8);
        let descriptors_at = completions_at + completions * COMPLETION_WORDS;
        let data = (descriptors_at + descriptors).next_multiple_of(512);
        Ok(Layout {
            geometry: self,
            gaps_fresh,
            gaps_pending,
            producers: producers_at,
            intents: intents_at,
            completions: completions_at,
            descriptors: descriptors_at,
            data,
            total: data + data_words,
        })
    }

    /// Bytes of the largest record in a ring of this geometry: the limit of the format, and at most a quarter of
    /// the data area, so that one record never holds up all others.
    #[must_use]
    pub fn record_bytes_max(self) -> usize {
        RECORD_BYTES_MAX.min(self.data_bytes as usize / 4)
    }
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

#[expect(clippy::cast_possible_truncation, reason = "takes the low half on purpose")]
const fn low(word: u64) -> u32 {
    word as u32
}

const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The fixed header of a ring file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Sizes.
    pub geometry: Geometry,
    /// Random number of this file; part of every record's checksum and of a record's identity.
    pub generation: u64,
    /// Wall time of creation, in nanoseconds since the epoch, for people.
    pub created_wall_ns: u64,
}

#[cfg(feature = "checksum")]
impl FileHeader {
    /// The header as words.
    #[must_use]
    pub fn encode(&self) -> [u64; HEADER_WORDS] {
        let mut words = [0; HEADER_WORDS];
        words[0] = RING_MAGIC;
        words[1] = pair(RING_VERSION, (HEADER_WORDS * 8) as u32);
        words[2] = pair(self.geometry.data_bytes, self.geometry.descriptors);
        words[3] = pair(self.geometry.completions, self.geometry.producers);
        words[4] = pair(self.geometry.intents, GAP_BUCKETS as u32);
        words[5] = self.generation;
        words[6] = self.created_wall_ns;
        words[15] = u64::from(Self::checksum(&words));
        words
    }

    fn checksum(words: &[u64; HEADER_WORDS]) -> u32 {
        words[..15].iter().fold(0, |crc, word| crc32c::crc32c_append(crc, &word.to_le_bytes()))
    }

    /// Checks a header that was copied out.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn decode(words: &[u64; HEADER_WORDS]) -> Result<Self, RingError> {
        if words[0] != RING_MAGIC {
            return Err(RingError::Magic(words[0]));
        }
        if low(words[1]) != RING_VERSION {
            return Err(RingError::Version(low(words[1])));
        }
        if u64::from(Self::checksum(words)) != words[15] {
            return Err(RingError::HeaderChecksum);
        }
        if high(words[1]) as usize != HEADER_WORDS * 8 || high(words[4]) as usize != GAP_BUCKETS {
            return Err(RingError::Geometry("header_bytes"));
        }
        if words[7..15].iter().any(|word| *word != 0) {
            return Err(RingError::Reserved);
        }
        let geometry = Geometry {
            data_bytes: low(words[2]),
            descriptors: high(words[2]),
            completions: low(words[3]),
            producers: high(words[3]),
            intents: low(words[4]),
        };
        geometry.layout()?;
        Ok(Self { geometry, generation: words[5], created_wall_ns: words[6] })
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A committed operation; the payload is opaque to the ring.
    Op = 1,
    /// A change of the account is about to be committed; the payload names what (a mailbox GUID).
    Intent = 2,
    /// The change did not happen, or needs no operation.
    IntentEnd = 3,
    /// The producer asks for the account's policy.
    AccountOpen = 4,
    /// Something of this account was not captured; compare it.
    Gap = 5,
}

impl RecordKind {
    /// The kind with this number.
    ///
    /// # Errors
    /// [`RingError::RecordKind`] when there is none.
    pub const fn from_u8(value: u8) -> Result<Self, RingError> {
        match value {
            1 => Ok(Self::Op),
            2 => Ok(Self::Intent),
            3 => Ok(Self::IntentEnd),
            4 => Ok(Self::AccountOpen),
            5 => Ok(Self::Gap),
            other => Err(RingError::RecordKind(other)),
        }
    }
}

/// Record flag: this record closes the intent it names.
pub const RECORD_CLOSES_INTENT: u16 = 1;

/// Names one use of a completion slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CompletionRef {
    /// Index of the slot.
    pub slot: u32,
    /// Which use of it.
    pub ticket: u32,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record is.
    pub kind: RecordKind,
    /// [`RECORD_CLOSES_INTENT`] and bits that belong to the operation (the upper eight).
    pub flags: u16,
    /// 40-bit index.
    pub index: u64,
    /// Bytes of the account name.
    pub account_bytes: u32,
    /// Bytes of the payload.
    pub payload_bytes: u32,
    /// Intent that the record opens, ends or closes; 0 for none.
    pub intent: u64,
    /// Wall time of capture, in nanoseconds since the epoch.
    pub captured_wall_ns: u64,
    /// Where to answer.
    pub completion: Option<CompletionRef>,
    /// Who published.
    pub owner: Owner,
}

const NO_COMPLETION: u32 = u32::MAX;

impl RecordHeader {
    /// Bytes of a record with these lengths, header and padding included.
    #[must_use]
    pub const fn record_bytes(account_bytes: usize, payload_bytes: usize) -> usize {
        RECORD_HEADER_BYTES + account_bytes.next_multiple_of(8) + payload_bytes.next_multiple_of(8)
    }

    /// Units of 8 bytes of this record.
    #[must_use]
    pub const fn units(&self) -> u32 {
        (Self::record_bytes(self.account_bytes as usize, self.payload_bytes as usize) / 8) as u32
    }

    /// The header as words, checksum still zero.
    #[must_use]
    pub const fn encode(&self) -> [u64; RECORD_HEADER_WORDS] {
        let (slot, ticket) = match self.completion {
            Some(at) => (at.slot, at.ticket),
            None => (NO_COMPLETION, 0),
        };
        [
            RECORD_MAGIC as u64,
            RECORD_VERSION as u64
                | (self.kind as u64) << 8
                | (self.flags as u64) << 16
                | (self.owner.slot as u64) << 32,
            self.index & INDEX_MASK,
            pair(self.account_bytes, self.payload_bytes),
            self.intent,
            self.captured_wall_ns,
            pair(slot, ticket),
            self.owner.incarnation as u64,
        ]
    }

    /// Checks every field of a header that was copied out, all but the checksum.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn decode(words: &[u64; RECORD_HEADER_WORDS], index: u64, record_bytes_max: usize) -> Result<Self, RingError> {
        if low(words[0]) != RECORD_MAGIC {
            return Err(RingError::RecordMagic(low(words[0])));
        }
        let [version, kind, flags_low, flags_high, slot_low, slot_high, zero_a, zero_b] = words[1].to_le_bytes();
        if version != RECORD_VERSION {
            return Err(RingError::RecordVersion(version));
        }
        let kind = RecordKind::from_u8(kind)?;
        let slot = u16::from_le_bytes([slot_low, slot_high]);
        if zero_a != 0 || zero_b != 0 || high(words[7]) != 0 || u32::from(slot) >= PRODUCERS_MAX {
            return Err(RingError::Reserved);
        }
        if words[2] != index & INDEX_MASK {
            return Err(RingError::RecordIndex { found: words[2], expected: index & INDEX_MASK });
        }
        let (account_bytes, payload_bytes) = (low(words[3]), high(words[3]));
        if account_bytes as usize > ACCOUNT_BYTES_MAX {
            return Err(RingError::RecordLength {
                field: "account_bytes",
                found: account_bytes,
                max: ACCOUNT_BYTES_MAX as u32,
            });
        }
        // The account is bounded, so the sum cannot overflow.
        if payload_bytes as usize > record_bytes_max
            || Self::record_bytes(account_bytes as usize, payload_bytes as usize) > record_bytes_max
        {
            #[expect(clippy::cast_possible_truncation, reason = "at most RECORD_BYTES_MAX")]
            let max = record_bytes_max.min(RECORD_BYTES_MAX) as u32;
            return Err(RingError::RecordLength { field: "payload_bytes", found: payload_bytes, max });
        }
        let completion = match (low(words[6]), high(words[6])) {
            (NO_COMPLETION, _) => None,
            (slot, ticket) => Some(CompletionRef { slot, ticket }),
        };
        Ok(Self {
            kind,
            flags: u16::from_le_bytes([flags_low, flags_high]),
            index: words[2],
            account_bytes,
            payload_bytes,
            intent: words[4],
            captured_wall_ns: words[5],
            completion,
            owner: Owner { slot, incarnation: low(words[7]) },
        })
    }
}

/// The checksum with which every record of a ring of `generation` starts.
#[cfg(feature = "checksum")]
#[must_use]
pub fn checksum_seed(generation: u64) -> u32 {
    crc32c::crc32c(&generation.to_le_bytes())
}

/// CRC-32C of a record: seed, header with a zero checksum, account, payload (without padding).
#[cfg(feature = "checksum")]
#[must_use]
pub fn record_checksum(seed: u32, header: &[u64; RECORD_HEADER_WORDS], account: &[u8], payload: &[u8]) -> u32 {
    let mut bytes = [0; RECORD_HEADER_BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(header) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes[4..8].fill(0);
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c_append(seed, &bytes), account), payload)
}

/// The bucket of the gap bitmap that an account falls into: FNV-1a of 32 bits, folded to 16.
///
/// Part of the format: producer and agent must agree, and so must two versions of either.
#[must_use]
pub fn gap_bucket(account: &[u8]) -> u16 {
    let hash = account.iter().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    #[expect(clippy::cast_possible_truncation, reason = "folds to 16 bits on purpose")]
    let folded = (hash ^ hash >> 16) as u16;
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_layout_is_where_the_document_says() {
        let layout = Geometry::default().layout().unwrap();
        assert_eq!(layout.gaps_fresh * 8, 0x1000);
        assert_eq!(layout.gaps_pending * 8, 0x3000);
        assert_eq!(layout.producers * 8, 0x5000);
        assert_eq!(layout.intents * 8, 0x15000);
        assert_eq!(layout.completions * 8, 0x55000);
        assert_eq!(layout.descriptors * 8, 0x95000);
        assert_eq!(layout.data * 8, 0x11_5000);
        assert_eq!(layout.total * 8, 0x111_5000);
    }

    #[test]
    fn the_deadline_is_on_the_line_of_the_flags() {
        // A publication reads no more memory for it.
        assert_eq!(word::WRITE_UNTIL / 8, word::FLAGS / 8);
        assert_eq!(word::DEFAULT_POLICY + Policy::BYTES / 8, word::WRITE_UNTIL);
        assert_eq!(word::WRITE_UNTIL * 8, 0xB0);
    }

    #[test]
    fn descriptor_fields_do_not_touch_each_other() {
        let owner = Owner { slot: 0x1FFF, incarnation: 0x1FF };
        let full = Descriptor::reserved(0, 0xFFFF, owner);
        assert_eq!((full.lap(), full.units(), full.slot(), full.short_incarnation()), (0, 0xFFFF, 0x1FFF, 0x1FF));
        let lap = Descriptor::reserved(u64::MAX, 0, Owner { slot: 0, incarnation: 0 });
        assert_eq!((lap.lap(), lap.units(), lap.slot(), lap.short_incarnation()), (0xFF_FFFF, 0, 0, 0));
        assert_eq!(lap.with_state(State::Abandoned).state(), State::Abandoned);
        assert_eq!(lap.with_state(State::Free), Descriptor::free(u64::MAX));
    }

    #[test]
    fn every_one_bit_damage_of_a_file_header_is_refused() {
        let header = FileHeader { geometry: Geometry::default(), generation: 77, created_wall_ns: 5 };
        let words = header.encode();
        assert_eq!(FileHeader::decode(&words), Ok(header));
        for bit in 0..HEADER_WORDS * 64 {
            let mut damaged = words;
            damaged[bit / 64] ^= 1 << (bit % 64);
            assert!(FileHeader::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_header_comes_back_as_it_was() {
        let header = RecordHeader {
            kind: RecordKind::Op,
            flags: RECORD_CLOSES_INTENT,
            index: INDEX_MASK,
            account_bytes: 5,
            payload_bytes: 9,
            intent: u64::MAX,
            captured_wall_ns: 1,
            completion: Some(CompletionRef { slot: 3, ticket: u32::MAX }),
            owner: Owner { slot: 8191, incarnation: u32::MAX },
        };
        assert_eq!(RecordHeader::decode(&header.encode(), u64::MAX, RECORD_BYTES_MAX), Ok(header));
        assert_eq!(header.units(), 8 + 1 + 2);
        let mut long = header.encode();
        long[3] = pair(0, u32::MAX);
        assert!(matches!(
            RecordHeader::decode(&long, u64::MAX, RECORD_BYTES_MAX),
            Err(RingError::RecordLength { field: "payload_bytes", .. })
        ));
    }

    #[test]
    fn a_policy_comes_back_and_foreign_values_are_refused() {
        let policy =
            Policy { level: AckLevel::Peer, peers: 2, on_full: OnFull::Refuse, generation: 9, ..Policy::default() };
        assert_eq!(Policy::decode(&policy.encode()), Ok(policy));
        for at in [0, 1, 2, 4, 5, 6, 7, 24, 31] {
            let mut bytes = policy.encode();
            bytes[at] = 200;
            assert!(Policy::decode(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_bucket_of_an_account_never_changes() {
        // A golden value: the agent of a later version must find the accounts that this one marked.
        assert_eq!(gap_bucket(b""), 0x811C ^ 0x9DC5);
        // FNV-1a of "foobar" is 0xBF9CF968, from its authors' test vectors.
        assert_eq!(gap_bucket(b"foobar"), 0xBF9C ^ 0xF968);
    }
}
