//! A mesh of three nodes with etcd and proxies: its contract, its faults, and users who measure what they see of them.
//!
//! Owns: what failover tests and chaos rely on: that a cut cuts what it says and nothing else, that a dead machine is
//! dead, and that all of it is undone. What can hurt: a host without root, Dovecot or the proxies; the tests are then
//! skipped by name. Refuses: failover itself; here placement stays as it is, and no length is judged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use understudy_tests::mesh::{Mesh, State};
use understudy_tests::outage::{self, Prober, Setup};
use understudy_tests::proxies;

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

/// Why a mesh cannot run on this host, if it cannot; `whole`: with agents, proxies and etcd.
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

/// Which of these ways are open: node1 to node2 and back, node1 to node3, node2 to node3, host to node1.
fn open_ways(state: &State) -> [bool; 5] {
    let way = |from: Option<usize>, to: usize| {
        let netns = from.map(|from| state.nodes[from].netns.as_str());
        reaches(netns, &state.nodes[to].ip, state.nodes[to].imap.port)
    };
    [way(Some(0), 1), way(Some(1), 0), way(Some(0), 2), way(Some(1), 2), way(None, 0)]
}

#[test]
fn a_cut_cuts_what_it_says_and_is_undone() {
    if let Some(why) = lacking(false) {
        println!("SKIPPED a_cut_cuts_what_it_says_and_is_undone: {why}");
        return;
    }
    let mesh = Mesh::up(&xtask(), 3, 3, &["--store-only"]).expect("comes up");
    let state = mesh.state().clone();
    assert!(state.proxy.is_none() && state.coordinator.kind == "none", "not without agents, unless asked for");
    let all = [true; 5];
    assert_eq!(open_ways(&state), all);

    for _ in 0..2 {
        mesh.partition("1", &[]).expect("cuts; a second time too");
        assert_eq!(open_ways(&state), [false, false, false, true, false]);
    }
    mesh.heal().expect("heals");
    assert_eq!(open_ways(&state), all);

    mesh.partition("node1", &["--from", "2"]).expect("cuts");
    assert_eq!(open_ways(&state), [false, false, true, true, true]);
    mesh.partition("node3", &["--from", "host"]).expect("cuts");
    mesh.heal().expect("heals");

    // A connection needs both ways; that only one is cut shows in a neighbour that is heard.
    mesh.partition("node1", &["--from", "node2", "--one-way"]).expect("cuts");
    assert_eq!(open_ways(&state), [false, false, true, true, true]);
    let table = format!("us{}", tag(&state));
    let rules = listed("nft", &["list", "table", "bridge", &table]);
    assert_eq!(rules.matches(" drop").count(), 1, "{rules}");
    assert!(mesh.partition("node9", &[]).is_err() && mesh.partition("node1", &["--from", "node1"]).is_err());

    // A dead machine is down and cut, and a cut of its own stays after it is back.
    mesh.kill("node2", "machine", "KILL").expect("kills");
    assert_eq!(mesh.status().expect("status").nodes[1].store_pid, None);
    assert_eq!(open_ways(&state), [false, false, true, false, true]);
    assert!(listed("ip", &["netns", "pids", &state.nodes[1].netns]).trim().is_empty(), "a process is left");
    mesh.start("node2", "machine").expect("starts");
    assert_eq!(open_ways(&state), [false, false, true, true, true]);
    mesh.heal().expect("heals");
    assert_eq!(open_ways(&state), all);

    // A frozen one is silent, and goes on as it was.
    let before = mesh.status().expect("status").nodes[1].store_pid;
    mesh.kill("node2", "machine", "STOP").expect("freezes");
    assert_eq!(open_ways(&state), [false, false, true, false, true]);
    mesh.kill("node2", "machine", "CONT").expect("thaws");
    assert_eq!(open_ways(&state), all);
    assert_eq!(mesh.status().expect("status").nodes[1].store_pid, before);

    mesh.partition("node1", &[]).expect("cuts");
    mesh.down().expect("nothing is left behind");
    assert!(!listed("nft", &["list", "tables"]).contains(&table), "rules are left");
}

fn tag(state: &State) -> String {
    state.nodes[0].netns.trim_start_matches("us-").trim_end_matches("-node1").to_owned()
}

#[test]
fn users_are_served_through_the_proxies_also_when_a_machine_dies() {
    const TEST: &str = "users_are_served_through_the_proxies_also_when_a_machine_dies";
    if let Some(why) = lacking(true) {
        println!("SKIPPED {TEST}: {why}");
        return;
    }
    let mesh = Mesh::up(&xtask(), 3, 3, &["--level", "local"]).expect("comes up");
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

    // What stands beside the nodes dies and comes back too; etcd has nothing to do with sessions.
    mesh.kill_service("etcd", "KILL").expect("kills");
    recovered(prober.now_ms());
    mesh.start_service("etcd").expect("starts");
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
    assert_eq!((state.coordinator.kind.as_str(), state.coordinator.endpoints.len()), ("etcd", 1));
    let client = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &state.coordinator.endpoints[0], "put", "/mesh", "here"])
        .output();
    if let Ok(done) = client {
        assert!(done.status.success(), "{done:?}");
    }
    for (nth, account) in state.accounts.iter().enumerate() {
        assert_eq!((account.replicas.len(), account.group, account.epoch), (2, u32::try_from(nth).expect("few"), 1));
        assert!(!account.replicas.contains(&account.active));
    }
    assert!(reaches(None, &proxy.pop3.host, proxy.pop3.port));
}

#[test]
fn all_of_a_mesh_goes_also_after_its_owner_was_killed() {
    const TEST: &str = "all_of_a_mesh_goes_also_after_its_owner_was_killed";
    if let Some(why) = lacking(true) {
        println!("SKIPPED {TEST}: {why}");
        return;
    }
    let mesh = Mesh::up(&xtask(), 2, 2, &["--proxies", "--etcd", "3"]).expect("comes up");
    let state = mesh.state().clone();
    assert!(state.proxy.is_some() && state.coordinator.endpoints.len() == 3);
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
