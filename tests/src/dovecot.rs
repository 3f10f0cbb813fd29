//! A private Dovecot for one test: own folders under the temporary directory, own loopback address, no global state.
//!
//! Owns: building the plugins, the configuration, the master process and its end. What can hurt: leftovers of a test
//! that was killed; everything is in one temporary folder, and the master dies with its parent. Refuses: a machine
//! without root, Dovecot or its headers: [`missing`] names what is not there, and the test is skipped.

use anyhow::{Context as _, Result, bail, ensure};
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::imap::Imap;
use crate::lmtp::Lmtp;

/// User and group id of all mail.
pub const MAIL_UID: u32 = 5000;
/// Every wait of a client ends after this.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Port of IMAP.
pub const IMAP_PORT: u16 = 10143;
/// Port of LMTP.
pub const LMTP_PORT: u16 = 10024;

/// The three storage formats.
pub const FORMATS: [&str; 3] = ["maildir", "sdbox", "mdbox"];

/// What this machine lacks for such a test; `None` when all is there.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root, to run mail processes as another user");
    }
    if !Path::new("/usr/sbin/dovecot").exists() {
        return Some("Dovecot is not installed (packages dovecot-imapd, dovecot-lmtpd)");
    }
    if !Path::new("/usr/include/dovecot/mail-storage.h").exists() {
        return Some("Dovecot's headers are not installed (package dovecot-dev)");
    }
    None
}

/// Root of the sources.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_path_buf()
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds `target` ("plugin", "replay") of `stores/dovecot` and gives the folder of the results. Once per process.
///
/// # Errors
/// With the compiler's words.
pub fn built(make_target: &str) -> Result<PathBuf> {
    static LIBRARY: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(root()).args(["build", "-q", "-p", "understudy-ring"]);
        run(&mut command).map(|_| ()).map_err(|e| format!("{e:#}"))
    });
    if let Err(why) = library {
        bail!("{why}");
    }
    let out = target().join("dovecot");
    std::fs::create_dir_all(&out)?;
    // Tests of several processes build at the same time.
    let lock = std::fs::File::create(out.join("test.lock"))?;
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive);
    ensure!(lock.is_ok(), "cannot lock `{}`", out.display());
    let mut make = Command::new("make");
    make.arg("-C").arg(root().join("stores/dovecot")).arg(make_target);
    make.arg(format!("OUT={}", out.display()));
    make.arg(format!("RING_LIB={}", target().join("debug/libunderstudy_ring.a").display()));
    run(&mut make)?;
    Ok(out)
}

/// Runs a command to its end and gives its output.
///
/// # Errors
/// With what it said, if it failed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {text}{errors}");
    Ok(text)
}

/// One running Dovecot.
#[derive(Debug)]
pub struct Dovecot {
    dir: tempfile::TempDir,
    ip: String,
    master: Child,
}

impl Dovecot {
    /// Starts one with these users, password `pass`; a name that starts with `sdbox` or `mdbox` has that format, any
    /// other Maildir. `plugins` is the value of `mail_plugins`, `config` more text for the configuration, in which
    /// `%{dir}` is the folder of this instance.
    ///
    /// # Errors
    /// When it cannot be built or does not come up.
    pub fn start(users: &[&str], plugins: &str, config: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let built = built("plugin")?;
        let dir = tempfile::Builder::new().prefix("understudy-dovecot-").tempdir()?;
        let pid = std::process::id();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let ip = format!("127.{}.{}.{}", 100 + (pid >> 8) % 100, pid % 256, 1 + count % 250);
        let at = dir.path();
        std::fs::set_permissions(at, PermissionsExt::from_mode(0o755))?;
        for folder in ["run", "state", "mail", "spool", "modules"] {
            std::fs::create_dir(at.join(folder))?;
        }
        for folder in ["mail", "spool"] {
            chown(at.join(folder), Some(MAIL_UID), Some(MAIL_UID))?;
        }
        for module in std::fs::read_dir("/usr/lib/dovecot/modules")?.flatten() {
            std::os::unix::fs::symlink(module.path(), at.join("modules").join(module.file_name()))?;
        }
        // A copy: a build that runs meanwhile must not change what is loaded.
        let ours = "lib90_understudy_plugin.so";
        // `UNDERSTUDY_TEST_PLUGIN`: another build, such as one with sanitizers. `UNDERSTUDY_TEST_CONFIG`: what that
        // one needs.
        let plugin = std::env::var_os("UNDERSTUDY_TEST_PLUGIN").map_or_else(|| built.join(ours), PathBuf::from);
        std::fs::copy(plugin, at.join("modules").join(ours))?;
        let more = std::env::var("UNDERSTUDY_TEST_CONFIG").unwrap_or_default();
        let config = &format!("{config}\n{more}\n");
        let mut lines = String::new();
        for user in users {
            let format = FORMATS.iter().find(|f| user.starts_with(**f)).unwrap_or(&FORMATS[0]);
            let home = at.join("mail").join(user);
            let home = home.display();
            let _ = writeln!(lines, "{user}:{{PLAIN}}pass:{MAIL_UID}:{MAIL_UID}::{home}::userdb_mail={format}:~/mail");
        }
        std::fs::write(at.join("users"), lines)?;
        std::fs::write(at.join("conf"), text(at, &ip, plugins, config))?;
        let master = spawn(at)?;
        let mut this = Self { dir, ip, master };
        this.wait_until_up()?;
        Ok(this)
    }

