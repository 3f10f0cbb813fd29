//! `understudy merge list|show`: merges of what this node alone had when it came back, and their reports.
//!
//! Owns: printing. Refuses: merging; the agent does that by itself, and tries again for ever.

use clap::Subcommand;

use super::client::quote;
use super::{Context, Exit, Failure, output};
use crate::control::model::{MergeFinding, MergeRow};

/// Flags of `merge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List merges, newest first, with accounts that wait
    List,
    /// Print the report of one merge
    Show(ShowArgs),
}

/// Flags of `merge show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Name of the merge, as `merge list` prints it
    #[arg(value_name = "GROUP-EPOCH")]
    pub name: String,
    /// Only conflicts: where one of the two sides did not get its way
    #[arg(long)]
    pub conflicts: bool,
    /// Only this account
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
}

/// Asks the agent and prints.
///
/// # Errors
///
/// No agent answers, or there is no such merge.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    match &args.command {
        Command::List => list(context),
        Command::Show(args) => show(context, args),
    }
}

fn list(context: &Context) -> Result<Exit, Failure> {
    let rows: Vec<MergeRow> = context.client()?.get("/v1/merges")?;
    if context.global.json {
        context.print_json(&rows)?;
    } else {
        output::text(&render_list(&rows))?;
    }
    let waits = rows.iter().any(|row| !row.waiting.is_empty());
    Ok(if waits { Exit::Bad } else { Exit::Fine })
}

fn render_list(rows: &[MergeRow]) -> String {
    if rows.is_empty() {
        return "no merge: this node never came back with changes of its own\n".to_owned();
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.name.clone(),
                row.active.clone(),
                if row.done { "done" } else { "under way" }.to_owned(),
                format!("{}/{}", row.merged, row.accounts),
                row.brought.to_string(),
                row.conflicts.to_string(),
                row.waiting.len().to_string(),
            ]
        })
        .collect();
    let mut out =
        output::table(&["MERGE", "INTO", "STATE", "ACCOUNTS", "MESSAGES BROUGHT", "CONFLICTS", "WAITING"], &cells);
    for row in rows {
        for waiting in &row.waiting {
            out.push_str(&format!("{}: account `{}` waits: {}\n", row.name, waiting.account, waiting.why));
        }
    }
    out
}

fn show(context: &Context, args: &ShowArgs) -> Result<Exit, Failure> {
    let lines: Vec<MergeFinding> = context.client()?.get(&format!("/v1/merge?name={}", quote(&args.name)))?;
    let wanted = |line: &MergeFinding| {
        (!args.conflicts || line.conflict) && args.account.as_ref().is_none_or(|account| *account == line.account)
    };
    let lines: Vec<MergeFinding> = lines.into_iter().filter(wanted).collect();
    if context.global.json {
        context.print_json(&lines)?;
    } else {
        output::text(&render_report(&lines))?;
    }
    Ok(Exit::Fine)
}

fn render_report(lines: &[MergeFinding]) -> String {
    if lines.is_empty() {
        return "nothing to report\n".to_owned();
    }
    let cells: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let uid = if line.uid == 0 { String::new() } else { line.uid.to_string() };
            vec![
                line.account.clone(),
                line.what.clone(),
                line.mailbox.clone(),
                uid,
                line.object.clone(),
                line.here.clone(),
                line.there.clone(),
                line.decision.clone(),
            ]
        })
        .collect();
    output::table(&["ACCOUNT", "WHAT", "MAILBOX", "UID", "OBJECT", "HERE", "THERE", "DECISION"], &cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::model::MergeWaiting;

    #[test]
    fn a_list_names_who_waits_and_a_report_both_values() {
        let waiting = vec![MergeWaiting { account: "u@x".into(), why: "the peer is not connected".into() }];
        let row = MergeRow {
            name: "3-7".into(),
            active: "b".into(),
            accounts: 9,
            merged: 4,
            brought: 2,
            conflicts: 1,
            waiting,
            ..MergeRow::default()
        };
        let text = render_list(&[row]);
        assert!(text.contains("3-7    b     under way  4/9"), "{text}");
        assert!(text.contains("account `u@x` waits: the peer is not connected"), "{text}");
        let line = MergeFinding {
            account: "u@x".into(),
            what: "flags-conflict".into(),
            mailbox: "INBOX".into(),
            uid: 5,
            here: "\\Seen".into(),
            there: "\\Flagged".into(),
            ..MergeFinding::default()
        };
        let text = render_report(&[line]);
        assert!(text.contains("flags-conflict  INBOX    5") && text.contains("\\Seen  \\Flagged"), "{text}");
        assert!(render_list(&[]).contains("no merge") && render_report(&[]).contains("nothing"));
    }
}
