//! One agent: the product's stages, put together as `agent/src/node` does, with simulated edges.
//!
//! Owns: a process's memory. It is made from what the host keeps, and dropped when the process dies. What can hurt:
//! this is the only part of the product's path that is written twice: a rule of `node/core.rs`, `peers.rs`,
//! `exports.rs` or `debts.rs` that is not here is a rule that no seed tries. Each function stands in the file that is
//! named as there. Refuses: deciding what a stage decides.

mod core;
mod council;
mod exports;
mod peers;
mod roles;
mod stands;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use understudy_agent::apply::ApplyEvent;
use understudy_agent::apply::orders::NoOrders;
use understudy_agent::apply::park::Parked;
use understudy_agent::apply::worker::{Means, Shift};
use understudy_agent::batch::GroupBatch;
use understudy_agent::clock::{BootNs, MonoNs};
use understudy_agent::failover::decide::Decider;
use understudy_agent::failover::{Desired, Input};
use understudy_agent::frame::{Frame, FrameCodec};
use understudy_agent::journal::disk::Buffer;
use understudy_agent::journal::{Journal, JournalConfig, JournalReader, Recovered, Room, Turns};
use understudy_agent::node::acks::Acks;
use understudy_agent::receive::Receiver;
use understudy_agent::resync::Queue as Exports;
use understudy_agent::ship::{FrameMeta, ShipEvent, Shipper};
use understudy_agent::transport::LinkId;
use understudy_ring::{CompletionRef, Status};
use understudy_types::id::{BlobId, ClusterId, Epoch, GroupId, MailboxGuid, NodeId, Sequence};
use understudy_types::message::{Message, Position};
use understudy_types::op::Op;

use crate::bodies::Central;
use crate::checker::Checker;
use crate::coord::Coordinator;
use crate::disk::Way;
use crate::event::{Event, Wake};
use crate::fuse::Fuse;
use crate::host::{Door, Host};
use crate::net::Net;
use crate::plan::Plan;
use crate::queue::Queue;
use crate::random::Random;
use crate::trace::Trace;

use roles::Roles;

/// The one cluster there is.
pub const CLUSTER: ClusterId = ClusterId(0x51);
/// Records that one turn takes from the ring.
const BURST: usize = 16;

/// Everything outside of the agents that they touch.
pub struct Out {
    pub queue: Queue<Event>,
    pub net: Net,
    pub central: Central,
    pub coordinator: Coordinator,
    pub checker: Checker,
    pub trace: Trace,
    pub random: Random,
    pub plan: Arc<Plan>,
    pub codec: FrameCodec,
}

impl Out {
    /// Adds a line to the trace.
    pub fn say(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.line(self.queue.now_ns(), what);
    }

    /// An answer goes to whoever waits for it.
    fn answer(&mut self, host: &Host, at: CompletionRef, status: Status) {
        let (number, node) = (u64::from(at.slot), host.id);
        let delay = self.random.below(300_000);
        self.queue.after(delay, Event::Heard { number, node, status });
    }

    fn wall_ns(&self) -> u64 {
        1_800_000_000_000_000_000 + self.queue.now_ns()
    }
}

/// What the network brings.
#[derive(Debug)]
pub enum Incoming {
    Asked { peer: NodeId, link: LinkId },
    Connected { peer: NodeId, link: LinkId, credit_bytes: u64, positions: Vec<Position> },
    Message { peer: NodeId, link: LinkId, message: Message },
    Disconnected { link: LinkId },
}

/// What an export hands over.
#[derive(Debug)]
enum Exported {
    Begin { account: String, bodies: bool },
    Op { account: String, op: Op },
    End { account: String, result: Result<u64, String> },
}

/// A group that is active here; see `node/core.rs`.
struct Own {
    batch: GroupBatch,
    journaled: u64,
    told: Sequence,
    replicas: Vec<NodeId>,
    acked: BTreeMap<NodeId, u64>,
    acks: Acks,
    in_flight: VecDeque<FrameMeta>,
    ring_journaled: Option<u64>,
}

