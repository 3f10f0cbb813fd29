//! What the node tells routing: where accounts are, and how this node stands.
//!
//! Owns: [`Director`], the answers of today's placement, and [`Lagging`], how long a replica has been behind. What can
//! hurt: an event loop that hangs; what it said a while ago counts as nothing. Refuses: talking to proxies.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crossbeam::channel::Sender;
use understudy_types::beat::NodeState;
use understudy_types::id::{GroupId, NodeId};

use super::board::Board;
use super::core::Core;
use super::gauges::seconds;
use super::query::Query;
use crate::capture::view::{self, SharedView};
use crate::clock::{self, MonoNs};
use crate::config::Config;
use crate::limits::{LAG_SAMPLES_MAX, ROUTING_HEALTH_AGE_MS_MAX};
use crate::routing::address::AddressError;
use crate::routing::{Addresses, Answer, Health, Seat, Standing, Where};

/// What the event loop says once a second.
#[derive(Clone, Default)]
pub(crate) struct Said {
    at: MonoNs,
    store_up: bool,
    journal_failed: Option<String>,
    /// Peers whose agent is there, and says that its store is.
    connected: BTreeSet<NodeId>,
    lag_ns: Option<u64>,
}

/// The node as routing sees it.
pub(super) struct Director {
    node: NodeId,
    name: String,
    view: SharedView,
    board: Arc<Board>,
    nodes: HashMap<NodeId, (String, Addresses)>,
    queries: Sender<Query>,
}

impl Director {
    /// With the addresses of all nodes, resolved now.
    pub(super) fn new(
        config: &Config,
        view: SharedView,
        board: Arc<Board>,
        queries: Sender<Query>,
    ) -> Result<Self, AddressError> {
        let mut nodes = HashMap::new();
        for (node, name) in config.nodes() {
            nodes.insert(node, (name.to_owned(), Addresses::resolve(config, node)?));
        }
        Ok(Self { node: config.node_id(), name: config.node.name.clone(), view, board, nodes, queries })
    }

    /// Somebody wants an account that is not ready: it goes before the others.
    fn asked_for(&self, account: &str) {
        // The loop is gone only at shutdown.
        let _ = self.queries.send(Query::AskedFor { account: account.to_owned() });
    }

    fn said(&self) -> Option<Said> {
        let said = self.board.lock().said.clone();
        let is_fresh = clock::mono().since_ns(said.at) < ROUTING_HEALTH_AGE_MS_MAX * 1_000_000;
        is_fresh.then_some(said)
    }
}

impl Where for Director {
    fn account(&self, account: &str) -> Answer {
        let (active, seat) = {
            let view = self.view.read();
            let group = view.placement.group_of(account);
            (view.placement.group(group).map(|group| group.active), view.seats.get(&group).cloned())
        };
        match seat {
            Some(view::Seat::Moving) => return Answer::Soon("the account is being moved".into()),
            Some(view::Seat::Elsewhere { ready: false }) => {
                return Answer::Soon("another node is taking the account over".into());
            }
            Some(view::Seat::Opening { ready }) if !ready.contains(account) => {
                self.asked_for(account);
                return Answer::Soon("this node is taking the account over".into());
            }
            Some(view::Seat::Fenced(why)) => return Answer::Soon(why),
            _ => {}
        }
        let Some((active, (name, addresses))) = active.and_then(|node| Some((node, self.nodes.get(&node)?))) else {
            return Answer::Nobody("no node is active for the account".into());
        };
        let is_heard = self
            .said()
            .is_some_and(|said| if active == self.node { said.store_up } else { said.connected.contains(&active) });
        Answer::At(Seat { node: name.clone(), addresses: *addresses, is_doubtful: !is_heard })
    }

    fn health(&self) -> Health {
        let (active_groups, replica_groups) = {
            let view = self.view.read();
            let groups = view.placement.groups();
            let serves = |group: &&crate::config::placement::Group| match view.seats.get(&group.id) {
                None => group.active == self.node,
                Some(seat) => matches!(seat, view::Seat::Serving | view::Seat::Opening { .. }),
            };
            (
                groups.iter().filter(serves).count(),
                groups.iter().filter(|group| group.replicas.contains(&self.node)).count(),
            )
        };
        let said = self.said();
        let standing = match &said {
            None => Standing::Down("the agent's event loop does not answer".into()),
            Some(said) => match &said.journal_failed {
                Some(why) => Standing::Down(format!("the journal has failed: {why}")),
                None if !said.store_up => Standing::Down("the store does not run".into()),
                None if active_groups == 0 => Standing::Draining,
                None => Standing::Serving { percent: 100 },
            },
        };
        Health {
            node: self.name.clone(),
            standing,
            active_groups,
            replica_groups,
            lag_s: said.and_then(|said| said.lag_ns).map(seconds),
            parked_accounts: self.board.lock().parked.len(),
        }
    }
}

