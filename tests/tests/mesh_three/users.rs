//! A whole mesh: users are served through its proxies, and measure what they see of its faults.
//!
//! Owns: the contract of a mesh with proxies and etcd, and the prober on real servers. What can hurt: a busy host;
//! steps have time. Refuses: judging how long an outage was, and failover: without a coordinator placement stays as
//! it is.

use super::{HANG, listed, reaches, skipped, tag, wait_for, xtask};
use std::process::Command;
use std::time::Duration;
use understudy_tests::mesh::{Mesh, State};
use understudy_tests::outage::{self, Prober, Setup};

#[test]
fn users_are_served_through_the_proxies_also_when_a_machine_dies() {
    if skipped("users_are_served_through_the_proxies_also_when_a_machine_dies", true) {
        return;
    }
    let mesh = Mesh::up(&xtask(), 3, 3, &["--level", "local", "--coordinator", "none"]).expect("comes up");
    let state = mesh.state().clone();
    contract(&state);

    let mut setup = Setup::of(&state).expect("proxies");
    setup.interval = Duration::from_millis(200);
    setup.step_timeout = Duration::from_secs(5); // this host may be busy
    let (accounts, imap) = (setup.accounts.clone(), setup.imap.clone().expect("IMAP"));
    let prober = Prober::start(setup);
    let recovered = |since_ms| wait_for("all accounts", || prober.recovered(since_ms));
    recovered(prober.now_ms());

    let died_ms = prober.mark("node2 dies");
    mesh.kill("node2", "machine", "KILL").expect("kills");
    let status = mesh.status().expect("status");
    assert_eq!((status.nodes[1].agent_pid, status.nodes[1].store_pid), (None, None));
    std::thread::sleep(Duration::from_secs(2));
    mesh.start("node2", "machine").expect("starts");
    recovered(prober.now_ms());
    let back_ms = prober.mark("node2 is back");

    // What stands before the nodes dies and comes back too.
    for service in ["nginx", "haproxy", "postfix"] {
        mesh.kill_service(service, "KILL").expect("kills");
        assert!(mesh.kill_service(service, "KILL").is_err(), "nothing of {service} is left to kill");
        mesh.start_service(service).expect("starts");
    }
    recovered(prober.now_ms());

    let record = prober.stop();
    let verdict = outage::check(&record, &imap, &accounts, HANG).expect("reads");
    assert!(verdict.missing.is_empty() && verdict.acknowledged > 20, "{verdict:?}");
    let outages = record.between(died_ms, back_ms);
    let of = |node: &str| {
        let name = &state.accounts.iter().find(|a| a.active == node).expect("an account").name;
        outages.accounts.iter().find(|a| a.name == *name).expect("a report").clone()
    };
    // Whoever was on their way in meanwhile may have been kept waiting and then served.
    let gone = of("node2");
    assert!(gone.imap.pause_max_ms >= 2000, "{gone:?}");
    println!("{}", serde_json::to_string(&outages).expect("writes"));
    mesh.down().expect("nothing is left behind");
}

fn contract(state: &State) {
    let proxy = state.proxy.as_ref().expect("proxies");
    assert_eq!((proxy.imap.port, proxy.pop3.port, proxy.smtp.port), (143, 110, 25));
    assert_eq!((state.coordinator.kind.as_str(), state.coordinator.endpoints.len()), ("none", 0));
    for (nth, account) in state.accounts.iter().enumerate() {
        assert_eq!((account.replicas.len(), account.group, account.epoch), (2, u32::try_from(nth).expect("few"), 1));
        assert!(!account.replicas.contains(&account.active));
    }
    assert!(reaches(None, &proxy.pop3.host, proxy.pop3.port));
}

#[test]
fn all_of_a_mesh_goes_also_after_its_owner_was_killed() {
    if skipped("all_of_a_mesh_goes_also_after_its_owner_was_killed", true) {
        return;
    }
    let mesh = Mesh::up(&xtask(), 2, 2, &["--proxies", "--etcd", "3"]).expect("comes up");
    let state = mesh.state().clone();
    assert!(state.proxy.is_some() && state.coordinator.kind == "etcd" && state.coordinator.endpoints.len() == 3);
    let put = |endpoint: &str| {
        let mut client = Command::new("etcdctl");
        client.env("ETCDCTL_API", "3").args(["--endpoints", endpoint, "put", "/mesh", "here"]);
        client.output().is_ok_and(|done| done.status.success())
    };
    assert!(state.coordinator.endpoints.iter().all(|endpoint| put(endpoint)), "a member does not serve");
    mesh.kill_service("etcd", "KILL").expect("kills");
    assert!(!put(&state.coordinator.endpoints[0]));
    mesh.start_service("etcd").expect("starts");
    assert!(state.coordinator.endpoints.iter().all(|endpoint| put(endpoint)), "a member does not serve again");
    mesh.partition("1", &["--from", "etcd"]).expect("cuts");
    let text = std::fs::read_to_string(mesh.dir().join("mesh.json")).expect("a state");
    let owner = serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["owner_pid"].as_i64().expect("a pid");
    let owner = nix::unistd::Pid::from_raw(i32::try_from(owner).expect("small"));
    nix::sys::signal::kill(owner, nix::sys::signal::Signal::SIGKILL).expect("kills");
    assert!(mesh.start_service("nginx").is_err(), "nobody is there to start anything");
    let (dir, tag) = (mesh.dir().to_path_buf(), tag(&state));
    mesh.down().expect("nothing is left behind");
    assert!(!dir.exists());
    for (program, args) in [("nft", &["list", "tables"][..]), ("ip", &["netns", "list"]), ("ip", &["-o", "link"])] {
        let left = listed(program, args);
        assert!(!left.contains(&tag), "{program} {args:?}: {left}");
    }
    let processes = listed("ps", &["-eo", "args"]);
    assert!(!processes.contains(&format!("/run/understudy-mesh/{tag}")), "processes are left: {processes}");
}
