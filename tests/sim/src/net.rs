//! The network between nodes: connections that keep the order of what is sent on them, and break.
//!
//! Owns: links, delays, one-way and two-way partitions, silence. What can hurt: a network that loses single messages
//! inside a connection would be one that TCP does not let agents see; so loss is a connection that stalls, and dies
//! when nothing was heard for as long as the real transport waits. Refuses: what the messages say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use understudy_agent::limits::SILENCE_MS_MAX;
use understudy_agent::transport::LinkId;
use understudy_types::id::NodeId;
use understudy_types::message::{Message, Position};

use crate::event::Event;
use crate::queue::Queue;
use crate::random::Random;

/// What travels on a link.
#[derive(Clone, Debug)]
pub enum Packet {
    /// The dialler says who it is.
    Hello,
    /// The other side lets it in, and says where it stands.
    Welcome {
        credit_bytes: u64,
        positions: Vec<Position>,
    },
    Message(Message),
    /// The other side closed.
    Closed,
}

/// The two ends of a link.
pub const DIALLER: usize = 0;
pub const LISTENER: usize = 1;

#[derive(Debug)]
struct Link {
    ends: [NodeId; 2],
    /// By end: it has not closed, and was not told that the other did.
    open: [bool; 2],
    /// By sending end: when the last packet arrives that is no frame, and the last frame. The real queue sends what is
    /// no frame first.
    arrival_ns: [(u64, u64); 2],
    /// By sending end: what waits for the way to be free.
    held: [VecDeque<Packet>; 2],
    /// By sending end: packets that were sent and did not arrive.
    under_way: [usize; 2],
    /// By listening end: since when nothing can reach it.
    silent_since_ns: [Option<u64>; 2],
}

/// All links.
#[derive(Debug)]
pub struct Net {
    links: BTreeMap<LinkId, Link>,
    next: u64,
    blocked: BTreeSet<(NodeId, NodeId)>,
    random: Random,
    delay_ns: (u64, u64),
    /// When the last word between deciders arrives, by direction.
    words_ns: BTreeMap<(NodeId, NodeId), u64>,
    /// On top, for one direction.
    slow_ns: BTreeMap<(NodeId, NodeId), u64>,
    /// Packets that may be under way in one direction before the sender is told that the queue is full.
    pub queue_max: usize,
}

impl Net {
    /// No link; packets take a time within these bounds.
    #[must_use]
    pub fn new(random: Random, delay_ns: (u64, u64), queue_max: usize) -> Self {
        Self {
            links: BTreeMap::new(),
            next: 1,
            blocked: BTreeSet::new(),
            random,
            delay_ns,
            words_ns: BTreeMap::new(),
            slow_ns: BTreeMap::new(),
            queue_max,
        }
    }

    /// Opens a link and sends the Hello.
    pub fn dial(&mut self, from: NodeId, to: NodeId, queue: &mut Queue<Event>) -> LinkId {
        let id = LinkId(self.next);
        self.next += 1;
        let link = Link {
            ends: [from, to],
            open: [true, true],
            arrival_ns: [(0, 0); 2],
            held: [VecDeque::new(), VecDeque::new()],
            under_way: [0; 2],
            silent_since_ns: [None; 2],
        };
        self.links.insert(id, link);
        self.put(id, DIALLER, Packet::Hello, queue);
        id
    }

    /// Which end of the link the node is; `None` when the link is gone.
    #[must_use]
    pub fn end_of(&self, id: LinkId, node: NodeId) -> Option<usize> {
        let link = self.links.get(&id)?;
        (0..2).find(|end| link.ends[*end] == node && link.open[*end])
    }

    /// The node at the other end.
    #[must_use]
    pub fn peer_of(&self, id: LinkId, end: usize) -> Option<NodeId> {
        self.links.get(&id).map(|link| link.ends[1 - end])
    }

    /// Sends on a link; `false` when its queue is full or it is gone.
    pub fn send(&mut self, id: LinkId, from: NodeId, message: Message, queue: &mut Queue<Event>) -> bool {
        let Some(end) = self.end_of(id, from) else { return false };
        if self.links.get(&id).is_none_or(|link| link.under_way[end] >= self.queue_max) {
            return false;
        }
        self.put(id, end, Packet::Message(message), queue);
        true
    }

    /// Sends the answer to a Hello.
    pub fn welcome(&mut self, id: LinkId, from: NodeId, welcome: Packet, queue: &mut Queue<Event>) {
        if let Some(end) = self.end_of(id, from) {
            self.put(id, end, welcome, queue);
        }
    }

    fn put(&mut self, id: LinkId, end: usize, packet: Packet, queue: &mut Queue<Event>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.under_way[end] += 1;
        let way = (link.ends[end], link.ends[1 - end]);
        if self.blocked.contains(&way) || !link.held[end].is_empty() {
            link.held[end].push_back(packet);
            return;
        }
        let delay = self.random.within(self.delay_ns.0, self.delay_ns.1) + self.slow_ns.get(&way).copied().unwrap_or(0);
        let (control, frames) = &mut link.arrival_ns[end];
        let at = match &packet {
            Packet::Message(Message::Frame { .. }) => {
                *frames = (queue.now_ns() + delay).max(*control).max(*frames);
                *frames
            }
            Packet::Closed => (queue.now_ns() + delay).max(*control).max(*frames),
            _ => {
                *control = (queue.now_ns() + delay).max(*control);
                *control
            }
        };
        queue.at(at, Event::Arrives { link: id, end: 1 - end, packet });
    }