/// A peer that is brought up to date by snapshots; see `node/core.rs`.
#[derive(Debug, Default)]
struct PeerResync {
    accounts: BTreeSet<String>,
    until_seq: u64,
    after_snapshot: u64,
}

/// A data connection that this node dials.
#[derive(Clone, Copy, Debug, Default)]
struct Dial {
    link: Option<LinkId>,
    connected: bool,
    attempt: u32,
}

/// See the module.
pub struct Agent {
    pub me: NodeId,
    pub life: u64,
    pub fuse: Fuse,
    journal: Journal,
    turns: Turns,
    reader: JournalReader,
    recovered: Recovered,
    door: Door,
    shipper: Shipper,
    receiver: Receiver,
    own: BTreeMap<GroupId, Own>,
    roles: Roles,
    /// Active node and replicas of each group, as placement or the last record has them.
    placement: BTreeMap<GroupId, (NodeId, Vec<NodeId>)>,
    decider: Option<Decider>,
    /// What the decider is to be told.
    council: VecDeque<Input>,
    council_due: bool,
    /// What it wants, on its way to the event loop.
    desires: VecDeque<Desired>,
    store_good_at: Option<BootNs>,
    /// Groups whose accounts are copied anew because this node was active for them.
    merge_asks: BTreeSet<GroupId>,
    shift: Shift,
    /// What the appliers said: the board of `node/board.rs`.
    applied: BTreeMap<GroupId, u64>,
    parked: BTreeMap<String, (GroupId, Parked)>,
    exports: Exports,
    copied: BTreeMap<String, BTreeSet<NodeId>>,
    owed: BTreeMap<String, bool>,
    /// Accounts by group, as placement has them.
    accounts: BTreeMap<String, GroupId>,
    unsent: VecDeque<(Frame, Option<Epoch>)>,
    /// Links that this node dialled, by peer.
    links: BTreeMap<NodeId, LinkId>,
    dials: BTreeMap<NodeId, Dial>,
    lost_groups: BTreeMap<GroupId, Option<LinkId>>,
    rebase_next: BTreeSet<GroupId>,
    peer_resync: BTreeMap<(GroupId, NodeId), PeerResync>,
    snapshot_ends: Vec<(GroupId, u64, String)>,
    foreign_asked: BTreeSet<String>,
    /// Questions for snapshots of those, by number.
    asked: BTreeMap<u64, String>,
    next_ask: u64,
    /// Links that peers dialled.
    dialled_by: BTreeMap<NodeId, LinkId>,
    last_snapshot: u64,
    ring_pending: VecDeque<(u64, GroupId, u64)>,
    ring_read: u64,
    dirty: BTreeSet<GroupId>,
    inbox: VecDeque<Incoming>,
    apply_events: VecDeque<ApplyEvent>,
    exported: VecDeque<Exported>,
    /// Mailboxes that the first part of a snapshot holds.
    export_parts: BTreeMap<String, BTreeSet<MailboxGuid>>,
    stored: VecDeque<BlobId>,
    body_lost: VecDeque<BlobId>,
    wanted: BTreeMap<BlobId, u32>,
    /// Events that came while it was frozen.
    pub deferred: Vec<Wake>,
    turn_at_ns: Option<u64>,
    apply_at_ns: Option<u64>,
    seconds: u64,
    pub failure: Option<String>,
    now: MonoNs,
}

