//! The configuration as types. Defaults and ranges are in the key table; these only name what it yields.
//!
//! Owns: the shape that the rest of the agent reads. Refuses: a key that the key table does not have
//! (`deny_unknown_fields` everywhere, and a test that the two are the same set).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use understudy_types::id::{ClusterId, NodeId};

/// The whole configuration of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: Node,
    pub store: Store,
    pub ring: Ring,
    pub journal: Journal,
    pub transport: Transport,
    #[serde(default)]
    pub peers: Vec<Peer>,
    pub blobs: Blobs,
    pub placement: PlacementConfig,
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
    #[serde(default)]
    pub classes: BTreeMap<String, Class>,
    pub agent: Agent,
    pub coordinator: Coordinator,
    pub failover: Failover,
    pub routing: Routing,
    pub tuning: Tuning,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub id: u16,
    pub name: String,
    pub cluster: Cluster,
    pub data_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub site: String,
    pub priority: u32,
    pub no_failover: bool,
    /// 0 = no limit.
    pub capacity_groups: u32,
}

/// A cluster's number, or the text that it is hashed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cluster {
    Number(u64),
    Text(String),
}

impl Cluster {
    /// The id: the number itself, or the first 8 bytes (little-endian) of the BLAKE3 hash of the text.
    #[must_use]
    pub fn id(&self) -> ClusterId {
        match self {
            Self::Number(number) => ClusterId(*number),
            Self::Text(text) => ClusterId(super::placement::hash(text)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    Dovecot,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub kind: StoreKind,
    pub replay_socket: PathBuf,
    pub master_pid_file: PathBuf,
    pub mail_paths: Vec<PathBuf>,
    pub spool_dir: PathBuf,
    pub apply_workers: usize,
    pub imap_address: Option<String>,
    pub pop3_address: Option<String>,
    pub submission_address: Option<String>,
    pub lmtp_address: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    pub path: PathBuf,
    pub bytes: u32,
    pub slots: u32,
    /// Permission bits.
    pub mode: u32,
    pub group: Option<String>,
}

/// How bytes reach disk or network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoBackend {
    /// io_uring where the kernel allows it, else plain system calls.
    Auto,
    IoUring,
    Plain,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    pub dir: PathBuf,
    pub bytes_max: u64,
    pub segment_bytes: u64,
    pub io_backend: IoBackend,
    pub free_bytes_min: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transport {
    pub listen: String,
    pub io_backend: IoBackend,
    /// 0 = no limit.
    pub bytes_per_second_max: u64,
    pub tls: Tls,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub id: u16,
    pub name: String,
    pub address: String,
    pub bytes_per_second_max: Option<u64>,
    pub imap_address: Option<String>,
    pub pop3_address: Option<String>,
    pub submission_address: Option<String>,
    pub lmtp_address: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    Directory,
    S3,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blobs {
    pub kind: BlobKind,
    pub path: PathBuf,
    pub endpoint: Option<String>,
    pub bucket: Option<String>,
    pub region: String,
    pub prefix: String,
    pub access_key: Option<String>,
    pub secret_key: Option<String>,
    pub access_key_file: Option<PathBuf>,
    pub secret_key_file: Option<PathBuf>,
    pub allow_http: bool,
}

impl std::fmt::Debug for Blobs {
    /// Without the secret: a configuration ends up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blobs")
            .field("kind", &self.kind)
            .field("path", &self.path)
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Blobs {
    /// The access key, from the configuration or from its file.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn access_key(&self) -> Result<Option<String>, super::ConfigError> {
        one_key(self.access_key.as_ref(), self.access_key_file.as_ref())
    }

    /// The secret key, from the configuration or from its file.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn secret_key(&self) -> Result<Option<String>, super::ConfigError> {
        one_key(self.secret_key.as_ref(), self.secret_key_file.as_ref())
    }
}

fn one_key(given: Option<&String>, file: Option<&PathBuf>) -> Result<Option<String>, super::ConfigError> {
    match (given, file) {
        (Some(key), _) => Ok(Some(key.clone())),
        (None, Some(path)) => super::read(path)
            .map(|text| text.lines().next().map(|line| line.trim().to_owned()))
            .map_err(|problem| super::ConfigError { problems: vec![problem] }),
        (None, None) => Ok(None),
    }
}

/// A node by its id or its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NodeRef {
    Id(u16),
    Name(String),
}

impl std::fmt::Display for NodeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementConfig {
    pub group_count: u32,
    pub replica_count: usize,
    pub file: Option<PathBuf>,
    #[serde(default)]
    pub groups: Vec<GroupConfig>,
    #[serde(default)]
    pub accounts: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    pub ids: String,
    pub active: NodeRef,
    pub replicas: Vec<NodeRef>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    pub name: Option<String>,
    pub accounts: Vec<String>,
    pub domains: Vec<String>,
    pub classes: Vec<String>,
    pub file: Option<PathBuf>,
    pub exclude: Vec<String>,
    pub replicate: bool,
    pub kinds: KindsConfig,
    pub level: String,
    pub on_timeout: String,
    pub on_full: String,
    pub wait_timeout_ms: u32,
    pub hold_s: u64,
    pub hold_classes: Vec<String>,
    pub hold_on_promotion: String,
    pub brake: String,
    pub brake_floor: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindsConfig {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    pub accounts: Vec<String>,
    pub file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeMode {
    /// Kernel programs where permitted.
    Auto,
    /// Only /proc and PSI.
    Off,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    pub log_level: String,
    pub log_format: LogFormat,
    /// Empty: none.
    pub metrics_listen: String,
    pub admin_socket: PathBuf,
    pub beat_interval_ms: u64,
    pub probe: ProbeMode,
}

/// Where leases and epochs live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoordinatorKind {
    None,
    Embedded,
    Etcd,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coordinator {
    pub kind: CoordinatorKind,
    pub path: PathBuf,
    pub endpoints: Vec<String>,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
}

/// Whether an automatic action is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Automation {
    On,
    /// Only said.
    DryRun,
    Off,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    pub mode: Automation,
    pub lease_ms: u64,
    pub renew_ms: u64,
    pub store_stall_ms: u64,
    pub drift_ppm: u64,
    pub in_sync_timeout_ms: u64,
    pub uid_gap: u32,
    pub modseq_gap: u64,
    pub cross_site: bool,
    pub dwell_ms: u64,
    /// 0 = not declared.
    pub rto_ms: u64,
    pub fence_hook: Option<PathBuf>,
    pub watchdog: Option<PathBuf>,
    pub canary_account: Option<String>,
    pub canary_password_file: Option<PathBuf>,
    /// 0 = off.
    pub canary_ms: u64,
    pub kick: Automation,
}

/// Where proxies and balancers ask. A listener that is unset or empty is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    pub http_listen: Option<String>,
    pub socketmap_listen: Option<String>,
    pub agent_check_listen: Option<String>,
    /// Empty: every name is one of ours.
    pub domains: Vec<String>,
    pub recipient_delimiter: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    pub batch_linger_us: u64,
    pub batch_ops_max: usize,
    pub batch_bytes_max: usize,
    pub zstd_level: i32,
}

impl Config {
    /// This node. The range was checked when the configuration was loaded; 1 stands for what cannot be.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        node_id(self.node.id)
    }

    /// This node and its peers as (id, name), by id: the same list on every node.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeId, &str)> {
        let mut nodes = vec![(self.node_id(), self.node.name.as_str())];
        nodes.extend(self.peers.iter().map(|peer| (peer.node_id(), peer.name.as_str())));
        nodes.sort_by_key(|(id, _)| *id);
        nodes
    }

    /// The name of a node; its number where it is not known.
    #[must_use]
    pub fn node_name(&self, id: NodeId) -> String {
        self.nodes()
            .into_iter()
            .find(|(known, _)| *known == id)
            .map_or_else(|| id.to_string(), |(_, name)| name.to_owned())
    }
}

impl Peer {
    /// The peer's id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        node_id(self.id)
    }
}

fn node_id(raw: u16) -> NodeId {
    const FIRST: NodeId = match NodeId::new(1) {
        Some(id) => id,
        None => panic!("1 is a node"),
    };
    NodeId::new(raw).unwrap_or(FIRST)
}
