//! `cargo xtask bench NAME`: runs the measurements of the `bench` crate, built with optimisation.
//!
//! Owns: nothing but the call. Refuses: judging the figures.

use crate::run;
use anyhow::{Context, Result};

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the measurement and its own flags; without a name, what there is
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// The command.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn main(args: &Args) -> Result<bool> {
    let mut cargo = run::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "understudy-bench", "--"]).args(&args.rest);
    Ok(cargo.status().context("cannot start cargo")?.success())
}
