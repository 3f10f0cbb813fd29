//! The beat: what a node says of itself to its peers, once a second, in 128 bytes.
//!
//! Owns: the layout (`docs/formats.md`, "Beat") and its checks. What can hurt: any byte of it comes from the network;
//! length, magic, version, checksum, reserved bytes and ranges are judged in this order before a value is used.
//! Refuses: meaning. A figure that a node does not have is [`UNKNOWN`], never 0.

use crate::id::NodeId;

/// Bytes of a beat, also as its own length field says.
pub const BEAT_BYTES: usize = 128;
/// First bytes: "USBT".
pub const BEAT_MAGIC: [u8; 4] = *b"USBT";
/// Version of the layout.
pub const BEAT_VERSION: u16 = 1;
/// A permille figure or forecast that the node does not have.
pub const UNKNOWN: u16 = u16::MAX;

/// The node knows that it is about to leave, and wants no alarm.
pub const FLAG_PLANNED: u8 = 1 << 0;
/// Some figures are missing, because a permission or a kernel feature is.
pub const FLAG_BLIND: u8 = 1 << 1;
/// The pressure figures are of the whole node: the store has no control group of its own.
pub const FLAG_NODE_PRESSURE: u8 = 1 << 2;
/// The sender could not get its memory locked or its priority raised.
pub const FLAG_UNPROTECTED: u8 = 1 << 3;
/// Flags that this version knows; any other bit is refused.
pub const FLAGS_KNOWN: u8 = FLAG_PLANNED | FLAG_BLIND | FLAG_NODE_PRESSURE | FLAG_UNPROTECTED;

/// State of the node, as it sees itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum NodeState {
    /// Not known yet.
    #[default]
    Unknown = 0,
    /// Starting: recovery is not finished.
    Starting = 1,
    /// Agent and store serve.
    Serving = 2,
    /// The agent works, the store does not.
    StoreDown = 3,
    /// Leaving by an administrator's word.
    Leaving = 4,
}

impl NodeState {
    /// The state of this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Unknown,
            1 => Self::Starting,
            2 => Self::Serving,
            3 => Self::StoreDown,
            4 => Self::Leaving,
            _ => return None,
        })
    }
}

/// Pressure in one second: share of the time in which some, or all, tasks waited. Permille, or [`UNKNOWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PressurePermille {
    /// Some task waited.
    pub some: u16,
    /// Every task that was not idle waited.
    pub full: u16,
}

impl Default for PressurePermille {
    fn default() -> Self {
        Self { some: UNKNOWN, full: UNKNOWN }
    }
}

/// What a node says of itself. Figures of the last second unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Hash of the host's boot id: another value means that the host was started anew.
    pub boot: u64,
    /// Who says it.
    pub node: NodeId,
    /// State as the node sees it.
    pub state: NodeState,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// Rises at every start of the agent.
    pub incarnation: u32,
    /// Rises by one with every beat of an incarnation.
    pub sequence: u64,
    /// The sender's monotonic clock when it sent.
    pub mono_ns: u64,
    /// Probability, in permille, that the store fails its users within 30 s if nothing is done.
    pub p30: u16,
    /// The same within 120 s.
    pub p120: u16,
    /// The same within 600 s.
    pub p600: u16,
    /// Age of the oldest call of the store that does work; `u64::MAX` when it cannot be seen.
    pub in_flight_age_ns: u64,
    /// 99th percentile of the store's fsync times; `u64::MAX` when it cannot be seen, 0 when there was none.
    pub fsync_p99_ns: u64,
    /// 99th percentile of the store's waits for a processor; `u64::MAX` when it cannot be seen.
    pub run_queue_p99_ns: u64,
    /// Processor pressure.
    pub cpu: PressurePermille,
    /// Input/output pressure.
    pub io: PressurePermille,
    /// Memory pressure.
    pub memory: PressurePermille,
    /// Age of the figures when the beat was sent.
    pub figures_age_ms: u32,
    /// Events lost since the agent started.
    pub lost_events: u64,
    /// How late the sender was with this beat.
    pub lateness_ns: u64,
    /// How many kinds of things the node cannot see.
    pub blind_spots: u16,
}

impl Beat {
    /// A beat in which nothing is known but who speaks.
    #[must_use]
    pub fn unknown(node: NodeId, boot: u64, incarnation: u32) -> Self {
        Self {
            boot,
            node,
            state: NodeState::Unknown,
            flags: FLAG_BLIND,
            incarnation,
            sequence: 0,
            mono_ns: 0,
            p30: UNKNOWN,
            p120: UNKNOWN,
            p600: UNKNOWN,
            in_flight_age_ns: u64::MAX,
            fsync_p99_ns: u64::MAX,
            run_queue_p99_ns: u64::MAX,
            cpu: PressurePermille::default(),
            io: PressurePermille::default(),
            memory: PressurePermille::default(),
            figures_age_ms: u32::MAX,
            lost_events: 0,
            lateness_ns: 0,
            blind_spots: 0,
        }
    }

