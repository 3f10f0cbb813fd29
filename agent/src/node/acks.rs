//! Who waits for which acknowledgement, and when each may be given.
//!
//! Owns: the answers that store processes wait for, per group. Pure. What can hurt: an answer given too early is a
//! lost message later (rule 2); an answer that one bad body holds back must hold back its own account only (rule 11).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use understudy_ring::{AckLevel, CompletionRef, Status};
use understudy_types::id::BlobId;

use crate::limits::ACKS_WAITING_MAX;

/// One waiting store process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub seq: u64,
    pub account: String,
    pub at: CompletionRef,
    pub level: AckLevel,
    /// Peers that must hold the operation, for [`AckLevel::Peer`].
    pub peers: u8,
    /// Wall time of the capture, for the metric of the wait.
    pub captured_wall_ns: u64,
}

/// An answer that may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    pub at: CompletionRef,
    pub status: Status,
    pub captured_wall_ns: u64,
}

/// The waiting ones of one group, and its bodies that are not yet in central storage.
#[derive(Debug, Default)]
pub struct Acks {
    waiting: VecDeque<Waiting>,
    /// By account: sequence of the operation, and the body that it names.
    bodies: BTreeMap<String, BTreeSet<(u64, BlobId)>>,
}

impl Acks {
    /// Somebody waits. Past the bound the oldest is forgotten: the ring has fewer slots to wait in, so it gave up long
    /// ago (while a peer is away, nobody else would ever take it off the list).
    pub fn wait(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
        if self.waiting.len() > ACKS_WAITING_MAX {
            self.waiting.pop_front();
        }
    }

    /// An operation names a body that is not known to be in central storage.
    pub fn body_pending(&mut self, account: &str, seq: u64, blob: BlobId) {
        self.bodies.entry(account.to_owned()).or_default().insert((seq, blob));
    }

    /// A body is in central storage.
    pub fn body_durable(&mut self, blob: BlobId) {
        self.bodies.retain(|_, pending| {
            pending.retain(|(_, id)| *id != blob);
            !pending.is_empty()
        });
    }

    /// Whether some operation still waits for this body.
    #[must_use]
    pub fn needs_body(&self, blob: BlobId) -> bool {
        self.bodies.values().any(|pending| pending.iter().any(|(_, id)| *id == blob))
    }

    /// Accounts whose operations wait for this body.
    #[must_use]
    pub fn accounts_of_body(&self, blob: BlobId) -> Vec<String> {
        let names = |pending: &BTreeSet<(u64, BlobId)>| pending.iter().any(|(_, id)| *id == blob);
        self.bodies.iter().filter(|(_, pending)| names(pending)).map(|(account, _)| account.clone()).collect()
    }

    /// Everybody who waits, told that this node may not change mail any more: its lease has ended.
    #[must_use]
    pub fn fence(&mut self) -> Vec<Ready> {
        let told = |waiting: Waiting| Ready {
            at: waiting.at,
            status: Status::Fenced,
            captured_wall_ns: waiting.captured_wall_ns,
        };
        self.waiting.drain(..).map(told).collect()
    }

    /// Who may be answered now. `journaled` is this node's durable position, `acked` that of each replica, `required`
    /// the lowest of those replicas that nobody of level `peer` is answered without.
    #[must_use]
    pub fn ready(&mut self, journaled: u64, acked: &[u64], required: u64) -> Vec<Ready> {
        let mut ready = Vec::new();
        let mut acked = acked.to_vec();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let bodies = &self.bodies;
        self.waiting.retain(|waiting| {
            let here = journaled >= waiting.seq;
            let status = match waiting.level {
                AckLevel::None => Some(Status::Durable),
                AckLevel::Local => here.then_some(Status::Durable),
                AckLevel::Peer => {
                    let count = usize::from(waiting.peers).max(1);
                    let there = acked.get(count - 1).is_some_and(|seq| *seq >= waiting.seq);
                    let body_missing = bodies
                        .get(&waiting.account)
                        .and_then(BTreeSet::first)
                        .is_some_and(|(first, _)| *first <= waiting.seq);
                    let everywhere = required >= waiting.seq;
                    (here && there && everywhere && !body_missing).then_some(Status::Replicated)
                }
            };
            if let Some(status) = status {
                ready.push(Ready { at: waiting.at, status, captured_wall_ns: waiting.captured_wall_ns });
            }
            status.is_none()
        });
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slot: u32) -> CompletionRef {
        CompletionRef { slot, ticket: 1 }
    }

