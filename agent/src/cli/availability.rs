//! `understudy availability`: how often and how long nodes and groups were down, as this node saw it.
//!
//! Owns: printing, and the words for what is not known. Refuses: formulas; `ledger::figures` has them.

use super::{Context, Exit, Failure, output};
use crate::control::model::{Availability, AvailabilityRow};

/// Flags of `availability`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How far to look back: whole days (30d) or weeks (4w)
    #[arg(long, default_value = "30d", value_name = "TIME", value_parser = days)]
    pub since: u64,
}

fn days(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let times = match unit {
        "d" => 1,
        "w" => 7,
        _ => return Err("it must be whole days or weeks, such as `30d` or `4w`".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{number}` is no number"))?;
    number.checked_mul(times).filter(|days| *days > 0).ok_or_else(|| "it must be a day at least".to_owned())
}

/// Asks the agent and prints.
///
/// # Errors
///
/// No agent answers.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let report: Availability = context.client()?.get(&format!("/v1/availability?days={}", args.since))?;
    if context.global.json {
        context.print_json(&report)?;
    } else {
        output::text(&render(&report))?;
    }
    Ok(Exit::Fine)
}

fn percent(availability: Option<f64>) -> String {
    availability.map_or_else(|| "-".to_owned(), |a| format!("{:.4} %", a * 100.0))
}

fn render(report: &Availability) -> String {
    let seconds = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), output::seconds);
    let cells = |row: &AvailabilityRow| {
        vec![
            format!("{} {}", row.kind, row.name),
            row.now.clone(),
            output::seconds(row.observed_seconds),
            row.failures.to_string(),
            seconds(row.between_seconds),
            seconds(row.repair_seconds),
            if row.failures > 0 { output::seconds(row.longest_seconds) } else { "-".to_owned() },
            percent(row.availability),
            row.nines.map_or_else(|| "-".to_owned(), |nines| format!("{nines:.1}")),
            format!("{:.1}", row.user_minutes_lost),
            percent(row.predicted),
        ]
    };
    let rows: Vec<_> = report.rows.iter().map(cells).collect();
    let head = [
        "WHAT",
        "NOW",
        "OBSERVED",
        "FAILURES",
        "BETWEEN (F)",
        "REPAIR (R)",
        "LONGEST",
        "AVAILABLE",
        "NINES",
        "USER-MIN LOST",
        "PREDICTED",
    ];
    let table = output::table(&head, &rows);
    format!(
        "{table}\nas `{}` saw it in the last {} days; a takeover is taken to last {}\n",
        report.observer,
        report.days,
        output::seconds(report.takeover_seconds)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_weeks_are_understood_and_nothing_else() {
        assert_eq!((days("30d"), days("4w")), (Ok(30), Ok(28)));
        for text in ["", "d", "0d", "5", "5h", "-1d", "ä", "99999999999999999999w"] {
            assert!(days(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let row =
            AvailabilityRow { kind: "group".into(), name: "7".into(), now: "unknown".into(), ..Default::default() };
        let text = render(&Availability { rows: vec![row], days: 30, ..Availability::default() });
        assert!(text.contains("group 7") && text.contains(" - ") && !text.contains('%'), "{text}");
    }
}
