//! What attempts say of outages: pure arithmetic over their beginnings, ends and outcomes.
//!
//! Owns: what an outage is. What can hurt: attempts that overlap: one that hung through an outage fails after the first
//! one that succeeded again; it counts for the outage in which it began, not for one of its own.
//! Refuses: reading a clock.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One attempt of a user. Times are since the prober began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub start_ms: u64,
    pub end_ms: u64,
    /// Why it failed: the step, and what was said; `None` when all of it succeeded.
    pub error: Option<String>,
}

/// A time without a success in which an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// The end of the last attempt that succeeded before it, or the beginning of all.
    pub from_ms: u64,
    /// The end of the first one that succeeded after it, or the end of all.
    pub to_ms: u64,
    pub failures: u64,
    /// Nothing succeeded any more before the prober ended.
    pub open: bool,
    /// Of the failure that ended first.
    pub first_error: String,
}

impl Outage {
    /// How long it was.
    #[must_use]
    pub fn length_ms(&self) -> u64 {
        self.to_ms.saturating_sub(self.from_ms)
    }
}

/// All attempts of one kind for one account, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    pub attempts: u64,
    pub failed: u64,
    /// In the order of time.
    pub outages: Vec<Outage>,
    /// 0 without outages.
    pub outage_max_ms: u64,
    /// Of outages; the lower one of two in the middle; 0 without outages.
    pub outage_median_ms: u64,
    /// Longest time without a success, whether or not something failed in it.
    pub pause_max_ms: u64,
    /// How often each error was met.
    pub errors: BTreeMap<String, u64>,
}

impl Series {
    /// Sums `attempts` up, in whatever order they are; they were made from 0 to `end_ms`.
    #[must_use]
    pub fn of(attempts: &[Attempt], end_ms: u64) -> Self {
        let mut errors: BTreeMap<String, u64> = BTreeMap::new();
        for error in attempts.iter().filter_map(|attempt| attempt.error.as_ref()) {
            *errors.entry(error.clone()).or_default() += 1;
        }
        let outages = outages(attempts, end_ms);
        let mut lengths: Vec<u64> = outages.iter().map(Outage::length_ms).collect();
        let pauses = pauses(attempts, end_ms);
        Self {
            attempts: attempts.len() as u64,
            failed: errors.values().sum(),
            outage_max_ms: lengths.iter().copied().max().unwrap_or(0),
            outage_median_ms: median(&mut lengths),
            pause_max_ms: pauses.iter().map(|pause| pause.1 - pause.0).max().unwrap_or(0),
            outages,
            errors,
        }
    }
}

/// The value in the middle, the lower one of two; 0 of nothing.
#[must_use]
pub fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// Times between two successes, and before the first and after the last one.
fn pauses(attempts: &[Attempt], end_ms: u64) -> Vec<(u64, u64)> {
    let mut ends: Vec<u64> = attempts.iter().filter(|a| a.error.is_none()).map(|a| a.end_ms).collect();
    ends.sort_unstable();
    let froms = std::iter::once(0).chain(ends.iter().copied());
    let last = ends.last().copied().unwrap_or(0).max(end_ms);
    froms.zip(ends.iter().copied().chain([last])).collect()
}

/// The pauses in which something failed. A failure counts for the longest pause that it touches.
fn outages(attempts: &[Attempt], end_ms: u64) -> Vec<Outage> {
    let pauses = pauses(attempts, end_ms);
    let last = pauses.len() - 1;
    let mut found: BTreeMap<usize, Outage> = BTreeMap::new();
    let mut failures: Vec<&Attempt> = attempts.iter().filter(|a| a.error.is_some()).collect();
    failures.sort_by_key(|a| a.end_ms);
    for failure in failures {
        // Pauses are in order and without holes, so those that it touches stand together.
        let begin = pauses.partition_point(|pause| pause.1 < failure.start_ms);
        let touched = pauses.iter().enumerate().skip(begin).take_while(|(_, pause)| pause.0 <= failure.end_ms);
        // The later one of two that are equally long: an outage that is still open.
        let Some((nth, pause)) = touched.max_by_key(|(_, pause)| pause.1 - pause.0) else { continue };
        let outage = found.entry(nth).or_insert_with(|| Outage {
            from_ms: pause.0,
            to_ms: pause.1,
            failures: 0,
            open: nth == last,
            first_error: failure.error.clone().unwrap_or_default(),
        });
        outage.failures += 1;
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(start_ms: u64, end_ms: u64) -> Attempt {
        Attempt { start_ms, end_ms, error: None }
    }

    fn bad(start_ms: u64, end_ms: u64) -> Attempt {
        Attempt { start_ms, end_ms, error: Some("login: gone".to_owned()) }
    }

    fn spans(series: &Series) -> Vec<(u64, u64, u64, bool)> {
        series.outages.iter().map(|o| (o.from_ms, o.to_ms, o.failures, o.open)).collect()
    }

    #[test]
    fn an_outage_lasts_from_success_to_success() {
        let attempts = [ok(0, 10), ok(50, 60), bad(100, 101), bad(150, 1150), ok(1150, 1160), ok(1200, 1210)];
        let series = Series::of(&attempts, 1220);
        assert_eq!(spans(&series), [(60, 1160, 2, false)]);
        assert_eq!((series.attempts, series.failed, series.errors["login: gone"]), (6, 2, 2));
        assert_eq!((series.outage_max_ms, series.outage_median_ms, series.pause_max_ms), (1100, 1100, 1100));
    }

    #[test]
    fn one_that_hung_into_the_time_after_belongs_to_the_outage_in_which_it_began() {
        let attempts = [ok(0, 10), bad(20, 1020), bad(900, 1900), ok(1000, 1010), ok(1050, 1060), ok(1850, 1860)];
        // Also one that began while all was well, and one whose time ends long after.
        assert_eq!(spans(&Series::of(&attempts, 1900)), [(10, 1010, 2, false)]);
    }

    #[test]
    fn an_outage_may_be_at_the_beginning_or_open_at_the_end() {
        let series = Series::of(&[bad(0, 5), ok(50, 60), ok(70, 80), bad(100, 110)], 500);
        assert_eq!(spans(&series), [(0, 60, 1, false), (80, 500, 1, true)]);
        assert_eq!((series.outage_max_ms, series.outage_median_ms), (420, 60));
        assert_eq!(spans(&Series::of(&[bad(3, 4)], 9)), [(0, 9, 1, true)]);
        assert_eq!(Series::of(&[], 7), Series { pause_max_ms: 7, ..Series::default() });
    }

    #[test]
    fn slow_is_a_pause_and_no_outage() {
        let series = Series::of(&[ok(0, 10), ok(50, 700), ok(710, 720)], 730);
        assert_eq!((series.outages.len(), series.pause_max_ms), (0, 690));
    }

    #[test]
    fn two_outages_are_two() {
        let attempts = [ok(0, 10), bad(20, 30), ok(100, 110), ok(150, 160), bad(200, 210), ok(460, 470)];
        let series = Series::of(&attempts, 480);
        assert_eq!(spans(&series), [(10, 110, 1, false), (160, 470, 1, false)]);
        assert_eq!((series.outage_max_ms, series.outage_median_ms), (310, 100));
    }
}
