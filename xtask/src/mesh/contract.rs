//! The JSON that programs outside rely on (`docs/mesh.md`), and what `mesh` keeps of a mesh between two calls.
//!
//! Owns: names of fields. They are a contract: a field may be added, none renamed or removed, and a test holds the
//! whole shape. Refuses: derived text; a program reads this, people read `mesh status` without `--json`.

use super::plan::Plan;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How the store keeps mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Maildir,
    Sdbox,
    Mdbox,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Maildir => "maildir",
            Self::Sdbox => "sdbox",
            Self::Mdbox => "mdbox",
        }
    }
}

/// What `mesh up --json` and `mesh status --json` print.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mesh {
    pub(crate) nodes: Vec<Node>,
    pub(crate) accounts: Vec<Account>,
    /// The folder of central storage.
    pub(crate) blob_dir: PathBuf,
    /// Where users are served, whichever node is active for them; `null` in a mesh without proxies.
    pub(crate) proxy: Option<Proxy>,
    pub(crate) coordinator: Coordinator,
}

/// nginx and Postfix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proxy {
    pub(crate) imap: Endpoint,
    pub(crate) pop3: Endpoint,
    pub(crate) smtp: Endpoint,
}

/// Where leases and epochs live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Coordinator {
    pub(crate) kind: CoordinatorKind,
    /// URLs of etcd's members; empty for the others.
    pub(crate) endpoints: Vec<String>,
}

/// Which coordinator the agents are configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CoordinatorKind {
    /// Placement stays as it is
    None,
    /// A folder that all agents see
    Embedded,
    /// A cluster of etcd, in the mesh
    Etcd,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) ip: String,
    pub(crate) netns: String,
    pub(crate) dir: PathBuf,
    /// Where the node's own file system is mounted; `null` without `--disks`.
    pub(crate) disk: Option<PathBuf>,
    pub(crate) imap: Endpoint,
    pub(crate) lmtp: Endpoint,
    /// Where Prometheus would read.
    pub(crate) metrics: String,
    pub(crate) admin_socket: PathBuf,
    /// `null` while it does not run.
    pub(crate) agent_pid: Option<i32>,
    /// Dovecot's master process; `null` while it does not run.
    pub(crate) store_pid: Option<i32>,
}

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// One account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) password: String,
    /// Name of the node that serves it.
    pub(crate) active: String,
    /// Names of the nodes that hold a replica.
    pub(crate) replicas: Vec<String>,
    pub(crate) group: u32,
    /// The fencing number of its group; rises when another node becomes active.
    pub(crate) epoch: u64,
    /// Only in `mesh status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lag: Option<AccountLag>,
}

/// How far an account's replicas are behind: the worst, and each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AccountLag {
    /// `null` when the active node's agent does not answer.
    pub(crate) operations: Option<u64>,
    pub(crate) seconds: Option<f64>,
    pub(crate) replicas: BTreeMap<String, Lag>,
}

/// How far one replica is behind; both 0 when it is equal, `null` when it is not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lag {
    pub(crate) operations: Option<u64>,
    pub(crate) seconds: Option<f64>,
}

/// What is kept in `DIR/mesh.json` while the mesh is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Version of this file; another one is refused.
    pub(crate) version: u32,
    pub(crate) owner_pid: i32,
    /// The folder was not there before.
    pub(crate) made_dir: bool,
    pub(crate) format: Format,
    pub(crate) subnet: String,
    /// Folder of the store's control group of each node, by name; empty without cgroup v2.
    pub(crate) cgroups: BTreeMap<String, PathBuf>,
    pub(crate) mesh: Mesh,
}

/// The version of [`State`] that this program writes and reads.
pub(crate) const STATE_VERSION: u32 = 2;

impl State {
    /// The plan of the mesh in `dir`, which this is the state of.
    pub(crate) fn plan(&self, dir: &Path) -> Plan {
        let (mesh, etcd) = (&self.mesh, self.mesh.coordinator.endpoints.len());
        Plan::new(dir, mesh.nodes.len(), mesh.accounts.len(), self.format).with(mesh.proxy.is_some(), etcd)
    }

