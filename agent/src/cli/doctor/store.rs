//! What the store has: Dovecot's version, our plugin and replay service, its processes; and the agent itself.
//!
//! Owns: the places where packages put these files. Refuses: logging in, and reading mail.

use std::os::unix::net::UnixStream;

use super::host::ask;
use super::{Finding, Host};
use crate::config::Config;

const PLUGIN: &str = "lib90_understudy_plugin.so";
const REPLAY: &str = "understudy-replay";
/// Where Dovecot's packages look for plugins and services when `doveconf` does not say.
const MODULE_DIRS: &[&str] = &["/usr/lib/dovecot/modules", "/usr/lib64/dovecot"];
const LIBEXEC_DIRS: &[&str] = &["/usr/lib/dovecot", "/usr/libexec/dovecot"];

pub(super) fn findings(host: &Host, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = vec![version(ask("dovecot", &["--version"]))];
    let setting = |name| ask("doveconf", &["-h", name]).ok();
    let modules = setting("mail_plugin_dir");
    findings.push(installed(host, "capture plugin", PLUGIN, modules.as_deref(), MODULE_DIRS));
    findings.push(installed(host, "replay service", REPLAY, setting("libexec_dir").as_deref(), LIBEXEC_DIRS));
    findings.push(loaded(setting("mail_plugins").as_deref()));
    if let Some(config) = config {
        findings.push(running(host, config));
        findings.push(replay_socket(config));
        findings.push(agent(config));
    }
    findings
}

pub(super) fn version(said: Result<String, String>) -> Finding {
    const CHECK: &str = "dovecot";
    match said {
        Err(why) => Finding::problem(
            CHECK,
            why,
            "install Dovecot 2.3 (package dovecot-core), and run this where /usr/sbin is in PATH",
        ),
        Ok(text) if text.starts_with("2.3.") => Finding::fine(CHECK, text),
        Ok(text) => Finding::problem(
            CHECK,
            format!("{text} is not supported"),
            "run Dovecot 2.3; a plugin is built for one version",
        ),
    }
}

pub(super) fn installed(
    host: &Host,
    check: &'static str,
    file: &str,
    configured: Option<&str>,
    usual: &[&str],
) -> Finding {
    let mut places: Vec<&str> = configured.into_iter().filter(|place| !place.is_empty()).collect();
    places.extend(usual.iter().filter(|place| Some(**place) != configured));
    match places.iter().find(|place| host.exists(&format!("{place}/{file}"))) {
        Some(place) => Finding::fine(check, format!("{place}/{file}")),
        None => Finding::problem(
            check,
            format!("no `{file}` in {}", places.join(", ")),
            "install the package understudy-dovecot, or copy it from the build",
        ),
    }
}

fn loaded(mail_plugins: Option<&str>) -> Finding {
    const CHECK: &str = "plugin loaded";
    match mail_plugins {
        None => Finding::limited(
            CHECK,
            "`mail_plugins` cannot be read",
            "run as a user who may read Dovecot's configuration",
        ),
        Some(plugins)
            if ["notify", "understudy"].iter().all(|name| plugins.split_whitespace().any(|plugin| plugin == *name)) =>
        {
            Finding::fine(CHECK, format!("mail_plugins = {plugins}"))
        }
        Some(plugins) => Finding::problem(
            CHECK,
            format!("mail_plugins = {plugins}: `notify` and `understudy` are not both there"),
            "`mail_plugins = $mail_plugins notify understudy`, also in every `protocol` block that sets it",
        ),
    }
}

fn running(host: &Host, config: &Config) -> Finding {
    const CHECK: &str = "store runs";
    let file = config.store.master_pid_file.display().to_string();
    let remedy = "start Dovecot, or correct `store.master_pid_file`";
    match host.read(&file) {
        Err(error) => Finding::problem(CHECK, format!("`{file}` cannot be read: {error}"), remedy),
        Ok(pid) if pid.parse::<u32>().is_ok() && host.exists(&format!("/proc/{pid}")) => {
            Finding::fine(CHECK, format!("process {pid}"))
        }
        Ok(pid) => Finding::problem(CHECK, format!("`{file}` names process `{pid}`, which is not there"), remedy),
    }
}

fn replay_socket(config: &Config) -> Finding {
    const CHECK: &str = "replay socket";
    let path = &config.store.replay_socket;
    match UnixStream::connect(path) {
        Ok(_) => Finding::fine(CHECK, format!("`{}` answers", path.display())),
        Err(error) => {
            let remedy = match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "give the agent's user access: `unix_listener` of `service understudy-replay`"
                }
                _ => {
                    "declare `service understudy-replay` in Dovecot's configuration and reload it, or correct `store.replay_socket`"
                }
            };
            Finding::problem(CHECK, format!("`{}`: {error}", path.display()), remedy)
        }
    }
}

fn agent(config: &Config) -> Finding {
    const CHECK: &str = "agent";
    let path = &config.agent.admin_socket;
    match UnixStream::connect(path) {
        Ok(_) => Finding::fine(CHECK, format!("answers on `{}`", path.display())),
        Err(error) => Finding::limited(
            CHECK,
            format!("does not answer on `{}`: {error}", path.display()),
            "`systemctl start understudy`",
        ),
    }
}
