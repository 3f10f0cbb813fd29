//! The ring: one publication of 256 bytes beside a push of the same 256 bytes into crossbeam's `ArrayQueue`, and
//! what passes between two cores beside a ping-pong of one cache line.
//!
//! Owns: the pairs and their order. What can hurt: a peer that is measured in another minute or in other memory. Both
//! queues hold as many bytes in memory that is as large, both are emptied outside of the measured time, each pair of
//! runs follows the other at once and the order changes from pair to pair.
//! Two threads that exchange something are kept on two processors.
//! How: a clock read costs as much as a publication, so a batch of 16 calls is timed and given per call.

use std::hint::black_box;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;
use crossbeam::queue::ArrayQueue;
use serde::Serialize;
use understudy_ring::{Consumer, ConsumerOptions, Event, Geometry, OnFull, Outcome, Producer, RecordSpec, Status};

use crate::stats::{self, Machine, Pinned, Ratio, Row, Run, now_ns};

/// Arguments of `bench ring`.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// A hundredth of the work: for tests, not for figures
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Pairs of runs; the figures are medians over them
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=101))]
    pairs: u32,
}

/// Arguments of the other process.
#[derive(ClapArgs)]
pub(crate) struct ProducerArgs {
    #[arg(long)]
    ring: std::path::PathBuf,
    #[arg(long)]
    records: u64,
    #[arg(long)]
    pause_ns: u64,
    #[arg(long)]
    processor: usize,
}

const PAYLOAD_BYTES: usize = 256;
const ACCOUNT: &[u8] = b"u0001@example.test";
/// Calls between two clock reads.
const BATCH_CALLS: u64 = 16;
/// A record waits for room, or for its answer, at most so long; past it something is wrong with the machine.
const WAIT_NS_MAX: u64 = 60_000_000_000;
/// Pause between two records whose way to a consumer that spins is timed; it is waiting by then.
const SPINNING_PAUSE_NS: u64 = 5_000;
/// The same for a consumer that sleeps: far longer than it spins before it goes to sleep.
const SLEEPING_PAUSE_NS: u64 = 1_000_000;

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    payload_bytes: usize,
    quick: bool,
    rows: Vec<Row>,
    ratios: Vec<Ratio>,
}

/// The two queues, each with room for as many bytes.
struct Queues<'a> {
    producer: &'a Producer,
    consumer: &'a mut Consumer,
    queue: ArrayQueue<[u8; PAYLOAD_BYTES]>,
}

impl Queues<'_> {
    fn publish(&mut self, batches: u64) -> Result<Run> {
        let payload = black_box([7; PAYLOAD_BYTES]);
        let mut samples = Vec::with_capacity(usize::try_from(batches)?);
        for _ in 0..batches {
            let start = now_ns();
            for number in 0..BATCH_CALLS {
                let spec = RecordSpec::op(ACCOUNT, black_box(&payload), number);
                self.producer.publish(&spec).context("cannot publish")?;
            }
            samples.push(now_ns() - start);
            while self.consumer.poll().is_some() {}
            self.consumer.release(self.consumer.read_index());
        }
        let elapsed_ns = samples.iter().sum();
        Ok(Run::of(samples, BATCH_CALLS, elapsed_ns))
    }

    fn push(&mut self, batches: u64) -> Result<Run> {
        let payload = black_box([7; PAYLOAD_BYTES]);
        let mut samples = Vec::with_capacity(usize::try_from(batches)?);
        for _ in 0..batches {
            let start = now_ns();
            for _ in 0..BATCH_CALLS {
                ensure!(self.queue.push(*black_box(&payload)).is_ok(), "the queue is full");
            }
            samples.push(now_ns() - start);
            // Into an allocation each, as the ring's consumer hands records over: the caches then see the same of both.
            while let Some(bytes) = self.queue.pop() {
                black_box(bytes.to_vec());
            }
        }
        let elapsed_ns = samples.iter().sum();
        Ok(Run::of(samples, BATCH_CALLS, elapsed_ns))
    }
}

