//! One second of a node in one struct: what the probe and the pressure files say, and where the record path stands.
//!
//! Owns: [`Signal`] and how it is put together; pure. What can hurt: a figure that is missing and looks like a good
//! one; each is an `Option`, and `blind` names what is missing. Refuses: forecasts and thresholds.

mod record;

use serde::{Deserialize, Serialize};
use understudy_types::probe::Row;

use crate::clock::MonoNs;
use crate::pressure::{Pressure, PressureSample, PressureState};
use crate::probe::{ProbeSample, RowSample, Source};

pub use self::record::{JournalFigures, PeerFigures, RecordFigures, RingFigures};

/// One second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Monotonic time of the youngest reading in it.
    pub at_ns: u64,
    /// Kernel and /proc.
    pub probe: ProbeSample,
    /// Pressure files and disk.
    pub pressure: PressureSample,
    /// Ring, journal and peers.
    pub record: RecordFigures,
    /// Everything that cannot be seen, by name.
    pub blind: Vec<String>,
}

impl Signal {
    /// Puts a second together.
    #[must_use]
    pub fn merge(probe: ProbeSample, pressure: PressureSample, record: RecordFigures, now: MonoNs) -> Self {
        let mut blind = probe.blind.clone();
        for (name, state) in [("pressure of the node", &pressure.node), ("pressure of the store", &pressure.store)] {
            if let PressureState::NotSupported(reason) = state {
                blind.push(format!("{name}: {reason}"));
            }
        }
        if pressure.space.is_none() {
            blind.push("space on the store's disk".to_owned());
        }
        Self { at_ns: now.0, probe, pressure, record, blind }
    }

    /// Age of the oldest call that does work; `None` when it cannot be seen.
    #[must_use]
    pub fn in_flight_age_ns(&self) -> Option<u64> {
        self.kernel().then(|| self.probe.oldest_ns())
    }

    /// The second of one row; `None` when it cannot be seen.
    #[must_use]
    pub fn row(&self, row: Row) -> Option<RowSample> {
        self.kernel().then(|| self.probe.row(row))
    }

    /// Pressure that concerns the store: its own control group's, else the node's. `true` when it is the node's.
    #[must_use]
    pub fn pressure(&self) -> Option<(Pressure, bool)> {
        let store = self.pressure.store.known().map(|pressure| (pressure, false));
        store.or_else(|| self.pressure.node.known().map(|pressure| (pressure, true)))
    }

    fn kernel(&self) -> bool {
        self.probe.source == Source::Kernel
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pressure::{PressureNotSupported, Waited};

    fn signal(source: Source, store: PressureState, node: PressureState) -> Signal {
        let probe = ProbeSample { source, blind: vec!["x".to_owned()], ..ProbeSample::default() };
        let pressure = PressureSample { node, store, space: None };
        Signal::merge(probe, pressure, RecordFigures::default(), MonoNs(5))
    }

    fn known(permille: u16) -> PressureState {
        PressureState::Known(Pressure {
            cpu: Waited { some_permille: permille, full_permille: None },
            ..Pressure::default()
        })
    }

    fn none() -> PressureState {
        PressureState::NotSupported(PressureNotSupported::Group { reason: "none".to_owned() })
    }

    #[test]
    fn what_cannot_be_seen_is_none_and_named() {
        let blind = signal(Source::Proc, none(), none());
        assert_eq!((blind.in_flight_age_ns(), blind.row(Row::Fsync), blind.pressure()), (None, None, None));
        assert_eq!(blind.blind.len(), 4, "{:?}", blind.blind);
        let seeing = signal(Source::Kernel, none(), known(3));
        assert_eq!(seeing.in_flight_age_ns(), Some(0));
        assert_eq!(seeing.row(Row::Fsync).map(|row| row.times.count), Some(0));
    }

    #[test]
    fn the_stores_own_pressure_goes_before_the_nodes() {
        let cpu = |signal: &Signal| signal.pressure().map(|(p, of_node)| (p.cpu.some_permille, of_node));
        assert_eq!(cpu(&signal(Source::Kernel, known(7), known(9))), Some((7, false)));
        assert_eq!(cpu(&signal(Source::Kernel, none(), known(9))), Some((9, true)));
        assert_eq!(cpu(&signal(Source::Kernel, PressureState::Pending, none())), None);
    }
}
