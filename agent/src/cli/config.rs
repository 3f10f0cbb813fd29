//! `understudy config`: check a file, or show what is in force and where each value came from.
//!
//! Owns: printing. What can hurt: a secret on a screen; values of secret keys are never shown. Refuses: repairing.

use std::path::PathBuf;

use serde::Serialize;

use super::{Context, Exit, Failure, output};
use crate::config::check::check_host;
use crate::config::keys::{KEYS, Kind};
use crate::config::model::CoordinatorKind;
use crate::config::path::pattern;
use crate::config::{Config, KeyPath, Origin, Problem, Severity, Sources, load};
use crate::failover::{Settings, budget};

/// Flags of `config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check a configuration, and that this host has what it names
    Check {
        /// File to check [default: as `--config`]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Check the file alone, not the files and groups that it names on this host
        #[arg(long)]
        no_host: bool,
    },
    /// Print every value that is in force
    Show {
        /// Also where each value came from
        #[arg(long)]
        origin: bool,
    },
}

/// Checks or shows.
///
/// # Errors
///
/// The configuration cannot be used (`show`), or standard output is closed.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    match &args.command {
        Command::Check { file, no_host } => {
            let file = file.clone().unwrap_or_else(|| context.config_file());
            check(context, file, !no_host)
        }
        Command::Show { origin } => show(context, *origin),
    }
}

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    valid: bool,
    problems: Vec<Problem>,
}

fn check(context: &Context, file: PathBuf, host: bool) -> Result<Exit, Failure> {
    let problems = match load(&Sources::of_process(Some(file.clone()), context.global.set.clone())) {
        Ok(loaded) => {
            let mut problems = loaded.warnings.clone();
            problems.extend(budget(&loaded.config));
            if host {
                problems.extend(check_host(&loaded.config).into_iter().map(|mut problem| {
                    problem.origin = crate::config::origin_of(&loaded.values, &problem.key);
                    problem
                }));
            }
            problems
        }
        Err(error) => error.problems,
    };
    let valid = problems.iter().all(|problem| problem.severity != Severity::Error);
    let report = Report { file, valid, problems };
    if context.global.json {
        context.print_json(&report)?;
    } else {
        let mut text: String = report.problems.iter().map(|problem| format!("{problem}\n")).collect();
        text.push_str(&format!(
            "{}: {}\n",
            report.file.display(),
            if valid { "can be used" } else { "cannot be used" }
        ));
        output::text(&text)?;
    }
    Ok(if valid { Exit::Fine } else { Exit::Usage })
}

/// Whether a failover can be as fast as declared.
fn budget(config: &Config) -> Option<Problem> {
    let declared = config.failover.rto_ms;
    if declared == 0 || config.coordinator.kind == CoordinatorKind::None {
        return None;
    }
    let why = budget::check(&Settings::of(config, 0), declared.saturating_mul(1_000_000)).err()?;
    let remedy = "lower `failover.lease_ms` or `failover.store_stall_ms`, or declare more";
    Some(Problem::error("failover.rto_ms", why, remedy))
}

#[derive(Serialize)]
struct Shown {
    key: KeyPath,
    value: toml::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

fn show(context: &Context, with_origin: bool) -> Result<Exit, Failure> {
    let loaded = context.load()?;
    let rows: Vec<Shown> = loaded
        .values
        .into_iter()
        .map(|(key, (value, origin))| Shown { value: shown(&key, value), key, origin: with_origin.then_some(origin) })
        .collect();
    if context.global.json {
        context.print_json(&rows)?;
    } else {
        let width = rows
            .iter()
            .map(|row| format!("{} = {}", row.key, row.value).chars().count())
            .filter(|width| *width <= 72)
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        for row in &rows {
            let line = format!("{} = {}", row.key, row.value);
            match &row.origin {
                Some(origin) => text.push_str(&format!("{line:width$}  # {origin}\n")),
                None => text.push_str(&(line + "\n")),
            }
        }
        output::text(&text)?;
    }
    Ok(Exit::Fine)
}

/// A value as it would be written, without secrets.
fn shown(path: &KeyPath, value: toml::Value) -> toml::Value {
    let Some(key) = KEYS.iter().find(|key| path.is(&pattern(key.path))) else { return value };
    match (key.secret, key.kind, value) {
        (true, ..) => toml::Value::String("(secret)".to_owned()),
        (_, Kind::Mode, toml::Value::Integer(mode)) => toml::Value::String(format!("{mode:04o}")),
        (_, _, value) => value,
    }
}
