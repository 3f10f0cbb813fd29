//! What each suite runs, and how long it may take before the watchdog calls it hung.
//!
//! Owns: the commands. Refuses: hiding a suite that cannot run here; it is reported as skipped, with its remedy.

use super::libtest::Libtest;
use super::programs::{self, Program};
use super::report::Report;
use super::{Args, Suite};
use crate::bootstrap::Ready;
use crate::build::{self, Part};
use crate::{mesh, run, tidy};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// Past these a step hangs. Generous: they bound the time of CI, they do not judge speed.
const QUICK_LIMIT: Duration = Duration::from_secs(600);
const COMPILE_LIMIT: Duration = Duration::from_secs(2700);
const TESTS_LIMIT: Duration = Duration::from_secs(1500);
const LONG_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// The release of Rust, `1.` this, whose every warning is an error.
const LINTS_OF: u32 = 95;

/// Runs one suite.
///
/// # Errors
/// When logs cannot be written.
pub(super) fn run(suite: Suite, ready: &Ready, args: &Args, report: &mut Report) -> Result<()> {
    match suite {
        Suite::Fmt => plain("cargo fmt", run::cargo().args(["fmt", "--all", "--", "--check"]), QUICK_LIMIT, report),
        Suite::Tidy => {
            for check in tidy::checks(&run::root())? {
                report.check(&format!("tidy {}", check.name), &check.problems);
            }
            Ok(())
        }
        Suite::Build => build(ready, report),
        Suite::Clippy => clippy(report),
        Suite::Unit => unit(args, report),
        Suite::C => c_tests(ready, report),
        Suite::Loom => loom(args, report),
        Suite::Miri => miri(ready, args, report),
        Suite::Bench => bench(report),
        Suite::Nodes => nodes(args, report),
    }
}

/// Every release of Rust warns of more. With one that is newer than the code was held to, warnings stay warnings, or a
/// tree that was green would turn red by itself; what the workspace forbids is an error with any.
fn clippy(report: &mut Report) -> Result<()> {
    let mut clippy = run::cargo();
    clippy.args(["clippy", "--workspace", "--all-targets"]);
    let version = run::output_of(run::cargo().arg("-V")).unwrap_or_default();
    match minor(&version) {
        Some(newer) if newer > LINTS_OF => {
            let name = format!("cargo clippy (errors only: Rust 1.{newer} warns of what 1.{LINTS_OF} did not)");
            plain(&name, &mut clippy, COMPILE_LIMIT, report)
        }
        _ => plain("cargo clippy", clippy.args(["--", "-D", "warnings"]), COMPILE_LIMIT, report),
    }
}

