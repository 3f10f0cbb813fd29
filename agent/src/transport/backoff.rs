//! How long to wait before a peer is dialled again: pure, so that it can be tested and simulated.

use std::time::Duration;

/// Wait after the failed try number `attempt` (from 0): doubles from `min` up to `max`, then a random share between
/// half and all of it, so that the nodes of a mesh do not dial in step after a switch comes back.
#[must_use]
pub fn redial_delay(attempt: u32, random: u32, min: Duration, max: Duration) -> Duration {
    let full = min.saturating_mul(1u32.checked_shl(attempt.min(30)).unwrap_or(u32::MAX)).min(max);
    let half = full / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn delay_doubles_up_to_its_bound_and_never_leaves_half_to_full() {
        for attempt in 0..200 {
            let full = MIN.saturating_mul(1 << attempt.min(20)).min(MAX);
            let (low, high) = (redial_delay(attempt, 0, MIN, MAX), redial_delay(attempt, u32::MAX, MIN, MAX));
            assert_eq!(low, full / 2, "attempt {attempt}");
            assert_eq!(high, full, "attempt {attempt}");
        }
    }
}
