//! The only place that reads a clock. Everything else takes `now` as an argument, so that the same code runs
//! under simulated time. Monotonic for decisions, wall time for records and logs only.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic nanoseconds since an arbitrary point of this process; never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonoNs(pub u64);

impl MonoNs {
    /// Nanoseconds from `earlier` to `self`; 0 if `earlier` is later.
    #[must_use]
    pub fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `self` moved on by `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Nanoseconds of CLOCK_BOOTTIME: since the host booted, with the time that it was suspended. What leases are counted in:
/// they run out for others, too, while this host sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct BootNs(pub u64);

impl BootNs {
    /// Nanoseconds from `earlier` to `self`; 0 if `earlier` is later.
    #[must_use]
    pub fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `self` moved on by so many nanoseconds.
    #[must_use]
    pub fn after_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// `self` moved on by `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

fn read(clock: nix::time::ClockId) -> Option<u64> {
    let ts = nix::time::clock_gettime(clock).ok()?;
    let seconds = u64::try_from(ts.tv_sec()).ok()?;
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(ts.tv_nsec()).ok()?))
}

/// Reads CLOCK_BOOTTIME. If it cannot be read, the end of time: every lease has then run out.
#[must_use]
pub fn boot() -> BootNs {
    BootNs(read(nix::time::ClockId::CLOCK_BOOTTIME).unwrap_or(u64::MAX))
}

/// Reads CLOCK_MONOTONIC, in nanoseconds since the host booted (comparable between processes of one host).
#[must_use]
pub fn mono() -> MonoNs {
    MonoNs(read(nix::time::ClockId::CLOCK_MONOTONIC).unwrap_or(0))
}

/// Wall time in nanoseconds since the Unix epoch: for records and logs, never for a decision.
#[must_use]
pub fn wall_ns() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    let now = SystemTime::now();
    u64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// An [`Instant`] for library calls that take a deadline.
#[must_use]
pub fn instant() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    Instant::now()
}