/// Records that go through to another thread, each with the time that its publication took.
fn stream(producer: &Producer, consumer: &mut Consumer, other: usize, records: u64) -> Result<Run> {
    let payload = [7; PAYLOAD_BYTES];
    std::thread::scope(|scope| -> Result<Run> {
        let publisher = scope.spawn(move || {
            let _pinned = Pinned::to(other);
            let mut samples = Vec::with_capacity(usize::try_from(records).unwrap_or(0));
            for number in 0..records {
                let start = now_ns();
                let spec = RecordSpec::op(ACCOUNT, &payload, number);
                producer.publish(&RecordSpec { on_full: OnFull::Wait, full_wait_ns: WAIT_NS_MAX, ..spec })?;
                samples.push(now_ns() - start);
            }
            Ok::<_, understudy_ring::PublishError>(samples)
        });
        let start = now_ns();
        let mut delivered = 0;
        while delivered < records {
            let ended = publisher.is_finished();
            match consumer.poll() {
                Some(_) => {
                    delivered += 1;
                    if delivered % 64 == 0 {
                        consumer.release(consumer.read_index());
                    }
                }
                // Ended before this look, so nothing more comes: its error is below.
                None if ended => break,
                None => drop(consumer.wait(1_000_000)),
            }
        }
        consumer.release(consumer.read_index());
        let elapsed_ns = now_ns() - start;
        let samples =
            publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))?.context("cannot publish")?;
        ensure!(delivered == records, "{delivered} of {records} records arrived");
        Ok(Run::of(samples, 1, elapsed_ns))
    })
}

/// Publication with an answer, the agent on another thread.
fn answered(producer: &Producer, consumer: &mut Consumer, other: usize, rounds: u64) -> Result<Run> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<Run> {
        let agent = scope.spawn(|| {
            let _pinned = Pinned::to(other);
            while !stop.load(Ordering::Acquire) {
                match consumer.poll() {
                    Some(Event::Record(record)) => {
                        if let Some(at) = record.completion {
                            consumer.complete(at, Status::Durable, &[]);
                        }
                        consumer.release(consumer.read_index());
                    }
                    Some(_) => {}
                    None => drop(consumer.wait(1_000_000)),
                }
            }
        });
        let measured = (|| {
            let mut samples = Vec::new();
            let begun = now_ns();
            for number in 0..rounds {
                let start = now_ns();
                let published = producer.publish(&RecordSpec::op(ACCOUNT, &[7; PAYLOAD_BYTES], number).answered())?;
                let at = published.completion.context("no completion slot")?;
                let outcome = producer.wait(at, WAIT_NS_MAX, OnFull::Wait);
                ensure!(matches!(outcome, Outcome::Answered { .. }), "no answer");
                samples.push(now_ns() - start);
            }
            Ok(Run::of(samples, 1, now_ns() - begun))
        })();
        stop.store(true, Ordering::Release);
        agent.join().map_err(|_| anyhow::anyhow!("the agent's thread panicked"))?;
        measured
    })
}

#[repr(align(128))]
struct Line(AtomicU64);

/// Two threads, two cache lines, nothing else: the floor of any exchange between two cores. Round trips.
fn ping_pong(other: usize, rounds: u64) -> Run {
    let (ping, pong) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let wait_for = |line: &Line, value: u64| {
        let mut turns = 0_u32;
        while line.0.load(Ordering::Acquire) != value {
            turns += 1;
            // With fewer processors than threads, spinning alone would take whole time slices.
            if turns.is_multiple_of(1024) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _pinned = Pinned::to(other);
            for round in 1..=rounds {
                wait_for(&ping, round);
                pong.0.store(round, Ordering::Release);
            }
        });
        let mut samples = Vec::new();
        let begun = now_ns();
        for round in 1..=rounds {
            let start = now_ns();
            ping.0.store(round, Ordering::Release);
            wait_for(&pong, round);
            samples.push(now_ns() - start);
        }
        Run::of(samples, 1, now_ns() - begun)
    })
}

/// A process that is ended with its owner.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One way from a process that publishes to this one: from before the publication to the record in hand.
fn one_way(path: &Path, consumer: &mut Consumer, processor: usize, records: u64, sleeping: bool) -> Result<Run> {
    let pause_ns = if sleeping { SLEEPING_PAUSE_NS } else { SPINNING_PAUSE_NS };
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("ring-producer").arg("--ring").arg(path).args(["--records", &records.to_string()]);
    command.args(["--pause-ns", &pause_ns.to_string(), "--processor", &processor.to_string()]).stdin(Stdio::null());
    let mut other = Other(command.spawn().context("cannot start a second process")?);
    let mut samples = Vec::with_capacity(usize::try_from(records)?);
    let begun = now_ns();
    while (samples.len() as u64) < records {
        match consumer.poll() {
            Some(Event::Record(record)) => {
                let arrived = now_ns();
                let stamp = record.payload.first_chunk().context("a record without a stamp")?;
                samples.push(arrived.saturating_sub(u64::from_le_bytes(*stamp)));
                if let Some(at) = record.completion {
                    consumer.complete(at, Status::Durable, &[]);
                }
                consumer.release(consumer.read_index());
            }
            Some(other) => anyhow::bail!("not a record: {other:?}"),
            None => {
                ensure!(now_ns() - begun < WAIT_NS_MAX, "the other process publishes nothing");
                if sleeping {
                    consumer.wait(100_000_000);
                } else {
                    std::hint::spin_loop();
                }
            }
        }
    }
    let elapsed_ns = now_ns() - begun;
    ensure!(other.0.wait()?.success(), "the other process failed");
    Ok(Run::of(samples, 1, elapsed_ns))
}

