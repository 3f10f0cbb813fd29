//! First copy: accounts with existing mail, also such that nobody placed and nobody logged in to, and a user at work.

use super::{Account, account_at, equal, give, login, long, maildir, mesh, message, now, other};
use std::collections::BTreeMap;
use std::path::Path;
use understudy_tests::mesh::State;

/// Names its users in every store of the mesh.
fn add_users(state: &State, names: &[String]) {
    for node in &state.nodes {
        let file = node.dir.join("users");
        let mut users = std::fs::read_to_string(&file).expect("users");
        names.iter().for_each(|name| users.push_str(&format!("{name}:{{PLAIN}}pass::::::\n")));
        std::fs::write(&file, users).expect("writes");
    }
}

fn folder(path: &Path) {
    for part in [path.to_path_buf(), path.join("cur"), path.join("new"), path.join("tmp")] {
        std::fs::create_dir_all(&part).expect("makes");
        give(&part);
    }
}

/// Writes `count` messages into nested mailboxes, as another program would have left them.
fn fill(state: &State, account: &Account, count: usize) {
    let root = maildir(state, account, &account.active);
    for part in root.ancestors().skip(1).take(2).collect::<Vec<_>>().into_iter().rev() {
        std::fs::create_dir_all(part).expect("makes");
        give(part);
    }
    let mailboxes = ["", ".Work", ".Work.2024", ".Work.2024.Q1", ".Work.2025", ".Lists.Rust.Users", ".Sent"];
    mailboxes.iter().for_each(|name| folder(&root.join(name)));
    for n in 0..count {
        let mailbox = mailboxes[n % mailboxes.len()];
        let flags = ["", "S", "RS", "FS", "T"][n % 5];
        let file = root.join(mailbox).join("cur").join(format!("{}.M{n}.old:2,{flags}", 1_600_000_000 + n));
        let text = format!("{}{}", message(&format!("old-{n}")), "line of an old message\r\n".repeat(n % 40));
        std::fs::write(&file, text).expect("writes");
        give(&file);
    }
    std::fs::write(root.join("subscriptions"), "V\t2\n\nWork\nWork\t2024\tQ1\n").expect("writes");
    give(&root.join("subscriptions"));
}

/// Which of `names` the agents of both nodes call theirs; waits until each is somebody's.
fn owners(state: &State, names: &[String]) -> BTreeMap<String, String> {
    super::wait_for("all users seen", || {
        let mut owners = BTreeMap::new();
        for at in ["node1", "node2"] {
            for name in names {
                if account_at(state, at, name)["role"] == "active" {
                    owners.insert(name.clone(), at.to_owned());
                }
            }
        }
        if owners.len() == names.len() { Ok(owners) } else { Err(format!("{owners:?}")) }
    })
}

#[test]
fn accounts_that_no_configuration_names_are_found_in_the_store_and_copied() {
    let name = "accounts_that_no_configuration_names_are_found_in_the_store_and_copied";
    let Some(mesh) = mesh(name, 2, &[]) else { return };
    let state = mesh.state().clone();
    let names: Vec<String> = (0..6).map(|n| format!("found{n}@example.test")).collect();
    ["node1", "node2"].iter().for_each(|at| mesh.kill(at, "agent", "KILL").expect("kills"));
    add_users(&state, &names);
    // Each has mail on both nodes; what the active node has is right.
    for at in ["node1", "node2"] {
        names.iter().for_each(|name| fill(&state, &other(name, at, ""), 7));
    }
    ["node1", "node2"].iter().for_each(|at| mesh.start(at, "agent").expect("starts"));
    for (name, active) in owners(&state, &names) {
        let replica = if active == "node1" { "node2" } else { "node1" };
        let account = other(&name, &active, replica);
        equal(&state, &account);
        assert_eq!(state.read(&account, replica).expect("reads").messages(), 7);
    }
    mesh.down().expect("nothing is left behind");
}

#[test]
fn an_account_with_existing_mail_is_copied_while_its_user_works() {
    let name = "an_account_with_existing_mail_is_copied_while_its_user_works";
    let Some(mesh) = mesh(name, 2, &["--level", "local"]) else { return };
    let state = mesh.state().clone();
    let count = if long() { 10_000 } else { 2_000 };
    let account = other("old@example.test", "node1", "node2");
    for at in ["node1", "node2"] {
        mesh.kill(at, "agent", "KILL").expect("kills");
        let line = format!("[placement.accounts]\n\"{}\" = 0\n", account.name);
        super::configure(&state, at, |text| text.replace("[placement.accounts]\n", &line));
    }
    add_users(&state, std::slice::from_ref(&account.name));
    fill(&state, &account, count);
    let begun = now();
    ["node2", "node1"].iter().for_each(|at| mesh.start(at, "agent").expect("starts"));

    // The user works all along.
    let mut user = login(&state, &account, "node1");
    let mut did = 0;
    loop {
        // While the user works, the replica may be some operations behind for ever; that is no copy under way.
        let told = account_at(&state, "node1", &account.name)["replicas"][0]["state"].to_string();
        if did > 20 && (told.contains("equal") || told.contains("behind")) {
            break;
        }
        assert!(begun.elapsed() < super::HANG, "the copy does not end: {told}");
        if did == 250 {
            std::thread::sleep(super::POLL);
            continue;
        }
        let token = format!("new-{did}");
        user.append("Work/2024", "(\\Flagged)", message(&token).as_bytes()).expect("appends");
        user.command("SELECT Work/2024/Q1").expect("selects");
        user.command(&format!("STORE {} +FLAGS (\\Answered $seen{})", 1 + did % 50, did % 3)).expect("stores");
        user.command(&format!("COPY {} INBOX", 1 + did % 50)).expect("copies");
        if did % 3 == 0 {
            user.command("MOVE 2 Sent").expect("moves");
        }
        match did {
            4 => drop(user.command("CREATE Work/2026/Plans").expect("creates")),
            7 => drop(user.command("RENAME Lists/Rust Lists/Languages").expect("renames")),
            9 => drop(user.command("UNSUBSCRIBE Work").expect("unsubscribes")),
            11 => drop(user.command("DELETE Work/2025").expect("deletes")),
            _ => {}
        }
        did += 1;
    }
    println!("copied {count} messages in {} ms while {did} rounds of changes went on", begun.elapsed().as_millis());
    user.logout();
    equal(&state, &account);
    let there = state.read(&account, "node2").expect("reads");
    let kept = there.messages();
    assert!(kept > count * 5 / 6 && kept < count + 4 * did, "{kept} messages of {count}, and of {did} rounds");
    assert!(there.subscribed.contains("Work/2024/Q1") && !there.subscribed.contains("Work"), "{:?}", there.subscribed);
    mesh.down().expect("nothing is left behind");
}
