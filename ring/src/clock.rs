//! The only place of this crate that reads a clock.
//!
//! Owns: CLOCK_MONOTONIC in nanoseconds, which agent and store of one host share. It is read only where a
//! caller waits, never while publishing.
//! What can hurt: a time namespace with another offset between agent and store; the agent then looks absent,
//! or alive for too long. Both only change who waits, never what is delivered.

/// CLOCK_MONOTONIC, in nanoseconds; 0 if it cannot be read.
pub(crate) fn mono_ns() -> u64 {
    let Ok(now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) else { return 0 };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec()).unwrap_or(0))
}
