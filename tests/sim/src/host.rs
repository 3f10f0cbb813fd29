//! One machine: its clock, its disk, its store, the ring between store and agent, and what an agent remembers there.
//!
//! Owns: everything of a node that outlives its agent. What can hurt: a clock that all nodes share would hide what
//! drift does; each host has its own. Refuses: the agent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use understudy_agent::clock::{BootNs, MonoNs};
use understudy_agent::store::memory::MemoryStore;
use understudy_agent::store::{ApplyItem, DumpOptions, MailboxMark, Outcome, RaiseGap, Status, Store, StoreError};
use understudy_types::id::NodeId;
use understudy_types::op::Op;

use crate::bodies::{Central, Place};
use crate::disk::Disk;
use crate::fuse::Fuse;
use crate::memory::Memory;
use crate::plan::Plan;
use crate::ring::Ring;

/// A host's clock: it began at some time, and runs a little fast or slow.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset_ns: u64,
    drift_ppm: i64,
}

impl Clock {
    /// What CLOCK_BOOTTIME shows there, which is the same as the other here.
    #[must_use]
    pub fn boot(&self, true_ns: u64) -> BootNs {
        BootNs(self.at(true_ns).0)
    }

    /// What the host's clock shows at a true time.
    #[must_use]
    pub fn at(&self, true_ns: u64) -> MonoNs {
        let drift = i128::from(true_ns) * i128::from(self.drift_ppm) / 1_000_000;
        MonoNs(u64::try_from(i128::from(self.offset_ns) + i128::from(true_ns) + drift).unwrap_or(0))
    }
}

/// What is wrong with a store.
#[derive(Debug, Default)]
pub struct StoreTrouble {
    pub down: bool,
    /// It runs, and nothing of it goes on.
    pub hung: bool,
    /// It answers "not now" for this account.
    pub refuses: Option<String>,
    /// It dies after so many more operations of an agent.
    pub breaks_after: Option<usize>,
}

/// One machine.
#[derive(Debug)]
pub struct Host {
    pub id: NodeId,
    pub clock: Clock,
    pub disk: Disk,
    pub memory: Memory,
    pub store: MemoryStore,
    pub trouble: Arc<Mutex<StoreTrouble>>,
    pub place: Place,
    pub ring: Ring,
    /// Without power.
    pub off: bool,
    /// Nothing of it runs, or only its agent does not.
    pub frozen: Frozen,
    pub disk_slow: bool,
    /// Agents that ran here.
    pub lives: u64,
}

/// What stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    Nothing,
    Agent,
    All,
}

impl Host {
    /// A machine with empty mailboxes.
    #[must_use]
    pub fn new(plan: &Plan, index: usize, central: &Central, generation: u64) -> Self {
        let id = plan.nodes[index];
        let place = Place { node: id.get(), central: central.clone() };
        let store = MemoryStore::with_bodies(Arc::new(place.clone()));
        plan.accounts.iter().for_each(|account| store.add_account(&account.name));
        Self {
            id,
            clock: Clock { offset_ns: 1_000_000_000 * (index as u64 * 1_000 + 17), drift_ppm: plan.drift_ppm[index] },
            disk: Disk::new(plan.segment_bytes, PathBuf::from(format!("node{id}/journal"))),
            memory: Memory::default(),
            store,
            trouble: Arc::default(),
            place,
            ring: Ring::new(generation, plan.ring_capacity, u64::from(plan.shared)),
            off: false,
            frozen: Frozen::Nothing,
            disk_slow: false,
            lives: 0,
        }
    }

    /// The store's troubles.
    pub fn trouble(&self) -> MutexGuard<'_, StoreTrouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its store's processes run.
    #[must_use]
    pub fn store_runs(&self) -> bool {
        !self.off && self.frozen != Frozen::All && !self.trouble().down && !self.trouble().hung
    }
}

/// The store as an agent sees it.
#[derive(Debug)]
pub struct Door {
    pub store: MemoryStore,
    pub trouble: Arc<Mutex<StoreTrouble>>,
    pub fuse: Fuse,
}

impl Door {
    fn open(&self) -> Result<MutexGuard<'_, StoreTrouble>, StoreError> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.hung && !self.fuse.is_burnt() {
            return Err(StoreError::TimedOut { timeout_ms: 5_000 });
        }
        if trouble.down || self.fuse.is_burnt() {
            let source = std::io::ErrorKind::ConnectionRefused.into();
            return Err(StoreError::Unreachable { path: PathBuf::from("store"), source });
        }
        Ok(trouble)
    }
}

fn broken(why: &str) -> StoreError {
    StoreError::Broken(std::io::Error::other(why.to_owned()))
}

impl Store for Door {
    fn apply(&mut self, account: &str, items: &[ApplyItem]) -> Result<Vec<Outcome>, StoreError> {
        drop(self.open()?);
        let trouble = self.trouble.clone();
        let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.refuses.as_deref() == Some(account) {
            let first = Outcome { status: Status::Temporary, detail: "not now".into() };
            let rest = Outcome { status: Status::NotTried, detail: String::new() };
            return Ok(std::iter::once(first).chain(std::iter::repeat(rest)).take(items.len()).collect());
        }
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            if trouble.breaks_after == Some(0) {
                trouble.breaks_after = None;
                return Err(broken("the store died"));
            }
            trouble.breaks_after = trouble.breaks_after.map(|left| left - 1);
            if !self.fuse.burn() {
                return Err(broken("the agent died"));
            }
            let failed = outcomes.last().is_some_and(|outcome: &Outcome| outcome.status > Status::AlreadySo);
            outcomes.extend(match failed {
                true => vec![Outcome { status: Status::NotTried, detail: String::new() }],
                false => self.store.apply(account, std::slice::from_ref(item))?,
            });
        }
        Ok(outcomes)
    }

    fn dump(&mut self, account: &str, options: DumpOptions, sink: &mut dyn FnMut(Op)) -> Result<(), StoreError> {
        drop(self.open()?);
        self.store.dump(account, options, sink)
    }

    fn accounts(&mut self, sink: &mut dyn FnMut(String)) -> Result<(), StoreError> {
        self.store.accounts(sink)
    }

    fn raise(&mut self, account: &str, gap: RaiseGap) -> Result<Vec<MailboxMark>, StoreError> {
        drop(self.open()?);
        if !self.fuse.burn() {
            return Err(broken("the agent died"));
        }
        self.store.raise(account, gap)
    }

    fn kick(&mut self, accounts: &[String]) -> Result<u64, StoreError> {
        drop(self.open()?);
        self.store.kick(accounts)
    }

    fn version(&mut self) -> Result<String, StoreError> {
        self.store.version()
    }
}
