//! nginx, Postfix and HAProxy as `understudy_tests::proxies` prepares them, each with a folder and ports of its own.
//!
//! Owns: starting them and stopping them by their process id. What can hurt: a server that ends at once; the test fails
//! with what it said. Refuses: writing configurations.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use understudy_tests::proxies::{self, HaproxyAt, NginxAt, PostfixAt, Prepared};

use super::{now, wait_for};

/// A server that stops when this goes.
pub(super) struct Server {
    name: &'static str,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
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

/// Ports of this host that nobody uses at the moment.
fn ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn start(name: &'static str, dir: &Path, prepared: &Prepared, port: u16) -> Server {
    let log = std::fs::File::create(dir.join(format!("{name}.out"))).expect("a file");
    let errors = log.try_clone().expect("a file");
    // Postfix wants to lead a session, and cannot when it leads a group only (seen); `setsid` becomes the program.
    let mut command = Command::new("setsid");
    command.arg(&prepared.program).args(&prepared.args).stdin(Stdio::null()).stdout(log).stderr(errors);
    let mut server = Server { name, child: command.spawn().expect("starts") };
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
pub(super) fn nginx(dir: &Path, ips: &[&str]) -> (Server, [u16; 3]) {
    let [auth, imap, pop3, smtp] = ports();
    let at = NginxAt { auth: local(auth), imap: local(imap), pop3: local(pop3), submission: local(smtp) };
    let prepared = proxies::nginx(&dir.join("nginx"), ips, &at).expect("prepared");
    (start("nginx", dir, &prepared, imap), [imap, pop3, smtp])
}

/// HAProxy: ports of the socketmap and of IMAP, and its own socket.
pub(super) fn haproxy(dir: &Path, ips: &[&str]) -> (Server, [u16; 2], PathBuf) {
    let [map, imap] = ports();
    let at = HaproxyAt { map: local(map), imap: local(imap), socket: dir.join("haproxy.sock") };
    let prepared = proxies::haproxy(dir, ips, &at).expect("prepared");
    (start("haproxy", dir, &prepared, map), [map, imap], at.socket)
}

/// Postfix: the port of SMTP. Its socketmap is at `map`.
pub(super) fn postfix(dir: &Path, map: u16) -> (Server, u16) {
    let [port] = ports();
    let at = PostfixAt {
        ip: "127.0.0.1".to_owned(),
        port,
        map: local(map),
        networks: "127.0.0.0/8".to_owned(),
        netns: None,
    };
    let prepared = proxies::postfix(&dir.join("postfix"), &at).expect("prepared");
    (start("postfix", dir, &prepared, port), port)
}
