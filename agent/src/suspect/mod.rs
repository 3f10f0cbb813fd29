//! How much each peer is suspected to be gone, and whether this node is fit to say so. Pure.
//!
//! Owns: the arrivals of every peer's beats ([`phi`]), this node's own health ([`health`]), and noticing that this
//! process was away. What can hurt: a node that was frozen and finds everybody silent when it goes on; it begins anew
//! with all of them, and its word does not count for a while. Refuses: verdicts. Suspicion ranks candidates and is
//! shown; a node is fenced by its lease, or by a majority of healthy observers.

pub mod health;
pub mod phi;

use std::collections::BTreeMap;

use understudy_types::id::NodeId;

pub use self::health::{LocalHealth, Measured};
use self::phi::Arrivals;
use crate::clock::MonoNs;
use crate::limits::SUSPICION_AWAY_NS;

/// Suspicion of all peers, as one node has it.
#[derive(Clone, Debug)]
pub struct Suspicions {
    peers: BTreeMap<NodeId, Arrivals>,
    health: LocalHealth,
    seen_at: MonoNs,
}

impl Suspicions {
    /// For these peers, whose beats are expected every `every_ns`.
    #[must_use]
    pub fn new(peers: impl IntoIterator<Item = NodeId>, every_ns: u64, now: MonoNs) -> Self {
        let peers = peers.into_iter().map(|peer| (peer, Arrivals::new(every_ns, now))).collect();
        Self { peers, health: LocalHealth::new(now), seen_at: now }
    }

    /// Time passed; to be told several times a second, and before anything that arrived is looked at.
    pub fn on_tick(&mut self, now: MonoNs) {
        if now.since_ns(self.seen_at) >= SUSPICION_AWAY_NS {
            for arrivals in self.peers.values_mut() {
                arrivals.restart(now);
            }
            self.health.on_away(now);
        }
        self.seen_at = self.seen_at.max(now);
    }

    /// A beat of a peer arrived. One that is not known is none of ours.
    pub fn on_beat(&mut self, peer: NodeId, now: MonoNs) {
        self.on_tick(now);
        if let Some(arrivals) = self.peers.get_mut(&peer) {
            arrivals.on_beat(now);
        }
    }

    /// Something of this process was measured.
    pub fn on_measured(&mut self, measured: Measured, now: MonoNs) {
        self.on_tick(now);
        self.health.on(measured, now);
    }

    /// The level of suspicion of every peer, in thousandths.
    pub fn levels(&self, now: MonoNs) -> impl Iterator<Item = (NodeId, u32)> {
        let patience = self.health.patience(now);
        self.peers.iter().map(move |(peer, arrivals)| (*peer, arrivals.phi_milli(now, patience)))
    }

    /// Whether this node's word on others counts.
    #[must_use]
    pub fn is_healthy(&self, now: MonoNs) -> bool {
        now.since_ns(self.seen_at) < SUSPICION_AWAY_NS && self.health.is_healthy(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn node(number: u16) -> NodeId {
        NodeId::new(number).expect("in range")
    }

    fn at(ms: u64) -> MonoNs {
        MonoNs(ms * 1_000_000)
    }

    fn run(suspicions: &mut Suspicions, from_ms: u64, to_ms: u64, beating: &[u16]) {
        for ms in (from_ms..to_ms).step_by(50) {
            suspicions.on_tick(at(ms));
            if ms % 1000 == 0 {
                beating.iter().for_each(|number| suspicions.on_beat(node(*number), at(ms)));
            }
        }
    }

    fn level(suspicions: &Suspicions, number: u16, ms: u64) -> u32 {
        suspicions.levels(at(ms)).find(|(peer, _)| *peer == node(number)).expect("known").1
    }

    #[test]
    fn who_is_silent_is_suspected_and_who_is_not_is_not() {
        let mut suspicions = Suspicions::new([node(2), node(3)], SECOND, at(0));
        run(&mut suspicions, 0, 20_000, &[2, 3]);
        run(&mut suspicions, 20_000, 25_000, &[3]);
        assert!(level(&suspicions, 2, 25_000) > 8000);
        assert!(level(&suspicions, 3, 25_000) < 1000);
        assert!(suspicions.is_healthy(at(25_000)));
        suspicions.on_beat(node(9), at(25_000));
        assert_eq!(suspicions.levels(at(25_000)).count(), 2);
    }

    #[test]
    fn who_was_stopped_accuses_nobody_when_it_goes_on() {
        let mut suspicions = Suspicions::new([node(2), node(3)], SECOND, at(0));
        run(&mut suspicions, 0, 20_000, &[2, 3]);
        // SIGSTOP for ten minutes. Asked before anything else is told, it does not count as an observer.
        let back = 620_000;
        assert!(!suspicions.is_healthy(at(back)));
        // Node 2's beats wait in the socket and arrive first, all at once; node 3 has gone meanwhile.
        for _ in 0..100 {
            suspicions.on_beat(node(2), at(back));
        }
        assert!(!suspicions.is_healthy(at(back)));
        assert!(level(&suspicions, 2, back + 500) < 301 && level(&suspicions, 3, back + 500) < 301);
        // It learns anew that node 3 is gone, and says so when it is fit to.
        run(&mut suspicions, back, back + 6000, &[2]);
        assert!(suspicions.is_healthy(at(back + 6000)));
        assert!(level(&suspicions, 2, back + 6000) < 1000);
        assert!(level(&suspicions, 3, back + 6000) > 8000);
    }

    #[test]
    fn pauses_again_and_again_accuse_nobody() {
        let mut suspicions = Suspicions::new([node(2)], SECOND, at(0));
        run(&mut suspicions, 0, 5000, &[2]);
        // Starved: it runs for 100 ms, then not for 3 s; what peers sent meanwhile arrives only after its own tick.
        let mut now = 5000;
        for _ in 0..50 {
            now += 3000;
            suspicions.on_tick(at(now));
            assert!(!suspicions.is_healthy(at(now)));
            assert!(level(&suspicions, 2, now) < 1000);
            suspicions.on_beat(node(2), at(now + 10));
            now += 100;
        }
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_is_survived() {
        let mut suspicions = Suspicions::new([node(2)], SECOND, at(10_000));
        suspicions.on_beat(node(2), at(9000));
        suspicions.on_tick(at(0));
        assert!(level(&suspicions, 2, 10_500) < 1000);
        assert!(suspicions.is_healthy(at(10_500)));
    }
}
