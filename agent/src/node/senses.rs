//! The signal path of the event loop: probe and pressure once a second, the beat that carries them, what peers beat.
//!
//! Owns: the figures of the last second. What can hurt: a store that was restarted; its first process is looked for
//! every second. Refuses: judging the figures.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use understudy_types::beat::{Beat, NodeState};
use understudy_types::id::NodeId;
use understudy_types::message::Message;

use super::core::Core;
use crate::beat::{self, BeatSender, BeatSlot, Speaker};
use crate::evidence::EvidenceThread;
use crate::limits::VERSION_ASK_MS;
use crate::pressure::{PressureReader, PressureSample};
use crate::probe::{KernelEvent, Probe, ProbeSample};
use crate::signal::{JournalFigures, PeerFigures, RecordFigures, RingFigures, Signal};
use crate::store::Store;

/// What a node knows about its store and host.
pub(crate) struct Senses {
    pub probe: Option<Probe>,
    pub pressure: PressureReader,
    pub sender: Option<BeatSender>,
    pub slot: Arc<BeatSlot>,
    pub speaker: Speaker,
    pub signal: Option<Signal>,
    pub store_pid: Option<u32>,
    pub pid_file: PathBuf,
    /// What the replay service said last; `None` while it does not answer.
    pub store_version: Arc<Mutex<Option<String>>>,
    /// Why a peer cannot be reached, until it is.
    pub dial_errors: HashMap<NodeId, String>,
    /// Where a lease depends on it.
    pub evidence: Option<EvidenceThread>,
    pub watch: super::watch::Watch,
}

impl Senses {
    /// Asks the replay service every few seconds who it is, in a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(crate) fn ask_version(&self, mut store: Box<dyn Store>) -> std::io::Result<()> {
        let kept = Arc::downgrade(&self.store_version);
        let ask = move || {
            while let Some(kept) = kept.upgrade() {
                let version = store.version().ok();
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = version;
                drop(kept);
                std::thread::sleep(Duration::from_millis(VERSION_ASK_MS));
            }
        };
        std::thread::Builder::new().name("version".into()).spawn(ask).map(drop)
    }

    /// See [`Self::store_version`].
    pub(crate) fn version(&self) -> Option<String> {
        self.store_version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Process id of the store's first process, if it lives.
    fn look_for_store(&self) -> Option<u32> {
        let text = std::fs::read_to_string(&self.pid_file).ok()?;
        let pid: u32 = text.trim().parse().ok()?;
        std::path::Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }
}

impl Core {
    /// Once a second.
    pub(crate) fn sense(&mut self) {
        let pid = self.probes.look_for_store();
        if pid != self.probes.store_pid {
            tracing::info!(before = self.probes.store_pid, now = pid, "the store's first process");
            self.probes.store_pid = pid;
            self.probes.pressure.set_store_pid(pid);
            if let Some(probe) = &self.probes.probe {
                probe.set_store_pid(pid);
            }
        }
        self.metrics.store_up.set(i64::from(pid.is_some()));
        self.metrics.replay_up.set(i64::from(self.probes.version().is_some()));
        let pressure: PressureSample = self.probes.pressure.read(self.now);
        let newest = self.probes.probe.as_ref().and_then(|probe| probe.samples.try_iter().last());
        let events: Vec<_> = self.probes.probe.iter().flat_map(|probe| probe.events.try_iter()).collect();
        for event in events {
            // Sessions end all day; what ended badly, and the first process, is worth a line.
            match event {
                KernelEvent::Exit { status: 0, signal: 0, is_store: false, .. } => {
                    tracing::debug!(?event, "the kernel tells of the store");
                }
                event => tracing::info!(?event, "the kernel tells of the store"),
            }
        }
        let sample: ProbeSample =
            newest.or_else(|| self.probes.signal.as_ref().map(|signal| signal.probe.clone())).unwrap_or_default();
        let record = self.record_figures();
        let signal = Signal::merge(sample, pressure, record, self.now);
        let state = if pid.is_some() { NodeState::Serving } else { NodeState::StoreDown };
        self.probes.slot.put(beat::compose(self.probes.speaker, state, false, &signal), self.now);
        self.metrics.beats_sent.inc();
        if let Some(evidence) = &self.probes.evidence {
            self.metrics.detection.set_evidence(&evidence.report(), crate::clock::boot());
        }
        super::gauges::signal(&self.metrics, &signal);
        self.gauges();
        self.probes.signal = Some(signal);
        self.watch_second();
    }

    /// A beat of a peer.
    pub(crate) fn beat(&mut self, peer: NodeId, message: &Message) {
        let Message::Beat(bytes) = message else { return };
        match Beat::decode(bytes) {
            Ok(beat) => {
                self.beats.on_beat(peer, beat, self.now);
                self.probes.watch.on_beat(peer);
                let labels = crate::metrics::Peer::new(&self.name(peer));
                self.metrics.beats_received.get_or_create(&labels).inc();
            }
            Err(error) => tracing::warn!(peer = self.name(peer), %error, "a damaged beat arrived"),
        }
    }

    fn record_figures(&self) -> RecordFigures {
        let ring = self.capture.stats();
        let journal = self.journal.stats();
        let wall_ns = crate::clock::wall_ns();
        let board = self.board.lock();
        let applied = board.applied.values().sum();
        drop(board);
        let peers = self
            .config
            .peers
            .iter()
            .map(|peer| {
                let node = peer.node_id();
                let mut figures = PeerFigures {
                    name: peer.name.clone(),
                    is_connected: self.links.contains_key(&node),
                    beat_age_ns: self.beats.age(node, self.now),
                    ..PeerFigures::default()
                };
                for group in self.own.keys() {
                    if let Some(lag) = self.shipper.lag(*group, node, wall_ns) {
                        figures.lag_operations += lag.operations;
                        figures.lag_bytes += lag.bytes;
                        figures.lag_ns = figures.lag_ns.max(lag.age_ns);
                        figures.shipped += lag.journaled.0;
                        figures.acked += lag.acked.0;
                    }
                }
                figures
            })
            .collect();
        RecordFigures {
            ring: RingFigures {
                used_bytes: ring.used_bytes,
                capacity_bytes: ring.capacity_bytes,
                changes_open: ring.intents_open,
                gaps: self.gaps_total,
                records: ring.delivered,
            },
            journal: JournalFigures {
                captured: self.own.values().map(|own| own.batch.captured().0).sum(),
                journaled: self.own.values().map(|own| own.journaled).sum(),
                applied,
                bytes: journal.segment_bytes,
                fsync_p50_ns: journal.sync_p50_ns,
                fsync_p99_ns: journal.sync_p99_ns,
            },
            peers,
        }
    }
}
