//! Distributions of one second from cumulative histograms.
//!
//! Owns: the difference of two readings and the quantiles of it. What can hurt: a counter that goes back (programs
//! loaded anew); it counts as 0. Refuses: interpolation. A figure is the upper edge of its bucket, so it is never
//! better than the truth and at most a quarter worse.

use serde::{Deserialize, Serialize};
use understudy_types::probe::{BUCKETS, HISTOGRAM_WORDS, bucket_ns_max};

/// What one second of a row looked like. All figures are 0 when nothing completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// Completed in the second.
    pub count: u64,
    /// Time of all of them together.
    pub sum_ns: u64,
    /// Upper edge of the median's bucket.
    pub p50_ns: u64,
    /// Upper edge of the 99th percentile's bucket.
    pub p99_ns: u64,
    /// Upper edge of the highest bucket with an entry.
    pub max_ns: u64,
}

/// One cumulative histogram: the sum, then the buckets.
pub type Words = [u64; HISTOGRAM_WORDS];

/// The distribution of what came between two readings.
#[must_use]
pub fn between(before: &Words, after: &Words) -> Distribution {
    let difference = |index: usize| after[index].saturating_sub(before[index]);
    let count: u64 = (1..=BUCKETS).map(difference).sum();
    if count == 0 {
        return Distribution::default();
    }
    // The smallest rank that has the asked share at or below it.
    let (rank50, rank99) = (count.div_ceil(2), count - count / 100);
    let mut out = Distribution { count, sum_ns: difference(0), ..Distribution::default() };
    let mut passed = 0;
    for bucket in 0..BUCKETS {
        let here = difference(bucket + 1);
        if here == 0 {
            continue;
        }
        let edge = bucket_ns_max(bucket);
        if passed < rank50 && passed + here >= rank50 {
            out.p50_ns = edge;
        }
        if passed < rank99 && passed + here >= rank99 {
            out.p99_ns = edge;
        }
        out.max_ns = edge;
        passed += here;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_types::probe::bucket;

    fn add(words: &mut Words, ns: u64, times: u64) {
        words[0] += ns * times;
        words[bucket(ns) + 1] += times;
    }

    #[test]
    fn quantiles_are_upper_edges_of_the_right_bucket() {
        let before = [7; HISTOGRAM_WORDS];
        let mut after = before;
        add(&mut after, 1_000, 98);
        add(&mut after, 50_000, 1);
        add(&mut after, 9_000_000, 1);
        let seen = between(&before, &after);
        assert_eq!((seen.count, seen.sum_ns), (100, 98_000 + 50_000 + 9_000_000));
        assert_eq!(seen.p50_ns, bucket_ns_max(bucket(1_000)));
        assert_eq!(seen.p99_ns, bucket_ns_max(bucket(50_000)));
        assert_eq!(seen.max_ns, bucket_ns_max(bucket(9_000_000)));
        assert!(seen.max_ns >= 9_000_000);
    }

    #[test]
    fn an_idle_second_and_a_counter_that_went_back_are_empty() {
        let words = [9; HISTOGRAM_WORDS];
        assert_eq!(between(&words, &words), Distribution::default());
        assert_eq!(between(&words, &[0; HISTOGRAM_WORDS]), Distribution::default());
    }

    #[test]
    fn one_entry_is_every_quantile() {
        let mut after = [0; HISTOGRAM_WORDS];
        add(&mut after, 12_345, 1);
        let seen = between(&[0; HISTOGRAM_WORDS], &after);
        assert_eq!((seen.p50_ns, seen.p99_ns), (seen.max_ns, seen.max_ns));
    }
}
