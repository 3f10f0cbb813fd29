//! What peers said of themselves, and how long ago.
//!
//! Owns: the last beat of each peer and the order of beats; pure. What can hurt: a beat that was delayed or repeated;
//! an older one never replaces a newer. Refuses: verdicts, and more peers than the configuration has.

use std::collections::BTreeMap;

use understudy_types::beat::Beat;
use understudy_types::id::NodeId;

use crate::clock::MonoNs;
use crate::limits::BEAT_PEERS_MAX;

/// What a beat was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The first of this peer.
    First,
    /// The next, after so many that did not arrive.
    Next {
        /// Beats that are missing in between.
        missing: u64,
    },
    /// The peer's agent was started anew.
    AgentRestarted,
    /// The peer's host was started anew.
    HostRestarted,
    /// Not newer than what is known: not taken.
    Stale,
    /// It names another node than the connection it came on: not taken.
    Impostor,
    /// No room for one more peer: not taken.
    Full,
}

/// The last word of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it said.
    pub beat: Beat,
    /// When it arrived here.
    pub at: MonoNs,
    /// Time between the two arrivals before; 0 after the first.
    pub interval_ns: u64,
    /// Beats that did not arrive, since this agent started.
    pub missing: u64,
}

/// Last words of all peers.
#[derive(Clone, Debug, Default)]
pub struct BeatTable {
    words: BTreeMap<NodeId, Word>,
}

impl BeatTable {
    /// Takes a beat that arrived on the connection of `peer`. A lower incarnation is stale, also from another boot:
    /// a node that lost its state says so in its handshake, and the caller then [`forget`](Self::forget)s it first.
    pub fn on_beat(&mut self, peer: NodeId, beat: Beat, now: MonoNs) -> Heard {
        if beat.node != peer {
            return Heard::Impostor;
        }
        let Some(word) = self.words.get_mut(&peer) else {
            if self.words.len() >= BEAT_PEERS_MAX {
                return Heard::Full;
            }
            self.words.insert(peer, Word { beat, at: now, interval_ns: 0, missing: 0 });
            return Heard::First;
        };
        let known = word.beat;
        let heard = if beat.incarnation != known.incarnation {
            if beat.incarnation < known.incarnation {
                return Heard::Stale;
            }
            if beat.boot == known.boot { Heard::AgentRestarted } else { Heard::HostRestarted }
        } else if beat.sequence <= known.sequence {
            return Heard::Stale;
        } else {
            Heard::Next { missing: beat.sequence - known.sequence - 1 }
        };
        if let Heard::Next { missing } = heard {
            word.missing = word.missing.saturating_add(missing);
        }
        word.interval_ns = now.since_ns(word.at);
        word.beat = beat;
        word.at = now;
        heard
    }

    /// Time since the last beat of a peer arrived; `None` when none ever did.
    #[must_use]
    pub fn age(&self, peer: NodeId, now: MonoNs) -> Option<u64> {
        self.words.get(&peer).map(|word| now.since_ns(word.at))
    }

    /// The last word of a peer.
    #[must_use]
    pub fn word(&self, peer: NodeId) -> Option<&Word> {
        self.words.get(&peer)
    }

    /// Every last word.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Word)> {
        self.words.iter().map(|(peer, word)| (*peer, word))
    }

    /// A peer was taken out of the configuration.
    pub fn forget(&mut self, peer: NodeId) {
        self.words.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> NodeId {
        NodeId::new(number).expect("in range")
    }

    fn beat(incarnation: u32, sequence: u64) -> Beat {
        Beat { sequence, ..Beat::unknown(node(1), 5, incarnation) }
    }

    #[test]
    fn order_gaps_and_restarts_are_told_apart() {
        let mut table = BeatTable::default();
        assert_eq!(table.age(node(1), MonoNs(9)), None);
        assert_eq!(table.on_beat(node(1), beat(1, 1), MonoNs(10)), Heard::First);
        assert_eq!(table.on_beat(node(1), beat(1, 2), MonoNs(20)), Heard::Next { missing: 0 });
        assert_eq!(table.on_beat(node(1), beat(1, 6), MonoNs(50)), Heard::Next { missing: 3 });
        assert_eq!(table.on_beat(node(1), beat(1, 6), MonoNs(60)), Heard::Stale);
        assert_eq!(table.on_beat(node(1), beat(1, 3), MonoNs(60)), Heard::Stale);
        assert_eq!(table.age(node(1), MonoNs(75)), Some(25));
        assert_eq!(table.on_beat(node(1), beat(2, 1), MonoNs(80)), Heard::AgentRestarted);
        assert_eq!(table.on_beat(node(1), beat(1, 99), MonoNs(85)), Heard::Stale);
        let elsewhere = Beat { boot: 6, ..beat(3, 1) };
        assert_eq!(table.on_beat(node(1), elsewhere, MonoNs(90)), Heard::HostRestarted);
        assert_eq!(table.word(node(1)).map(|word| (word.missing, word.interval_ns)), Some((3, 10)));
    }

    #[test]
    fn a_beat_of_another_node_is_not_taken() {
        let mut table = BeatTable::default();
        assert_eq!(table.on_beat(node(2), beat(1, 1), MonoNs(1)), Heard::Impostor);
        assert_eq!(table.iter().count(), 0);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = BeatTable::default();
        for number in 1..=u16::try_from(BEAT_PEERS_MAX).expect("small") {
            assert_eq!(table.on_beat(node(number), Beat::unknown(node(number), 1, 1), MonoNs(1)), Heard::First);
        }
        let last = node(NodeId::MAX);
        assert_eq!(table.on_beat(last, Beat::unknown(last, 1, 1), MonoNs(1)), Heard::Full);
        table.forget(node(1));
        assert_eq!(table.on_beat(last, Beat::unknown(last, 1, 1), MonoNs(1)), Heard::First);
    }
}
