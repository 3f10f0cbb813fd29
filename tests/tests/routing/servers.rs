//! nginx, Postfix and HAProxy from the examples of `packaging/examples`, each with a folder and ports of its own.
//!
//! Owns: starting them in the foreground and stopping them by their process id. What can hurt: servers of this host; no
//! path or port of theirs is used. Refuses: other configurations than the examples, but for addresses and paths.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{now, wait_for};

/// A server that stops when this goes.
pub(super) struct Server {
    name: &'static str,
    child: Child,
    /// Where the process id is that ends it all, when it is not the child's: `postfix start-fg` is a script that waits
    /// for Postfix's master, and the master outlives it (seen).
    pid_file: Option<PathBuf>,
}

impl Server {
    fn pid(&self) -> nix::unistd::Pid {
        let noted = self.pid_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
        nix::unistd::Pid::from_raw(noted.unwrap_or_else(|| i32::try_from(self.child.id()).expect("a pid")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.pid(), nix::sys::signal::Signal::SIGTERM);
        let begun = now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if begun.elapsed().as_secs() > 20 {
                println!("{} does not end; it is killed", self.name);
                let _ = self.child.kill();
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// What of these is not installed.
pub(super) fn lacking() -> Option<&'static str> {
    let needed = [
        ("/usr/sbin/nginx", "nginx"),
        ("/usr/lib/nginx/modules/ngx_mail_module.so", "libnginx-mod-mail"),
        ("/usr/sbin/postfix", "postfix"),
        ("/usr/sbin/haproxy", "haproxy"),
    ];
    needed.into_iter().find(|(file, _)| !Path::new(file).exists()).map(|(_, package)| package)
}

/// Ports of this host that nobody uses at the moment.
pub(super) fn ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

/// An example with its addresses and paths replaced; each must be in it.
pub(super) fn example(name: &str, replace: &[(&str, String)]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/examples").join(name);
    let mut text = std::fs::read_to_string(&file).expect("an example");
    for (from, to) in replace {
        assert!(text.contains(from), "{name} has no `{from}`");
        text = text.replace(from, to);
    }
    text
}

fn start(name: &'static str, dir: &Path, command: &mut Command, port: u16) -> Server {
    let log = std::fs::File::create(dir.join(format!("{name}.out"))).expect("a file");
    let errors = log.try_clone().expect("a file");
    let child = command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("starts");
    let mut server = Server { name, child, pid_file: None };
    wait_for(name, || {
        let told = || std::fs::read_to_string(dir.join(format!("{name}.out"))).unwrap_or_default();
        if let Ok(Some(ended)) = server.child.try_wait() {
            panic!("{name} ended ({ended}): {}", told());
        }
        TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| format!("{error}: {}", told()))
    });
    server
}

/// nginx: ports of IMAP, POP3 and SMTP.
pub(super) fn nginx(dir: &Path, ips: [&str; 2]) -> (Server, [u16; 3]) {
    let [auth, imap, pop3, smtp] = ports();
    let folder = dir.join("nginx");
    std::fs::create_dir_all(&folder).expect("a folder");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("    {of}_temp_path {}/{of};\n", folder.display()))
        .concat();
    let text = example(
        "nginx.conf",
        &[
            ("192.0.2.1", ips[0].to_owned()),
            ("192.0.2.2", ips[1].to_owned()),
            ("127.0.0.1:8474", format!("127.0.0.1:{auth}")),
            ("listen 143;", format!("listen 127.0.0.1:{imap};")),
            ("listen 110;", format!("listen 127.0.0.1:{pop3};")),
            ("listen 587;", format!("listen 127.0.0.1:{smtp};")),
            ("/run/nginx.pid", format!("{}/nginx.pid", folder.display())),
            ("/var/log/nginx/error.log", format!("{}/error.log", folder.display())),
            ("worker_processes auto", "worker_processes 1".to_owned()),
            ("    access_log off;\n", format!("    access_log off;\n{temporary}")),
        ],
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text).expect("writes");
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log")).arg("-c").arg(&file);
    (start("nginx", dir, command.args(["-g", "daemon off;"]), imap), [imap, pop3, smtp])
}

/// HAProxy: ports of the socketmap and of IMAP, and its own socket.
pub(super) fn haproxy(dir: &Path, ips: [&str; 2]) -> (Server, [u16; 2], PathBuf) {
    let [map, imap] = ports();
    let socket = dir.join("haproxy.sock");
    let text = example(
        "haproxy.cfg",
        &[
            ("192.0.2.1", ips[0].to_owned()),
            ("192.0.2.2", ips[1].to_owned()),
            ("127.0.0.1:8475", format!("127.0.0.1:{map}")),
            ("bind :1430", format!("bind 127.0.0.1:{imap}")),
            ("/run/haproxy/admin.sock", socket.display().to_string()),
        ],
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, text).expect("writes");
    let mut command = Command::new("/usr/sbin/haproxy");
    (start("haproxy", dir, command.arg("-db").arg("-f").arg(file), map), [map, imap], socket)
}

/// Postfix: the port of SMTP. Its socketmap is at `map`.
pub(super) fn postfix(dir: &Path, map: u16) -> (Server, u16) {
    let [smtp] = ports();
    let home = dir.join("postfix");
    for folder in ["queue", "data"] {
        std::fs::create_dir_all(home.join(folder)).expect("a folder");
    }
    let postfix = nix::unistd::User::from_name("postfix").expect("asks").expect("the package makes the user");
    nix::unistd::chown(&home.join("data"), Some(postfix.uid), Some(postfix.gid)).expect("chown");
    let own = format!(
        "compatibility_level = 3.6\nqueue_directory = {home}/queue\ndata_directory = {home}/data\n\
        maillog_file = {home}/mail.log\nmaillog_file_prefixes = {home}\nmyhostname = mx.example.test\n\
        mydestination =\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\n\
        alias_maps =\nalias_database =\nlocal_recipient_maps =\nqueue_run_delay = 3s\nminimal_backoff_time = 3s\n\
        mail_owner = postfix\nsetgid_group = postdrop\ncommand_directory = /usr/sbin\n\
        daemon_directory = /usr/lib/postfix/sbin\nsmtpd_relay_restrictions = permit_mynetworks, reject\n",
        home = home.display()
    );
    let theirs = example(
        "postfix-main.cf",
        &[("127.0.0.1:8475", format!("127.0.0.1:{map}")), ("minimal_backoff_time = 60s\n", String::new())],
    );
    std::fs::write(home.join("main.cf"), own + &theirs).expect("writes");
    let services = [
        "cleanup unix n - n - 0 cleanup",
        "qmgr unix n - n 300 1 qmgr",
        "rewrite unix - - n 1000? 1 trivial-rewrite",
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
    let master = format!("127.0.0.1:{smtp} inet n - n - - smtpd\n{}\n", services.join("\n"));
    std::fs::write(home.join("master.cf"), master).expect("writes");
    let mut command = Command::new("/usr/sbin/postfix");
    let mut server = start("postfix", dir, command.arg("-c").arg(&home).arg("start-fg"), smtp);
    server.pid_file = Some(home.join("queue/pid/master.pid"));
    (server, smtp)
}