/// `95` of `cargo 1.95.0 (…)`.
fn minor(version: &str) -> Option<u32> {
    version.split_whitespace().nth(1)?.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

fn plain(name: &str, command: &mut Command, limit: Duration, report: &mut Report) -> Result<()> {
    let ran = run::step(name, command, limit, &mut |line| report.progress(line))?;
    report.step(name, &ran);
    Ok(())
}

fn tests(name: &str, command: &mut Command, args: &Args, report: &mut Report) -> Result<()> {
    let limit = if args.long { LONG_LIMIT } else { TESTS_LIMIT };
    let mut found = Libtest::default();
    let ran = run::step(name, command, limit, &mut |line| {
        found.line(line);
        report.progress(line);
    })?;
    report.tests(name, &ran, found, args.filter.is_some());
    Ok(())
}

fn build(ready: &Ready, report: &mut Report) -> Result<()> {
    for (name, part) in
        build::all(ready, false, &mut |name, line| report.progress(if line.is_empty() { name } else { line }))?
    {
        match part {
            Part::Built(ran) => report.step(&format!("build {name}"), &ran),
            Part::Skipped(lack) => report.skip(&format!("build {name}"), &lack),
        }
    }
    Ok(())
}

/// Ends the command line of a test program, or of the `cargo test` that starts some: filter, and libtest's own flags.
fn libtest_flags(command: &mut Command, args: &Args, prefix: Option<&str>) {
    if command.get_program() == run::cargo().get_program() || command.get_program() == "cargo" {
        command.arg("--");
    }
    // libtest takes several filters as "any of", so a prefix of ours gives way to the user's filter.
    command.args(args.filter.as_deref().or(prefix));
    command.arg("--show-output");
    if args.long {
        command.arg("--include-ignored").env("UNDERSTUDY_TEST_LONG", "1");
    }
}

fn unit(args: &Args, report: &mut Report) -> Result<()> {
    let Some(programs) = programs::compile(report)? else { return Ok(()) };
    let (crates, _) = programs::split(programs);
    run_programs("crates", &crates, args, report)?;
    let mut docs = run::cargo();
    docs.args(["test", "--workspace", "--doc", "--no-fail-fast"]);
    libtest_flags(&mut docs, args, None);
    let mut found = Libtest::default();
    let ran = run::step("documentation", &mut docs, COMPILE_LIMIT, &mut |line| {
        found.line(line);
        report.progress(line);
    })?;
    report.tests("documentation", &ran, found, true); // a workspace without examples in its documentation is fine
    Ok(())
}

/// Each test program is a step of its own: one that hangs takes no other with it.
fn run_programs(suite: &str, programs: &[Program], args: &Args, report: &mut Report) -> Result<()> {
    let limit = if args.long { LONG_LIMIT } else { TESTS_LIMIT };
    let mut total = 0;
    for program in programs {
        let mut command = program.command();
        libtest_flags(&mut command, args, None);
        let mut found = Libtest::default();
        found.line(&format!("Running {}", program.name));
        let ran = run::step(&format!("{suite} {}", program.name), &mut command, limit, &mut |line| {
            found.line(line);
            report.progress(line);
        })?;
        total += found.total();
        report.tests(&program.name, &ran, found, true);
    }
    if total == 0 && args.filter.is_none() {
        report.check(suite, &["ran no test".to_owned()]);
    }
    Ok(())
}

fn c_tests(ready: &Ready, report: &mut Report) -> Result<()> {
    if let Err(lack) = &ready.dovecot {
        report.skip("C tests", lack);
        return Ok(());
    }
    let mut found = Libtest::default();
    let mut make = build::dovecot_make(false);
    make.arg("check");
    let ran = run::step("C tests", &mut make, TESTS_LIMIT, &mut |line| {
        found.line(line);
        report.progress(line);
    })?;
    if ran.ok && found.total() == 0 {
        report.step("C checks", &ran); // they print no names
    } else {
        report.tests("C tests", &ran, found, false);
    }
    Ok(())
}

fn loom(args: &Args, report: &mut Report) -> Result<()> {
    let mut cargo = run::cargo();
    cargo.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", run::target_dir().join("loom"));
    // Optimised, because models take millions of steps; not linked as for a release, which takes minutes.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    cargo.args(["test", "--package", "understudy-ring", "--lib", "--release", "--no-fail-fast"]);
    libtest_flags(&mut cargo, args, Some("loom_"));
    tests("loom models", &mut cargo, args, report)
}

fn miri(ready: &Ready, args: &Args, report: &mut Report) -> Result<()> {
    let nightly = match &ready.miri {
        Ok(nightly) => nightly,
        Err(lack) => {
            report.skip("Miri", lack);
            return Ok(());
        }
    };
    let mut cargo = run::cargo_of(nightly);
    cargo.env("CARGO_TARGET_DIR", run::target_dir().join("miri")).env("MIRIFLAGS", "-Zmiri-disable-isolation");
    cargo.args(["miri", "test", "--package", "understudy-ring", "--no-fail-fast"]);
    libtest_flags(&mut cargo, args, Some("miri_"));
    tests("Miri", &mut cargo, args, report)
}

fn bench(report: &mut Report) -> Result<()> {
    for name in ["ring", "pipeline"] {
        let mut cargo = run::cargo();
        // Not optimised: what counts here is that it runs, and that build is there already.
        cargo.args(["run", "--quiet", "--package", "understudy-bench", "--", name, "--quick"]);
        plain(&format!("bench {name} --quick"), &mut cargo, COMPILE_LIMIT, report)?;
    }
    Ok(())
}

fn nodes(args: &Args, report: &mut Report) -> Result<()> {
    let Some(programs) = programs::compile(report)? else { return Ok(()) };
    let (_, nodes) = programs::split(programs);
    mesh::take_away_stale();
    run_programs("nodes", &nodes, args, report)
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn the_release_of_cargo_is_read() {
        assert_eq!(minor("cargo 1.95.0 (f2d3ce0bd 2026-03-21)"), Some(95));
        assert_eq!(minor("cargo 1.101.0-nightly"), Some(101));
        assert_eq!(minor(""), None);
    }
}
