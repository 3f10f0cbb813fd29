//! What a journal says about itself.
//!
//! Owns: counters and the histogram of write times. Refuses: deciding by them.

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// `io_uring` or `plain`.
    pub backend: &'static str,
    /// False where the file system refuses O_DIRECT.
    pub direct: bool,
    pub segments: u64,
    /// Bytes of all segment files, spare ones included.
    pub segment_bytes: u64,
    /// Since opening.
    pub frames: u64,
    pub frame_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    /// Time from the submission of a write to the return of its fdatasync.
    pub sync_p50_ns: u64,
    pub sync_p99_ns: u64,
    pub sync_max_ns: u64,
    /// Frames that wait to be written.
    pub queued_frames: usize,
    /// Set when the journal has failed.
    pub failed: Option<String>,
}

/// Single times that are kept for a histogram of somebody else's. More are in the percentiles only.
const FRESH_MAX: usize = 4096;

/// Buckets of an eighth of a power of two: percentiles are right to 12.5 %.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: [u64; 512],
    max: u64,
    /// Noted since the last [`Self::take_fresh`], at most [`FRESH_MAX`].
    fresh: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; 512], max: 0, fresh: Vec::new() }
    }
}

impl Histogram {
    pub(super) fn note(&mut self, ns: u64) {
        self.buckets[bucket(ns)] += 1;
        self.max = self.max.max(ns);
        if self.fresh.len() < FRESH_MAX {
            self.fresh.push(ns);
        }
    }

    pub(super) fn take_fresh(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.fresh)
    }

    /// Upper end of the bucket that holds the percentile; 0 if nothing was noted.
    pub(super) fn percentile(&self, percent: u64) -> u64 {
        let total: u64 = self.buckets.iter().sum();
        let mut left = (total * percent).div_ceil(100);
        for (bucket, count) in self.buckets.iter().enumerate() {
            left = left.saturating_sub(*count);
            if left == 0 && total > 0 {
                return upper_end(bucket).min(self.max);
            }
        }
        0
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }
}

fn bucket(ns: u64) -> usize {
    let ns = ns.max(8);
    let exponent = 63 - ns.leading_zeros();
    // The three bits below the highest one.
    let eighth = (ns >> (exponent - 3)) & 7;
    (exponent as usize * 8 + usize::try_from(eighth).unwrap_or(0)).min(511)
}

fn upper_end(bucket: usize) -> u64 {
    let (exponent, eighth) = ((bucket / 8).max(3), (bucket % 8) as u64);
    ((8 + eighth + 1) << (exponent - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_an_eighth() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50), 0);
        (1..=1000).for_each(|us| histogram.note(us * 1000));
        let near = |got: u64, want: u64| assert!(got >= want && got <= want + want / 8, "{got} for {want}");
        near(histogram.percentile(50), 500_000);
        near(histogram.percentile(99), 990_000);
        assert_eq!(histogram.percentile(100), 1_000_000);
        histogram.note(u64::MAX);
        assert_eq!(histogram.max(), u64::MAX);
    }
}
