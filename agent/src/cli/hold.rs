//! `understudy hold`: what replicas hold of what was destroyed, and what is to become of it.
//!
//! Owns: the flags, and how held operations are shown: one line for each mailbox, as a storm has thousands. Refuses:
//! deciding; the agents know what they hold.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::client::quote;
use super::{Context, Exit, Failure, output, time};
use crate::clock;
use crate::control::orders::{HoldDone, HoldRequest, HoldRow, UndoReport};

/// Flags of `hold`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what is held
    List(List),
    /// Apply held operations now: what they destroy is gone
    Release(Release),
    /// Bring back on the active node what held operations would destroy
    Undo(Undo),
}

/// Flags of `hold list`.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Of this account, on all its nodes; none: of all accounts on this node and its peers
    #[arg(value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// One line for each operation
    #[arg(long)]
    pub all: bool,
}

/// Flags of `hold release`.
#[derive(Debug, clap::Args)]
pub struct Release {
    /// An account, or ids of held operations
    #[arg(value_name = "ACCOUNT|ID", required = true)]
    pub what: Vec<String>,
    /// Only say what would be applied
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `hold undo`.
#[derive(Debug, clap::Args)]
pub struct Undo {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    pub account: String,
    /// Only what was done since then: `2h` (ago), `2026-01-31 14:30` (UTC), or RFC 3339
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only this held operation; may be repeated
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// Only say what would come back
    #[arg(long)]
    pub dry_run: bool,
}

/// Asks the agent and prints.
///
/// # Errors
///
/// No agent answers, or it refuses.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    match &args.command {
        Command::List(args) => list(context, args),
        Command::Release(args) => release(context, args),
        Command::Undo(args) => undo(context, args),
    }
}

fn list(context: &Context, args: &List) -> Result<Exit, Failure> {
    let query = args.account.as_deref().map_or_else(String::new, |account| format!("?account={}", quote(account)));
    let rows: Vec<HoldRow> = context.client()?.get(&format!("/v1/hold{query}"))?;
    if context.global.json {
        context.print_json(&rows)?;
    } else if rows.is_empty() {
        output::text("nothing is held\n")?;
    } else {
        output::text(&if args.all { each(&rows) } else { by_mailbox(&rows) })?;
    }
    Ok(Exit::Fine)
}

fn left(row: &HoldRow) -> String {
    match row.left_seconds {
        None => "BRAKED".to_owned(),
        Some(seconds) => output::seconds(seconds),
    }
}

fn each(rows: &[HoldRow]) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.id.clone(),
                row.node.clone(),
                row.account.clone(),
                row.class.clone(),
                row.mailbox.clone(),
                row.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
                time::show(row.captured_wall_ns),
                left(row),
            ]
        })
        .collect();
    output::table(&["ID", "NODE", "ACCOUNT", "CLASS", "MAILBOX", "UID", "DONE AT", "LEFT"], &cells)
}

fn by_mailbox(rows: &[HoldRow]) -> String {
    let mut groups: BTreeMap<(&str, &str, &str, &str), Vec<&HoldRow>> = BTreeMap::new();
    for row in rows {
        groups.entry((&row.account, &row.node, &row.mailbox, &row.class)).or_default().push(row);
    }
    let cells: Vec<Vec<String>> = groups
        .into_iter()
        .filter_map(|((account, node, mailbox, class), rows)| {
            let first = rows.iter().min_by_key(|row| row.captured_wall_ns)?;
            Some(vec![
                account.to_owned(),
                node.to_owned(),
                class.to_owned(),
                mailbox.to_owned(),
                rows.len().to_string(),
                time::show(first.captured_wall_ns),
                left(first),
                first.id.clone(),
            ])
        })
        .collect();
    output::table(&["ACCOUNT", "NODE", "CLASS", "MAILBOX", "COUNT", "FIRST DONE AT", "LEFT", "FIRST ID"], &cells)
}

/// An id has its group's number before the sign; an account that looks like one can be named with its domain.
fn is_id(text: &str) -> bool {
    crate::apply::hold::HeldKey::parse(text).is_some()
}

