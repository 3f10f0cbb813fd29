//! Observes the store's process tree: kernel programs where they can be had, /proc where not.
//!
//! Owns: the probe thread. It looks for stalls four times a second, hands on one [`ProbeSample`] a second and each
//! [`KernelEvent`] at once, over bounded channels. What can hurt: a reader that does not read; then the newest is
//! dropped and counted. Refuses: judging figures, and stopping for lack of a permission; what cannot be seen is
//! named in the sample.

pub mod btf;
pub mod devices;
pub mod histogram;
pub mod hooks;
pub mod kernel;
pub mod proc_fallback;
pub mod sample;
pub mod stall;
pub mod syscalls;
pub mod tree;

mod worker;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::queue::ArrayQueue;

pub use self::hooks::Capability;
pub use self::sample::{InFlight, KernelEvent, ProbeSample, RowSample, Source};

use self::hooks::blind_spots;
use self::kernel::KernelProbe;
use crate::clock::MonoNs;
use crate::limits::{PROBE_EVENTS_MAX, PROBE_SAMPLES_MAX};

/// The kernel programs this agent was built with; empty when it was built without.
pub static EMBEDDED_OBJECT: &[u8] = embedded::OBJECT;

/// Written by the build script.
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/kernel_programs.rs"));
}

/// What to observe.
#[derive(Clone, Debug, Default)]
pub struct ProbeConfig {
    /// The store's master process; `None` while it is not known.
    pub store_pid: Option<u32>,
    /// Folders of the store; their devices are observed.
    pub store_paths: Vec<PathBuf>,
    /// Lets the kernel time its programs (about 20 ns per run).
    pub measure_cost: bool,
    /// `false`: do not use kernel programs, as if there was no permission.
    pub without_kernel_programs: bool,
}

/// Why the probe could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No thread could be made.
    #[error("cannot start the probe thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What one look for stalls found, four times a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// When it was looked.
    pub at: MonoNs,
    /// The oldest call in flight that does work. Waits for a lock do not count here: whoever holds it may have much to
    /// do, or may be a client's slow session.
    pub oldest: Option<InFlight>,
}

/// Where the newest look lies for its one reader; the newer replaces the older. Empty without kernel programs.
#[derive(Clone, Debug)]
pub struct Looks(Arc<ArrayQueue<Look>>);

impl Looks {
    /// An empty place.
    fn new() -> Self {
        Self(Arc::new(ArrayQueue::new(1)))
    }

    fn put(&self, look: Look) {
        let _ = self.0.force_push(look);
    }

    /// The newest look, once.
    #[must_use]
    pub fn take(&self) -> Option<Look> {
        self.0.pop()
    }
}

/// What the thread is told.
enum Order {
    Store(Option<u32>),
    Paths(Vec<PathBuf>),
}

/// A running probe. Dropping it stops the thread and detaches the programs.
#[derive(Debug)]
pub struct Probe {
    /// One sample a second. At most [`PROBE_SAMPLES_MAX`] wait; past it the newest is dropped and counted.
    pub samples: Receiver<ProbeSample>,
    /// Exits, signals, memory kills, block errors. At most [`PROBE_EVENTS_MAX`] wait; past it the newest is dropped
    /// and counted.
    pub events: Receiver<KernelEvent>,
    /// What is in use and what is not, by hook.
    pub capabilities: Vec<Capability>,
    /// Where the figures come from.
    pub source: Source,
    /// The newest look for stalls.
    pub looks: Looks,
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Loads the kernel programs, or goes on without, and starts the thread.
    ///
    /// # Errors
    /// Only when no thread can be made.
    pub fn start(config: ProbeConfig) -> Result<Self, ProbeError> {
        let mut capabilities = Vec::new();
        let kernel = if config.without_kernel_programs {
            let remedy = "set `kernel_programs = true` in the section `probe`";
            capabilities.push(Capability::missing("object", "switched off by the configuration", remedy));
            None
        } else {
            KernelProbe::load(EMBEDDED_OBJECT, config.measure_cost, &mut capabilities).ok()
        };
        let source = if kernel.is_some() { Source::Kernel } else { Source::Proc };
        let blind = match source {
            Source::Kernel => {
                let mut blind = blind_spots(&capabilities);
                blind.push("io_uring operations and memory-mapped writes of the store".to_owned());
                blind
            }
            Source::Proc => proc_fallback::BLIND.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (sample_sender, samples) = bounded(PROBE_SAMPLES_MAX);
        let (event_sender, events) = bounded(PROBE_EVENTS_MAX);
        let (orders, order_receiver) = bounded(16);
        let looks = Looks::new();
        let mut worker = worker::Worker::new(kernel, blind, sample_sender, event_sender, looks.clone());
        worker.set_paths(&config.store_paths);
        worker.set_store(config.store_pid);
        let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(move || worker.run(&order_receiver))?;
        Ok(Self { samples, events, capabilities, source, looks, orders: Some(orders), thread: Some(thread) })
    }

    /// The store was started again (or is gone): follow this process tree from now on.
    pub fn set_store_pid(&self, pid: Option<u32>) {
        self.order(Order::Store(pid));
    }

    /// The store's folders are now these.
    pub fn set_store_paths(&self, paths: Vec<PathBuf>) {
        self.order(Order::Paths(paths));
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread takes orders at least every 250 ms; it is gone only while the probe is dropped.
            let _ = orders.send(order);
        }
    }

    /// Tries every hook and lets go again, for `understudy doctor`.
    #[must_use]
    pub fn check() -> Vec<Capability> {
        let mut capabilities = Vec::new();
        drop(KernelProbe::load(EMBEDDED_OBJECT, false, &mut capabilities));
        capabilities
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The devices of some folders, and a sentence for each that has none.
#[must_use]
pub fn devices_of(paths: &[PathBuf]) -> (BTreeSet<u32>, Vec<String>) {
    let mut found = BTreeSet::new();
    let mut without = Vec::new();
    for path in paths {
        match devices::of_path(path) {
            Ok(devices) => found.extend(devices),
            Err(reason) => without.push(format!("block requests: {reason}")),
        }
    }
    (found, without)
}
