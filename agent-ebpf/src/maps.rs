//! The maps, the globals that the agent sets at load, and the few operations on them that every program uses.
//!
//! Owns: what lives in the kernel and is read by the agent. What can hurt: a full map or ring buffer; each is
//! counted in `LOST`, per processor, so that a count is never lost too. Refuses: thresholds; a counter only rises
//! and the agent takes differences.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_probe_read_kernel},
    macros::map,
    maps::{HashMap, PerCpuArray, RingBuf},
};
use understudy_types::probe::{
    BLOCK_IN_FLIGHT_MAX, BlockState, DEVICES_MAX, ERRNO_OTHER, ERRNOS, EVENT_RING_BYTES, Event, EventKind,
    HISTOGRAM_WORDS, LAYOUT_VERSION, LOSTS, Lost, OFFSET_WORDS, ROWS, Row, SYSCALLS_MAX, TASKS_MAX, TRACKED_MAX,
    TaskState, bucket,
};

/// Layout of everything below; the agent refuses an object of another one.
#[unsafe(link_section = ".rodata.layout")]
#[unsafe(no_mangle)]
pub static LAYOUT: u32 = LAYOUT_VERSION;
/// `Offsets` of this kernel, as words.
#[unsafe(no_mangle)]
pub static OFFSETS: [u32; OFFSET_WORDS] = [0; OFFSET_WORDS];
/// Class of each system call, 0 where it is not measured.
#[unsafe(no_mangle)]
pub static SYSCALL_CLASS: [u8; SYSCALLS_MAX] = [0; SYSCALLS_MAX];
/// Signals that are reported: bit `n - 1` for signal `n`.
#[unsafe(no_mangle)]
pub static SIGNAL_MASK: u64 = 0;

/// Tracked processes.
#[map]
pub static TRACKED: HashMap<u32, u32> = HashMap::with_max_entries(TRACKED_MAX, 0);
/// Tracked threads.
#[map]
pub static TASKS: HashMap<u32, TaskState> = HashMap::with_max_entries(TASKS_MAX, 0);
/// Devices of the store.
#[map]
pub static DEVICES: HashMap<u32, u32> = HashMap::with_max_entries(DEVICES_MAX, 0);
/// Block requests in flight.
#[map]
pub static BLOCKS: HashMap<u64, BlockState> = HashMap::with_max_entries(BLOCK_IN_FLIGHT_MAX, 0);
/// Histograms: the sum of nanoseconds, then the buckets.
#[map]
pub static HISTOGRAMS: PerCpuArray<[u64; HISTOGRAM_WORDS]> = PerCpuArray::with_max_entries(ROWS, 0);
/// Errors by number.
#[map]
pub static ERRORS: PerCpuArray<[u64; ERRNOS]> = PerCpuArray::with_max_entries(ROWS, 0);
/// Losses by kind.
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSTS, 0);
/// Exits, signals, victims, block errors, forks.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// Index of each field of `Offsets` in [`OFFSETS`].
pub mod offset {
    pub const TASK_PID: usize = 0;
    pub const TASK_TGID: usize = 1;
    pub const TASK_EXIT_CODE: usize = 2;
    pub const TASK_SIGNAL: usize = 3;
    pub const SIGNAL_LIVE: usize = 4;
    pub const REQUEST_QUEUE: usize = 5;
    pub const REQUEST_FLAGS: usize = 6;
    pub const REQUEST_SECTOR: usize = 7;
    pub const REQUEST_BYTES: usize = 8;
    pub const QUEUE_DISK: usize = 9;
    pub const DISK_MAJOR: usize = 10;
    pub const DISK_MINOR: usize = 11;
    pub const REGS_ARGUMENT: usize = 12;
    pub const VICTIM_IS_TASK: usize = 13;
}

/// A word of [`OFFSETS`]; read volatile, for the compiler sees only the zeros it was built with.
#[inline(always)]
pub fn offset_of(index: usize) -> usize {
    // SAFETY: `index` is one of the constants of `offset`, all below the length of the array.
    unsafe { core::ptr::read_volatile((&raw const OFFSETS).cast::<u32>().add(index)) as usize }
}