    /// The bytes of the beat.
    #[must_use]
    pub fn encode(&self) -> [u8; BEAT_BYTES] {
        let mut out = [0; BEAT_BYTES];
        put(&mut out, 0, &BEAT_MAGIC);
        put(&mut out, 4, &BEAT_VERSION.to_le_bytes());
        put(&mut out, 6, &(BEAT_BYTES as u16).to_le_bytes());
        put(&mut out, 8, &self.boot.to_le_bytes());
        put(&mut out, 16, &self.node.get().to_le_bytes());
        out[18] = self.state as u8;
        out[19] = self.flags;
        put(&mut out, 20, &self.incarnation.to_le_bytes());
        put(&mut out, 24, &self.sequence.to_le_bytes());
        put(&mut out, 32, &self.mono_ns.to_le_bytes());
        put(&mut out, 40, &self.in_flight_age_ns.to_le_bytes());
        put(&mut out, 48, &self.fsync_p99_ns.to_le_bytes());
        put(&mut out, 56, &self.run_queue_p99_ns.to_le_bytes());
        put(&mut out, 64, &self.lost_events.to_le_bytes());
        put(&mut out, 72, &self.lateness_ns.to_le_bytes());
        put(&mut out, 80, &self.figures_age_ms.to_le_bytes());
        for (index, figure) in self.permilles().iter().enumerate() {
            put(&mut out, 84 + 2 * index, &figure.to_le_bytes());
        }
        put(&mut out, 102, &self.blind_spots.to_le_bytes());
        let checksum = crc32c::crc32c(&out[..CHECKSUM_AT]);
        put(&mut out, CHECKSUM_AT, &checksum.to_le_bytes());
        out
    }

    fn permilles(&self) -> [u16; 9] {
        let (cpu, io, memory) = (self.cpu, self.io, self.memory);
        [self.p30, self.p120, self.p600, cpu.some, cpu.full, io.some, io.full, memory.some, memory.full]
    }

    /// Judges bytes and takes the values out.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn decode(bytes: &[u8]) -> Result<Self, BeatError> {
        let bytes: &[u8; BEAT_BYTES] = bytes.try_into().map_err(|_| BeatError::Length { bytes: bytes.len() })?;
        if bytes[..4] != BEAT_MAGIC {
            return Err(BeatError::Magic);
        }
        let version = u16::from_le_bytes(take(bytes, 4));
        if version != BEAT_VERSION {
            return Err(BeatError::Version { version });
        }
        let stated = u16::from_le_bytes(take(bytes, 6));
        if usize::from(stated) != BEAT_BYTES {
            return Err(BeatError::Length { bytes: stated.into() });
        }
        if u32::from_le_bytes(take(bytes, CHECKSUM_AT)) != crc32c::crc32c(&bytes[..CHECKSUM_AT]) {
            return Err(BeatError::Checksum);
        }
        if let Some(at) = (RESERVED_AT..CHECKSUM_AT).find(|at| bytes[*at] != 0) {
            return Err(BeatError::Reserved { at });
        }
        let number = u16::from_le_bytes(take(bytes, 16));
        let mut permilles = [0u16; 9];
        for (index, figure) in permilles.iter_mut().enumerate() {
            *figure = u16::from_le_bytes(take(bytes, 84 + 2 * index));
            if *figure > 1000 && *figure != UNKNOWN {
                return Err(BeatError::Permille { at: 84 + 2 * index, value: *figure });
            }
        }
        let [p30, p120, p600, cpu_some, cpu_full, io_some, io_full, memory_some, memory_full] = permilles;
        let flags = bytes[19];
        if flags & !FLAGS_KNOWN != 0 {
            return Err(BeatError::Flags { flags });
        }
        Ok(Self {
            boot: u64::from_le_bytes(take(bytes, 8)),
            node: NodeId::new(number).ok_or(BeatError::Node { number })?,
            state: NodeState::from_number(bytes[18]).ok_or(BeatError::State { number: bytes[18] })?,
            flags,
            incarnation: u32::from_le_bytes(take(bytes, 20)),
            sequence: u64::from_le_bytes(take(bytes, 24)),
            mono_ns: u64::from_le_bytes(take(bytes, 32)),
            in_flight_age_ns: u64::from_le_bytes(take(bytes, 40)),
            fsync_p99_ns: u64::from_le_bytes(take(bytes, 48)),
            run_queue_p99_ns: u64::from_le_bytes(take(bytes, 56)),
            lost_events: u64::from_le_bytes(take(bytes, 64)),
            lateness_ns: u64::from_le_bytes(take(bytes, 72)),
            figures_age_ms: u32::from_le_bytes(take(bytes, 80)),
            p30,
            p120,
            p600,
            cpu: PressurePermille { some: cpu_some, full: cpu_full },
            io: PressurePermille { some: io_some, full: io_full },
            memory: PressurePermille { some: memory_some, full: memory_full },
            blind_spots: u16::from_le_bytes(take(bytes, 102)),
        })
    }
}

