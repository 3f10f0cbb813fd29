//! Changes that nobody captured: behind the store's back, and by store processes that were killed.

use super::{HANG, Mesh, becomes_equal, deliver, equal, give, maildir, mesh, message, named, node, now};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use understudy_tests::agent;
use understudy_tests::traffic::User;

/// The first message in a Maildir's `cur` and `new`.
fn first_message(root: &Path) -> std::path::PathBuf {
    let files = ["cur", "new"].iter().filter_map(|part| std::fs::read_dir(root.join(part)).ok()).flatten().flatten();
    files.map(|entry| entry.path()).min().expect("a message")
}

#[test]
fn changes_behind_the_stores_back_are_found_by_comparison() {
    let name = "changes_behind_the_stores_back_are_found_by_comparison";
    let Some(mesh) = mesh(name, 8, &["--level", "local"]) else { return };
    let state = mesh.state().clone();
    let [dropped, flagged, removed, foreign] = ["u0001", "u0003", "u0005", "u0007"].map(|name| named(&state, name));
    for account in [&dropped, &flagged, &removed, &foreign] {
        (0..3).for_each(|n| deliver(&state, account, &message(&format!("{n}"))));
        equal(&state, account);
    }
    // A file that a program dropped into the active node's Maildir.
    let file = maildir(&state, &dropped, "node1").join("new/1700000000.M1.dropped");
    std::fs::write(&file, message("dropped")).expect("writes");
    give(&file);
    // A flag that was set by renaming the file.
    let file = first_message(&maildir(&state, &flagged, "node1"));
    let plain = file.to_string_lossy().split(":2,").next().expect("a name").replace("/new/", "/cur/");
    std::fs::rename(&file, format!("{plain}:2,F")).expect("renames");
    // A message that is gone from the replica.
    std::fs::remove_file(first_message(&maildir(&state, &removed, "node2"))).expect("removes");
    // A message that only the replica has.
    let file = maildir(&state, &foreign, "node2").join("new/1700000000.M1.foreign");
    std::fs::write(&file, message("foreign")).expect("writes");
    give(&file);

    for (account, messages) in [(&dropped, 4), (&flagged, 3), (&removed, 3), (&foreign, 3)] {
        becomes_equal(&state, account);
        equal(&state, account);
        let there = state.read(account, "node2").expect("reads");
        assert_eq!(there.messages(), messages, "`{}`", account.name);
    }
    let flags = state.read(&flagged, "node2").expect("reads");
    let inbox = flags.mailboxes["INBOX"].as_ref().expect("INBOX");
    assert!(inbox.messages.iter().any(|m| m.flags.contains("\\Flagged")), "{inbox:?}");
    mesh.down().expect("nothing is left behind");
}

/// Processes of a node's store of this name.
fn store_processes(mesh: &Mesh, name: &str) -> Vec<nix::unistd::Pid> {
    let netns = &node(mesh.state(), "node1").netns;
    let listed = Command::new("ip").args(["netns", "pids", netns]).output().expect("ip starts");
    let pids = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect::<Vec<i32>>();
    let is_named =
        |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    pids.into_iter().filter(is_named).map(nix::unistd::Pid::from_raw).collect()
}

#[test]
fn store_processes_that_are_killed_at_any_moment_lose_nothing() {
    let name = "store_processes_that_are_killed_at_any_moment_lose_nothing";
    let Some(mesh) = mesh(name, 4, &["--level", "local"]) else { return };
    let state = mesh.state().clone();
    let accounts = [named(&state, "u0001"), named(&state, "u0003")];
    let (stop, progress) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = now();
    let mut killed = 0;
    std::thread::scope(|scope| {
        for (seed, account) in (1..).zip(&accounts) {
            for part in 0..2 {
                let user = User::new(
                    state.target(account, "node1").expect("node1"),
                    seed * 10 + part,
                    Duration::from_millis(1),
                );
                let (stop, progress) = (&stop, &progress);
                scope.spawn(move || user.run(stop, progress));
            }
        }
        // Between commit and publication lie microseconds; only many kills meet all the moments.
        let mut at = 0;
        while (killed < 80 || progress.load(Ordering::Relaxed) < 300) && begun.elapsed() < HANG {
            for pid in store_processes(&mesh, if at % 4 == 3 { "lmtp" } else { "imap" }) {
                if nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).is_ok() {
                    killed += 1;
                }
            }
            at += 1;
            std::thread::sleep(Duration::from_millis(60 + at * 7 % 90));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let gaps = agent::status(&node(&state, "node1").admin_socket).expect("answers")["ring"]["gaps"].clone();
    println!(
        "killed {killed} processes in {} operations; accounts compared because of it: {gaps}",
        progress.load(Ordering::Relaxed)
    );
    for account in &accounts {
        becomes_equal(&state, account);
        equal(&state, account);
    }
    mesh.down().expect("nothing is left behind");
}