impl Agent {
    /// Starts an agent on a host: reads back what is there. `Err`: the journal cannot be opened.
    ///
    /// # Errors
    /// What an administrator would have to see to.
    pub fn start(host: &mut Host, out: &mut Out) -> Result<Self, String> {
        host.lives += 1;
        let (me, life) = (host.id, host.lives);
        let fuse = Fuse::default();
        host.disk.take(fuse.clone());
        host.memory.take(fuse.clone());
        let plan = out.plan.clone();
        let config = JournalConfig {
            segment_bytes: plan.segment_bytes,
            journal_bytes_max: plan.journal_bytes_max,
            free_bytes_min: 0,
            cache_bytes_max: plan.cache_bytes_max,
            ..JournalConfig::new(format!("node{me}/journal").into(), CLUSTER, me)
        };
        let buffers = (0..2).map(Buffer::new).collect::<std::io::Result<Vec<_>>>().map_err(|e| e.to_string())?;
        let way = Box::new(Way::new(&host.disk));
        let mut id = [0; 16];
        id[..8].copy_from_slice(&out.random.number().to_le_bytes());
        let room = Room { queued_frames: 64, events: 1024 };
        let (journal, turns, recovered) =
            Journal::open_still(config, Box::new(host.disk.clone()), &host.disk.segments(), (way, buffers), id, room)
                .map_err(|error| error.to_string())?;
        let news = host.disk.news();
        news.iter().for_each(|bytes| out.checker.synced(me, bytes));
        if out.trace.is_kept() {
            out.say(format_args!("n{me} agent {life} starts: {}", describe(&recovered)));
        }
        let (copied, owed) = host.memory.accounts();
        let door = Door { store: host.store.clone(), trouble: host.trouble.clone(), fuse: fuse.clone() };
        let mut agent = Self {
            me,
            life,
            fuse,
            reader: journal.reader(),
            journal,
            turns,
            recovered,
            door,
            shipper: Shipper::new(plan.ship),
            receiver: Receiver::new(),
            own: BTreeMap::new(),
            roles: Roles::default(),
            placement: BTreeMap::new(),
            decider: None,
            council: VecDeque::new(),
            council_due: false,
            desires: VecDeque::new(),
            store_good_at: None,
            merge_asks: BTreeSet::new(),
            shift: Shift::default(),
            applied: BTreeMap::new(),
            parked: BTreeMap::new(),
            exports: Exports::default(),
            copied,
            owed,
            accounts: plan.accounts.iter().map(|account| (account.name.clone(), account.group)).collect(),
            unsent: VecDeque::new(),
            links: BTreeMap::new(),
            dials: plan.nodes.iter().filter(|peer| **peer != me).map(|peer| (*peer, Dial::default())).collect(),
            lost_groups: BTreeMap::new(),
            rebase_next: BTreeSet::new(),
            peer_resync: BTreeMap::new(),
            snapshot_ends: Vec::new(),
            foreign_asked: BTreeSet::new(),
            asked: BTreeMap::new(),
            next_ask: 0,
            dialled_by: BTreeMap::new(),
            last_snapshot: 0,
            ring_pending: VecDeque::new(),
            ring_read: host.ring.first(),
            dirty: BTreeSet::new(),
            inbox: VecDeque::new(),
            apply_events: VecDeque::new(),
            exported: VecDeque::new(),
            export_parts: BTreeMap::new(),
            stored: VecDeque::new(),
            body_lost: VecDeque::new(),
            wanted: BTreeMap::new(),
            deferred: Vec::new(),
            turn_at_ns: None,
            apply_at_ns: None,
            seconds: 0,
            failure: None,
            now: host.clock.at(out.queue.now_ns()),
        };
        // Until a lease is held the store changes nothing, whatever the agent before this one has set.
        host.ring.write_until_ns = u64::from(plan.shared);
        agent.first_roles(host, out);
        if plan.shared {
            agent.convene(host, out);
        }
        for blob in out.central.spooled(me.get()) {
            agent.want(blob, out);
        }
        let peers: Vec<NodeId> = agent.dials.keys().copied().collect();
        for peer in peers {
            let delay = out.random.below(50_000_000);
            agent.wake_after(delay, Wake::Dial(peer), out);
        }
        agent.wake_after(1_000_000_000, Wake::Second, out);
        agent.resume_debts(host);
        agent.policy_changed(out);
        agent.new_ring(host);
        agent.poke(out);
        agent.wake_apply(0, out);
        Ok(agent)
    }

