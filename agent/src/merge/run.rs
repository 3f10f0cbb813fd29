//! Bringing to the active what only this node had: the threads that do it, account by account.
//!
//! Owns: the threads, what they share, and what is told. The steps of one account are in [`super::account`]. What can
//! hurt: a crash; what is merged is noted, and every step may be repeated. An account that fails; it is told and tried
//! again, and all others go on. Refuses: knowing how peers are reached ([`Ask`]), and what follows a merge.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use serde::{Deserialize, Serialize};
use understudy_types::id::{Epoch, GroupId, NodeId};

use super::account::Account;
use super::forks::ForksError;
use super::progress::{Kept, Progress};
use super::queue::{Job, Queue};
use super::report::{self, Count, Line, Report};
use crate::blob::BlobStore;
use crate::blob::spool::Spool;
use crate::clock::{self, MonoNs};
use crate::limits::{MERGE_IDLE_MS, MERGE_LIST_RETRY_MS, MERGES_AT_ONCE};
use crate::store::{Store, StoreError};

/// A way to ask peers. Blocks until the whole answer is there, or a time-out of its own.
pub trait Ask: Send + Sync {
    /// # Errors
    /// Why there is no answer, for people.
    fn ask(&self, peer: NodeId, kind: u16, body: Vec<u8>) -> Result<Vec<u8>, String>;
}

/// What is to be merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub group: GroupId,
    /// The last epoch in which this node was active.
    pub was: Epoch,
    /// The epoch and the node that the group has now.
    pub epoch: Epoch,
    pub active: NodeId,
    /// Other nodes that may have been active in between: they may know where the histories parted.
    pub peers: Vec<NodeId>,
    /// Accounts of the group that this node knows of. Those that its store lists are added.
    pub accounts: Vec<String>,
}

/// What is told of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeEvent {
    /// The account is merged.
    Account { group: GroupId, account: String, brought: u32, conflicts: u32 },
    /// It cannot be merged now, and is tried again. Without an account: none of the group can.
    Waiting { group: GroupId, account: String, why: String },
    /// All accounts of the group are merged.
    Done { group: GroupId, epoch: Epoch, accounts: u32, brought: u32, conflicts: u32 },
}

/// Says of which group an account is, if it is replicated.
pub type GroupOf = Arc<dyn Fn(&str) -> Option<GroupId> + Send + Sync>;

/// What a merge needs.
#[derive(Clone)]
pub struct Tools {
    /// Makes a connection to this node's store; its dumps with bodies put those into `spool`.
    pub connect: Arc<dyn Fn() -> Box<dyn Store> + Send + Sync>,
    pub peers: Arc<dyn Ask>,
    pub storage: Arc<dyn BlobStore>,
    pub spool: Spool,
    /// Folder of reports and progress.
    pub directory: PathBuf,
    pub group_of: GroupOf,
}

/// How a merge stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    pub kept: Kept,
    pub merged: u32,
    pub brought: u32,
    pub conflicts: u32,
    /// Accounts that failed and are tried again, and why.
    pub waiting: BTreeMap<String, String>,
}

enum Command {
    Begin(Order),
    Cancel(GroupId),
    Ended(Job, Result<Count, String>),
    Stop,
}

pub(super) type Reports = Mutex<BTreeMap<(GroupId, Epoch), Report>>;
type Waits = BTreeMap<(GroupId, Epoch), BTreeMap<String, String>>;

/// What the threads share.
pub(super) struct Shared {
    pub tools: Tools,
    progress: Progress,
    pub reports: Reports,
    waiting: Mutex<Waits>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever stands in them is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads; dropping this ends them after the accounts at hand.
pub struct Merger {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Merger {
    /// Starts the threads. `tell` is called from one of them and may block it.
    ///
    /// # Errors
    /// When the folder or its files cannot be used, or a thread cannot be made.
    pub fn start(tools: Tools, tell: impl Fn(MergeEvent) + Send + 'static) -> Result<Self, ForksError> {
        let io = |error: std::io::Error| ForksError::Database(redb::Error::Io(error));
        std::fs::create_dir_all(&tools.directory).map_err(io)?;
        let progress = Progress::open(&tools.directory.join("progress.redb"))?;
        let shared = Arc::new(Shared { tools, progress, reports: Mutex::default(), waiting: Mutex::default() });
        let (commands, inbox) = unbounded();
        let (jobs, orders) = unbounded::<(Order, Job)>();
        let mut threads = Vec::new();
        for n in 0..MERGES_AT_ONCE {
            let (shared, orders, commands) = (shared.clone(), orders.clone(), commands.clone());
            let work = move || {
                while let Ok((order, job)) = orders.recv() {
                    let result = Account::new(&shared, &order, &job).merge();
                    if commands.send(Command::Ended(job, result)).is_err() {
                        return;
                    }
                }
            };
            threads.push(std::thread::Builder::new().name(format!("merge-{n}")).spawn(work).map_err(io)?);
        }
        let coordinator = Coordinator {
            shared: shared.clone(),
            queue: Queue::default(),
            orders: BTreeMap::new(),
            unlisted: Vec::new(),
            jobs,
            tell: Box::new(tell),
        };
        let thread = std::thread::Builder::new().name("merge".into());
        threads.push(thread.spawn(move || coordinator.run(&inbox)).map_err(io)?);
        Ok(Self { commands, shared, threads })
    }

