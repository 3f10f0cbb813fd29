//! What failover tests and chaos do to a mesh: cuts, long cables, dead machines, bad disks; and users who measure it.
//!
//! Owns: what these tests share. Each shows that a fault is what it says, hits nothing else, and is undone. What can
//! hurt: a host without root, Dovecot or the proxies; the tests are then skipped by name. Refuses: failover itself;
//! here placement stays as it is, and no length is judged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use understudy_tests::mesh::State;
use understudy_tests::proxies;

mod cables;
mod disks;
mod users;

/// What takes longer than this hangs. Generous: it says nothing of speed.
const HANG: Duration = Duration::from_secs(120);

#[expect(clippy::disallowed_methods, reason = "a wait of a test needs an end")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = now();
    while !done() {
        assert!(begun.elapsed() < HANG, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The program that makes meshes; built here, with the agent, when a plain `cargo test` has not built it.
fn xtask() -> PathBuf {
    let folder = std::env::current_exe().expect("a path").ancestors().nth(2).expect("target/debug").to_path_buf();
    let program = folder.join("xtask");
    if !program.exists() || !folder.join("understudy").exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo).args(["build", "--package", "xtask", "--package", "understudy-agent"]).status();
        assert!(built.expect("cargo starts").success(), "the programs of the mesh do not build");
    }
    program
}

/// True when `test` cannot run here, and why is said; `whole`: with agents, proxies and etcd.
fn skipped(test: &str, whole: bool) -> bool {
    let lacking = lacking(whole);
    if let Some(why) = &lacking {
        println!("SKIPPED {test}: {why}");
    }
    lacking.is_some()
}

/// Why a mesh cannot run on this host, if it cannot.
fn lacking(whole: bool) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/usr/sbin/dovecot").exists() {
        return Some("no Dovecot; `cargo xtask bootstrap` installs it".to_owned());
    }
    if !Path::new("/usr/sbin/nft").exists() {
        return Some("no nftables; `cargo xtask bootstrap` installs it".to_owned());
    }
    let etcd = Path::new("/usr/bin/etcd").exists().then_some(()).ok_or("etcd-server").err();
    if let Some(package) = proxies::lacking().or(etcd).filter(|_| whole) {
        return Some(format!("no {package}; `cargo xtask bootstrap` installs it"));
    }
    if whole && !xtask().ancestors().nth(2).is_some_and(|target| target.join("dovecot").exists()) {
        return Some("the plugin is not built; `cargo xtask build` makes it".to_owned());
    }
    let namespaces = Command::new("unshare").args(["--net", "--mount", "true"]).status();
    (!namespaces.is_ok_and(|s| s.success())).then(|| "no network namespaces".to_owned())
}

fn listed(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().expect("starts");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Can somebody in `netns` (or the host) connect?
fn reaches(netns: Option<&str>, ip: &str, port: u16) -> bool {
    let script = format!("</dev/tcp/{ip}/{port}");
    let connect = ["timeout", "2", "bash", "-c", &script];
    let enter = netns.map(|netns| ["nsenter".to_owned(), format!("--net=/run/netns/{netns}")]);
    let mut words = enter.into_iter().flatten().chain(connect.map(str::to_owned));
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).stderr(std::process::Stdio::null()).status().expect("starts").success()
}

fn tag(state: &State) -> String {
    state.nodes[0].netns.trim_start_matches("us-").trim_end_matches("-node1").to_owned()
}