    fn file(dir: &Path) -> PathBuf {
        dir.join("mesh.json")
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        let (file, new) = (Self::file(dir), dir.join("mesh.json.new"));
        std::fs::write(&new, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write `{}`", new.display()))?;
        std::fs::rename(&new, &file).with_context(|| format!("cannot write `{}`", file.display()))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When there is no mesh in `dir`, or it was made by another version.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let file = Self::file(dir);
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("no mesh is up in `{}` (no `mesh.json` there)", dir.display()))?;
        let state: Self =
            serde_json::from_str(&text).with_context(|| format!("`{}` cannot be read", file.display()))?;
        anyhow::ensure!(state.version == STATE_VERSION, "`{}` is of version {}", file.display(), state.version);
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape that programs outside rely on. A change that makes this test fail breaks them.
    #[test]
    fn mesh_contract_has_the_documented_shape() {
        let endpoint = |port| Endpoint { host: "10.1.2.1".to_owned(), port };
        let mesh = Mesh {
            nodes: vec![Node {
                name: "node1".to_owned(),
                ip: "10.1.2.1".to_owned(),
                netns: "us-0a1b2c-node1".to_owned(),
                dir: "/d/node1".into(),
                disk: None,
                imap: endpoint(143),
                lmtp: endpoint(24),
                metrics: "http://10.1.2.1:9464/metrics".to_owned(),
                admin_socket: "/run/understudy-mesh/0a1b2c/node1/agent.sock".into(),
                agent_pid: Some(7),
                store_pid: None,
            }],
            accounts: vec![Account {
                name: "u0001@example.test".to_owned(),
                password: "pass".to_owned(),
                active: "node1".to_owned(),
                replicas: vec!["node2".to_owned()],
                group: 3,
                epoch: 1,
                lag: None,
            }],
            blob_dir: "/d/blobs".into(),
            proxy: Some(Proxy { imap: endpoint(143), pop3: endpoint(110), smtp: endpoint(25) }),
            coordinator: Coordinator {
                kind: CoordinatorKind::Etcd,
                endpoints: vec!["http://10.1.2.201:2379".to_owned()],
            },
        };
        let shape = serde_json::json!({
            "nodes": [{
                "name": "node1", "ip": "10.1.2.1", "netns": "us-0a1b2c-node1", "dir": "/d/node1",
                "disk": null,
                "imap": {"host": "10.1.2.1", "port": 143}, "lmtp": {"host": "10.1.2.1", "port": 24},
                "metrics": "http://10.1.2.1:9464/metrics",
                "admin_socket": "/run/understudy-mesh/0a1b2c/node1/agent.sock",
                "agent_pid": 7, "store_pid": null
            }],
            "accounts": [{
                "name": "u0001@example.test", "password": "pass", "active": "node1", "replicas": ["node2"],
                "group": 3, "epoch": 1
            }],
            "blob_dir": "/d/blobs",
            "proxy": {
                "imap": {"host": "10.1.2.1", "port": 143}, "pop3": {"host": "10.1.2.1", "port": 110},
                "smtp": {"host": "10.1.2.1", "port": 25}
            },
            "coordinator": {"kind": "etcd", "endpoints": ["http://10.1.2.201:2379"]}
        });
        assert_eq!(serde_json::to_value(&mesh).expect("serialises"), shape);

        let alone = Mesh {
            proxy: None,
            coordinator: Coordinator { kind: CoordinatorKind::None, endpoints: vec![] },
            ..mesh.clone()
        };
        let alone = serde_json::to_value(alone).expect("serialises");
        assert_eq!(alone["proxy"], serde_json::Value::Null);
        assert_eq!(alone["coordinator"], serde_json::json!({"kind": "none", "endpoints": []}));

        let mut with_lag = mesh;
        let lag = Lag { operations: Some(0), seconds: Some(0.0) };
        with_lag.accounts[0].lag = Some(AccountLag {
            operations: Some(0),
            seconds: Some(0.0),
            replicas: BTreeMap::from([("node2".to_owned(), lag)]),
        });
        assert_eq!(
            serde_json::to_value(&with_lag.accounts[0].lag).expect("serialises"),
            serde_json::json!({"operations": 0, "seconds": 0.0, "replicas": {"node2": {"operations": 0, "seconds": 0.0}}})
        );
    }
}
