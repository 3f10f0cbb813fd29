//! Real agents for a measurement: this program again, as `understudy agent` would run, each in a directory of its own.
//!
//! Owns: their files, certificates and ends. What can hurt: an agent that goes on after the bench; each is ended with
//! its handle. Refuses: a store. Nothing answers at the replay socket, so a replica journals and acknowledges, and its
//! replay only tries to connect ten times a second; what is measured ends at the journals.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use understudy_agent::cli::client::Client;
use understudy_agent::clock;
use understudy_agent::config::Cluster;
use understudy_agent::control::model::Status;
use understudy_agent::transport::certificate::{CertifiedPem, NodeCertificate, issue_authority, issue_node};
use understudy_ring::Producer;
use understudy_types::id::NodeId;

use crate::stats::now_ns;

const CLUSTER: &str = "bench";
const CERTIFICATE_VALID: Duration = Duration::from_secs(86_400);
/// An agent that is not there after so long is taken as failed.
const START_NS_MAX: u64 = 60_000_000_000;

/// Two nodes as configured; whether both run is another matter.
pub(crate) struct Pair {
    ports: [u16; 2],
    authority: CertifiedPem,
    /// What is on disk.
    directory: PathBuf,
    /// What is in memory: rings and sockets.
    runtime: PathBuf,
}

/// A running agent.
pub(crate) struct Agent {
    process: Child,
    runtime: PathBuf,
}

impl Pair {
    /// Writes both nodes' files: journals under `directory`, rings and sockets under `runtime`. Operations of accounts
    /// `l…` are acknowledged when they are durable on node 1, those of accounts `p…` when they are so on node 2 too.
    pub(crate) fn prepare(directory: &Path, runtime: &Path) -> Result<Self> {
        // Held together, so that they are two; free again when the agents start.
        let mut held = Vec::new();
        let mut ports = [0; 2];
        for port in &mut ports {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
            *port = listener.local_addr()?.port();
            held.push(listener);
        }
        let authority = issue_authority("bench", CERTIFICATE_VALID, clock::wall_ns())?;
        let pair = Self { ports, authority, directory: directory.to_owned(), runtime: runtime.to_owned() };
        for node in [1, 2] {
            pair.write(node)?;
        }
        Ok(pair)
    }

    fn home(&self, node: u16) -> PathBuf {
        self.directory.join(format!("node{node}"))
    }

    fn runtime(&self, node: u16) -> PathBuf {
        self.runtime.join(format!("node{node}"))
    }

    fn write(&self, node: u16) -> Result<()> {
        let home = self.home(node);
        std::fs::create_dir_all(&home)?;
        let certificate = NodeCertificate {
            cluster: Cluster::Text(CLUSTER.to_owned()).id(),
            node: NodeId::new(node).context("no node")?,
            name: format!("node{node}"),
            addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            valid: CERTIFICATE_VALID,
        };
        let made = issue_node(&self.authority, &certificate, clock::wall_ns())?;
        std::fs::write(home.join("ca.pem"), &self.authority.certificate)?;
        std::fs::write(home.join("node.pem"), made.certificate)?;
        let mut key = File::options().write(true).create_new(true).mode(0o600).open(home.join("node.key"))?;
        std::io::Write::write_all(&mut key, made.key.as_bytes())?;
        std::fs::write(home.join("understudy.toml"), self.configuration(node))?;
        Ok(())
    }

    fn configuration(&self, node: u16) -> String {
        let (home, blobs) = (self.home(node), self.directory.join("blobs"));
        let runtime = self.runtime(node);
        let (home, blobs, runtime) = (home.display(), blobs.display(), runtime.display());
        let peer = 3 - node;
        let [listen, address] = [node, peer].map(|node| self.ports[usize::from(node - 1)]);
        format!(
            r#"
[node]
id = {node}
name = "node{node}"
cluster = "{CLUSTER}"
data_dir = "{home}/data"
runtime_dir = "{runtime}"
[store]
replay_socket = "{home}/no-store"
master_pid_file = "{home}/no-store.pid"
[journal]
free_bytes_min = 0
[transport]
listen = "127.0.0.1:{listen}"
[transport.tls]
ca = "{home}/ca.pem"
cert = "{home}/node.pem"
key = "{home}/node.key"
[blobs]
path = "{blobs}"
[agent]
metrics_listen = ""
admin_socket = "{runtime}/admin.sock"
probe = "off"
log_level = "error"
[placement]
group_count = 1
[[placement.groups]]
ids = "0"
active = "node1"
replicas = ["node2"]
[[rules]]
accounts = ["l*"]
level = "local"
[[rules]]
accounts = ["p*"]
level = "peer"
[[peers]]
id = {peer}
name = "node{peer}"
address = "127.0.0.1:{address}"
"#
        )
    }

    /// Starts one of the two and waits until it answers.
    pub(crate) fn start(&self, node: u16) -> Result<Agent> {
        let home = self.home(node);
        let log = File::create(home.join("log"))?;
        let process = Command::new(std::env::current_exe()?)
            .arg("agent")
            .arg(home.join("understudy.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start an agent")?;
        let mut agent = Agent { process, runtime: self.runtime(node) };
        let begun = now_ns();
        while agent.status().is_err() {
            let ended = agent.process.try_wait()?;
            if ended.is_some() || now_ns() - begun > START_NS_MAX {
                bail!("agent {node} does not start: {}", std::fs::read_to_string(home.join("log"))?.trim());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(agent)
    }
}

impl Agent {
    /// As the store's processes open its ring.
    pub(crate) fn producer(&self) -> Result<Arc<Producer>> {
        Producer::open(&self.runtime.join("ring")).context("cannot open the ring")
    }

    /// What it says of itself.
    pub(crate) fn status(&self) -> Result<Status> {
        Client::new(self.runtime.join("admin.sock")).get("/v1/status").map_err(|failure| anyhow::anyhow!("{failure}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Killed, not asked to stop: its files go away with the directory.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs as an agent until it is ended.
pub(crate) fn run(configuration: &Path) -> std::process::ExitCode {
    let arguments = ["understudy", "--config"].map(std::ffi::OsString::from).into_iter();
    let exit = understudy_agent::cli::main(arguments.chain([configuration.into(), "agent".into()]));
    std::process::ExitCode::from(exit as u8)
}
