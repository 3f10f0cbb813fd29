//! What a run of chaos saw: a table of events with the outages that users measured, and violations.
//!
//! Owns: which event an outage belongs to, and the words. Refuses: judging a length.

use super::event::Event;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use understudy_tests::outage::{Outage, Record, Series, median};

/// One event as it went.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Happened {
    #[serde(flatten)]
    pub(super) event: Event,
    pub(super) name: String,
    /// Since the users began.
    pub(super) at_ms: u64,
    pub(super) healed_ms: u64,
    /// From the heal until all groups had all their replicas in sync; `null` when that did not come in time.
    pub(super) whole_after_ms: Option<u64>,
    /// Of sessions, and of mail handed over: one figure per account that was affected, its longest outage.
    pub(super) imap: Outages,
    pub(super) smtp: Outages,
}

/// Outages of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Outages {
    pub(super) accounts: usize,
    pub(super) median_ms: u64,
    pub(super) max_ms: u64,
    /// Of these, the longest that began only when it was healed.
    pub(super) after_heal_max_ms: u64,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) accounts: usize,
    pub(super) seconds: u64,
    pub(super) events: Vec<Happened>,
    /// Acknowledged, by name.
    pub(super) operations: BTreeMap<String, u64>,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    /// Acknowledged, and not found when a user wanted to act on them.
    pub(super) not_found: Vec<String>,
    /// As `understudy merge list` says it, by node.
    pub(super) merges: BTreeMap<String, Value>,
    /// Messages that are there twice, where the report of a merge names them.
    pub(super) excused: Vec<String>,
    pub(super) violations: Vec<String>,
    /// What this host or this mesh cannot do.
    pub(super) left_out: Vec<String>,
    pub(super) logs: String,
}

impl Report {
    /// Puts the outages that users measured to the events that caused them.
    pub(super) fn measure(&mut self, record: &Record) {
        let spans: Vec<(u64, u64)> = self.events.iter().map(|e| (e.at_ms, e.healed_ms)).collect();
        for account in &record.accounts {
            for (attempts, smtp) in [(&account.imap, false), (&account.smtp, true)] {
                let mut worst: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
                for outage in Series::of(attempts, record.length_ms).outages {
                    let Some((nth, after)) = cause(&spans, &outage) else { continue };
                    let of = worst.entry(nth).or_default();
                    of.0 = of.0.max(outage.length_ms());
                    of.1 = of.1.max(if after { outage.length_ms() } else { 0 });
                }
                for (nth, (longest, after)) in worst {
                    let event = &mut self.events[nth];
                    let of = if smtp { &mut event.smtp } else { &mut event.imap };
                    of.accounts += 1;
                    of.max_ms = of.max_ms.max(longest);
                    of.after_heal_max_ms = of.after_heal_max_ms.max(after);
                }
            }
        }
        for nth in 0..self.events.len() {
            for smtp in [false, true] {
                let mut all: Vec<u64> = record
                    .accounts
                    .iter()
                    .filter_map(|account| {
                        let attempts = if smtp { &account.smtp } else { &account.imap };
                        let outages = Series::of(attempts, record.length_ms).outages;
                        outages
                            .iter()
                            .filter(|o| cause(&spans, o).is_some_and(|c| c.0 == nth))
                            .map(Outage::length_ms)
                            .max()
                    })
                    .collect();
                let event = &mut self.events[nth];
                let of = if smtp { &mut event.smtp } else { &mut event.imap };
                of.median_ms = median(&mut all);
            }
        }
    }

    /// For people.
    pub(super) fn print(&self) {
        println!("seed {}, {} nodes, {} accounts, {} s", self.seed, self.nodes, self.accounts, self.seconds);
        println!(
            "{:<34} {:>7} {:>6} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8}",
            "EVENT", "AT s", "FOR s", "ACCOUNTS", "MEDIAN s", "MAX s", "HEALED s", "MAIL MAX", "WHOLE s"
        );
        let seconds = |ms: u64| format!("{}.{:01}", ms / 1000, ms % 1000 / 100);
        for event in &self.events {
            println!(
                "{:<34} {:>7} {:>6} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8}",
                event.name,
                seconds(event.at_ms),
                seconds(event.healed_ms - event.at_ms),
                event.imap.accounts,
                seconds(event.imap.median_ms),
                seconds(event.imap.max_ms),
                seconds(event.imap.after_heal_max_ms),
                seconds(event.smtp.max_ms),
                event.whole_after_ms.map_or("NEVER".to_owned(), seconds),
            );
        }
        let operations: Vec<String> = self.operations.iter().map(|(name, count)| format!("{name} {count}")).collect();
        println!("acknowledged: {}", operations.join(", "));
        println!("refused {}, fate unknown {}", self.refused, self.unknown);
        self.left_out.iter().for_each(|what| println!("left out: {what}"));
        self.excused.iter().for_each(|what| println!("named by a merge: {what}"));
        self.not_found.iter().for_each(|what| println!("not found when it was wanted: {what}"));
        self.violations.iter().for_each(|what| println!("VIOLATION {what}"));
        println!("logs: {}", self.logs);
        match self.violations.len() {
            0 => println!("everything is as users were told"),
            count => println!("NOT as it should be: {count} violations (seed {})", self.seed),
        }
    }
}

/// The event that an outage belongs to, and whether it began only after the event was over: the first one that
/// happened or ended while nothing succeeded, else the last one before.
fn cause(spans: &[(u64, u64)], outage: &Outage) -> Option<(usize, bool)> {
    let within = |at_ms: u64| (outage.from_ms..=outage.to_ms).contains(&at_ms);
    if let Some(nth) = spans.iter().position(|(at_ms, _)| within(*at_ms)) {
        return Some((nth, false));
    }
    let nth = spans.iter().rposition(|(at_ms, _)| *at_ms <= outage.from_ms)?;
    Some((nth, spans[nth].1 <= outage.from_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_belongs_to_the_event_in_it_or_before_it() {
        let spans = [(1000, 4000), (9000, 12000)];
        let of = |from_ms, to_ms| {
            let outage = Outage { from_ms, to_ms, failures: 1, open: false, first_error: String::new() };
            cause(&spans, &outage)
        };
        assert_eq!(of(900, 2500), Some((0, false)));
        assert_eq!(of(2000, 2500), Some((0, false)));
        assert_eq!(of(4100, 4300), Some((0, true)));
        assert_eq!(of(8990, 30000), Some((1, false)));
        assert_eq!(of(0, 500), None);
    }
}
