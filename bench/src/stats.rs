//! Figures out of samples: percentiles of one run, and the median and spread over several runs.
//!
//! Owns: the clock of the measurements, and how a set of samples becomes a row. What can hurt: a mean that hides a
//! tail, or one lucky run; so p50 and p99 are given of each run, and the median, the least and the greatest over
//! the runs. Refuses: judging.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;
use understudy_agent::clock;

/// Monotonic nanoseconds; comparable between processes of one host.
pub(crate) fn now_ns() -> u64 {
    clock::mono().0
}

/// Two processors that this process may use; the same twice if there is one.
pub(crate) fn two_processors() -> [usize; 2] {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let mut allowed = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
    let first = allowed.next().unwrap_or(0);
    [first, allowed.next().unwrap_or(first)]
}

/// Keeps the calling thread on a processor as long as the guard lives. Without, two threads that exchange something may
/// be put on one processor, where neither sees the other before a time slice is over.
pub(crate) struct Pinned {
    before: Option<CpuSet>,
}

impl Pinned {
    pub(crate) fn to(processor: usize) -> Self {
        let me = Pid::from_raw(0);
        let pin = || -> nix::Result<CpuSet> {
            let before = sched_getaffinity(me)?;
            let mut set = CpuSet::new();
            set.set(processor)?;
            sched_setaffinity(me, &set)?;
            Ok(before)
        };
        // Where it is refused, the scheduler decides; the spread shows it.
        Self { before: pin().ok() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = sched_setaffinity(Pid::from_raw(0), before);
        }
    }
}

/// One run of one way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) calls: u64,
    pub(crate) p50_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) per_second: f64,
}

impl Run {
    /// Out of samples of one call each that did not overlap; what was between them does not count.
    pub(crate) fn of_samples(samples_ns: Vec<u64>) -> Self {
        let elapsed_ns = samples_ns.iter().sum();
        Self::of(samples_ns, 1, elapsed_ns)
    }

    /// Out of samples in nanoseconds of `calls_per_sample` calls each; `elapsed_ns` is the time of the whole run.
    pub(crate) fn of(mut samples_ns: Vec<u64>, calls_per_sample: u64, elapsed_ns: u64) -> Self {
        samples_ns.sort_unstable();
        let at = |percent: usize| {
            let index = (samples_ns.len() * percent / 100).min(samples_ns.len().saturating_sub(1));
            samples_ns.get(index).copied().unwrap_or(0) as f64 / calls_per_sample as f64
        };
        let calls = samples_ns.len() as u64 * calls_per_sample;
        Self { calls, p50_ns: at(50), p99_ns: at(99), per_second: calls as f64 * 1e9 / elapsed_ns.max(1) as f64 }
    }
}

/// A figure over all runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
        let (count, middle) = (values.len(), values.len() / 2);
        let median = if count % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.saturating_sub(1)), at(middle)) };
        Self { median, min: at(0), max: at(count.saturating_sub(1)) }
    }
}

/// A row of a report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) runs: usize,
    pub(crate) calls_per_run: u64,
    pub(crate) p50_ns: Spread,
    pub(crate) p99_ns: Spread,
    pub(crate) per_second: Spread,
}

impl Row {
    pub(crate) fn of(name: &'static str, runs: &[Run]) -> Self {
        Self {
            name,
            runs: runs.len(),
            calls_per_run: runs.first().map_or(0, |run| run.calls),
            p50_ns: Spread::of(runs.iter().map(|run| run.p50_ns)),
            p99_ns: Spread::of(runs.iter().map(|run| run.p99_ns)),
            per_second: Spread::of(runs.iter().map(|run| run.per_second)),
        }
    }
}

/// A ratio of two ways, formed within each pair of runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) name: &'static str,
    pub(crate) ratio: Spread,
}

impl Ratio {
    /// `top` over `bottom`, pair by pair, of the figure that `of` picks.
    pub(crate) fn of(name: &'static str, top: &[Run], bottom: &[Run], of: impl Fn(&Run) -> f64) -> Self {
        let ratio = Spread::of(top.iter().zip(bottom).map(|(top, bottom)| of(top) / of(bottom).max(f64::MIN_POSITIVE)));
        Self { name, ratio }
    }
}

/// What a reader must know of the machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processors: usize,
    pub(crate) processor: String,
    pub(crate) kernel: String,
    /// Processes that wanted a processor in the last minute, on average, as the run began and as it ended.
    pub(crate) load_begin: String,
    pub(crate) load_end: String,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
        Self {
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            processor: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_begin: load(),
            load_end: String::new(),
        }
    }

    pub(crate) fn ended(mut self) -> Self {
        self.load_end = load();
        self
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The directory to measure in: as asked for, else beside this program, in the build's own folder.
pub(crate) fn place(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(asked) = asked {
        return asked.canonicalize().with_context(|| format!("there is no directory `{}`", asked.display()));
    }
    let program = std::env::current_exe()?;
    Ok(program.parent().context("this program is nowhere")?.to_owned())
}

/// Memory as `/run` is, where an agent's ring and sockets are: not a disk whose write-back takes pages away.
pub(crate) fn memory_dir() -> Result<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).context("no temporary directory")
}

/// Nanoseconds for people.
fn time(ns: f64) -> String {
    match ns {
        ns if ns < 10_000.0 => format!("{ns:.0} ns"),
        ns if ns < 10_000_000.0 => format!("{:.1} us", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

/// Prints a report for people.
pub(crate) fn print(machine: &Machine, quick: bool, rows: &[Row], ratios: &[Ratio]) {
    let Machine { processors, processor, kernel, load_begin, load_end } = machine;
    println!(
        "{processor}, {processors} processors, Linux {kernel}, load {load_begin} at the start and {load_end} at the end"
    );
    if quick {
        println!("quick mode: the figures say nothing");
    }
    println!(
        "{:<40} {:>4} {:>8} {:>30} {:>30} {:>32}",
        "median (least..greatest) of the runs", "runs", "calls", "p50", "p99", "per second"
    );
    for row in rows {
        let span = |spread: &Spread| format!("{} ({}..{})", time(spread.median), time(spread.min), time(spread.max));
        let rate = row.per_second;
        println!(
            "{:<40} {:>4} {:>8} {:>30} {:>30} {:>32}",
            row.name,
            row.runs,
            row.calls_per_run,
            span(&row.p50_ns),
            span(&row.p99_ns),
            format!("{:.0} ({:.0}..{:.0})", rate.median, rate.min, rate.max)
        );
    }
    for Ratio { name, ratio } in ratios {
        println!("{name}: {:.2} ({:.2}..{:.2})", ratio.median, ratio.min, ratio.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_medians_and_ratios() {
        let run = Run::of((1..=100).rev().map(|n| n * 16).collect(), 16, 1_000_000_000);
        assert_eq!((run.calls, run.p50_ns, run.p99_ns, run.per_second), (1600, 51.0, 100.0, 1600.0));
        assert_eq!(Run::of(Vec::new(), 1, 0).p50_ns, 0.0);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]).median, 2.5);
        let slow = Run { p50_ns: 102.0, ..run };
        assert_eq!(Ratio::of("", &[slow, run], &[run, run], |run| run.p50_ns).ratio.max, 2.0);
    }
}
