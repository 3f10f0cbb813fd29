//! A tiny world: deciders with drifting clocks, a coordinator with delays and lost answers, stores and replicas of a kind.
//!
//! Owns: what must always hold ([`World::check`]). What can hurt: a fault that the world cannot have; it has requests that are
//! done long after nobody waits for them any more, answers that are lost, watches that fall silent, frozen nodes whose store
//! goes on until its time ends, agents that die and forget. Refuses: real time; a seed gives the same run.

use std::collections::{BTreeMap, BTreeSet};

use super::super::decide::Decider;
use super::super::*;
use super::{MS, id, settings};
use crate::coordinator::record::{Cause, Name};

/// Small, seeded, good enough.
pub(super) struct Rng(u64);

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
enum Event {
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

type TxnWrite = (Name, Option<Record>, Option<u64>);

#[derive(Clone, Debug)]
pub(super) enum Fault {
    CutCoordinator {
        node: usize,
        heal: bool,
    },
    CutPeers {
        a: usize,
        b: usize,
        heal: bool,
    },
    CoordinatorDown {
        heal: bool,
    },
    Slow {
        delay_ns: u64,
    },
    Unsure {
        one_in: u64,
    },
    Freeze {
        node: usize,
        ns: u64,
    },
    /// The agent dies; the store goes on.
    KillAgent {
        node: usize,
    },
    /// The machine dies.
    Crash {
        node: usize,
    },
    Start {
        node: usize,
    },
    Store {
        node: usize,
        good: bool,
    },
    Lag {
        node: usize,
        on: bool,
    },
    Order {
        node: usize,
        order: Order,
    },
}

pub(super) struct Node {
    pub(super) decider: Decider,
    pub(super) set: Settings,
    run: u32,
    pub(super) agent: bool,
    machine: bool,
    frozen_until: u64,
    ppm: i64,
    offset: u64,
    pub(super) desired: BTreeMap<GroupId, Desired>,
    pub(super) write_until: u64,
    pub(super) logs: BTreeMap<GroupId, Vec<Op>>,
    /// What the journal has of them.
    journaled: BTreeMap<GroupId, usize>,
    acked: BTreeMap<(GroupId, usize), usize>,
    epochs: BTreeMap<GroupId, u64>,
    /// Up to where clients were told, by group and epoch.
    told: BTreeMap<(GroupId, u64), usize>,
    store_bad_since: Option<u64>,
    lags: bool,
    heard: bool,
    cut: bool,
    stream: u32,
    stream_free: u64,
    stopped: bool,
    pub(super) kicks: BTreeMap<GroupId, u32>,
    pub(super) said: Vec<Said>,
    pub(super) replies: BTreeMap<u64, Result<String, String>>,
    pub(super) fences: u32,
    pub(super) demotions: u32,
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) rng: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    serial: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) keys: BTreeMap<Name, (Record, u64)>,
    pub(super) revision: u64,
    down: bool,
    delay_ns: u64,
    unsure_one_in: u64,
    peers_cut: BTreeSet<(usize, usize)>,
    pub(super) acked: BTreeMap<GroupId, BTreeSet<Op>>,
    served: BTreeMap<GroupId, (u64, u16)>,
    pub(super) trace: Vec<String>,
    pub(super) traced: bool,
    /// Bugs that are planted to see that the checks find them.
    pub(super) loads: bool,
    pub(super) promotions: u32,
    pub(super) switchovers: u32,
    pub(super) broken: Option<String>,
    pub(super) fence_ok: bool,
}

