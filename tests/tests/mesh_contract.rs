//! The mesh itself, with stores alone: its documented contract, its life, and that it leaves nothing behind.
//!
//! Owns: what outside programs rely on. What can hurt: a host without root or Dovecot; the tests are then skipped by
//! name. Refuses: replication; other suites show that on the whole.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use understudy_tests::mesh::Mesh;
use understudy_tests::traffic::User;

/// The program that these tests drive; built here when a plain `cargo test` has not built it.
fn xtask() -> PathBuf {
    let folder = std::env::current_exe().expect("a path").ancestors().nth(2).expect("target/debug").to_path_buf();
    let program = folder.join("xtask");
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo).args(["build", "--package", "xtask"]).status().expect("cargo starts");
        assert!(built.success(), "xtask does not build");
    }
    program
}

/// Why a mesh cannot run on this host, if it cannot.
fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/usr/sbin/dovecot").exists() {
        return Some("no Dovecot; `cargo xtask bootstrap` installs it".to_owned());
    }
    let namespaces = Command::new("unshare").args(["--net", "--mount", "true"]).status();
    (!namespaces.is_ok_and(|s| s.success())).then(|| "no network namespaces".to_owned())
}

fn listed(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().expect("starts");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn mesh_serves_dies_starts_and_leaves_nothing_behind() {
    if let Some(why) = lacking() {
        println!("SKIPPED mesh_serves_dies_starts_and_leaves_nothing_behind: {why}");
        return;
    }
    let mesh = Mesh::up(&xtask(), 2, 3, &["--store-only", "--format", "sdbox"]).expect("comes up");
    let state = mesh.state().clone();
    assert_eq!(state.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["node1", "node2"]);
    assert_eq!(state.blob_dir, mesh.dir().join("blobs"));
    for (account, (active, replica)) in state.accounts.iter().zip([("node1", "node2"), ("node2", "node1")]) {
        assert_eq!((account.active.as_str(), account.replicas.join(" ").as_str()), (active, replica));
        assert!(account.lag.is_none(), "lags are in `mesh status` only");
    }
    for node in &state.nodes {
        assert!(node.store_pid.is_some() && node.agent_pid.is_none());
        assert!(node.dir.starts_with(mesh.dir()) && listed("ip", &["netns", "list"]).contains(&node.netns));
    }

    // A user at work for a moment, then everything that was acknowledged is there.
    let account = state.accounts[0].clone();
    let mut user = User::new(state.target(&account, "node1").expect("node1"), 7, Duration::ZERO);
    (0..60).for_each(|_| user.step());
    let tally = user.run(&AtomicBool::new(true), &AtomicU64::new(0));
    assert!(tally.total() > 20 && tally.unknown + tally.unreachable == 0, "{tally:?}");
    let there = state.read(&account, "node1").expect("reads");
    let inbox = there.mailboxes["INBOX"].as_ref().expect("INBOX");
    assert_eq!(inbox.messages.len(), tally.promised.len());

    // A killed store is down, and only there; started again, it serves what it had.
    mesh.kill("1", "store", "KILL").expect("kills");
    let status = mesh.status().expect("status");
    assert_eq!((status.nodes[0].store_pid, status.nodes[1].store_pid), (None, state.nodes[1].store_pid));
    assert!(mesh.kill("node1", "store", "KILL").is_err(), "nothing is left to kill");
    assert!(state.read(&account, "node1").is_err());
    mesh.start("node1", "all").expect("starts");
    assert_eq!(state.read(&account, "node1").expect("reads").difference(&there), None);
    let lag = mesh.status().expect("status").accounts[0].lag.clone().expect("a lag");
    assert_eq!((lag.operations, lag.replicas["node2"].operations), (None, None), "nobody knows it without agents");

    let (dir, tag) = (mesh.dir().to_path_buf(), state.nodes[0].netns.replace("-node1", ""));
    mesh.down().expect("nothing is left behind");
    assert!(!dir.exists());
    assert!(!listed("ip", &["netns", "list"]).contains(&tag), "network namespaces are left");
    assert!(!listed("ip", &["-o", "link"]).contains(&tag.replace('-', "")), "interfaces are left");
    let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
    let short = tag.replace("us-", "/run/understudy-mesh/");
    let processes = listed("ps", &["-eo", "args"]);
    assert!(!processes.contains(&name) && !processes.contains(&short), "processes are left: {processes}");
}

#[test]
fn mesh_whose_owner_was_killed_is_taken_away_whole() {
    if let Some(why) = lacking() {
        println!("SKIPPED mesh_whose_owner_was_killed_is_taken_away_whole: {why}");
        return;
    }
    let mesh = Mesh::up(&xtask(), 1, 1, &["--store-only"]).expect("comes up");
    let text = std::fs::read_to_string(mesh.dir().join("mesh.json")).expect("a state");
    let owner =
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["owner_pid"].as_i64().expect("a number");
    let owner = nix::unistd::Pid::from_raw(i32::try_from(owner).expect("small"));
    nix::sys::signal::kill(owner, nix::sys::signal::Signal::SIGKILL).expect("kills");
    assert!(mesh.start("node1", "all").is_err(), "nobody is there to start anything");
    let (netns, dir) = (mesh.state().nodes[0].netns.clone(), mesh.dir().to_path_buf());
    mesh.down().expect("nothing is left behind");
    assert!(!dir.exists() && !listed("ip", &["netns", "list"]).contains(&netns));
}

#[test]
fn a_folder_with_something_in_it_is_refused_and_kept() {
    if let Some(why) = lacking() {
        println!("SKIPPED a_folder_with_something_in_it_is_refused_and_kept: {why}");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("precious"), "data").expect("writes");
    let done = Command::new(xtask())
        .args(["mesh", "up", "--no-build", "--store-only", "--dir"])
        .arg(dir.path())
        .output()
        .expect("starts");
    assert!(!done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("not empty"));
    let down = Command::new(xtask()).args(["mesh", "down", "--dir"]).arg(dir.path()).status().expect("starts");
    assert!(down.success(), "nothing to take away is no failure");
    assert!(dir.path().join("precious").exists());
}
