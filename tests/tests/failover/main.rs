//! A node that dies, freezes, is cut off or is emptied: users are served again, and nothing that was acknowledged is
//! lost.
//!
//! Owns: one run of four drills (`cargo xtask drill` makes them often, and measures). What can hurt: a host without
//! root, Dovecot, etcd or the proxies; the tests are then skipped by name. Refuses: judging how long anything took.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use understudy_tests::drill::{self, Plan, Report, What};
use understudy_tests::mesh::Mesh;
use understudy_tests::proxies;

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

/// True when `test` cannot run here, and why is said.
fn skipped(test: &str) -> bool {
    let programs = ["/usr/sbin/dovecot", "/usr/sbin/nft", "/usr/bin/etcd"];
    let missing = programs.iter().find(|program| !Path::new(program).exists()).map(|p| format!("no {p}"));
    let lacking = if nix::unistd::geteuid().is_root() {
        missing.or_else(|| proxies::lacking().map(|package| format!("no {package}")))
    } else {
        Some("not root".to_owned())
    };
    let plugin = || xtask().ancestors().nth(2).is_some_and(|target| target.join("dovecot").exists());
    let lacking = lacking.or_else(|| (!plugin()).then(|| "the plugin is not built; `cargo xtask build`".to_owned()));
    if let Some(why) = &lacking {
        println!("SKIPPED {test}: {why}");
    }
    lacking.is_some()
}

/// One run of `what`. A machine that is busy with other tests makes users wait; here they are patient.
fn once(mesh: &Mesh, what: What) -> Report {
    let mut plan = Plan::new(what, 1);
    plan.interval = Duration::from_millis(400);
    plan.step_timeout = Duration::from_secs(if what.unseen() { 20 } else { 3 });
    let mut say = |text: &str| {
        println!("{}: {text}", what.name());
        Ok(())
    };
    let report = drill::run(mesh, &plan, &mut say).expect("a report");
    println!("{}", serde_json::to_string(&report).expect("writes"));
    let faults: Vec<&String> = report.runs.iter().flat_map(|run| &run.faults).collect();
    assert!(faults.is_empty(), "{}: {faults:?}", what.name());
    assert!(report.verdict.acknowledged > 20, "{}: hardly any mail: {:?}", what.name(), report.verdict);
    assert!(report.verdict.missing.is_empty(), "{}: lost: {:?}", what.name(), report.verdict);
    // A delivery that got no answer is made again; an addition is not.
    let twice = report.verdict.repeated.len() - report.repeated_deliveries;
    assert_eq!(twice, 0, "{}: doubled: {:?}", what.name(), report.verdict);
    assert!(report.differ.is_empty(), "{}: {:?}", what.name(), report.differ);
    report
}

#[test]
fn users_are_served_again_and_nothing_acknowledged_is_lost() {
    if skipped("users_are_served_again_and_nothing_acknowledged_is_lost") {
        return;
    }
    let mesh = Mesh::up(&xtask(), 3, 3, &["--level", "peer"]).expect("comes up");
    for what in [What::Switchover, What::Machine, What::StoreFrozen] {
        let report = once(&mesh, what);
        assert!(report.runs[0].epochs_changed > 0, "{}: nobody took over", what.name());
    }
    mesh.down().expect("nothing is left behind");
}

#[test]
fn what_both_sides_of_a_cut_acknowledged_is_on_both() {
    if skipped("what_both_sides_of_a_cut_acknowledged_is_on_both") {
        return;
    }
    let mesh = Mesh::up(&xtask(), 3, 3, &["--level", "local"]).expect("comes up");
    let report = once(&mesh, What::Partition);
    let run = &report.runs[0];
    assert!(run.written_apart > 0 && run.brought > 0, "nothing was merged: {run:?}");
    mesh.down().expect("nothing is left behind");
}
