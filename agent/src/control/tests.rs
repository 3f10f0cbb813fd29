//! Both doors against a node of constants, by the command line's own client and by raw bytes.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::model::{
    AccountStatus, Done, Explained, OrderRequest, ResyncRequest, Role, RuleRow, Status, Target, VerifyRequest,
    VerifyResult,
};
use super::orders::*;
use super::*;
use crate::cli::Failure;
use crate::cli::client::Client;
use crate::config::Config;
use crate::metrics::Metrics;

#[derive(Default)]
struct Node {
    sick: Mutex<bool>,
    refreshed: Mutex<u64>,
}

impl Admin for Node {
    fn status(&self, with_accounts: bool) -> Status {
        let sick = *self.sick.lock().unwrap();
        let account = AccountStatus { name: "u@x".into(), role: Role::Active, ..AccountStatus::default() };
        Status {
            healthy: !sick,
            reasons: if sick { vec!["the journal has failed".into()] } else { Vec::new() },
            accounts: if with_accounts { vec![account] } else { Vec::new() },
            ..Status::default()
        }
    }

    fn top(&self) -> serde_json::Value {
        serde_json::json!({"node": "a"})
    }

    fn verify(&self, accounts: &[String]) -> Vec<VerifyResult> {
        accounts
            .iter()
            .map(|account| VerifyResult { account: account.clone(), equal: true, ..VerifyResult::default() })
            .collect()
    }

    fn resync(&self, account: &str) -> Result<Done, String> {
        if account == "u@x" { Ok(Done { done: "begun".into() }) } else { Err(format!("`{account}` is not known")) }
    }

    fn holds(&self, account: Option<&str>) -> Result<Vec<HoldRow>, String> {
        match account {
            Some("u@x") | None => Ok(vec![HoldRow { id: "3-17".into(), ..HoldRow::default() }]),
            Some(account) => Err(format!("account `{account}` is not replicated")),
        }
    }

    fn hold_release(&self, request: &HoldRequest) -> Result<HoldDone, String> {
        Ok(HoldDone { done: request.ids.len() as u64, dry_run: request.dry_run, ..HoldDone::default() })
    }

    fn hold_undo(&self, request: &HoldRequest) -> Result<UndoReport, String> {
        let account = request.account.clone().ok_or("name an account")?;
        Ok(UndoReport { account, restored: 4, ..UndoReport::default() })
    }

    fn pauses(&self) -> Vec<PauseRow> {
        vec![PauseRow { id: "a".into(), left_seconds: Some(3.0), ..PauseRow::default() }]
    }

    fn pause(&self, request: &PauseRequest) -> Result<PauseDone, String> {
        let pause = PauseRow { reason: request.reason.clone(), ..PauseRow::default() };
        Ok(PauseDone { dry_run: request.dry_run, pause, done: "paused".into() })
    }

    fn resume(&self, request: &ResumeRequest) -> Result<Done, String> {
        if request.id == "a" { Ok(Done { done: "ended".into() }) } else { Err("there is no pause".into()) }
    }

    fn quarantine(&self) -> Vec<QuarantineRow> {
        vec![QuarantineRow { account: "u@x".into(), ..QuarantineRow::default() }]
    }

    fn quarantine_retry(&self, request: &QuarantineRequest) -> Result<Done, String> {
        Ok(Done { done: format!("tried {}", request.account) })
    }

    fn quarantine_skip(&self, _request: &QuarantineRequest) -> Result<Done, String> {
        Err("it does not wait here".into())
    }

    fn rules(&self, accounts: &[String]) -> Vec<RuleRow> {
        accounts.iter().map(|account| RuleRow { account: account.clone(), ..RuleRow::default() }).collect()
    }

    fn reload(&self) -> Result<Done, String> {
        Err("`rules[0].file`: gone".into())
    }

    fn failover(&self) -> Result<serde_json::Value, String> {
        Err("nobody decides here".into())
    }

    fn explain(&self, of: &Target) -> Result<Vec<Explained>, String> {
        match of {
            Target::Group(group) => Ok(vec![Explained { group: *group, ..Explained::default() }]),
            other => Err(format!("{other:?} is not known")),
        }
    }

    fn placement(&self, replicas: Option<usize>) -> Result<Placement, String> {
        Ok(Placement { replicas: replicas.unwrap_or(1), ..Placement::default() })
    }

    fn order(&self, request: &OrderRequest) -> Result<Done, String> {
        Ok(Done { done: format!("{request:?}") })
    }

    fn refresh_metrics(&self) {
        *self.refreshed.lock().unwrap() += 1;
    }
}

struct Running {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    node: Arc<Node>,
    control: Control,
}

