//! The beat: what this node tells its peers once a second, when it is told, and what it heard of theirs.
//!
//! Owns: making a beat from a [`Signal`] (pure), the sender thread (`sender`), the protection it asks of the kernel
//! (`protect`), and the table of what peers said (`table`). What can hurt: a starved agent; the sender is a thread of
//! its own without allocation and says how late it is. Refuses: a connection of its own; `transport` carries the bytes.

pub mod protect;
pub mod sender;
pub mod table;

use understudy_types::beat::{
    Beat, FLAG_BLIND, FLAG_NODE_PRESSURE, FLAG_PLANNED, NodeState, PressurePermille, UNKNOWN,
};
use understudy_types::id::NodeId;
use understudy_types::probe::Row;

use crate::pressure::Waited;
use crate::signal::Signal;

pub use self::protect::{Protection, protect_this_thread};
pub use self::sender::{BeatSender, BeatSlot};
pub use self::table::{BeatTable, Heard};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// This node.
    pub node: NodeId,
    /// Hash of the host's boot id, see [`boot_hash`].
    pub boot: u64,
    /// Rises at every start of the agent.
    pub incarnation: u32,
}

/// The first 8 bytes of the BLAKE3 of a boot id, little-endian.
#[must_use]
pub fn boot_hash(boot_id: &str) -> u64 {
    let hash = blake3::hash(boot_id.trim().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// This host's boot id, hashed; 0 when the kernel does not tell.
#[must_use]
pub fn this_boot() -> u64 {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or(0, |text| boot_hash(&text))
}

/// The beat of one second. Sequence, clock, lateness and age of the figures are the sender's to fill in.
#[must_use]
pub fn compose(speaker: Speaker, state: NodeState, is_planned: bool, signal: &Signal) -> Beat {
    let p99 = |row: Row| signal.row(row).map_or(u64::MAX, |sample| sample.times.p99_ns);
    let pressure = signal.pressure();
    let waited = |waited: Option<Waited>| {
        waited.map_or_else(PressurePermille::default, |waited| PressurePermille {
            some: waited.some_permille.min(1000),
            full: waited.full_permille.map_or(UNKNOWN, |permille| permille.min(1000)),
        })
    };
    let mut flags = 0;
    flags |= if is_planned { FLAG_PLANNED } else { 0 };
    flags |= if signal.blind.is_empty() { 0 } else { FLAG_BLIND };
    flags |= if pressure.is_some_and(|(_, is_nodes)| is_nodes) { FLAG_NODE_PRESSURE } else { 0 };
    Beat {
        state,
        flags,
        in_flight_age_ns: signal.in_flight_age_ns().unwrap_or(u64::MAX),
        fsync_p99_ns: p99(Row::Fsync),
        run_queue_p99_ns: p99(Row::RunQueue),
        cpu: waited(pressure.map(|(pressure, _)| pressure.cpu)),
        io: waited(pressure.map(|(pressure, _)| pressure.io)),
        memory: waited(pressure.map(|(pressure, _)| pressure.memory)),
        lost_events: signal.probe.lost.total(),
        blind_spots: u16::try_from(signal.blind.len()).unwrap_or(u16::MAX),
        ..Beat::unknown(speaker.node, speaker.boot, speaker.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MonoNs;
    use crate::pressure::{Pressure, PressureNotSupported, PressureSample, PressureState};
    use crate::probe::{InFlight, ProbeSample, Source};
    use crate::signal::RecordFigures;

    fn speaker() -> Speaker {
        Speaker { node: NodeId::new(2).expect("in range"), boot: 7, incarnation: 4 }
    }

    #[test]
    fn what_is_not_seen_is_unknown_in_the_beat_too() {
        let none = PressureState::NotSupported(PressureNotSupported::Group { reason: "none".to_owned() });
        let pressure = PressureSample { node: none.clone(), store: none, space: None };
        let signal = Signal::merge(ProbeSample::default(), pressure, RecordFigures::default(), MonoNs(1));
        let beat = compose(speaker(), NodeState::Serving, false, &signal);
        assert_eq!(
            (beat.in_flight_age_ns, beat.fsync_p99_ns, beat.cpu.some, beat.p30),
            (u64::MAX, u64::MAX, UNKNOWN, UNKNOWN)
        );
        assert_eq!((beat.flags, beat.blind_spots), (FLAG_BLIND, 3));
        assert_eq!(Beat::decode(&beat.encode()), Ok(beat));
    }

    #[test]
    fn figures_are_carried_and_the_scope_of_pressure_is_said() {
        let call = InFlight { pid: 1, tid: 1, comm: String::new(), class: "fsync".into(), syscall: 74, age_ns: 900 };
        let mut probe = ProbeSample { source: Source::Kernel, oldest: Some(call), ..ProbeSample::default() };
        probe.lost.event = 3;
        let io = Waited { some_permille: 120, full_permille: Some(30) };
        let node = Pressure { io, ..Pressure::default() };
        let pressure = PressureSample {
            node: PressureState::Known(node),
            store: PressureState::Pending,
            space: Some(crate::pressure::Space::default()),
        };
        let signal = Signal::merge(probe, pressure, RecordFigures::default(), MonoNs(1));
        let beat = compose(speaker(), NodeState::Leaving, true, &signal);
        assert_eq!((beat.in_flight_age_ns, beat.fsync_p99_ns, beat.lost_events), (900, 0, 3));
        assert_eq!(beat.io, PressurePermille { some: 120, full: 30 });
        assert_eq!(beat.cpu, PressurePermille { some: 0, full: UNKNOWN });
        assert_eq!(beat.flags, FLAG_PLANNED | FLAG_NODE_PRESSURE);
    }

    #[test]
    fn another_boot_has_another_hash() {
        assert_ne!(boot_hash("a"), boot_hash("b"));
        assert_eq!(boot_hash("a\n"), boot_hash("a"));
    }
}
