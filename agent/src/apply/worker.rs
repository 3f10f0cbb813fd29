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
use crate::blob::cache::{Bodies, BodyCache};
use crate::clock::{self, MonoNs};
use crate::frame::FrameCodec;
use crate::journal::ReadError;
use crate::limits::{APPLY_IDLE_MS, APPLY_STORE_RETRY_MS};
use crate::store::Store;

/// Orders for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    /// Frames of the group became durable.
    Wake(GroupId),
    /// The group's stream goes on after this position.
    Rebase(GroupId, u64),
    /// This node is active from this position on.
    Stand(GroupId, u64),
    Stop,
}

/// What is the same for all workers.
pub struct Shared {
    pub frames: Box<dyn Frames + Send + Sync>,
    pub bodies: BodyCache,
    pub cursors: Cursors,
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
            }
            next = commands.try_recv().ok();
        }
        shift.turn(&mut Means {
            store: &mut *store,
            frames: shared.frames.as_ref(),
            bodies: &shared.bodies,
            cursors: &shared.cursors,
            codec: &mut codec,
            report: &mut |event| report(event),
            clock: &clock::mono,
        });
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
    pub clock: &'a dyn Fn() -> MonoNs,
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
            now: (self.clock)(),
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

    /// Serves every group that has something to do.
    pub fn turn(&mut self, means: &mut Means<'_>) {
        // Parked accounts have times of their own.
        for (group, _) in self.appliers.iter().filter(|(_, applier)| !applier.lot().is_empty()) {
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
    if let std::collections::btree_map::Entry::Vacant(slot) = appliers.entry(group) {
        let applier = GroupApplier::open(group, &mut means.tools())?;
        // Those who wait first: told the other way round, the peer would hear for a moment that all is applied, and an
        // acknowledgement is not taken back.
        for (account, parked) in applier.lot().iter() {
            (means.report)(ApplyEvent::Parked { group, account: account.to_owned(), parked: parked.clone() });
        }
        (means.report)(ApplyEvent::Applied { group, seq: applier.applied() });
        slot.insert(applier);
    }
    let Some(applier) = appliers.get_mut(&group) else { return Ok(()) };
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
