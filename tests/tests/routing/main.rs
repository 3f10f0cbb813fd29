//! Real proxies ask the agents of a real mesh: users and mail reach the node that is active for their account, also
//! while an agent is stopped.
//!
//! Owns: one mesh of two nodes with nginx, Postfix and HAProxy before it, configured by `packaging/examples`. What can
//! hurt: a host without root or these programs; the test is then skipped by name. Refuses: judging speed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use understudy_tests::imap::Imap;
use understudy_tests::mesh::{Account, CLIENT_WAIT, Mesh, State};
use understudy_tests::proxies;
use understudy_tests::wire::Wire;

mod servers;

/// What takes longer than this hangs. Generous: it says nothing of speed.
const HANG: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
const TEST: &str = "proxies_reach_the_active_node_of_each_account_also_while_an_agent_is_stopped";

#[expect(clippy::disallowed_methods, reason = "a wait of a test needs an end")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Waits until `done` gives something; past [`HANG`] the test fails with what it said last.
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

/// Why this cannot run on this host, if it cannot.
fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/usr/sbin/dovecot").exists() {
        return Some("no Dovecot; `cargo xtask bootstrap` installs it".to_owned());
    }
    if let Some(package) = proxies::lacking() {
        return Some(format!("no {package}; `cargo xtask bootstrap` installs it"));
    }
    if !xtask().ancestors().nth(2).is_some_and(|target| target.join("dovecot").exists()) {
        return Some("the plugin is not built; `cargo xtask build` makes it".to_owned());
    }
    let namespaces = Command::new("unshare").args(["--net", "--mount", "true"]).status();
    (!namespaces.is_ok_and(|s| s.success())).then(|| "no network namespaces".to_owned())
}

/// As much of a submission server as nginx needs to log somebody in. It ends with the test's process.
struct SubmissionStore {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl SubmissionStore {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (address, heard) = (listener.local_addr().expect("an address"), Arc::new(Mutex::new(Vec::new())));
        let kept = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut answers = stream.try_clone().expect("a copy");
                let _ = answers.write_all(b"220 store\r\n");
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let answer = match line.split(' ').next() {
                        Some("EHLO") => "250-store\r\n250 AUTH PLAIN",
                        Some("AUTH") => "235 2.7.0 fine",
                        Some("QUIT") => "221 bye",
                        _ => "250 fine",
                    };
                    kept.lock().expect("heard").push(line);
                    let _ = answers.write_all(format!("{answer}\r\n").as_bytes());
                }
            }
        });
        Self { address, heard }
    }
}

/// The mesh and what stands before it.
struct World {
    mesh: Mesh,
    state: State,
    imap: u16,
    pop3: u16,
    submission: u16,
    smtp: u16,
    balanced_imap: u16,
    haproxy: PathBuf,
    dir: PathBuf,
}