    /// Ends it and starts it again with the same mail.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.master = spawn(self.dir())?;
        self.wait_until_up()
    }

    fn wait_until_up(&mut self) -> Result<()> {
        for _ in 0..1000 {
            if std::net::TcpStream::connect((self.ip.as_str(), IMAP_PORT)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.master.try_wait()? {
                bail!("Dovecot ended ({status}): {}{}", self.log(), self.out());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("Dovecot does not come up: {}{}", self.log(), self.out())
    }

    /// Address that it listens on.
    #[must_use]
    pub fn ip(&self) -> &str {
        &self.ip
    }

    /// Folder of this instance: `ring`, `spool`, `mail/<user>`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn out(&self) -> String {
        std::fs::read_to_string(self.dir().join("out")).unwrap_or_default()
    }

    /// Address of its IMAP service.
    #[must_use]
    pub fn imap_address(&self) -> String {
        format!("{}:{IMAP_PORT}", self.ip)
    }

    /// All that it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// Lines of the log that tell of a failure.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let bad = ["Error:", "Panic:", "Fatal:", "Warning:"];
        self.log().lines().filter(|l| bad.iter().any(|b| l.contains(b))).map(str::to_owned).collect()
    }

    /// A new IMAP session.
    ///
    /// # Errors
    /// As [`Imap::login`].
    pub fn imap(&self, user: &str) -> Result<Imap> {
        Ok(Imap::login(&self.ip, IMAP_PORT, user, "pass", TIMEOUT)?)
    }

    /// A new LMTP session.
    ///
    /// # Errors
    /// As [`Lmtp::connect`].
    pub fn lmtp(&self) -> Result<Lmtp> {
        Ok(Lmtp::connect(&self.ip, LMTP_PORT, TIMEOUT)?)
    }

    /// Runs `doveadm` with these arguments; plugins as in the configuration only if the arguments say nothing else.
    ///
    /// # Errors
    /// With what it said, if it failed.
    pub fn doveadm(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new("doveadm").arg("-c").arg(self.dir().join("conf")).args(arguments))
    }

    /// Runs `doveadm` without the plugin: it looks, and nothing of it is captured.
    ///
    /// # Errors
    /// As [`Self::doveadm`].
    pub fn look(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["-o", "mail_plugins=", "-f", "tab"];
        all.extend_from_slice(arguments);
        self.doveadm(&all)
    }

    /// Removes the lock files that killed processes left in a user's mail. Dovecot waits for them for two or three
    /// minutes before it takes them for stale. No process of the user may be alive.
    pub fn remove_stale_locks(&self, user: &str) {
        let mut open = vec![self.dir().join("mail").join(user)];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push(path);
                } else if [".newlock", "uidlist.lock"].iter().any(|end| name.to_string_lossy().ends_with(end)) {
                    // Gone already is as good.
                    let _ = std::fs::remove_file(path);
                }
            }
        }
    }

    /// Process ids of the service `name` of this instance; of all services where it is empty.
    #[must_use]
    pub fn processes(&self, name: &str) -> Vec<i32> {
        let parent = self.master.id().to_string();
        let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
        let ids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        ids.filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let Some((comm, rest)) = stat.rsplit_once(") ") else { return false };
            (name.is_empty() || comm.ends_with(&format!("({name}"))) && rest.split(' ').nth(1) == Some(&parent)
        })
        .collect()
    }

    /// Process id of the master.
    #[must_use]
    pub fn master(&self) -> i32 {
        i32::try_from(self.master.id()).unwrap_or(0)
    }

    /// Stops, or lets go on, all its processes, as when a machine stands still: its sockets still accept.
    pub fn freeze(&self, is_frozen: bool) {
        use nix::sys::signal::{SIGCONT, SIGSTOP};
        let signal = if is_frozen { SIGSTOP } else { SIGCONT };
        // The master first: it makes no new process then.
        for pid in std::iter::once(self.master()).chain(self.processes("")) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    /// Kills all its processes, as when the machine loses its power.
    pub fn kill(&mut self) {
        self.freeze(true);
        let children = self.processes("");
        for pid in children.iter().copied().chain([self.master()]) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        let _ = self.master.wait();
        // Gone, or a zombie for somebody else to reap: a listener that lives would be in the way of a new start.
        let is_there = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while children.iter().any(is_there) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.master.id()).unwrap_or(0));
        if pid.as_raw() > 0 {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.master.wait();
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("{}{}", self.log(), self.out());
        }
    }
}

fn spawn(at: &Path) -> Result<Child> {
    let out = std::fs::File::options().create(true).append(true).open(at.join("out"))?;
    let mut command = Command::new("/usr/sbin/dovecot");
    command.arg("-F").arg("-c").arg(at.join("conf")).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    command.process_group(0);
    command.spawn().context("cannot start dovecot")
}

fn text(at: &Path, ip: &str, plugins: &str, config: &str) -> String {
    let dir = at.display();
    let mut text = format!(
        r"base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
instance_name = test
mail_plugin_dir = {dir}/modules
mail_plugins = {plugins}
protocols = imap lmtp
listen = {ip}
ssl = no
disable_plaintext_auth = no
mail_uid = {MAIL_UID}
mail_gid = {MAIL_UID}
first_valid_uid = {MAIL_UID}
mail_location = maildir:~/mail
mail_attribute_dict = file:%h/dovecot-attributes
mail_max_userip_connections = 1000
lda_mailbox_autocreate = yes
postmaster_address = postmaster@example.test
hostname = example.test
passdb {{
  driver = passwd-file
  args = username_format=%u {dir}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {dir}/users
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
  inet_listener imap {{
    port = {IMAP_PORT}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {LMTP_PORT}
  }}
}}
plugin {{
  understudy_ring = {dir}/ring
  understudy_spool = {dir}/spool
}}
"
    );
    let _ = writeln!(text, "{}", config.replace("%{dir}", &dir.to_string()));
    text
}
