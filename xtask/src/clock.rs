//! The one place of `xtask` that reads a clock: for progress, and for watchdogs that end a hung step.

use std::time::Instant;

/// Now, for measuring how long something has taken.
pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the one place of xtask that reads the clock")]
    Instant::now()
}

/// `m:ss` of a number of seconds.
pub(crate) fn minutes(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
