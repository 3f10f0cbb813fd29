//! HAProxy's agent-check: one line that says what this node is to a balancer.
//!
//! Owns: the words. Each line says the whole state, because HAProxy keeps what an earlier line said: `ready` takes back
//! an earlier `drain` or `maint`, `up` an earlier `down` (seen with 2.6.12). Refuses: reading what HAProxy sends.

use super::{Health, Standing};
use crate::limits::AGENT_CHECK_REASON_BYTES_MAX;

/// The answer, with its line end: without it HAProxy ignores the line.
#[must_use]
pub fn line(health: &Health) -> String {
    match &health.standing {
        Standing::Serving { percent } => format!("up ready {}%\n", percent.min(&100)),
        Standing::Draining => "up drain\n".to_owned(),
        Standing::Maintenance => "maint\n".to_owned(),
        Standing::Down(why) => {
            // The reason ends the line, so nothing in it may.
            let clean = why.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' });
            format!("down #{}\n", clean.take(AGENT_CHECK_REASON_BYTES_MAX).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(standing: Standing) -> String {
        line(&Health {
            node: "a".into(),
            standing,
            active_groups: 1,
            replica_groups: 0,
            lag_s: None,
            parked_accounts: 0,
        })
    }

    #[test]
    fn every_state_is_one_line() {
        assert_eq!(said(Standing::Serving { percent: 100 }), "up ready 100%\n");
        assert_eq!(said(Standing::Serving { percent: 255 }), "up ready 100%\n");
        assert_eq!(said(Standing::Draining), "up drain\n");
        assert_eq!(said(Standing::Maintenance), "maint\n");
        assert_eq!(said(Standing::Down("no\nup ready 100%".into())), "down #no up ready 100%\n");
        assert!(said(Standing::Down("x".repeat(10_000))).len() < 300);
    }
}
