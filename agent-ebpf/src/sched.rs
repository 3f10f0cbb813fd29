//! Scheduling of tracked threads: how long a runnable one waits for a processor, how long one is off it.
//!
//! Owns: `sched_wakeup`, `sched_wakeup_new`, `sched_switch`, and following children (`sched_process_fork`).
//! What can hurt: these run under the scheduler's locks, so each does a few lookups and no loop. Refuses: threads
//! of untracked processes.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use understudy_types::probe::{Event, EventKind, Lost, Row};

use crate::maps::{TASKS, TRACKED, field, is_tracked, lose, offset, record, send, task};

/// TASK_UNINTERRUPTIBLE and TASK_NOLOAD: both together are an idle sleep of a kernel thread.
const UNINTERRUPTIBLE: u64 = 0x2;
const NO_LOAD: u64 = 0x400;

/// A thread becomes runnable.
#[raw_tracepoint]
pub fn sched_wakeup(ctx: RawTracePointContext) -> i32 {
    runnable(ctx.arg(0))
}

/// A new thread becomes runnable.
#[raw_tracepoint]
pub fn sched_wakeup_new(ctx: RawTracePointContext) -> i32 {
    runnable(ctx.arg(0))
}

#[inline(always)]
fn runnable(woken: *const u8) -> i32 {
    let Some(tid) = field::<u32>(woken, offset::TASK_PID) else { return 0 };
    let Some(state) = TASKS.get_ptr_mut(tid) else { return 0 };
    // SAFETY: a live map element; an aligned word, and a lost race between two wakers costs nanoseconds.
    unsafe {
        if (*state).runnable_at_ns == 0 {
            (*state).runnable_at_ns = bpf_ktime_get_ns();
        }
    }
    0
}

/// One thread leaves a processor, another takes it.
#[raw_tracepoint]
pub fn sched_switch(ctx: RawTracePointContext) -> i32 {
    let now = unsafe { bpf_ktime_get_ns() };
    let both = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((both >> 32) as u32, both as u32);
    if tid != 0 && is_tracked(tgid) {
        if let Some(state) = task(tid, tgid) {
            let preempted: u64 = ctx.arg(0);
            let sleep: u64 = ctx.arg(3);
            let sleep = sleep & 0xffff_ffff;
            // SAFETY: a live map element; the thread that leaves is the one that runs this.
            unsafe {
                if preempted & 0xff != 0 || sleep == 0 {
                    (*state).runnable_at_ns = now;
                    (*state).off_at_ns = 0;
                } else {
                    (*state).runnable_at_ns = 0;
                    (*state).off_at_ns = now;
                    (*state).off_disk = (sleep & UNINTERRUPTIBLE != 0 && sleep & NO_LOAD == 0) as u32;
                }
            }
        }
    }
    let next: *const u8 = ctx.arg(2);
    let Some(next_tid) = field::<u32>(next, offset::TASK_PID) else { return 0 };
    if next_tid == 0 {
        return 0;
    }
    let Some(state) = TASKS.get_ptr_mut(next_tid) else { return 0 };
    // SAFETY: a live map element; the thread is about to run and nobody else writes these fields now.
    let (runnable_at_ns, off_at_ns, off_disk) = unsafe {
        let seen = ((*state).runnable_at_ns, (*state).off_at_ns, (*state).off_disk);
        (*state).runnable_at_ns = 0;
        (*state).off_at_ns = 0;
        seen
    };
    if runnable_at_ns != 0 {
        record(Row::RunQueue as u32, now.saturating_sub(runnable_at_ns));
    }
    if off_at_ns != 0 {
        // The sleep ends where the wait for a processor begins; a waker that was not seen leaves only the switch.
        let until = if runnable_at_ns >= off_at_ns { runnable_at_ns } else { now };
        let row = if off_disk != 0 { Row::OffCpuDisk } else { Row::OffCpuSleep };
        record(row as u32, until.saturating_sub(off_at_ns));
    }
    0
}

/// A tracked process makes a process or a thread: it is tracked too.
#[raw_tracepoint]
pub fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    let both = bpf_get_current_pid_tgid();
    let parent = (both >> 32) as u32;
    if !is_tracked(parent) {
        return 0;
    }
    let child: *const u8 = ctx.arg(1);
    let Some(tid) = field::<u32>(child, offset::TASK_PID) else { return 0 };
    let Some(tgid) = field::<u32>(child, offset::TASK_TGID) else { return 0 };
    if tgid != parent {
        if TRACKED.insert(tgid, parent, 0).is_err() {
            lose(Lost::Tracked);
            return 0;
        }
        let at_ns = unsafe { bpf_ktime_get_ns() };
        send(EventKind::Fork, Event { at_ns, tgid, tid, other: parent, ..Event::default() });
    }
    let _ = task(tid, tgid);
    0
}