impl World {
    /// Times that a line with all of `words` stands in the store's log of `node`.
    fn logged(&self, node: &str, words: &[&str]) -> usize {
        let file = self.state.node(node).expect("a node").dir.join("log/dovecot.log");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// Logs in through nginx until it works; says at which node the user is.
    fn login(&self, account: &Account) -> String {
        let user = format!("user=<{}>", account.name);
        let words = ["imap-login:", "Login:", user.as_str()];
        let before: Vec<usize> = self.state.nodes.iter().map(|node| self.logged(&node.name, &words)).collect();
        // Upper case is the same account.
        let name = account.name.to_uppercase();
        let imap = Imap::login("127.0.0.1", self.imap, &name, &account.password, CLIENT_WAIT);
        imap.expect("logs in through nginx").logout();
        wait_for("a line in a store's log", || {
            let grown = self.state.nodes.iter().zip(&before).find(|(node, n)| self.logged(&node.name, &words) > **n);
            grown.map(|(node, _)| node.name.clone()).ok_or_else(|| "no login is logged".to_owned())
        })
    }

    /// Sends a message through Postfix; says which node's LMTP took it.
    fn deliver(&self, account: &Account, extension: &str, token: &str) -> String {
        let (user, domain) = account.name.split_once('@').expect("an address");
        let recipient = format!("{user}{extension}@{domain}");
        let mut smtp = Wire::connect("127.0.0.1", self.smtp, CLIENT_WAIT).expect("connects to Postfix");
        let text = format!("Message-ID: <{token}@routing.example.test>\r\nSubject: {token}\r\n\r\n{token}\r\n.");
        for (line, code) in [
            (String::new(), "220"),
            ("HELO client.example.test".to_owned(), "250"),
            ("MAIL FROM:<sender@elsewhere.test>".to_owned(), "250"),
            (format!("RCPT TO:<{recipient}>"), "250"),
            ("DATA".to_owned(), "354"),
            (text, "250"),
            ("QUIT".to_owned(), "221"),
        ] {
            if !line.is_empty() {
                smtp.send(format!("{line}\r\n").as_bytes()).expect("sends");
            }
            let told = String::from_utf8_lossy(&smtp.line().expect("an answer")).into_owned();
            assert!(told.starts_with(code), "{line}: {told}");
        }
        let id = format!("msgid=<{token}@routing.example.test>");
        wait_for("a delivery", || {
            let nodes = self.state.nodes.iter().find(|node| self.logged(&node.name, &["lmtp(", id.as_str()]) > 0);
            let mail_log = || std::fs::read_to_string(self.dir.join("postfix/mail.log")).unwrap_or_default();
            nodes.map(|node| node.name.clone()).ok_or_else(mail_log)
        })
    }

    /// What HAProxy says of a node: its status, and the agent-check's last answer.
    fn balanced(&self, proxy: &str, node: &str) -> String {
        let mut stream = UnixStream::connect(&self.haproxy).expect("HAProxy's socket");
        stream.write_all(b"show stat\n").expect("asks");
        let mut table = String::new();
        stream.read_to_string(&mut table).expect("answers");
        let rows = || table.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let columns = rows().next().expect("a head");
        let column = |name: &str| columns.iter().position(|of| of.trim_start_matches("# ") == name).expect("a column");
        let row = rows().find(|row| row[0] == proxy && row[1] == node).expect("a row");
        format!("{} {}", row[column("status")], row[column("last_agt")])
    }

    fn becomes(&self, proxy: &str, node: &str, wanted: &str) {
        wait_for(&format!("`{wanted}` of {node} in {proxy}"), || {
            let is = self.balanced(proxy, node);
            if is.starts_with(wanted) { Ok(()) } else { Err(is) }
        });
    }

    /// One answer of a line protocol, after these lines.
    fn say(port: u16, lines: &[&str]) -> String {
        let mut wire = Wire::connect("127.0.0.1", port, CLIENT_WAIT).expect("connects");
        let mut told = String::from_utf8_lossy(&wire.line().expect("a greeting")).into_owned();
        for line in lines {
            wire.send(format!("{line}\r\n").as_bytes()).expect("sends");
            told = String::from_utf8_lossy(&wire.line().expect("an answer")).into_owned();
        }
        told
    }

    /// Status code of a health page of a node's agent.
    fn page(&self, node: &str, path: &str) -> Result<(u16, String), String> {
        let ip = &self.state.node(node).expect("a node").ip;
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect((ip.as_str(), 7474))?;
            stream.set_read_timeout(Some(CLIENT_WAIT))?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut told = String::new();
            stream.read_to_string(&mut told)?;
            Ok(told)
        };
        let told = ask().map_err(|error| error.to_string())?;
        let code = told.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(told.clone())?;
        Ok((code, told))
    }

    fn page_is(&self, node: &str, path: &str, wanted: u16) {
        wait_for(&format!("{wanted} of {path} at {node}"), || match self.page(node, path)? {
            (code, _) if code == wanted => Ok(()),
            (_, told) => Err(told),
        });
    }
}

#[test]
fn proxies_reach_the_active_node_of_each_account_also_while_an_agent_is_stopped() {
    if let Some(why) = lacking() {
        println!("SKIPPED {TEST}: {why}");
        return;
    }
    // Dovecot has no submission here; what serves instead is of this test, and both nodes name it.
    let store = SubmissionStore::start();
    let submission_address = store.address.to_string();
    let names = ["UNDERSTUDY_STORE__SUBMISSION_ADDRESS", "UNDERSTUDY_PEERS__0__SUBMISSION_ADDRESS"];
    let environment = names.map(|name| (name, submission_address.as_str()));
    let mesh = Mesh::up_with(&xtask(), 2, 4, &["--level", "local"], &environment).expect("comes up");
    let state = mesh.state().clone();
    let temporary = tempfile::tempdir().expect("a folder");
    let dir = temporary.path().to_path_buf();
    // The proxies' own users pass through.
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).expect("chmod");
    let ips = [state.nodes[0].ip.as_str(), state.nodes[1].ip.as_str()];
    let (_nginx, [imap, pop3, submission]) = servers::nginx(&dir, &ips);
    let (_haproxy, [map, balanced_imap], haproxy) = servers::haproxy(&dir, &ips);
    let (_postfix, smtp) = servers::postfix(&dir, map);
    let world = World { mesh, state, imap, pop3, submission, smtp, balanced_imap, haproxy, dir };
    for proxy in ["imap_by_node", "understudy_socketmap"] {
        ["node1", "node2"].into_iter().for_each(|node| world.becomes(proxy, node, "UP"));
    }

    every_account_reaches_its_node(&world);
    other_protocols_and_strangers(&world);
    submission_passes_the_password_on(&world, &store);
    health_pages_of_a_mesh_at_rest(&world);
    an_agent_that_is_stopped_is_skipped(&world);
    a_store_that_is_gone_is_said_to_be(&world);
    world.mesh.down().expect("nothing is left behind");
}

fn every_account_reaches_its_node(world: &World) {
    for (n, account) in world.state.accounts.iter().enumerate() {
        assert_eq!(world.login(account), account.active, "{}", account.name);
        assert_eq!(world.deliver(account, "", &format!("plain-{n}")), account.active, "{}", account.name);
    }
    assert!(world.state.accounts.iter().any(|account| account.active == "node1"));
    assert!(world.state.accounts.iter().any(|account| account.active == "node2"));
    for account in &world.state.accounts[..2] {
        let token = format!("extension-{}", account.active);
        assert_eq!(world.deliver(account, "+list", &token), account.active, "{}", account.name);
    }
}

