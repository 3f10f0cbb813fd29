//! `understudy quarantine`: accounts whose operations wait on this replica, and what is to be done about them.
//!
//! Owns: the flags and the table. Refuses: judging why an account waits.

use super::{Context, Exit, Failure, output};
use crate::control::model::Done;
use crate::control::orders::{QuarantineRequest, QuarantineRow};

/// Flags of `quarantine`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the accounts that wait on this node, and why
    List,
    /// Try an account's operations again now
    Retry(One),
    /// Pass over an account's operations: it gets a snapshot instead
    Skip(One),
}

/// Flags of `quarantine retry` and `quarantine skip`.
#[derive(Debug, clap::Args)]
pub struct One {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    pub account: String,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// Asks the agent and prints. Ends with 3 when accounts wait.
///
/// # Errors
///
/// No agent answers, or it refuses.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    match &args.command {
        Command::List => list(context),
        Command::Retry(one) => order(context, one, "/v1/quarantine/retry"),
        Command::Skip(one) => order(context, one, "/v1/quarantine/skip"),
    }
}

fn list(context: &Context) -> Result<Exit, Failure> {
    let rows: Vec<QuarantineRow> = context.client()?.get("/v1/quarantine")?;
    if context.global.json {
        context.print_json(&rows)?;
    } else if rows.is_empty() {
        output::text("no account waits on this node\n")?;
    } else {
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let since = format!("{}-{}", row.group, row.since_seq);
                vec![row.account.clone(), row.reason.clone(), since, row.detail.clone()]
            })
            .collect();
        output::text(&output::table(&["ACCOUNT", "WAITS FOR", "SINCE", "WHAT"], &cells))?;
    }
    Ok(if rows.is_empty() { Exit::Fine } else { Exit::Bad })
}

fn order(context: &Context, one: &One, path: &str) -> Result<Exit, Failure> {
    let request = QuarantineRequest { account: one.account.clone(), dry_run: one.dry_run };
    let done: Done = context.client()?.post(path, &request)?;
    super::done(context, &done, one.dry_run)
}
