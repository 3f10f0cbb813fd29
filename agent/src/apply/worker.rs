//! Apply workers: threads that run the appliers of their groups, each with a connection to the store of its own.
//!
//! Owns: which group belongs to which thread (group modulo number of workers), and the waits when the store is away.
//! What can hurt: a store that restarts; the worker keeps its positions and tries again. Refuses: holding the event
//! loop; commands go through an unbounded channel whose length is bounded by the number of groups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use understudy_types::id::GroupId;

use super::applier::{ApplyError, ApplyEvent, Frames, GroupApplier, Tools};
use super::cursor::{Cursors, Remember};
use super::orders::{Order, Ordered, Orders};
use crate::blob::cache::{Bodies, BodyCache};
use crate::clock::{self, MonoNs};
use crate::frame::FrameCodec;
use crate::journal::ReadError;
use crate::limits::{APPLY_IDLE_MS, APPLY_STORE_RETRY_MS};
use crate::store::Store;

/// Where the answer to an order goes. Whoever asked may have given up.
pub type Answer = Sender<Result<Ordered, String>>;

/// What a worker is told.
enum Command {
    /// Frames of the group became durable.
    Wake(GroupId),
    /// The group's stream goes on after this position.
    Rebase(GroupId, u64),
    /// This node is active from this position on.
    Stand(GroupId, u64),
    /// An administrator's.
    Order(GroupId, Order, Answer),
    Stop,
}

/// What is the same for all workers.
pub struct Shared {
    pub frames: Box<dyn Frames + Send + Sync>,
    pub bodies: BodyCache,
    pub cursors: Cursors,
    pub orders: Box<dyn Orders + Send + Sync>,
}

/// The worker threads.
pub struct Workers {
    commands: Vec<Sender<Command>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads. `connect` makes one store per thread; `report` is called from the threads and may block.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(
        count: usize,
        shared: &Arc<Shared>,
        connect: impl Fn() -> Box<dyn Store>,
        report: impl Fn(ApplyEvent) + Send + Clone + 'static,
    ) -> std::io::Result<Self> {
        let mut workers = Self { commands: Vec::new(), threads: Vec::new() };
        for n in 0..count.max(1) {
            let (send, receive) = unbounded();
            let (shared, mut store, report) = (shared.clone(), connect(), report.clone());
            let thread = std::thread::Builder::new().name(format!("apply-{n}"));
            workers.commands.push(send);
            workers.threads.push(thread.spawn(move || run(&shared, store.as_mut(), &receive, &report))?);
        }
        Ok(workers)
    }

    /// Frames of the group became durable, or the group is to be looked at for the first time.
    pub fn wake(&self, group: GroupId) {
        self.send(group, Command::Wake(group));
    }

    /// The group's stream goes on after `seq`.
    pub fn rebase(&self, group: GroupId, seq: u64) {
        self.send(group, Command::Rebase(group, seq));
    }

    /// What comes after `seq` was captured here and is not applied here.
    pub fn stand(&self, group: GroupId, seq: u64) {
        self.send(group, Command::Stand(group, seq));
    }

    /// Has an order carried out; the answer comes when it is done.
    pub fn order(&self, group: GroupId, order: Order, answer: Answer) {
        self.send(group, Command::Order(group, order, answer));
    }

    fn send(&self, group: GroupId, command: Command) {
        let index = group.0 as usize % self.commands.len();
        // A worker is gone only when it panicked; its groups then stand still, and `status` shows their lag.
        let _ = self.commands[index].send(command);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for commands in &self.commands {
            let _ = commands.send(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, store: &mut dyn Store, commands: &Receiver<Command>, report: &dyn Fn(ApplyEvent)) {
    let mut shift = Shift::default();
    let mut codec = FrameCodec::new();
    loop {
        let mut orders = Vec::new();
        let mut next = match commands.recv_timeout(Duration::from_millis(shift.pause_ms())) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        while let Some(command) = next {
            match command {
                Command::Stop => return,
                Command::Wake(group) => shift.wake(group),
                Command::Rebase(group, seq) => shift.rebase(group, seq),
                Command::Stand(group, seq) => shift.stand(group, seq),
                Command::Order(group, order, answer) => orders.push((group, order, answer)),
            }
            next = commands.try_recv().ok();
        }
        let mut means = Means {
            store: &mut *store,
            frames: shared.frames.as_ref(),
            bodies: &shared.bodies,
            cursors: &shared.cursors,
            codec: &mut codec,
            report: &mut |event| report(event),
            orders: shared.orders.as_ref(),
            clock: &clock::mono,
            wall: &clock::wall_ns,
        };
        for (group, order, answer) in orders {
            let done = shift.order(group, &order, &mut means).map_err(|error| error.to_string());
            let _ = answer.send(done);
        }
        shift.turn(&mut means);
    }
}

/// What a worker works with: [`Tools`] without a time, and where the time comes from.
pub struct Means<'a> {
    pub store: &'a mut dyn Store,
    pub frames: &'a dyn Frames,
    pub bodies: &'a dyn Bodies,
    pub cursors: &'a dyn Remember,
    pub codec: &'a mut FrameCodec,
    pub report: &'a mut dyn FnMut(ApplyEvent),
    pub orders: &'a dyn Orders,
    pub clock: &'a dyn Fn() -> MonoNs,
    /// Wall time, for what people set.
    pub wall: &'a dyn Fn() -> u64,
}

impl Means<'_> {
    fn tools(&mut self) -> Tools<'_> {
        Tools {
            store: &mut *self.store,
            frames: self.frames,
            bodies: self.bodies,
            cursors: self.cursors,
            codec: &mut *self.codec,
            report: &mut *self.report,
            orders: self.orders,
            now: (self.clock)(),
            wall_ns: (self.wall)(),
        }
    }
}

