//! `cargo xtask ci`: what CI runs. The same as `test`; a name of its own so that CI and contributors share one door.

use crate::test;
use anyhow::Result;

/// Arguments of `ci`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The command.
///
/// # Errors
/// As [`test::main`].
pub(crate) fn main(_args: &Args) -> Result<bool> {
    test::main(&test::Args::default())
}
