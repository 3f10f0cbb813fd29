//! Phi accrual: how sure we are that a peer will not be heard again, from how regularly it was heard before.
//!
//! Owns: the window of one peer's intervals and the level of suspicion, after Hayashibara and others, "The phi accrual
//! failure detector" (2004): phi = -log10 of the probability that the next beat is later than now, if intervals are
//! normally distributed with the window's mean and deviation. 1 = wrong once in 10, 8 = once in 100 million. What can
//! hurt: a regular peer whose deviation is nearly nothing; the deviation is at least a quarter of the mean, so one lost
//! beat is below 5. Refuses: floating point; every node and the simulator get the same numbers.

use std::collections::VecDeque;

use crate::clock::MonoNs;
use crate::limits::{SUSPICION_INTERVALS_MAX, SUSPICION_PHI_MILLI_MAX};

/// Rows of [`TABLE`] for one standard deviation.
const STEPS: u64 = 4;
/// The first row of [`TABLE`] is this many rows before 0.
const BEFORE: usize = 16;
/// An interval counts at most so many times the mean: a peer that was away for an hour is not expected hourly.
const LONGEST: u64 = 4;
/// An interval of less than the mean by this divisor is not noted: beats that were held up arrive together.
const SHORTEST: u64 = 4;

/// An hour: beats that are rarer are expected hourly.
const EVERY_NS_MAX: u64 = 3_600_000_000_000;

/// -1000 log10 of the upper tail of the normal distribution, at -4, -3.75, … 22 standard deviations.
const TABLE: [u32; 105] = [
    0, 0, 0, 0, 1, 1, 3, 5, 10, 18, 30, 48, 75, 112, 160, 223, 301, 397, 511, 645, 800, 976, 1_175, 1_397, 1_643,
    1_913, 2_207, 2_526, 2_870, 3_239, 3_633, 4_053, 4_499, 4_971, 5_469, 5_993, 6_543, 7_119, 7_721, 8_350, 9_006,
    9_688, 10_396, 11_131, 11_893, 12_681, 13_496, 14_338, 15_206, 16_101, 17_023, 17_972, 18_947, 19_950, 20_979,
    22_035, 23_118, 24_228, 25_365, 26_528, 27_719, 28_936, 30_181, 31_452, 32_750, 34_076, 35_428, 36_807, 38_213,
    39_647, 41_107, 42_594, 44_108, 45_649, 47_218, 48_813, 50_435, 52_085, 53_761, 55_464, 57_195, 58_952, 60_736,
    62_548, 64_387, 66_252, 68_145, 70_065, 72_011, 73_985, 75_986, 78_014, 80_069, 82_151, 84_260, 86_397, 88_560,
    90_751, 92_968, 95_213, 97_484, 99_783, 102_109, 104_462, 106_842,
];

/// How regularly one peer is heard.
#[derive(Clone, Debug)]
pub struct Arrivals {
    intervals_ns: VecDeque<u64>,
    every_ns: u64,
    last: MonoNs,
    is_heard: bool,
}

impl Arrivals {
    /// Nothing was heard yet; beats are expected every `every_ns`, give or take a quarter.
    #[must_use]
    pub fn new(every_ns: u64, now: MonoNs) -> Self {
        let mut arrivals = Self {
            intervals_ns: VecDeque::new(),
            every_ns: every_ns.clamp(STEPS, EVERY_NS_MAX),
            last: now,
            is_heard: false,
        };
        arrivals.restart(now);
        arrivals
    }

    /// As if nothing had been heard: this process was away, and cannot say who was.
    pub fn restart(&mut self, now: MonoNs) {
        let quarter = self.every_ns / 4;
        self.intervals_ns.clear();
        self.intervals_ns.extend([self.every_ns - quarter, self.every_ns + quarter]);
        self.last = now;
        self.is_heard = false;
    }

