//! What the admin socket says, as types: the contract between a running agent, the command line and other programs.
//!
//! Owns: the JSON of `/v1/…`; units are the last word of each name. What can hurt: a client of an older version;
//! so fields are only ever added, and readers ignore what they do not know. Refuses: behaviour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::orders::PauseRow;
use crate::failover::plan::Plan;
use crate::rules::{Hold, OnPromotion};

/// Distance between two positions of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    pub operations: u64,
    pub bytes: u64,
    /// Age of the oldest operation that is missing; 0 when none is.
    pub seconds: f64,
}

/// Everything about one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub node: NodeStatus,
    /// `false`: something below needs an administrator; `reasons` says what.
    pub healthy: bool,
    pub reasons: Vec<String>,
    pub store: StoreStatus,
    pub ring: RingStatus,
    pub journal: JournalStatus,
    pub blobs: BlobStatus,
    pub groups: Vec<GroupStatus>,
    pub peers: Vec<PeerStatus>,
    /// Empty when the request asked for none.
    pub accounts: Vec<AccountStatus>,
    /// What this agent cannot see or do on this host, each with the reason.
    pub blind: Vec<String>,
    /// Pauses in force.
    #[serde(default)]
    pub pauses: Vec<PauseRow>,
    #[serde(default)]
    pub holds: HoldStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub id: u16,
    pub name: String,
    /// Sixteen hexadecimal digits: a JSON number would lose bits.
    pub cluster: String,
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: f64,
    /// `None`: no coordinator is configured, and placement is what the configuration says.
    #[serde(default)]
    pub lease: Option<LeaseStatus>,
}

/// The node's right to be active.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseStatus {
    pub held: bool,
    pub left_ms: u64,
    /// Why it is not held; empty while it is.
    pub why: String,
    pub coordinator_heard: bool,
    /// Peers confirm this node's groups, because the coordinator does not answer as it should.
    pub failsafe: bool,
    /// No group is to be active here.
    pub drained: bool,
    /// What the slowest of a hundred requests to the coordinator takes.
    pub coordinator_p99_ms: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    pub kind: String,
    /// What the replay service calls itself; `None` while it cannot be reached.
    pub version: Option<String>,
    pub pid: Option<u32>,
    pub up: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RingStatus {
    pub path: String,
    pub fill_bytes: u64,
    pub capacity_bytes: u64,
    pub records_total: u64,
    /// Accounts that were, or are to be, compared because something of theirs was not captured.
    pub gaps: u64,
    pub dropped_total: u64,
    pub changes_open: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// `io_uring` or `plain`.
    pub io_backend: String,
    /// Why it is not io_uring although that was asked for.
    pub io_fallback: Option<String>,
    pub bytes: u64,
    pub bytes_max: u64,
    pub segments: u64,
    pub fsyncs_total: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlobStatus {
    pub kind: String,
    /// Bodies in the spool that are not in central storage yet.
    pub uploads_pending: u64,
    /// Bodies that an operation names and central storage does not have.
    pub missing: u64,
    pub damaged: u64,
}

/// What this node holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldStatus {
    pub operations: u64,
    pub accounts: u64,
    /// Accounts whose brake is on.
    pub braked: u64,
}

/// What a node is for a group or an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Active,
    Replica,
    #[default]
    None,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    pub id: u32,
    pub role: Role,
    pub active: String,
    pub replicas: Vec<String>,
    /// Replicas that have all that was acknowledged.
    #[serde(default)]
    pub in_sync: Vec<String>,
    /// `serving`, `opening`, `fenced`, `moving`, `merging`, `following` or `none`.
    #[serde(default)]
    pub state: String,
    pub epoch: u64,
    /// Positions on the active node; 0 on a replica.
    pub captured: u64,
    pub journaled: u64,
    /// Positions on a replica; 0 on the active node.
    pub received: u64,
    pub applied: u64,
    /// On the active node: what each replica has.
    pub peers: Vec<GroupPeerStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupPeerStatus {
    pub name: String,
    pub shipped: u64,
    pub acked: u64,
    pub applied: u64,
    pub resync_needed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub id: u16,
    pub name: String,
    pub address: String,
    pub connected: bool,
    /// How far the peer's store is behind this node, over all groups that it replicates from here.
    pub lag: Lag,
    pub sent_bytes_total: u64,
    /// Age of its last beat; `None` before the first.
    pub beat_age_seconds: Option<f64>,
    pub last_error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AccountStatus {
    pub name: String,
    pub group: u32,
    pub role: Role,
    pub active: String,
    pub replicas: Vec<ReplicaStatus>,
    /// Why operations of this account are set aside on this node.
    pub quarantined: Option<String>,
    /// Destructive operations of this account that are held on this node.
    #[serde(default)]
    pub held: u64,
    /// A storm among them waits for an administrator.
    #[serde(default)]
    pub braked: bool,
    /// Who paused it, why, and for how long.
    #[serde(default)]
    pub paused: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    pub node: String,
    pub lag: Lag,
    pub state: ReplicaState,
}

/// How a replica of an account stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Nothing is missing.
    Equal,
    /// Operations are on their way.
    Behind,
    /// A first copy or a resync is under way.
    Resyncing,
    /// Past the retention bound, or after a gap.
    ResyncNeeded,
    Quarantined,
    /// The peer is not connected.
    #[default]
    Unknown,
}

/// Body of `POST /v1/verify`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifyRequest {
    pub accounts: Vec<String>,
}

