//! What replication does not see or cannot do at once, and how it heals: a body that is missing, an account that was
//! there before, a peer that was away, a change behind the store's back, a store process that was killed.
//!
//! Owns: a mesh for each test, and waiting for it to be equal again. What can hurt: a host without root or Dovecot; the
//! tests are then skipped by name. Refuses: judging speed; a wait ends with a failure only when it hangs.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use understudy_tests::agent;
use understudy_tests::imap::Imap;
use understudy_tests::lmtp::Lmtp;
use understudy_tests::mesh::{Account, CLIENT_WAIT, Mesh, Node, State};

mod away;
mod bodies;
mod bypass;
mod copy;
mod extras;
mod hold;
mod s3;

/// What takes longer than this hangs. Generous: it says nothing of speed.
const HANG: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(200);

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

/// Why a mesh cannot run on this host, if it cannot.
fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/usr/sbin/dovecot").exists() {
        return Some("no Dovecot; `cargo xtask bootstrap` installs it".to_owned());
    }
    let plugin = xtask().ancestors().nth(2).map(|target| target.join("dovecot"));
    if !plugin.is_some_and(|folder| folder.exists()) {
        return Some("the plugin is not built; `cargo xtask build` makes it".to_owned());
    }
    let namespaces = Command::new("unshare").args(["--net", "--mount", "true"]).status();
    (!namespaces.is_ok_and(|s| s.success())).then(|| "no network namespaces".to_owned())
}

/// A mesh of two nodes, or `None` with the line that says why not.
fn mesh(test: &str, accounts: usize, args: &[&str]) -> Option<Mesh> {
    if let Some(why) = lacking() {
        println!("SKIPPED {test}: {why}");
        return None;
    }
    Some(Mesh::up(&xtask(), 2, accounts, args).expect("comes up"))
}

/// Whether the long form was asked for (`cargo xtask test --long`).
fn long() -> bool {
    std::env::var_os("UNDERSTUDY_TEST_LONG").is_some()
}

fn node<'a>(state: &'a State, name: &str) -> &'a Node {
    state.node(name).expect("a node")
}

fn named(state: &State, name: &str) -> Account {
    state.accounts.iter().find(|a| a.name.starts_with(name)).cloned().expect("an account")
}

/// An account that the mesh does not place by itself.
fn other(name: &str, active: &str, replica: &str) -> Account {
    Account {
        name: name.to_owned(),
        password: "pass".to_owned(),
        active: active.to_owned(),
        replicas: vec![replica.to_owned()],
        group: 0,
        epoch: 1,
        lag: None,
    }
}

fn login(state: &State, account: &Account, at: &str) -> Imap {
    let imap = &node(state, at).imap;
    Imap::login(&imap.host, imap.port, &account.name, &account.password, CLIENT_WAIT).expect("logs in")
}

fn deliver(state: &State, account: &Account, text: &str) {
    let lmtp = &node(state, &account.active).lmtp;
    let mut lmtp = Lmtp::connect(&lmtp.host, lmtp.port, CLIENT_WAIT).expect("connects");
    lmtp.deliver_one("sender@example.test", &account.name, text.as_bytes()).expect("delivers");
    lmtp.quit();
}

fn message(token: &str) -> String {
    format!("Message-ID: <{token}@heal.example.test>\r\nSubject: {token}\r\n\r\nbody of {token}\r\n")
}

#[expect(clippy::disallowed_methods, reason = "a wait of a test needs an end")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Waits until `done` gives something; past [`HANG`] the test fails with what `what` says.
fn wait_for<T>(what: &str, mut done: impl FnMut() -> Result<T, String>) -> T {
    let begun = now();
    loop {
        match done() {
            Ok(value) => return value,
            Err(why) => assert!(begun.elapsed() < HANG, "{what} did not come: {why}"),
        }
        std::thread::sleep(POLL);
    }
}

/// What an agent says of an account.
fn account_at(state: &State, at: &str, name: &str) -> Value {
    agent::account(&node(state, at).admin_socket, name).unwrap_or(Value::Null)
}

/// Waits until the account's active says that nothing is missing on the replica.
fn settled(state: &State, account: &Account) {
    wait_for(&format!("`{}` equal", account.name), || {
        let told = account_at(state, &account.active, &account.name);
        match told["replicas"].as_array().map(Vec::as_slice) {
            Some([]) | None => Err(format!("{told}")),
            Some(all) if all.iter().all(|replica| replica["state"] == "equal") => Ok(()),
            Some(_) => Err(format!("{told}; replica: {}", account_at(state, &account.replicas[0], &account.name))),
        }
    });
}

/// Waits until nothing is missing; then both nodes must show the same to a user, and `verify` must say so.
fn equal(state: &State, account: &Account) {
    settled(state, account);
    let here = state.read(account, &account.active).expect("reads");
    let there = state.read(account, &account.replicas[0]).expect("reads");
    assert_eq!(here.difference(&there), None, "`{}` differs", account.name);
    let verified = wait_for("a comparison", || {
        let results =
            agent::verify(&node(state, &account.active).admin_socket, &account.name).map_err(|e| e.to_string())?;
        if results[0]["error"].is_null() { Ok(results) } else { Err(results.to_string()) }
    });
    assert_eq!(verified[0]["equal"], true, "{verified}");
}

/// Waits until the account is the same on both nodes, to its user and to the agents. Unlike [`equal`] also where others
/// of its group stand still, or where a comparison is still to come.
fn becomes_equal(state: &State, account: &Account) {
    wait_for(&format!("`{}` the same on both nodes", account.name), || {
        let here = state.read(account, &account.active).map_err(|e| e.to_string())?;
        let there = state.read(account, &account.replicas[0]).map_err(|e| e.to_string())?;
        here.difference(&there).map_or(Ok(()), Err)?;
        let socket = &node(state, &account.active).admin_socket;
        let verified = agent::verify(socket, &account.name).map_err(|e| e.to_string())?;
        if verified[0]["equal"] == true { Ok(()) } else { Err(verified.to_string()) }
    });
}

/// Changes a node's configuration while its agent is down.
fn configure(state: &State, at: &str, change: impl Fn(&str) -> String) {
    let file = node(state, at).dir.join("understudy.toml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    let changed = change(&text);
    assert_ne!(text, changed, "nothing was changed");
    std::fs::write(file, changed).expect("writes");
}

/// The folder of an account's mail on a node.
fn maildir(state: &State, account: &Account, at: &str) -> PathBuf {
    let (user, domain) = account.name.split_once('@').expect("a domain");
    node(state, at).dir.join("mail").join(domain).join(user).join("maildir")
}

/// Gives a path to the mail user, whom all of a mesh's mail belongs to.
fn give(path: &Path) {
    std::os::unix::fs::chown(path, Some(5000), Some(5000)).expect("chown");
}
