//! The files that git knows (tracked, and new ones that are not ignored), and checks on them as files.
//!
//! Owns: reading them once. Refuses: following what git ignores.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// Lines past which a source file is refused, and past which it is worth a note.
pub(super) const LINES_MAX: usize = 600;
const LINES_NOTE: usize = 400;
/// Folders whose binary files are meant: golden bytes and fuzz seeds.
const BINARY_FOLDERS: [&str; 4] = ["/golden/", "/testdata/", "/seeds/", "/corpus/"];

/// One file.
pub(super) struct SourceFile {
    /// From the top folder, with `/`.
    pub(super) path: String,
    /// Text, or `None` for binary.
    pub(super) text: Option<String>,
    /// Tracked by git (and not only new).
    tracked: bool,
}

impl SourceFile {
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(super) fn is_c(&self) -> bool {
        self.path.ends_with(".c") || self.path.ends_with(".h")
    }

    pub(super) fn is_shell(&self) -> bool {
        self.path.ends_with(".sh")
            || self.lines().next().is_some_and(|l| l.starts_with("#!") && (l.contains("bash") || l.ends_with("/sh")))
    }

    /// Lines of code: without what stands behind the first test module.
    pub(super) fn code_lines(&self) -> usize {
        self.lines().take_while(|l| l.trim() != "#[cfg(test)]").count()
    }

    pub(super) fn lines(&self) -> std::str::Lines<'_> {
        self.text.as_deref().unwrap_or("").lines()
    }

    #[cfg(test)]
    pub(super) fn of(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: Some(text.to_owned()), tracked: true }
    }
}

/// Reads them all.
///
/// # Errors
/// When git fails, for instance outside a checkout.
pub(super) fn read(root: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for (flags, tracked) in [(&["--cached"][..], true), (&["--others", "--exclude-standard"][..], false)] {
        let listed = Command::new("git").current_dir(root).args(["ls-files", "-z"]).args(flags).output();
        let listed = listed.context("cannot start git")?;
        ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim());
        for path in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|p| !p.is_empty()) {
            let Ok(bytes) = std::fs::read(root.join(path)) else { continue }; // deleted, not yet committed
            let text = if bytes.contains(&0) { None } else { String::from_utf8(bytes).ok() };
            files.push(SourceFile { path: path.to_owned(), text, tracked });
        }
    }
    Ok(files)
}

/// What is worth saying and no reason to fail.
pub(super) fn notes(files: &[SourceFile]) -> Vec<String> {
    let long = files.iter().filter(|f| f.is_rust() || f.is_c()).filter_map(|f| {
        let lines = f.code_lines();
        (lines > LINES_NOTE)
            .then(|| format!("{}: {lines} lines of code; one job each, 150 to {LINES_NOTE} lines", f.path))
    });
    long.collect()
}

/// Binary files have no business in the repository, except golden bytes.
pub(super) fn binaries(files: &[SourceFile]) -> Vec<String> {
    let bad = files.iter().filter(|f| f.tracked && f.text.is_none());
    let bad = bad.filter(|f| !f.path.ends_with(".zdict")); // the compression dictionary is compiled in
    let bad = bad.filter(|f| !BINARY_FOLDERS.iter().any(|folder| f.path.contains(folder)));
    bad.map(|f| format!("{}: a binary file outside {}", f.path, BINARY_FOLDERS.join(" "))).collect()
}

/// Shell scripts parse.
pub(super) fn shell(root: &Path, files: &[SourceFile]) -> Vec<String> {
    let scripts = files.iter().filter(|f| f.is_shell());
    let checked = scripts.filter_map(|f| {
        let done = Command::new("bash").current_dir(root).arg("-n").arg(&f.path).output().ok()?;
        (!done.status.success()).then(|| format!("{}: {}", f.path, String::from_utf8_lossy(&done.stderr).trim()))
    });
    checked.collect()
}
