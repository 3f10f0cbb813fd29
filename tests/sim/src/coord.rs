//! A coordinator and the nodes' clients of it: transactions by compare-and-swap, watches with delay, and silence.
//!
//! Owns: the keys with their revisions, requests that are under way, and what each client has told its node. What can
//! hurt: a coordinator that is kinder than etcd; so a request that was given up may be done later, an answer may be
//! lost after the change was made (`Unknown`), a watch may be behind an answer, and after a silence everything is told
//! anew. Refuses: meaning; values are records, and nobody here looks into them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use understudy_agent::coordinator::record::Name;
use understudy_agent::failover::{Answer, Change, Input, Record};
use understudy_agent::limits::{COORDINATOR_GRACE_MS, COORDINATOR_TIMEOUT_MS};
use understudy_types::id::NodeId;

use crate::event::Event;
use crate::queue::Queue;
use crate::random::Random;

/// Key, value, time to live in milliseconds.
pub type Write = (Name, Option<Record>, Option<u64>);

/// A transaction on its way.
#[derive(Clone, Debug)]
pub struct Request {
    pub node: NodeId,
    pub life: u64,
    pub id: u64,
    pub expect: Vec<(Name, u64)>,
    pub write: Vec<Write>,
    pub sent_ns: u64,
}

#[derive(Debug)]
struct Value {
    record: Record,
    revision: u64,
    expires_ns: Option<u64>,
}

/// One node's watch.
#[derive(Debug, Default)]
struct Watch {
    life: u64,
    /// It has a snapshot, and changes follow.
    up: bool,
    /// When the last word arrives.
    arrival_ns: u64,
    /// What waits for the way to be free.
    held: VecDeque<Input>,
}

/// See the module.
#[derive(Debug)]
pub struct Coordinator {
    keys: BTreeMap<Name, Value>,
    revision: u64,
    watches: BTreeMap<NodeId, Watch>,
    pending: BTreeSet<(NodeId, u64, u64)>,
    /// Nodes that cannot reach it; all of them while it is down.
    cut: BTreeSet<NodeId>,
    delay_ns: (u64, u64),
    slow_ns: u64,
    /// Answers that are lost, of a thousand.
    pub lost_answers: u64,
    random: Random,
}

/// Silence after which a client says that it hears nothing.
const SILENCE_NS: u64 = 600_000_000;

impl Coordinator {
    /// An empty one.
    #[must_use]
    pub fn new(random: Random, delay_ns: (u64, u64)) -> Self {
        Self {
            keys: BTreeMap::new(),
            revision: 1,
            watches: BTreeMap::new(),
            pending: BTreeSet::new(),
            cut: BTreeSet::new(),
            delay_ns,
            slow_ns: 0,
            lost_answers: 0,
            random,
        }
    }

    fn delay(&mut self) -> u64 {
        self.random.within(self.delay_ns.0, self.delay_ns.1) + self.slow_ns
    }