/// Result for one account and one replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifyResult {
    pub account: String,
    /// The replica that was compared with the active node; empty when it did not come to that.
    pub replica: String,
    pub equal: bool,
    /// Position of the group's stream at which both digests were taken.
    pub position: u64,
    /// The active node's digest, in hexadecimal.
    pub digest: String,
    /// For people: the first mailbox or message that differs, and how.
    pub first_difference: Option<String>,
    /// Why no answer could be had: then `equal` says nothing.
    pub error: Option<String>,
}

/// Body of `POST /v1/resync`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResyncRequest {
    pub account: String,
}

/// Answer to `POST /v1/resync` and `POST /v1/reload`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// For people: what was begun or changed.
    pub done: String,
}

/// What the rules say about one account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleRow {
    pub account: String,
    pub group: u32,
    pub active: String,
    pub replicas: Vec<String>,
    pub replicate: bool,
    pub level: String,
    pub kinds: Vec<String>,
    pub on_timeout: String,
    pub on_full: String,
    pub wait_timeout_ms: u32,
    #[serde(default)]
    pub hold: RuleHold,
    /// Name of the rule that decided.
    pub rule: String,
}

/// What an order or a question is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Group(u32),
    Account(String),
    /// All groups that are active on a node.
    Node(String),
}

/// Body of `POST /v1/order`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verb")]
pub enum OrderRequest {
    /// Make groups active elsewhere; `to` unset: on the best replica. `at_wall_ns` 0: now.
    Switchover {
        of: Target,
        to: Option<String>,
        #[serde(default)]
        at_wall_ns: u64,
    },
    /// Take a switchover back that has not happened yet.
    Cancel {
        of: Target,
    },
    Drain {
        node: String,
        reason: String,
        owner: String,
    },
    Undrain {
        node: String,
    },
    /// Promote this node although it cannot prove that it has everything.
    Promote {
        of: Target,
    },
    Replicas {
        group: u32,
        replicas: Vec<String>,
    },
}

/// Answer to `GET /v1/placement?replicas=N`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// Number and name of each configured node.
    pub names: BTreeMap<u16, String>,
    /// How many replicas of each group the plan is for.
    pub replicas: usize,
    /// `failover::explain::Overview`.
    pub overview: serde_json::Value,
    pub plan: Plan,
}

/// Body of `POST /v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    pub of: Target,
}

/// Why a group is where it is, as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    pub group: u32,
    /// Every rule with its present outcome.
    pub rules: Vec<Rule>,
    /// What was said of the group before, newest last.
    pub words: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub rule: String,
    /// `false`: it holds something back.
    pub holds: bool,
    pub text: String,
    /// After which it no longer holds back by itself; 0 = not by time.
    pub left_ms: u64,
    /// When it was said; 0 = now.
    #[serde(default)]
    pub wall_ns: u64,
}

/// A merge of what this node had alone of a group when it came back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MergeRow {
    /// `GROUP-EPOCH`.
    pub name: String,
    pub group: u32,
    /// The epoch of the active that it is merged into.
    pub epoch: u64,
    /// The last epoch in which this node was active.
    pub was_epoch: u64,
    pub active: String,
    pub done: bool,
    pub accounts: u32,
    pub merged: u32,
    /// Messages that came back.
    pub brought: u32,
    pub conflicts: u32,
    /// Accounts that could not be merged and are tried again.
    pub waiting: Vec<MergeWaiting>,
    pub since_wall_ns: u64,
    /// 0 = it is under way.
    pub done_wall_ns: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MergeWaiting {
    pub account: String,
    pub why: String,
}

/// One line of a merge's report. "Here" is the node that came back, "there" the active.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MergeFinding {
    pub wall_ns: u64,
    pub account: String,
    /// See `docs/merge.md`.
    pub what: String,
    /// The two sides wanted different things.
    pub conflict: bool,
    pub mailbox: String,
    /// GUID of the message, name of the subscription, or key of the METADATA entry.
    pub object: String,
    pub uid: u32,
    pub here: String,
    pub there: String,
    pub decision: String,
}

/// What the rules say about an account's destructive operations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleHold {
    /// 0 = replicas apply them at once.
    pub window_seconds: u64,
    /// `expunge`, `mailbox-delete`.
    pub classes: Vec<String>,
    /// `apply` or `keep`.
    pub on_promotion: String,
    pub brake: bool,
    pub brake_floor: u32,
}

impl RuleHold {
    /// From a rule.
    #[must_use]
    pub fn of(hold: &Hold) -> Self {
        Self {
            window_seconds: hold.window_s,
            classes: hold.classes().into_iter().map(str::to_owned).collect(),
            on_promotion: if hold.on_promotion == OnPromotion::Keep { "keep" } else { "apply" }.to_owned(),
            brake: hold.brake,
            brake_floor: hold.brake_floor,
        }
    }
}

/// How available nodes and groups were, as one node saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Availability {
    /// The node that saw it.
    pub observer: String,
    pub days: u64,
    /// What a takeover is taken to last, by the settings.
    pub takeover_seconds: f64,
    pub rows: Vec<AvailabilityRow>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AvailabilityRow {
    /// `node` or `group`.
    pub kind: String,
    pub name: String,
    /// `up`, `down` or `unknown`.
    pub now: String,
    pub observed_seconds: f64,
    pub down_seconds: f64,
    pub failures: u64,
    /// F: mean time between failures; `None` without any.
    pub between_seconds: Option<f64>,
    /// R: mean time to repair; `None` without any failure.
    pub repair_seconds: Option<f64>,
    pub longest_seconds: f64,
    /// A = F / (F + R); `None`: nothing was observed.
    pub availability: Option<f64>,
    pub nines: Option<f64>,
    /// Time down, times the accounts that were served.
    pub user_minutes_lost: f64,
    /// Of a group: what its nodes' figures make of it.
    pub predicted: Option<f64>,
}

/// Body of every answer that is not 2xx.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
}
