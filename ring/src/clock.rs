//! The only place of this crate that reads a clock.
//!
//! Owns: CLOCK_MONOTONIC in nanoseconds, which agent and store of one host share, and CLOCK_BOOTTIME, which goes on
//! while the host sleeps: what may be changed only until some time must not be changed after a night in suspend.
//! CLOCK_MONOTONIC is read only where a caller waits, CLOCK_BOOTTIME while publishing, and only when a deadline is in
//! force; the kernel answers both without a system call.
//! What can hurt: a time namespace with another offset between agent and store; the agent then looks absent, or alive
//! for too long, which changes only who waits. A deadline would end too early or too late by that offset: agent and
//! store must be in one time namespace (containers are, unless somebody asks for another).

use nix::time::ClockId;

fn read(clock: ClockId) -> Option<u64> {
    let now = nix::time::clock_gettime(clock).ok()?;
    let seconds = u64::try_from(now.tv_sec()).ok()?;
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec()).ok()?))
}

/// CLOCK_MONOTONIC, in nanoseconds; 0 if it cannot be read.
pub(crate) fn mono_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).unwrap_or(0)
}

/// CLOCK_BOOTTIME, in nanoseconds; past every deadline if it cannot be read.
pub(crate) fn boot_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME).unwrap_or(u64::MAX)
}
