//! Bytes per second, held by a token bucket: pure, takes `now`.
//!
//! Refuses: waiting. It says how much may go now, and when more may.

use crate::clock::MonoNs;

/// Share of a second that may be sent at once after a pause.
const BURST_DIVISOR: u64 = 10;
/// Smallest burst, so that a small limit still sends whole TLS records.
const BURST_BYTES_MIN: u64 = 4096;
const NS_PER_S: u128 = 1_000_000_000;

/// A limit of bytes per second.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    /// 0 = no limit.
    bytes_per_second: u64,
    burst_bytes: u64,
    /// Tokens in units of a billionth of a byte, so that no time between two looks is lost to rounding.
    nano_bytes: u128,
    at: MonoNs,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(bytes_per_second: u64, now: MonoNs) -> Self {
        let burst_bytes = (bytes_per_second / BURST_DIVISOR).max(BURST_BYTES_MIN);
        Self { bytes_per_second, burst_bytes, nano_bytes: u128::from(burst_bytes) * NS_PER_S, at: now }
    }

    /// Bytes that may go now.
    pub fn available(&mut self, now: MonoNs) -> usize {
        if self.bytes_per_second == 0 {
            return usize::MAX;
        }
        let passed_ns = now.since_ns(self.at);
        self.at = self.at.max(now);
        let filled = self.nano_bytes + u128::from(passed_ns) * u128::from(self.bytes_per_second);
        self.nano_bytes = filled.min(u128::from(self.burst_bytes) * NS_PER_S);
        usize::try_from(self.nano_bytes / NS_PER_S).unwrap_or(usize::MAX)
    }

    /// Takes bytes that went. More than was available leaves the bucket empty.
    pub fn take(&mut self, bytes: usize) {
        self.nano_bytes = self.nano_bytes.saturating_sub(bytes as u128 * NS_PER_S);
    }

    /// When a useful number of bytes may go: half a burst.
    #[must_use]
    pub fn ready_at(&self) -> MonoNs {
        if self.bytes_per_second == 0 {
            return self.at;
        }
        let wanted = u128::from(self.burst_bytes) * NS_PER_S / 2;
        let missing = wanted.saturating_sub(self.nano_bytes);
        let wait_ns = missing.div_ceil(u128::from(self.bytes_per_second));
        MonoNs(self.at.0.saturating_add(u64::try_from(wait_ns).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_limit_everything_may_go() {
        let mut bucket = TokenBucket::new(0, MonoNs(5));
        bucket.take(1 << 40);
        assert_eq!(bucket.available(MonoNs(5)), usize::MAX);
    }

    #[test]
    fn what_was_not_used_is_kept_only_up_to_the_burst() {
        let mut bucket = TokenBucket::new(100_000, MonoNs(0));
        assert_eq!(bucket.available(MonoNs(3_600_000_000_000)), 10_000);
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst(
            rate in 1u64..1 << 30,
            steps in proptest::collection::vec((0u64..50_000_000, 1usize..100_000), 1..200),
        ) {
            let mut bucket = TokenBucket::new(rate, MonoNs(0));
            let (mut now, mut sent) = (0u64, 0u128);
            for (step, wish) in steps {
                now += step;
                let bytes = wish.min(bucket.available(MonoNs(now)));
                bucket.take(bytes);
                sent += bytes as u128;
                prop_assert!(sent <= u128::from(bucket.burst_bytes) + u128::from(now) * u128::from(rate) / NS_PER_S);
            }
            // And it does let something through when it said it would.
            let ready = bucket.ready_at();
            prop_assert!(bucket.available(ready.max(MonoNs(now))) as u64 >= bucket.burst_bytes / 2);
        }
    }
}
