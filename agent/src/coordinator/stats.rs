//! What is known of the coordinator from having talked to it: round trips and outcomes.
//!
//! Owns: the last round trips, and counts. Time-outs are made of these figures, so only answers count as round trips: a
//! request that timed out says how long somebody waited, not how far the coordinator is. Refuses: clocks.

use std::collections::VecDeque;

use super::{CoordinatorError, TxnOutcome};
use crate::limits::COORDINATOR_RTTS_MAX;

/// The last [`COORDINATOR_RTTS_MAX`] round trips.
#[derive(Clone, Debug, Default)]
pub struct RoundTrips {
    ns: VecDeque<u64>,
}

impl RoundTrips {
    /// One more; the oldest is forgotten past the limit.
    pub fn record(&mut self, ns: u64) {
        if self.ns.len() == COORDINATOR_RTTS_MAX {
            self.ns.pop_front();
        }
        self.ns.push_back(ns);
    }

    /// The smallest round trip that is not exceeded by so many thousandths of them; 0 if there is none.
    fn of(sorted: &[u64], thousandths: usize) -> u64 {
        let rank = (sorted.len() * thousandths).div_ceil(1000).max(1);
        sorted.get(rank - 1).copied().unwrap_or(0)
    }
}

/// Figures for `status`, metrics, and for time-outs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoordinatorStats {
    /// A snapshot was read and its watch goes on.
    pub connected: bool,
    /// Revision of the last snapshot or change that was seen.
    pub revision: u64,
    /// Round trips of which the percentiles are made.
    pub samples: usize,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
    /// Transactions by how they ended, since the start.
    pub done: u64,
    pub refused: u64,
    pub unreachable: u64,
    pub unknown: u64,
    /// Times that the watch was lost.
    pub lost: u64,
    /// Transactions without an answer yet.
    pub under_way: usize,
}

/// Counts and round trips as they come.
#[derive(Debug, Default)]
pub(super) struct Counters {
    rtts: RoundTrips,
    stats: CoordinatorStats,
}

impl Counters {
    pub(super) fn outcome(&mut self, outcome: &Result<TxnOutcome, CoordinatorError>, rtt_ns: u64) {
        match outcome {
            Ok(TxnOutcome::Done { revision }) => {
                self.stats.done += 1;
                self.seen(*revision);
            }
            Ok(TxnOutcome::Refused) => self.stats.refused += 1,
            Err(CoordinatorError::Unknown { .. }) => self.stats.unknown += 1,
            Err(_) => self.stats.unreachable += 1,
        }
        if outcome.is_ok() {
            self.rtts.record(rtt_ns);
        }
    }

    pub(super) fn seen(&mut self, revision: u64) {
        self.stats.revision = self.stats.revision.max(revision);
    }

    /// A snapshot begins anew, also at a lower revision.
    pub(super) fn whole(&mut self, revision: u64) {
        self.stats.connected = true;
        self.stats.revision = revision;
    }

    pub(super) fn lost(&mut self) {
        self.stats.lost += u64::from(self.stats.connected);
        self.stats.connected = false;
    }

    pub(super) fn stats(&self, under_way: usize) -> CoordinatorStats {
        let mut sorted: Vec<u64> = self.rtts.ns.iter().copied().collect();
        sorted.sort_unstable();
        CoordinatorStats {
            samples: sorted.len(),
            p50_ns: RoundTrips::of(&sorted, 500),
            p99_ns: RoundTrips::of(&sorted, 990),
            p999_ns: RoundTrips::of(&sorted, 999),
            max_ns: sorted.last().copied().unwrap_or(0),
            under_way,
            ..self.stats.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_answers_only() {
        let mut counters = Counters::default();
        assert_eq!(counters.stats(0).p999_ns, 0);
        counters.outcome(&Ok(TxnOutcome::Refused), u64::MAX);
        let done = Ok(TxnOutcome::Done { revision: 3 });
        for n in 1..=COORDINATOR_RTTS_MAX as u64 {
            counters.outcome(&done, n);
        }
        let failed = CoordinatorError::Unknown { of: String::new(), reason: String::new() };
        counters.outcome(&Err(failed), 1_000_000);
        let stats = counters.stats(1);
        let max = COORDINATOR_RTTS_MAX as u64;
        assert_eq!((stats.p50_ns, stats.max_ns, stats.samples), (max / 2, max, COORDINATOR_RTTS_MAX));
        assert_eq!((stats.p99_ns, stats.p999_ns), ((max * 990).div_ceil(1000), (max * 999).div_ceil(1000)));
        assert_eq!((stats.done, stats.refused, stats.unknown, stats.revision), (max, 1, 1, 3));
    }
}
