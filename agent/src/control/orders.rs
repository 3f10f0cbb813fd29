//! What the admin socket says of held operations, pauses and accounts that are set aside: the JSON of `/v1/hold`,
//! `/v1/pauses` and `/v1/quarantine`.
//!
//! Owns: the types; units are the last word of each name. What can hurt: a client of an older version; fields are only
//! ever added. Refuses: behaviour.

use serde::{Deserialize, Serialize};

/// One held operation on one replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldRow {
    /// `group-sequence`, the same on every replica; with `.number` when a snapshot gave it, and then of this replica.
    pub id: String,
    pub node: String,
    pub account: String,
    pub group: u32,
    /// `expunge` or `mailbox-delete`.
    pub class: String,
    /// Name of the mailbox, or its GUID where the name is not known.
    pub mailbox: String,
    pub uid: Option<u32>,
    pub captured_wall_ns: u64,
    pub held_wall_ns: u64,
    /// Time until it is applied; `None`: an administrator must say.
    pub left_seconds: Option<f64>,
    /// The account's brake is on.
    pub braked: bool,
    /// `false`: the store does not have it any more, and it is brought back from central storage.
    pub in_store: bool,
}

/// Body of `POST /v1/hold/release` and `/v1/hold/undo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldRequest {
    #[serde(default)]
    pub account: Option<String>,
    /// These only.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Only what was captured at or after this wall time.
    #[serde(default)]
    pub since_wall_ns: Option<u64>,
    #[serde(default)]
    pub dry_run: bool,
    /// What they destroy was brought back: a storm among them is no habit.
    #[serde(default)]
    pub undone: bool,
}

/// What a release did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldDone {
    pub dry_run: bool,
    /// Operations that are applied, or would be.
    pub done: u64,
    /// Operations that could not be, and stay held.
    pub left: u64,
    /// Why, for each node with such.
    pub problems: Vec<String>,
}

/// What an undo did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UndoReport {
    pub account: String,
    pub dry_run: bool,
    /// The replica that held it.
    pub node: String,
    pub active: String,
    /// Messages that came back, or would.
    pub restored: u64,
    /// Messages that are in their mailbox on the active node already.
    pub already_there: u64,
    pub failed: u64,
    pub mailboxes: Vec<UndoMailbox>,
    /// Held operations that are done with: what they destroy is back.
    pub released: u64,
    pub problems: Vec<String>,
}

/// One mailbox of an undo.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UndoMailbox {
    pub name: String,
    /// It was, or would be, made again.
    pub created: bool,
    pub restored: u64,
    pub already_there: u64,
    pub failed: u64,
}

/// Body of `POST /v1/pause`. One of the scopes must be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PauseRequest {
    /// `replication` or `failover`.
    pub what: String,
    #[serde(default)]
    pub account: Option<String>,
    #[serde(default)]
    pub group: Option<u32>,
    /// Name or number.
    #[serde(default)]
    pub node: Option<String>,
    /// Name or number.
    #[serde(default)]
    pub peer: Option<String>,
    #[serde(default)]
    pub cluster: bool,
    pub reason: String,
    pub owner: String,
    #[serde(default)]
    pub for_seconds: Option<u64>,
    #[serde(default)]
    pub dry_run: bool,
}

/// Body of `POST /v1/resume`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResumeRequest {
    pub id: String,
    #[serde(default)]
    pub dry_run: bool,
}

/// One pause in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PauseRow {
    pub id: String,
    pub what: String,
    /// `cluster`, `node 2`, `group 3`, `account NAME`, `peer 2`.
    pub scope: String,
    pub reason: String,
    pub owner: String,
    pub since_wall_ns: u64,
    /// `None`: until it is resumed.
    pub left_seconds: Option<f64>,
    /// It holds for this node only.
    pub local: bool,
}

/// Answer to `POST /v1/pause`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PauseDone {
    pub dry_run: bool,
    pub pause: PauseRow,
    /// For people: what happens now.
    pub done: String,
}

/// One account that waits on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuarantineRow {
    pub account: String,
    pub group: u32,
    /// First operation of the group's stream that waits.
    pub since_seq: u64,
    /// `poison`, `store`, `body`, `needs-snapshot`, `snapshot`, `paused`.
    pub reason: String,
    pub detail: String,
}

/// Body of `POST /v1/quarantine/retry` and `/v1/quarantine/skip`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuarantineRequest {
    pub account: String,
    #[serde(default)]
    pub dry_run: bool,
}