    /// A beat arrived.
    pub fn on_beat(&mut self, now: MonoNs) {
        let interval = now.since_ns(self.last);
        let mean = self.mean_ns();
        // The first has no interval: it is not known when the peer began.
        if self.is_heard && interval >= mean / SHORTEST {
            if self.intervals_ns.len() >= SUSPICION_INTERVALS_MAX {
                self.intervals_ns.pop_front();
            }
            self.intervals_ns.push_back(interval.min(mean.saturating_mul(LONGEST)));
        }
        self.is_heard = true;
        self.last = self.last.max(now);
    }

    /// The level of suspicion in thousandths. `patience` is 1 for a node in good health, more for one that is itself
    /// late: time without a beat counts only so much of itself.
    #[must_use]
    pub fn phi_milli(&self, now: MonoNs, patience: u32) -> u32 {
        let silent = now.since_ns(self.last) / u64::from(patience.max(1));
        let mean = self.mean_ns();
        let deviation = self.deviation_ns(mean).max(mean / 4).max(1);
        let (is_before, distance) = if silent < mean { (true, mean - silent) } else { (false, silent - mean) };
        // Steps of a quarter of the deviation, in thousandths.
        let steps = u128::from(distance) * u128::from(STEPS) * 1000 / u128::from(deviation);
        level(is_before, u64::try_from(steps).unwrap_or(u64::MAX))
    }

    fn mean_ns(&self) -> u64 {
        let sum: u128 = self.intervals_ns.iter().map(|interval| u128::from(*interval)).sum();
        u64::try_from(sum / self.intervals_ns.len().max(1) as u128).unwrap_or(u64::MAX).max(1)
    }

    fn deviation_ns(&self, mean: u64) -> u64 {
        let squares: u128 = self
            .intervals_ns
            .iter()
            .map(|interval| u128::from(interval.abs_diff(mean)))
            .fold(0, |sum, difference| sum.saturating_add(difference.saturating_mul(difference)));
        let variance = squares / self.intervals_ns.len().max(1) as u128;
        u64::try_from(variance.isqrt()).unwrap_or(u64::MAX)
    }
}

