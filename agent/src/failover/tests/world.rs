//! A tiny world: deciders with drifting clocks, a coordinator with delays and lost answers, stores and replicas of a
//! kind.
//!
//! Owns: what must always hold ([`World::check`]). What can hurt: a fault that the world cannot have; it has requests
//! that are done long after nobody waits for them any more, answers that are lost, watches that fall silent, frozen
//! nodes whose store goes on until its time ends, agents that die and forget. Refuses: real time; a seed gives the same
//! run.

use std::collections::{BTreeMap, BTreeSet};

use super::super::decide::Decider;
use super::super::*;
use super::faults::Fault;
use super::{MS, id, settings};
use crate::coordinator::record::{Cause, Name};

/// Small, seeded, good enough.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One operation of a group: epoch and a number that no other has.
pub(super) type Op = (u64, u64);

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The node's event loop looks at its times, ships and acknowledges.
    Turn {
        node: usize,
        run: u32,
    },
    /// A transaction reaches the coordinator.
    Arrives {
        node: usize,
        run: u32,
        id: u64,
        expect: Vec<(Name, u64)>,
        write: Vec<TxnWrite>,
        sent: u64,
        tell: bool,
    },
    /// For the decider, whatever the coordinator or a peer said.
    Told {
        node: usize,
        run: u32,
        input: Input,
    },
    /// In the order of the coordinator's stream to the node.
    Streamed {
        node: usize,
        run: u32,
        stream: u32,
        input: Input,
    },
    Snapshot {
        node: usize,
        run: u32,
        stream: u32,
    },
    Fault(Fault),
}

pub(super) type TxnWrite = (Name, Option<Record>, Option<u64>);

pub(super) struct Node {
    pub(super) decider: Decider,
    pub(super) set: Settings,
    pub(super) run: u32,
    pub(super) agent: bool,
    pub(super) machine: bool,
    pub(super) frozen_until: u64,
    pub(super) ppm: i64,
    pub(super) offset: u64,
    pub(super) desired: BTreeMap<GroupId, Desired>,
    pub(super) write_until: u64,
    pub(super) logs: BTreeMap<GroupId, Vec<Op>>,
    /// What the journal has of them.
    pub(super) journaled: BTreeMap<GroupId, usize>,
    pub(super) acked: BTreeMap<(GroupId, usize), usize>,
    pub(super) epochs: BTreeMap<GroupId, u64>,
    /// Up to where clients were told, by group and epoch.
    pub(super) told: BTreeMap<(GroupId, u64), usize>,
    pub(super) store_bad_since: Option<u64>,
    pub(super) lags: bool,
    pub(super) heard: bool,
    pub(super) cut: bool,
    pub(super) stream: u32,
    pub(super) stream_free: u64,
    pub(super) stopped: bool,
    pub(super) kicks: BTreeMap<GroupId, u32>,
    pub(super) said: Vec<Said>,
    pub(super) replies: BTreeMap<u64, Result<String, String>>,
    pub(super) fences: u32,
    pub(super) demotions: u32,
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) queue: BTreeMap<(u64, u64), Event>,
    pub(super) serial: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) keys: BTreeMap<Name, (Record, u64)>,
    pub(super) revision: u64,
    pub(super) down: bool,
    pub(super) delay_ns: u64,
    pub(super) unsure_one_in: u64,
    pub(super) peers_cut: BTreeSet<(usize, usize)>,
    pub(super) acked: BTreeMap<GroupId, BTreeSet<Op>>,
    pub(super) served: BTreeMap<GroupId, (u64, u16)>,
    pub(super) trace: Vec<String>,
    pub(super) traced: bool,
    pub(super) loads: bool,
    pub(super) promotions: u32,
    pub(super) switchovers: u32,
    pub(super) broken: Option<String>,
    pub(super) fence_ok: bool,
}

pub(super) const TURN_NS: u64 = 20 * MS;

