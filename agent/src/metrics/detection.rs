//! What the node knows of its own store and of its peers' health, as metrics.
//!
//! Owns: the families of evidence, suspicion and canaries, and how they are set. Refuses: ages without an end; where a
//! sign was never seen there is no series.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{Book, CanaryRound, FloatGauge, Peer, Sign, set_total};
use crate::canary::Track;
use crate::clock::{BootNs, MonoNs};
use crate::evidence::Report;

/// Evidence, suspicion, canaries.
pub struct Detection {
    pub evidence_age: Family<Sign, FloatGauge>,
    pub evidence_facts: Gauge,
    pub suspicion: Family<Peer, FloatGauge>,
    pub canary_rounds: Family<CanaryRound, Counter>,
    pub canary_failing: Family<Peer, FloatGauge>,
}

impl Detection {
    pub(super) fn register(book: &mut Book) -> Self {
        Self {
            evidence_age: book.seconds(
                "evidence_age",
                "Age of each required sign that the store makes progress, and of the oldest of them (`all`)",
                Family::default(),
            ),
            evidence_facts: book.plain(
                "evidence_facts",
                "Facts against the store (stopped, disk full or broken): while there is one, no lease is renewed",
                Gauge::default(),
            ),
            suspicion: book.plain(
                "suspicion_phi",
                "How much the peer is suspected to be gone, by its beats: 1 is wrong once in 10, 8 once in 100 million",
                Family::default(),
            ),
            canary_rounds: book.plain(
                "canary_rounds",
                "Looks at the peer's IMAP service as a user would do them, by outcome",
                Family::default(),
            ),
            canary_failing: book.seconds(
                "canary_failing",
                "For how long the peer's IMAP service has failed; 0 when it works",
                Family::default(),
            ),
        }
    }

    /// Sets what the evidence says.
    pub fn set_evidence(&self, report: &Report, now: BootNs) {
        let mut oldest = 0;
        for sign in report.signs.iter().filter(|sign| sign.is_required) {
            let Some(at) = sign.good_at else { continue };
            let age_ns = now.since_ns(at);
            oldest = oldest.max(age_ns);
            self.evidence_age.get_or_create(&Sign::new(sign.sign.name())).set(seconds(age_ns));
        }
        self.evidence_age.get_or_create(&Sign::new("all")).set(seconds(oldest));
        let facts = report.signs.iter().filter(|sign| sign.fact.is_some()).count();
        self.evidence_facts.set(i64::try_from(facts).unwrap_or(i64::MAX));
    }

    /// Sets a peer's level of suspicion.
    pub fn set_suspicion(&self, peer: &str, phi_milli: u32) {
        self.suspicion.get_or_create(&Peer::new(peer)).set(f64::from(phi_milli) / 1000.0);
    }

    /// Sets how the canary of a peer stands.
    pub fn set_canary(&self, peer: &str, track: &Track, now: MonoNs) {
        self.canary_failing.get_or_create(&Peer::new(peer)).set(seconds(track.failing_ns(now)));
        for (outcome, total) in [("good", track.rounds_good), ("failed", track.rounds_failed)] {
            set_total(&self.canary_rounds.get_or_create(&CanaryRound::new(peer, outcome)), total);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are doubles; 53 bits of nanoseconds are 104 days")]
fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}
