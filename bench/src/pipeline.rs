//! From the ring to the disk: an operation that is durable here, and one that is durable on the peer, beside the
//! machine's own fdatasync.
//!
//! Owns: what a store process does (publish with an answer, wait for it), and the order of the runs. The agents are
//! whole ones in processes of their own: capture, batch, frame, journal, and for the peer mutual TLS over loopback,
//! shipping, receiving, the second journal and the way back.
//! What can hurt: the file system. `--dir` decides which disk is measured, for all ways alike.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args as ClapArgs;
use serde::Serialize;
use understudy_agent::clock;
use understudy_agent::frame::traffic::Traffic;
use understudy_ring::{CompletionRef, OnFull, Outcome, Producer, RecordSpec, Status};
use understudy_types::op::Op;

use crate::agents::{Agent, Pair};
use crate::journal::Bare;
use crate::stats::{self, Machine, Ratio, Row, Run, now_ns};

/// Arguments of `bench pipeline`.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// A fraction of the work: for tests, not for figures
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A directory on the disk to be measured [default: where this program is]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Turns; each runs every way once, and the figures are medians over them
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=101))]
    turns: Option<u32>,
}

/// Operations that wait for their answers at any time, in the throughput runs.
const WINDOW: usize = 1024;
/// An answer is there after so long, or something is wrong.
const ANSWER_NS_MAX: u64 = 60_000_000_000;
/// Bytes of a small frame with its header.
const ROUND_TRIP_BYTES: usize = 512;
/// Accounts that operations are spread over.
const ACCOUNTS: u64 = 64;

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    quick: bool,
    directory: PathBuf,
    window: usize,
    /// Of the operations, on average, without account and record header.
    operation_bytes: f64,
    /// `io_uring` or `plain`.
    journal_backend: String,
    /// Operations that shared one fdatasync in the local runs with the whole window, on average.
    operations_per_fsync: f64,
    rows: Vec<Row>,
    ratios: Vec<Ratio>,
}

/// Operations as a mail store has them: the mix of the agent's own test traffic. Bodies are left out: how soon those
/// are in central storage is central storage's figure.
fn operations(count: usize) -> Vec<Vec<u8>> {
    let mut traffic = Traffic::new(77);
    let without_body = |mut op: Op| {
        if let Op::MessageSaved { message, .. } | Op::MessageCopied { message, .. } = &mut op {
            message.blob = None;
        }
        op.encode()
    };
    (0..count).map(|_| without_body(traffic.op())).collect()
}

/// A store process: publishes and waits for the answers.
struct Publisher<'a> {
    producer: &'a Producer,
    operations: &'a [Vec<u8>],
    published: usize,
    level: char,
    expected: Status,
}

impl Publisher<'_> {
    fn publish(&mut self) -> Result<(CompletionRef, u64)> {
        let number = self.published;
        self.published += 1;
        let account = format!("{}{:04}@example.test", self.level, number as u64 % ACCOUNTS);
        let op = self.operations.get(number % self.operations.len()).context("no operation")?;
        let spec = RecordSpec::op(account.as_bytes(), op, clock::wall_ns()).answered();
        let start = now_ns();
        let spec = RecordSpec { on_full: OnFull::Wait, full_wait_ns: ANSWER_NS_MAX, ..spec };
        let published = self.producer.publish(&spec).context("cannot publish")?;
        Ok((published.completion.context("no completion slot")?, start))
    }

    fn answered(&self, at: CompletionRef) -> Result<()> {
        match self.producer.wait(at, ANSWER_NS_MAX, OnFull::Wait) {
            Outcome::Answered { status, .. } if status == self.expected => Ok(()),
            other => bail!("not the answer {:?}: {other:?}", self.expected),
        }
    }

    /// One operation, until it is answered, in nanoseconds.
    fn once(&mut self) -> Result<u64> {
        let (at, start) = self.publish()?;
        self.answered(at)?;
        Ok(now_ns() - start)
    }

    /// `count` operations, [`WINDOW`] of them waiting at any time.
    fn run(&mut self, count: usize) -> Result<Run> {
        let (mut waiting, mut samples) = (VecDeque::new(), Vec::with_capacity(count));
        let begun = now_ns();
        for _ in 0..count {
            if waiting.len() >= WINDOW {
                self.first(&mut waiting, &mut samples)?;
            }
            waiting.push_back(self.publish()?);
        }
        while !waiting.is_empty() {
            self.first(&mut waiting, &mut samples)?;
        }
        Ok(Run::of(samples, 1, now_ns() - begun))
    }

    fn first(&self, waiting: &mut VecDeque<(CompletionRef, u64)>, samples: &mut Vec<u64>) -> Result<()> {
        let (at, start) = waiting.pop_front().context("nothing waits")?;
        self.answered(at)?;
        samples.push(now_ns() - start);
        Ok(())
    }
}