/// What one worker has to do, without its thread.
#[derive(Default)]
pub struct Shift {
    appliers: BTreeMap<GroupId, GroupApplier>,
    dirty: BTreeMap<GroupId, Option<u64>>,
    stands: BTreeMap<GroupId, u64>,
    failing: bool,
}

impl Shift {
    /// How long it may sleep if nobody wakes it, in milliseconds.
    #[must_use]
    pub fn pause_ms(&self) -> u64 {
        let waiting = self.appliers.values().any(|applier| !applier.lot().is_empty());
        match (self.failing, waiting || !self.dirty.is_empty()) {
            (true, _) => APPLY_STORE_RETRY_MS,
            (false, true) => 5,
            (false, false) => APPLY_IDLE_MS,
        }
    }

    /// Frames of the group became durable, or the group is to be looked at for the first time.
    pub fn wake(&mut self, group: GroupId) {
        self.dirty.entry(group).or_default();
    }

    /// The group's stream goes on after `seq`.
    pub fn rebase(&mut self, group: GroupId, seq: u64) {
        self.stands.remove(&group);
        self.dirty.insert(group, Some(seq));
    }

    /// What comes after `seq` was captured here and is not applied here.
    pub fn stand(&mut self, group: GroupId, seq: u64) {
        self.stands.insert(group, seq);
        self.dirty.entry(group).or_default();
    }

    /// Carries out an administrator's order for a group.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub fn order(&mut self, group: GroupId, order: &Order, means: &mut Means<'_>) -> Result<Ordered, ApplyError> {
        // A group that nobody woke is none that is replayed here: it may be the one that this node is active for (seen:
        // an active node that replayed its own stream over its users' work).
        let Some(applier) = self.appliers.get_mut(&group) else {
            return GroupApplier::open(group, &mut means.tools())?.order(order, &mut means.tools());
        };
        self.dirty.entry(group).or_default();
        applier.order(order, &mut means.tools())
    }

    /// Serves every group that has something to do.
    pub fn turn(&mut self, means: &mut Means<'_>) {
        // Parked accounts, held operations and pauses have times of their own.
        let wall_ns = (means.wall)();
        for (group, _) in self.appliers.iter().filter(|(_, applier)| applier.wants_turn(wall_ns)) {
            self.dirty.entry(*group).or_default();
        }
        self.failing = false;
        for (group, rebase) in std::mem::take(&mut self.dirty) {
            let stand = self.stands.get(&group).copied();
            let mut result = serve(&mut self.appliers, group, rebase, stand, means);
            if let Err(ApplyError::Journal(error)) = &result {
                let why = error.to_string();
                if let Some(seq) = goes_on_after(error, means.frames.tail(group)) {
                    tracing::error!(group = group.0, seq, why, "frames are lost before they were applied");
                    result = serve(&mut self.appliers, group, Some(seq), None, means);
                    (means.report)(ApplyEvent::Lost { group, seq, why });
                }
            }
            if let Err(error) = result {
                tracing::warn!(group = group.0, %error, "replay stands still; it is tried again");
                self.failing = true;
                self.dirty.insert(group, rebase);
            }
        }
    }
}

/// Where the stream can be taken up again after frames were lost; `None` for an error that may pass.
fn goes_on_after(error: &ReadError, tail: u64) -> Option<u64> {
    match error {
        ReadError::Retired { oldest, .. } => Some(oldest.0.saturating_sub(1)),
        ReadError::Gap { next, .. } => Some(next.0.saturating_sub(1)),
        // What comes after a damaged frame may be readable, but nothing says where it begins.
        ReadError::Damaged { .. } => Some(tail),
        ReadError::Inside { .. } | ReadError::Io { .. } => None,
    }
}

fn serve(
    appliers: &mut BTreeMap<GroupId, GroupApplier>,
    group: GroupId,
    rebase: Option<u64>,
    stand: Option<u64>,
    means: &mut Means<'_>,
) -> Result<(), ApplyError> {
    let applier = opened(appliers, group, means)?;
    if let Some(seq) = rebase {
        applier.rebase(seq, &mut means.tools())?;
        (means.report)(ApplyEvent::Applied { group, seq });
    }
    if let Some(seq) = stand {
        applier.stand(seq);
    }
    while applier.step(&mut means.tools())? {}
    Ok(())
}

/// The group's applier; made, and told of, when it is asked for the first time.
fn opened<'a>(
    appliers: &'a mut BTreeMap<GroupId, GroupApplier>,
    group: GroupId,
    means: &mut Means<'_>,
) -> Result<&'a mut GroupApplier, ApplyError> {
    let slot = match appliers.entry(group) {
        std::collections::btree_map::Entry::Occupied(slot) => return Ok(slot.into_mut()),
        std::collections::btree_map::Entry::Vacant(slot) => slot,
    };
    let applier = GroupApplier::open(group, &mut means.tools())?;
    // Those who wait first: told the other way round, the peer would hear for a moment that all is applied, and an
    // acknowledgement is not taken back.
    for (account, parked) in applier.lot().iter() {
        (means.report)(ApplyEvent::Parked { group, account: account.to_owned(), parked: parked.clone() });
    }
    (means.report)(ApplyEvent::Applied { group, seq: applier.applied() });
    Ok(slot.insert(applier))
}
