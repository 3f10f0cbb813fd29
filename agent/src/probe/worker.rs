//! The probe thread: looks four times a second, a sample once a second, events as they come.
//!
//! Owns: the order in which maps are read. What can hurt: being late; a sample names its own window, so rates stay
//! right. Refuses: blocking on a channel.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use understudy_types::probe::Row;

use super::kernel::KernelProbe;
use super::proc_fallback::BlockedWatch;
use super::sample::{Cost, EventCounts, InFlight, KernelEvent, LostCounts, ProbeSample, Source, translate};
use super::stall::{descriptor_waits_for_peer, oldest};
use super::tree::{self, TreeReader};
use super::{Look, Looks, Order, devices_of};
use crate::clock::{self, MonoNs};

/// Looks for stalls.
const LOOK: Duration = Duration::from_millis(250);
/// Looks per sample.
const LOOKS: u32 = 4;
/// Samples between two clean-ups of the maps.
const CLEAN_SAMPLES: u64 = 10;
/// Rounds of looking for children that were forked while the tree was being entered.
const SEED_ROUNDS: u32 = 8;
/// Events taken in one go, so that a flood of them cannot keep the thread from its samples.
const EVENTS_PER_LOOK: u32 = 65_536;

pub(super) struct Worker {
    kernel: Option<KernelProbe>,
    blind: Vec<String>,
    blind_devices: Vec<String>,
    samples: Sender<ProbeSample>,
    events: Sender<KernelEvent>,
    looks: Looks,
    store_pid: u32,
    reader: TreeReader,
    blocked: BlockedWatch,
    counts: EventCounts,
    lost: LostCounts,
    in_flight: u64,
    oldest: Option<InFlight>,
    oldest_block_ns: u64,
    longest_blocked_ns: u64,
    thread_ns_before: u64,
    sample_before: MonoNs,
    sampled: u64,
}

impl Worker {
    pub(super) fn new(
        kernel: Option<KernelProbe>,
        blind: Vec<String>,
        samples: Sender<ProbeSample>,
        events: Sender<KernelEvent>,
        looks: Looks,
    ) -> Self {
        Self {
            kernel,
            blind,
            blind_devices: Vec::new(),
            samples,
            events,
            looks,
            store_pid: 0,
            reader: TreeReader::default(),
            blocked: BlockedWatch::default(),
            counts: EventCounts::default(),
            lost: LostCounts::default(),
            in_flight: 0,
            oldest: None,
            oldest_block_ns: 0,
            longest_blocked_ns: 0,
            thread_ns_before: 0,
            sample_before: clock::mono(),
            sampled: 0,
        }
    }

    /// Enters the tree. The root is entered before its children are looked up: whoever is forked by an entered
    /// process is followed in the kernel, and whoever was forked before is found by looking until nobody is new.
    pub(super) fn set_store(&mut self, pid: Option<u32>) {
        self.store_pid = pid.unwrap_or(0);
        let Some(kernel) = &mut self.kernel else { return };
        let Some(pid) = pid else {
            kernel.retarget(&BTreeSet::new());
            return;
        };
        let mut known = BTreeSet::from([pid]);
        known.extend(tree::descendants(pid));
        self.lost.agent += kernel.retarget(&known) as u64;
        for _ in 0..SEED_ROUNDS {
            let new: BTreeSet<u32> = tree::descendants(pid).difference(&kernel.tracked_pids()).copied().collect();
            if new.is_empty() {
                break;
            }
            self.lost.agent += kernel.track(&new) as u64;
        }
    }

