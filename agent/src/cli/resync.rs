//! `understudy resync ACCOUNT`: has the active node copy an account to its replicas anew.

use super::{Context, Exit, Failure, output};
use crate::control::model::{Done, ResyncRequest};

/// Flags of `resync`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Account to copy
    #[arg(value_name = "ACCOUNT")]
    pub account: String,
}

/// Asks the agent and prints what it began.
///
/// # Errors
///
/// No agent answers, or it refuses.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let done: Done = context.client()?.post("/v1/resync", &ResyncRequest { account: args.account.clone() })?;
    if context.global.json {
        context.print_json(&done)?
    } else {
        output::text(&(done.done + "\n"))?
    }
    Ok(Exit::Fine)
}
