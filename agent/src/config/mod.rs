//! The configuration: one TOML file, then environment, then flags; the later wins.
//!
//! Owns: which keys exist ([`keys::KEYS`]), their types and defaults, where each value came from, the checks
//! between keys, and placement. What can hurt: a typing error that is silently ignored; so an unknown key is an
//! error that names file, line and the nearest right key. Refuses: opening files other than the configuration,
//! the placement file and account lists; `check` looks at the rest only when asked to.

pub mod address;
pub mod check;
pub mod keys;
pub mod model;
pub mod path;
pub mod placement;
mod source;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use check::check;
pub use model::{Cluster, Config, NodeRef};
pub use path::KeyPath;
pub use placement::{Group, Placement};

/// Largest configuration or placement file, in bytes. A larger one is refused.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Where the file is looked for when neither a flag nor `UNDERSTUDY_CONFIG` names it.
pub const FILE_DEFAULT: &str = "/etc/understudy/understudy.toml";
/// Prefix of environment variables that set keys: `UNDERSTUDY_RING__BYTES` sets `ring.bytes`.
pub const ENV_PREFIX: &str = "UNDERSTUDY_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Origin {
    /// Built in, or derived from another key.
    Default,
    /// A line of a file.
    File { path: PathBuf, line: usize },
    /// An environment variable.
    Env { name: String },
    /// `--set KEY=VALUE` on the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env { name } => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag --set"),
        }
    }
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The agent does not start with it.
    Error,
    /// The agent starts; the administrator should know.
    Warning,
}

/// One thing that is wrong with the configuration, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// Where it was said; `None` when it is about something that is missing.
    pub origin: Option<Origin>,
    /// The key, as in `ring.bytes`; empty when it is about the whole file.
    pub key: String,
    pub problem: String,
    /// What to do about it; empty when the problem says it already.
    pub remedy: String,
}

impl Problem {
    pub(crate) fn error(key: impl fmt::Display, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            origin: None,
            key: key.to_string(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn warning(key: impl fmt::Display, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(key, problem, remedy) }
    }

    fn at(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// The configuration cannot be used; every problem that was found, in order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Where values may come from, least important first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file; `None` leaves it out.
    pub file: Option<PathBuf>,
    /// Environment variables; those without [`ENV_PREFIX`] and two underscores are ignored.
    pub env: Vec<(String, String)>,
    /// `KEY=VALUE` texts.
    pub flags: Vec<String>,
}

impl Sources {
    /// The named file and this process's environment.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<String>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, env, flags }
    }
}

/// A configuration that can be used, with the origin of every value.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Every value under its full key, normalised (`"16 MiB"` has become a number of bytes).
    pub values: BTreeMap<KeyPath, (toml::Value, Origin)>,
    /// Problems that do not keep the agent from starting.
    pub warnings: Vec<Problem>,
    /// What it was loaded from, for a reload.
    pub sources: Sources,
}

/// Reads, merges and checks. Files other than the configuration and the placement file are not touched; call
/// [`check::check_host`] for that.
///
/// # Errors
///
/// All problems at once, so that an administrator repairs the file in one go.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut problems = Vec::new();
    let text = match &sources.file {
        Some(path) => read(path).map_err(|mut problem| {
            if problem.remedy.is_empty() {
                problem.remedy = "name another one with `--config`".to_owned();
            }
            ConfigError { problems: vec![problem] }
        })?,
        None => String::new(),
    };
    let file = sources.file.as_deref().unwrap_or(Path::new("(no file)"));
    let mut settings = source::from_file(file, &text, &mut problems);
    settings.extend(source::from_env(&sources.env, &mut problems));
    settings.extend(source::from_flags(&sources.flags, &mut problems));
    let values = source::merge(settings, &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError { problems });
    }
    let mut config: Config = toml::Value::Table(source::to_table(&values)).try_into().map_err(|error| ConfigError {
        problems: vec![Problem::error("", format!("does not fit together: {error}"), "")],
    })?;
    if let Some(path) = config.placement.file.clone()
        && let Err(mut problem) = placement::merge_file(&mut config.placement, &path)
    {
        if problem.origin.is_none() {
            problem.origin = origin_of(&values, "placement.file");
            problem.key = "placement.file".to_owned();
        }
        return Err(ConfigError { problems: vec![problem] });
    }
    let mut warnings = Vec::new();
    for mut problem in check(&config) {
        problem.origin = origin_of(&values, &problem.key);
        match problem.severity {
            Severity::Error => problems.push(problem),
            Severity::Warning => warnings.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(Loaded { config, values, warnings, sources: sources.clone() })
    } else {
        Err(ConfigError { problems })
    }
}

impl Config {
    /// Parses a text as if it were the file, with no environment and no flags.
    ///
    /// # Errors
    ///
    /// As [`load`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let settings = source::from_file(Path::new("(text)"), text, &mut problems);
        let values = source::merge(settings, &mut problems);
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let config: Self = toml::Value::Table(source::to_table(&values)).try_into().map_err(|error| ConfigError {
            problems: vec![Problem::error("", format!("does not fit together: {error}"), "")],
        })?;
        let problems: Vec<_> = check(&config).into_iter().filter(|found| found.severity == Severity::Error).collect();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }
}

/// The origin of a key, or else of the nearest key above or below it that somebody set.
pub(crate) fn origin_of(values: &BTreeMap<KeyPath, (toml::Value, Origin)>, key: &str) -> Option<Origin> {
    if key.is_empty() {
        return None;
    }
    let exact = values.iter().find(|(path, _)| path.to_string() == key);
    let below =
        || values.iter().find(|(path, (_, origin))| path.to_string().starts_with(key) && *origin != Origin::Default);
    exact.or_else(below).map(|(_, (_, origin))| origin.clone()).filter(|origin| *origin != Origin::Default)
}

/// Reads a file of bounded size.
pub(crate) fn read(path: &Path) -> Result<String, Problem> {
    use std::io::Read;
    let cannot = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "write it (examples are in /usr/share/doc/understudy/), or correct the name"
            }
            std::io::ErrorKind::PermissionDenied => "run as root or as the agent's user",
            _ => "",
        };
        Problem::error("", format!("cannot read `{}`: {error}", path.display()), remedy)
    };
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut text = String::new();
    let size = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if size as u64 > FILE_BYTES_MAX {
        return Err(Problem::error("", format!("`{}` is larger than {FILE_BYTES_MAX} bytes", path.display()), ""));
    }
    Ok(text)
}

#[cfg(test)]
pub(crate) mod docs;
#[cfg(test)]
mod tests;
