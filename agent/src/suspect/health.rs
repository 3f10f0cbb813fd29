//! Local health: whether this node is itself late, and its word on others worth little.
//!
//! Owns: the points, after HashiCorp's Lifeguard ("Local Health Awareness for More Accurate Failure Detection", 2018):
//! each thing that was late here costs points, time in which nothing was takes them back. What can hurt: a node that is
//! starved and sees everybody else late; with points its patience grows, and its word does not count. Refuses: pressure
//! alone. A busy machine whose threads run in time is a good observer.

use serde::{Deserialize, Serialize};

use crate::clock::MonoNs;
use crate::limits::{
    HEALTH_AWAY_NS, HEALTH_CPU_PERMILLE, HEALTH_LATE_NS, HEALTH_MEND_NS, HEALTH_POINTS_LATE, HEALTH_POINTS_MAX,
};

/// What was measured of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measured {
    /// The most that one of our own beats was late since the last time.
    BeatLate { ns: u64 },
    /// How late a turn of the event loop began.
    TurnLate { ns: u64 },
    /// Share of the last second in which some task of the node waited for a processor.
    CpuWaited { some_permille: u16 },
}

/// Points of this node.
#[derive(Clone, Debug)]
pub struct LocalHealth {
    points: u32,
    /// Until here nothing was late, or points were taken back.
    mended_at: MonoNs,
    is_cpu_short: bool,
}

impl LocalHealth {
    /// In good health: who starts suspects nobody for a while anyway.
    #[must_use]
    pub fn new(now: MonoNs) -> Self {
        Self { points: 0, mended_at: now, is_cpu_short: false }
    }

    /// Takes a measurement.
    pub fn on(&mut self, measured: Measured, now: MonoNs) {
        self.mend(now);
        let cost = match measured {
            Measured::BeatLate { ns } | Measured::TurnLate { ns } => match ns {
                ns if ns >= HEALTH_AWAY_NS => HEALTH_POINTS_LATE + 1,
                ns if ns >= HEALTH_LATE_NS => 1,
                _ => 0,
            },
            Measured::CpuWaited { some_permille } => {
                // Costs nothing by itself; while it lasts, what is late costs one point more.
                self.is_cpu_short = some_permille >= HEALTH_CPU_PERMILLE;
                0
            }
        };
        if cost > 0 {
            self.points = (self.points + cost + u32::from(self.is_cpu_short)).min(HEALTH_POINTS_MAX);
            self.mended_at = now;
        }
    }

    /// This process was away, by its own clock.
    pub fn on_away(&mut self, now: MonoNs) {
        self.on(Measured::TurnLate { ns: HEALTH_AWAY_NS }, now);
    }

    /// Whether this node's word on others counts.
    #[must_use]
    pub fn is_healthy(&self, now: MonoNs) -> bool {
        self.points_at(now) < HEALTH_POINTS_LATE
    }

    /// By what time without a word of a peer is divided: 1 in good health.
    #[must_use]
    pub fn patience(&self, now: MonoNs) -> u32 {
        1 + self.points_at(now)
    }

    fn points_at(&self, now: MonoNs) -> u32 {
        let mended = now.since_ns(self.mended_at) / HEALTH_MEND_NS;
        self.points.saturating_sub(u32::try_from(mended).unwrap_or(u32::MAX))
    }

    fn mend(&mut self, now: MonoNs) {
        let mended = now.since_ns(self.mended_at) / HEALTH_MEND_NS;
        self.points = self.points_at(now);
        self.mended_at = MonoNs(self.mended_at.0.saturating_add(mended.saturating_mul(HEALTH_MEND_NS)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> MonoNs {
        MonoNs(ms * MS)
    }

    fn late(ms: u64) -> Measured {
        Measured::BeatLate { ns: ms * MS }
    }

    #[test]
    fn one_late_beat_is_forgiven_and_two_are_not() {
        let mut health = LocalHealth::new(at(0));
        health.on(late(199), at(1000));
        assert_eq!((health.is_healthy(at(1000)), health.patience(at(1000))), (true, 1));
        health.on(late(250), at(2000));
        assert_eq!((health.is_healthy(at(2000)), health.patience(at(2000))), (true, 2));
        health.on(Measured::TurnLate { ns: 300 * MS }, at(2500));
        assert_eq!((health.is_healthy(at(2500)), health.patience(at(2500))), (false, 3));
        assert!(!health.is_healthy(at(3499)));
        assert!(health.is_healthy(at(3500)));
        assert_eq!(health.patience(at(4500)), 1);
    }

    #[test]
    fn who_was_away_for_a_second_is_late_at_once_and_for_two_seconds() {
        let mut health = LocalHealth::new(at(0));
        health.on(late(600_000), at(601_000));
        assert!(!health.is_healthy(at(601_000)));
        assert!(!health.is_healthy(at(602_999 - 1000)));
        assert!(health.is_healthy(at(603_000)));
    }

    #[test]
    fn pressure_alone_makes_nobody_late_and_doubles_what_is() {
        let mut health = LocalHealth::new(at(0));
        for second in 1..100 {
            health.on(Measured::CpuWaited { some_permille: 1000 }, at(second * 1000));
            assert!(health.is_healthy(at(second * 1000)));
        }
        health.on(late(200), at(100_000));
        assert!(!health.is_healthy(at(100_000)));
    }

    #[test]
    fn points_have_an_end() {
        let mut health = LocalHealth::new(at(0));
        for turn in 0..1000 {
            health.on(late(5000), at(turn));
        }
        assert_eq!(health.patience(at(1000)), 1 + HEALTH_POINTS_MAX);
        assert!(health.is_healthy(at(1000 + u64::from(HEALTH_POINTS_MAX) * 1000)));
    }
}
