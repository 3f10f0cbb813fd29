//! What users destroyed by mistake comes back from the hold window, and what others did meanwhile stays; a storm is
//! held; a pause stops replay and nothing else.
//!
//! Owns: one mesh for all of it, with a hold window of an hour. The commands are the administrator's own.

use super::{
    Account, Mesh, State, account_at, becomes_equal, deliver, equal, lacking, login, maildir, message, named, node,
    settled, wait_for, xtask,
};
use serde_json::Value;
use std::process::Command;
use understudy_tests::agent;
use understudy_tests::imap::Mailbox;

/// Runs `understudy` against a node's agent; its exit code and what it printed as JSON.
fn understudy(state: &State, at: &str, args: &[&str]) -> (i32, Value) {
    let program = xtask().with_file_name("understudy");
    let socket = &node(state, at).admin_socket;
    let done = Command::new(program).args(args).arg("--json").arg("--admin-socket").arg(socket).output();
    let done = done.expect("starts");
    let text = String::from_utf8_lossy(&done.stdout);
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|_| Value::String(format!("{text}{}", String::from_utf8_lossy(&done.stderr))));
    (done.status.code().unwrap_or(-1), value)
}

fn held(state: &State, account: &Account) -> Vec<Value> {
    let (code, rows) = understudy(state, "node1", &["hold", "list", &account.name]);
    assert_eq!(code, 0, "{rows}");
    rows.as_array().cloned().expect("rows")
}

/// A mailbox as its user sees it, but for its UIDs.
fn content(mailbox: &Mailbox) -> Vec<(Vec<String>, String, Vec<u8>)> {
    let mut messages: Vec<_> = mailbox
        .messages
        .iter()
        .map(|m| (m.flags.iter().cloned().collect(), m.internal_date.clone(), m.body.clone()))
        .collect();
    messages.sort();
    messages
}

fn mailbox_of<'a>(account: &'a understudy_tests::imap::Account, name: &str) -> Option<&'a Mailbox> {
    account.mailboxes.get(name)?.as_ref()
}

fn undone(format: &str, test: &str) {
    if let Some(why) = lacking() {
        println!("SKIPPED {test}: {why}");
        return;
    }
    let environment = [
        ("UNDERSTUDY_RULES__0__HOLD_S", "3600"),
        ("UNDERSTUDY_RULES__0__BRAKE", "on"),
        ("UNDERSTUDY_RULES__0__BRAKE_FLOOR", "30"),
    ];
    let args = ["--level", "local", "--format", format];
    let mesh = Mesh::up_with(&xtask(), 2, 8, &args, &environment).expect("comes up");
    let state = mesh.state().clone();
    a_deleted_mailbox_comes_back(&mesh, &state, format);
    a_storm_is_held_until_it_is_let_through(&state);
    a_pause_stops_replay_alone(&state);
    mesh.down().expect("nothing is left behind");
}

#[test]
fn what_a_user_destroyed_comes_back_and_other_work_stays() {
    undone("maildir", "what_a_user_destroyed_comes_back_and_other_work_stays");
}

#[test]
fn what_a_user_destroyed_comes_back_with_mdbox() {
    let name = "what_a_user_destroyed_comes_back_with_mdbox";
    if !super::long() {
        println!("SKIPPED {name}: `cargo xtask test --long` runs it");
        return;
    }
    undone("mdbox", name);
}

