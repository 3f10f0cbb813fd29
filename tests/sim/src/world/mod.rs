//! A world: hosts, agents, users, a network and a seed. It runs to its end and says what was wrong.
//!
//! Owns: the loop, the lives and deaths of agents, and the end: faults cease, everything that was off is on, and within
//! a bounded time every group is served and all its copies are equal. What can hurt: two runs of a seed that differ; so
//! nothing here has a thread, a clock, or an order that is not its own. Refuses: judging mail; that is the checker's.

mod faults;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_agent::failover::Input;
use understudy_agent::frame::FrameCodec;
use understudy_ring::Status;
use understudy_types::id::NodeId;

use crate::agent::{Agent, Incoming, Out};
use crate::bodies::Central;
use crate::checker::Checker;
use crate::checker::view::AccountView;
use crate::coord::Coordinator;
use crate::event::{Event, Wake};
use crate::host::{Frozen, Host};
use crate::net::{Net, Packet};
use crate::plan::Plan;
use crate::queue::Queue;
use crate::random::Random;
use crate::ring::Record;
use crate::trace::Trace;
use crate::users::{Committed, Users, waits};

const SECOND_NS: u64 = 1_000_000_000;
/// Events after which a world is taken to run in circles.
const EVENTS_MAX: u64 = 3_000_000;

/// How a world ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    /// What was wrong, if anything.
    pub wrong: Option<String>,
    pub simulated_ns: u64,
    pub events: u64,
    pub changes: usize,
    pub acked: u64,
    pub faults: u64,
    pub moves: u64,
    /// After the last fault, until all was well.
    pub recovery_ns: u64,
    /// BLAKE3 of every account's state on every node, and of the counts above: what two runs agree on.
    pub fingerprint: [u8; 32],
}

/// A node: its host, and the agent that runs there.
struct Node {
    host: Host,
    agent: Option<Agent>,
}

/// See the module.
pub struct World {
    nodes: Vec<Node>,
    out: Out,
    users: Users,
    /// Committed and not published, by number.
    unpublished: BTreeMap<u64, (usize, Committed)>,
    random: Random,
    calm: bool,
    calm_at_ns: u64,
    well_since_ns: Option<u64>,
    faults: u64,
    moves: u64,
    next_generation: u64,
    done: bool,
}

impl World {
    /// The world of a seed.
    #[must_use]
    pub fn new(seed: u64, trace: bool) -> Self {
        let plan = Arc::new(Plan::new(seed));
        let central = Central::default();
        let mut out = Out {
            queue: Queue::default(),
            net: Net::new(Random::new(seed, 4), plan.net_ns, plan.link_queue_max),
            checker: Checker::new(&plan, &central),
            central: central.clone(),
            coordinator: Coordinator::new(Random::new(seed, 6), plan.coordinator_ns),
            trace: Trace::new(trace),
            random: Random::new(seed, 2),
            plan: plan.clone(),
            codec: FrameCodec::new(),
        };
        if out.trace.is_kept() {
            out.say(format_args!("{plan:?}"));
        }
        let hosts = (0..plan.nodes.len()).map(|index| Host::new(&plan, index, &central, index as u64 + 1));
        let nodes: Vec<Node> = hosts.map(|host| Node { host, agent: None }).collect();
        let mut world = Self {
            next_generation: nodes.len() as u64 + 1,
            nodes,
            users: Users::new(&plan),
            out,
            unpublished: BTreeMap::new(),
            random: Random::new(seed, 5),
            calm: false,
            calm_at_ns: plan.length_ns,
            well_since_ns: None,
            faults: 0,
            moves: 0,
            done: false,
        };
        for node in &plan.nodes {
            world.out.queue.after(world.random.below(SECOND_NS / 10), Event::Start { node: *node });
        }
        for account in 0..plan.accounts.len() {
            let pause = world.users.pause_ns();
            world.out.queue.after(pause, Event::User { account });
        }
        world.out.queue.after(SECOND_NS, Event::Second);
        world.out.queue.after(plan.fault_pause_ns, Event::Fault);
        world.out.queue.at(plan.length_ns, Event::Calm);
        world
    }

    /// Runs to the end.
    pub fn run(&mut self) -> Outcome {
        while !self.done && self.out.checker.wrong().is_none() {
            let Some(event) = self.out.queue.pop() else { break };
            self.happens(event);
            if self.out.queue.count() > EVENTS_MAX {
                self.out.checker.fail(format!("more than {EVENTS_MAX} events: it runs in circles"));
            }
        }
        self.outcome()
    }

