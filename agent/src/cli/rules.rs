//! `understudy rules resolve`: which rule decides about which account, and what follows.
//!
//! Owns: the table. With `--dry-run` the configuration on disk is asked, so that a change can be looked at before
//! the agent reads it; without, the rules in force. Refuses: changing anything.

use super::client::quote;
use super::{Context, Exit, Failure, output};
use crate::config::{ConfigError, Placement, Severity};
use crate::control::model::{RuleRow, Status};
use crate::control::resolve;
use crate::rules::Rules;

/// Flags of `rules`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print accounts with their group, nodes, level, kinds, and the rule that decided
    Resolve(Resolve),
}

/// Flags of `rules resolve`.
#[derive(Debug, clap::Args)]
pub struct Resolve {
    /// Accounts; none: those that lists, rules and placement name, and those that the running agent knows
    #[arg(value_name = "ACCOUNT")]
    pub accounts: Vec<String>,
    /// Ask the configuration on disk, not the running agent
    #[arg(long)]
    pub dry_run: bool,
    /// Also accounts that the running agent knows; it is an error when none answers
    #[arg(long, conflicts_with = "accounts")]
    pub all_known: bool,
}

/// Prints the table.
///
/// # Errors
///
/// The configuration cannot be used, or no agent answers where one is needed.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let Command::Resolve(args) = &args.command;
    let rows = if args.dry_run { dry_run(context, args)? } else { in_force(context, args)? };
    if context.global.json {
        context.print_json(&rows)?;
    } else {
        output::text(&render(&rows))?;
    }
    Ok(Exit::Fine)
}

fn dry_run(context: &Context, args: &Resolve) -> Result<Vec<RuleRow>, Failure> {
    let config = context.load()?.config;
    let (rules, problems) = Rules::build(&config);
    let problems: Vec<_> = problems.into_iter().filter(|problem| problem.severity == Severity::Error).collect();
    if !problems.is_empty() {
        return Err(ConfigError { problems }.into());
    }
    let placement = Placement::build(&config).map_err(|problems| ConfigError { problems })?;
    let mut accounts = args.accounts.clone();
    if accounts.is_empty() {
        accounts = rules.named_accounts();
        accounts.extend(placement.placed_accounts().map(str::to_owned));
        match context.client().and_then(|client| client.get::<Status>("/v1/status?accounts=true")) {
            Ok(status) => accounts.extend(status.accounts.into_iter().map(|account| account.name)),
            Err(failure) if args.all_known => return Err(failure),
            Err(_) => {}
        }
        accounts.sort_unstable();
        accounts.dedup();
    }
    Ok(accounts.iter().map(|account| resolve::row(&config, &placement, &rules, account)).collect())
}

fn in_force(context: &Context, args: &Resolve) -> Result<Vec<RuleRow>, Failure> {
    let client = context.client()?;
    if args.accounts.is_empty() {
        return client.get("/v1/rules");
    }
    let mut rows = Vec::new();
    for account in &args.accounts {
        rows.extend(client.get::<Vec<RuleRow>>(&format!("/v1/rules?account={}", quote(account)))?);
    }
    Ok(rows)
}

fn hold(row: &RuleRow) -> String {
    let window = match row.hold.classes.len() {
        0 => String::new(),
        2 => format!("{} s", row.hold.window_seconds),
        _ => format!("{} s ({})", row.hold.window_seconds, row.hold.classes.join(",")),
    };
    let brake = if row.hold.brake { format!("brake over {}", row.hold.brake_floor) } else { String::new() };
    match (window.is_empty(), brake.is_empty()) {
        (true, true) => "-".to_owned(),
        (false, false) => format!("{window}, {brake}"),
        _ => window + &brake,
    }
}

fn render(rows: &[RuleRow]) -> String {
    if rows.is_empty() {
        return "no account is named by a list, a rule or the placement, and no agent was asked; name accounts\n"
            .to_owned();
    }
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let kinds = if row.kinds.len() == 5 { "all".to_owned() } else { row.kinds.join(",") };
            let timing = if row.replicate && row.level != "none" {
                format!("{} after {} ms", row.on_timeout, row.wait_timeout_ms)
            } else {
                "-".to_owned()
            };
            let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
            vec![
                row.account.clone(),
                row.group.to_string(),
                row.active.clone(),
                dash(row.replicas.join(",")),
                if row.replicate { row.level.clone() } else { "not replicated".to_owned() },
                dash(kinds),
                timing,
                if row.replicate { row.on_full.clone() } else { "-".to_owned() },
                if row.replicate { hold(row) } else { "-".to_owned() },
                row.rule.clone(),
            ]
        })
        .collect();
    output::table(&["ACCOUNT", "GROUP", "ACTIVE", "REPLICAS", "LEVEL", "KINDS", "LATE", "FULL", "HOLD", "RULE"], &cells)
}
