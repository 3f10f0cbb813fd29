//! The kernel programs from the agent's side: load, attach, read.
//!
//! Owns: the loaded object and its maps. What can hurt: no permission, no type information, a hook that this kernel
//! lacks, an object of another layout. Each is a [`Capability`] with its reason and remedy; a missing hook does not
//! stop the others. Refuses: thresholds. Map values are decoded from bytes, never cast.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfLoader};
use understudy_types::probe::{
    BLOCK_STATE_BYTES, BlockState, DEVICES_MAX, ERRNOS, Event, EventKind, HISTOGRAM_WORDS, LAYOUT_VERSION, Lost, ROWS,
    Row, TASK_STATE_BYTES, TaskState,
};

use super::btf::{Btf, kernel_offsets};
use super::histogram::{Words, between};
use super::hooks::{
    BUILD_REMEDY, Capability, FOLLOWS, HOOKS, KERNEL_REMEDY, Needs, PERMISSION_REMEDY, SIGNALS, is_used,
};
use super::sample::{LostCounts, RowSample};
use super::syscalls;

/// Link of the name space that the kernel programs count processes in; fixed by the kernel (PROC_PID_INIT_INO).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A cumulative reading of every row.
#[derive(Clone)]
struct Rows {
    times: Vec<Words>,
    errors: Vec<[u64; ERRNOS]>,
}

/// Loaded and attached programs with their maps. Dropping it detaches everything.
pub struct KernelProbe {
    programs: Ebpf,
    tracked: HashMap<MapData, u32, u32>,
    tasks: HashMap<MapData, u32, [u8; TASK_STATE_BYTES]>,
    devices: HashMap<MapData, u32, u32>,
    blocks: HashMap<MapData, u64, [u8; BLOCK_STATE_BYTES]>,
    histograms: PerCpuArray<MapData, [u64; HISTOGRAM_WORDS]>,
    errors: PerCpuArray<MapData, [u64; ERRNOS]>,
    lost: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    before: Rows,
    cost_before: (u64, u64),
    map_bytes: u64,
    follows_children: bool,
    /// Keeps the kernel's own accounting on while it is open.
    _statistics: Option<OwnedFd>,
}

impl KernelProbe {
    /// Loads and attaches. `capabilities` receives one entry per hook, also when the whole fails.
    ///
    /// # Errors
    /// A sentence that says why no kernel program can be used.
    pub fn load(object: &[u8], measure_cost: bool, capabilities: &mut Vec<Capability>) -> Result<Self, String> {
        if object.is_empty() {
            let reason = "built without kernel programs";
            capabilities.push(Capability::missing("object", reason, BUILD_REMEDY));
            return Err(format!("{reason}: {BUILD_REMEDY}"));
        }
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        if namespace.to_string_lossy() != FIRST_PID_NAMESPACE {
            let reason = "process ids of this name space are not the kernel programs' own";
            capabilities.push(Capability::missing("process ids", reason, "run the agent outside of a PID name space"));
            return Err(reason.to_owned());
        }
        let found = kernel_offsets(&Btf::of_kernel());
        match &found.task_fields {
            Ok(()) => capabilities.push(Capability::fine("type information")),
            Err(reason) => capabilities.push(Capability::missing("type information", reason, KERNEL_REMEDY)),
        }
        let offsets = found.offsets.words();
        let classes = syscalls::classes();
        let signals = SIGNALS.iter().fold(0u64, |mask, signal| mask | 1 << (signal - 1));
        let loaded = EbpfLoader::new()
            .btf(None)
            .override_global("OFFSETS", offsets.as_slice(), true)
            .override_global("SYSCALL_CLASS", classes.as_slice(), true)
            .override_global("SIGNAL_MASK", &signals, true)
            .load(object);
        let mut programs = match loaded {
            Ok(programs) => programs,
            Err(error) => {
                let reason = chain(&error);
                capabilities.push(Capability::missing("permission", &reason, PERMISSION_REMEDY));
                return Err(reason);
            }
        };
        check_layout(&mut programs).inspect_err(|reason| {
            capabilities.push(Capability::missing("object", reason, BUILD_REMEDY));
        })?;
        let map_bytes = programs.maps().filter_map(|(_, map)| map_fd(map)).map(locked_bytes).sum();
        for hook in HOOKS {
            let fields = match hook.needs {
                Needs::Nothing => &Ok(()),
                Needs::TaskFields => &found.task_fields,
                Needs::BlockFields => &found.block_fields,
            };
            let ready = hook.after.is_empty() || is_used(capabilities, hook.after);
            let ready = if ready { fields.clone() } else { Err(format!("of no use without `{}`", hook.after)) };
            capabilities.push(match ready.and_then(|()| attach(&mut programs, hook.name)) {
                Ok(()) => Capability::fine(hook.name),
                Err(reason) => {
                    let remedy = if reason.contains("ermitted") { PERMISSION_REMEDY } else { KERNEL_REMEDY };
                    Capability::missing(hook.name, reason, remedy)
                }
            });
        }
        if !HOOKS.iter().any(|hook| is_used(capabilities, hook.name)) {
            return Err("no hook could be attached".to_owned());
        }
        let statistics = if measure_cost { aya::sys::enable_stats(aya::sys::Stats::RunTime).ok() } else { None };
        let wrong = |name: &str| format!("the object has no usable map `{name}`");
        let mut take = |name: &str| programs.take_map(name).ok_or_else(|| wrong(name));
        let mut probe = Self {
            tracked: take("TRACKED")?.try_into().map_err(|_| wrong("TRACKED"))?,
            tasks: take("TASKS")?.try_into().map_err(|_| wrong("TASKS"))?,
            devices: take("DEVICES")?.try_into().map_err(|_| wrong("DEVICES"))?,
            blocks: take("BLOCKS")?.try_into().map_err(|_| wrong("BLOCKS"))?,
            histograms: take("HISTOGRAMS")?.try_into().map_err(|_| wrong("HISTOGRAMS"))?,
            errors: take("ERRORS")?.try_into().map_err(|_| wrong("ERRORS"))?,
            lost: take("LOST")?.try_into().map_err(|_| wrong("LOST"))?,
            events: take("EVENTS")?.try_into().map_err(|_| wrong("EVENTS"))?,
            programs,
            before: Rows { times: Vec::new(), errors: Vec::new() },
            cost_before: (0, 0),
            map_bytes,
            follows_children: is_used(capabilities, FOLLOWS),
            _statistics: statistics,
        };
        probe.before = probe.read_rows();
        probe.cost_before = probe.cost_total();
        Ok(probe)
    }

