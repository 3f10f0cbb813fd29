//! A node's agent: its configuration, its certificates, starting it, and asking it over its admin socket.
//!
//! Owns: the text of `understudy.toml`. What can hurt: an agent that hangs; every question has an end.
//! Refuses: knowing more of an agent's answer than the mesh's own contract needs.

use super::contract::{Coordinator, CoordinatorKind};
use super::plan::Plan;
use crate::run;
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const METRICS_PORT: u16 = 7472;
const PEER_PORT: u16 = 7470;
/// Where nginx and balancers ask a node's agent.
pub(crate) const ROUTING_PORT: u16 = 7474;
const SOCKETMAP_PORT: u16 = 7475;
const AGENT_CHECK_PORT: u16 = 7476;
/// An agent that does not answer for so long is taken as not answering.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// More than any answer that the mesh asks for; a longer one is cut, and then is no JSON.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The program, as `cargo xtask build` leaves it.
pub(crate) fn program() -> PathBuf {
    run::target_dir().join("debug/understudy")
}

/// Where a node's metrics are read.
pub(crate) fn metrics_url(ip: &str) -> String {
    format!("http://{ip}:{METRICS_PORT}/metrics")
}

/// Where a node's agent answers; `home` is the node's short path.
pub(crate) fn admin_socket(home: &Path) -> PathBuf {
    home.join("agent/admin.sock")
}

/// The node's configuration file.
pub(crate) fn config(home: &Path) -> PathBuf {
    home.join("understudy.toml")
}

