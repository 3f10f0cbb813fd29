//! Requests to the store's devices: time from issue to completion, and errors.
//!
//! Owns: `block_rq_issue` and `block_rq_complete`. A request is keyed by the kernel's own request structure: one is
//! in flight at most once, where device and sector may repeat (flushes all say sector 0). What can hurt: partial
//! completions; the request is timed when its last byte completes. Refuses: devices that the agent did not name.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::raw_tracepoint, programs::RawTracePointContext};
use understudy_types::probe::{BlockState, Event, EventKind, Lost};

use crate::maps::{BLOCKS, DEVICES, block_row, field, lose, offset, record, record_error, send};

/// A request goes to its device.
#[raw_tracepoint]
pub fn block_rq_issue(ctx: RawTracePointContext) -> i32 {
    let request: *const u8 = ctx.arg(0);
    let Some(queue) = field::<*const u8>(request, offset::REQUEST_QUEUE) else { return 0 };
    let Some(disk) = field::<*const u8>(queue, offset::QUEUE_DISK) else { return 0 };
    if disk.is_null() {
        return 0;
    }
    let Some(major) = field::<u32>(disk, offset::DISK_MAJOR) else { return 0 };
    let Some(minor) = field::<u32>(disk, offset::DISK_MINOR) else { return 0 };
    let device = (major << 20) | (minor & 0xf_ffff);
    if DEVICES.get_ptr(device).is_none() {
        return 0;
    }
    let Some(flags) = field::<u32>(request, offset::REQUEST_FLAGS) else { return 0 };
    let Some(sector) = field::<u64>(request, offset::REQUEST_SECTOR) else { return 0 };
    let issued_at_ns = unsafe { bpf_ktime_get_ns() };
    let state = BlockState { issued_at_ns, sector, device, row: block_row(flags) };
    if BLOCKS.insert(request as u64, state, 0).is_err() {
        lose(Lost::Block);
    }
    0
}

/// A device answers, for all of a request or for a part of it.
#[raw_tracepoint]
pub fn block_rq_complete(ctx: RawTracePointContext) -> i32 {
    let request: *const u8 = ctx.arg(0);
    let Some(state) = BLOCKS.get_ptr(request as u64) else { return 0 };
    // SAFETY: a live map element, copied out; it is written once, at issue.
    let state = unsafe { *state };
    let status: u64 = ctx.arg(1);
    let status = status & 0xff;
    let done: u64 = ctx.arg(2);
    let done = done & 0xffff_ffff;
    let Some(bytes) = field::<u32>(request, offset::REQUEST_BYTES) else { return 0 };
    let now = unsafe { bpf_ktime_get_ns() };
    if status != 0 {
        record_error(state.row, status);
        send(
            EventKind::BlockError,
            Event { at_ns: now, value: state.sector, number: state.device, other: status as u32, ..Event::default() },
        );
    }
    if done >= u64::from(bytes) || status != 0 {
        record(state.row, now.saturating_sub(state.issued_at_ns));
        let _ = BLOCKS.remove(request as u64);
    }
    0
}
