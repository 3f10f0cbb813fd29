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
use super::cursor::Cursors;
use crate::blob::cache::BodyCache;
use crate::clock;
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
    let mut codec = FrameCodec::new();
    let mut appliers: BTreeMap<GroupId, GroupApplier> = BTreeMap::new();
    let mut dirty: BTreeMap<GroupId, Option<u64>> = BTreeMap::new();
    let mut stands: BTreeMap<GroupId, u64> = BTreeMap::new();
    let mut failing = false;
    loop {
        let waiting = appliers.values().any(|applier| !applier.lot().is_empty());
        let pause = match (failing, waiting || !dirty.is_empty()) {
            (true, _) => APPLY_STORE_RETRY_MS,
            (false, true) => 5,
            (false, false) => APPLY_IDLE_MS,
        };
        let mut next = match commands.recv_timeout(Duration::from_millis(pause)) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        while let Some(command) = next {
            match command {
                Command::Stop => return,
                Command::Wake(group) => drop(dirty.entry(group).or_default()),
                Command::Rebase(group, seq) => {
                    stands.remove(&group);
                    dirty.insert(group, Some(seq));
                }
                Command::Stand(group, seq) => {
                    stands.insert(group, seq);
                    dirty.entry(group).or_default();
                }
            }
            next = commands.try_recv().ok();
        }
        // Parked accounts have times of their own.
        for (group, _) in appliers.iter().filter(|(_, applier)| !applier.lot().is_empty()) {
            dirty.entry(*group).or_default();
        }
        failing = false;
        for (group, rebase) in std::mem::take(&mut dirty) {
            let mut sink = |event| report(event);
            let mut tools = Tools {
                store: &mut *store,
                frames: shared.frames.as_ref(),
                bodies: &shared.bodies,
                cursors: &shared.cursors,
                codec: &mut codec,
                report: &mut sink,
                now: clock::mono(),
            };
            let stand = stands.get(&group).copied();
            let mut result = serve(&mut appliers, group, rebase, stand, &mut tools);
            if let Err(ApplyError::Journal(error)) = &result {
                let why = error.to_string();
                if let Some(seq) = goes_on_after(error, shared.frames.tail(group)) {
                    tracing::error!(group = group.0, seq, why, "frames are lost before they were applied");
                    result = serve(&mut appliers, group, Some(seq), None, &mut tools);
                    report(ApplyEvent::Lost { group, seq, why });
                }
            }
            if let Err(error) = result {
                tracing::warn!(group = group.0, %error, "replay stands still; it is tried again");
                failing = true;
                dirty.insert(group, rebase);
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
    tools: &mut Tools<'_>,
) -> Result<(), ApplyError> {
    if let std::collections::btree_map::Entry::Vacant(slot) = appliers.entry(group) {
        let applier = GroupApplier::open(group, tools)?;
        // Those who wait first: told the other way round, the peer would hear for a moment that all is applied, and an
        // acknowledgement is not taken back.
        for (account, parked) in applier.lot().iter() {
            (tools.report)(ApplyEvent::Parked { group, account: account.to_owned(), parked: parked.clone() });
        }
        (tools.report)(ApplyEvent::Applied { group, seq: applier.applied() });
        slot.insert(applier);
    }
    let Some(applier) = appliers.get_mut(&group) else { return Ok(()) };
    if let Some(seq) = rebase {
        applier.rebase(seq, tools)?;
        (tools.report)(ApplyEvent::Applied { group, seq });
    }
    if let Some(seq) = stand {
        applier.stand(seq);
    }
    while applier.step(tools)? {
        tools.now = clock::mono();
    }
    Ok(())
}
