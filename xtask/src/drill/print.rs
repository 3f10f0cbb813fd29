//! What a drill found, for people.
//!
//! Owns: the words. Refuses: leaving out what was not as it should be.

use understudy_tests::drill::{Report, Spread};

/// Problems past this are counted, not listed.
const LISTED_MAX: usize = 40;

/// Prints all of it.
pub(super) fn report(report: &Report) {
    println!(
        "{}: {} runs, {} accounts at level {}, a session and a delivery each {} ms; load {}",
        report.what,
        report.runs.len(),
        report.accounts,
        report.level,
        report.interval_ms,
        report.load
    );
    line("outage that users saw", report.outage);
    line("pauses before the events", report.before);
    line("pauses of other accounts", report.others);
    line("way of a delivery", report.delivery);
    println!("  {:<26} {} sessions, {} deliveries", "failed", report.sessions_failed, report.deliveries_failed);
    let synced: Vec<u64> = report.runs.iter().filter_map(|run| run.in_sync_ms).collect();
    line("in sync after healing", Spread::of(synced));
    let (apart, brought) = report.runs.iter().fold((0, 0), |sum, run| (sum.0 + run.written_apart, sum.1 + run.brought));
    if apart > 0 {
        println!("  {:<26} {apart} messages, {brought} brought back by merges", "acknowledged while cut off");
    }
    let verdict = &report.verdict;
    println!(
        "  {:<26} {} messages: {} missing, {} there twice ({} of them delivered again by Postfix)",
        "acknowledged",
        verdict.acknowledged,
        verdict.missing.len(),
        verdict.repeated.len(),
        report.repeated_deliveries
    );
    println!("  {:<26} {} there, {} not", "without an answer", verdict.unknown_there, verdict.unknown_absent);
    println!("  {:<26} {} accounts differ", "active and replicas", report.differ.len());
    let problems = report.problems();
    problems.iter().take(LISTED_MAX).for_each(|problem| println!("  NOT as it should be: {problem}"));
    if problems.len() > LISTED_MAX {
        println!("  and {} more", problems.len() - LISTED_MAX);
    }
}

fn line(name: &str, spread: Spread) {
    let Spread { count, median_ms, p95_ms, max_ms } = spread;
    println!("  {name:<26} median {median_ms} ms, p95 {p95_ms} ms, max {max_ms} ms ({count} figures)");
}
