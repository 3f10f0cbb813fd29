//! `cargo xtask tidy`: checks what no compiler checks.
//!
//! Owns: the list of checks; each takes the files that git knows and returns findings as `path:line: what`.
//! Refuses: taste. A rule that is not worth failing a build for is a note, or is not here.

mod documents;
mod files;
mod imports;
mod source;

use crate::run;
use anyhow::{Context, Result, bail};
use files::SourceFile;
use std::path::Path;

/// Arguments of `tidy`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// One check and what it found.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) problems: Vec<String>,
}

/// The command.
///
/// # Errors
/// When git cannot list the files, or there are none.
pub(crate) fn main(_args: &Args) -> Result<bool> {
    let root = run::root();
    for note in files::notes(&files::read(&root)?) {
        println!("note: {note}");
    }
    let mut findings = 0;
    for check in checks(&root)? {
        findings += check.problems.len();
        check.problems.iter().for_each(|p| println!("{p} [{}]", check.name));
    }
    println!("tidy: {findings} findings");
    Ok(findings == 0)
}

/// Runs all checks on the files under `root`.
///
/// # Errors
/// When git cannot list the files, or there are none.
pub(crate) fn checks(root: &Path) -> Result<Vec<Check>> {
    let files = files::read(root).context("cannot read the files that git knows")?;
    if !files.iter().any(SourceFile::is_rust) {
        bail!("tidy found no source file to check");
    }
    let each =
        |name, check: fn(&SourceFile) -> Vec<String>| Check { name, problems: files.iter().flat_map(check).collect() };
    Ok(vec![
        each("module heads", source::head),
        each("lengths", source::lengths),
        each("banned words", source::banned),
        each("clocks", source::clocks),
        each("atomics", source::atomics),
        each("unsafe", source::unsafe_fence),
        Check { name: "import directions", problems: imports::check(&files) },
        Check { name: "documents", problems: documents::check(root, &files) },
        Check { name: "binaries", problems: files::binaries(&files) },
        Check { name: "shell syntax", problems: files::shell(root, &files) },
    ])
}
