//! A node's Dovecot: its configuration, and starting it.
//!
//! Owns: the text of `dovecot.conf`, written anew for each mesh. What can hurt: another Dovecot of this host; nothing
//! here reads its configuration or shares a folder, a socket or an instance name with it.
//! Refuses: TLS and real passwords; a mesh is for trials on one host.

use super::contract::Format;
use super::plan::{MAIL_UID, PASSWORD};
use crate::host::Lack;
use crate::run;
use anyhow::{Context, Result};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// IMAP in the node's own namespace.
pub(crate) const IMAP_PORT: u16 = 143;
/// POP3 in the node's own namespace.
const POP3_PORT: u16 = 110;
/// LMTP in the node's own namespace.
pub(crate) const LMTP_PORT: u16 = 24;
const DOVECOT: &str = "/usr/sbin/dovecot";
/// Where Dovecot's own plugins are.
const MODULES: &str = "/usr/lib/dovecot/modules";
const PLUGIN: &str = "lib90_understudy_plugin.so";
const REPLAY: &str = "understudy-replay";

/// What the store needs to know of its node.
pub(crate) struct Store<'a> {
    /// Short path of the node's folder.
    pub(crate) home: &'a Path,
    pub(crate) name: &'a str,
    pub(crate) ip: &'a str,
    pub(crate) format: Format,
    pub(crate) accounts: &'a [String],
    /// Folder of the built plugin and replay service; `None` for a store without them.
    pub(crate) plugin: Option<PathBuf>,
}

impl Store<'_> {
    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.home.join("dovecot.conf")
    }

    /// The program and its arguments; it stays in the foreground.
    pub(crate) fn command(&self) -> (PathBuf, Vec<String>) {
        (DOVECOT.into(), vec!["-F".into(), "-c".into(), self.config().display().to_string()])
    }

    /// Writes folders, accounts and configuration.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn write(&self) -> Result<()> {
        for folder in ["run", "state", "log", "mail", "ring", "spool"] {
            let folder = self.home.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        }
        for folder in ["mail", "ring", "spool"] {
            let folder = self.home.join(folder);
            chown(&folder, Some(MAIL_UID), Some(MAIL_UID))?;
            std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o2770))?; // files in it get its group
        }
        if let Some(built) = &self.plugin {
            install(self.home, built)?;
        }
        let users: String = self.accounts.iter().map(|a| format!("{a}:{{PLAIN}}{PASSWORD}::::::\n")).collect();
        std::fs::write(self.home.join("users"), users)?;
        std::fs::write(self.config(), self.text())?;
        Ok(())
    }

    fn text(&self) -> String {
        let home = self.home.display();
        let (name, ip, format) = (self.name, self.ip, self.format.name());
        let mut text = format!(
            r"# Written by `cargo xtask mesh up`; a trial on one host, not an example for production.
instance_name = {name}
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/log/dovecot.log
protocols = imap lmtp pop3
listen = {ip}
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_uid = {MAIL_UID}
mail_gid = {MAIL_UID}
first_valid_uid = {MAIL_UID}
mail_location = {format}:~/{format}
mail_attribute_dict = file:%h/dovecot-attributes
mail_max_userip_connections = 10000
lda_mailbox_autocreate = yes
postmaster_address = postmaster@example.test
hostname = {name}.example.test
passdb {{
  driver = passwd-file
  args = username_format=%u {home}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {home}/users
  override_fields = uid={MAIL_UID} gid={MAIL_UID} home={home}/mail/%d/%n
}}
namespace inbox {{
  inbox = yes
  separator = /
  prefix =
}}
protocol imap {{
  imap_metadata = yes
}}
service imap-login {{
  service_count = 0
  process_min_avail = 1
  client_limit = 1000
  inet_listener imap {{
    address = {ip}
    port = {IMAP_PORT}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service imap {{
  process_limit = 4096
}}
service pop3-login {{
  inet_listener pop3 {{
    address = {ip}
    port = {POP3_PORT}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = {ip}
    port = {LMTP_PORT}
  }}
}}
"
        );
        if self.plugin.is_some() {
            text.push_str(&plugin_text(&home));
        }
        text
    }
}

/// The part of the configuration that makes a store one of ours.
fn plugin_text(home: &std::path::Display<'_>) -> String {
    format!(
        r"mail_plugin_dir = {home}/modules
mail_plugins = notify understudy
default_vsz_limit = 512M
plugin {{
  understudy_ring = {home}/ring/ring
  understudy_spool = {home}/spool
  understudy_on_absent = go-on
}}
service {REPLAY} {{
  executable = {home}/bin/{REPLAY}
  client_limit = 1
  process_limit = 64
  unix_listener {REPLAY} {{
    mode = 0600
  }}
}}
# What is replayed must not be captured again.
protocol {REPLAY} {{
  mail_plugins =
}}
"
    )
}

/// Copies plugin and replay service to where the mail user can read them, and links Dovecot's own plugins beside them:
/// Dovecot looks in one folder only.
fn install(home: &Path, built: &Path) -> Result<()> {
    let (modules, bin) = (home.join("modules"), home.join("bin"));
    for folder in [&modules, &bin] {
        std::fs::create_dir_all(folder)?;
    }
    for entry in std::fs::read_dir(MODULES).with_context(|| format!("cannot read `{MODULES}`"))? {
        let entry = entry?;
        let link = modules.join(entry.file_name());
        if !link.exists() {
            std::os::unix::fs::symlink(entry.path(), link)?;
        }
    }
    for (from, to) in [(PLUGIN, modules.join(PLUGIN)), (REPLAY, bin.join(REPLAY))] {
        let from = built.join(from);
        std::fs::copy(&from, &to).with_context(|| format!("no `{}`; `cargo xtask build` makes it", from.display()))?;
    }
    Ok(())
}

/// True for a program of the store.
pub(crate) fn is_program(program: &Path) -> bool {
    let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    program.starts_with(DOVECOT) || program.starts_with("/usr/lib/dovecot") || name.starts_with(REPLAY)
}

/// Is there a Dovecot of the version that the plugin is written for?
pub(crate) fn installed() -> Result<(), Lack> {
    let mut dovecot = std::process::Command::new(DOVECOT);
    let version = run::output_of(dovecot.arg("--version")).unwrap_or_default();
    if version.starts_with("2.3.") {
        return Ok(());
    }
    let found = if version.is_empty() { "no Dovecot".to_owned() } else { format!("Dovecot {}", version.trim()) };
    Err(Lack::new(format!("{found}; the plugin is written for 2.3"), "`cargo xtask bootstrap --group dovecot`"))
}