const RESERVED_AT: usize = 104;
const CHECKSUM_AT: usize = 124;

/// Which rule the bytes of a beat break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeatError {
    /// Not the length of a beat.
    #[error("a beat has {BEAT_BYTES} bytes, not {bytes}")]
    Length {
        /// As received, or as stated inside.
        bytes: usize,
    },
    /// Not a beat.
    #[error("not a beat: wrong magic at byte 0")]
    Magic,
    /// A layout of another time.
    #[error("beat version {version} at byte 4, this agent speaks {BEAT_VERSION}")]
    Version {
        /// As received.
        version: u16,
    },
    /// Damaged on its way.
    #[error("beat is damaged: the checksum at byte 124 does not match")]
    Checksum,
    /// Bytes that must be 0.
    #[error("reserved byte {at} of a beat is not 0")]
    Reserved {
        /// Its place.
        at: usize,
    },
    /// No such node.
    #[error("beat from node {number} at byte 16, which no node can have")]
    Node {
        /// As received.
        number: u16,
    },
    /// No such state.
    #[error("unknown state {number} at byte 18 of a beat")]
    State {
        /// As received.
        number: u8,
    },
    /// A flag that this version does not know.
    #[error("unknown flags {flags:#04x} at byte 19 of a beat")]
    Flags {
        /// As received.
        flags: u8,
    },
    /// More than 1000 permille.
    #[error("{value} permille at byte {at} of a beat")]
    Permille {
        /// Its place.
        at: usize,
        /// As received.
        value: u16,
    },
}

fn put(out: &mut [u8; BEAT_BYTES], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn take<const N: usize>(bytes: &[u8; BEAT_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Beat {
        let mut beat = Beat::unknown(NodeId::new(3).expect("in range"), 0x0102_0304_0506_0708, 9);
        beat.state = NodeState::Serving;
        beat.flags = FLAG_BLIND | FLAG_PLANNED;
        beat.sequence = 77;
        beat.mono_ns = 123_456_789;
        beat.cpu = PressurePermille { some: 250, full: 0 };
        beat.fsync_p99_ns = 4_000_000;
        beat.lost_events = 5;
        beat.blind_spots = 2;
        beat
    }

    fn resealed(mut bytes: [u8; BEAT_BYTES]) -> [u8; BEAT_BYTES] {
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        put(&mut bytes, CHECKSUM_AT, &checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn the_bytes_of_version_1_do_not_change() {
        let golden = "5553425401008000080706050403020103000203090000004d0000000000000015cd5b0700000000\
                      ffffffffffffffff00093d0000000000ffffffffffffffff05000000000000000000000000000000\
                      fffffffffffffffffffffa000000ffffffffffffffff020000000000000000000000000000000000\
                      00000000";
        let bytes = sample().encode();
        let mut hex = alloc::string::String::new();
        for byte in &bytes[..CHECKSUM_AT] {
            hex.push_str(&alloc::format!("{byte:02x}"));
        }
        assert_eq!(hex, golden);
        assert_eq!(Beat::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn every_one_bit_damage_is_refused() {
        let good = sample().encode();
        for bit in 0..BEAT_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Beat::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_rule_has_its_own_refusal() {
        let with = |at: usize, bytes: &[u8]| {
            let mut out = sample().encode();
            put(&mut out, at, bytes);
            Beat::decode(&resealed(out)).expect_err("refused")
        };
        assert_eq!(with(0, b"X"), BeatError::Magic);
        assert_eq!(with(4, &[2, 0]), BeatError::Version { version: 2 });
        assert_eq!(with(6, &[64, 0]), BeatError::Length { bytes: 64 });
        assert_eq!(with(16, &[0, 0]), BeatError::Node { number: 0 });
        assert_eq!(with(18, &[9]), BeatError::State { number: 9 });
        assert_eq!(with(19, &[0x80]), BeatError::Flags { flags: 0x80 });
        assert_eq!(with(84, &1001u16.to_le_bytes()), BeatError::Permille { at: 84, value: 1001 });
        assert_eq!(with(110, &[1]), BeatError::Reserved { at: 110 });
        assert_eq!(Beat::decode(&[0; 3]), Err(BeatError::Length { bytes: 3 }));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Beat::decode(&bytes);
        }

        #[test]
        fn what_is_accepted_is_said_again_in_the_same_bytes(body in proptest::collection::vec(any::<u8>(), 96)) {
            let mut bytes = sample().encode();
            bytes[8..104].copy_from_slice(&body);
            let bytes = resealed(bytes);
            if let Ok(beat) = Beat::decode(&bytes) {
                prop_assert_eq!(beat.encode(), bytes);
            }
        }
    }
}