impl World {
    /// `groups` groups over `nodes` nodes, each group with two replicas or as many as there are.
    pub(super) fn new(seed: u64, nodes: u16, groups: u32, shape: impl Fn(&mut Settings)) -> Self {
        let mut world = Self {
            now: 1_000 * MS,
            rng: Rng(seed),
            queue: BTreeMap::new(),
            serial: 0,
            nodes: Vec::new(),
            keys: BTreeMap::new(),
            revision: 0,
            down: false,
            delay_ns: 2 * MS,
            unsure_one_in: 0,
            peers_cut: BTreeSet::new(),
            acked: BTreeMap::new(),
            served: BTreeMap::new(),
            trace: Vec::new(),
            traced: false,
            loads: true,
            promotions: 0,
            switchovers: 0,
            broken: None,
            fence_ok: true,
        };
        for n in 1..=nodes {
            let mut set = settings(n);
            set.placement = (0..groups).map(|g| placed(g, nodes)).collect();
            shape(&mut set);
            let ppm = i64::try_from(world.rng.below(9_801)).expect("small") - 4_900;
            let offset = world.rng.below(1_000_000 * MS);
            world.nodes.push(Node {
                decider: Decider::new(set.clone(), BootNs(0)),
                set,
                run: 0,
                agent: false,
                machine: true,
                frozen_until: 0,
                ppm,
                offset,
                desired: BTreeMap::new(),
                write_until: 0,
                logs: BTreeMap::new(),
                journaled: BTreeMap::new(),
                acked: BTreeMap::new(),
                epochs: BTreeMap::new(),
                told: BTreeMap::new(),
                store_bad_since: None,
                lags: false,
                heard: false,
                cut: false,
                stream: 0,
                stream_free: 0,
                stopped: false,
                kicks: BTreeMap::new(),
                said: Vec::new(),
                replies: BTreeMap::new(),
                fences: 0,
                demotions: 0,
            });
            world.start(usize::from(n) - 1);
        }
        world
    }

    pub(super) fn at(&mut self, when: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((when.max(self.now), self.serial), event);
    }

    pub(super) fn fault_in(&mut self, ns: u64, fault: Fault) {
        self.at(self.now + ns, Event::Fault(fault));
    }

    pub(super) fn clock(&self, node: usize) -> BootNs {
        let n = &self.nodes[node];
        let run = i128::from(self.now) * i128::from(1_000_000 + n.ppm) / 1_000_000;
        BootNs(n.offset + u64::try_from(run).expect("positive"))
    }

    fn delay(&mut self) -> u64 {
        let base = self.delay_ns / 2;
        base / 2 + self.rng.below(base.max(1)) + if self.rng.one_in(50) { self.rng.below(20 * base.max(1)) } else { 0 }
    }

    pub(super) fn start(&mut self, node: usize) {
        let now = self.clock(node);
        let n = &mut self.nodes[node];
        n.run += 1;
        n.set.incarnation += 1;
        n.decider = Decider::new(n.set.clone(), now);
        // Nothing is served until the decider says so; the store's time stands in the ring and goes on.
        for desired in n.desired.values_mut() {
            desired.role = Role::None;
        }
        n.desired.clear();
        n.acked.clear();
        (n.agent, n.machine, n.heard, n.stopped, n.frozen_until) = (true, true, false, false, 0);
        n.write_until = 0;
        let run = n.run;
        let skew = self.rng.below(TURN_NS);
        self.at(self.now + skew, Event::Turn { node, run });
        self.stream_anew(node);
    }

    fn stream_anew(&mut self, node: usize) {
        self.nodes[node].stream += 1;
        let (run, stream) = (self.nodes[node].run, self.nodes[node].stream);
        let delay = self.delay();
        self.at(self.now + delay, Event::Snapshot { node, run, stream });
    }

