//! The workspace's test programs: compiled once, all together, then run one by one.
//!
//! Owns: which programs there are, as cargo says. Compiling the whole workspace at once keeps the features of its
//! dependencies the same for all, so nothing is compiled twice. Refuses: guessing from file names.

use super::report::Report;
use crate::run;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const COMPILE_LIMIT: Duration = Duration::from_secs(2700);
/// The crate whose test programs start several nodes.
const NODES_CRATE: &str = "understudy-tests";

/// One test program.
pub(super) struct Program {
    /// `CRATE` for a crate's own tests, `CRATE/TARGET` for others.
    pub(super) name: String,
    executable: PathBuf,
    folder: PathBuf,
    of_nodes: bool,
}

impl Program {
    /// Starts it as cargo would.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }
}

/// Compiles all of them; `None` when that failed, which is then reported.
///
/// # Errors
/// When logs cannot be written.
pub(super) fn compile(report: &mut Report) -> Result<Option<Vec<Program>>> {
    let mut cargo = run::cargo();
    cargo.args(["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"]);
    let mut found = Vec::new();
    let ran = run::step("compile tests", &mut cargo, COMPILE_LIMIT, &mut |line| {
        if line.starts_with('{') {
            found.extend(artifact(line));
        } else {
            report.progress(line);
        }
    })?;
    report.step("compile tests", &ran);
    Ok(ran.ok.then_some(found))
}

/// Programs of the crates, and programs that start nodes.
pub(super) fn split(programs: Vec<Program>) -> (Vec<Program>, Vec<Program>) {
    programs.into_iter().partition(|p| !p.of_nodes)
}

/// A test program out of one of cargo's messages.
fn artifact(line: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let executable = PathBuf::from(is_test.then(|| message["executable"].as_str())??);
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let target = message["target"]["name"].as_str()?;
    let own = message["target"]["kind"].as_array()?.iter().all(|kind| kind != "test");
    let package = package(&folder).unwrap_or_else(|_| target.to_owned());
    let name = if own { package.clone() } else { format!("{package}/{target}") };
    Some(Program { of_nodes: package == NODES_CRATE && !own, name, executable, folder })
}

fn package(folder: &Path) -> Result<String> {
    let text = std::fs::read_to_string(folder.join("Cargo.toml"))?;
    let manifest: toml::Value = toml::from_str(&text)?;
    manifest["package"]["name"].as_str().map(str::to_owned).context("a package without a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_apart() {
        let here = env!("CARGO_MANIFEST_DIR");
        let message = |kind: &str, test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": format!("{here}/Cargo.toml"),
                "target": {"name": "some", "kind": [kind]}, "profile": {"test": test}, "executable": "/x/some-1"
            })
            .to_string()
        };
        assert_eq!(artifact(&message("bin", true)).map(|p| p.name).as_deref(), Some("xtask"));
        assert_eq!(artifact(&message("test", true)).map(|p| p.name).as_deref(), Some("xtask/some"));
        assert!(artifact(&message("bin", false)).is_none());
        assert!(artifact("{}").is_none());
    }
}
