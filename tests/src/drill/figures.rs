//! What a drill found, as figures: per account, per run, and over all runs.
//!
//! Owns: the arithmetic and the verdict. What can hurt: figures of a busy machine; the longest pause before each event
//! stands beside the one that the event made. Refuses: rounding anything in favour of the product.

use crate::outage::{Record, Series, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;

/// How one account's users met one event.
#[derive(Clone, Debug, Serialize)]
pub struct Felt {
    pub account: String,
    /// Its active node was the one that the event hit.
    pub affected: bool,
    /// Longest time without a session that succeeded, from a second before the event until all were served again. The
    /// time between two sessions is part of it.
    pub pause_ms: u64,
    /// The same for the seconds before that: what this machine does without an event.
    pub pause_before_ms: u64,
    pub sessions: u64,
    pub sessions_failed: u64,
    pub deliveries_failed: u64,
    /// Longest time from Postfix's acknowledgement until a session saw the message.
    pub delivery_max_ms: u64,
    pub errors: BTreeMap<String, u64>,
}

/// One event.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub node: String,
    /// When it began, since the users began.
    pub at_ms: u64,
    /// Until every account had been served again, after the end of what was done; `None` = not in time.
    pub served_ms: Option<u64>,
    /// From the healing until all replicas were in sync; `None` = not in time.
    pub in_sync_ms: Option<u64>,
    /// Groups whose epoch changed.
    pub epochs_changed: usize,
    /// Messages that only the node that was cut off had acknowledged (`partition`).
    pub written_apart: usize,
    /// Messages that merges brought back.
    pub brought: u64,
    pub accounts: Vec<Felt>,
    /// What is not as it should be.
    pub faults: Vec<String>,
}

/// Median, 95th percentile and maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    pub count: usize,
    pub median_ms: u64,
    pub p95_ms: u64,
    pub max_ms: u64,
}

impl Spread {
    #[must_use]
    pub fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |percent: usize| {
            let nth = (values.len() * percent).div_ceil(100).saturating_sub(1);
            values.get(nth).copied().unwrap_or(0)
        };
        Self { count: values.len(), median_ms: at(50), p95_ms: at(95), max_ms: at(100) }
    }
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub what: String,
    pub level: String,
    pub accounts: usize,
    pub interval_ms: u64,
    pub bound_ms: u64,
    /// Load of the machine (one minute) at the beginning, and its processors.
    pub load: String,
    /// Longest pause of sessions of accounts that an event hit.
    pub outage: Spread,
    /// The same of the seconds before it.
    pub before: Spread,
    /// The same of accounts that the event did not hit.
    pub others: Spread,
    /// Longest way of a delivery to an account that was hit.
    pub delivery: Spread,
    pub sessions_failed: u64,
    pub deliveries_failed: u64,
    pub verdict: Verdict,
    /// Of `verdict.repeated`, those that Postfix handed over again, since it had got no answer the first time.
    pub repeated_deliveries: usize,
    /// Accounts whose replicas are not equal at the end, and how.
    pub differ: Vec<String>,
    pub runs: Vec<Run>,
}

impl Report {
    /// Nothing was lost or doubled, all were served again within the bound, and replicas are equal.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.problems().is_empty()
    }

    /// Why not.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = Vec::new();
        problems.extend(self.verdict.missing.iter().map(|id| format!("lost: {id}")));
        problems.extend(self.verdict.repeated.iter().map(|id| format!("there more than once: {id}")));
        problems.extend(self.differ.iter().map(|what| format!("replicas differ: {what}")));
        for (nth, run) in (1..).zip(&self.runs) {
            problems.extend(run.faults.iter().map(|fault| format!("run {nth} ({}): {fault}", run.node)));
            // Between two sessions nobody looks.
            let late = |felt: &&Felt| felt.affected && felt.pause_ms.saturating_sub(self.interval_ms) > self.bound_ms;
            let over = run.accounts.iter().filter(late);
            problems.extend(over.map(|felt| {
                format!("run {nth} ({}): {} waited {} ms, past the bound", run.node, felt.account, felt.pause_ms)
            }));
        }
        problems
    }
}

/// How an event from `at_ms` until `to_ms` was felt; `hit` names accounts of the node.
#[must_use]
pub(super) fn felt(record: &Record, at_ms: u64, to_ms: u64, hit: &[String]) -> Vec<Felt> {
    let from_ms = at_ms.saturating_sub(1000);
    let during = record.between(from_ms, to_ms);
    let before = record.between(from_ms.saturating_sub(3000), from_ms);
    let errors = |series: [&Series; 2]| {
        let mut all: BTreeMap<String, u64> = BTreeMap::new();
        series.iter().flat_map(|s| &s.errors).for_each(|(text, count)| *all.entry(text.clone()).or_default() += count);
        all
    };
    let accounts = during.accounts.iter().zip(&before.accounts);
    let one = |(during, before): (&crate::outage::AccountReport, &crate::outage::AccountReport)| Felt {
        account: during.name.clone(),
        affected: hit.contains(&during.name),
        pause_ms: during.imap.pause_max_ms,
        pause_before_ms: before.imap.pause_max_ms,
        sessions: during.imap.attempts,
        sessions_failed: during.imap.failed,
        deliveries_failed: during.smtp.failed,
        delivery_max_ms: during.delivery.max_ms,
        errors: errors([&during.imap, &during.smtp]),
    };
    accounts.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_values_that_were_there() {
        assert_eq!(Spread::of(vec![]), Spread::default());
        assert_eq!(Spread::of(vec![7]), Spread { count: 1, median_ms: 7, p95_ms: 7, max_ms: 7 });
        let hundred = Spread::of((1..=100).rev().collect());
        assert_eq!(hundred, Spread { count: 100, median_ms: 50, p95_ms: 95, max_ms: 100 });
    }
}