    pub(super) fn run_for(&mut self, ns: u64) {
        let end = self.now + ns;
        while let Some((&key, _)) = self.queue.first_key_value() {
            if key.0 > end || self.broken.is_some() {
                break;
            }
            let event = self.queue.remove(&key).expect("just seen");
            self.now = self.now.max(key.0);
            self.step(event);
            self.check();
        }
        self.now = self.now.max(end);
        self.check();
    }

    fn alive(&self, node: usize, run: u32) -> bool {
        let n = &self.nodes[node];
        n.agent && n.machine && n.run == run && !n.stopped
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Turn { node, run } if self.alive(node, run) => {
                if self.postponed(node, &event) {
                    return;
                }
                self.turn(node);
                self.at(self.now + TURN_NS, Event::Turn { node, run });
            }
            Event::Told { node, run, ref input } if self.alive(node, run) => {
                if !self.postponed(node, &event) {
                    self.tell(node, input.clone());
                }
            }
            Event::Streamed { node, run, stream, ref input } => {
                if !self.alive(node, run) || self.nodes[node].stream != stream || self.postponed(node, &event) {
                    return;
                }
                self.nodes[node].heard = !matches!(input, Input::Lost { .. });
                self.tell(node, input.clone());
                if matches!(input, Input::Lost { .. }) {
                    self.stream_anew(node);
                }
            }
            Event::Snapshot { node, run, stream } => {
                if !self.alive(node, run) || self.nodes[node].stream != stream {
                    return;
                }
                if self.down || self.nodes[node].cut {
                    self.at(self.now + 100 * MS, Event::Snapshot { node, run, stream });
                    return;
                }
                let change = |(name, (record, revision)): (&Name, &(Record, u64))| Change {
                    name: name.clone(),
                    record: Some(record.clone()),
                    revision: *revision,
                };
                let changes = self.keys.iter().map(change).collect();
                self.nodes[node].heard = true;
                self.stream(node, Input::Whole { changes, revision: self.revision });
            }
            Event::Arrives { node, run, id, expect, write, sent, tell } => {
                self.arrives(node, run, id, &expect, write, sent, tell);
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Turn { .. } | Event::Told { .. } => {}
        }
    }

    fn postponed(&mut self, node: usize, event: &Event) -> bool {
        let until = self.nodes[node].frozen_until;
        if until > self.now {
            self.at(until, event.clone());
        }
        until > self.now
    }