fn a_deleted_mailbox_comes_back(mesh: &Mesh, state: &State, format: &str) {
    let [owner, other] = ["u0001", "u0003"].map(|name| named(state, name));
    let mut user = login(state, &owner, "node1");
    for name in ["Work", "Work/Sub"] {
        user.command(&format!("CREATE {name}")).expect("creates");
    }
    for n in 0..3 {
        let date = "(\\Seen \\Flagged $label) \"17-Nov-2025 08:09:10 +0100\"";
        user.append("Work", date, message(&format!("work-{n}")).as_bytes()).expect("appends");
        user.append("INBOX", "", message(&format!("inbox-{n}")).as_bytes()).expect("appends");
    }
    user.append("Work/Sub", "", message("below").as_bytes()).expect("appends");
    deliver(state, &other, &message("before"));
    [&owner, &other].iter().for_each(|account| equal(state, account));
    let before = state.read(&owner, "node1").expect("reads");

    // The mistake, and everybody's work around it.
    user.command("DELETE Work").expect("deletes");
    user.command("SELECT INBOX").expect("selects");
    user.command("STORE 1 +FLAGS (\\Deleted)").expect("stores");
    user.command("EXPUNGE").expect("expunges");
    user.command("CREATE Work").expect("the name is free");
    user.append("Work", "", message("new work").as_bytes()).expect("appends");
    user.append("INBOX", "(\\Answered)", message("later").as_bytes()).expect("appends");
    user.logout();
    deliver(state, &other, &message("meanwhile"));
    settled(state, &owner);
    settled(state, &other);
    let rows = held(state, &owner);
    let deletions = rows.iter().filter(|row| row["class"] == "mailbox-delete").count();
    // Dovecot empties a mailbox before it deletes it.
    assert_eq!((deletions, rows.len()), (1, 5), "{rows:?}");
    assert!(held(state, &other).is_empty());
    // The replica has the new mailbox under its name, and answers for what the active has.
    let there = state.read(&owner, "node2").expect("reads");
    assert_eq!(mailbox_of(&there, "Work").map(|work| work.messages.len()), Some(1));
    let verified = agent::verify(&node(state, "node1").admin_socket, &owner.name).expect("answers");
    assert_eq!(verified[0]["equal"], true, "{verified}");

    // By whatever agent.
    mesh.kill("node2", "agent", "KILL").expect("kills");
    mesh.start("node2", "agent").expect("starts");
    assert_eq!(held(state, &owner).len(), 5);

    // One command, on any node.
    let (code, would) = understudy(state, "node1", &["hold", "undo", &owner.name, "--dry-run"]);
    assert_eq!((code, would["restored"].as_u64()), (0, Some(4)), "{would}");
    assert_eq!(held(state, &owner).len(), 5, "nothing was done");
    let (code, report) = understudy(state, "node1", &["hold", "undo", &owner.name]);
    assert_eq!((code, report["restored"].as_u64(), report["failed"].as_u64()), (0, Some(4), Some(0)), "{report}");
    println!("{format}: {report}");

    let after = state.read(&owner, "node1").expect("reads");
    let work = content(mailbox_of(&after, "Work").expect("Work"));
    let old = content(mailbox_of(&before, "Work").expect("Work"));
    assert_eq!(work.len(), 4, "three that came back, and the new one");
    assert!(old.iter().all(|message| work.contains(message)), "with flags, dates and bodies: {work:?}");
    let inbox = content(mailbox_of(&after, "INBOX").expect("INBOX"));
    assert_eq!(inbox.len(), 4, "{inbox:?}");
    let bodies: Vec<String> = inbox.iter().map(|m| String::from_utf8_lossy(&m.2).into_owned()).collect();
    for token in ["inbox-0", "inbox-1", "inbox-2", "later"] {
        assert!(bodies.iter().any(|body| body.contains(&format!("body of {token}"))), "{token}: {bodies:?}");
    }
    assert_eq!(mailbox_of(&after, "Work/Sub"), mailbox_of(&before, "Work/Sub"), "untouched");
    [&owner, &other].iter().for_each(|account| becomes_equal(state, account));
    assert_eq!(state.read(&other, "node1").expect("reads").messages(), 2, "and so is everybody else's");
    assert_eq!(held(state, &owner), [] as [Value; 0]);
    let (code, nothing) = understudy(state, "node2", &["hold", "undo", &owner.name]);
    assert_eq!(code, 1, "{nothing}");

    if format == "maildir" {
        // By force, behind the store's back: the comparison finds it, and what it would destroy is held as well.
        std::fs::remove_dir_all(maildir(state, &owner, "node1").join(".Work")).expect("removes");
        let rows = wait_for("the comparison", || {
            let rows = held(state, &owner);
            if rows.is_empty() { Err("nothing is held yet".to_owned()) } else { Ok(rows) }
        });
        assert_eq!(rows[0]["class"], "mailbox-delete", "{rows:?}");
        let (code, report) = understudy(state, "node2", &["hold", "undo", &owner.name]);
        assert_eq!((code, report["restored"].as_u64()), (0, Some(4)), "{report}");
        let again = state.read(&owner, "node1").expect("reads");
        assert_eq!(content(mailbox_of(&again, "Work").expect("Work")), work);
        becomes_equal(state, &owner);
        assert_eq!(held(state, &owner), [] as [Value; 0]);
        assert_eq!(account_at(state, "node2", &owner.name)["braked"], false);
    }
}