    /// How long a word between deciders takes; `None`: it is lost.
    pub fn word_delay(&mut self, from: NodeId, to: NodeId, now_ns: u64) -> Option<u64> {
        let way = (from, to);
        if self.blocked.contains(&way) {
            return None;
        }
        let delay = self.random.within(self.delay_ns.0, self.delay_ns.1) + self.slow_ns.get(&way).copied().unwrap_or(0);
        let last = self.words_ns.entry(way).or_default();
        *last = (*last).max(now_ns + delay);
        Some(*last - now_ns)
    }

    /// A packet is at its end: it is given, or held because the way is blocked now, or dropped.
    pub fn arrives(&mut self, id: LinkId, end: usize, packet: Packet) -> Option<Packet> {
        let link = self.links.get_mut(&id)?;
        let from = 1 - end;
        let way = (link.ends[from], link.ends[end]);
        if self.blocked.contains(&way) {
            link.held[from].push_back(packet);
            return None;
        }
        link.under_way[from] = link.under_way[from].saturating_sub(1);
        if !link.open[end] {
            return None;
        }
        if matches!(packet, Packet::Closed) {
            link.open[end] = false;
            self.forget(id);
        }
        Some(packet)
    }

    /// One end closes: what is under way to the other still arrives, then it hears of it.
    pub fn close(&mut self, id: LinkId, node: NodeId, queue: &mut Queue<Event>) {
        let Some(end) = self.end_of(id, node) else { return };
        if let Some(link) = self.links.get_mut(&id) {
            link.open[end] = false;
        }
        self.put(id, end, Packet::Closed, queue);
        self.forget(id);
    }

    /// A process died: its kernel closes what it had open; a whole host says nothing any more.
    pub fn node_died(&mut self, node: NodeId, host_too: bool, queue: &mut Queue<Event>) {
        let of: Vec<(LinkId, usize)> = self
            .links
            .iter()
            .flat_map(|(id, l)| (0..2).filter(|end| l.ends[*end] == node).map(|end| (*id, end)))
            .collect();
        for (id, end) in of {
            let Some(link) = self.links.get_mut(&id) else { continue };
            if std::mem::take(&mut link.open[end]) && !host_too {
                self.put(id, end, Packet::Closed, queue);
            }
            self.forget(id);
        }
    }

    /// A host has power again: whoever still talks to what it had open learns that nobody is there.
    pub fn host_back(&mut self, node: NodeId, queue: &mut Queue<Event>) {
        for (id, link) in &self.links {
            for end in (0..2).filter(|end| link.ends[1 - end] == node && link.open[*end] && !link.open[1 - end]) {
                queue.after(self.random.below(1_000_000_000), Event::Broken { link: *id, end });
            }
        }
    }

    /// A connection breaks: both ends hear of it, and what was under way may be lost.
    pub fn break_one(&mut self, queue: &mut Queue<Event>) -> bool {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        let Some(id) = self.random.pick(&ids).copied() else { return false };
        for end in 0..2 {
            queue.after(self.random.below(5_000_000), Event::Broken { link: id, end });
        }
        true
    }

    /// An end hears that the connection is broken; `false` when it had closed before.
    pub fn broken(&mut self, id: LinkId, end: usize) -> Option<NodeId> {
        let link = self.links.get_mut(&id)?;
        let was_open = std::mem::take(&mut link.open[end]);
        let node = link.ends[end];
        self.forget(id);
        was_open.then_some(node)
    }

    fn forget(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| !link.open[0] && !link.open[1]) {
            self.links.remove(&id);
        }
    }

    /// Nothing goes this way until [`Self::heal`].
    pub fn block(&mut self, from: NodeId, to: NodeId) {
        self.blocked.insert((from, to));
    }

    /// Whether this way is blocked.
    #[must_use]
    pub fn is_blocked(&self, from: NodeId, to: NodeId) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// This way takes longer.
    pub fn slow(&mut self, from: NodeId, to: NodeId, by_ns: u64) {
        self.slow_ns.insert((from, to), by_ns);
    }

    /// All ways are free and fast; what was held goes on.
    pub fn heal(&mut self, queue: &mut Queue<Event>) {
        self.blocked.clear();
        self.slow_ns.clear();
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.release(id, queue);
        }
    }

    /// One way is free again.
    pub fn unblock(&mut self, from: NodeId, to: NodeId, queue: &mut Queue<Event>) {
        self.blocked.remove(&(from, to));
        self.slow_ns.remove(&(from, to));
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.release(id, queue);
        }
    }

    fn release(&mut self, id: LinkId, queue: &mut Queue<Event>) {
        for end in 0..2 {
            let Some(link) = self.links.get_mut(&id) else { return };
            if self.blocked.contains(&(link.ends[end], link.ends[1 - end])) {
                continue;
            }
            let held = std::mem::take(&mut link.held[end]);
            link.under_way[end] = link.under_way[end].saturating_sub(held.len());
            for packet in held {
                self.put(id, end, packet, queue);
            }
        }
    }

    /// Once a second: ends that have heard nothing for too long. `mute` = nodes that send nothing, frozen or without
    /// power.
    pub fn silent(&mut self, now_ns: u64, mute: &dyn Fn(NodeId) -> bool) -> Vec<(LinkId, usize)> {
        let mut out = Vec::new();
        for (id, link) in &mut self.links {
            for end in 0..2 {
                let from = link.ends[1 - end];
                let quiet = mute(from) || self.blocked.contains(&(from, link.ends[end]));
                if !quiet || !link.open[end] {
                    link.silent_since_ns[end] = None;
                    continue;
                }
                let since = *link.silent_since_ns[end].get_or_insert(now_ns);
                if now_ns - since >= SILENCE_MS_MAX * 1_000_000 {
                    out.push((*id, end));
                }
            }
        }
        out
    }
}