/// Round trips of as many bytes as a small frame over a loopback connection, between two threads that sleep in `read`.
struct RoundTrips {
    here: TcpStream,
    bytes: [u8; ROUND_TRIP_BYTES],
}

impl RoundTrips {
    fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let here = TcpStream::connect(listener.local_addr()?)?;
        let (mut there, _) = listener.accept()?;
        here.set_nodelay(true)?;
        there.set_nodelay(true)?;
        // It ends when the other end is closed.
        std::thread::spawn(move || {
            let mut bytes = [0; ROUND_TRIP_BYTES];
            while there.read_exact(&mut bytes).and_then(|()| there.write_all(&bytes)).is_ok() {}
        });
        Ok(Self { here, bytes: [7; ROUND_TRIP_BYTES] })
    }

    fn once(&mut self) -> Result<u64> {
        let start = now_ns();
        self.here.write_all(&self.bytes)?;
        self.here.read_exact(&mut self.bytes)?;
        Ok(now_ns() - start)
    }
}

/// The runs of each way.
#[derive(Default)]
struct Runs {
    fdatasync: Vec<Run>,
    round_trip: Vec<Run>,
    local: Vec<Run>,
    peer: Vec<Run>,
    local_many: Vec<Run>,
    peer_many: Vec<Run>,
}

/// How much of each in a turn.
struct Amounts {
    one: usize,
    many: usize,
}

/// Everything that a turn uses.
struct Ways<'a> {
    bare: Bare,
    round_trips: RoundTrips,
    local: Publisher<'a>,
    peer: Publisher<'a>,
}

impl Runs {
    fn turn(&mut self, ways: &mut Ways<'_>, amounts: &Amounts) -> Result<()> {
        // One of each after the other: what else the machine does then meets all alike.
        let mut samples: [Vec<u64>; 4] = Default::default();
        for _ in 0..amounts.one {
            let once = [ways.bare.once()?, ways.local.once()?, ways.peer.once()?, ways.round_trips.once()?];
            samples.iter_mut().zip(once).for_each(|(samples, once)| samples.push(once));
        }
        let [fdatasync, local, peer, round_trip] = samples.map(Run::of_samples);
        self.fdatasync.push(fdatasync);
        self.local.push(local);
        self.peer.push(peer);
        self.round_trip.push(round_trip);
        self.local_many.push(ways.local.run(amounts.many)?);
        self.peer_many.push(ways.peer.run(amounts.many)?);
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        vec![
            Row::of("fdatasync of 4 KiB, bare", &self.fdatasync),
            Row::of("loopback TCP round trip, 512 bytes", &self.round_trip),
            Row::of("ring to local durable, window 1", &self.local),
            Row::of("ring to durable on the peer, window 1", &self.peer),
            Row::of("ring to local durable, window 1024", &self.local_many),
            Row::of("ring to durable on the peer, window 1024", &self.peer_many),
        ]
    }

