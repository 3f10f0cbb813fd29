//! Histories that are known give figures that are known.

use super::figures::{Figures, chain, nines};
use super::*;

const DAY: u64 = 20_000 * DAY_MS;

fn of() -> Subject {
    Subject::Group(GroupId(7))
}

/// One look a second, from one second to another.
fn look(ledger: &mut Ledger, seconds: std::ops::Range<u64>, seen: Seen) {
    for second in seconds {
        ledger.on(Sight { of: of(), seen, users: 10 }, DAY + second * 1000);
    }
}

const DOWN: Seen = Seen::Down { failing_ms: 0 };

fn figures(ledger: &Ledger) -> Figures {
    Figures::of(ledger, of(), DAY)
}

#[test]
fn a_known_history_has_known_figures() {
    let mut ledger = Ledger::default();
    look(&mut ledger, 0..1001, Seen::Up);
    look(&mut ledger, 1001..1011, DOWN);
    look(&mut ledger, 1011..2000, Seen::Up);
    look(&mut ledger, 2000..2030, DOWN);
    look(&mut ledger, 2030..2041, Seen::Up);
    let figures = figures(&ledger);
    // The second between up and down counts as up, the one between down and up as down.
    let expected = Figures { up_ms: 2_000_000, down_ms: 40_000, failures: 2, longest_ms: 30_000, user_ms: 400_000 };
    assert_eq!(figures, expected);
    assert_eq!((figures.between_ms(), figures.repair_ms()), (Some(1_000_000.0), Some(20_000.0)));
    let availability = figures.availability().expect("observed");
    assert!((availability - 1_000_000.0 / 1_020_000.0).abs() < 1e-12);
}

#[test]
fn what_a_canary_knows_of_before_counts_as_down() {
    let mut ledger = Ledger::default();
    look(&mut ledger, 0..11, Seen::Up);
    ledger.on(Sight { of: of(), seen: Seen::Down { failing_ms: 700 }, users: 0 }, DAY + 11_000);
    let figures = figures(&ledger);
    assert_eq!((figures.up_ms, figures.down_ms, figures.failures), (10_300, 700, 1));
}

#[test]
fn a_service_that_flaps_has_failed_once() {
    let mut ledger = Ledger::default();
    look(&mut ledger, 0..100, Seen::Up);
    for round in 0..10 {
        look(&mut ledger, 100 + round * 4..102 + round * 4, DOWN);
        look(&mut ledger, 102 + round * 4..104 + round * 4, Seen::Up);
    }
    look(&mut ledger, 140..200, Seen::Up);
    let flapped = figures(&ledger);
    assert_eq!((flapped.failures, flapped.down_ms, flapped.longest_ms), (1, 20_000, 38_000));
    look(&mut ledger, 200..203, DOWN);
    assert_eq!(figures(&ledger).failures, 2);
}

#[test]
fn time_in_which_nobody_looked_is_neither_up_nor_down() {
    let mut ledger = Ledger::default();
    look(&mut ledger, 0..11, Seen::Up);
    look(&mut ledger, 1000..1011, Seen::Up);
    look(&mut ledger, 1011..1012, Seen::Unknown);
    look(&mut ledger, 1012..1013, Seen::Up);
    assert_eq!((figures(&ledger).up_ms, figures(&ledger).down_ms), (20_000, 0));
    // Down before and after: one failure, of which only what was seen counts as down.
    look(&mut ledger, 1013..1021, DOWN);
    look(&mut ledger, 2000..2011, DOWN);
    let figures = figures(&ledger);
    assert_eq!((figures.failures, figures.down_ms), (1, 17_000));
    assert_eq!((ledger.now(of(), DAY + 2_010_500), ledger.now(of(), DAY + 2_100_000)), (Some(false), None));
    // A wall clock that goes back counts nothing.
    ledger.on(Sight { of: of(), seen: DOWN, users: 0 }, DAY + 1_000);
    assert_eq!(Figures::of(&ledger, of(), DAY).down_ms, 17_000);
}

#[test]
fn nothing_observed_has_no_figures_and_all_up_has_no_last_nine() {
    let none = Figures::default();
    assert_eq!((none.availability(), none.between_ms(), none.repair_ms()), (None, None, None));
    let mut ledger = Ledger::default();
    look(&mut ledger, 0..11, Seen::Up);
    assert_eq!(figures(&ledger).availability(), Some(1.0));
    assert_eq!(nines(1.0), None);
    assert!((nines(0.999).expect("some") - 3.0).abs() < 1e-9);
}

#[test]
fn a_chain_costs_its_takeovers_and_the_time_when_all_are_down() {
    let node = Figures { up_ms: 990_000, down_ms: 10_000, failures: 1, ..Figures::default() };
    let near = |a: Option<f64>, b: f64| (a.expect("known") - b).abs() < 1e-12;
    assert!(near(chain(&[node], 2_000), 0.99));
    assert!(near(chain(&[node, node], 2_000), 1.0 - 0.002 - 0.0001));
    assert!(near(chain(&[node, node, node], 2_000), 1.0 - 0.002 - 0.000_001));
    // Repaired faster than taken over.
    assert!(near(chain(&[node, node], 60_000), 1.0 - 0.01 - 0.0001));
    assert_eq!(chain(&[node, Figures::default()], 2_000), None);
}

#[test]
fn days_are_kept_in_files_and_an_open_failure_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ledger = Ledger::default();
    look(&mut ledger, 0..11, Seen::Up);
    look(&mut ledger, 11..21, DOWN);
    for (day, page) in ledger.take_dirty() {
        let text = serde_json::to_vec(&page).expect("plain data");
        std::fs::write(folder.path().join(format!("{day}.json")), text).expect("written");
    }
    assert!(ledger.take_dirty().is_empty());
    std::fs::write(folder.path().join("other.json"), "?").expect("written");
    let mut again = file::read(folder.path());
    assert_eq!(figures(&again), figures(&ledger));
    look(&mut again, 60..71, DOWN);
    assert_eq!((figures(&again).failures, figures(&again).down_ms), (1, 19_000));
    assert_eq!(again.subjects().into_iter().collect::<Vec<_>>(), [of()]);
}

#[test]
fn a_day_has_a_limited_number_of_failures() {
    let mut ledger = Ledger::default();
    for n in 0..LEDGER_FAILURES_MAX as u64 + 50 {
        look(&mut ledger, n * 20..n * 20 + 2, DOWN);
        look(&mut ledger, n * 20 + 2..n * 20 + 20, Seen::Up);
    }
    assert_eq!(figures(&ledger).failures, LEDGER_FAILURES_MAX as u64);
}
