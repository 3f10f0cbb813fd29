//! Cuts, machines that die or freeze, and cables that are long: nobody but whom they are for notices.
//!
//! Owns: looking who reaches whom. What can hurt: a firewall of this host. Refuses: agents; stores are enough to
//! connect to.

use super::{listed, now, reaches, skipped, tag, xtask};
use std::net::TcpStream;
use std::time::Duration;
use understudy_tests::mesh::{Mesh, State};

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
    if skipped("a_cut_cuts_what_it_says_and_is_undone", false) {
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

/// How long it takes to connect from the host: a round trip.
fn round_trip(state: &State, node: usize) -> Duration {
    let node = &state.nodes[node];
    // The first one asks for the node's address too.
    drop(TcpStream::connect((node.imap.host.as_str(), node.imap.port)).expect("connects"));
    let begun = now();
    drop(TcpStream::connect((node.imap.host.as_str(), node.imap.port)).expect("connects"));
    begun.elapsed()
}

#[test]
fn a_long_cable_delays_and_loses_and_is_short_again() {
    if skipped("a_long_cable_delays_and_loses_and_is_short_again", false) {
        return;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("SKIPPED a_long_cable_delays_and_loses_and_is_short_again: no tap devices");
        return;
    }
    let mesh = Mesh::up(&xtask(), 3, 1, &["--store-only"]).expect("comes up");
    let state = mesh.state().clone();
    for ms in [150, 100] {
        mesh.delay("node1", ms, 0.0).expect("delays; a second time anew");
        assert!(round_trip(&state, 0) >= Duration::from_millis(u64::from(ms)));
    }
    assert_eq!(open_ways(&state), [true; 5]);
    // A cut cuts long cables too.
    mesh.partition("node1", &["--from", "2"]).expect("cuts");
    assert_eq!(open_ways(&state), [false, false, true, true, true]);
    mesh.heal().expect("heals");
    mesh.delay("node2", 0, 100.0).expect("loses all");
    assert_eq!(open_ways(&state), [false, false, true, false, true]);
    for node in ["node1", "node2"] {
        mesh.delay(node, 0, 0.0).expect("ends");
    }
    assert_eq!(open_ways(&state), [true; 5]);
    assert!(!listed("ip", &["-o", "link"]).contains(&format!("us{}t", tag(&state))), "a tap device is left");
    mesh.delay("node3", 20, 1.0).expect("delays");
    mesh.down().expect("nothing is left behind");
    assert!(!listed("ip", &["-o", "link"]).contains(&tag(&state)), "interfaces are left");
}