fn config(socket: &Path, metrics: &str) -> Config {
    let text = format!(
        "[node]\nid = 1\nname = \"a\"\n[agent]\nadmin_socket = \"{}\"\nmetrics_listen = \"{metrics}\"\n",
        socket.display()
    );
    Config::from_toml(&text).unwrap()
}

fn running() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/admin.sock");
    let node = Arc::new(Node::default());
    let control = serve(&config(&socket, "127.0.0.1:0"), node.clone(), Arc::new(Metrics::new())).unwrap();
    Running { _dir: dir, socket, node, control }
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn public(running: &Running, path: &str) -> String {
    let stream = std::net::TcpStream::connect(running.control.metrics_address().unwrap()).unwrap();
    exchange(stream, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
}

#[test]
fn the_command_line_and_the_agent_understand_each_other() {
    let running = running();
    let client = Client::new(running.socket.clone());
    let status: Status = client.get("/v1/status").unwrap();
    assert!(status.healthy && status.accounts[0].name == "u@x");
    assert!(client.get::<Status>("/v1/status?accounts=false").unwrap().accounts.is_empty());
    let results: Vec<VerifyResult> =
        client.post("/v1/verify", &VerifyRequest { accounts: vec!["a".into(), "b".into()] }).unwrap();
    assert_eq!(results.len(), 2);
    assert_eq!(client.post::<_, Done>("/v1/resync", &ResyncRequest { account: "u@x".into() }).unwrap().done, "begun");
    let quoted = crate::cli::client::quote("ü+&=/@x");
    assert_eq!(client.get::<Vec<RuleRow>>(&format!("/v1/rules?account={quoted}")).unwrap()[0].account, "ü+&=/@x");
    assert_eq!(client.get::<serde_json::Value>("/v1/top").unwrap()["node"], "a");
}

#[test]
fn held_operations_pauses_and_waiting_accounts_are_asked_for_and_ordered() {
    let running = running();
    let client = Client::new(running.socket.clone());
    assert_eq!(client.get::<Vec<HoldRow>>("/v1/hold").unwrap()[0].id, "3-17");
    assert!(client.get::<Vec<HoldRow>>("/v1/hold?account=v%40x").unwrap_err().to_string().contains("not replicated"));
    let request = HoldRequest { account: Some("u@x".into()), ids: vec!["3-17".into()], ..HoldRequest::default() };
    assert_eq!(client.post::<_, HoldDone>("/v1/hold/release", &request).unwrap().done, 1);
    assert_eq!(client.post::<_, UndoReport>("/v1/hold/undo", &request).unwrap().restored, 4);
    assert_eq!(client.get::<Vec<PauseRow>>("/v1/pauses").unwrap()[0].left_seconds, Some(3.0));
    let pause = PauseRequest { reason: "r".into(), dry_run: true, ..PauseRequest::default() };
    assert!(client.post::<_, PauseDone>("/v1/pause", &pause).unwrap().dry_run);
    let resume = ResumeRequest { id: "b".into(), dry_run: false };
    assert!(client.post::<_, Done>("/v1/resume", &resume).unwrap_err().to_string().contains("no pause"));
    assert_eq!(client.get::<Vec<QuarantineRow>>("/v1/quarantine").unwrap()[0].account, "u@x");
    let one = QuarantineRequest { account: "u@x".into(), dry_run: false };
    assert_eq!(client.post::<_, Done>("/v1/quarantine/retry", &one).unwrap().done, "tried u@x");
    assert!(client.post::<_, Done>("/v1/quarantine/skip", &one).is_err());
    // What a script may leave out.
    let sparse: HoldRequest = serde_json::from_str(r#"{"account":"u@x"}"#).unwrap();
    assert!(sparse.ids.is_empty() && !sparse.dry_run);
}

#[test]
fn a_refusal_is_the_agents_own_words() {
    let running = running();
    let client = Client::new(running.socket.clone());
    let refused = client.post::<_, Done>("/v1/resync", &ResyncRequest { account: "v@x".into() }).unwrap_err();
    assert!(matches!(&refused, Failure::Agent(said) if said.contains("`v@x` is not known")), "{refused}");
    let refused = client.post::<_, Done>("/v1/reload", &()).unwrap_err();
    assert!(refused.to_string().contains("rules[0].file"), "{refused}");
    assert!(client.get::<Vec<MergeRow>>("/v1/merges").unwrap().is_empty());
    let name = crate::cli::client::quote("../3-7");
    let refused = client.get::<Vec<MergeFinding>>(&format!("/v1/merge?name={name}")).unwrap_err();
    assert!(refused.to_string().contains("no merge `../3-7`"), "{refused}");
    let refused = client.get::<Done>("/v1/nothing").unwrap_err();
    assert!(refused.to_string().contains("no such page"), "{refused}");
    let many = VerifyRequest { accounts: vec![String::new(); REQUEST_ACCOUNTS_MAX + 1] };
    let refused = client.post::<_, Vec<VerifyResult>>("/v1/verify", &many).unwrap_err();
    assert!(refused.to_string().contains("at most"), "{refused}");
}

#[test]
fn the_socket_is_private_to_user_and_group_and_goes_with_the_agent() {
    let running = running();
    let mode = std::fs::metadata(&running.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let (socket, control) = (running.socket.clone(), running.control);
    drop(control);
    assert!(!socket.exists());
    assert!(matches!(Client::new(socket).get::<Status>("/v1/status"), Err(Failure::Unreachable { .. })));
}

#[test]
fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
    let running = running();
    let second = serve(&config(&running.socket, ""), Arc::new(Node::default()), Arc::new(Metrics::new()));
    assert!(second.err().unwrap().to_string().contains("another agent answers"));
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let _control = serve(&config(&stale, ""), Arc::new(Node::default()), Arc::new(Metrics::new())).unwrap();
    Client::new(stale).get::<Status>("/v1/status").unwrap();
}

#[test]
fn the_public_door_has_metrics_and_health_and_nothing_else() {
    let running = running();
    let page = public(&running, "/metrics");
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains(crate::metrics::CONTENT_TYPE) && page.ends_with("# EOF\n"),
        "{page}"
    );
    assert_eq!(*running.node.refreshed.lock().unwrap(), 1);
    assert!(public(&running, "/healthz").contains("fine"));
    *running.node.sick.lock().unwrap() = true;
    let sick = public(&running, "/healthz");
    assert!(sick.starts_with("HTTP/1.1 503") && sick.contains("the journal has failed"), "{sick}");
    for path in ["/v1/status", "/v1/top", "/v1/rules"] {
        assert!(public(&running, path).starts_with("HTTP/1.1 404"), "{path}");
    }
}

#[test]
fn hostile_requests_are_refused_and_the_next_is_served() {
    let running = running();
    let too_large = format!(
        "POST /v1/verify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        REQUEST_BYTES_MAX + 1
    );
    let huge_head = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    let requests: [&[u8]; 6] = [
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"POST /v1/verify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{\"a\":",
        b"POST /v1/verify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /v1/status?accounts=perhaps HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        too_large.as_bytes(),
        huge_head.as_bytes(),
    ];
    for request in requests {
        let mut stream = UnixStream::connect(&running.socket).unwrap();
        // The server may close before it has read all of it.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        Client::new(running.socket.clone()).get::<Status>("/v1/status").unwrap();
    }
}

/// A program that reads the socket depends on these names: a change here is a change of the contract.
#[test]
fn the_names_of_the_status_are_a_contract() {
    let mut status = Status::default();
    status.accounts.push(AccountStatus { replicas: vec![model::ReplicaStatus::default()], ..AccountStatus::default() });
    status.peers.push(model::PeerStatus::default());
    status
        .groups
        .push(model::GroupStatus { peers: vec![model::GroupPeerStatus::default()], ..model::GroupStatus::default() });
    let value = serde_json::to_value(&status).unwrap();
    let names =
        |at: &str| value.pointer(at).unwrap().as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(""), "accounts blind blobs groups healthy holds journal node pauses peers reasons ring store");
    assert_eq!(names("/node"), "cluster id lease name pid uptime_seconds version");
    assert_eq!(names("/ring"), "capacity_bytes changes_open dropped_total fill_bytes gaps path records_total");
    assert_eq!(names("/accounts/0"), "active braked group held name paused quarantined replicas role");
    assert_eq!(names("/accounts/0/replicas/0"), "lag node state");
    assert_eq!(names("/accounts/0/replicas/0/lag"), "bytes operations seconds");
    assert_eq!(names("/peers/0"), "address beat_age_seconds connected id lag last_error name sent_bytes_total");
    assert_eq!(names("/groups/0/peers/0"), "acked applied name resync_needed shipped");
    let state = |state: model::ReplicaState| serde_json::to_value(state).unwrap();
    assert_eq!(
        (state(model::ReplicaState::Equal), state(model::ReplicaState::ResyncNeeded)),
        ("equal".into(), "resync-needed".into())
    );
}

#[test]
fn a_plan_of_placement_is_for_as_many_replicas_as_were_asked_for() {
    let running = running();
    let client = Client::new(running.socket.clone());
    let placement: super::model::Placement = client.get("/v1/placement").expect("answers");
    assert_eq!(placement.replicas, 1);
    let placement: super::model::Placement = client.get("/v1/placement?replicas=3").expect("answers");
    assert_eq!(placement.replicas, 3);
}