    /// A node's record of a key.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&Record> {
        self.keys.get(name).map(|value| &value.record)
    }

    /// Everything, in order.
    pub fn records(&self) -> impl Iterator<Item = (&Name, &Record)> {
        self.keys.iter().map(|(name, value)| (name, &value.record))
    }

    /// A new agent: its client reads everything and watches on from there.
    pub fn join(&mut self, node: NodeId, life: u64, queue: &mut Queue<Event>) {
        let arrival_ns = queue.now_ns();
        self.watches.insert(node, Watch { life, arrival_ns, ..Watch::default() });
        self.reread(node, queue);
    }

    /// Its agent died.
    pub fn leave(&mut self, node: NodeId) {
        self.watches.remove(&node);
        self.pending.retain(|(of, ..)| *of != node);
    }

    /// The client takes a new snapshot.
    pub fn reread(&mut self, node: NodeId, queue: &mut Queue<Event>) {
        let delay = self.delay();
        let Some(life) = self.watches.get(&node).map(|watch| watch.life) else { return };
        queue.after(delay, Event::CoordReads { node, life });
    }

    /// The request for a snapshot is there.
    pub fn reads(&mut self, node: NodeId, life: u64, queue: &mut Queue<Event>) {
        let whole = Input::Whole {
            changes: self.keys.iter().map(|(name, value)| Self::change(name, Some(value), value.revision)).collect(),
            revision: self.revision,
        };
        let cut = self.cut.contains(&node);
        let Some(watch) = self.watches.get_mut(&node).filter(|watch| watch.life == life) else { return };
        if cut {
            // Tried again until it works.
            let wait = self.random.within(20_000_000, 1_000_000_000);
            queue.after(wait, Event::CoordReads { node, life });
            return;
        }
        watch.up = true;
        watch.held.clear();
        self.tell(node, whole, queue);
    }

    fn change(name: &Name, value: Option<&Value>, revision: u64) -> Change {
        Change { name: name.clone(), record: value.map(|value| value.record.clone()), revision }
    }

    /// A word to a node, after all words before it.
    fn tell(&mut self, node: NodeId, input: Input, queue: &mut Queue<Event>) {
        let delay = self.delay();
        let Some(watch) = self.watches.get_mut(&node) else { return };
        if self.cut.contains(&node) {
            watch.held.push_back(input);
            return;
        }
        watch.arrival_ns = watch.arrival_ns.max(queue.now_ns() + delay);
        queue.at(watch.arrival_ns, Event::CoordTold { node, life: watch.life, input: Box::new(input) });
    }

    /// A node sends a transaction.
    pub fn submit(&mut self, request: Request, queue: &mut Queue<Event>) {
        let key = (request.node, request.life, request.id);
        self.pending.insert(key);
        if self.cut.contains(&request.node) && self.random.chance(500) {
            // Refused before it was sent.
            let delay = self.delay();
            queue.after(delay, self.answer(&request, Answer::Unreachable));
            return;
        }
        let patience = (COORDINATOR_TIMEOUT_MS + COORDINATOR_GRACE_MS) * 1_000_000;
        queue.after(patience, self.answer(&request, Answer::Unknown));
        let delay = self.delay();
        queue.after(delay, Event::CoordArrives { request: Box::new(request) });
    }

    fn answer(&self, request: &Request, answer: Answer) -> Event {
        Event::CoordAnswers { node: request.node, life: request.life, id: request.id, answer, sent_ns: request.sent_ns }
    }

    /// Whether an answer still waits to be given, once.
    pub fn answers(&mut self, node: NodeId, life: u64, id: u64) -> bool {
        self.pending.remove(&(node, life, id))
    }

    /// A transaction is there.
    pub fn arrives(&mut self, request: Request, queue: &mut Queue<Event>) {
        if self.cut.contains(&request.node) {
            // Lost, or on its way until the way is free: it may be done long after its sender gave it up.
            if self.random.chance(500) {
                let wait = self.random.within(100_000_000, 3_000_000_000);
                queue.after(wait, Event::CoordArrives { request: Box::new(request) });
            }
            return;
        }
        let holds = request
            .expect
            .iter()
            .all(|(name, revision)| self.keys.get(name).map_or(0, |value| value.revision) == *revision);
        let answer = if holds {
            let revision = self.write(&request.write, queue);
            Answer::Done { revision }
        } else {
            Answer::Refused
        };
        if !self.random.chance(self.lost_answers) {
            let delay = self.delay();
            queue.after(delay, self.answer(&request, answer));
        }
    }

    /// Writes, whoever wants it: also an administrator.
    pub fn write(&mut self, writes: &[Write], queue: &mut Queue<Event>) -> u64 {
        self.revision += 1;
        let revision = self.revision;
        let mut changes = Vec::new();
        for (name, record, ttl_ms) in writes {
            match record {
                Some(record) => {
                    let expires_ns = ttl_ms.map(|ms| queue.now_ns() + ms * 1_000_000);
                    self.keys.insert(name.clone(), Value { record: record.clone(), revision, expires_ns });
                }
                None => drop(self.keys.remove(name)),
            }
            changes.push(Self::change(name, self.keys.get(name), revision));
        }
        self.spread(&changes, queue);
        revision
    }

    fn spread(&mut self, changes: &[Change], queue: &mut Queue<Event>) {
        let up: Vec<NodeId> = self.watches.iter().filter(|(_, watch)| watch.up).map(|(node, _)| *node).collect();
        for node in up {
            self.tell(node, Input::Changed { changes: changes.to_vec() }, queue);
        }
    }

    /// Once a second: keys whose time to live is over go.
    pub fn expire(&mut self, queue: &mut Queue<Event>) {
        let now = queue.now_ns();
        let over: Vec<Write> = self
            .keys
            .iter()
            .filter(|(_, value)| value.expires_ns.is_some_and(|at| at <= now))
            .map(|(name, _)| (name.clone(), None, None))
            .collect();
        if !over.is_empty() {
            self.write(&over, queue);
        }
    }

    /// A node cannot reach it; when that lasts, its client says so.
    pub fn block(&mut self, node: NodeId, queue: &mut Queue<Event>) {
        if self.cut.insert(node) {
            queue.after(SILENCE_NS, Event::CoordSilent { node });
        }
    }

    /// Nothing was heard for a while.
    pub fn silent(&mut self, node: NodeId, queue: &mut Queue<Event>) {
        if !self.cut.contains(&node) {
            return;
        }
        let Some(watch) = self.watches.get_mut(&node).filter(|watch| watch.up) else { return };
        watch.up = false;
        watch.held.clear();
        watch.arrival_ns = watch.arrival_ns.max(queue.now_ns());
        let (at, life) = (watch.arrival_ns, watch.life);
        let input = Box::new(Input::Lost { reason: "silence".into() });
        queue.at(at, Event::CoordTold { node, life, input });
        let wait = self.random.within(20_000_000, 1_000_000_000);
        queue.after(wait, Event::CoordReads { node, life });
    }

    /// It can be reached again: what waited goes on.
    pub fn unblock(&mut self, node: NodeId, queue: &mut Queue<Event>) {
        self.cut.remove(&node);
        let held = self.watches.get_mut(&node).map(|watch| std::mem::take(&mut watch.held)).unwrap_or_default();
        for input in held {
            self.tell(node, input, queue);
        }
    }

    /// Everything takes so much longer.
    pub fn slow(&mut self, by_ns: u64) {
        self.slow_ns = by_ns;
    }
}