    /// Merges a group; what was merged of the same order before counts. A newer epoch of the group replaces an older.
    pub fn begin(&self, order: Order) {
        // The thread is gone only at shutdown.
        let _ = self.commands.send(Command::Begin(order));
    }

    /// The group is not to be merged any more: this node is active for it again, or keeps nothing of it.
    pub fn cancel(&self, group: GroupId) {
        let _ = self.commands.send(Command::Cancel(group));
    }

    /// All merges that are kept, and how they stand.
    ///
    /// # Errors
    /// When their file cannot be read.
    pub fn stands(&self) -> Result<Vec<Stand>, ForksError> {
        let waiting = locked(&self.shared.waiting).clone();
        let mut stands = Vec::new();
        for ((group, epoch), kept) in self.shared.progress.merges()? {
            let accounts = self.shared.progress.accounts(group, epoch)?;
            stands.push(Stand {
                kept,
                merged: u32::try_from(accounts.len()).unwrap_or(u32::MAX),
                brought: accounts.values().map(|(brought, _)| brought).sum(),
                conflicts: accounts.values().map(|(_, conflicts)| conflicts).sum(),
                waiting: waiting.get(&(group, epoch)).cloned().unwrap_or_default(),
            });
        }
        Ok(stands)
    }

    /// The report of a merge.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn report(&self, group: GroupId, epoch: Epoch) -> std::io::Result<Vec<Line>> {
        report::read(&self.shared.tools.directory, group, epoch)
    }
}

impl Drop for Merger {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The thread that says which account is next.
struct Coordinator {
    shared: Arc<Shared>,
    queue: Queue,
    orders: BTreeMap<GroupId, Order>,
    /// Groups whose accounts the store could not tell yet, and when it is asked again.
    unlisted: Vec<(MonoNs, Order)>,
    jobs: Sender<(Order, Job)>,
    tell: Box<dyn Fn(MergeEvent) + Send>,
}

impl Coordinator {
    fn run(mut self, inbox: &Receiver<Command>) {
        loop {
            self.list();
            let now = clock::mono();
            for job in self.queue.start(now) {
                if let Some(order) = self.orders.get(&job.group) {
                    let _ = self.jobs.send((order.clone(), job));
                }
            }
            let due = self.unlisted.iter().map(|(at, _)| *at).chain(self.queue.due()).min();
            let pause = due.map_or(MERGE_IDLE_MS, |due| due.since_ns(now) / 1_000_000 + 1);
            match inbox.recv_timeout(Duration::from_millis(pause.min(MERGE_IDLE_MS))) {
                Ok(Command::Begin(order)) => self.begin(order),
                Ok(Command::Cancel(group)) => self.forget(group),
                Ok(Command::Ended(job, result)) => self.ended(&job, result),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn forget(&mut self, group: GroupId) {
        self.queue.cancel(group);
        self.orders.remove(&group);
        self.unlisted.retain(|(_, order)| order.group != group);
        locked(&self.shared.reports).retain(|(of, _), _| *of != group);
        locked(&self.shared.waiting).retain(|(of, _), _| *of != group);
    }

    fn begin(&mut self, order: Order) {
        let listing = |(_, unlisted): &(MonoNs, Order)| (unlisted.group, unlisted.epoch) == (order.group, order.epoch);
        if self.queue.is_current(order.group, order.epoch) || self.unlisted.iter().any(listing) {
            return;
        }
        self.forget(order.group);
        self.unlisted.push((clock::mono(), order));
    }

    /// Asks the store for accounts that nobody heard of while this agent ran. One that cannot list them goes by what is
    /// known; one that cannot be asked at all is asked again.
    fn list(&mut self) {
        let now = clock::mono();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unlisted).into_iter().partition(|of| of.0 <= now);
        self.unlisted = later;
        for (_, mut order) in due {
            let tools = &self.shared.tools;
            let mut names: BTreeSet<String> = order.accounts.iter().cloned().collect();
            let of_group = |name: &String| (tools.group_of)(name) == Some(order.group);
            let listed = (tools.connect)().accounts(&mut |name| {
                names.extend(Some(name).filter(of_group));
            });
            order.accounts = names.into_iter().collect();
            match listed {
                Ok(()) => self.merge(order),
                Err(StoreError::Failed { detail, .. }) => {
                    tracing::warn!(
                        group = order.group.0,
                        detail,
                        "the store cannot list its accounts; those known are merged"
                    );
                    self.merge(order);
                }
                Err(error) => {
                    let (group, account, why) = (order.group, String::new(), format!("this node's store: {error}"));
                    tracing::warn!(group = group.0, why, "a group cannot be merged yet; it is tried again");
                    self.unlisted.push((now.after(Duration::from_millis(MERGE_LIST_RETRY_MS)), order));
                    (self.tell)(MergeEvent::Waiting { group, account, why });
                }
            }
        }
    }

    fn merge(&mut self, order: Order) {
        let name = report::name(order.group, order.epoch);
        let merged = self.shared.progress.begin(&order, clock::wall_ns()).and_then(|forgotten| {
            for (group, epoch) in forgotten {
                // One that stays is of no harm.
                let _ = report::remove(&self.shared.tools.directory, group, epoch);
            }
            self.shared.progress.accounts(order.group, order.epoch)
        });
        let merged = merged.unwrap_or_else(|error| {
            tracing::error!(merge = name, %error, "the progress of a merge cannot be noted; it begins anew");
            BTreeMap::new()
        });
        let left: Vec<String> =
            order.accounts.iter().filter(|account| !merged.contains_key(*account)).cloned().collect();
        tracing::info!(merge = name, accounts = left.len(), "a group is merged into its active node");
        self.queue.begin(order.group, order.epoch, left);
        self.orders.insert(order.group, order.clone());
        if self.queue.is_done(order.group) {
            self.done(order.group, order.epoch);
        }
    }

    fn ended(&mut self, job: &Job, result: Result<Count, String>) {
        let (group, account) = (job.group, job.account.clone());
        if !self.queue.is_current(group, job.epoch) {
            self.queue.ended(job, true, clock::mono());
            return;
        }
        let result = result.and_then(|count| {
            let noted = self.shared.progress.merged(group, job.epoch, &account, count.brought, count.conflicts);
            noted.map(|()| count).map_err(|error| error.to_string())
        });
        let done = result.is_ok();
        {
            let mut waiting = locked(&self.shared.waiting);
            let waiting = waiting.entry((group, job.epoch)).or_default();
            match &result {
                Ok(_) => waiting.remove(&account),
                Err(why) => waiting.insert(account.clone(), why.clone()),
            };
        }
        let event = match result {
            Ok(Count { brought, conflicts }) => MergeEvent::Account { group, account, brought, conflicts },
            Err(why) => {
                tracing::warn!(
                    group = group.0,
                    account,
                    why,
                    failed = job.failed,
                    "an account cannot be merged; it is tried again"
                );
                MergeEvent::Waiting { group, account, why }
            }
        };
        (self.tell)(event);
        if self.queue.ended(job, done, clock::mono()) {
            self.done(group, job.epoch);
        }
    }

    fn done(&mut self, group: GroupId, epoch: Epoch) {
        let merged = self.shared.progress.accounts(group, epoch).unwrap_or_default();
        if let Err(error) = self.shared.progress.done(group, epoch, clock::wall_ns()) {
            tracing::warn!(group = group.0, %error, "cannot note that a merge is done");
        }
        if let Some(report) = locked(&self.shared.reports).get(&(group, epoch)).filter(|report| report.past_bound() > 0)
        {
            tracing::warn!(group = group.0, left_out = report.past_bound(), "a merge's report is past its bound");
        }
        self.forget(group);
        let accounts = u32::try_from(merged.len()).unwrap_or(u32::MAX);
        let (brought, conflicts) = merged.values().fold((0u32, 0u32), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        tracing::info!(merge = report::name(group, epoch), accounts, brought, conflicts, "a group is merged");
        (self.tell)(MergeEvent::Done { group, epoch, accounts, brought, conflicts });
    }
}
