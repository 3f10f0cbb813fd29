//! Placeholder: `understudy cert`. `Args` and `run` are what `cli` needs of it.

use super::{Context, Exit, Failure};

/// Flags of `cert`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
///
/// Always, for now.
pub fn run(_context: &Context, _args: &Args) -> Result<Exit, Failure> {
    Err(Failure::Other("not there yet".into()))
}
