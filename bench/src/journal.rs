//! The journal beside the disk itself: how long until a frame is durable, and how many a second.
//!
//! Owns: figures of the journal on io_uring and on plain system calls, and of a bare write and fdatasync of one page
//! in the same directory, in turns. What can hurt: a bare write that also pays for the file's growth; its file is
//! allocated and written before. Refuses: judging them.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use serde::Serialize;
use understudy_agent::clock;
use understudy_agent::frame::traffic::Traffic;
use understudy_agent::frame::{Frame, FrameBuilder, FrameCodec, Level, Seal};
use understudy_agent::journal::{IoBackend, Journal, JournalConfig, JournalEvent, Token};
use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};

use crate::stats::{self, Machine, Ratio, Row, Run, Spread, now_ns};

/// Arguments of `bench journal`.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// A twentieth of the work, once: for tests, not for figures
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A directory on the disk to be measured [default: where this program is]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Operations in a frame of the measurement: what a batch holds at moderate load.
const OPERATIONS: u64 = 16;
/// Frames that wait at any time, in the throughput runs.
const WAITING: usize = 256;
const PAGE_BYTES: usize = 4096;

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    quick: bool,
    directory: PathBuf,
    /// Why io_uring is missing here.
    io_uring_refused: Option<String>,
    operations_per_frame: u64,
    window: usize,
    rows: Vec<Row>,
    ratios: Vec<Ratio>,
    bandwidth: Vec<Bandwidth>,
}

/// Of a throughput run.
#[derive(Debug, Serialize)]
struct Bandwidth {
    name: &'static str,
    bytes_per_second: Spread,
    /// Frames that shared one fdatasync.
    frames_per_write: Spread,
}

/// A stream of frames of one group.
struct Stream {
    traffic: Traffic,
    builder: FrameBuilder,
    codec: FrameCodec,
    seal: Seal,
}

impl Stream {
    fn new(cluster: ClusterId, origin: NodeId) -> Self {
        let seal = Seal {
            cluster,
            origin,
            group: GroupId(1),
            epoch: Epoch(1),
            first_sequence: Sequence(1),
            previous_hash: [0; 32],
            level: Level::Normal,
        };
        Self { traffic: Traffic::new(5), builder: FrameBuilder::new(), codec: FrameCodec::new(), seal }
    }

    fn next(&mut self) -> Result<Frame> {
        for _ in 0..OPERATIONS {
            let (account, captured, op) = self.traffic.entry();
            self.builder.push(&account, captured, &op, None)?;
        }
        let frame = self.builder.seal(&self.seal, &mut self.codec)?;
        self.seal.first_sequence = frame.last_sequence().next();
        self.seal.previous_hash = frame.hash();
        Ok(frame)
    }
}

/// Bare page writes past the page cache where that is possible, each with its fdatasync, into a file that is allocated
/// and written: the least that any log has to pay here.
pub(crate) struct Bare {
    file: File,
    path: PathBuf,
    memory: Vec<u8>,
    pages: u64,
    next: u64,
}

impl Bare {
    /// A file of `pages` pages; past its end it begins anew.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn new(directory: &Path, pages: usize) -> Result<Self> {
        let path = directory.join("bare");
        std::fs::write(&path, vec![0; PAGE_BYTES * pages])?;
        File::open(&path)?.sync_all()?;
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path);
        // A file system that knows no O_DIRECT, such as tmpfs.
        let file = direct.or_else(|_| OpenOptions::new().write(true).open(&path))?;
        Ok(Self { file, path, memory: vec![1; 2 * PAGE_BYTES], pages: pages as u64, next: 0 })
    }

    /// One write and its fdatasync, in nanoseconds.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn once(&mut self) -> Result<u64> {
        let page = self.memory.get(self.memory.as_ptr().align_offset(PAGE_BYTES)..);
        let page = page.and_then(|rest| rest.get(..PAGE_BYTES)).context("no aligned page")?;
        let start = now_ns();
        self.file.write_all_at(page, PAGE_BYTES as u64 * (self.next % self.pages))?;
        self.file.sync_data()?;
        self.next += 1;
        Ok(now_ns() - start)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn answered(journal: &Journal) -> Result<()> {
    match journal.events().recv_timeout(Duration::from_secs(60)).context("the journal does not answer")? {
        JournalEvent::Durable { .. } => Ok(()),
        other => bail!("unexpected answer {other:?}"),
    }
}

/// A journal on one backend, and what its runs gave.
struct Way {
    journal: Journal,
    stream: Stream,
    one: Vec<Run>,
    many: Vec<Run>,
    bytes_per_second: Vec<f64>,
    frames_per_write: Vec<f64>,
}

impl Way {
    fn open(directory: &Path, io_backend: IoBackend) -> Result<Self> {
        let (node, cluster) = (NodeId::new(1).context("node 1")?, ClusterId(1));
        let path = directory.join(format!("{io_backend:?}"));
        let config = JournalConfig { io_backend, free_bytes_min: 0, ..JournalConfig::new(path, cluster, node) };
        let (journal, _) = Journal::open(config, clock::mono())?;
        let stream = Stream::new(cluster, node);
        let (one, many, bytes_per_second, frames_per_write) = Default::default();
        Ok(Self { journal, stream, one, many, bytes_per_second, frames_per_write })
    }

