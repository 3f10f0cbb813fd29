//! All three protocols by raw bytes against a node of constants.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;
use crate::config::Config;
use crate::config::model::Routing as RoutingConfig;
use crate::limits::SOCKETMAP_REQUEST_BYTES_MAX;

struct Node {
    /// Where `doubtful@x` is, of which nothing is heard.
    doubtful: SocketAddr,
    health: Mutex<Health>,
}

impl Where for Node {
    fn account(&self, account: &str) -> Answer {
        if account.starts_with("nobody") {
            return Answer::Nobody("moving".into());
        }
        let is_doubtful = account.starts_with("doubtful");
        let at = if is_doubtful { self.doubtful } else { "10.0.0.1:4711".parse().unwrap() };
        Answer::At(Seat { node: "a".into(), addresses: Addresses::all(at), is_doubtful })
    }

    fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }
}

fn health() -> Health {
    Health {
        node: "a".into(),
        standing: Standing::Serving { percent: 100 },
        active_groups: 1,
        replica_groups: 1,
        lag_s: Some(2.0),
        parked_accounts: 0,
    }
}

fn running(doubtful: SocketAddr) -> (Arc<Node>, Routing) {
    let text = "[node]\nid = 1\nname = \"a\"\n[transport]\nlisten = \"10.0.0.1:1\"\n[routing]\nhttp_listen = \
        \"127.0.0.1:0\"\nsocketmap_listen = \"127.0.0.1:0\"\nagent_check_listen = \"127.0.0.1:0\"\ndomains = [\"x\"]\n";
    let node = Arc::new(Node { doubtful, health: Mutex::new(health()) });
    let routing = serve(&Config::from_toml(text).unwrap().routing, node.clone()).unwrap().unwrap();
    (node, routing)
}

/// An address where nobody listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn exchange(at: Option<SocketAddr>, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(at.unwrap()).unwrap();
    // The other side may close in the middle of a request that it does not want.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).to_lowercase()
}

fn page(routing: &Routing, path: &str) -> String {
    exchange(routing.http, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
}

fn login(routing: &Routing, user: &str) -> String {
    let head = "GET /auth HTTP/1.0\r\nHost: a\r\nAuth-Method: plain\r\nAuth-Pass: secret\r\nAuth-Protocol: imap\r\n\
        Auth-Login-Attempt: 1\r\nClient-IP: 127.0.0.1\r\n";
    exchange(routing.http, format!("{head}Auth-User: {user}\r\n\r\n").as_bytes())
}

fn is(answer: &str, code: u16) -> bool {
    answer.split(' ').nth(1) == Some(&code.to_string())
}

#[test]
fn a_login_is_sent_to_its_store_or_refused() {
    let (_node, routing) = running(nowhere());
    let told = login(&routing, "U1%40x");
    assert!(told.contains("auth-status: ok") && told.contains("auth-server: 10.0.0.1\r\n"), "{told}");
    assert!(told.contains("auth-port: 4711"), "{told}");
    for (user, words) in
        [("nobody@x", "[unavailable]"), ("doubtful@x", "[unavailable]"), ("u%4", "failed]"), ("u@y", "failed]")]
    {
        let told = login(&routing, user);
        assert!(is(&told, 200) && told.contains(words) && told.contains("auth-wait: 2"), "{user}: {told}");
        assert!(!told.contains("auth-server"), "{user}: {told}");
    }
}

#[test]
fn a_store_of_which_nothing_is_heard_is_tried() {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_node, routing) = running(store.local_addr().unwrap());
    assert!(login(&routing, "doubtful@x").contains("auth-status: ok"));
    assert!(is(&page(&routing, "/account/doubtful@x/where"), 200));
}

#[test]
fn heads_past_their_bounds_are_refused() {
    let (_node, routing) = running(nowhere());
    let long = login(&routing, &"u".repeat(20 << 10));
    assert!(is(&long, 431), "{long}");
    let many = format!("GET /auth HTTP/1.0\r\n{}\r\n", "A: b\r\n".repeat(100));
    assert!(is(&exchange(routing.http, many.as_bytes()), 431));
    assert!(is(&exchange(routing.http, b"\0\xff\r\n\r\n"), 400));
    assert!(is(&page(&routing, "/v1/status"), 404), "the administrator's pages are not here");
    assert!(login(&routing, "u@x").contains("auth-status: ok"), "it goes on");
}

