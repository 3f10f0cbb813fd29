//! `cargo xtask test`: everything that shows the project works, with one closing line that counts all of it.
//!
//! Owns: the order of the steps, what each needs, and the account of passes, failures and skips by name.
//! What can hurt: a checker that ran on nothing; that is a failure, as is an end without any test. A part that this
//! machine cannot run is skipped by name, with its reason. Refuses: asserting speed.

mod libtest;
mod programs;
mod report;
mod steps;

use crate::bootstrap::{self, Group};
use anyhow::Result;

/// Arguments of `test`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only tests whose name contains this (steps without named tests are left out)
    #[arg(long)]
    filter: Option<String>,
    /// Only these suites
    #[arg(long = "suite", value_enum)]
    suites: Vec<Suite>,
    /// Also the tests that take long
    #[arg(long)]
    long: bool,
    /// Install nothing; use what is there
    #[arg(long)]
    no_bootstrap: bool,
}

/// A suite: a part of the whole that can be asked for alone. In the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// `cargo fmt --check`
    Fmt,
    /// `cargo xtask tidy`
    Tidy,
    /// Kernel programs, workspace, store plugins
    Build,
    /// Lints, with warnings as errors
    Clippy,
    /// Tests of the Rust crates
    Unit,
    /// Tests of the C code
    C,
    /// Models of the ring's algorithm
    Loom,
    /// The ring under Miri
    Miri,
    /// The measurements, in their quick modes
    Bench,
    /// Several nodes with real processes
    Nodes,
}

impl Suite {
    const ALL: [Self; 10] = [
        Self::Fmt,
        Self::Tidy,
        Self::Build,
        Self::Clippy,
        Self::Unit,
        Self::C,
        Self::Loom,
        Self::Miri,
        Self::Bench,
        Self::Nodes,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Tidy => "tidy",
            Self::Build => "build",
            Self::Clippy => "clippy",
            Self::Unit => "unit",
            Self::C => "c",
            Self::Loom => "loom",
            Self::Miri => "miri",
            Self::Bench => "bench",
            Self::Nodes => "nodes",
        }
    }

    /// What it needs of the machine.
    fn needs(self) -> &'static [Group] {
        match self {
            Self::Fmt => &[Group::Lint],
            Self::Tidy => &[],
            Self::Build | Self::C => &Group::BUILD,
            Self::Clippy => &[Group::Base, Group::Lint],
            Self::Loom => &[Group::Base],
            Self::Miri => &[Group::Miri],
            Self::Unit | Self::Bench | Self::Nodes => &Group::TRIALS,
        }
    }

    /// True if `--filter` chooses from its tests. Loom and Miri have a filter of their own already; with `--suite`
    /// it gives way to the user's.
    fn is_filtered(self, asked_for: bool) -> bool {
        matches!(self, Self::Unit | Self::Nodes) || asked_for && matches!(self, Self::Loom | Self::Miri)
    }
}

/// The command.
///
/// # Errors
/// When logs cannot be written. A failed test is not an error but `false`.
pub(crate) fn main(args: &Args) -> Result<bool> {
    let wanted: Vec<Suite> = Suite::ALL
        .into_iter()
        .filter(|s| args.suites.is_empty() || args.suites.contains(s))
        .filter(|s| args.filter.is_none() || s.is_filtered(!args.suites.is_empty()))
        .collect();
    let needs = |group: &Group| !args.no_bootstrap && wanted.iter().any(|suite| suite.needs().contains(group));
    let ready = bootstrap::ensure(&Group::ALL.into_iter().filter(needs).collect::<Vec<_>>(), false, false);
    let mut report = report::Report::new(wanted.len());
    for suite in wanted {
        report.begin(suite.name());
        steps::run(suite, &ready, args, &mut report)?;
    }
    Ok(report.finish())
}
