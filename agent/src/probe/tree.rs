//! The store's process tree and what /proc says of it.
//!
//! Owns: finding descendants, and one reading of stat, schedstat, io, status and open files per process. What can
//! hurt: processes that end while they are read (skipped), names with blanks and brackets in `stat` (the last
//! bracket counts), thousands of processes (at most [`PROC_TREE_READ_MAX`](crate::limits::PROC_TREE_READ_MAX) are
//! read; the rest is counted as unread).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::{Deserialize, Serialize};

use crate::limits::PROC_TREE_READ_MAX;

/// The root and all its present descendants, by parent links. Empty when the root is gone.
#[must_use]
pub fn descendants(root: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut found = BTreeSet::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    let mut root_is_there = false;
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())) {
        root_is_there |= pid == root;
        if let Some(stat) = read_stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    if !root_is_there {
        return found;
    }
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// Whether a process is there (a zombie is not).
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    read_stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Whether a thread is there.
#[must_use]
pub fn thread_exists(pid: u32, tid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}/task/{tid}")).is_ok()
}

/// Fields of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// State letter.
    pub state: char,
    /// Parent process.
    pub parent: u32,
    /// Page faults that needed the disk.
    pub major_faults: u64,
    /// Threads.
    pub threads: u64,
}

/// Reads `/proc/PID/stat`; `None` when the process is gone.
#[must_use]
pub fn read_stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        major_faults: fields.get(9)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
    })
}

/// Cumulative figures of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    cpu_ns: u64,
    run_delay_ns: u64,
    reads: u64,
    writes: u64,
    read_bytes: u64,
    written_bytes: u64,
    major_faults: u64,
}

/// The tree in one second. Sums over its processes; rates are differences to the second before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeSample {
    /// Processes of the tree.
    pub processes: u64,
    /// Threads of the processes that were read.
    pub threads: u64,
    /// Processes beyond the limit, or gone while they were read.
    pub unread: u64,
    /// Anonymous resident memory.
    pub anonymous_bytes: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// The process that is nearest to its own limit: open descriptors in permille of the soft limit.
    pub descriptors_worst_permille: u64,
    /// Processes in uninterruptible sleep at the moment of reading.
    pub blocked: u64,
    /// Processor time.
    pub cpu_ns: u64,
    /// Time runnable without a processor (main threads).
    pub run_delay_ns: u64,
    /// Read calls.
    pub reads: u64,
    /// Write calls.
    pub writes: u64,
    /// Bytes fetched from storage.
    pub read_bytes: u64,
    /// Bytes sent to storage.
    pub written_bytes: u64,
    /// Page faults that needed the disk.
    pub major_faults: u64,
}

/// Reads the tree once a second and keeps what differences need.
#[derive(Debug, Default)]
pub struct TreeReader {
    before: BTreeMap<u32, Totals>,
}

impl TreeReader {
    /// Reads the given processes. A process seen for the first time adds no rates.
    pub fn read(&mut self, pids: &BTreeSet<u32>) -> TreeSample {
        let mut out = TreeSample { processes: pids.len() as u64, ..TreeSample::default() };
        let mut totals = BTreeMap::new();
        for pid in pids {
            if totals.len() >= PROC_TREE_READ_MAX {
                break;
            }
            let Some(now) = read_process(*pid, &mut out) else { continue };
            if let Some(before) = self.before.get(pid) {
                out.cpu_ns += now.cpu_ns.saturating_sub(before.cpu_ns);
                out.run_delay_ns += now.run_delay_ns.saturating_sub(before.run_delay_ns);
                out.reads += now.reads.saturating_sub(before.reads);
                out.writes += now.writes.saturating_sub(before.writes);
                out.read_bytes += now.read_bytes.saturating_sub(before.read_bytes);
                out.written_bytes += now.written_bytes.saturating_sub(before.written_bytes);
                out.major_faults += now.major_faults.saturating_sub(before.major_faults);
            }
            totals.insert(*pid, now);
        }
        out.unread = (pids.len() - totals.len()) as u64;
        self.before = totals;
        out
    }
}

fn read_process(pid: u32, out: &mut TreeSample) -> Option<Totals> {
    let stat = read_stat(pid)?;
    out.threads += stat.threads;
    out.blocked += u64::from(stat.state == 'D');
    let mut totals = Totals { major_faults: stat.major_faults, ..Totals::default() };
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/schedstat")) {
        let mut fields = text.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0));
        totals.cpu_ns = fields.next().unwrap_or(0);
        totals.run_delay_ns = fields.next().unwrap_or(0);
    }
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/io")) {
        totals.reads = figure(&text, "syscr:");
        totals.writes = figure(&text, "syscw:");
        totals.read_bytes = figure(&text, "\nread_bytes:");
        totals.written_bytes = figure(&text, "\nwrite_bytes:");
    }
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) {
        out.anonymous_bytes += figure(&text, "RssAnon:") * 1024;
        out.resident_bytes += figure(&text, "VmRSS:") * 1024;
    }
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64);
    out.descriptors += descriptors;
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/limits")) {
        let limit = figure(&text, "Max open files");
        let permille = (descriptors * 1000).checked_div(limit).unwrap_or(0);
        out.descriptors_worst_permille = out.descriptors_worst_permille.max(permille);
    }
    Some(totals)
}

/// The number after a label; 0 when there is none (also for "unlimited").
fn figure(text: &str, label: &str) -> u64 {
    text.split_once(label)
        .and_then(|(_, rest)| rest.split_ascii_whitespace().next())
        .and_then(|field| field.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "42 (a) S 1) (x) D 7 42 42 0 -1 4194304 1 2 33 4 5 6 7 8 20 0 9 0 100 0 0";
        assert_eq!(parse_stat(text), Some(Stat { state: 'D', parent: 7, major_faults: 33, threads: 9 }));
        assert_eq!(parse_stat("42 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_is_in_its_own_tree_and_its_figures_are_read() {
        let own = std::process::id();
        let found = descendants(own);
        assert!(found.contains(&own));
        let sample = TreeReader::default().read(&found);
        assert!(sample.threads >= 1 && sample.descriptors >= 3 && sample.resident_bytes > 0, "{sample:?}");
        assert!(descendants(u32::MAX).is_empty());
    }

    #[test]
    fn figures_are_found_after_their_label() {
        assert_eq!(figure("rchar: 5\nread_bytes: 12\nwrite_bytes: 9\n", "\nread_bytes:"), 12);
        assert_eq!(figure("Max open files            unlimited            4096", "Max open files"), 0);
        assert_eq!(figure("", "x"), 0);
    }
}
