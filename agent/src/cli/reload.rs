//! `understudy reload`: the agent reads rules, account lists and placement again, as on SIGHUP, and says the result.

use super::{Context, Exit, Failure, output};
use crate::control::model::Done;

/// Flags of `reload`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Asks the agent and prints what changed.
///
/// # Errors
///
/// No agent answers, or what it read cannot be used; then the old rules stay in force.
pub fn run(context: &Context, _args: &Args) -> Result<Exit, Failure> {
    let done: Done = context.client()?.post("/v1/reload", &())?;
    if context.global.json {
        context.print_json(&done)?
    } else {
        output::text(&(done.done + "\n"))?
    }
    Ok(Exit::Fine)
}
