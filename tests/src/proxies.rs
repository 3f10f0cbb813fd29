//! nginx, HAProxy and Postfix before the agents, by the very examples of `packaging/examples`.
//!
//! Owns: what of an example is replaced (addresses, ports, paths, times to try again), and the words that start each
//! server in the foreground. What can hurt: servers of this host; no path, port or process of theirs is used.
//! Refuses: other configurations than the examples; what is put before them is only what a folder of its own asks for.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// nginx's program.
pub const NGINX: &str = "/usr/sbin/nginx";
/// HAProxy's program.
pub const HAPROXY: &str = "/usr/sbin/haproxy";
/// Postfix's first process, which starts all others; they lie in the same folder.
pub const POSTFIX_MASTER: &str = "/usr/lib/postfix/sbin/master";
/// The domain of all accounts, in the examples and in a mesh.
pub const DOMAIN: &str = "example.test";

/// What of them is not installed: the name of its package.
#[must_use]
pub fn lacking() -> Option<&'static str> {
    let needed = [
        (NGINX, "nginx"),
        ("/usr/lib/nginx/modules/ngx_mail_module.so", "libnginx-mod-mail"),
        (POSTFIX_MASTER, "postfix"),
        (HAPROXY, "haproxy"),
    ];
    needed.into_iter().find(|(file, _)| !Path::new(file).exists()).map(|(_, package)| package)
}

/// A server that is ready to be started: its program and arguments. It stays in the foreground.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

/// Where nginx listens, each as `ADDRESS:PORT`.
#[derive(Clone, Debug)]
pub struct NginxAt {
    /// For itself alone: `auth_http`.
    pub auth: String,
    pub imap: String,
    pub pop3: String,
    pub submission: String,
}

/// Writes nginx's configuration into `dir`; `ips` are the agents' hosts.
///
/// # Errors
/// When `dir` cannot be written, or the example has changed.
pub fn nginx(dir: &Path, ips: &[&str], at: &NginxAt) -> Result<Prepared> {
    make(dir)?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("    {of}_temp_path {}/{of};\n", dir.display()))
        .concat();
    let text = example(
        "nginx.conf",
        ips,
        &[
            ("127.0.0.1:8474", at.auth.clone()),
            ("listen 143;", format!("listen {};", at.imap)),
            ("listen 110;", format!("listen {};", at.pop3)),
            ("listen 587;", format!("listen {};", at.submission)),
            ("/run/nginx.pid", format!("{}/nginx.pid", dir.display())),
            ("/var/log/nginx/error.log", format!("{}/error.log", dir.display())),
            ("worker_processes auto", "worker_processes 1".to_owned()),
            ("    access_log off;\n", format!("    access_log off;\n{temporary}")),
        ],
    )?;
    let file = dir.join("nginx.conf");
    write(&file, &text)?;
    let log = dir.join("error.log");
    let args: Vec<OsString> =
        vec!["-p".into(), dir.into(), "-e".into(), log.into(), "-c".into(), file.into(), "-g".into()];
    Ok(Prepared { program: NGINX.into(), args: args.into_iter().chain(["daemon off;".into()]).collect() })
}

/// Where HAProxy listens, each as `ADDRESS:PORT`.
#[derive(Clone, Debug)]
pub struct HaproxyAt {
    /// For Postfix: the socketmap of any agent that works.
    pub map: String,
    /// IMAP by node, not by account.
    pub imap: String,
    /// Its own socket, for questions.
    pub socket: PathBuf,
}

/// Writes HAProxy's configuration into `dir`.
///
/// # Errors
/// As [`nginx`].
pub fn haproxy(dir: &Path, ips: &[&str], at: &HaproxyAt) -> Result<Prepared> {
    make(dir)?;
    let text = example(
        "haproxy.cfg",
        ips,
        &[
            ("127.0.0.1:8475", at.map.clone()),
            ("bind :1430", format!("bind {}", at.imap)),
            ("/run/haproxy/admin.sock", at.socket.display().to_string()),
        ],
    )?;
    let file = dir.join("haproxy.cfg");
    write(&file, &text)?;
    Ok(Prepared { program: HAPROXY.into(), args: vec!["-db".into(), "-f".into(), file.into()] })
}

/// Where Postfix listens, and whom it serves.
#[derive(Clone, Debug)]
pub struct PostfixAt {
    pub ip: String,
    pub port: u16,
    /// Where the socketmap is, as `ADDRESS:PORT`.
    pub map: String,
    /// Who may send: networks, with spaces between them.
    pub networks: String,
    /// The network namespace that has the address; `None`: this one.
    pub netns: Option<String>,
}