impl Core {
    /// Says what routing needs, once a second.
    pub(super) fn say(&mut self) {
        let board = Arc::clone(&self.board);
        let mut board = board.lock();
        let mut lag_ns = Some(0);
        for group in self.view.read().placement.groups() {
            if !group.replicas.contains(&self.node) {
                continue;
            }
            let received = self.receiver.positions(group.id).map_or(0, |at| at.received.0);
            let applied = board.applied.get(&group.id).copied().unwrap_or(0);
            let is_connected = self.links.contains_key(&group.active);
            let behind = self.lagging.entry(group.id).or_default();
            behind.observe(is_connected, received, applied, self.now);
            lag_ns = lag_ns.zip(behind.lag_ns(self.now)).map(|(most, of)| most.max(of));
        }
        board.said = Said {
            at: self.now,
            store_up: self.probes.store_pid.is_some(),
            journal_failed: self.journal.stats().failed.as_ref().map(ToString::to_string),
            connected: self.links.keys().copied().filter(|peer| !self.has_no_store(*peer)).collect(),
            lag_ns,
        };
    }
}

impl Core {
    /// The peer's own word: its store does not run.
    fn has_no_store(&self, peer: NodeId) -> bool {
        self.beats.word(peer).is_some_and(|word| word.beat.state == NodeState::StoreDown)
    }
}

/// By group.
pub(crate) type Laggings = HashMap<GroupId, Lagging>;

/// For how long a group's store here has not had all that its active node had: what had been received at some time and
/// is applied now is how old the copy is at most. Pure.
#[derive(Debug, Default)]
pub(crate) struct Lagging {
    /// The copy was whole then.
    whole_at: Option<MonoNs>,
    /// Positions that were received then, and are not applied.
    received: VecDeque<(MonoNs, u64)>,
}

impl Lagging {
    fn observe(&mut self, is_connected: bool, received: u64, applied: u64, now: MonoNs) {
        // Without its active node nothing new would be received, and that does not make a copy whole.
        let is_new = self.received.back().is_none_or(|(_, last)| *last < received);
        if is_connected && applied >= received {
            self.received.clear();
            self.whole_at = Some(now);
            return;
        }
        while let Some((at, position)) = self.received.front().copied()
            && position <= applied
        {
            self.whole_at = Some(at);
            self.received.pop_front();
        }
        if is_connected && is_new && self.received.len() < LAG_SAMPLES_MAX {
            self.received.push_back((now, received));
        }
    }

    fn lag_ns(&self, now: MonoNs) -> Option<u64> {
        self.whole_at.map(|at| now.since_ns(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn lag_s(lagging: &mut Lagging, second: u64, is_connected: bool, received: u64, applied: u64) -> Option<u64> {
        lagging.observe(is_connected, received, applied, MonoNs(second * S));
        lagging.lag_ns(MonoNs(second * S)).map(|ns| ns / S)
    }

    #[test]
    fn the_lag_is_the_age_of_what_is_applied() {
        let mut group = Lagging::default();
        assert_eq!(lag_s(&mut group, 1, false, 0, 0), None, "nobody said what there is");
        assert_eq!(lag_s(&mut group, 2, true, 5, 0), None);
        assert_eq!(lag_s(&mut group, 3, true, 9, 2), None);
        assert_eq!(lag_s(&mut group, 4, true, 20, 5), Some(2), "what was there at 2 is applied");
        assert_eq!(lag_s(&mut group, 5, true, 30, 19), Some(2), "at 3");
        assert_eq!(lag_s(&mut group, 6, true, 40, 29), Some(2), "at 4: a steady stream never gets whole");
        assert_eq!(lag_s(&mut group, 7, true, 40, 40), Some(0));
        assert_eq!(lag_s(&mut group, 9, false, 40, 40), Some(2), "the active node may have gone on");
        assert_eq!(lag_s(&mut group, 10, true, 40, 40), Some(0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut group = Lagging::default();
        assert_eq!(lag_s(&mut group, 0, true, 0, 0), Some(0));
        for second in 1..5_000 {
            assert_eq!(lag_s(&mut group, second, true, second, 0), Some(second));
        }
        assert!(group.received.len() <= LAG_SAMPLES_MAX);
    }
}
