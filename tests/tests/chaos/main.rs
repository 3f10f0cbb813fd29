//! The short form of `cargo xtask chaos`: a fixed seed and a few events, and the verdict over what users were told.
//!
//! Owns: which events those are. What can hurt: a host without root, Dovecot or the proxies; the test is then skipped
//! by name. Refuses: judging lengths; `docs/chaos.md` has the long form.

use std::path::{Path, PathBuf};
use std::process::Command;
use understudy_tests::proxies;

/// One of each sort: a process, a whole machine that comes back, the network, the coordinator, central storage.
const EVENTS: [&str; 5] = ["kill-agent:1", "freeze-machine:2", "etcd-freeze", "cut:3", "blobs-gone"];

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

/// Why it cannot run on this host, if it cannot.
fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let programs = [
        ("/usr/sbin/dovecot", "Dovecot"),
        ("/usr/sbin/nft", "nftables"),
        ("/usr/bin/etcd", "etcd-server"),
        ("/usr/bin/etcdctl", "etcd-client"),
    ];
    let missing = programs.into_iter().find(|(path, _)| !Path::new(path).exists()).map(|(_, name)| name.to_owned());
    if let Some(package) = missing.or_else(|| proxies::lacking().map(str::to_owned)) {
        return Some(format!("no {package}; `cargo xtask bootstrap` installs it"));
    }
    if !xtask().ancestors().nth(2).is_some_and(|target| target.join("dovecot").exists()) {
        return Some("the plugin is not built; `cargo xtask build` makes it".to_owned());
    }
    let namespaces = Command::new("unshare").args(["--net", "--mount", "true"]).status();
    (!namespaces.is_ok_and(|s| s.success())).then(|| "no network namespaces".to_owned())
}

#[test]
fn users_find_what_they_were_told_after_a_few_faults() {
    if let Some(why) = lacking() {
        println!("SKIPPED users_find_what_they_were_told_after_a_few_faults: {why}");
        return;
    }
    let mut chaos = Command::new(xtask());
    chaos.args(["chaos", "--no-build", "--seed", "20", "--json"]);
    for event in EVENTS {
        chaos.args(["--event", event]);
    }
    let done = chaos.output().expect("starts");
    let (out, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(!out.is_empty(), "{errors}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    println!("{}", serde_json::to_string_pretty(&report["events"]).expect("writes"));
    assert_eq!(report["violations"], serde_json::json!([]), "logs: {}", report["logs"]);
    assert_eq!(done.status.code(), Some(0), "{errors}");
    assert_eq!(report["events"].as_array().map(Vec::len), Some(EVENTS.len()));
    let done = |name: &str| report["operations"][name].as_u64().unwrap_or(0);
    for name in ["append", "flag", "move", "expunge", "session and delivery"] {
        assert!(done(name) > 0, "nobody was told of `{name}`: {}", report["operations"]);
    }
}