/// Writes the configuration of all nodes.
///
/// # Errors
/// When a folder cannot be written.
pub(crate) fn write(plan: &Plan, ips: &[&str], level: &str, coordinator: &Coordinator) -> Result<()> {
    std::fs::create_dir_all(plan.home.join("blobs"))?;
    for node in &plan.nodes {
        for folder in ["agent", "data"] {
            std::fs::create_dir_all(node.home.join(folder))?;
        }
        let file = config(&node.home);
        std::fs::write(&file, text(plan, node.number, ips, level, coordinator))
            .with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    Ok(())
}

fn text(plan: &Plan, number: usize, ips: &[&str], level: &str, coordinator: &Coordinator) -> String {
    let Some(node) = plan.nodes.get(number - 1) else { return String::new() };
    let (home, name, cluster, top) = (node.home.display(), &node.name, cluster(plan), plan.home.display());
    let ip = ips.get(number - 1).copied().unwrap_or("127.0.0.1");
    let (group_count, replica_count) = (plan.group_count(), plan.replica_count());
    let mut text = format!(
        r#"# Written by `cargo xtask mesh up`.
[node]
id = {number}
name = "{name}"
cluster = "{cluster}"
data_dir = "{home}/data"
runtime_dir = "{home}/agent"

[store]
replay_socket = "{home}/run/understudy-replay"
master_pid_file = "{home}/run/master.pid"
mail_paths = ["{home}/mail"]
spool_dir = "{home}/spool"

[ring]
path = "{home}/ring/ring"

[journal]
bytes_max = "256 MiB"
segment_bytes = "8 MiB"
free_bytes_min = "64 MiB"

[transport]
listen = "{ip}:{PEER_PORT}"

[transport.tls]
ca = "{home}/tls/ca.pem"
cert = "{home}/tls/{name}.pem"
key = "{home}/tls/{name}.key"

[blobs]
kind = "directory"
path = "{top}/blobs"

[agent]
metrics_listen = "{ip}:{METRICS_PORT}"
admin_socket = "{admin}"

[routing]
http_listen = "{ip}:{ROUTING_PORT}"
socketmap_listen = "{ip}:{SOCKETMAP_PORT}"
agent_check_listen = "{ip}:{AGENT_CHECK_PORT}"
domains = ["example.test"]

[placement]
group_count = {group_count}
replica_count = {replica_count}
"#,
        admin = admin_socket(&node.home).display()
    );
    for group in 0..group_count {
        let placed = plan.group(group);
        let named = |at: &usize| format!("\"{}\"", plan.nodes[*at].name);
        let (active, replicas) = (named(&placed.active), placed.replicas.iter().map(named).collect::<Vec<_>>());
        let replicas = replicas.join(", ");
        let _ = write!(text, "\n[[placement.groups]]\nids = \"{group}\"\nactive = {active}\nreplicas = [{replicas}]\n");
    }
    text.push_str("\n[placement.accounts]\n");
    for (name, group) in (0..plan.accounts).map(|n| plan.account(n)) {
        let _ = writeln!(text, "\"{name}\" = {group}");
    }
    // Users of a trial have no habits, and what tests do to them is one storm.
    let rule = "name = \"all\"\naccounts = [\"*\"]\non_full = \"go-on\"\nbrake = \"off\"";
    let _ = write!(text, "\n[[rules]]\n{rule}\nlevel = \"{level}\"\n");
    text.push_str(&coordinator_text(plan, coordinator));
    for peer in plan.nodes.iter().filter(|p| p.number != number) {
        let ip = ips.get(peer.number - 1).copied().unwrap_or("127.0.0.1");
        let _ = write!(
            text,
            "\n[[peers]]\nid = {}\nname = \"{}\"\naddress = \"{ip}:{PEER_PORT}\"\n",
            peer.number, peer.name
        );
    }
    text
}

/// Without a coordinator there is no failover either.
fn coordinator_text(plan: &Plan, coordinator: &Coordinator) -> String {
    let at = match coordinator.kind {
        CoordinatorKind::None => return String::new(),
        CoordinatorKind::Embedded => format!("kind = \"embedded\"\npath = \"{}/coordinator\"", plan.home.display()),
        CoordinatorKind::Etcd => format!("kind = \"etcd\"\nendpoints = {:?}", coordinator.endpoints),
    };
    format!("\n[coordinator]\n{at}\n\n[failover]\nmode = \"on\"\n")
}

/// Makes the cluster's authority and a certificate for each node, with the agent's own command.
///
/// # Errors
/// When the agent's command fails.
pub(crate) fn certificates(plan: &Plan, ips: &[&str]) -> Result<()> {
    let pki = plan.home.join("pki");
    cert(Command::new(program()).args(["cert", "ca", "--out"]).arg(&pki))?;
    for (node, ip) in plan.nodes.iter().zip(ips) {
        let (number, cluster) = (node.number.to_string(), cluster(plan));
        let mut command = Command::new(program());
        command.args(["cert", "node", "--node", &number, "--name", &node.name, "--cluster", &cluster, "--address", ip]);
        cert(command.arg("--ca").arg(&pki).arg("--out").arg(node.home.join("tls")))?;
    }
    Ok(())
}

fn cluster(plan: &Plan) -> String {
    format!("mesh-{}", plan.tag)
}

fn cert(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

/// Asks the agent behind `socket`: `GET path`, answered with JSON.
///
/// # Errors
/// When nobody answers in time, or not with JSON.
pub(crate) fn get(socket: &Path, path: &str) -> Result<serde_json::Value> {
    get_within(socket, path, ANSWER_WAIT)
}

/// As [`get`], but whoever does not answer within `wait` is taken as not answering.
///
/// # Errors
/// As [`get`].
pub(crate) fn get_within(socket: &Path, path: &str, wait: Duration) -> Result<serde_json::Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("no answer at `{}`", socket.display()))?;
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(wait))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).context("no answer in time")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let status = head.lines().next().unwrap_or("");
    if !status.contains(" 200 ") {
        bail!("`{path}`: {status}: {}", body.trim());
    }
    serde_json::from_str(body).with_context(|| format!("`{path}`: no JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::contract::Format;

    #[test]
    fn configurations_are_toml_and_agree_on_placement() {
        let plan = Plan::new(Path::new("/tmp/x"), 3, 7, Format::Sdbox);
        let ips = ["10.1.2.1", "10.1.2.2", "10.1.2.3"];
        let endpoints = vec!["http://10.1.2.201:2379".to_owned()];
        let etcd = Coordinator { kind: CoordinatorKind::Etcd, endpoints };
        let parse = |n, coordinator: &Coordinator| -> toml::Value {
            toml::from_str(&text(&plan, n, &ips, "peer", coordinator)).expect("toml")
        };
        let parsed: Vec<toml::Value> = (1..=3).map(|n| parse(n, &etcd)).collect();
        assert!(parsed.iter().all(|p| p["placement"] == parsed[0]["placement"]));
        for (name, group) in (0..7).map(|n| plan.account(n)) {
            assert_eq!(parsed[0]["placement"]["accounts"][&name].as_integer(), i64::try_from(group).ok(), "{name}");
            let (placed, wanted) = (&parsed[0]["placement"]["groups"][group], plan.group(group));
            assert_eq!(placed["active"].as_str(), Some(plan.nodes[wanted.active].name.as_str()), "{name}");
            let replicas = placed["replicas"].as_array().expect("names").iter().map(|r| r.as_str().expect("a name"));
            let wanted = wanted.replicas.iter().map(|at| plan.nodes[*at].name.as_str());
            assert_eq!(replicas.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "{name}");
        }
        assert_eq!(parsed[1]["peers"].as_array().map(Vec::len), Some(2));
        assert_eq!(parsed[2]["coordinator"]["endpoints"][0].as_str(), Some("http://10.1.2.201:2379"));
        let none = Coordinator { kind: CoordinatorKind::None, endpoints: vec![] };
        assert!(parse(1, &none).get("coordinator").is_none() && parse(1, &none).get("failover").is_none());
    }
}