    /// One frame, until it is durable, in nanoseconds; without its sealing.
    fn once(&mut self) -> Result<u64> {
        let frame = self.stream.next()?;
        let start = now_ns();
        self.journal.append(frame, Token(0))?;
        answered(&self.journal)?;
        Ok(now_ns() - start)
    }

    /// `count` frames, [`WAITING`] of them waiting at any time.
    fn run(&mut self, count: usize) -> Result<()> {
        let frames = (0..count).map(|_| self.stream.next()).collect::<Result<Vec<Frame>>>()?;
        let bytes: usize = frames.iter().map(|frame| frame.bytes().len()).sum();
        let before = self.journal.stats();
        let (mut begins, mut samples) = (VecDeque::new(), Vec::with_capacity(count));
        let mut take = |begins: &mut VecDeque<u64>| -> Result<()> {
            answered(&self.journal)?;
            let start = begins.pop_front().context("an answer too many")?;
            samples.push(now_ns() - start);
            Ok(())
        };
        let begun = now_ns();
        for frame in frames {
            if begins.len() >= WAITING {
                take(&mut begins)?;
            }
            begins.push_back(now_ns());
            self.journal.append(frame, Token(0))?;
        }
        while !begins.is_empty() {
            take(&mut begins)?;
        }
        let elapsed_ns = now_ns() - begun;
        let after = self.journal.stats();
        self.many.push(Run::of(samples, 1, elapsed_ns));
        self.bytes_per_second.push(bytes as f64 * 1e9 / elapsed_ns as f64);
        self.frames_per_write.push(count as f64 / (after.writes - before.writes).max(1) as f64);
        Ok(())
    }

    fn bandwidth(&self, name: &'static str) -> Bandwidth {
        Bandwidth {
            name,
            bytes_per_second: Spread::of(self.bytes_per_second.iter().copied()),
            frames_per_write: Spread::of(self.frames_per_write.iter().copied()),
        }
    }
}

fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::look();
    let place = stats::place(args.dir.as_deref())?;
    let directory =
        tempfile::Builder::new().prefix("bench-journal-").tempdir_in(&place).context("no directory to measure in")?;
    let directory = directory.path();
    let (rounds, turns) = if args.quick { (50, 1) } else { (500, 7) };
    let refused = understudy_agent::journal::io_uring_available().err().map(|refusal| refusal.to_string());
    let mut bare = Bare::new(directory, rounds)?;
    let mut uring = if refused.is_none() { Some(Way::open(directory, IoBackend::IoUring)?) } else { None };
    let mut plain = Way::open(directory, IoBackend::Plain)?;
    let mut fdatasync = Vec::new();
    for _ in 0..turns {
        // One of each after the other: what else the machine does then meets all alike.
        let (mut page, mut by_uring, mut by_plain) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            page.push(bare.once()?);
            if let Some(uring) = &mut uring {
                by_uring.push(uring.once()?);
            }
            by_plain.push(plain.once()?);
        }
        fdatasync.push(Run::of_samples(page));
        plain.one.push(Run::of_samples(by_plain));
        plain.run(rounds * 16)?;
        if let Some(uring) = &mut uring {
            uring.one.push(Run::of_samples(by_uring));
            uring.run(rounds * 16)?;
        }
    }
    let p50 = |run: &Run| run.p50_ns;
    let mut rows = vec![Row::of("fdatasync of 4 KiB, bare", &fdatasync)];
    let (mut ratios, mut bandwidth) = (Vec::new(), Vec::new());
    if let Some(uring) = &uring {
        rows.push(Row::of("a frame durable, io_uring, window 1", &uring.one));
        rows.push(Row::of("frames durable, io_uring, window 256", &uring.many));
        ratios.push(Ratio::of("io_uring, window 1, over fdatasync, p50", &uring.one, &fdatasync, p50));
        bandwidth.push(uring.bandwidth("io_uring"));
    }
    rows.push(Row::of("a frame durable, plain, window 1", &plain.one));
    rows.push(Row::of("frames durable, plain, window 256", &plain.many));
    ratios.push(Ratio::of("plain, window 1, over fdatasync, p50", &plain.one, &fdatasync, p50));
    bandwidth.push(plain.bandwidth("plain"));
    Ok(Report {
        machine: machine.ended(),
        quick: args.quick,
        directory: place,
        io_uring_refused: refused,
        operations_per_frame: OPERATIONS,
        window: WAITING,
        rows,
        ratios,
        bandwidth,
    })
}

/// Measures and prints.
///
/// # Errors
/// The disk's.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = measure(args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("journal in `{}`: frames of {OPERATIONS} operations", report.directory.display());
    if let Some(refused) = &report.io_uring_refused {
        println!("io_uring is refused here: {refused}");
    }
    stats::print(&report.machine, report.quick, &report.rows, &report.ratios);
    for Bandwidth { name, bytes_per_second, frames_per_write } in &report.bandwidth {
        let (rate, frames) = (bytes_per_second.median / 1e6, frames_per_write.median);
        println!(
            "{name}, window {WAITING}: {rate:.1} MB of compressed frames per second, {frames:.1} frames per fdatasync"
        );
    }
    Ok(())
}
