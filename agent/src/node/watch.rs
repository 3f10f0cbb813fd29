//! What this node thinks of its peers: suspicion by their beats, and what its canaries found.
//!
//! Owns: the detector and the canaries, and who is told of them. What can hurt: a loop that was late itself; it is
//! measured at every turn, before anything that arrived is looked at, and its word then does not count. Refuses:
//! verdicts.

use std::collections::BTreeMap;

use understudy_types::id::NodeId;

use super::core::Core;
use super::council::Word;
use crate::canary::{Canaries, CanaryConfig};
use crate::clock::{self, MonoNs};
use crate::config::Config;
use crate::failover::Input;
use crate::limits::{SUSPICION_CHANGE_MILLI, SUSPICION_LOOK_NS, TURN_MS_MAX};
use crate::pressure::PressureState;
use crate::suspect::{Measured, Suspicions};

/// Detector and canaries.
pub(crate) struct Watch {
    suspicions: Suspicions,
    canaries: Option<Canaries>,
    /// What the decider was told last.
    told: BTreeMap<NodeId, u32>,
    next_look: MonoNs,
    turned_at: MonoNs,
    /// The most that a beat was late in the last second.
    pub beat_late_ns: u64,
}

impl Watch {
    /// Canaries only where somebody decides: without that nobody would listen.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub(crate) fn start(config: &Config, now: MonoNs) -> std::io::Result<Self> {
        let peers = config.peers.iter().map(crate::config::model::Peer::node_id);
        let canaries = CanaryConfig::of(config).map(|config| Canaries::start(&config)).transpose()?;
        Ok(Self {
            suspicions: Suspicions::new(peers, config.agent.beat_interval_ms * 1_000_000, now),
            canaries,
            told: BTreeMap::new(),
            next_look: now,
            turned_at: now,
            beat_late_ns: 0,
        })
    }

    /// A beat of a peer arrived.
    pub(crate) fn on_beat(&mut self, peer: NodeId) {
        // Not the time of the turn: if this process was away, the turn began before that.
        self.suspicions.on_beat(peer, clock::mono());
    }

    /// For how long each peer's service has failed by this node's canary; `None` where it does not know, or where this
    /// node's word does not count.
    pub(crate) fn failing(&self, now: MonoNs) -> BTreeMap<NodeId, u64> {
        let words = self.canaries.as_ref().map(|canaries| canaries.words(self.suspicions.is_healthy(now), now));
        let words = words.into_iter().flat_map(|words| words.words);
        words.filter(|word| word.healthy).map(|word| (word.of, word.failing_ns)).collect()
    }
}

impl Core {
    /// At the beginning of a turn, before anything that arrived is looked at.
    pub(super) fn watch_turn(&mut self) {
        let now = self.now;
        let watch = &mut self.probes.watch;
        watch.suspicions.on_tick(now);
        let late_ns = now.since_ns(watch.turned_at).saturating_sub(TURN_MS_MAX * 1_000_000);
        watch.turned_at = now;
        watch.suspicions.on_measured(Measured::TurnLate { ns: late_ns }, now);
        if now < watch.next_look {
            return;
        }
        watch.next_look = MonoNs(now.0.saturating_add(SUSPICION_LOOK_NS));
        let levels: Vec<(NodeId, u32)> = watch.suspicions.levels(now).collect();
        for (peer, phi_milli) in levels {
            let told = self.probes.watch.told.get(&peer).copied().unwrap_or(0);
            if told.abs_diff(phi_milli) >= SUSPICION_CHANGE_MILLI {
                self.probes.watch.told.insert(peer, phi_milli);
                self.council.tell(Input::Suspicion { peer, phi_milli });
            }
        }
    }

    /// Once a second: what was measured of this node, and what it says of its peers.
    pub(super) fn watch_second(&mut self) {
        let now = self.now;
        let late_ns = self.probes.sender.as_ref().map_or(0, crate::beat::BeatSender::take_worst_lateness_ns);
        let watch = &mut self.probes.watch;
        watch.beat_late_ns = late_ns;
        watch.suspicions.on_measured(Measured::BeatLate { ns: late_ns }, now);
        if let Some(PressureState::Known(pressure)) = self.probes.signal.as_ref().map(|signal| &signal.pressure.node) {
            let some_permille = pressure.cpu.some_permille;
            watch.suspicions.on_measured(Measured::CpuWaited { some_permille }, now);
        }
        let watch = &self.probes.watch;
        for (peer, phi_milli) in watch.suspicions.levels(now) {
            self.metrics.detection.set_suspicion(&self.name(peer), phi_milli);
        }
        let Some(canaries) = &watch.canaries else { return };
        for (peer, track) in canaries.tracks() {
            self.metrics.detection.set_canary(&self.name(peer), &track, now);
        }
        for word in canaries.words(watch.suspicions.is_healthy(now), now).words {
            let said = Word::Observed {
                of: word.of,
                failing_ns: word.failing_ns,
                healthy: word.healthy,
                why: word.why.clone(),
            };
            for peer in &self.config.peers {
                let sent = serde_json::to_vec(&said).map(|text| self.transport.send_council(peer.node_id(), text));
                // A peer that is away is told a second later; it forgets old words by itself.
                if let Ok(Err(error)) = sent {
                    tracing::debug!(peer = peer.name, %error, "a word did not go out");
                }
            }
            let (by, of, failing_ns, healthy, why) = (self.node, word.of, word.failing_ns, word.healthy, word.why);
            self.council.tell(Input::Observed { by, of, failing_ns, healthy, why });
        }
    }
}