    /// Tracks exactly these processes (and what they fork from now on).
    /// Returns how many could not be entered because the map is full.
    pub fn retarget(&mut self, pids: &BTreeSet<u32>) -> usize {
        for pid in self.tracked_pids().difference(pids) {
            let _ = self.tracked.remove(pid);
        }
        let stale: Vec<u32> =
            self.tasks().into_iter().filter(|(_, task)| !pids.contains(&task.tgid)).map(|(tid, _)| tid).collect();
        for tid in stale {
            let _ = self.tasks.remove(&tid);
        }
        self.track(pids)
    }

    /// Adds processes. Returns how many could not be entered because the map is full.
    pub fn track(&mut self, pids: &BTreeSet<u32>) -> usize {
        pids.iter().filter(|pid| self.tracked.insert(*pid, 0, 0).is_err()).count()
    }

    /// The processes that the kernel programs follow now.
    #[must_use]
    pub fn tracked_pids(&self) -> BTreeSet<u32> {
        self.tracked.keys().flatten().collect()
    }

    /// Forgets processes and threads that ended without the programs seeing it.
    pub fn forget_dead(&mut self) {
        let pids = self.tracked_pids();
        for pid in pids.iter().filter(|pid| !super::tree::is_alive(**pid)) {
            let _ = self.tracked.remove(pid);
        }
        let dead: Vec<u32> = self
            .tasks()
            .into_iter()
            .filter(|(tid, task)| !super::tree::thread_exists(task.tgid, *tid))
            .map(|(tid, _)| tid)
            .collect();
        for tid in dead {
            let _ = self.tasks.remove(&tid);
        }
    }

    /// Observes these devices (numbers as the kernel holds them). Returns those beyond the map's size.
    pub fn set_devices(&mut self, devices: &BTreeSet<u32>) -> usize {
        let old: Vec<u32> = self.devices.keys().flatten().filter(|device| !devices.contains(device)).collect();
        for device in old {
            let _ = self.devices.remove(&device);
        }
        for device in devices.iter().take(DEVICES_MAX as usize) {
            let _ = self.devices.insert(device, 1, 0);
        }
        devices.len().saturating_sub(DEVICES_MAX as usize)
    }

    /// Every tracked thread.
    #[must_use]
    pub fn tasks(&self) -> Vec<(u32, TaskState)> {
        self.tasks.iter().flatten().map(|(tid, bytes)| (tid, TaskState::from_bytes(&bytes))).collect()
    }

    /// Age of the oldest block request at `now_ns`.
    #[must_use]
    pub fn oldest_block_ns(&self, now_ns: u64) -> u64 {
        let issued = self.blocks.iter().flatten().map(|(_, bytes)| BlockState::from_bytes(&bytes).issued_at_ns);
        issued.map(|at| now_ns.saturating_sub(at)).max().unwrap_or(0)
    }