    fn waiting(seq: u64, level: AckLevel, peers: u8, account: &str) -> Waiting {
        let at = at(u32::try_from(seq).unwrap());
        Waiting { seq, account: account.into(), at, level, peers, captured_wall_ns: 0 }
    }

    fn ready(acks: &mut Acks, journaled: u64, acked: &[u64]) -> Vec<(CompletionRef, Status)> {
        acks.ready(journaled, acked, u64::MAX).into_iter().map(|ready| (ready.at, ready.status)).collect()
    }

    #[test]
    fn local_needs_this_disk_and_peer_needs_the_peers_too() {
        let mut acks = Acks::default();
        acks.wait(waiting(5, AckLevel::Local, 0, "a"));
        acks.wait(waiting(6, AckLevel::Peer, 1, "a"));
        acks.wait(waiting(7, AckLevel::Peer, 2, "a"));
        assert_eq!(ready(&mut acks, 4, &[9, 9]), [], "not on this disk, not acknowledged");
        assert_eq!(ready(&mut acks, 7, &[5, 0]), [(at(5), Status::Durable)]);
        assert_eq!(ready(&mut acks, 7, &[6, 0]), [(at(6), Status::Replicated)]);
        assert_eq!(ready(&mut acks, 7, &[9, 6]), []);
        assert_eq!(ready(&mut acks, 7, &[7, 9]), [(at(7), Status::Replicated)]);
        assert_eq!(ready(&mut acks, 99, &[99, 99]), [], "nobody waits any more");
    }

    #[test]
    fn one_that_must_have_it_is_waited_for_and_an_ended_lease_answers_everybody() {
        let mut acks = Acks::default();
        acks.wait(waiting(5, AckLevel::Peer, 1, "a"));
        acks.wait(waiting(6, AckLevel::Local, 0, "a"));
        assert_eq!(acks.ready(9, &[9, 4], 4).len(), 1, "local does not wait for peers, peer waits for all in sync");
        assert_eq!(acks.ready(9, &[9, 5], 5).len(), 1);
        acks.wait(waiting(7, AckLevel::Peer, 1, "a"));
        assert_eq!(acks.fence().iter().map(|ready| ready.status).collect::<Vec<_>>(), [Status::Fenced]);
        assert_eq!(ready(&mut acks, 9, &[9]), []);
    }

    #[test]
    fn a_missing_body_holds_back_its_own_account_only() {
        let mut acks = Acks::default();
        let blob = BlobId([1; 32]);
        acks.body_pending("a", 5, blob);
        acks.wait(waiting(4, AckLevel::Peer, 1, "a"));
        acks.wait(waiting(6, AckLevel::Peer, 1, "a"));
        acks.wait(waiting(7, AckLevel::Peer, 1, "b"));
        acks.wait(waiting(8, AckLevel::Local, 0, "a"));
        let slots: Vec<u32> = ready(&mut acks, 9, &[9]).into_iter().map(|(at, _)| at.slot).collect();
        assert_eq!(slots, [4, 7, 8], "before the body, of another account, or not asking for it");
        acks.body_durable(blob);
        assert_eq!(ready(&mut acks, 9, &[9]), [(at(6), Status::Replicated)]);
    }

    /// Records that an agent before this one journaled all count by the journal's end.
    #[test]
    fn several_bodies_may_be_pending_at_one_sequence() {
        let mut acks = Acks::default();
        acks.body_pending("a", 5, BlobId([1; 32]));
        acks.body_pending("a", 5, BlobId([2; 32]));
        acks.wait(waiting(5, AckLevel::Peer, 1, "a"));
        acks.body_durable(BlobId([2; 32]));
        assert_eq!(ready(&mut acks, 9, &[9]), [], "the other one is still missing");
        acks.body_durable(BlobId([1; 32]));
        assert_eq!(ready(&mut acks, 9, &[9]), [(at(5), Status::Replicated)]);
    }
}