    /// What the coordinator says to a node arrives in order.
    fn stream(&mut self, node: usize, input: Input) {
        let when = (self.now + self.delay()).max(self.nodes[node].stream_free);
        self.nodes[node].stream_free = when;
        let (run, stream) = (self.nodes[node].run, self.nodes[node].stream);
        self.at(when, Event::Streamed { node, run, stream, input });
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    fn arrives(
        &mut self,
        node: usize,
        run: u32,
        id: u64,
        expect: &[(Name, u64)],
        write: Vec<TxnWrite>,
        sent: u64,
        tell: bool,
    ) {
        let is = |name: &Name| self.keys.get(name).map_or(0, |(_, revision)| *revision);
        let answer = if expect.iter().all(|(name, revision)| is(name) == *revision) {
            self.revision += 1;
            let revision = self.revision;
            let mut changes = Vec::new();
            for (name, record, _) in write {
                self.judge_write(node, &name, record.as_ref());
                match &record {
                    Some(record) => drop(self.keys.insert(name.clone(), (record.clone(), revision))),
                    None => drop(self.keys.remove(&name)),
                }
                changes.push(Change { name, record, revision });
            }
            for other in 0..self.nodes.len() {
                if self.nodes[other].heard && !self.nodes[other].cut {
                    self.stream(other, Input::Changed { changes: changes.clone() });
                }
            }
            Answer::Done { revision }
        } else {
            Answer::Refused
        };
        if tell && !self.nodes[node].cut && !self.down {
            let delay = self.delay();
            let rtt_ns = self.now + delay - sent;
            self.at(self.now + delay, Event::Told { node, run, input: Input::Answered { id, answer, rtt_ns } });
        }
    }

    pub(super) fn record(&self, group: u32) -> Option<&GroupRecord> {
        match self.keys.get(&Name::Group(GroupId(group))) {
            Some((Record::Group(record), _)) => Some(record),
            _ => None,
        }
    }

    /// What no write of a group's record may do.
    fn judge_write(&mut self, by: usize, name: &Name, record: Option<&Record>) {
        let (Name::Group(group), Some(Record::Group(new))) = (name, record) else { return };
        let Some(old) = self.record(group.0).cloned() else { return };
        if new.active == old.active {
            if new.epoch != old.epoch {
                self.fails(format!("group {group}: epoch {} to {} at one active", old.epoch, new.epoch));
            }
            return;
        }
        self.note(format!("group {group}: node {} -> {} epoch {} {:?}", old.active, new.active, new.epoch, new.cause));
        if new.epoch <= old.epoch {
            self.fails(format!("group {group}: epoch {} after {}", new.epoch, old.epoch));
        }
        if new.replicas.contains(&new.active) || !new.in_sync.iter().all(|node| new.replicas.contains(node)) {
            self.fails(format!("group {group}: {new:?}"));
        }
        match new.cause {
            Cause::Failover => {
                self.promotions += 1;
                if !old.in_sync.contains(&new.active) {
                    self.fails(format!("group {group}: node {} promoted, in sync were {:?}", new.active, old.in_sync));
                }
            }
            Cause::Switchover => {
                self.switchovers += 1;
                let log = |node: u16| self.nodes[usize::from(node) - 1].logs.get(group).cloned().unwrap_or_default();
                let all: BTreeSet<Op> = log(old.active).into_iter().collect();
                let acked = self.acked.get(group).cloned().unwrap_or_default();
                let there = log(old.active) == log(new.active) && acked.is_subset(&all);
                if !there || by != usize::from(old.active) - 1 {
                    self.fails(format!("group {group}: moved by {by} with something left behind"));
                }
            }
            // What the forced node lacks is lost, and said to be.
            Cause::Forced => {
                let log = self.nodes[usize::from(new.active) - 1].logs.get(group).cloned().unwrap_or_default();
                self.acked.entry(*group).or_default().retain(|op| log.contains(op));
            }
            Cause::Placement => self.fails(format!("group {group} placed anew")),
        }
    }

    pub(super) fn fails(&mut self, text: String) {
        if self.broken.is_none() {
            self.broken = Some(format!("at {} ms: {text}", self.now / MS));
        }
    }

    pub(super) fn note(&mut self, text: String) {
        if self.traced {
            self.trace.push(format!("{:>7} {text}", self.now / MS));
        }
    }

    pub(super) fn tell(&mut self, node: usize, input: Input) {
        let now = self.clock(node);
        let actions = self.nodes[node].decider.on(input, now);
        for action in actions {
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::Transact { id, expect, write } => self.send(node, id, expect, write),
            Action::Reread => {
                if self.nodes[node].heard {
                    let (run, stream) = (self.nodes[node].run, self.nodes[node].stream);
                    let delay = self.delay();
                    self.at(self.now + delay, Event::Snapshot { node, run, stream });
                }
            }
            Action::WriteUntil { until } => self.nodes[node].write_until = until.0,
            Action::Desire(desired) => {
                let text = format!("node {}: group {} {:?}: {}", node + 1, desired.group, desired.role, desired.why);
                self.desire(node, desired);
                self.note(text);
            }
            Action::Kick { groups } => {
                for group in groups {
                    *self.nodes[node].kicks.entry(group).or_default() += 1;
                }
            }
            Action::AskPromise { peer, id, groups, duration_ns } => {
                let from = self.nodes[node].set.node;
                self.post(node, peer, Input::PromiseAsked { peer: from, id, groups, duration_ns });
            }
            Action::Promise { peer, id, groups } => {
                let from = self.nodes[node].set.node;
                self.post(node, peer, Input::Promised { peer: from, id, groups });
            }
            Action::AskCandidate { peer, groups } => {
                let from = self.nodes[node].set.node;
                self.post(node, peer, Input::CandidateAsked { peer: from, groups });
            }
            Action::TellCandidate { peer, tails } => {
                let from = self.nodes[node].set.node;
                for (group, tail_epoch, journaled) in tails {
                    self.post(node, peer, Input::Candidate { peer: from, group, tail_epoch, journaled });
                }
            }
            Action::Fence { node: old } => {
                self.nodes[node].fences += 1;
                let (run, ok) = (self.nodes[node].run, self.fence_ok);
                self.at(self.now + 100 * MS, Event::Told { node, run, input: Input::FenceDone { node: old, ok } });
            }
            Action::Say(said) => {
                self.note(format!("node {}: {} {:?}: {}", node + 1, said.rule, said.group.map(|g| g.0), said.text));
                self.nodes[node].said.push(said);
            }
            Action::Reply { id, result } => drop(self.nodes[node].replies.insert(id, result)),
            Action::Stopped => self.nodes[node].stopped = true,
        }
    }

    fn send(&mut self, node: usize, id: u64, expect: Vec<(Name, u64)>, write: Vec<TxnWrite>) {
        let (run, sent, delay) = (self.nodes[node].run, self.now, self.delay());
        let timeout = self.now + 700 * MS;
        let say = |world: &mut Self, when: u64, answer: Answer| {
            let rtt_ns = when - sent;
            world.at(when, Event::Told { node, run, input: Input::Answered { id, answer, rtt_ns } });
        };
        if self.nodes[node].cut || self.down {
            // It did not go out, or nobody knows; in the worst case it is done much later.
            match self.rng.below(3) {
                0 => say(self, self.now + delay, Answer::Unreachable),
                1 => say(self, timeout, Answer::Unknown),
                _ => {
                    let late = self.now + self.rng.below(3_000 * MS);
                    self.at(late, Event::Arrives { node, run, id, expect, write, sent, tell: false });
                    say(self, timeout, Answer::Unknown);
                }
            }
            return;
        }
        let unsure = self.unsure_one_in > 0 && self.rng.one_in(self.unsure_one_in);
        if unsure {
            if self.rng.one_in(2) {
                let late = self.now + if self.rng.one_in(2) { delay } else { self.rng.below(3_000 * MS) };
                self.at(late, Event::Arrives { node, run, id, expect, write, sent, tell: false });
            }
            say(self, timeout, Answer::Unknown);
            return;
        }
        self.at(self.now + delay, Event::Arrives { node, run, id, expect, write, sent, tell: true });
    }

    pub(super) fn linked(&self, a: usize, b: usize) -> bool {
        let reach = |n: &Node| n.agent && n.machine;
        !self.peers_cut.contains(&(a.min(b), a.max(b))) && reach(&self.nodes[a]) && reach(&self.nodes[b])
    }

    pub(super) fn post(&mut self, from: usize, peer: NodeId, input: Input) {
        let to = usize::from(peer.get()) - 1;
        if to < self.nodes.len() && self.linked(from, to) {
            let (run, delay) = (self.nodes[to].run, self.delay());
            self.at(self.now + delay, Event::Told { node: to, run, input });
        }
    }
}

pub(super) fn placed(group: u32, nodes: u16) -> Placed {
    let first = u16::try_from(group % u32::from(nodes)).expect("small");
    let order: Vec<NodeId> = (0..nodes.min(3)).map(|n| id((first + n) % nodes + 1)).collect();
    Placed { group: GroupId(group), active: order[0], replicas: order[1..].to_vec() }
}