/// Reads the table, in a straight line between two rows.
fn level(is_before: bool, steps_milli: u64) -> u32 {
    let whole = usize::try_from(steps_milli / 1000).unwrap_or(usize::MAX);
    let part = steps_milli % 1000;
    let (low, high, part) = if is_before {
        // Below the first row the level is 0 anyway.
        let Some(high) = BEFORE.checked_sub(whole) else { return 0 };
        (high.saturating_sub(1), high, 1000 - part)
    } else {
        (BEFORE.saturating_add(whole), BEFORE.saturating_add(whole).saturating_add(1), part)
    };
    let (Some(low), Some(high)) = (TABLE.get(low), TABLE.get(high)) else { return SUSPICION_PHI_MILLI_MAX };
    let between = u64::from(high - low) * part / 1000;
    u32::try_from(u64::from(*low) + between).unwrap_or(u32::MAX).min(SUSPICION_PHI_MILLI_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(ms: u64) -> MonoNs {
        MonoNs(ms * 1_000_000)
    }

    /// Beats every second from 0 to `last` s.
    fn regular(last: u64) -> Arrivals {
        let mut arrivals = Arrivals::new(SECOND, at(0));
        for second in 0..=last {
            arrivals.on_beat(at(second * 1000));
        }
        arrivals
    }

    /// The tail by the sum of small pieces: another way than the table was made by.
    fn tail_milli(z: f64) -> f64 {
        let piece = 1.0 / 4096.0;
        let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let mut sum = 0.0;
        let mut x = z + piece / 2.0;
        while x < z.max(0.0) + 12.0 {
            sum += density(x) * piece;
            x += piece;
        }
        -sum.log10() * 1000.0
    }

    #[test]
    fn the_table_is_the_tail_of_the_normal_distribution() {
        for (index, value) in TABLE.iter().enumerate() {
            let z = (index as f64 - BEFORE as f64) / STEPS as f64;
            let expected = tail_milli(z);
            assert!((f64::from(*value) - expected).abs() <= 1.0, "z {z}: {value}, {expected}");
        }
        assert!(TABLE.is_sorted());
        assert!(TABLE[TABLE.len() - 1] > SUSPICION_PHI_MILLI_MAX);
    }

    #[test]
    fn suspicion_is_low_when_a_beat_is_due_and_grows_without_end() {
        let arrivals = regular(100);
        let phi = |ms: u64| arrivals.phi_milli(at(100_000 + ms), 1);
        // Mean 1 s, deviation 0.25 s: at the mean one half, log10 of which is 0.301.
        assert_eq!(phi(0), 0);
        assert_eq!(phi(1000), 301);
        assert_eq!(phi(1250), 800);
        assert_eq!(phi(2000), 4499, "one beat lost");
        assert_eq!(phi(2500), 9006, "two and a half");
        assert_eq!(phi(3000), 15_206);
        assert_eq!(phi(3_600_000), SUSPICION_PHI_MILLI_MAX);
    }

    #[test]
    fn an_irregular_peer_is_waited_for_longer() {
        let mut irregular = Arrivals::new(SECOND, at(0));
        let mut now = 0;
        for index in 0..100 {
            now += if index % 2 == 0 { 400 } else { 1600 };
            irregular.on_beat(at(now));
        }
        assert!(irregular.phi_milli(at(now + 2500), 1) < regular(100).phi_milli(at(102_500), 1) / 2);
    }

    #[test]
    fn before_the_first_beat_the_configured_interval_is_expected() {
        let arrivals = Arrivals::new(SECOND, at(5000));
        assert_eq!(arrivals.phi_milli(at(6000), 1), 301);
        assert!(arrivals.phi_milli(at(8000), 1) > 8000);
        let mut later = Arrivals::new(SECOND, at(5000));
        later.on_beat(at(9_000_000));
        assert_eq!(later.phi_milli(at(9_001_000), 1), 301, "the time before the first beat is no interval");
    }

    #[test]
    fn another_rhythm_is_learnt_and_an_outage_is_not() {
        let mut arrivals = Arrivals::new(SECOND, at(0));
        for index in 0..200 {
            arrivals.on_beat(at(index * 3000));
        }
        assert_eq!(arrivals.phi_milli(at(199 * 3000 + 3000), 1), 301);
        let mut arrivals = regular(100);
        arrivals.on_beat(at(3_700_000));
        let mean = arrivals.mean_ns();
        assert!(mean < 1_060_000_000, "an hour of silence counted {mean}");
    }

    #[test]
    fn beats_that_arrive_together_do_not_make_the_next_one_expected_at_once() {
        let mut arrivals = regular(100);
        for index in 0..50 {
            arrivals.on_beat(at(105_000 + index));
        }
        assert!(arrivals.mean_ns() >= SECOND);
    }

    #[test]
    fn a_late_observer_is_patient() {
        let arrivals = regular(100);
        assert_eq!(arrivals.phi_milli(at(104_000), 4), 301);
        assert!(arrivals.phi_milli(at(104_000), 1) > 20_000);
    }

    proptest! {
        #[test]
        fn suspicion_never_falls_while_nothing_is_heard(
            intervals in proptest::collection::vec(1u64..10_000, 0..200),
            steps in proptest::collection::vec(0u64..5000, 1..50),
        ) {
            let mut arrivals = Arrivals::new(SECOND, at(0));
            let mut now = 0;
            for interval in intervals {
                now += interval;
                arrivals.on_beat(at(now));
            }
            let mut before = 0;
            for step in steps {
                now += step;
                let phi = arrivals.phi_milli(at(now), 1);
                prop_assert!(phi >= before);
                before = phi;
            }
        }

        #[test]
        fn any_clock_is_survived(
            times in proptest::collection::vec(any::<u64>(), 0..100),
            every in any::<u64>(),
            now in any::<u64>(),
        ) {
            let mut arrivals = Arrivals::new(every, MonoNs(0));
            for time in times {
                arrivals.on_beat(MonoNs(time));
            }
            prop_assert!(arrivals.phi_milli(MonoNs(now), 1) <= SUSPICION_PHI_MILLI_MAX);
        }
    }
}