    fn ratios(&self) -> Vec<Ratio> {
        let p50 = |run: &Run| run.p50_ns;
        let p99 = |run: &Run| run.p99_ns;
        let rate = |run: &Run| run.per_second;
        // The peer's disk works while this one does; the way there and back comes on top.
        let limit = |(trip, sync): (&Run, &Run)| Run { p50_ns: trip.p50_ns + sync.p50_ns, ..*sync };
        let limit: Vec<Run> = self.round_trip.iter().zip(&self.fdatasync).map(limit).collect();
        vec![
            Ratio::of("local, window 1, over fdatasync, p50", &self.local, &self.fdatasync, p50),
            Ratio::of("local, window 1, over fdatasync, p99", &self.local, &self.fdatasync, p99),
            Ratio::of("peer, window 1, over fdatasync, p50", &self.peer, &self.fdatasync, p50),
            Ratio::of("peer, window 1, over round trip + fdatasync, p50", &self.peer, &limit, p50),
            Ratio::of(
                "local, window 1024, over fdatasync, operations per second",
                &self.local_many,
                &self.fdatasync,
                rate,
            ),
            Ratio::of(
                "peer, window 1024, over fdatasync, operations per second",
                &self.peer_many,
                &self.fdatasync,
                rate,
            ),
        ]
    }
}

/// Waits until the two are connected: an operation then comes back from the peer.
fn connected(agent: &Agent) -> Result<()> {
    let begun = now_ns();
    while !agent.status()?.peers.iter().all(|peer| peer.connected) {
        ensure!(now_ns() - begun < ANSWER_NS_MAX, "the two agents do not find each other");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::look();
    let place = stats::place(args.dir.as_deref())?;
    let directory =
        tempfile::Builder::new().prefix("bench-pipeline-").tempdir_in(&place).context("no directory to measure in")?;
    // One node alone for the local figures, its peer never there; two for the others. All are up all the time.
    let runtime = stats::memory_dir()?;
    let prepare = |name| Pair::prepare(&directory.path().join(name), &runtime.path().join(name));
    let (alone, both) = (prepare("alone")?, prepare("both")?);
    let alone = alone.start(1)?;
    let (active, _replica) = (both.start(1)?, both.start(2)?);
    connected(&active)?;
    let (alone_ring, active_ring) = (alone.producer()?, active.producer()?);
    let operations = operations(4096);
    let operation_bytes = operations.iter().map(Vec::len).sum::<usize>() as f64 / operations.len() as f64;
    let publisher =
        |producer, level, expected| Publisher { producer, operations: &operations, published: 0, level, expected };
    let (amounts, turns) =
        if args.quick { (Amounts { one: 20, many: 2_000 }, 1) } else { (Amounts { one: 500, many: 50_000 }, 7) };
    let turns = args.turns.unwrap_or(turns);
    let mut ways = Ways {
        bare: Bare::new(directory.path(), amounts.one)?,
        round_trips: RoundTrips::new()?,
        local: publisher(&*alone_ring, 'l', Status::Durable),
        peer: publisher(&*active_ring, 'p', Status::Replicated),
    };
    // What the first turn pays once: pages of the ring, segments of the journal, the accounts.
    let warm_up = Amounts { one: amounts.one / 5, many: amounts.many / 5 };
    Runs::default().turn(&mut ways, &warm_up)?;
    let before = alone.status()?.journal.fsyncs_total;
    let mut runs = Runs::default();
    let published = ways.local.published;
    for _ in 0..turns {
        runs.turn(&mut ways, &amounts)?;
    }
    let after = alone.status()?.journal;
    let fsyncs = after.fsyncs_total.saturating_sub(before + u64::from(turns) * amounts.one as u64);
    let many = (ways.local.published - published).saturating_sub(turns as usize * amounts.one);
    Ok(Report {
        machine: machine.ended(),
        quick: args.quick,
        directory: place,
        window: WINDOW,
        operation_bytes,
        journal_backend: after.io_backend,
        operations_per_fsync: many as f64 / fsyncs.max(1) as f64,
        rows: runs.rows(),
        ratios: runs.ratios(),
    })
}

/// Measures and prints.
///
/// # Errors
/// No disk, no agent, or an answer that does not come.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = measure(args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!(
        "pipeline in `{}`: whole agents in processes of their own, journal by {}, operations of {:.0} bytes on average",
        report.directory.display(),
        report.journal_backend,
        report.operation_bytes
    );
    println!("no store behind the replica: the figures end at its journal, while its replay tries to connect in vain");
    stats::print(&report.machine, report.quick, &report.rows, &report.ratios);
    println!("local, window {}: {:.0} operations per fdatasync", report.window, report.operations_per_fsync);
    Ok(())
}