    /// What happened so far, as text.
    #[must_use]
    pub fn trace(&self) -> &str {
        self.out.trace.text()
    }

    fn outcome(&mut self) -> Outcome {
        let mut hasher = blake3::Hasher::new();
        for node in &self.nodes {
            for account in &self.out.plan.accounts {
                hasher.update(&AccountView::of(&node.host.store, &account.name).unwrap_or_default().digest);
            }
        }
        let wrong = self.out.checker.wrong().map(str::to_owned);
        if let Some(wrong) = &wrong {
            self.out.trace.line(self.out.queue.now_ns(), format_args!("WRONG: {wrong}"));
        }
        let counts = [self.out.queue.now_ns(), self.out.queue.count(), self.out.checker.changes() as u64, self.faults];
        for count in counts {
            hasher.update(&count.to_le_bytes());
        }
        Outcome {
            seed: self.out.plan.seed,
            wrong,
            simulated_ns: self.out.queue.now_ns(),
            events: self.out.queue.count(),
            changes: self.out.checker.changes(),
            acked: self.out.checker.acked_total,
            faults: self.faults,
            moves: self.moves,
            recovery_ns: self.well_since_ns.map_or(0, |at| at.saturating_sub(self.calm_at_ns)),
            fingerprint: *hasher.finalize().as_bytes(),
        }
    }

