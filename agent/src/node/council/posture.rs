//! What the council does beside deciding: it keeps the watchdog fed and the coordinator's time-out apt, and tells the
//! event loop once a second how things stand.
//!
//! Owns: the device, and the time-out. What can hurt: a host that is reset although all is well: the device is fed as
//! long as something may be served here, and let go when nothing is. Refuses: deciding.

use std::time::Duration;

use super::Parts;
use crate::clock::{self, BootNs};
use crate::coordinator::stats::CoordinatorStats;
use crate::failover::decide::Decider;
use crate::failover::explain::Overview;
use crate::fence::watchdog::Watchdog;
use crate::limits::{COORDINATOR_TIMEOUT_MS, COORDINATOR_TIMEOUT_MS_MIN, COORDINATOR_TIMEOUT_P99_TIMES};
use crate::node::query::Query;

/// A look around, in nanoseconds.
const EVERY_NS: u64 = 1_000_000_000;

/// What the event loop is told.
#[derive(Clone, Debug)]
pub(crate) struct Posture {
    pub overview: Overview,
    pub coordinator: CoordinatorStats,
}

/// The thread's chores.
pub(super) struct Chores {
    watchdog: Option<Watchdog>,
    /// Until when something may be served here.
    pub until: BootNs,
    next_at: BootNs,
}

impl Chores {
    pub(super) fn new(watchdog: Option<Watchdog>) -> Self {
        Self { watchdog, until: BootNs(0), next_at: BootNs(0) }
    }

    /// Every turn.
    pub(super) fn turn(&mut self, parts: &Parts, decider: &Decider) {
        self.feed(parts, clock::boot());
        let now = clock::boot();
        if now >= self.next_at {
            self.next_at = now.after_ns(EVERY_NS);
            let stats = parts.coordinator.stats();
            let timeout = timeout(&stats, parts.settings.lease_ns);
            parts.coordinator.set_timeout(timeout);
            let metrics = &parts.metrics.failover;
            metrics.coordinator_timeout.set(timeout.as_secs_f64());
            metrics.coordinator_up.set(i64::from(stats.connected));
            crate::metrics::set_total(&metrics.coordinator_lost, stats.lost);
            let posture = Posture { overview: decider.overview(now), coordinator: stats };
            // The loop is gone only when the agent stops.
            let _ = parts.queries.send(Query::Posture(Box::new(posture)));
        }
    }

    fn feed(&mut self, parts: &Parts, now: BootNs) {
        let Some(watchdog) = &mut self.watchdog else { return };
        let done = if self.until > now {
            watchdog.feed(self.until, now)
        } else if self.until <= BootNs(1) {
            // The decider took its word back: every group is fenced.
            watchdog.release()
        } else {
            Ok(())
        };
        if let Err(why) = done {
            tracing::error!(why, "the watchdog");
        }
        parts.metrics.failover.watchdog_armed.set(i64::from(watchdog.is_armed()));
    }

    /// The agent stops in good order: the host is not to be reset for that.
    pub(super) fn end(&mut self) {
        if let Some(Err(why)) = self.watchdog.as_mut().map(Watchdog::release) {
            tracing::error!(why, "the watchdog");
        }
    }
}

/// The time-out of a request: a multiple of what the slowest of a hundred takes, but never so long that no second try
/// fits into a lease.
fn timeout(stats: &CoordinatorStats, lease_ns: u64) -> Duration {
    let measured = match stats.samples {
        0 => COORDINATOR_TIMEOUT_MS * 1_000_000,
        _ => stats.p99_ns.saturating_mul(COORDINATOR_TIMEOUT_P99_TIMES),
    };
    Duration::from_nanos(measured.max(COORDINATOR_TIMEOUT_MS_MIN * 1_000_000).min(lease_ns / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_follows_the_round_trips_and_leaves_room_for_a_second_try() {
        let of = |samples, p99_ms: u64| {
            let stats = CoordinatorStats { samples, p99_ns: p99_ms * 1_000_000, ..CoordinatorStats::default() };
            timeout(&stats, 1_500_000_000).as_millis()
        };
        assert_eq!(of(0, 0), 750);
        assert_eq!(of(9, 2), 200);
        assert_eq!(of(9, 50), 400);
        assert_eq!(of(9, 100), 750);
    }
}