/// The class of a system call, 0 when it is not measured.
#[inline(always)]
pub fn class_of(syscall: u64) -> u32 {
    if syscall >= SYSCALLS_MAX as u64 {
        return 0;
    }
    // SAFETY: the index was checked against the length of the array.
    u32::from(unsafe { core::ptr::read_volatile((&raw const SYSCALL_CLASS).cast::<u8>().add(syscall as usize)) })
}

/// Whether a signal is to be reported.
#[inline(always)]
pub fn signal_wanted(signal: u32) -> bool {
    // SAFETY: an aligned static of this type.
    let mask = unsafe { core::ptr::read_volatile(&raw const SIGNAL_MASK) };
    signal >= 1 && signal <= 64 && mask & (1u64 << (signal - 1)) != 0
}

/// Reads a field of a kernel structure; a failure is counted.
#[inline(always)]
pub fn field<T>(base: *const u8, offset_index: usize) -> Option<T> {
    // SAFETY: the helper checks the address and answers with an error when it cannot be read.
    match unsafe { bpf_probe_read_kernel(base.wrapping_add(offset_of(offset_index)).cast::<T>()) } {
        Ok(value) => Some(value),
        Err(_) => {
            lose(Lost::Unreadable);
            None
        }
    }
}

/// Whether the process is tracked.
#[inline(always)]
pub fn is_tracked(tgid: u32) -> bool {
    TRACKED.get_ptr(tgid).is_some()
}

/// Counts one loss.
#[inline(always)]
pub fn lose(what: Lost) {
    if let Some(count) = LOST.get_ptr_mut(what as u32) {
        // SAFETY: the helper returned a live element of this processor's own copy.
        unsafe { *count += 1 };
    }
}

/// Hides a value from the optimiser. It proves an index to be in range and drops the check; the verifier, which
/// cannot follow that proof, then refuses the program ("unbounded min value").
#[inline(always)]
fn opaque(value: usize) -> usize {
    // SAFETY: a reference to a live local.
    unsafe { core::ptr::read_volatile(&value) }
}

/// Counts one duration in a row.
#[inline(always)]
pub fn record(row: u32, ns: u64) {
    let Some(words) = HISTOGRAMS.get_ptr_mut(row) else { return };
    let index = opaque(bucket(ns) + 1);
    if index >= HISTOGRAM_WORDS {
        return;
    }
    let words = words.cast::<u64>();
    // SAFETY: a live element of HISTOGRAM_WORDS words; `index` was checked above.
    unsafe {
        *words += ns;
        *words.add(index) += 1;
    }
}

/// Counts one error in a row.
#[inline(always)]
pub fn record_error(row: u32, errno: u64) {
    let Some(counts) = ERRORS.get_ptr_mut(row) else { return };
    let index = opaque(if errno < ERRNO_OTHER as u64 { errno as usize } else { ERRNO_OTHER });
    if index >= ERRNOS {
        return;
    }
    // SAFETY: a live element of ERRNOS words; `index` is at most the last.
    unsafe { *counts.cast::<u64>().add(index) += 1 };
}

/// The state of a tracked thread, made on first sight. `None` when the map is full (counted).
#[inline(always)]
pub fn task(tid: u32, tgid: u32) -> Option<*mut TaskState> {
    if let Some(state) = TASKS.get_ptr_mut(tid) {
        return Some(state);
    }
    let fresh = TaskState { tgid, ..TaskState::default() };
    if TASKS.insert(tid, fresh, 0).is_err() {
        lose(Lost::Task);
        return None;
    }
    TASKS.get_ptr_mut(tid)
}

/// Sends an event; a full ring buffer is counted.
#[inline(always)]
pub fn send(kind: EventKind, mut event: Event) {
    event.kind = kind as u32;
    event.comm = bpf_get_current_comm().unwrap_or_default();
    match EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(0);
        }
        None => lose(Lost::Event),
    }
}

/// Row of a block request from its operation code.
#[inline(always)]
pub fn block_row(flags: u32) -> u32 {
    match flags & 0xff {
        0 => Row::BlockRead as u32,
        1 => Row::BlockWrite as u32,
        2 => Row::BlockFlush as u32,
        _ => Row::BlockOther as u32,
    }
}
