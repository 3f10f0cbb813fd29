//! What this node sees of everybody's availability, once a second, for the ledger.
//!
//! Owns: the judgement of one look. A node is up when this node's canary works there; this node itself while its store
//! makes progress. A group is up when it is served: here by its seat; elsewhere by the canary of its active node, its
//! lease, and its record. What can hurt: a guess; where nothing says either, the time is not observed. Refuses: sums.

use std::collections::BTreeMap;

use understudy_types::id::{GroupId, NodeId};

use super::core::Core;
use crate::capture::view::Seat;
use crate::clock::{self, MonoNs};
use crate::ledger::file::Keeper;
use crate::ledger::{Seen, Sight, Subject};
use crate::limits::LEDGER_USERS_MS;

const MS: u64 = 1_000_000;

/// The ledger's keeper, and what it needs to know.
pub(super) struct Availability {
    pub keeper: Keeper,
    users: BTreeMap<GroupId, u64>,
    count_at: MonoNs,
}

impl Availability {
    pub(super) fn new(keeper: Keeper) -> Self {
        Self { keeper, users: BTreeMap::new(), count_at: MonoNs::default() }
    }
}

/// What is known of a node that is not this one.
struct Peer {
    /// By the canary.
    failing_ns: Option<u64>,
    /// By its lease; `None` while the coordinator is not heard, or there is none.
    leased: Option<bool>,
}

fn group_elsewhere(peer: &Peer, is_ready: bool) -> Seen {
    match (peer.failing_ns, peer.leased) {
        (Some(ns), _) if ns > 0 => Seen::Down { failing_ms: ns / MS },
        (_, Some(false)) => Seen::Down { failing_ms: 0 },
        (None, None) => Seen::Unknown,
        _ if is_ready => Seen::Up,
        _ => Seen::Down { failing_ms: 0 },
    }
}

impl Core {
    /// Once a second.
    pub(super) fn see_availability(&mut self) {
        if self.now >= self.availability.count_at {
            self.availability.count_at = MonoNs(self.now.0.saturating_add(LEDGER_USERS_MS * MS));
            let view = self.view.read();
            let mut users = BTreeMap::new();
            for name in &self.roles.names {
                *users.entry(view.placement.group_of(name)).or_default() += 1;
            }
            drop(view);
            self.availability.users = users;
        }
        let failing = self.probes.watch.failing(self.now);
        let overview = self.posture.as_ref().map(|posture| &posture.overview);
        let heard = overview.filter(|overview| overview.coordinator_heard);
        let peer = |node: NodeId| Peer {
            failing_ns: failing.get(&node).copied(),
            leased: heard.map(|seen| seen.nodes.get(&node.get()).is_some_and(|seen| seen.lease_left_ms > 0)),
        };
        let is_well = self.probes.store_pid.is_some() && overview.is_none_or(|seen| seen.store_trouble.is_empty());
        let own = if is_well { Seen::Up } else { Seen::Down { failing_ms: 0 } };
        let mut of_node: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut sights = Vec::new();
        let view = self.view.read();
        for group in view.placement.groups() {
            let users = self.availability.users.get(&group.id).copied().unwrap_or(0);
            *of_node.entry(group.active).or_default() += users;
            let seat = view.seats.get(&group.id);
            let seen = if group.active != self.node {
                let is_ready = !matches!(seat, Some(Seat::Elsewhere { ready: false }));
                group_elsewhere(&peer(group.active), is_ready)
            } else if matches!(seat, Some(Seat::Serving) | None) {
                own
            } else {
                Seen::Down { failing_ms: 0 }
            };
            sights.push(Sight { of: Subject::Group(group.id), seen, users });
        }
        drop(view);
        let nodes = self.config.peers.iter().map(crate::config::model::Peer::node_id);
        for node in nodes.chain([self.node]) {
            let seen = match failing.get(&node) {
                _ if node == self.node => own,
                None => Seen::Unknown,
                Some(0) => Seen::Up,
                Some(ns) => Seen::Down { failing_ms: ns / MS },
            };
            sights.push(Sight { of: Subject::Node(node), seen, users: of_node.get(&node).copied().unwrap_or(0) });
        }
        self.availability.keeper.see(sights, clock::wall_ns() / MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_elsewhere_is_up_only_where_something_says_so() {
        let of = |failing_ns, leased, ready| group_elsewhere(&Peer { failing_ns, leased }, ready);
        let down = Seen::Down { failing_ms: 0 };
        assert_eq!(of(Some(2_000_000), Some(true), true), Seen::Down { failing_ms: 2 });
        assert_eq!(of(Some(0), Some(false), true), down);
        assert_eq!(of(None, None, true), Seen::Unknown);
        assert_eq!(of(None, Some(true), true), Seen::Up);
        assert_eq!(of(Some(0), None, true), Seen::Up);
        assert_eq!(of(Some(0), Some(true), false), down);
    }
}
