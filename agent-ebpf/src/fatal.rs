//! Ends: exits, signals raised for tracked processes, and victims of memory shortage.
//!
//! Owns: `sched_process_exit`, `signal_generate`, `mark_victim`. What can hurt: two last threads that end at once
//! both see no thread left; only the one whose removal of the process succeeds reports. Refuses: saying which
//! signal is bad; the agent sets the mask.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use understudy_types::probe::{Event, EventKind};

use crate::maps::{TASKS, TRACKED, field, is_tracked, offset, offset_of, send, signal_wanted};

/// A thread ends.
#[raw_tracepoint]
pub fn sched_process_exit(ctx: RawTracePointContext) -> i32 {
    let both = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((both >> 32) as u32, both as u32);
    if !is_tracked(tgid) {
        return 0;
    }
    let _ = TASKS.remove(tid);
    let this: *const u8 = ctx.arg(0);
    let Some(signal) = field::<*const u8>(this, offset::TASK_SIGNAL) else { return 0 };
    // The kernel lowers this count before it runs this hook: 0 means that the last thread is ending.
    let Some(live) = field::<u32>(signal, offset::SIGNAL_LIVE) else { return 0 };
    if live != 0 {
        return 0;
    }
    let Some(status) = field::<u32>(this, offset::TASK_EXIT_CODE) else { return 0 };
    if TRACKED.remove(tgid).is_ok() {
        let at_ns = unsafe { bpf_ktime_get_ns() };
        send(EventKind::Exit, Event { at_ns, tgid, tid, number: status, ..Event::default() });
    }
    0
}

/// A signal is raised, by whomever.
#[raw_tracepoint]
pub fn signal_generate(ctx: RawTracePointContext) -> i32 {
    let signal: u64 = ctx.arg(0);
    let signal = signal as u32;
    if !signal_wanted(signal) {
        return 0;
    }
    let target: *const u8 = ctx.arg(2);
    let Some(tgid) = field::<u32>(target, offset::TASK_TGID) else { return 0 };
    if !is_tracked(tgid) {
        return 0;
    }
    let Some(tid) = field::<u32>(target, offset::TASK_PID) else { return 0 };
    let info: *const u8 = ctx.arg(1);
    // 0 and 1 are the kernel's marks for "no information" and "from the kernel"; si_code lies at byte 8 by the ABI.
    let code = if (info as u64) > 1 {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(info.wrapping_add(8).cast::<i32>()) }.unwrap_or(0)
    } else {
        0
    };
    let result: u64 = ctx.arg(4);
    let event = Event {
        at_ns: unsafe { bpf_ktime_get_ns() },
        value: result & 0xffff_ffff,
        tgid,
        tid,
        number: signal,
        other: (bpf_get_current_pid_tgid() >> 32) as u32,
        code,
        ..Event::default()
    };
    send(EventKind::Signal, event);
    0
}

/// The kernel picks a process to kill for lack of memory.
#[raw_tracepoint]
pub fn mark_victim(ctx: RawTracePointContext) -> i32 {
    let (tid, tgid) = if offset_of(offset::VICTIM_IS_TASK) != 0 {
        let victim: *const u8 = ctx.arg(0);
        let Some(tid) = field::<u32>(victim, offset::TASK_PID) else { return 0 };
        let Some(tgid) = field::<u32>(victim, offset::TASK_TGID) else { return 0 };
        (tid, tgid)
    } else {
        let tid: u64 = ctx.arg(0);
        let tid = tid as u32;
        // An older kernel names the thread only; it is known here if it was ever seen.
        let tgid = match TASKS.get_ptr(tid) {
            // SAFETY: a live map element; the field does not change.
            Some(state) => unsafe { (*state).tgid },
            None => tid,
        };
        (tid, tgid)
    };
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let other = u32::from(is_tracked(tgid));
    send(EventKind::OomKill, Event { at_ns, tgid, tid, other, ..Event::default() });
    0
}
