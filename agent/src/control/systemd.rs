//! What the service manager is told. Every call is a no-op when there is none.
//!
//! Owns: the words of sd_notify. What can hurt: a watchdog that is fed by a thread that is alive while the node
//! stands still; so only the node's loop calls [`watchdog`], after it made progress.

use std::time::Duration;

use sd_notify::NotifyState;

/// The node serves; `status` is the line that `systemctl status` shows.
pub fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A new line for `systemctl status`.
pub fn status(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Status(status)]);
}

/// The node's loop went round.
pub fn watchdog() {
    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
}

/// The node stops on its own will.
pub fn stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

/// How often [`watchdog`] is to be called: half of what the service manager allows; `None` when it does not watch.
#[must_use]
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|allowed| allowed / 2)
}
