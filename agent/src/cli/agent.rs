//! `understudy agent`: logging, configuration, then the node until it is told to stop.
//!
//! Owns: the set-up before the node runs. What can hurt: a log that is lost because it was set up after the
//! configuration failed; failures before that go to standard error as they are. Refuses: being the node.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::{Context, Exit, Failure};
use crate::config::check::check_host;
use crate::config::model::{Agent, LogFormat};
use crate::config::{ConfigError, Severity};

/// Flags of `agent`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the agent until it is told to stop.
///
/// # Errors
///
/// The configuration cannot be used. An error of the node itself is in the log, and in the exit code.
pub fn run(context: &Context, _args: &Args) -> Result<Exit, Failure> {
    let loaded = context.load()?;
    let (problems, warnings): (Vec<_>, Vec<_>) =
        check_host(&loaded.config).into_iter().partition(|problem| problem.severity == Severity::Error);
    if !problems.is_empty() {
        return Err(ConfigError { problems }.into());
    }
    log(&loaded.config.agent)?;
    for warning in loaded.warnings.iter().chain(&warnings) {
        tracing::warn!(key = %warning.key, "{}; {}", warning.problem, warning.remedy);
    }
    tracing::info!(version = super::version(), node = %loaded.config.node.name, "starting");
    let ended = crate::node::run(loaded);
    crate::control::systemd::stopping();
    match ended {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(Exit::Fine)
        }
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            Ok(Exit::Failed)
        }
    }
}

fn log(config: &Agent) -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .parse(&config.log_level)
        .map_err(|error| Failure::Usage(format!("`agent.log_level`: {error}; write for example `info`")))?;
    // systemd sets this on services whose standard error goes to the journal: it reads `<level>` off each line and
    // stamps the time itself.
    let to_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_target(true);
    let done = match (config.log_format, to_journal) {
        (LogFormat::Json, _) => base.json().with_writer(std::io::stderr).try_init(),
        (LogFormat::Text, true) => {
            base.without_time().with_level(false).with_ansi(false).with_writer(JournalLevels).try_init()
        }
        (LogFormat::Text, false) => {
            base.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).try_init()
        }
    };
    done.map_err(|error| Failure::Other(format!("cannot set up logging: {error}")))
}

/// Puts `<level>` before each line, as `sd-daemon(3)` describes.
struct JournalLevels;

impl<'a> MakeWriter<'a> for JournalLevels {
    type Writer = std::io::Stderr;

    fn make_writer(&'a self) -> Self::Writer {
        std::io::stderr()
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        use std::io::Write;
        let level = match *meta.level() {
            tracing::Level::ERROR => "<3>",
            tracing::Level::WARN => "<4>",
            tracing::Level::INFO => "<6>",
            _ => "<7>",
        };
        let mut stderr = std::io::stderr();
        let _ = stderr.write_all(level.as_bytes());
        stderr
    }
}
