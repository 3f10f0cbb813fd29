//! What can go wrong in a run of chaos, and the seeded order in which it does.
//!
//! Owns: the kinds of events and the bound of what is wrong at one time: one node, or one node and one service.
//! Refuses: doing anything; the same seed gives the same events on any machine.

use anyhow::{Result, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// How long something stays wrong, in milliseconds.
const HOLD_MS: std::ops::Range<u64> = 2_000..9_000;
/// Every so many-th event of a node has one of a service in the middle of it.
const OVERLAP_ONE_OF: u32 = 5;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    KillAgent,
    KillStore,
    KillMachine,
    FreezeAgent,
    FreezeStore,
    FreezeMachine,
    /// From everybody.
    Cut,
    /// From one other node.
    CutOne,
    /// What it sends is lost.
    CutOut,
    /// What it is sent is lost.
    CutIn,
    /// A long and leaky cable.
    Delay,
    DiskHang,
    DiskFull,
    DiskReadonly,
    DiskEio,
    EtcdStop,
    EtcdFreeze,
    NginxKill,
    PostfixKill,
    /// Central storage cannot be reached.
    BlobsGone,
}

impl Kind {
    pub(super) const NODE: [Self; 15] = [
        Self::KillAgent,
        Self::KillStore,
        Self::KillMachine,
        Self::FreezeAgent,
        Self::FreezeStore,
        Self::FreezeMachine,
        Self::Cut,
        Self::CutOne,
        Self::CutOut,
        Self::CutIn,
        Self::Delay,
        Self::DiskHang,
        Self::DiskFull,
        Self::DiskReadonly,
        Self::DiskEio,
    ];
    pub(super) const SERVICE: [Self; 5] =
        [Self::EtcdStop, Self::EtcdFreeze, Self::NginxKill, Self::PostfixKill, Self::BlobsGone];

    pub(super) fn of_node(self) -> bool {
        Self::NODE.contains(&self)
    }

    /// As people write it.
    pub(super) fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Event {
    pub(super) kind: Kind,
    /// From 1; 0 for a service.
    pub(super) node: usize,
    /// Whom it is cut off from.
    pub(super) other: usize,
    pub(super) hold_ms: u64,
    /// A service that goes wrong in the middle of it, and is well again before it.
    pub(super) with: Option<Kind>,
}

impl Event {
    /// For people.
    pub(super) fn text(&self) -> String {
        let with = self.with.map_or(String::new(), |kind| format!(" with {}", kind.name()));
        match (self.kind, self.kind.of_node()) {
            (Kind::CutOne, _) => format!("cut-one:{}:{}{with}", self.node, self.other),
            (kind, true) => format!("{}:{}{with}", kind.name(), self.node),
            (kind, false) => kind.name(),
        }
    }

    /// Reads `KIND`, `KIND:NODE` or `KIND:NODE:OTHER`, with what is not said taken from `random`.
    pub(super) fn parse(text: &str, random: &mut Schedule) -> Result<Self> {
        let mut words = text.split(':');
        let name = words.next().unwrap_or_default();
        let mut all = Kind::NODE.into_iter().chain(Kind::SERVICE);
        let Some(kind) = all.find(|kind| kind.name() == name) else {
            let names: Vec<String> = Kind::NODE.into_iter().chain(Kind::SERVICE).map(Kind::name).collect();
            bail!("there is no event `{name}`; there are: {}", names.join(", "));
        };
        let mut event = random.of(kind);
        event.with = None;
        if let Some(node) = words.next() {
            event.node = node.parse()?;
            event.other = event.node % random.nodes + 1;
        }
        if let Some(other) = words.next() {
            event.other = other.parse()?;
        }
        let bound = |node: usize| (1..=random.nodes).contains(&node);
        anyhow::ensure!(!kind.of_node() || bound(event.node) && bound(event.other), "`{text}`: no such node");
        Ok(event)
    }
}

/// Events without end, in an order that follows from a seed.
pub(super) struct Schedule {
    random: StdRng,
    nodes: usize,
    /// Kinds that this host cannot do.
    without: Vec<Kind>,
    /// What has not had its turn: every kind comes once before one comes again.
    left: Vec<Kind>,
}

impl Schedule {
    pub(super) fn new(seed: u64, nodes: usize, without: Vec<Kind>) -> Self {
        Self { random: StdRng::seed_from_u64(seed), nodes, without, left: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Event {
        if self.left.is_empty() {
            let all = Kind::NODE.into_iter().chain(Kind::SERVICE);
            self.left = all.filter(|kind| !self.without.contains(kind)).collect();
        }
        let nth = self.random.random_range(0..self.left.len());
        let kind = self.left.swap_remove(nth);
        self.of(kind)
    }

    fn of(&mut self, kind: Kind) -> Event {
        let node = self.random.random_range(1..=self.nodes);
        let other = (node - 1 + self.random.random_range(1..self.nodes)) % self.nodes + 1;
        let hold_ms = self.random.random_range(HOLD_MS);
        let service = Kind::SERVICE[self.random.random_range(0..Kind::SERVICE.len())];
        let both = self.random.random_ratio(1, OVERLAP_ONE_OF) && kind.of_node();
        Event { kind, node: if kind.of_node() { node } else { 0 }, other, hold_ms, with: both.then_some(service) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, count: usize) -> Vec<Event> {
        let mut schedule = Schedule::new(seed, 3, vec![Kind::DiskEio]);
        (0..count).map(|_| schedule.next()).collect()
    }

    #[test]
    fn a_seed_says_all() {
        assert_eq!(first(7, 60), first(7, 60));
        assert_ne!(first(7, 60), first(8, 60));
    }

    #[test]
    fn never_more_is_wrong_than_one_node_and_one_service() {
        let events = first(3, 190);
        assert!(events.iter().all(|e| e.with.is_none_or(|with| e.kind.of_node() && !with.of_node())));
        assert!(events.iter().all(|e| e.node != e.other && e.node <= 3 && (1..=3).contains(&e.other)));
        assert!(events.iter().any(|e| e.with.is_some()) && events.iter().all(|e| e.kind != Kind::DiskEio));
        // Every kind has its turn before one comes again.
        let mut kinds: Vec<Kind> = events[..19].iter().map(|e| e.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 19);
    }

    #[test]
    fn events_are_read_as_they_are_written() {
        let mut schedule = Schedule::new(1, 3, Vec::new());
        for text in ["kill-machine:2", "cut-one:1:3", "etcd-freeze"] {
            assert_eq!(Event::parse(text, &mut schedule).expect("known").text(), text);
        }
        assert!(Event::parse("kill-agent:4", &mut schedule).is_err());
        let error = Event::parse("sing", &mut schedule).expect_err("unknown").to_string();
        assert!(error.contains("blobs-gone"), "{error}");
    }
}
