//! Where the record path stands, as plain figures that the caller fills in.
//!
//! Owns: the shape that `top`, the beat and later the forecast read. Refuses: reaching into ring, journal or
//! transport; `node` sees both paths and copies the figures over.

use serde::{Deserialize, Serialize};

/// The shared-memory ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingFigures {
    /// Bytes of records that wait for the agent.
    pub used_bytes: u64,
    /// Bytes that fit.
    pub capacity_bytes: u64,
    /// Changes that are announced and neither published nor given up.
    pub changes_open: u64,
    /// Gaps marked since the agent started: changes that were not captured.
    pub gaps: u64,
    /// Records taken since the agent started.
    pub records: u64,
}

/// The journal. Positions are sums over the groups of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalFigures {
    /// Operations captured.
    pub captured: u64,
    /// Operations journaled.
    pub journaled: u64,
    /// Operations applied here for others.
    pub applied: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Median of its own fsyncs in the last second.
    pub fsync_p50_ns: u64,
    /// 99th percentile of the same.
    pub fsync_p99_ns: u64,
}

/// What one peer is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFigures {
    /// Its name.
    pub name: String,
    /// The connection stands.
    pub is_connected: bool,
    /// Operations journaled here and not acknowledged there.
    pub lag_operations: u64,
    /// Bytes of their frames.
    pub lag_bytes: u64,
    /// Age of the oldest of them.
    pub lag_ns: u64,
    /// Operations shipped.
    pub shipped: u64,
    /// Operations acknowledged.
    pub acked: u64,
    /// Age of its last beat; `None` when there was none.
    pub beat_age_ns: Option<u64>,
}

/// The record path in one second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordFigures {
    /// Ring.
    pub ring: RingFigures,
    /// Journal.
    pub journal: JournalFigures,
    /// Peers.
    pub peers: Vec<PeerFigures>,
}