/// Writes Postfix's configuration and makes its folders; both are whole before the program is started.
///
/// # Errors
/// As [`nginx`], and when the package's user is not there.
pub fn postfix(dir: &Path, at: &PostfixAt) -> Result<Prepared> {
    for folder in ["queue", "data"] {
        make(&dir.join(folder))?;
    }
    let user = nix::unistd::User::from_name("postfix")?.context("no user `postfix`; its package makes it")?;
    nix::unistd::chown(&dir.join("data"), Some(user.uid), Some(user.gid))?;
    // Times of the example are for production. Here a mail that could not be delivered is tried again within a second
    // or two, and a store that vanished in the middle of a delivery is given up soon.
    let theirs = example(
        "postfix-main.cf",
        &[],
        &[
            ("127.0.0.1:8475", at.map.clone()),
            ("minimal_backoff_time = 60s\n", String::new()),
            ("lmtp_connect_timeout = 5s\n", String::new()),
        ],
    )?;
    write(&dir.join("main.cf"), &(main_cf(dir, at) + &theirs))?;
    write(&dir.join("master.cf"), &master_cf(at))?;
    // Where the address is not one of the host's, even the check refuses, and says nothing of why (seen).
    let enter = at.netns.iter().flat_map(|netns| ["nsenter".to_owned(), format!("--net=/run/netns/{netns}")]);
    let mut words = enter.chain(["/usr/sbin/postfix", "-c"].map(str::to_owned));
    let mut check = std::process::Command::new(words.next().unwrap_or_default());
    let check = check.args(words).arg(dir).arg("check").output().context("cannot start `postfix check`")?;
    if !check.status.success() {
        let log = std::fs::read_to_string(dir.join("mail.log")).unwrap_or_default();
        bail!("`postfix check`: {} {}\n{log}", check.status, String::from_utf8_lossy(&check.stderr).trim());
    }
    // Not `postfix start-fg`: that is a script, which the first process outlives (seen).
    Ok(Prepared { program: POSTFIX_MASTER.into(), args: vec!["-s".into(), "-c".into(), dir.into()] })
}

fn main_cf(dir: &Path, at: &PostfixAt) -> String {
    let (home, ip, networks) = (dir.display(), &at.ip, &at.networks);
    format!(
        "compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/mail.log
maillog_file_prefixes = {home}
mail_owner = postfix
setgid_group = postdrop
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
myhostname = mx.{DOMAIN}
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
inet_interfaces = {ip}
inet_protocols = ipv4
mynetworks = {networks}
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
in_flow_delay = 0
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
transport_retry_time = 1s
lmtp_connect_timeout = 1s
lmtp_lhlo_timeout = 5s
lmtp_mail_timeout = 5s
lmtp_rcpt_timeout = 5s
lmtp_data_init_timeout = 5s
lmtp_data_xfer_timeout = 5s
lmtp_data_done_timeout = 5s
"
    )
}

fn master_cf(at: &PostfixAt) -> String {
    let services = [
        "cleanup unix n - n - 0 cleanup",
        "qmgr unix n - n 300 1 qmgr",
        "rewrite unix - - n - - trivial-rewrite",
        "bounce unix - - n - 0 bounce",
        "defer unix - - n - 0 bounce",
        "trace unix - - n - 0 bounce",
        "verify unix - - n - 1 verify",
        "proxymap unix - - n - - proxymap",
        "smtp unix - - n - - smtp",
        "error unix - - n - - error",
        "retry unix - - n - - error",
        "lmtp unix - - n - - lmtp",
        "anvil unix - - n - 1 anvil",
        "scache unix - - n - 1 scache",
        "postlog unix-dgram n - n - 1 postlogd",
    ];
    format!("{}:{} inet n - n - - smtpd\n{}\n", at.ip, at.port, services.join("\n"))
}

/// An example with its nodes replaced by `ips`, and its words as `replace` says; each must be in it.
fn example(name: &str, ips: &[&str], replace: &[(&str, String)]) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/examples").join(name);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
    let mut text = for_nodes(&text, ips);
    for (from, to) in replace {
        ensure!(text.contains(from), "`{name}` has no `{from}`");
        text = text.replace(from, to);
    }
    Ok(text)
}

/// A line for `192.0.2.1` (`node1`) becomes one for each node; the other nodes of the example go.
fn for_nodes(text: &str, ips: &[&str]) -> String {
    let mut all = String::new();
    for line in text.lines().filter(|line| !line.contains("192.0.2.2")) {
        if line.contains("192.0.2.1") {
            for (n, ip) in ips.iter().enumerate() {
                all += &line.replace("192.0.2.1", ip).replace("node1", &format!("node{}", n + 1));
                all.push('\n');
            }
        } else {
            all += line;
            all.push('\n');
        }
    }
    all
}

fn make(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make `{}`", dir.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write `{}`", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_its_line_and_the_examples_own_are_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let ips = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        let at = NginxAt {
            auth: "127.0.0.1:1".to_owned(),
            imap: "10.0.0.9:143".to_owned(),
            pop3: "10.0.0.9:110".to_owned(),
            submission: "10.0.0.9:587".to_owned(),
        };
        nginx(dir.path(), &ips, &at).expect("writes");
        let text = std::fs::read_to_string(dir.path().join("nginx.conf")).expect("reads");
        assert_eq!(text.matches(":7474 max_fails").count(), 3, "{text}");
        assert!(text.contains("listen 10.0.0.9:143;") && !text.contains("192.0.2."), "{text}");

        let at = HaproxyAt { map: "127.0.0.1:2".to_owned(), imap: "127.0.0.1:3".to_owned(), socket: "/s".into() };
        haproxy(dir.path(), &ips, &at).expect("writes");
        let text = std::fs::read_to_string(dir.path().join("haproxy.cfg")).expect("reads");
        let named = |n| text.matches(&format!("server node{n} 10.0.0.{n}:")).count();
        assert_eq!([named(1), named(2), named(3)], [2, 2, 2], "{text}");
        assert!(text.contains("agent-addr 10.0.0.3 agent-port") && !text.contains("192.0.2."), "{text}");
    }

    #[test]
    fn a_word_that_an_example_no_longer_has_is_named() {
        let error = example("nginx.conf", &[], &[("no such line", String::new())]).expect_err("refused");
        assert!(error.to_string().contains("no such line"), "{error}");
    }
}