    /// Takes one item out of the ring buffer; `Some(None)` is one that could not be decoded.
    pub fn next_event(&mut self) -> Option<Option<(EventKind, Event)>> {
        self.events.next().map(|item| Event::from_bytes(&item))
    }

    /// Becomes readable when an event arrives.
    #[must_use]
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// What came since the last call, for every row that has something.
    pub fn rows(&mut self) -> Vec<RowSample> {
        let after = self.read_rows();
        let mut out = Vec::new();
        for row in Row::ALL {
            let index = row as usize;
            let times = between(&self.before.times[index], &after.times[index]);
            let errnos: Vec<(u16, u64)> = (0u16..)
                .zip(self.before.errors[index].iter().zip(&after.errors[index]))
                .map(|(errno, (before, after))| (errno, after.saturating_sub(*before)))
                .filter(|(_, count)| *count > 0)
                .collect();
            let errors = errnos.iter().map(|(_, count)| count).sum();
            if times.count > 0 || errors > 0 {
                out.push(RowSample { row: Cow::Borrowed(row.name()), times, errors, errnos });
            }
        }
        self.before = after;
        out
    }

    fn read_rows(&self) -> Rows {
        let mut rows =
            Rows { times: vec![[0; HISTOGRAM_WORDS]; ROWS as usize], errors: vec![[0; ERRNOS]; ROWS as usize] };
        for row in Row::ALL {
            let index = row as u32;
            if let Ok(values) = self.histograms.get(&index, 0) {
                values.iter().for_each(|value| add(&mut rows.times[row as usize], value));
            }
            if let Ok(values) = self.errors.get(&index, 0) {
                values.iter().for_each(|value| add(&mut rows.errors[row as usize], value));
            }
        }
        rows
    }

    /// Fills in the kernel's loss counters.
    pub fn read_lost(&self, out: &mut LostCounts) {
        for what in Lost::ALL {
            if let Ok(values) = self.lost.get(&(what as u32), 0) {
                out.set(what, values.iter().sum());
            }
        }
    }

    /// Runs and nanoseconds of the programs since the last call; zeros when the kernel does not count.
    pub fn cost(&mut self) -> (u64, u64) {
        let now = self.cost_total();
        let before = std::mem::replace(&mut self.cost_before, now);
        (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1))
    }

    fn cost_total(&self) -> (u64, u64) {
        let infos = self.programs.programs().filter_map(|(_, program)| program.info().ok());
        infos.fold((0, 0), |(runs, ns), info| {
            (runs + info.run_count(), ns + u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX))
        })
    }

    /// Whether children are followed in the kernel; if not, the caller must look for them.
    #[must_use]
    pub fn follows_children(&self) -> bool {
        self.follows_children
    }

    /// Memory that the maps hold, as the kernel accounts it.
    #[must_use]
    pub fn map_bytes(&self) -> u64 {
        self.map_bytes
    }
}

fn attach(programs: &mut Ebpf, hook: &str) -> Result<(), String> {
    let program = programs.program_mut(hook).ok_or_else(|| "the object has no such program".to_owned())?;
    let program: &mut RawTracePoint = program.try_into().map_err(|_| "not a raw tracepoint".to_owned())?;
    program.load().map_err(|error| chain(&error))?;
    program.attach(hook).map_err(|error| chain(&error))?;
    Ok(())
}

fn check_layout(programs: &mut Ebpf) -> Result<(), String> {
    let map = programs.take_map(".rodata.layout").ok_or("the object does not name its layout")?;
    let layout: Array<MapData, u32> = map.try_into().map_err(|_| "the object does not name its layout")?;
    let version = layout.get(&0, 0).map_err(|error| chain(&error))?;
    if version == LAYOUT_VERSION {
        Ok(())
    } else {
        Err(format!("the object has layout {version}, this agent needs {LAYOUT_VERSION}"))
    }
}

/// An error with its causes, without a verifier log of many pages: its last lines say what is wrong.
fn chain(error: &dyn std::error::Error) -> String {
    const KEPT_CHARS: usize = 400;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let count = text.chars().count();
    if count > 2 * KEPT_CHARS {
        let head: String = text.chars().take(KEPT_CHARS).collect();
        let tail: String = text.chars().skip(count - KEPT_CHARS).collect();
        return format!("{head} … {tail}");
    }
    text
}

fn map_fd(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::PerCpuArray(data) | Map::RingBuf(data) => Some(data.fd().as_fd()),
        _ => None,
    }
}

fn locked_bytes(fd: BorrowedFd<'_>) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn add<const N: usize>(into: &mut [u64; N], value: &[u64; N]) {
    for (total, part) in into.iter_mut().zip(value) {
        *total = total.wrapping_add(*part);
    }
}