fn other_protocols_and_strangers(world: &World) {
    for account in &world.state.accounts[..2] {
        let (user, pass) = (format!("USER {}", account.name), format!("PASS {}", account.password));
        let told = World::say(world.pop3, &[&user, &pass]);
        assert!(told.starts_with("+OK"), "{told}");
        let words = ["pop3-login:", "Login:", &format!("user=<{}>", account.name)];
        wait_for("a POP3 login", || (world.logged(&account.active, &words) > 0).then_some(()).ok_or("none".to_owned()));
        // The store refuses a wrong password, in its own words.
        let told = World::say(world.pop3, &[&user, "PASS wrong"]);
        assert!(told.starts_with("-ERR"), "{told}");
    }
    let told = World::say(world.imap, &["a login stranger@elsewhere.test x"]);
    assert!(told.starts_with("a NO [AUTHENTICATIONFAILED]"), "{told}");
    // AUTH PLAIN of `\0stranger@elsewhere.test\0x`.
    let told = World::say(world.submission, &["HELO x", "AUTH PLAIN AHN0cmFuZ2VyQGVsc2V3aGVyZS50ZXN0AHg="]);
    assert!(told.starts_with("535 5.7.8"), "{told}");
}

fn submission_passes_the_password_on(world: &World, store: &SubmissionStore) {
    // AUTH PLAIN of `\0u0001@example.test\0pass`.
    let plain = "AUTH PLAIN AHUwMDAxQGV4YW1wbGUudGVzdABwYXNz";
    let told = World::say(world.submission, &["HELO x", plain]);
    assert!(told.starts_with("235"), "{told}");
    let heard = store.heard.lock().expect("heard").clone();
    assert!(heard.iter().any(|line| line == plain), "{heard:?}");
    let name = &world.state.accounts[0].name;
    let (code, told) = world.page("node2", &format!("/account/{name}/where")).expect("answers");
    let ip = &world.state.node(&world.state.accounts[0].active).expect("a node").ip;
    let wanted = [format!("\"submission\":\"{}\"", store.address), format!("\"imap\":\"{ip}:143\"")];
    assert!(code == 200 && wanted.iter().all(|part| told.contains(part)), "{told}");
}

fn health_pages_of_a_mesh_at_rest(world: &World) {
    for node in ["node1", "node2"] {
        for (path, wanted) in [("/active", 200), ("/readiness", 200), ("/replica", 200), ("/replica?lag=10", 200)] {
            world.page_is(node, path, wanted);
        }
        let told = world.balanced("imap_by_node", node);
        assert!(told.starts_with("UP"), "{told}");
    }
}

fn an_agent_that_is_stopped_is_skipped(world: &World) {
    for (round, (signal, back)) in [("STOP", "CONT"), ("KILL", "")].into_iter().enumerate() {
        world.mesh.kill("node1", "agent", signal).expect("signals");
        // nginx has not noticed anything yet, and goes on all the same.
        for account in &world.state.accounts {
            assert_eq!(world.login(account), account.active, "{} after {signal}", account.name);
        }
        world.becomes("understudy_socketmap", "node1", "DOWN");
        world.becomes("imap_by_node", "node1", "DOWN");
        for (n, account) in world.state.accounts.iter().enumerate() {
            let token = format!("stopped-{round}-{n}");
            assert_eq!(world.deliver(account, "", &token), account.active, "{} after {signal}", account.name);
        }
        // By node, HAProxy goes on at the other.
        let told = World::say(world.balanced_imap, &[]);
        assert!(told.starts_with("* OK"), "{told}");
        if back.is_empty() {
            world.mesh.start("node1", "agent").expect("starts");
        } else {
            world.mesh.kill("node1", "agent", back).expect("signals");
        }
        world.becomes("understudy_socketmap", "node1", "UP");
        world.becomes("imap_by_node", "node1", "UP");
    }
}

fn a_store_that_is_gone_is_said_to_be(world: &World) {
    world.mesh.kill("node1", "store", "KILL").expect("kills");
    world.becomes("imap_by_node", "node1", "DOWN");
    world.page_is("node1", "/readiness", 503);
    world.page_is("node1", "/active", 503);
    world.page_is("node2", "/readiness", 200);
    let there = world.state.accounts.iter().find(|account| account.active == "node2").expect("one");
    assert_eq!(world.login(there), "node2");
    let gone = world.state.accounts.iter().find(|account| account.active == "node1").expect("one");
    for node in ["node1", "node2"] {
        world.page_is(node, &format!("/account/{}/where", gone.name), 503);
    }
    let told = World::say(world.imap, &[&format!("a login {} {}", gone.name, gone.password)]);
    assert!(told.starts_with("a NO [UNAVAILABLE]"), "{told}");
    world.mesh.start("node1", "store").expect("starts");
    world.becomes("imap_by_node", "node1", "UP");
    assert_eq!(world.login(gone), "node1");
}