    /// Something that concerns this life of the agent is to happen.
    fn wake_after(&self, delay_ns: u64, wake: Wake, out: &mut Out) {
        out.queue.after(delay_ns, Event::Agent { node: self.me, life: self.life, wake });
    }

    /// The event loop has something to look at.
    pub fn poke(&mut self, out: &mut Out) {
        let (low, high) = out.plan.turn_ns;
        let delay = out.random.within(low, high);
        self.turn_within(delay, out);
    }

    fn turn_within(&mut self, delay_ns: u64, out: &mut Out) {
        let at = out.queue.now_ns() + delay_ns;
        if self.turn_at_ns.is_none_or(|known| known > at) {
            self.turn_at_ns = Some(at);
            self.wake_after(delay_ns, Wake::Turn, out);
        }
    }

    fn wake_apply(&mut self, delay_ns: u64, out: &mut Out) {
        let at = out.queue.now_ns() + delay_ns;
        if self.apply_at_ns.is_none_or(|known| known > at) {
            self.apply_at_ns = Some(at);
            self.wake_after(delay_ns, Wake::Apply, out);
        }
    }

    /// What came by the network waits for the next turn.
    pub fn incoming(&mut self, incoming: Incoming, out: &mut Out) {
        self.inbox.push_back(incoming);
        self.poke(out);
    }

    /// Takes what woke it.
    pub fn woken(&mut self, wake: Wake, host: &mut Host, out: &mut Out) {
        self.now = host.clock.at(out.queue.now_ns());
        match wake {
            Wake::Turn => {
                if self.turn_at_ns.is_some_and(|at| at <= out.queue.now_ns()) {
                    self.turn_at_ns = None;
                    self.turn(host, out);
                }
            }
            Wake::JournalBegin => self.journal_turn(false, host, out),
            Wake::JournalDone => self.journal_turn(true, host, out),
            Wake::Apply => {
                if self.apply_at_ns.is_some_and(|at| at <= out.queue.now_ns()) {
                    self.apply_at_ns = None;
                    self.apply_turn(host, out);
                }
            }
            Wake::Upload(blob) => self.upload(blob, out),
            Wake::Export { account, snapshot, bodies } => self.export_reads(&account, snapshot, bodies, out),
            Wake::Council => self.council_turn(host, out),
            Wake::Tick => self.tick(host, out),
            Wake::Evidence => self.evidence(host, out),
            Wake::Policy => self.policy_is_told(host, out),
            Wake::Raise { group, epoch, account } => self.raise(group, epoch, &account, host, out),
            Wake::Second => {
                self.second(host, out);
                self.wake_after(1_000_000_000, Wake::Second, out);
                self.poke(out);
            }
            Wake::Dial(peer) => self.dial(peer, out),
            Wake::DialTimeout(peer, link) => self.dial_timed_out(peer, link, out),
        }
    }

    fn journal_turn(&mut self, done: bool, host: &mut Host, out: &mut Out) {
        if done {
            self.turns.finish();
        } else if !self.turns.is_writing() {
            self.turns.begin();
        } else {
            return;
        }
        if self.turns.is_writing() {
            let (low, high) = out.plan.disk_ns;
            let slow = if host.disk_slow { 100_000_000 } else { 0 };
            let takes = out.random.within(low, high) + slow;
            self.wake_after(takes, Wake::JournalDone, out);
        }
        let news = host.disk.news();
        news.iter().for_each(|bytes| out.checker.synced(self.me, bytes));
        if !self.journal.events().is_empty() {
            self.poke(out);
        }
    }

    /// The journal's thread has something in its queue.
    fn wake_journal(&self, out: &mut Out) {
        let delay = out.random.below(20_000);
        self.wake_after(delay, Wake::JournalBegin, out);
    }

