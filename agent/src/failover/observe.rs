//! The leases of the others: when each was last seen to be renewed, and when it has run out for us. And what observers
//! say.
//!
//! Owns: the waiting time per node, suspicion, accusations. What can hurt: to think that a lease has run out while its
//! holder still counts on it. So the wait begins when a change is *seen*, which is after the holder sent it; it goes on
//! when the key vanishes, since whoever deleted it may not have waited; and it begins anew after every gap in what we
//! saw, in which the lease may have been taken and lost again. Only the owner's own word (`released`) ends it at once.
//! Refuses: promoting. A late or starved observer accuses nobody, and two nodes never outvote each other.

use std::collections::BTreeMap;

use understudy_types::id::NodeId;

use super::decide::Decider;
use super::txn::Purpose;
use crate::clock::BootNs;
use crate::coordinator::record::{LeaseRecord, Name};
use crate::limits::{FAILOVER_MARGIN_MS, FAILOVER_OBSERVED_MS_MAX, FAILOVER_START_GRACE_MS};

pub(super) const MS: u64 = 1_000_000;

/// The last sign of a node's lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    /// When we saw it, or when we began to look again after a gap.
    pub(super) seen_at: BootNs,
    /// How long we wait from then on.
    pub(super) wait_ns: u64,
    /// Its owner gave it back.
    pub(super) released: bool,
    /// Revision of its last record, also of one that is gone.
    pub(super) revision: u64,
}

/// What one observer says of a node.
#[derive(Clone, Debug)]
pub(super) struct Word {
    at: BootNs,
    pub(super) failing_ns: u64,
    pub(super) healthy: bool,
    pub(super) why: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    pub(super) leases: BTreeMap<NodeId, Watched>,
    /// For nodes whose lease was never seen: run out at this time.
    pub(super) unseen_until: BootNs,
    /// Suspicion in thousandths; it ranks and explains, and never fences.
    pub(super) suspicion: BTreeMap<NodeId, u32>,
    pub(super) words: BTreeMap<NodeId, BTreeMap<NodeId, Word>>,
    /// The site that a node's lease named last.
    pub(super) sites: BTreeMap<NodeId, String>,
}

impl Decider {
    /// How long others wait for a lease of this duration.
    pub(super) fn wait_ns(&self, duration_ns: u64) -> u64 {
        let drift = u128::from(duration_ns) * u128::from(self.set.drift_ppm) / 1_000_000;
        duration_ns.saturating_add(u64::try_from(drift).unwrap_or(u64::MAX)).saturating_add(FAILOVER_MARGIN_MS * MS)
    }

    /// A node's lease changed in the view.
    pub(super) fn lease_seen(&mut self, node: NodeId, record: Option<&LeaseRecord>, revision: u64) {
        // Gone: the wait goes on from the last value that was seen.
        let Some(record) = record else { return };
        let wait_ns = self.wait_ns(record.duration_ms.saturating_mul(MS));
        let entry = Watched { seen_at: self.now, wait_ns, released: record.released, revision };
        self.seen.leases.insert(node, entry);
        self.seen.sites.insert(node, record.site.clone());
    }

    /// Everything was read anew, and something may have been missed before: leases that are not there now may have been
    /// taken and lost meanwhile, by a holder that does not know it yet.
    pub(super) fn gap_seen(&mut self, first: bool) {
        let own = self.wait_ns(self.set.lease_ns);
        let (now, leases) = (self.now, &self.view.leases);
        for (node, entry) in &mut self.seen.leases {
            if !leases.contains_key(node) {
                (entry.seen_at, entry.wait_ns, entry.released) = (now, entry.wait_ns.max(own), false);
            }
        }
        let wait = if first { own.max(FAILOVER_START_GRACE_MS * MS) } else { own };
        self.seen.unseen_until = self.seen.unseen_until.max(now.after_ns(wait));
    }

