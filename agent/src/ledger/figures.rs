//! From observed time to figures: how often, how long, how many nines; and what a chain of copies is worth.
//!
//! Owns: the formulas (`docs/availability.md`). What can hurt: a figure of nothing; where nothing was observed, or
//! nothing failed, there is none. Refuses: rounding; whoever prints does that.

use super::{DAY_MS, Ledger, Subject};

/// Figures of one subject.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub up_ms: u64,
    pub down_ms: u64,
    pub failures: u64,
    pub longest_ms: u64,
    pub user_ms: u64,
}

#[expect(clippy::cast_precision_loss, reason = "53 bits of milliseconds are 285,000 years")]
fn float(n: u64) -> f64 {
    n as f64
}

impl Figures {
    /// From the days since `since_ms` on; the day in which it lies counts whole.
    #[must_use]
    pub fn of(ledger: &Ledger, of: Subject, since_ms: u64) -> Self {
        let mut sum = Self::default();
        for day in ledger.days_of(of, since_ms / DAY_MS) {
            sum.up_ms += day.up_ms;
            sum.down_ms += day.down_ms;
            sum.user_ms += day.user_ms;
            sum.failures += day.failures.len() as u64;
            let longest = day.failures.iter().map(|failure| failure.to_ms.saturating_sub(failure.from_ms)).max();
            sum.longest_ms = sum.longest_ms.max(longest.unwrap_or(0));
        }
        // One that began before goes on in this time.
        sum.failures = sum.failures.max(u64::from(sum.down_ms > 0));
        sum
    }

    /// F: mean time between failures, in milliseconds.
    #[must_use]
    pub fn between_ms(&self) -> Option<f64> {
        (self.failures > 0).then(|| float(self.up_ms) / float(self.failures))
    }

    /// R: mean time to repair, in milliseconds.
    #[must_use]
    pub fn repair_ms(&self) -> Option<f64> {
        (self.failures > 0).then(|| float(self.down_ms) / float(self.failures))
    }

    /// A = F / (F + R), which is the share of the observed time that was up.
    #[must_use]
    pub fn availability(&self) -> Option<f64> {
        let observed = self.up_ms + self.down_ms;
        (observed > 0).then(|| float(self.up_ms) / float(observed))
    }
}

/// How many nines: 0.999 has 3. `None`: nothing was ever down, so that there is no last nine.
#[must_use]
pub fn nines(availability: f64) -> Option<f64> {
    (availability < 1.0).then(|| -(1.0 - availability).log10())
}

/// What a group with these copies is worth, by what its nodes were: each failure of the active node costs the time of
/// a takeover, and while all are down at one time there is nobody to take over. The active node comes first.
/// `None`: of one of them nothing is known.
#[must_use]
pub fn chain(copies: &[Figures], takeover_ms: u64) -> Option<f64> {
    let (active, others) = copies.split_first()?;
    let mut all_down = 1.0;
    for copy in copies {
        all_down *= 1.0 - copy.availability()?;
    }
    if others.is_empty() {
        return Some(1.0 - all_down);
    }
    // A repair that is faster than a takeover ends the outage itself.
    let cost_ms = active.repair_ms().unwrap_or(0.0).min(float(takeover_ms));
    let cycle_ms = active.between_ms().unwrap_or(0.0) + active.repair_ms().unwrap_or(0.0);
    let takeovers = if cycle_ms > 0.0 { cost_ms / cycle_ms } else { 0.0 };
    Some((1.0 - takeovers - all_down).max(0.0))
}
