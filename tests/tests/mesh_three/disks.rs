//! Disks that fail as they are told to, and are whole again: what a store's users and other writers see of it.
//!
//! Owns: one node with a file system of its own. What can hurt: a host without loop devices; the test is then skipped
//! by name. Refuses: agents; what they make of it is failover's.

use super::{listed, skipped, wait_for, xtask};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use understudy_tests::imap::Imap;
use understudy_tests::mesh::{CLIENT_WAIT, Mesh, State};

/// Adds a message; `false` when the store refuses, or the session ends.
fn add(state: &State, text: &str) -> bool {
    let (at, account) = (&state.nodes[0].imap, &state.accounts[0]);
    let imap = Imap::login(&at.host, at.port, &account.name, &account.password, CLIENT_WAIT);
    imap.is_ok_and(|mut imap| imap.append("INBOX", "", text.as_bytes()).is_ok())
}

/// Why a write to the disk fails, in the words of `dd`; empty when it does not.
fn write_error(disk: &Path) -> String {
    // A new file each time: one that is written anew has blocks already.
    let file = tempfile::Builder::new().prefix("written-").tempfile_in(disk.join("mail"));
    let file = match file.map(tempfile::NamedTempFile::keep) {
        Ok(kept) => kept.expect("stays").1,
        Err(error) => return error.to_string(),
    };
    let target = format!("of={}", file.display());
    let done = Command::new("dd").args(["if=/dev/zero", "bs=4096", "count=4", "conv=fsync", &target]).output();
    let done = done.expect("dd starts");
    if done.status.success() { String::new() } else { String::from_utf8_lossy(&done.stderr).into_owned() }
}

#[test]
fn disks_fail_as_they_are_told_and_are_whole_again() {
    if skipped("disks_fail_as_they_are_told_and_are_whole_again", false) {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        println!("SKIPPED disks_fail_as_they_are_told_and_are_whole_again: no loop devices");
        return;
    }
    // No Maildir: its lock files come back with what the disk had at last, and Dovecot waits two minutes for one
    // (seen).
    let args = ["--store-only", "--disks", "--format", "sdbox"];
    let mesh = Mesh::up(&xtask(), 2, 1, &args).expect("comes up");
    let state = mesh.state().clone();
    let disk = state.nodes[0].disk.clone().expect("a disk");
    assert!(add(&state, "first\r\n") && write_error(&disk).is_empty());

    for (what, words) in
        [("full", "No space left"), ("readonly", "Read-only file system"), ("eio", "Input/output error")]
    {
        mesh.fault("node1", what).expect("fails");
        let told = write_error(&disk);
        assert!(told.contains(words), "{what}: {told}");
        assert!(!add(&state, "meanwhile\r\n"), "{what}");
        let other = state.nodes[1].disk.as_ref().expect("a disk");
        assert_eq!(write_error(other), "", "the other node's disk is well");
        mesh.mend().expect("mends");
        assert_eq!(write_error(&disk), "", "{what}");
        wait_for("a store that works", || add(&state, "after\r\n"));
    }

    // One that hangs: a writer waits, cannot be killed, and goes on when it is mended.
    for _ in 0..2 {
        mesh.fault("node1", "hang").expect("hangs; a second time too");
    }
    let target = format!("of={}", disk.join("mail/hung").display());
    let mut writer = Command::new("dd");
    let mut writer =
        writer.args(["if=/dev/zero", "count=1", &target]).stderr(Stdio::null()).spawn().expect("dd starts");
    std::thread::sleep(Duration::from_secs(1));
    writer.kill().expect("signals");
    std::thread::sleep(Duration::from_millis(200));
    assert!(writer.try_wait().expect("asks").is_none(), "a writer on a hung disk ended");
    mesh.mend().expect("mends");
    let _ = writer.wait().expect("ends");
    assert!(add(&state, "last\r\n"));

    // What was acknowledged is there, through all of it.
    let there = state.read(&state.accounts[0], "node1").expect("reads");
    let bodies: Vec<String> = there.mailboxes["INBOX"]
        .as_ref()
        .expect("INBOX")
        .messages
        .iter()
        .map(|message| String::from_utf8_lossy(&message.body).trim().to_owned())
        .collect();
    let count = |text: &str| bodies.iter().filter(|body| *body == text).count();
    assert_eq!([count("first"), count("after"), count("last")], [1, 3, 1], "{bodies:?}");

    // A mesh with a hung disk goes too.
    mesh.fault("node1", "hang").expect("hangs");
    let dir = mesh.dir().to_path_buf();
    mesh.down().expect("nothing is left behind");
    assert!(!dir.exists());
    assert!(!listed("losetup", &["--all"]).contains(&dir.display().to_string()), "a loop device is left");
}