fn a_storm_is_held_until_it_is_let_through(state: &State) {
    let account = named(state, "u0005");
    let mut user = login(state, &account, "node1");
    for n in 0..45 {
        user.append("INBOX", "", message(&format!("{n}")).as_bytes()).expect("appends");
    }
    equal(state, &account);
    user.command("SELECT INBOX").expect("selects");
    user.command("STORE 1:40 +FLAGS (\\Deleted)").expect("stores");
    user.command("EXPUNGE").expect("expunges");
    user.append("INBOX", "", message("after the storm").as_bytes()).expect("appends");
    settled(state, &account);
    let status = agent::status(&node(state, "node2").admin_socket).expect("answers");
    assert_eq!(status["healthy"], false);
    let reasons = status["reasons"].to_string();
    assert!(reasons.contains(&account.name) && reasons.contains("storm"), "{reasons}");
    assert_eq!(account_at(state, "node2", &account.name)["braked"], true);
    let rows = held(state, &account);
    assert!(rows.iter().all(|row| row["braked"] == true && row["left_seconds"].is_null()), "{rows:?}");
    let (code, would) = understudy(state, "node1", &["hold", "release", &account.name, "--dry-run"]);
    assert_eq!((code, would["done"].as_u64()), (0, Some(40)), "{would}");
    let (code, done) = understudy(state, "node1", &["hold", "release", &account.name]);
    assert_eq!((code, done["done"].as_u64(), done["left"].as_u64()), (0, Some(40), Some(0)), "{done}");
    becomes_equal(state, &account);
    assert_eq!(held(state, &account), [] as [Value; 0]);
    wait_for("a healthy replica", || {
        let status = agent::status(&node(state, "node2").admin_socket).map_err(|e| e.to_string())?;
        if status["healthy"] == true { Ok(()) } else { Err(status["reasons"].to_string()) }
    });
}

fn a_pause_stops_replay_alone(state: &State) {
    let [paused, other] = ["u0001", "u0003"].map(|name| named(state, name));
    let pause = ["pause", "--what", "replication", "--reason", "a test", "--owner", "tester", "--for", "1h"];
    let of_account = ["--account", &paused.name];
    let (code, would) = understudy(state, "node2", &[pause.as_slice(), &of_account, &["--dry-run"]].concat());
    assert_eq!((code, would["dry_run"].as_bool()), (0, Some(true)), "{would}");
    let (code, done) = understudy(state, "node2", &[pause.as_slice(), &of_account].concat());
    assert_eq!(code, 0, "{done}");
    let count = |account: &Account| state.read(account, "node2").expect("reads").messages();
    let before = count(&paused);
    deliver(state, &paused, &message("while it is paused"));
    deliver(state, &other, &message("not paused"));
    equal(state, &other);
    assert_eq!(count(&paused), before, "journaled and not applied");
    let told = account_at(state, "node2", &paused.name);
    assert!(told["paused"].as_str().is_some_and(|text| text.contains("tester") && text.contains("a test")), "{told}");
    assert!(account_at(state, "node1", &paused.name)["replicas"][0]["state"] != "equal");
    let (_, rows) = understudy(state, "node2", &["pause", "list"]);
    let id = rows[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(understudy(state, "node2", &["resume", &id]).0, 0);
    equal(state, &paused);
    assert_eq!(count(&paused), before + 1);

    // A peer: nothing leaves for it.
    let (code, done) = understudy(state, "node1", &[pause.as_slice(), &["--peer", "node2"]].concat());
    assert_eq!(code, 0, "{done}");
    deliver(state, &other, &message("kept here"));
    wait_for("a lag", || {
        let told = account_at(state, "node1", &other.name);
        if told["replicas"][0]["state"] == "behind" { Ok(()) } else { Err(told.to_string()) }
    });
    let id = done["pause"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(understudy(state, "node1", &["resume", &id]).0, 0);
    equal(state, &other);
}
