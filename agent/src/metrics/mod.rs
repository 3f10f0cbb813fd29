//! Every metric of the agent, registered in one place, in the OpenMetrics text form that Prometheus reads.
//!
//! Owns: names, help, units (base units only: `_seconds`, `_bytes`, `_ratio`) and label sets. What can hurt: one
//! series for each account; no metric has an account as a label, `understudy status --json` has those figures.
//! Refuses: reading clocks; durations are observed where they were measured.

mod detection;
mod failover;
mod labels;

use std::sync::atomic::{AtomicU64, Ordering};

pub use detection::Detection;
pub use failover::Failover;
pub use labels::{
    Blob, CanaryRound, Io, Op, Outcome, Peer, Pressure, ProbeError, ProbeLatency, Role, Row, Scope, Sign, State,
};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The type of `/metrics`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Commit that this was built from, where the build knew it (`UNDERSTUDY_COMMIT`).
pub const COMMIT: &str = match option_env!("UNDERSTUDY_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Before every name.
pub const PREFIX: &str = "understudy";

/// A gauge of fractions or seconds.
pub type FloatGauge = Gauge<f64, AtomicU64>;
/// A counter of fractions or seconds.
pub type FloatCounter = Counter<f64, AtomicU64>;

/// 16 microseconds to 16 seconds by powers of two: fsync on a fast disk to one on a dying disk.
fn seconds_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1.0 / 65_536.0, 2.0, 21))
}

fn operations_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 7))
}

/// All families of a node. Cheap to update from any thread.
pub struct Metrics {
    registry: Registry,

    pub io_backend_info: Family<Io, Gauge>,
    pub start_time: FloatGauge,
    pub store_up: Gauge,
    pub replay_up: Gauge,
    pub groups: Family<Role, Gauge>,
    pub accounts: Family<Role, Gauge>,

    pub capture_records: Family<Op, Counter>,
    pub capture_malformed: Counter,
    pub capture_dropped: Counter,
    pub capture_gaps: Counter,
    pub ring_fill: Gauge,
    pub ring_capacity: Gauge,
    pub ring_changes_open: Gauge,

    pub batches: Counter,
    pub batch_operations: Histogram,
    pub frame_raw: Counter,
    pub frame_encoded: Counter,

    pub journal_written: Counter,
    pub journal_size: Gauge,
    pub journal_limit: Gauge,
    pub journal_segments: Gauge,
    pub journal_fsync: Histogram,
    pub journal_failed: Gauge,

    pub acks: Family<Outcome, Counter>,
    pub ack_wait: Histogram,

    pub peer_connected: Family<Peer, Gauge>,
    pub peer_connects: Family<Peer, Counter>,
    pub peer_sent: Family<Peer, Counter>,
    pub peer_shipped: Family<Peer, Counter>,
    pub peer_acked: Family<Peer, Counter>,
    pub peer_lag_operations: Family<Peer, Gauge>,
    pub peer_lag_bytes: Family<Peer, Gauge>,
    pub peer_lag_seconds: Family<Peer, FloatGauge>,
    pub peer_beat_age: Family<Peer, FloatGauge>,
    pub peer_resync_groups: Family<Peer, Gauge>,

    pub received_operations: Family<Peer, Counter>,
    pub applied_operations: Family<Op, Counter>,
    pub apply: Histogram,
    pub quarantined_accounts: Gauge,
    pub held_operations: Gauge,
    pub braked_accounts: Gauge,
    pub brakes: Counter,
    pub pauses: Gauge,
    pub resyncs: Family<Outcome, Counter>,
    pub merge_messages: Counter,
    pub merge_conflicts: Counter,

    pub blob_puts: Family<Blob, Counter>,
    pub blob_gets: Family<Blob, Counter>,
    pub blob_put: Histogram,
    pub blob_uploads_pending: Gauge,
    pub blobs_missing: Gauge,
    pub blobs_damaged: Gauge,

    pub probe_up: Gauge,
    pub probe_calls: Family<Row, Counter>,
    pub probe_errors: Family<ProbeError, Counter>,
    pub probe_latency: Family<ProbeLatency, FloatGauge>,
    pub probe_oldest: Family<Row, FloatGauge>,
    pub probe_lost: Family<Outcome, Counter>,
    pub probe_oom_kills: Counter,
    pub probe_exits: Family<Outcome, Counter>,
    pub pressure_stalled: Family<Pressure, FloatCounter>,
    pub pressure_ratio: Family<Pressure, FloatGauge>,

    pub beats_sent: Counter,
    pub beats_received: Family<Peer, Counter>,

    pub detection: Detection,
    pub failover: Failover,
}

