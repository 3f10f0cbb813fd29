//! Bodies in central storage: one that is missing, one that is damaged, one that many have.

use super::{account_at, becomes_equal, deliver, equal, mesh, message, named, node, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use understudy_tests::agent;
use understudy_tests::mesh::{Account, State};

/// Files of central storage.
fn blobs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if !entry.file_name().to_string_lossy().starts_with('.') {
                found.push(path);
            }
        }
    }
    found
}

/// The blob that holds this text.
fn blob_of(state: &State, text: &str) -> PathBuf {
    let holds = |path: &PathBuf| std::fs::read(path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text));
    wait_for("a body in central storage", || {
        blobs(&state.blob_dir).into_iter().find(holds).ok_or_else(|| format!("no blob holds `{text}`"))
    })
}

/// Makes a file one that nobody can replace; where the file system cannot, what follows is a little less certain.
fn pin(path: &Path, on: bool) {
    let _ = std::process::Command::new("chattr").arg(if on { "+i" } else { "-i" }).arg(path).status();
}

/// Waits until the replica names the operation that the account waits for, and the active does not call it equal.
fn named_as_waiting(state: &State, account: &Account, blob: &Path, what: &str) {
    let detail = wait_for("a quarantine", || {
        let told = account_at(state, "node2", &account.name);
        told["quarantined"].as_str().map(str::to_owned).ok_or_else(|| told.to_string())
    });
    let id = blob.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(detail.contains("uid 2 in `INBOX`") && detail.contains(&id) && detail.contains(what), "{detail}");
    let told = account_at(state, "node1", &account.name);
    assert!(told["replicas"][0]["lag"]["operations"].as_u64() > Some(0), "not equal, and not shown as such: {told}");
}

#[test]
fn a_missing_and_a_damaged_body_hold_up_their_accounts_alone_and_heal() {
    let name = "a_missing_and_a_damaged_body_hold_up_their_accounts_alone_and_heal";
    let Some(mesh) = mesh(name, 17, &["--level", "local"]) else { return };
    let state = mesh.state().clone();
    // Three accounts of one group: they share a stream, and only two of them may stand still.
    let [missing, damaged, fine] = ["u0001", "u0009", "u0017"].map(|name| named(&state, name));
    for account in [&missing, &damaged, &fine] {
        deliver(&state, account, &message("first"));
        equal(&state, account);
    }
    let replica = node(&state, "node2").admin_socket.clone();

    mesh.kill("node2", "agent", "KILL").expect("kills");
    for (account, token) in [(&missing, "lost-body"), (&damaged, "bad-body"), (&fine, "good-body")] {
        deliver(&state, account, &message(token));
        deliver(&state, account, &message(&format!("after-{token}")));
    }
    let (lost, bad) = (blob_of(&state, "body of lost-body"), blob_of(&state, "body of bad-body"));
    blob_of(&state, "body of after-good-body");
    std::fs::remove_file(&lost).expect("removes");
    let whole = std::fs::read(&bad).expect("reads");
    let mut garbled = whole.clone();
    garbled[20] ^= 1;
    std::fs::write(&bad, &garbled).expect("writes");
    // The active exports a body again that stays away or damaged; this one is to stay as it is while it is looked at.
    pin(&bad, true);

    mesh.start("node2", "agent").expect("starts");
    for (account, blob, what) in [(&missing, &lost, "is not in central storage"), (&damaged, &bad, "is damaged")] {
        named_as_waiting(&state, account, blob, what);
    }
    // Also after another start of the agent: who is set aside is remembered. The missing body may be there by then: the
    // active is asked to export it again.
    mesh.kill("node2", "agent", "KILL").expect("kills");
    mesh.start("node2", "agent").expect("starts");
    named_as_waiting(&state, &damaged, &bad, "is damaged");
    let status = agent::status(&replica).expect("answers");
    assert_eq!(status["blobs"]["damaged"], 1, "{status}");
    assert_eq!(state.read(&damaged, "node2").expect("reads").messages(), 1, "nothing after it is applied");
    // The neighbour in the same group goes on.
    deliver(&state, &fine, &message("meanwhile"));
    becomes_equal(&state, &fine);
    assert_eq!(account_at(&state, "node2", &fine.name)["quarantined"], Value::Null);
    // And does not look behind, although the group as a whole stands before the operation that waits.
    wait_for("a neighbour that is level while the group is not", || {
        deliver(&state, &fine, &message("one more"));
        becomes_equal(&state, &fine);
        std::thread::sleep(std::time::Duration::from_millis(1500)); // replicas tell once a second
        let told = agent::status(&node(&state, "node1").admin_socket).map_err(|e| e.to_string())?;
        let group = told["groups"].as_array().into_iter().flatten().find(|group| group["id"] == 0);
        let group = group.cloned().unwrap_or(Value::Null);
        let last = agent::verify(&node(&state, "node1").admin_socket, &fine.name).map_err(|e| e.to_string())?;
        let behind = group["peers"][0]["applied"].as_u64() < last[0]["position"].as_u64();
        let neighbour = account_at(&state, "node1", &fine.name);
        let level = neighbour["replicas"][0]["state"] == "equal";
        (behind && level).then_some(()).ok_or_else(|| format!("{neighbour} of {group}"))
    });
    let told = account_at(&state, "node1", &damaged.name);
    assert!(told["replicas"][0]["lag"]["operations"].as_u64() > Some(0), "still behind: {told}");
    assert_eq!(state.read(&damaged, "node2").expect("reads").messages(), 1);

    pin(&bad, false);
    std::fs::write(&bad, whole).expect("writes");
    for account in [&missing, &damaged, &fine] {
        equal(&state, account);
        assert_eq!(account_at(&state, "node2", &account.name)["quarantined"], Value::Null);
    }
    mesh.down().expect("nothing is left behind");
}

#[test]
fn one_body_of_many_accounts_is_stored_once() {
    let name = "one_body_of_many_accounts_is_stored_once";
    let Some(mesh) = mesh(name, 8, &[]) else { return };
    let state = mesh.state().clone();
    let text = message("the same for all");
    for account in &state.accounts {
        let mut imap = super::login(&state, account, &account.active);
        imap.append("INBOX", "", text.as_bytes()).expect("appends");
        imap.append("INBOX", "(\\Seen)", text.as_bytes()).expect("appends");
        imap.logout();
    }
    state.accounts.iter().for_each(|account| equal(&state, account));
    let found = blobs(&state.blob_dir);
    assert_eq!(found.len(), 1, "16 messages of one content: {found:?}");
    mesh.down().expect("nothing is left behind");
}