const TURN_NS: u64 = 20 * MS;

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

    fn at(&mut self, when: u64, event: Event) {
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

    fn start(&mut self, node: usize) {
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

    fn fails(&mut self, text: String) {
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
        let mut say = |world: &mut Self, when: u64, answer: Answer| {
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

    fn post(&mut self, from: usize, peer: NodeId, input: Input) {
        let to = usize::from(peer.get()) - 1;
        if to < self.nodes.len() && self.linked(from, to) {
            let (run, delay) = (self.nodes[to].run, self.delay());
            self.at(self.now + delay, Event::Told { node: to, run, input });
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.note(format!("{fault:?}"));
        match fault {
            Fault::CutCoordinator { node, heal } => {
                if !heal && !self.nodes[node].cut {
                    self.nodes[node].cut = true;
                    self.silence(node);
                } else if heal {
                    self.nodes[node].cut = false;
                }
            }
            Fault::CoordinatorDown { heal } => {
                if !heal && !self.down {
                    self.down = true;
                    (0..self.nodes.len()).for_each(|node| self.silence(node));
                } else if heal {
                    self.down = false;
                }
            }
            Fault::CutPeers { a, b, heal } => {
                let pair = (a.min(b), a.max(b));
                if heal {
                    self.peers_cut.remove(&pair)
                } else {
                    self.peers_cut.insert(pair)
                };
            }
            Fault::Slow { delay_ns } => self.delay_ns = delay_ns,
            Fault::Unsure { one_in } => self.unsure_one_in = one_in,
            Fault::Freeze { node, ns } => self.nodes[node].frozen_until = self.now + ns,
            Fault::KillAgent { node } => self.nodes[node].agent = false,
            Fault::Crash { node } => {
                (self.nodes[node].agent, self.nodes[node].machine) = (false, false);
                // What was not journaled is gone, and with it nothing that was acknowledged.
                let Node { logs, journaled, .. } = &mut self.nodes[node];
                for (group, log) in logs {
                    log.truncate(journaled.get(group).copied().unwrap_or(0));
                }
            }
            Fault::Start { node } => {
                if !self.nodes[node].agent || self.nodes[node].stopped {
                    self.start(node);
                }
            }
            Fault::Store { node, good } => self.nodes[node].store_bad_since = (!good).then_some(self.now),
            Fault::Lag { node, on } => self.nodes[node].lags = on,
            Fault::Order { node, order } => {
                if self.nodes[node].agent && self.nodes[node].frozen_until <= self.now {
                    let wall_ns = self.now;
                    let id = self.serial;
                    self.tell(node, Input::Order { id, order, wall_ns });
                }
            }
        }
    }

    /// The stream of changes to a node falls silent, and some time later the node hears that it is lost.
    fn silence(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        n.stream += 1;
        n.heard = false;
        let (run, stream) = (n.run, n.stream);
        let after = self.rng.below(3_000 * MS);
        let input = Input::Lost { reason: "silent".to_owned() };
        self.at(self.now + after, Event::Streamed { node, run, stream, input });
    }
}

pub(super) fn placed(group: u32, nodes: u16) -> Placed {
    let first = u16::try_from(group % u32::from(nodes)).expect("small");
    let order: Vec<NodeId> = (0..nodes.min(3)).map(|n| id((first + n) % nodes + 1)).collect();
    Placed { group: GroupId(group), active: order[0], replicas: order[1..].to_vec() }
}

/// The event loops, as far as the decider sees them.
impl World {
    fn desire(&mut self, node: usize, desired: Desired) {
        let group = desired.group;
        let n = &mut self.nodes[node];
        let before = n.desired.get(&group).map(|desired| desired.role);
        if before == Some(Role::Serve) && desired.role == Role::Fenced && !desired.hold {
            n.demotions += 1;
        }
        let epoch = n.epochs.entry(group).or_default();
        *epoch = (*epoch).max(desired.record.epoch);
        if n.desired.get(&group).is_some_and(|last| last.record.epoch != desired.record.epoch) {
            n.acked.retain(|(of, _), _| *of != group);
        }
        let first = desired.role == Role::Serve
            && self.served.get(&group).is_none_or(|(epoch, _)| *epoch < desired.record.epoch);
        if first {
            // Whoever serves an epoch first has everything that was acknowledged in those before.
            let log: BTreeSet<Op> = n.logs.get(&group).into_iter().flatten().copied().collect();
            let lost = self.acked.get(&group).is_some_and(|acked| !acked.is_subset(&log));
            self.served.insert(group, (desired.record.epoch, desired.record.active));
            if lost {
                self.fails(format!("group {group}: node {} serves and lacks acknowledged operations", node + 1));
            }
        }
        self.nodes[node].desired.insert(group, desired);
    }

    /// Whether a node's store may change a group's mail now: also while its agent is frozen or dead.
    pub(super) fn writes(&self, node: usize, group: GroupId) -> bool {
        let n = &self.nodes[node];
        let serves = n.desired.get(&group).is_some_and(|desired| desired.role == Role::Serve);
        n.machine && serves && self.clock(node).0 < n.write_until
    }

    /// What must hold at every moment.
    fn check(&mut self) {
        let groups: BTreeSet<GroupId> = self.nodes.iter().flat_map(|n| n.desired.keys().copied()).collect();
        for group in groups {
            let writers: Vec<usize> = (0..self.nodes.len()).filter(|node| self.writes(*node, group)).collect();
            if writers.len() > 1 {
                self.fails(format!("group {group}: nodes {writers:?} (+1) may write at one time"));
            }
        }
    }

    fn check_in_sync(&mut self, group: GroupId) {
        let Some(record) = self.record(group.0).cloned() else { return };
        let Some(acked) = self.acked.get(&group) else { return };
        let served = self.served.get(&group).is_some_and(|(epoch, _)| *epoch == record.epoch);
        for node in record.in_sync().chain(record.active().filter(|_| served)) {
            let log = self.nodes[usize::from(node.get()) - 1].logs.get(&group);
            let log: BTreeSet<Op> = log.into_iter().flatten().copied().collect();
            if !acked.is_subset(&log) {
                self.fails(format!(
                    "group {group}: node {node} is active or in sync and lacks acknowledged operations"
                ));
                return;
            }
        }
    }

    fn turn(&mut self, node: usize) {
        let wall_ns = self.now;
        let store = self.nodes[node].store_bad_since.is_none().then(|| self.clock(node));
        if store.is_some() || self.rng.one_in(5) {
            let why = if store.is_some() { "" } else { "disk hangs" };
            self.tell(node, Input::Store { good_at: store, why: why.to_owned() });
        }
        if self.rng.one_in(10) {
            self.canaries(node);
        }
        self.tell(node, Input::Tick { wall_ns });
        let groups: Vec<GroupId> = self.nodes[node].desired.keys().copied().collect();
        for group in groups {
            self.work(node, group);
            if self.rng.one_in(10) {
                self.check_in_sync(group);
            }
        }
        if self.nodes[node].stopped {
            self.nodes[node].agent = false;
        }
    }

    /// What the node sees of the others' services, told to all.
    fn canaries(&mut self, node: usize) {
        let by = self.nodes[node].set.node;
        for of in (0..self.nodes.len()).filter(|of| *of != node) {
            let since = self.nodes[of].store_bad_since;
            let failing_ns = since.map_or(0, |since| self.now - since);
            let why = "login times out".to_owned();
            let input = Input::Observed { by, of: self.nodes[of].set.node, failing_ns, healthy: true, why };
            self.tell(node, input.clone());
            for peer in (0..self.nodes.len()).filter(|peer| *peer != node).collect::<Vec<_>>() {
                self.post(node, self.nodes[peer].set.node, input.clone());
            }
        }
    }

    fn work(&mut self, node: usize, group: GroupId) {
        let Some(desired) = self.nodes[node].desired.get(&group).cloned() else { return };
        let epoch = desired.record.epoch;
        let active = matches!(desired.role, Role::Serve | Role::Fenced);
        // The journal is one turn behind what was captured.
        let length = self.nodes[node].logs.entry(group).or_default().len();
        self.nodes[node].journaled.insert(group, length);
        let mut replicas = Vec::new();
        if active {
            for replica in desired.record.replicas() {
                let other = usize::from(replica.get()) - 1;
                if let Some(stands) = self.ship(node, other, group, epoch) {
                    replicas.push(stands);
                }
            }
            self.acknowledge(node, group, &desired);
            if self.loads
                && self.nodes[node].store_bad_since.is_none()
                && self.writes(node, group)
                && self.rng.one_in(5)
            {
                for _ in 0..=self.rng.below(3) {
                    self.serial += 1;
                    let op = (epoch, self.serial);
                    self.nodes[node].logs.entry(group).or_default().push(op);
                }
            }
        }
        let n = &self.nodes[node];
        let (log, journaled) = (&n.logs[&group], n.journaled[&group]);
        let stands = Stands {
            group,
            epoch: Epoch(epoch),
            role: desired.role,
            ready: true,
            quiet: log.len() == journaled,
            captured: Sequence(log.len() as u64),
            journaled: Sequence(journaled as u64),
            applied: Sequence(journaled as u64),
            hash: String::new(),
            tail_epoch: Epoch(log[..journaled].last().map_or(0, |op| op.0)),
            complete: true,
            parked: 0,
            replicas,
            desired: desired.number,
        };
        self.tell(node, Input::Stands(stands));
    }

    /// Sends a replica what it lacks; gives how it stands for the active.
    fn ship(&mut self, node: usize, other: usize, group: GroupId, epoch: u64) -> Option<ReplicaStands> {
        let replica = &self.nodes[other];
        let me = self.nodes[node].set.node;
        let follows = replica.desired.get(&group).is_some_and(|desired| {
            desired.role == Role::Follow && desired.record.active() == Some(me) && desired.record.epoch == epoch
        });
        let fenced = replica.epochs.get(&group).is_some_and(|highest| *highest > epoch);
        if !self.linked(node, other) || replica.frozen_until > self.now || replica.stopped || !follows || fenced {
            self.nodes[node].acked.remove(&(group, other));
            return None;
        }
        let journaled = self.nodes[node].journaled[&group];
        // Positions that the active heard of a turn ago.
        let heard = self.nodes[node].acked.get(&(group, other)).copied();
        let mut theirs = self.nodes[other].logs.remove(&group).unwrap_or_default();
        let log = &self.nodes[node].logs[&group][..journaled];
        // Operations are unique: where one stands alike, all before it do.
        let from = heard.filter(|at| *at > 0 && theirs.get(at - 1) == log.get(at - 1)).unwrap_or(0);
        let alike =
            |theirs: &[Op]| from + theirs[from..].iter().zip(log.iter().skip(from)).take_while(|(a, b)| a == b).count();
        let mut common = alike(&theirs);
        if !self.nodes[other].lags {
            let count = 1 + usize::try_from(self.rng.below(8)).expect("small");
            theirs.truncate(common);
            theirs.extend(log.iter().skip(common).take(count));
            common = theirs.len();
            self.nodes[other].journaled.insert(group, common);
        }
        self.nodes[other].logs.insert(group, theirs);
        self.nodes[node].acked.insert((group, other), common);
        let acked = Sequence(heard.unwrap_or(0) as u64);
        let complete = heard.is_some();
        Some(ReplicaStands { node: self.nodes[other].set.node, streaming: true, complete, acked, applied: acked })
    }

    /// Tells clients that what all required replicas have is safe.
    fn acknowledge(&mut self, node: usize, group: GroupId, desired: &Desired) {
        let n = &self.nodes[node];
        let acked = |node: &NodeId| n.acked.get(&(group, usize::from(node.get()) - 1)).copied().unwrap_or(0);
        let safe = desired.required.iter().map(acked).min().unwrap_or(usize::MAX).min(n.journaled[&group]);
        let forced = |record: &GroupRecord| record.cause == Cause::Forced && record.epoch > desired.record.epoch;
        if self.record(group.0).is_some_and(forced) {
            return;
        }
        // Only this epoch's own: what came before was acknowledged, or not, by whoever was active then.
        let epoch = desired.record.epoch;
        let from = self.nodes[node].told.get(&(group, epoch)).copied().unwrap_or(0);
        let ops = self.nodes[node].logs[&group][from.min(safe)..safe].to_vec();
        self.nodes[node].told.insert((group, epoch), safe.max(from));
        self.acked.entry(group).or_default().extend(ops.into_iter().filter(|op| op.0 == epoch));
    }

    /// Nodes that serve a group, by their own belief and right.
    pub(super) fn servers(&self, group: u32) -> Vec<u16> {
        let serves = |node: &usize| self.nodes[*node].agent && self.writes(*node, GroupId(group));
        (0..self.nodes.len()).filter(serves).map(|node| self.nodes[node].set.node.get()).collect()
    }
}
