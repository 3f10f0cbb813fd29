//! The oldest call in flight that does work.
//!
//! Owns: telling work from waiting. Idle classes never count. A read, write or socket call may also wait for the
//! other end of a pipe or socket, and the kernel programs cannot see what a descriptor is; so a call that looks old
//! is asked through `/proc/PID/fd` before it counts. What can hurt: a thread that ends while it is asked (skipped).

use std::borrow::Cow;
use std::fs;

use understudy_types::probe::{Row, TaskState};

use super::sample::InFlight;
use crate::limits::STALL_ASKED_MAX;

/// Calls younger than this count without being asked what they wait for: the look costs more than it tells.
const ASKED_FROM_NS: u64 = 200_000_000;

/// Threads in a call that does work, and the oldest of them.
#[must_use]
pub fn oldest(
    tasks: &[(u32, TaskState)],
    now_ns: u64,
    waits_for_peer: impl Fn(u32, u64) -> bool,
) -> (u64, Option<InFlight>) {
    let mut work: Vec<(u64, u32, &TaskState, Row)> = tasks
        .iter()
        .filter(|(_, task)| task.entered_at_ns != 0)
        .filter_map(|(tid, task)| {
            let row = Row::from_number(task.class).filter(|row| row.is_syscall() && !row.is_idle())?;
            Some((now_ns.saturating_sub(task.entered_at_ns), *tid, task, row))
        })
        .collect();
    work.sort_by_key(|(age, tid, ..)| (std::cmp::Reverse(*age), *tid));
    let mut waiting = 0;
    let mut asked = 0;
    let mut found = None;
    for (age_ns, tid, task, row) in &work {
        let may_wait = matches!(row, Row::Read | Row::Write | Row::Net) && *age_ns >= ASKED_FROM_NS;
        if may_wait && asked < STALL_ASKED_MAX {
            asked += 1;
            if waits_for_peer(task.tgid, task.argument) {
                waiting += 1;
                continue;
            }
        } else if may_wait {
            // Not asked any more: unknown, so it does not count as work.
            waiting += 1;
            continue;
        }
        found.get_or_insert((*age_ns, *tid, *task, *row));
    }
    let in_flight = (work.len() as u64).saturating_sub(waiting);
    let found = found.map(|(age_ns, tid, task, row)| InFlight {
        pid: task.tgid,
        tid,
        comm: fs::read_to_string(format!("/proc/{}/comm", task.tgid)).unwrap_or_default().trim_end().to_owned(),
        class: Cow::Borrowed(row.name()),
        syscall: task.syscall,
        age_ns,
    });
    (in_flight, found)
}

/// Whether the descriptor is a pipe, a socket, a terminal or an event source: a wait on it says nothing of the disk.
#[must_use]
pub fn descriptor_waits_for_peer(pid: u32, descriptor: u64) -> bool {
    let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{}", descriptor as u32)) else { return true };
    let target = target.to_string_lossy();
    ["socket:", "pipe:", "anon_inode:", "/dev/tty", "/dev/pts/", "/dev/ptmx"]
        .iter()
        .any(|kind| target.starts_with(kind))
        || fs::metadata(&*target).is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_fifo(&meta.file_type()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(class: Row, entered_at_ns: u64) -> TaskState {
        TaskState { class: class as u32, entered_at_ns, tgid: 1, ..TaskState::default() }
    }

    #[test]
    fn idle_calls_and_waits_for_a_peer_do_not_count() {
        let now = 10_000_000_000;
        let tasks = [
            (1, task(Row::Wait, 1)),
            (2, task(Row::Accept, 1)),
            (3, task(Row::Read, 2)),
            (4, task(Row::Fsync, 4_000_000_000)),
            (5, TaskState::default()),
        ];
        let (count, found) = oldest(&tasks, now, |_, _| true);
        let found = found.expect("the fsync is work");
        assert_eq!((count, found.tid, found.age_ns, &*found.class), (1, 4, 6_000_000_000, "fsync"));
        let (count, found) = oldest(&tasks, now, |_, _| false);
        assert_eq!((count, found.map(|call| call.tid)), (2, Some(3)));
    }

    #[test]
    fn a_young_read_counts_without_being_asked() {
        let tasks = [(9, task(Row::Read, 1_000))];
        let (count, found) = oldest(&tasks, 2_000, |_, _| panic!("asked"));
        assert_eq!((count, found.map(|call| call.age_ns)), (1, Some(1_000)));
    }

    #[test]
    fn the_number_of_questions_is_bounded() {
        let tasks: Vec<_> = (1..=10_000).map(|tid| (tid, task(Row::Read, 1))).collect();
        let asked = std::cell::Cell::new(0);
        let _ = oldest(&tasks, u64::MAX / 2, |_, _| {
            asked.set(asked.get() + 1);
            true
        });
        assert_eq!(asked.get(), STALL_ASKED_MAX);
    }
}
