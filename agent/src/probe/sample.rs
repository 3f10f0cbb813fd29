//! What the probe hands on once a second, and the events it hands on at once.
//!
//! Owns: plain figures with units in their names. Refuses: judging them; `signal` and what follows it do.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use understudy_types::probe::{Event, EventKind, Lost, Row};

use super::histogram::Distribution;
use super::tree::TreeSample;

/// Where the figures come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Kernel programs.
    Kernel,
    /// /proc alone.
    #[default]
    Proc,
}

/// One row in one second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSample {
    /// Name of the row, see [`Row::name`].
    pub row: Cow<'static, str>,
    /// Times of what completed.
    #[serde(flatten)]
    pub times: Distribution,
    /// Failures in the second.
    pub errors: u64,
    /// Failures by error number (block rows: by block status); 133 stands for every other number.
    pub errnos: Vec<(u16, u64)>,
}

/// A call in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Name of the program.
    pub comm: String,
    /// Class of the call, see [`Row::name`].
    pub class: Cow<'static, str>,
    /// Number of the call.
    pub syscall: u32,
    /// How long it has been in the call.
    pub age_ns: u64,
}

/// What was lost since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostCounts {
    /// Events dropped because the ring buffer was full.
    pub event: u64,
    /// Threads not measured because the map was full.
    pub task: u64,
    /// Processes not followed because the map was full.
    pub process: u64,
    /// Block requests not timed because the map was full.
    pub block: u64,
    /// Kernel fields that could not be read.
    pub unreadable: u64,
    /// Events the agent could not decode, or could not hand on because their queue was full.
    pub agent: u64,
    /// Samples that the agent could not hand on because their queue was full.
    pub samples: u64,
}

impl LostCounts {
    /// Everything together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.event + self.task + self.process + self.block + self.unreadable + self.agent + self.samples
    }

    pub(super) fn set(&mut self, what: Lost, count: u64) {
        match what {
            Lost::Event => self.event = count,
            Lost::Task => self.task = count,
            Lost::Tracked => self.process = count,
            Lost::Block => self.block = count,
            Lost::Unreadable => self.unreadable = count,
        }
    }
}

/// Ends and failures in the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Processes of the store that began.
    pub forks: u64,
    /// Processes of the store that ended, however.
    pub exits: u64,
    /// Of those, with a status other than 0.
    pub exits_failed: u64,
    /// Of those, by a signal.
    pub exits_by_signal: u64,
    /// Signals of the mask raised for the store.
    pub signals: u64,
    /// Victims of memory shortage in the store.
    pub oom_kills: u64,
    /// The same anywhere on the node.
    pub oom_kills_node: u64,
    /// Failed requests to the store's devices.
    pub block_errors: u64,
}

/// What observing costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Runs of the kernel programs in the second; 0 when the kernel does not count them.
    pub kernel_runs: u64,
    /// Time of those runs.
    pub kernel_ns: u64,
    /// Whether the kernel counts them (`kernel.bpf_stats_enabled`, or `measure_cost` in the configuration).
    pub kernel_is_measured: bool,
    /// Processor time of the probe's own thread in the second.
    pub thread_ns: u64,
    /// Memory of the kernel maps.
    pub map_bytes: u64,
}

/// One second of the probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSample {
    /// Monotonic time of the reading.
    pub at_ns: u64,
    /// Time since the reading before.
    pub window_ns: u64,
    /// Where the figures come from.
    pub source: Source,
    /// The store's master process; 0 when none is known.
    pub store_pid: u32,
    /// Whether it lives.
    pub store_is_alive: bool,
    /// Rows with something in them. Empty without kernel programs.
    pub rows: Vec<RowSample>,
    /// Threads in a call that does work, at the last look.
    pub in_flight: u64,
    /// The oldest call that does work, at the worst of the looks in this second (four a second).
    pub oldest: Option<InFlight>,
    /// The oldest request of the store's devices, at the worst of those looks.
    pub oldest_block_ns: u64,
    /// The longest that a process was seen in uninterruptible sleep (only without kernel programs).
    pub longest_blocked_ns: u64,
    /// What /proc says of the tree.
    pub tree: TreeSample,
    /// Ends and failures.
    pub events: EventCounts,
    /// What was lost so far.
    pub lost: LostCounts,
    /// What observing costs.
    pub cost: Cost,
    /// What cannot be seen, by name.
    pub blind: Vec<String>,
}

