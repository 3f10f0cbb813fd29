//! Every bench in its quick mode: it runs, its rows are there and make sense. No time is judged.
//!
//! Owns: nothing but the calls; they are the program's own, because a bench starts further processes of itself.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs a bench and gives its report; `directory` must be empty afterwards.
fn report(arguments: &[&str], directory: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy-bench"));
    let done = command.args(arguments).args(["--quick", "--json"]).current_dir(directory).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{arguments:?}: {error}");
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0, "something is left behind");
    serde_json::from_slice(&done.stdout).unwrap()
}

fn rows_make_sense(report: &Value, count: usize) {
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), count, "{report}");
    for row in rows {
        let [p50, p99, rate] = ["p50_ns", "p99_ns", "per_second"].map(|name| row[name]["median"].as_f64().unwrap());
        assert!(p50 > 0.0 && p50 <= p99 && rate > 0.0, "{row}");
    }
    for ratio in report["ratios"].as_array().unwrap() {
        assert!(ratio["ratio"]["median"].as_f64().unwrap() > 0.0, "{ratio}");
    }
}

#[test]
fn ring_runs() {
    let directory = tempfile::tempdir().unwrap();
    rows_make_sense(&report(&["ring", "--pairs", "2"], directory.path()), 7);
}

#[test]
fn pipeline_runs_on_two_agents() {
    let directory = tempfile::tempdir().unwrap();
    let report = report(&["pipeline", "--dir", "."], directory.path());
    rows_make_sense(&report, 6);
    assert!(report["operations_per_fsync"].as_f64().unwrap() >= 1.0, "{report}");
}

#[test]
fn journal_runs() {
    let directory = tempfile::tempdir().unwrap();
    let report = report(&["journal", "--dir", "."], directory.path());
    if let Some(refused) = report["io_uring_refused"].as_str() {
        println!("SKIPPED journal_runs (on io_uring): {refused}");
    }
    rows_make_sense(&report, if report["io_uring_refused"].is_null() { 5 } else { 3 });
}