    fn apply_turn(&mut self, host: &mut Host, out: &mut Out) {
        let (now, events) = (self.now, &mut self.apply_events);
        self.shift.turn(&mut Means {
            store: &mut self.door,
            frames: &self.reader,
            bodies: &out.central,
            cursors: &host.memory,
            codec: &mut out.codec,
            report: &mut |event| {
                if !matches!(event, ApplyEvent::Took { .. } | ApplyEvent::Count { .. }) {
                    events.push_back(event);
                }
            },
            orders: &NoOrders,
            clock: &|| now,
            wall: &|| now.0,
        });
        if !self.apply_events.is_empty() {
            self.poke(out);
        }
        // The real worker looks at parked accounts every 5 ms; here five times less often is as good.
        let pause_ms = self.shift.pause_ms().max(25);
        self.wake_apply(pause_ms * 1_000_000, out);
    }

    /// One turn of the event loop: what came, then what follows once.
    fn turn(&mut self, host: &mut Host, out: &mut Out) {
        while let Ok(event) = self.journal.events().try_recv() {
            self.journal_event(event, host, out);
        }
        self.capture(host, out);
        while let Some(desired) = self.desires.pop_front() {
            self.desire(desired, host, out);
        }
        while let Some(incoming) = self.inbox.pop_front() {
            self.transport_event(incoming, host, out);
        }
        while let Some(event) = self.apply_events.pop_front() {
            self.apply_event(event, host, out);
        }
        while let Some(blob) = self.stored.pop_front() {
            self.body_durable(blob);
        }
        while let Some(blob) = self.body_lost.pop_front() {
            self.body_is_lost(blob, host);
        }
        for _ in 0..BURST {
            let Some(exported) = self.exported.pop_front() else { break };
            self.export_event(exported, host, out);
        }
        let idle = host.ring.is_read(self.ring_read) && self.exported.is_empty();
        self.end_of_turn(idle, host, out);
        if !idle {
            self.poke(out);
        } else if self.own.values().any(|own| !own.batch.is_empty()) {
            self.turn_within(1_000_000, out);
        }
        if let Some(due) = self.receiver.due() {
            self.turn_within(due.since_ns(self.now).max(10_000), out);
        }
    }

    fn second(&mut self, host: &mut Host, out: &mut Out) {
        self.seconds += 1;
        self.ask_actives(host, out);
        self.tell_lost(out);
        self.ship(ShipEvent::Tick, host, out);
        if self.seconds.is_multiple_of(5) {
            self.retain(out);
        }
    }

    /// Whether nothing is on its way here, for the end of a world.
    #[must_use]
    pub fn is_quiet(&self, host: &Host) -> bool {
        host.ring.is_read(self.ring_read)
            && self.ring_pending.is_empty()
            && self.own.values().all(|own| own.batch.is_empty() && own.in_flight.is_empty())
            && self.exports.is_empty()
            && self.snapshot_ends.is_empty()
            && self.owed.is_empty()
            && self.parked.is_empty()
            && self.peer_resync.is_empty()
            && self.roles_are_settled()
    }

    /// What is still to be done, for a world that does not come to rest.
    #[must_use]
    pub fn unrest(&self, host: &Host) -> String {
        let own: Vec<String> = self
            .own
            .iter()
            .map(|(group, own)| format!("{group}: journaled {} acked {:?}", own.journaled, own.acked))
            .collect();
        format!(
            "n{} ring read {} exports {} ends {} owed {:?} parked {:?} resync {:?} own [{}] applied {:?} roles {}",
            self.me,
            host.ring.is_read(self.ring_read),
            self.exports.len(),
            self.snapshot_ends.len(),
            self.owed,
            self.parked,
            self.peer_resync,
            own.join("; "),
            self.applied,
            self.roles_text(),
        )
    }
}

fn describe(recovered: &Recovered) -> String {
    let group = |(id, state): (&GroupId, &understudy_agent::journal::GroupState)| {
        format!("{id}: {}..{} e{} f{}", state.first, state.tail.sequence, state.tail.epoch, state.fence)
    };
    let groups: Vec<String> = recovered.groups.iter().map(group).collect();
    let damage: Vec<String> = recovered.damage.iter().map(ToString::to_string).collect();
    format!("[{}] torn {} damage [{}]", groups.join(", "), recovered.torn_bytes, damage.join("; "))
}