impl ProbeSample {
    /// The row's second; all zeros when nothing was seen of it.
    #[must_use]
    pub fn row(&self, row: Row) -> RowSample {
        let found = self.rows.iter().find(|sample| sample.row == row.name());
        found.cloned().unwrap_or_else(|| RowSample { row: Cow::Borrowed(row.name()), ..RowSample::default() })
    }

    /// Age of the oldest call that does work; 0 when none is in flight.
    #[must_use]
    pub fn oldest_ns(&self) -> u64 {
        self.oldest.as_ref().map_or(self.longest_blocked_ns, |call| call.age_ns)
    }
}

/// An event, handed on at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum KernelEvent {
    /// A process of the store ended.
    Exit {
        /// Monotonic time.
        at_ns: u64,
        /// Process.
        pid: u32,
        /// Name of its last thread.
        comm: String,
        /// Exit status, when it ended by itself.
        status: u32,
        /// Signal that ended it; 0 when it ended by itself.
        signal: u32,
        /// It was the master process.
        is_store: bool,
    },
    /// A signal was raised for a process of the store.
    Signal {
        /// Monotonic time.
        at_ns: u64,
        /// Process it is for.
        pid: u32,
        /// Signal.
        signal: u32,
        /// Process that raised it.
        sender_pid: u32,
        /// Name of the thread that raised it.
        sender_comm: String,
        /// `si_code`; above 0 the kernel raised it.
        code: i32,
    },
    /// The kernel chose a victim for lack of memory.
    OomKill {
        /// Monotonic time.
        at_ns: u64,
        /// Victim.
        pid: u32,
        /// It belongs to the store.
        is_store: bool,
    },
    /// A device of the store failed a request.
    BlockError {
        /// Monotonic time.
        at_ns: u64,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// First sector.
        sector: u64,
        /// Block status of the kernel (10 is an input/output error).
        status: u32,
    },
}

/// Translates an event and counts it. Forks are only counted.
pub(super) fn translate(
    kind: EventKind,
    event: &Event,
    store_pid: u32,
    counts: &mut EventCounts,
) -> Option<KernelEvent> {
    let at_ns = event.at_ns;
    let comm = || {
        let end = event.comm.iter().position(|byte| *byte == 0).unwrap_or(event.comm.len());
        String::from_utf8_lossy(&event.comm[..end]).into_owned()
    };
    Some(match kind {
        EventKind::Fork => {
            counts.forks += 1;
            return None;
        }
        EventKind::Exit => {
            let (status, signal) = ((event.number >> 8) & 0xff, event.number & 0x7f);
            counts.exits += 1;
            counts.exits_failed += u64::from(status != 0);
            counts.exits_by_signal += u64::from(signal != 0);
            let is_store = event.tgid == store_pid;
            KernelEvent::Exit { at_ns, pid: event.tgid, comm: comm(), status, signal, is_store }
        }
        EventKind::Signal => {
            counts.signals += 1;
            KernelEvent::Signal {
                at_ns,
                pid: event.tgid,
                signal: event.number,
                sender_pid: event.other,
                sender_comm: comm(),
                code: event.code,
            }
        }
        EventKind::OomKill => {
            let is_store = event.other != 0;
            counts.oom_kills_node += 1;
            counts.oom_kills += u64::from(is_store);
            KernelEvent::OomKill { at_ns, pid: event.tgid, is_store }
        }
        EventKind::BlockError => {
            counts.block_errors += 1;
            KernelEvent::BlockError {
                at_ns,
                major: event.number >> 20,
                minor: event.number & 0xf_ffff,
                sector: event.value,
                status: event.other,
            }
        }
    })
}