fn release(context: &Context, args: &Release) -> Result<Exit, Failure> {
    let (ids, accounts): (Vec<String>, Vec<String>) = args.what.iter().cloned().partition(|text| is_id(text));
    let mut requests: Vec<HoldRequest> = accounts
        .into_iter()
        .map(|account| HoldRequest { account: Some(account), dry_run: args.dry_run, ..HoldRequest::default() })
        .collect();
    // Each by itself: they may be of several groups.
    requests.extend(ids.into_iter().map(|id| HoldRequest {
        ids: vec![id],
        dry_run: args.dry_run,
        ..HoldRequest::default()
    }));
    let client = context.client()?;
    let mut all = HoldDone { dry_run: args.dry_run, ..HoldDone::default() };
    for request in requests {
        let done: HoldDone = client.post("/v1/hold/release", &request)?;
        all.done += done.done;
        all.left += done.left;
        all.problems.extend(done.problems);
    }
    if context.global.json {
        context.print_json(&all)?;
    } else {
        let verb = if all.dry_run { "would be applied" } else { "applied" };
        let mut text = format!("{} held operations {verb}", all.done);
        if all.left > 0 {
            let _ = write!(text, ", {} could not be and stay held", all.left);
        }
        text.push('\n');
        all.problems.iter().for_each(|problem| text.push_str(&format!("  - {problem}\n")));
        output::text(&text)?;
    }
    Ok(if all.left == 0 && all.problems.is_empty() { Exit::Fine } else { Exit::Bad })
}

fn undo(context: &Context, args: &Undo) -> Result<Exit, Failure> {
    let since = args.since.as_deref().map(|text| time::moment_ns(text, clock::wall_ns()));
    let request = HoldRequest {
        account: Some(args.account.clone()),
        ids: args.ids.clone(),
        since_wall_ns: since.transpose().map_err(Failure::Usage)?,
        dry_run: args.dry_run,
        undone: true,
    };
    let report: UndoReport = context.client()?.post("/v1/hold/undo", &request)?;
    if context.global.json {
        context.print_json(&report)?;
    } else {
        output::text(&render(&report))?;
    }
    Ok(if report.failed == 0 && report.problems.is_empty() { Exit::Fine } else { Exit::Bad })
}

fn render(report: &UndoReport) -> String {
    let verb = if report.dry_run { "would come back" } else { "came back" };
    let mut text = format!(
        "account {}: {} messages {verb} on {}, held on {}; {} were there already, {} failed\n",
        report.account, report.restored, report.active, report.node, report.already_there, report.failed
    );
    for mailbox in &report.mailboxes {
        let made = match (mailbox.created, report.dry_run) {
            (true, false) => " (made again)",
            (true, true) => " (to be made again)",
            (false, _) => "",
        };
        let _ = writeln!(text, "  {}{made}: {} messages", mailbox.name, mailbox.restored + mailbox.already_there);
    }
    report.problems.iter().for_each(|problem| text.push_str(&format!("  - {problem}\n")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_one_line_for_each_mailbox() {
        let row = |uid: u32, mailbox: &str| HoldRow {
            id: format!("3-{uid}"),
            node: "b".into(),
            account: "u@x".into(),
            class: "expunge".into(),
            mailbox: mailbox.into(),
            uid: Some(uid),
            captured_wall_ns: u64::from(uid) * 1_000_000_000,
            left_seconds: Some(60.0),
            ..HoldRow::default()
        };
        let rows: Vec<HoldRow> = (1..=500).map(|uid| row(uid, if uid % 2 == 0 { "INBOX" } else { "Work" })).collect();
        let text = by_mailbox(&rows);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("250") && text.contains("3-1") && text.contains("60.0 s"), "{text}");
        assert_eq!(each(&rows).lines().count(), 501);
        let braked = HoldRow { left_seconds: None, ..row(1, "INBOX") };
        assert!(by_mailbox(&[braked]).contains("BRAKED"));
        assert!(is_id("3-17") && is_id("3-17.2") && !is_id("u@x") && !is_id("u-1@x"));
    }

    #[test]
    fn a_report_says_what_came_back() {
        let mailbox = crate::control::orders::UndoMailbox {
            name: "Work".into(),
            created: true,
            restored: 3,
            ..Default::default()
        };
        let report = UndoReport {
            account: "u@x".into(),
            node: "b".into(),
            active: "a".into(),
            restored: 3,
            mailboxes: vec![mailbox],
            problems: vec!["c is away".into()],
            ..UndoReport::default()
        };
        let text = render(&report);
        assert!(text.contains("3 messages came back on a") && text.contains("Work (made again): 3"), "{text}");
        assert!(render(&UndoReport { dry_run: true, ..report }).contains("would come back"));
    }
}