    pub(super) fn set_paths(&mut self, paths: &[PathBuf]) {
        let (found, without) = devices_of(paths);
        self.blind_devices = without;
        if let Some(kernel) = &mut self.kernel {
            let beyond = kernel.set_devices(&found);
            if beyond > 0 {
                self.blind_devices.push(format!("block requests of {beyond} more devices"));
            }
        }
    }

    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        let mut due = clock::mono().after(LOOK);
        let mut looks = 0;
        loop {
            loop {
                match orders.try_recv() {
                    Ok(Order::Store(pid)) => self.set_store(pid),
                    Ok(Order::Paths(paths)) => self.set_paths(&paths),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.take_events();
            let now = clock::mono();
            if now < due {
                self.wait(due.since_ns(now));
                continue;
            }
            self.look(now);
            looks += 1;
            if looks >= LOOKS {
                looks = 0;
                self.sample(now);
            }
            // After a long pause the missed looks are not made up for.
            due = if now.since_ns(due) > 1_000_000_000 { now.after(LOOK) } else { due.after(LOOK) };
        }
    }

    fn wait(&self, ns: u64) {
        let ms = u16::try_from(ns.div_ceil(1_000_000)).unwrap_or(u16::MAX);
        match &self.kernel {
            Some(kernel) => {
                let mut fds = [PollFd::new(kernel.events_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(ms)).is_err() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            None => std::thread::sleep(Duration::from_nanos(ns)),
        }
    }

    fn take_events(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        for _ in 0..EVENTS_PER_LOOK {
            let Some(item) = kernel.next_event() else { break };
            let Some((kind, event)) = item else {
                self.lost.agent += 1;
                continue;
            };
            if let Some(event) = translate(kind, &event, self.store_pid, &mut self.counts)
                && let Err(TrySendError::Full(_)) = self.events.try_send(event)
            {
                self.lost.agent += 1;
            }
        }
    }

    fn look(&mut self, now: MonoNs) {
        let Some(kernel) = &self.kernel else {
            let pids = tree::descendants(self.store_pid);
            self.longest_blocked_ns = self.longest_blocked_ns.max(self.blocked.look(&pids, now.0));
            return;
        };
        let mut tasks = kernel.tasks();
        let (in_flight, found) = oldest(&tasks, now.0, descriptor_waits_for_peer);
        self.in_flight = in_flight;
        let mut work = found.clone();
        if work.as_ref().is_some_and(|call| call.class == Row::Lock.name()) {
            tasks.retain(|(_, task)| task.class != Row::Lock as u32);
            work = oldest(&tasks, now.0, descriptor_waits_for_peer).1;
        }
        self.looks.put(Look { at: now, oldest: work });
        if found.as_ref().map_or(0, |call| call.age_ns) > self.oldest.as_ref().map_or(0, |call| call.age_ns) {
            self.oldest = found;
        }
        self.oldest_block_ns = self.oldest_block_ns.max(kernel.oldest_block_ns(now.0));
    }

    fn sample(&mut self, now: MonoNs) {
        let pids = match &mut self.kernel {
            Some(kernel) => {
                let is_cleaning = self.sampled % CLEAN_SAMPLES == CLEAN_SAMPLES - 1;
                if is_cleaning {
                    kernel.forget_dead();
                }
                if is_cleaning || !kernel.follows_children() {
                    // Also finds again a child that the full map once refused.
                    let tree = tree::descendants(self.store_pid);
                    let new = tree.difference(&kernel.tracked_pids()).copied().collect();
                    self.lost.agent += kernel.track(&new) as u64;
                }
                kernel.tracked_pids()
            }
            None => tree::descendants(self.store_pid),
        };
        self.sampled += 1;
        let thread_ns = own_cpu_ns();
        let mut cost = Cost { thread_ns: thread_ns.saturating_sub(self.thread_ns_before), ..Cost::default() };
        self.thread_ns_before = thread_ns;
        let mut rows = Vec::new();
        if let Some(kernel) = &mut self.kernel {
            rows = kernel.rows();
            kernel.read_lost(&mut self.lost);
            (cost.kernel_runs, cost.kernel_ns) = kernel.cost();
            cost.kernel_is_measured = cost.kernel_runs > 0;
            cost.map_bytes = kernel.map_bytes();
        }
        let sample = ProbeSample {
            at_ns: now.0,
            window_ns: now.since_ns(self.sample_before),
            source: if self.kernel.is_some() { Source::Kernel } else { Source::Proc },
            store_pid: self.store_pid,
            store_is_alive: self.store_pid != 0 && tree::is_alive(self.store_pid),
            rows,
            in_flight: self.in_flight,
            oldest: self.oldest.take(),
            oldest_block_ns: std::mem::take(&mut self.oldest_block_ns),
            longest_blocked_ns: std::mem::take(&mut self.longest_blocked_ns),
            tree: self.reader.read(&pids),
            events: std::mem::take(&mut self.counts),
            lost: self.lost,
            cost,
            blind: self.blind.iter().chain(&self.blind_devices).cloned().collect(),
        };
        self.sample_before = now;
        if let Err(TrySendError::Full(_)) = self.samples.try_send(sample) {
            self.lost.samples += 1;
        }
    }
}

/// Processor time of this thread; 0 when the kernel does not tell.
fn own_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0)
}