    fn index(&self, node: NodeId) -> usize {
        usize::from(node.get()) - 1
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Agent { node, life, wake } => self.wakes(node, life, wake),
            Event::Arrives { link, end, packet } => {
                if let Some(packet) = self.out.net.arrives(link, end, packet) {
                    self.arrives(link, end, packet);
                }
            }
            Event::Broken { link, end } => self.broken(link, end),
            Event::User { account } => self.user(account),
            Event::Publish { number } => self.publish(number),
            Event::Start { node } => self.start(node),
            Event::Thaw { node } => self.thaw(node),
            Event::PowerOn { node } => self.power_on(node),
            Event::StoreUp { node } => self.store_up(node),
            Event::Unblock { from, to } => {
                self.out.say(format_args!("n{from} to n{to} is free"));
                self.out.net.unblock(from, to, &mut self.out.queue);
            }
            Event::Word { from, to, inputs } => {
                let index = self.index(to);
                if !self.out.net.is_blocked(from, to)
                    && let Some(agent) = &mut self.nodes[index].agent
                {
                    inputs.into_iter().for_each(|input| agent.told(input, &mut self.out));
                }
            }
            Event::CoordArrives { request } => self.out.coordinator.arrives(*request, &mut self.out.queue),
            Event::CoordAnswers { node, life, id, answer, sent_ns } => {
                if self.out.coordinator.answers(node, life, id) {
                    let rtt_ns = self.out.queue.now_ns() - sent_ns;
                    self.tells(node, life, Input::Answered { id, answer, rtt_ns });
                }
            }
            Event::CoordReads { node, life } => self.out.coordinator.reads(node, life, &mut self.out.queue),
            Event::CoordTold { node, life, input } => self.tells(node, life, *input),
            Event::CoordSilent { node } => self.out.coordinator.silent(node, &mut self.out.queue),
            Event::CoordFree { node } => self.out.coordinator.unblock(node, &mut self.out.queue),
            Event::CoordFast => {
                self.out.coordinator.slow(0);
                self.out.coordinator.lost_answers = 0;
            }
            Event::Heard { number, node, status } => self.heard(number, node, status),
            Event::CentralUp => self.out.central.set_down(false),
            Event::DiskFast { node } => {
                let index = self.index(node);
                self.nodes[index].host.disk_slow = false;
            }
            Event::Fault => self.fault(),
            Event::Calm => self.calm(),
            Event::Second => self.second(),
        }
    }

    fn wakes(&mut self, node: NodeId, life: u64, wake: Wake) {
        let index = self.index(node);
        let Node { host, agent: slot } = &mut self.nodes[index];
        let Some(agent) = slot.as_mut().filter(|agent| agent.life == life) else { return };
        if host.frozen != Frozen::Nothing {
            agent.deferred.push(wake);
            return;
        }
        agent.woken(wake, host, &mut self.out);
        self.after_agent(index);
    }

    /// An agent whose fuse is burnt is dead; one that says why it cannot go on ends.
    fn after_agent(&mut self, index: usize) {
        let Some(agent) = &self.nodes[index].agent else { return };
        if agent.fuse.is_burnt() || agent.failure.is_some() {
            let why = agent.failure.clone().unwrap_or_else(|| "killed in the middle".to_owned());
            let node = agent.me;
            self.kill(index, &why, false);
            let pause = self.random.within(10_000_000, 2 * SECOND_NS);
            self.out.queue.after(pause, Event::Start { node });
        }
    }

    /// The agent dies. With the host, nobody tells its peers.
    fn kill(&mut self, index: usize, why: &str, host_too: bool) {
        let Some(agent) = self.nodes[index].agent.take() else { return };
        let node = agent.me;
        self.out.say(format_args!("n{node} agent {} dies: {why}", agent.life));
        drop(agent);
        self.out.coordinator.leave(node);
        self.out.checker.log.forget_pending(node);
        if !host_too {
            self.nodes[index].host.disk.process_died(&mut self.random);
        }
        self.out.net.node_died(node, host_too, &mut self.out.queue);
    }

    fn start(&mut self, node: NodeId) {
        let index = self.index(node);
        let Node { host, agent } = &mut self.nodes[index];
        if agent.is_some() || host.off {
            return;
        }
        if host.frozen != Frozen::Nothing {
            self.out.queue.after(SECOND_NS / 10, Event::Start { node });
            return;
        }
        match Agent::start(host, &mut self.out) {
            Ok(started) => *agent = Some(started),
            Err(error) => {
                // An administrator has to see to a journal that does not open; no fault of ours may cause that.
                self.out.checker.fail(format!("node {node}'s agent does not start: {error}"));
            }
        }
    }

    fn thaw(&mut self, node: NodeId) {
        let index = self.index(node);
        let Node { host, agent } = &mut self.nodes[index];
        if host.frozen == Frozen::Nothing {
            return;
        }
        host.frozen = Frozen::Nothing;
        self.out.say(format_args!("n{node} is thawed"));
        if let Some(agent) = agent {
            let life = agent.life;
            for wake in std::mem::take(&mut agent.deferred) {
                self.out.queue.after(0, Event::Agent { node, life, wake });
            }
        }
    }

    fn power_on(&mut self, node: NodeId) {
        let index = self.index(node);
        let host = &mut self.nodes[index].host;
        if !host.off {
            return;
        }
        host.off = false;
        host.trouble().down = false;
        self.out.say(format_args!("n{node} has power"));
        self.out.net.host_back(node, &mut self.out.queue);
        self.start(node);
    }

    fn store_up(&mut self, node: NodeId) {
        let index = self.index(node);
        let host = &self.nodes[index].host;
        let mut trouble = host.trouble();
        trouble.down = host.off;
        trouble.hung = false;
        trouble.refuses = None;
    }

    fn arrives(&mut self, link: understudy_agent::transport::LinkId, end: usize, packet: Packet) {
        let (Some(peer), Some(node)) = (self.out.net.peer_of(link, end), self.out.net.peer_of(link, 1 - end)) else {
            return self.closed(link, &packet);
        };
        let index = self.index(node);
        let Node { host, agent } = &mut self.nodes[index];
        let Some(agent) = agent.as_mut() else {
            // Its kernel says that nobody listens; without power nobody says anything.
            if !host.off {
                self.out.net.close(link, node, &mut self.out.queue);
            }
            return;
        };
        let incoming = match packet {
            Packet::Hello => Incoming::Asked { peer, link },
            Packet::Welcome { credit_bytes, positions } => Incoming::Connected { peer, link, credit_bytes, positions },
            Packet::Message(message) => Incoming::Message { peer, link, message },
            Packet::Closed => Incoming::Disconnected { link },
        };
        agent.incoming(incoming, &mut self.out);
    }

    /// The last packet of a link that is forgotten with it.
    fn closed(&mut self, link: understudy_agent::transport::LinkId, packet: &Packet) {
        if matches!(packet, Packet::Closed) {
            for node in &mut self.nodes {
                if let Some(agent) = &mut node.agent {
                    agent.incoming(Incoming::Disconnected { link }, &mut self.out);
                }
            }
        }
    }

    fn broken(&mut self, link: understudy_agent::transport::LinkId, end: usize) {
        if let Some(node) = self.out.net.broken(link, end) {
            let index = self.index(node);
            if let Some(agent) = &mut self.nodes[index].agent {
                agent.incoming(Incoming::Disconnected { link }, &mut self.out);
            }
        }
    }

    fn user(&mut self, account: usize) {
        let now = self.out.queue.now_ns();
        if self.calm && now > self.calm_at_ns + SECOND_NS {
            return;
        }
        let pause = self.users.pause_ns();
        self.out.queue.after(pause, Event::User { account });
        let Some(of) = self.out.plan.accounts.get(account).cloned() else { return };
        let (group, name) = (of.group, of.name);
        let open: Vec<usize> = (0..self.nodes.len())
            .filter(|index| {
                let host = &self.nodes[*index].host;
                host.store_runs() && host.ring.lets(group, &name, host.clock.boot(now).0)
            })
            .collect();
        let Some(index) = self.random.pick(&open).copied() else { return };
        let done = self.users.act(account, &mut self.nodes[index].host, now);
        for committed in done {
            let number = self.out.checker.committed(committed.change.clone());
            let delay = committed.delay_ns;
            if self.out.trace.is_kept() {
                let node = self.nodes[index].host.id;
                self.out.say(format_args!("n{node} change {number}: {:?}", committed.op));
            }
            self.nodes[index].host.ring.begin(&name);
            self.unpublished.insert(number, (index, committed));
            if delay == 0 {
                self.publish(number);
            } else {
                self.out.queue.after(delay, Event::Publish { number });
            }
        }
    }

    fn publish(&mut self, number: u64) {
        let Some((index, committed)) = self.unpublished.remove(&number) else { return };
        let Node { host, agent } = &mut self.nodes[index];
        if host.frozen == Frozen::All {
            self.unpublished.insert(number, (index, committed));
            self.out.queue.after(SECOND_NS / 100, Event::Publish { number });
            return;
        }
        let name = self.out.plan.accounts[committed.change.account].name.clone();
        let record = Record {
            index: 0,
            account: name,
            op: committed.op.encode(),
            wall_ns: self.out.queue.now_ns(),
            number,
            waits: waits(committed.change.level),
        };
        host.ring.end(&record.account);
        let boot_ns = host.clock.boot(self.out.queue.now_ns()).0;
        host.ring.publish(record, boot_ns);
        if let Some(agent) = agent {
            agent.poke(&mut self.out);
        }
    }

    /// Sessions on a node die between commit and publication: the ring remembers whose.
    fn sessions_die(&mut self, index: usize, ring_too: bool) {
        let mine: Vec<u64> =
            self.unpublished.iter().filter(|(_, (of, _))| *of == index).map(|(number, _)| *number).collect();
        for number in mine {
            if let Some((_, committed)) = self.unpublished.remove(&number)
                && !ring_too
            {
                let name = self.out.plan.accounts[committed.change.account].name.clone();
                self.nodes[index].host.ring.end(&name);
                self.nodes[index].host.ring.gaps.insert(name);
            }
        }
        if let Some(agent) = &mut self.nodes[index].agent {
            agent.poke(&mut self.out);
        }
    }

    fn second(&mut self) {
        let now = self.out.queue.now_ns();
        self.out.queue.after(SECOND_NS, Event::Second);
        let nodes = &self.nodes;
        let mute = |node: NodeId| {
            let Node { host, agent } = &nodes[usize::from(node.get()) - 1];
            host.off || host.frozen != Frozen::Nothing || agent.is_none()
        };
        for (link, end) in self.out.net.silent(now, &mute) {
            // Whoever gives up closes; the other end hears of it when something reaches it.
            if let Some(node) = self.out.net.peer_of(link, 1 - end) {
                self.out.net.close(link, node, &mut self.out.queue);
                let index = self.index(node);
                if let Some(agent) = &mut self.nodes[index].agent {
                    agent.incoming(Incoming::Disconnected { link }, &mut self.out);
                }
            }
        }
        self.out.coordinator.expire(&mut self.out.queue);
        if self.calm {
            self.look(now);
        }
    }

    /// Something for the decider of a node.
    fn tells(&mut self, node: NodeId, life: u64, input: Input) {
        let index = self.index(node);
        if let Some(agent) = self.nodes[index].agent.as_mut().filter(|agent| agent.life == life) {
            agent.told(input, &mut self.out);
        }
    }

    /// A session hears its answer, which is none of success past the time until which its node may change mail.
    fn heard(&mut self, number: u64, node: NodeId, status: Status) {
        let index = self.index(node);
        let host = &self.nodes[index].host;
        if host.frozen == Frozen::All {
            let again = Event::Heard { number, node, status };
            self.out.queue.after(SECOND_NS / 100, again);
            return;
        }
        let open = host.ring.is_open(host.clock.boot(self.out.queue.now_ns()).0);
        if matches!(status, Status::Durable | Status::Replicated) && open && !host.off {
            self.out.checker.acked(number, status == Status::Replicated);
        }
    }
}
