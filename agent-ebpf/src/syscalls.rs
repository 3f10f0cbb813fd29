//! System calls of tracked processes: time in the call and error, by class, and which call a thread is in.
//!
//! Owns: `sys_enter` and `sys_exit`. What can hurt: these run on every system call of the machine; an untracked
//! process costs one map lookup. Refuses: calls without a class, and 32-bit calls on a 64-bit kernel (their
//! numbers mean other calls; a store runs native).

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};

use crate::maps::{TASKS, class_of, is_tracked, offset, offset_of, record, record_error, task};

/// A thread enters a system call.
#[raw_tracepoint]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    let both = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((both >> 32) as u32, both as u32);
    if !is_tracked(tgid) {
        return 0;
    }
    let syscall: u64 = ctx.arg(1);
    let class = class_of(syscall);
    if class == 0 {
        return 0;
    }
    let Some(state) = task(tid, tgid) else { return 0 };
    let registers: *const u8 = ctx.arg(0);
    let argument = registers.wrapping_add(offset_of(offset::REGS_ARGUMENT)).cast::<u64>();
    // SAFETY: the helper checks the address; `state` is a live map element that only this thread writes here.
    unsafe {
        (*state).argument = bpf_probe_read_kernel(argument).unwrap_or(0);
        (*state).syscall = syscall as u32;
        (*state).class = class;
        (*state).entered_at_ns = bpf_ktime_get_ns();
    }
    0
}

/// A thread leaves a system call.
#[raw_tracepoint]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let both = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((both >> 32) as u32, both as u32);
    if !is_tracked(tgid) {
        return 0;
    }
    let Some(state) = TASKS.get_ptr_mut(tid) else { return 0 };
    // SAFETY: a live map element; these fields are written by this thread only.
    let (entered_at_ns, class) = unsafe { ((*state).entered_at_ns, (*state).class) };
    if entered_at_ns == 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*state).entered_at_ns = 0 };
    let now = unsafe { bpf_ktime_get_ns() };
    record(class, now.saturating_sub(entered_at_ns));
    let result: i64 = ctx.arg(1);
    if result < 0 && result >= -4095 {
        record_error(class, (-result) as u64);
    }
    0
}