#[test]
fn balancers_are_told_by_status_code() {
    let (node, routing) = running(nowhere());
    let codes = |paths: [&str; 5]| paths.map(|path| page(&routing, path).split(' ').nth(1).unwrap().to_owned());
    let pages = ["/active", "/replica", "/replica?lag=3", "/replica?lag=1", "/readiness"];
    assert_eq!(codes(pages), ["200", "200", "200", "503", "200"]);
    node.health.lock().unwrap().active_groups = 0;
    node.health.lock().unwrap().lag_s = None;
    assert_eq!(codes(pages), ["503", "200", "503", "503", "200"]);
    *node.health.lock().unwrap() = Health { standing: Standing::Down("the store does not run".into()), ..health() };
    assert_eq!(codes(pages), ["503"; 5]);
    assert!(page(&routing, "/active").contains("the store does not run"));
    assert!(is(&page(&routing, "/replica?lag=x"), 400));
    let told = page(&routing, "/account/U%40x/where");
    assert!(is(&told, 200) && told.contains("\"imap\":\"10.0.0.1:4711\"") && told.contains("\"u@x\""), "{told}");
    assert!(is(&page(&routing, "/account/nobody@x/where"), 503));
    assert!(is(&page(&routing, "/account/doubtful@x/where"), 503));
    assert!(is(&page(&routing, "/account/u@y/where"), 404));
}

#[test]
fn the_socketmap_answers_in_order_and_ends_what_is_no_request() {
    let (_node, routing) = running(nowhere());
    let mut request = Vec::new();
    for key in
        ["transport u@x", "transport *", "transport u@y", "transport nobody@x", "transport doubtful@x", "other u@x"]
    {
        request.extend_from_slice(format!("{}:{key},", key.len()).as_bytes());
    }
    request.extend_from_slice(b"12x");
    let told = exchange(routing.socketmap, &request);
    let wanted = "28:ok lmtp:inet:[10.0.0.1]:4711,9:notfound ,9:notfound ,11:temp moving,";
    assert!(told.starts_with(wanted), "{told}");
    let rest = &told[wanted.len()..];
    assert!(rest.starts_with("31:temp node `a` cannot be reached,"), "{rest}");
    assert!(rest.contains("perm there is no map") && rest.contains("perm byte 2 is no digit"), "{rest}");
    assert!(exchange(routing.socketmap, format!("{}:", SOCKETMAP_REQUEST_BYTES_MAX + 1).as_bytes()).contains("perm"));
    // The longest that is taken.
    let key = format!("transport {}@x", "u".repeat(SOCKETMAP_REQUEST_BYTES_MAX - 12));
    let told = exchange(routing.socketmap, format!("{}:{key},x", key.len()).as_bytes());
    assert!(told.starts_with("9:notfound ,"), "{told}");
}

#[test]
fn haproxy_gets_one_line_whatever_it_sends() {
    let (node, routing) = running(nowhere());
    assert_eq!(exchange(routing.agent_check, b"be/a\n"), "up ready 100%\n");
    assert_eq!(exchange(routing.agent_check, &[0; 4096]), "up ready 100%\n");
    node.health.lock().unwrap().standing = Standing::Draining;
    assert_eq!(exchange(routing.agent_check, b""), "up drain\n");
}

#[test]
fn a_listener_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = format!(
        "[node]\nid = 1\nname = \"a\"\n[transport]\nlisten = \"10.0.0.1:1\"\n[routing]\nsocketmap_listen = \"{address}\"\n"
    );
    let node = Arc::new(Node { doubtful: nowhere(), health: Mutex::new(health()) });
    let config = Config::from_toml(&text).unwrap().routing;
    let said = serve(&config, node.clone()).err().unwrap().to_string();
    assert!(said.contains(&address) && said.contains("routing.socketmap_listen"), "{said}");
    drop(taken);
    let off = RoutingConfig { socketmap_listen: Some(String::new()), ..config };
    assert!(serve(&off, node).unwrap().is_none());
}