/// The other process of [`one_way`].
///
/// # Errors
/// No ring, or it is full.
pub(crate) fn produce(args: &ProducerArgs) -> Result<()> {
    let producer = Producer::open(&args.ring)?;
    let _pinned = Pinned::to(args.processor);
    let mut payload = [7; PAYLOAD_BYTES];
    for number in 0..args.records {
        if args.pause_ns < 100_000 {
            let until = now_ns() + args.pause_ns;
            while now_ns() < until {
                std::hint::spin_loop();
            }
        } else {
            std::thread::sleep(std::time::Duration::from_nanos(args.pause_ns));
        }
        payload[..8].copy_from_slice(&now_ns().to_le_bytes());
        let published = producer.publish(&RecordSpec::op(ACCOUNT, &payload, number).answered())?;
        // One at a time: a record that queues behind another is not what is measured.
        producer.wait(published.completion.context("no completion slot")?, WAIT_NS_MAX, OnFull::Wait);
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::look();
    let scale = if args.quick { 100 } else { 1 };
    let dir = stats::memory_dir()?;
    let path = dir.path().join("ring");
    let mut consumer = Consumer::attach(&path, &ConsumerOptions::default(), 0).context("cannot make a ring")?;
    let producer = Producer::open(&path).context("cannot open the ring")?;
    // A slot of the queue is the bytes and a stamp of 8.
    let queue = ArrayQueue::new(Geometry::default().data_bytes as usize / (PAYLOAD_BYTES + 8));
    let mut queues = Queues { producer: &producer, consumer: &mut consumer, queue };
    // The first turn brings the pages of both in: 80,000 calls go once through either.
    queues.publish(5_000)?;
    queues.push(5_000)?;
    let batches = 20_000 / scale;
    let (mut publish, mut push) = (Vec::new(), Vec::new());
    for pair in 0..args.pairs {
        if pair % 2 == 0 {
            publish.push(queues.publish(batches)?);
            push.push(queues.push(batches)?);
        } else {
            push.push(queues.push(batches)?);
            publish.push(queues.publish(batches)?);
        }
    }
    let [here, there] = stats::two_processors();
    let pinned = Pinned::to(here);
    let (mut streamed, mut round_trip, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    let (mut spinning, mut sleeping) = (Vec::new(), Vec::new());
    for _ in 0..args.pairs {
        streamed.push(stream(&producer, &mut consumer, there, 200_000 / scale)?);
        round_trip.push(answered(&producer, &mut consumer, there, 20_000 / scale)?);
        floor.push(ping_pong(there, 100_000 / scale));
        spinning.push(one_way(&path, &mut consumer, there, 50_000 / scale, false)?);
        sleeping.push(one_way(&path, &mut consumer, there, 500 / scale, true)?);
    }
    drop(pinned);
    let p50 = |run: &Run| run.p50_ns;
    let one_way_floor: Vec<Run> = floor.iter().map(|run| Run { p50_ns: run.p50_ns / 2.0, ..*run }).collect();
    let ratios = vec![
        Ratio::of("publish over push, p50", &publish, &push, p50),
        Ratio::of("publish and answer over ping-pong, p50", &round_trip, &floor, p50),
        Ratio::of("one way, spinning, over half a ping-pong, p50", &spinning, &one_way_floor, p50),
    ];
    let rows = vec![
        Row::of("ring publish, 256 bytes", &publish),
        Row::of("ArrayQueue push, 256 bytes", &push),
        Row::of("ring to another thread, publication", &streamed),
        Row::of("ring publish and answer, round trip", &round_trip),
        Row::of("cross-core ping-pong, round trip", &floor),
        Row::of("process to process, spinning, one way", &spinning),
        Row::of("process to process, sleeping, one way", &sleeping),
    ];
    Ok(Report { machine: machine.ended(), payload_bytes: PAYLOAD_BYTES, quick: args.quick, rows, ratios })
}

/// Measures and prints.
///
/// # Errors
/// No temporary file, no second process, or the ring refuses.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = measure(args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("ring: payload {PAYLOAD_BYTES} bytes");
        stats::print(&report.machine, report.quick, &report.rows, &report.ratios);
    }
    Ok(())
}