    /// Time until another node's lease has run out for us; 0 = it has.
    pub(super) fn lease_left_ns(&self, node: NodeId) -> u64 {
        if !self.view.known {
            return u64::MAX;
        }
        match self.seen.leases.get(&node) {
            Some(entry) if entry.released => 0,
            Some(entry) => entry.seen_at.after_ns(entry.wait_ns).since_ns(self.now),
            None => self.seen.unseen_until.since_ns(self.now),
        }
    }

    /// Whether a node, this one included, holds a lease as far as we know.
    pub(super) fn alive(&self, node: NodeId) -> bool {
        if node == self.set.node {
            return self.now < self.own.until();
        }
        self.view.lease(node).is_some_and(|lease| !lease.released) && self.lease_left_ns(node) > 0
    }

    /// Whether half of a lease has gone by without a renewal: time to ask the other candidates.
    pub(super) fn lease_half_gone(&self, node: NodeId) -> bool {
        let half = self.seen.leases.get(&node).map_or(0, |entry| entry.wait_ns / 2);
        self.lease_left_ns(node) <= half
    }

    pub(super) fn observed(&mut self, by: NodeId, of: NodeId, failing_ns: u64, healthy: bool, why: String) {
        let word = Word { at: self.now, failing_ns, healthy, why };
        self.seen.words.entry(of).or_default().insert(by, word);
    }

    /// Observers whose word counts against a node, and the number that it takes. `None`: somebody healthy says fine.
    pub(super) fn accusers(&self, of: NodeId) -> Option<(Vec<NodeId>, usize)> {
        let voters = self.view.leases.keys().filter(|node| **node != of && self.alive(**node)).count();
        let needed = (voters / 2 + 1).max(2);
        let bound = self.set.store_stall_ns.saturating_mul(2);
        let mut accusers = Vec::new();
        for (by, word) in self.seen.words.get(&of).into_iter().flatten() {
            let counts = *by != of && word.healthy && self.alive(*by);
            if !counts || self.now.since_ns(word.at) > FAILOVER_OBSERVED_MS_MAX * MS {
                continue;
            }
            if word.failing_ns == 0 {
                return None;
            }
            if word.failing_ns >= bound {
                accusers.push(*by);
            }
        }
        Some((accusers, needed))
    }

    /// Takes the lease away from a node whose service most of the others have seen fail, if somebody can take over.
    pub(super) fn accuse(&mut self) {
        let late = |word: &Word, now: BootNs| now.since_ns(word.at) > FAILOVER_OBSERVED_MS_MAX * MS;
        let now = self.now;
        self.seen.words.retain(|_, words| {
            words.retain(|_, word| !late(word, now));
            !words.is_empty()
        });
        if self.seen.words.is_empty() || !self.view.heard || !self.may_act() {
            return;
        }
        let accused: Vec<NodeId> = self.seen.words.keys().copied().collect();
        for of in accused {
            let Some((accusers, needed)) = self.accusers(of) else { continue };
            if accusers.len() < needed || of == self.set.node || !accusers.contains(&self.set.node) || !self.alive(of) {
                continue;
            }
            let somebody = self.view.groups.values().any(|entry| {
                let record = &entry.record;
                record.active() == Some(of) && record.in_sync().any(|node| self.alive(node))
            });
            let name = Name::Lease(of);
            let revision = self.view.revision_of(&name);
            if !somebody || revision == 0 || self.txns.taking_from(of) {
                continue;
            }
            let why = self.seen.words.get(&of).and_then(|words| words.get(&self.set.node)).map(|word| word.why.clone());
            let names: Vec<String> = accusers.iter().map(ToString::to_string).collect();
            self.say(
                "accused",
                None,
                &format!("{of}@{revision}"),
                true,
                format!(
                    "nodes {} see the service of node {of} fail ({}): its lease is taken away",
                    names.join(", "),
                    why.unwrap_or_default()
                ),
                0,
            );
            let expect = vec![(name.clone(), revision), self.own_expect()];
            self.transact(Purpose::Take { of }, Vec::new(), expect, vec![(name, None, None)]);
        }
    }
}
