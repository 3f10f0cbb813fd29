//! From the figures of a second to metrics.
//!
//! Owns: the mapping of names. Refuses: everything else.

use understudy_types::id::GroupId;

use super::core::Core;
use crate::apply::park::{Parked, Reason};
use crate::metrics::{self, Metrics, set_total};
use crate::pressure::PressureState;
use crate::signal::Signal;
use crate::transport::Backend;

const NS: f64 = 1e-9;

#[expect(clippy::cast_precision_loss, reason = "gauges are doubles; 53 bits of nanoseconds are 104 days")]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 * NS
}

/// Sets what a signal tells.
pub(crate) fn signal(to: &Metrics, signal: &Signal) {
    let probe = &signal.probe;
    to.probe_up.set(i64::from(probe.source == crate::probe::Source::Kernel));
    for row in &probe.rows {
        let name = row.row.as_ref();
        to.probe_calls.get_or_create(&metrics::Row::new(name)).inc_by(row.times.count);
        for (quantile, ns) in [("0.5", row.times.p50_ns), ("0.99", row.times.p99_ns), ("1", row.times.max_ns)] {
            to.probe_latency.get_or_create(&metrics::ProbeLatency::new(name, quantile)).set(seconds(ns));
        }
        for (errno, count) in &row.errnos {
            let label = nix::errno::Errno::from_raw(i32::from(*errno));
            to.probe_errors.get_or_create(&metrics::ProbeError::new(name, &format!("{label:?}"))).inc_by(*count);
        }
    }
    let lost = &probe.lost;
    for (name, total) in [
        ("event", lost.event),
        ("task", lost.task),
        ("process", lost.process),
        ("block", lost.block),
        ("unreadable", lost.unreadable),
        ("agent", lost.agent),
        ("samples", lost.samples),
    ] {
        set_total(&to.probe_lost.get_or_create(&metrics::Outcome::new(name)), total);
    }
    for (scope, state) in [("node", &signal.pressure.node), ("store", &signal.pressure.store)] {
        let PressureState::Known(pressure) = state else { continue };
        for (resource, waited) in [("cpu", pressure.cpu), ("io", pressure.io), ("memory", pressure.memory)] {
            for (share, permille) in [("some", Some(waited.some_permille)), ("full", waited.full_permille)] {
                let Some(permille) = permille else { continue };
                let labels = metrics::Pressure::new(scope, resource, share);
                to.pressure_ratio.get_or_create(&labels).set(f64::from(permille) / 1000.0);
                // A reading covers one second.
                to.pressure_stalled.get_or_create(&labels).inc_by(f64::from(permille) / 1000.0);
            }
        }
    }
    let record = &signal.record;
    to.ring_fill.set(i64::try_from(record.ring.used_bytes).unwrap_or(i64::MAX));
    to.ring_capacity.set(i64::try_from(record.ring.capacity_bytes).unwrap_or(i64::MAX));
    to.ring_changes_open.set(i64::try_from(record.ring.changes_open).unwrap_or(i64::MAX));
    set_total(&to.capture_gaps, record.ring.gaps);
    to.journal_size.set(i64::try_from(record.journal.bytes).unwrap_or(i64::MAX));
    for peer in &record.peers {
        let labels = metrics::Peer::new(&peer.name);
        to.peer_connected.get_or_create(&labels).set(i64::from(peer.is_connected));
        to.peer_lag_operations.get_or_create(&labels).set(i64::try_from(peer.lag_operations).unwrap_or(i64::MAX));
        to.peer_lag_bytes.get_or_create(&labels).set(i64::try_from(peer.lag_bytes).unwrap_or(i64::MAX));
        to.peer_lag_seconds.get_or_create(&labels).set(seconds(peer.lag_ns));
        if let Some(age_ns) = peer.beat_age_ns {
            to.peer_beat_age.get_or_create(&labels).set(seconds(age_ns));
        }
    }
}

impl Core {
    /// Sets what is known without asking anybody, once a second.
    pub(super) fn gauges(&self) {
        self.posture_gauges();
        let to = &self.metrics;
        let journal = self.journal.stats();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        to.journal_limit.set(i64::try_from(self.config.journal.bytes_max).unwrap_or(i64::MAX));
        to.journal_segments.set(i64::try_from(journal.segments).unwrap_or(i64::MAX));
        set_total(&to.journal_written, journal.frame_bytes);
        self.journal.take_sync_ns().into_iter().for_each(|ns| to.journal_fsync.observe(seconds(ns)));
        set_total(&to.capture_dropped, self.capture.stats().dropped_total);
        to.io_backend_info.get_or_create(&metrics::Io::new("journal", journal.backend)).set(1);
        let transport = match self.transport.backend() {
            Backend::IoUring => "io_uring",
            Backend::Plain { .. } => "plain",
        };
        to.io_backend_info.get_or_create(&metrics::Io::new("transport", transport)).set(1);
        let replicas = self.view.read().placement.groups().iter().filter(|g| g.replicas.contains(&self.node)).count();
        to.groups.get_or_create(&metrics::Role::new("active")).set(count(self.own.len()));
        to.groups.get_or_create(&metrics::Role::new("replica")).set(count(replicas));
        to.accounts.get_or_create(&metrics::Role::new("active")).set(count(self.accounts.iter().count()));
        to.blob_uploads_pending.set(count(self.uploader.waiting()));
        let board = self.board.lock();
        let parked = |damaged: bool| {
            let is = |p: &&(GroupId, Parked)| matches!(p.1.reason, Reason::Body { damaged: d, .. } if d == damaged);
            board.parked.values().filter(is).count()
        };
        to.quarantined_accounts.set(count(board.parked.len()));
        to.held_operations
            .set(board.holding.values().map(|holding| i64::try_from(holding.held).unwrap_or(i64::MAX)).sum());
        to.braked_accounts.set(count(board.holding.values().filter(|holding| holding.trip.is_some()).count()));
        to.pauses.set(count(self.pauses.all(crate::clock::wall_ns()).len()));
        to.blobs_missing.set(count(parked(false)));
        to.blobs_damaged.set(count(parked(true)));
        for peer in &self.config.peers {
            let resync = self.peer_resync.keys().filter(|(_, node)| *node == peer.node_id()).count();
            to.peer_resync_groups.get_or_create(&metrics::Peer::new(&peer.name)).set(count(resync));
        }
    }
}
