//! Placeholder: `understudy doctor`.

use super::{Context, Exit, Failure};

/// Flags of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// # Errors
///
/// Always, for now.
pub fn run(_context: &Context, _args: &Args) -> Result<Exit, Failure> {
    Err(Failure::Other("not there yet".into()))
}
