//! `understudy pause` and `understudy resume`: stop replication or failover of something for a while, with who and why.
//!
//! Owns: the flags and the table. Refuses: a pause without a reason.

use super::{Context, Exit, Failure, output, time};
use crate::control::model::Done;
use crate::control::orders::{PauseDone, PauseRequest, PauseRow, ResumeRequest};

/// Flags of `pause`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub begin: Begin,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the pauses in force
    List,
}

/// Flags of `pause` that begin one; required where no subcommand stands.
#[derive(Debug, clap::Args)]
pub struct Begin {
    /// What is paused: `replication` (replicas journal and do not apply) or `failover`
    #[arg(long, value_name = "WHAT", required = true, value_parser = ["replication", "failover"])]
    pub what: Option<String>,
    #[command(flatten)]
    pub scope: Scope,
    /// Why, for those who find it
    #[arg(long, required = true)]
    pub reason: Option<String>,
    /// Who answers for it [default: the user who asks]
    #[arg(long)]
    pub owner: Option<String>,
    /// For how long: `90s`, `30m`, `2h`, `7d` [default: until it is resumed]
    #[arg(long = "for", value_name = "DURATION")]
    pub duration: Option<String>,
    /// Only say what would be paused
    #[arg(long)]
    pub dry_run: bool,
}

/// What a pause is for.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Scope {
    /// One account
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// One group
    #[arg(long, value_name = "GROUP")]
    pub group: Option<u32>,
    /// What is applied on one node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// What this node ships to one peer
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// Everything
    #[arg(long)]
    pub cluster: bool,
}

/// Flags of `resume`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// Id of the pause
    #[arg(value_name = "ID")]
    pub id: String,
    /// Only say what would be resumed
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
        None => pause(context, &args.begin),
        Some(Command::List) => list(context),
    }
}

fn pause(context: &Context, args: &Begin) -> Result<Exit, Failure> {
    let asks = || ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let request = PauseRequest {
        what: args.what.clone().unwrap_or_default(),
        account: args.scope.account.clone(),
        group: args.scope.group,
        node: args.scope.node.clone(),
        peer: args.scope.peer.clone(),
        cluster: args.scope.cluster,
        reason: args.reason.clone().unwrap_or_default(),
        owner: args.owner.clone().or_else(asks).unwrap_or_else(|| "root".to_owned()),
        for_seconds: args.duration.as_deref().map(time::duration_s).transpose().map_err(Failure::Usage)?,
        dry_run: args.dry_run,
    };
    let done: PauseDone = context.client()?.post("/v1/pause", &request)?;
    if context.global.json {
        context.print_json(&done)?;
    } else if done.dry_run {
        output::text(&format!("would be: {}\n", done.done))?;
    } else {
        output::text(&format!("{}\n`understudy resume {}` ends it\n", done.done, done.pause.id))?;
    }
    Ok(Exit::Fine)
}

fn list(context: &Context) -> Result<Exit, Failure> {
    let rows: Vec<PauseRow> = context.client()?.get("/v1/pauses")?;
    if context.global.json {
        context.print_json(&rows)?;
    } else if rows.is_empty() {
        output::text("nothing is paused\n")?;
    } else {
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                vec![
                    row.id.clone(),
                    row.what.clone(),
                    if row.local { format!("{} (this node only)", row.scope) } else { row.scope.clone() },
                    row.owner.clone(),
                    time::show(row.since_wall_ns),
                    row.left_seconds.map_or_else(|| "until resumed".to_owned(), output::seconds),
                    row.reason.clone(),
                ]
            })
            .collect();
        output::text(&output::table(&["ID", "WHAT", "SCOPE", "OWNER", "SINCE", "LEFT", "REASON"], &cells))?;
    }
    Ok(Exit::Fine)
}

/// `understudy resume`.
///
/// # Errors
///
/// No agent answers, or there is no such pause.
pub fn resume(context: &Context, args: &ResumeArgs) -> Result<Exit, Failure> {
    let request = ResumeRequest { id: args.id.clone(), dry_run: args.dry_run };
    let done: Done = context.client()?.post("/v1/resume", &request)?;
    super::done(context, &done, args.dry_run)
}
