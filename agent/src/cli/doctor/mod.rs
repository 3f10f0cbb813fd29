//! `understudy doctor`: what this host has of what the agent needs; each line fine, or the problem with its remedy.
//!
//! Owns: the list of checks and their order. What can hurt: a check that says "fine" because it could not look; what
//! cannot be looked at is said. Refuses: changing the host, and needing a configuration: without one, what belongs to
//! it is left out.

mod host;
mod kernel;
mod store;

use serde::Serialize;

use super::{Context, Exit, Failure, output};
use crate::config::check::check_host;
use crate::config::{Config, Severity};
pub use host::Host;

/// Flags of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Fine,
    /// The agent runs without it, and lacks what `detail` says.
    Limited,
    /// The agent cannot do its work.
    Problem,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Verdict,
    pub detail: String,
    /// What to do about it; empty when it is fine.
    pub remedy: String,
}

impl Finding {
    fn fine(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fine, detail: detail.into(), remedy: String::new() }
    }

    fn limited(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Limited, detail: detail.into(), remedy: remedy.into() }
    }

    fn problem(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Problem, detail: detail.into(), remedy: remedy.into() }
    }
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    fine: bool,
    findings: Vec<Finding>,
}

/// Looks and prints.
///
/// # Errors
///
/// Standard output is closed.
pub fn run(context: &Context, _args: &Args) -> Result<Exit, Failure> {
    let host = Host::this();
    let (config, mut findings) = configuration(context);
    findings.extend(kernel::findings(&host));
    findings.extend(store::findings(&host, config.as_ref()));
    let fine = findings.iter().all(|finding| finding.verdict != Verdict::Problem);
    if context.global.json {
        context.print_json(&Report { version: super::version(), fine, findings })?;
    } else {
        output::text(&render(&findings))?;
    }
    Ok(if fine { Exit::Fine } else { Exit::Bad })
}

/// The configuration where there is one, and what is wrong with it.
fn configuration(context: &Context) -> (Option<Config>, Vec<Finding>) {
    const CHECK: &str = "configuration";
    let file = context.config_file();
    if context.global.config.is_none() && !file.exists() {
        let detail = format!("`{}` does not exist; the checks that need it are left out", file.display());
        return (None, vec![Finding::limited(CHECK, detail, "write it; an example is in /usr/share/doc/understudy/")]);
    }
    match context.load() {
        Ok(loaded) => {
            let found = check_host(&loaded.config);
            let mut findings: Vec<Finding> = found
                .iter()
                .map(|problem| {
                    let detail = format!("`{}`: {}", problem.key, problem.problem);
                    match problem.severity {
                        Severity::Error => Finding::problem(CHECK, detail, problem.remedy.clone()),
                        Severity::Warning => Finding::limited(CHECK, detail, problem.remedy.clone()),
                    }
                })
                .collect();
            if findings.is_empty() {
                findings.push(Finding::fine(CHECK, format!("`{}` can be used", file.display())));
            }
            (Some(loaded.config), findings)
        }
        Err(failure) => {
            let findings = failure
                .to_string()
                .lines()
                .map(|line| Finding::problem(CHECK, line, "see `understudy config check`"))
                .collect();
            (None, findings)
        }
    }
}

/// The report for people.
#[must_use]
pub fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Fine => "fine   ",
            Verdict::Limited => "limited",
            Verdict::Problem => "PROBLEM",
        };
        text.push_str(&format!("{verdict}  {:width$}  {}\n", finding.check, finding.detail));
        if !finding.remedy.is_empty() {
            text.push_str(&format!("{:>width$}  remedy: {}\n", "", finding.remedy, width = width + 9));
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    text.push_str(&format!(
        "{} fine, {} limited, {} problems\n",
        count(Verdict::Fine),
        count(Verdict::Limited),
        count(Verdict::Problem)
    ));
    text
}

#[cfg(test)]
mod tests;