/// Registers families and hands them back, so that a name stands beside its field.
struct Book(Registry);

impl Book {
    fn plain<M: prometheus_client::registry::Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn seconds<M: prometheus_client::registry::Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }

    fn bytes<M: prometheus_client::registry::Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, Unit::Bytes, metric.clone());
        metric
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new() -> Self {
        let mut book = Book(Registry::with_prefix(PREFIX));
        let b = &mut book;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION")), ("commit", COMMIT)]);
        b.0.register("build", "Version and commit of the agent", build);
        let io_backend_info =
            b.plain("io_backend_info", "How a part reaches disk or network; always 1", Family::default());
        let start_time =
            b.seconds("process_start_time", "When the agent started, since the Unix epoch", FloatGauge::default());
        let store_up = b.plain("store_up", "1 while the store's first process lives", Gauge::default());
        let replay_up = b.plain("store_replay_up", "1 while the store's replay service answers", Gauge::default());
        let groups = b.plain("groups", "Groups by the role of this node", Family::default());
        let accounts = b.plain("accounts", "Accounts that were seen, by the role of this node", Family::default());

        let capture_records = b.plain(
            "capture_records",
            "Records taken from the ring, by kind and by what became of them",
            Family::default(),
        );
        let capture_malformed =
            b.plain("capture_malformed_records", "Records that were refused as malformed", Counter::default());
        let capture_dropped = b.plain(
            "capture_dropped_records",
            "Records that the store dropped because the ring was full",
            Counter::default(),
        );
        let capture_gaps = b.plain(
            "capture_gaps",
            "Accounts that were marked for comparison because something was not captured",
            Counter::default(),
        );
        let ring_fill = b.bytes("ring_fill", "Bytes of the ring that are in use", Gauge::default());
        let ring_capacity = b.bytes("ring_capacity", "Bytes of the ring's data area", Gauge::default());
        let ring_changes_open = b.plain(
            "ring_changes_open",
            "Changes that store processes announced and have not yet published or given up",
            Gauge::default(),
        );

        let batches = b.plain("batches", "Batches that were sealed", Counter::default());
        let batch_operations = b.plain("batch_operations", "Operations in a batch", operations_histogram());
        let frame_raw = b.bytes("frame_raw", "Operations that were framed, before compression", Counter::default());
        let frame_encoded = b.bytes("frame_encoded", "Frames, after compression", Counter::default());

        let journal_written = b.bytes("journal_written", "Frames that were written to the journal", Counter::default());
        let journal_size = b.bytes("journal_size", "Space that the journal's segments take", Gauge::default());
        let journal_limit = b.bytes("journal_limit", "Space that the journal may take", Gauge::default());
        let journal_segments = b.plain("journal_segments", "Segments of the journal", Gauge::default());
        let journal_fsync = b.seconds(
            "journal_fsync",
            "From the submission of a write to the return of its fdatasync",
            seconds_histogram(),
        );
        let journal_failed =
            b.plain("journal_failed", "1 when the journal has failed and takes nothing any more", Gauge::default());

        let acks = b.plain("acks", "Acknowledgements to the store, by what was answered", Family::default());
        let ack_wait =
            b.seconds("ack_wait", "From the capture of an operation to its acknowledgement", seconds_histogram());

        let peer_connected = b.plain("peer_connected", "1 while the peer is connected", Family::default());
        let peer_connects = b.plain("peer_connects", "Connections to the peer that were made", Family::default());
        let peer_sent = b.bytes("peer_sent", "Frames that were sent to the peer", Family::default());
        let peer_shipped =
            b.plain("peer_shipped_operations", "Operations that were sent to the peer", Family::default());
        let peer_acked =
            b.plain("peer_acked_operations", "Operations that the peer has in its journal", Family::default());
        let peer_lag_operations =
            b.plain("peer_lag_operations", "Operations that the peer's store does not have yet", Family::default());
        let peer_lag_bytes = b.bytes("peer_lag", "Frames that the peer does not have yet", Family::default());
        let peer_lag_seconds =
            b.seconds("peer_lag", "Age of the oldest operation that the peer's store does not have", Family::default());
        let peer_beat_age = b.seconds("peer_beat_age", "Time since the peer's last beat", Family::default());
        let peer_resync_groups =
            b.plain("peer_resync_needed_groups", "Groups that the peer must copy anew", Family::default());

        let received_operations =
            b.plain("received_operations", "Operations that came from the peer", Family::default());
        let applied_operations = b.plain(
            "applied_operations",
            "Operations that were replayed, by kind and by what became of them",
            Family::default(),
        );
        let apply = b.seconds("apply", "Time that the store took for one request of the replay", seconds_histogram());
        let quarantined_accounts =
            b.plain("quarantined_accounts", "Accounts whose operations are set aside on this node", Gauge::default());
        let held_operations =
            b.plain("held_operations", "Destructive operations that are held on this node", Gauge::default());
        let braked_accounts = b.plain(
            "braked_accounts",
            "Accounts whose storm of destructive operations waits for an administrator",
            Gauge::default(),
        );
        let brakes = b.plain("brakes", "Storms of destructive operations that tripped a brake", Counter::default());
        let pauses = b.plain("pauses", "Pauses in force", Gauge::default());
        let resyncs = b.plain("resyncs", "Resyncs of accounts, by how they ended", Family::default());
        let merge_messages = b.plain(
            "merge_messages",
            "Messages that only this node had when it came back, and that are on the active now",
            Counter::default(),
        );
        let merge_conflicts =
            b.plain("merge_conflicts", "Conflicts that merges of this node's changes found", Counter::default());

        let blob_puts =
            b.plain("blob_puts", "Bodies that were put into central storage, by outcome", Family::default());
        let blob_gets =
            b.plain("blob_gets", "Bodies that were read from central storage, by outcome", Family::default());
        let blob_put = b.seconds("blob_put", "Time to put one body into central storage", seconds_histogram());
        let blob_uploads_pending = b.plain(
            "blob_uploads_pending",
            "Bodies in the spool that are not in central storage yet",
            Gauge::default(),
        );
        let blobs_missing = b.plain(
            "blobs_missing",
            "Bodies that an operation names and central storage does not have",
            Gauge::default(),
        );
        let blobs_damaged =
            b.plain("blobs_damaged", "Bodies in central storage that do not match their name", Gauge::default());

        let probe_up = b.plain("probe_up", "1 while the kernel programs run", Gauge::default());
        let probe_calls = b.plain("probe_calls", "Calls that the probe saw end", Family::default());
        let probe_errors = b.plain("probe_errors", "Calls that failed, by error", Family::default());
        let probe_latency = b.seconds(
            "probe_latency",
            "Latency of the last interval, by quantile (1 is the longest)",
            Family::default(),
        );
        let probe_oldest =
            b.seconds("probe_oldest_in_flight", "Age of the oldest call that has not ended", Family::default());
        let probe_lost =
            b.plain("probe_lost_events", "Events that the kernel programs could not record", Family::default());
        let probe_oom_kills =
            b.plain("probe_oom_kills", "Processes of the store that the kernel killed for memory", Counter::default());
        let probe_exits = b.plain("probe_exits", "Processes of the store that ended, by how", Family::default());
        let pressure_stalled =
            b.seconds("pressure_stalled", "Time stalled for a resource, as the kernel counts it", Family::default());
        let pressure_ratio = b.plain(
            "pressure_stalled_ratio",
            "Share of the last 10 seconds that was stalled for a resource",
            Family::default(),
        );

        let beats_sent = b.plain("beats_sent", "Beats that were sent", Counter::default());
        let beats_received = b.plain("beats_received", "Beats that came from the peer", Family::default());
        let detection = Detection::register(b);
        let failover = Failover::register(b);

        Self {
            registry: book.0,
            io_backend_info,
            start_time,
            store_up,
            replay_up,
            groups,
            accounts,
            capture_records,
            capture_malformed,
            capture_dropped,
            capture_gaps,
            ring_fill,
            ring_capacity,
            ring_changes_open,
            batches,
            batch_operations,
            frame_raw,
            frame_encoded,
            journal_written,
            journal_size,
            journal_limit,
            journal_segments,
            journal_fsync,
            journal_failed,
            acks,
            ack_wait,
            peer_connected,
            peer_connects,
            peer_sent,
            peer_shipped,
            peer_acked,
            peer_lag_operations,
            peer_lag_bytes,
            peer_lag_seconds,
            peer_beat_age,
            peer_resync_groups,
            received_operations,
            applied_operations,
            apply,
            quarantined_accounts,
            held_operations,
            braked_accounts,
            brakes,
            pauses,
            resyncs,
            merge_messages,
            merge_conflicts,
            blob_puts,
            blob_gets,
            blob_put,
            blob_uploads_pending,
            blobs_missing,
            blobs_damaged,
            probe_up,
            probe_calls,
            probe_errors,
            probe_latency,
            probe_oldest,
            probe_lost,
            probe_oom_kills,
            probe_exits,
            pressure_stalled,
            pressure_ratio,
            beats_sent,
            beats_received,
            detection,
            failover,
        }
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a `String` cannot fail; an empty page would only say "no metrics".
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Brings a counter to a total that is counted elsewhere. It never goes back.
pub fn set_total(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
