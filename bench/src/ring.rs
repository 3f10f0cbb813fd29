//! The ring: one publication of 256 bytes, beside a push of the same 256 bytes into crossbeam's `ArrayQueue`; and an
//! acknowledged publication, beside a plain ping-pong of two threads on two cache lines.
//!
//! Owns: its figures only. All of a run comes from the same machine in the same minute, in turns, so that the
//! columns can be compared.
//! What can hurt: too few processors. With one, every exchange between threads costs a context switch, and the
//! report says how many there are.
//! How: latencies are taken for batches of 16 calls (a clock read costs as much as a publication) and given per
//! call; the
//! queue is emptied between batches, outside of the measured time.

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use crossbeam::queue::ArrayQueue;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use understudy_ring::{Consumer, ConsumerOptions, Event, OnFull, Outcome, Producer, RecordSpec, Status};

/// Arguments of `bench ring`.
#[derive(ClapArgs)]
pub(crate) struct Args {
    /// A hundredth of the work: for tests, not for figures
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const PAYLOAD_BYTES: usize = 256;
/// Calls between two clock reads.
const BATCH_CALLS: u64 = 16;

/// One row of the report. Times are per call.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    calls: u64,
    p50_ns: u64,
    p99_ns: u64,
    per_second: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    processors: usize,
    payload_bytes: usize,
    quick: bool,
    rows: Vec<Row>,
    /// p50 of the publication over p50 of the push.
    publish_over_push: f64,
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn ns_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Samples in nanoseconds for `calls_per_sample` calls each.
fn row(name: &'static str, mut samples_ns: Vec<u64>, calls_per_sample: u64) -> Row {
    samples_ns.sort_unstable();
    let at = |percent: usize| samples_ns.get(samples_ns.len() * percent / 100).copied().unwrap_or(0) / calls_per_sample;
    let calls = samples_ns.len() as u64 * calls_per_sample;
    let total_ns: u64 = samples_ns.iter().sum();
    let per_second = u128::from(calls) * 1_000_000_000 / u128::from(total_ns.max(1));
    Row { name, calls, p50_ns: at(50), p99_ns: at(99), per_second: u64::try_from(per_second).unwrap_or(u64::MAX) }
}

/// Publication and push, in turns on one thread.
fn publish_and_push(producer: &Producer, consumer: &mut Consumer, batches: u64) -> Result<(Row, Row)> {
    let queue: ArrayQueue<[u8; PAYLOAD_BYTES]> = ArrayQueue::new(65_536);
    let payload = std::hint::black_box([7; PAYLOAD_BYTES]);
    let (mut publish_ns, mut push_ns) = (Vec::new(), Vec::new());
    for _ in 0..batches {
        let start = now();
        for number in 0..BATCH_CALLS {
            let spec = RecordSpec::op(b"u0001@example.test", std::hint::black_box(&payload), number);
            producer.publish(&spec).context("cannot publish")?;
        }
        publish_ns.push(ns_since(start));
        while consumer.poll().is_some() {}
        consumer.release(consumer.read_index());

        let start = now();
        for _ in 0..BATCH_CALLS {
            let _ = queue.push(*std::hint::black_box(&payload));
        }
        push_ns.push(ns_since(start));
        while queue.pop().is_some() {}
    }
    Ok((
        row("ring publish, 256 bytes", publish_ns, BATCH_CALLS),
        row("ArrayQueue push, 256 bytes", push_ns, BATCH_CALLS),
    ))
}

/// Records that go through from one thread to another, per second, with the latency of each publication.
fn stream(producer: &Producer, consumer: &mut Consumer, records: u64) -> Result<Row> {
    let payload = [7; PAYLOAD_BYTES];
    let mut elapsed_ns = 0;
    let samples = std::thread::scope(|scope| -> Result<Vec<u64>> {
        let publisher = scope.spawn(move || {
            let mut samples = Vec::new();
            for number in 0..records {
                let start = now();
                let spec = RecordSpec::op(b"u0001@example.test", &payload, number);
                let spec = RecordSpec { on_full: OnFull::Wait, full_wait_ns: 10_000_000_000, ..spec };
                producer.publish(&spec).map(|_| samples.push(ns_since(start)))?;
            }
            Ok::<_, understudy_ring::PublishError>(samples)
        });
        let start = now();
        let mut delivered = 0;
        while delivered < records {
            match consumer.poll() {
                Some(_) => {
                    delivered += 1;
                    if delivered % 64 == 0 {
                        consumer.release(consumer.read_index());
                    }
                }
                None if publisher.is_finished() && consumer.poll().is_none() && delivered == 0 => break,
                None => {
                    consumer.wait(1_000_000);
                }
            }
        }
        consumer.release(consumer.read_index());
        elapsed_ns = ns_since(start);
        publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))?.context("cannot publish")
    })?;
    let mut row = row("ring stream to another thread", samples, 1);
    row.per_second =
        u64::try_from(u128::from(records) * 1_000_000_000 / u128::from(elapsed_ns.max(1))).unwrap_or(u64::MAX);
    Ok(row)
}

/// Publication with an answer, the agent on another thread.
fn acknowledged(producer: &Producer, consumer: &mut Consumer, rounds: u64) -> Result<Row> {
    let stop = AtomicBool::new(false);
    let samples = std::thread::scope(|scope| -> Result<Vec<u64>> {
        let agent = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                match consumer.poll() {
                    Some(Event::Record(record)) => {
                        if let Some(at) = record.completion {
                            consumer.complete(at, Status::Durable, &[]);
                        }
                        consumer.release(consumer.read_index());
                    }
                    Some(_) => {}
                    None => {
                        consumer.wait(1_000_000);
                    }
                }
            }
        });
        let measured = (|| {
            let mut samples = Vec::new();
            for number in 0..rounds {
                let start = now();
                let published =
                    producer.publish(&RecordSpec::op(b"u0001@example.test", &[7; PAYLOAD_BYTES], number).answered())?;
                let at = published.completion.context("no completion slot")?;
                let outcome = producer.wait(at, 10_000_000_000, OnFull::Wait);
                anyhow::ensure!(matches!(outcome, Outcome::Answered { .. }), "no answer");
                samples.push(ns_since(start));
            }
            Ok(samples)
        })();
        stop.store(true, Ordering::Release);
        agent.join().map_err(|_| anyhow::anyhow!("the agent's thread panicked"))?;
        measured
    })?;
    Ok(row("ring publish and answer, round trip", samples, 1))
}

#[repr(align(128))]
struct Line(AtomicU64);

/// Two threads, two cache lines, nothing else: the floor of any exchange between two cores.
fn ping_pong(rounds: u64) -> Row {
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
    let samples = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                wait_for(&ping, round);
                pong.0.store(round, Ordering::Release);
            }
        });
        let mut samples = Vec::new();
        for round in 1..=rounds {
            let start = now();
            ping.0.store(round, Ordering::Release);
            wait_for(&pong, round);
            samples.push(ns_since(start));
        }
        samples
    });
    row("cross-core ping-pong, round trip", samples, 1)
}

/// Measures and prints.
///
/// # Errors
/// No temporary file, or the ring refuses.
pub(crate) fn run(args: &Args) -> Result<()> {
    let scale = if args.quick { 100 } else { 1 };
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ring");
    let mut consumer = Consumer::attach(&path, &ConsumerOptions::default(), 0).context("cannot make a ring")?;
    let producer = Producer::open(&path).context("cannot open the ring")?;
    // The first turn brings the pages in.
    publish_and_push(&producer, &mut consumer, 5000 / scale)?;
    let (publish, push) = publish_and_push(&producer, &mut consumer, 100_000 / scale)?;
    let streamed = stream(&producer, &mut consumer, 1_000_000 / scale)?;
    let answered = acknowledged(&producer, &mut consumer, 100_000 / scale)?;
    let floor = ping_pong(200_000 / scale);
    let report = Report {
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        payload_bytes: PAYLOAD_BYTES,
        quick: args.quick,
        publish_over_push: publish.p50_ns as f64 / push.p50_ns.max(1) as f64,
        rows: vec![publish, push, streamed, answered, floor],
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!(
        "{} processors, payload {} bytes{}",
        report.processors,
        report.payload_bytes,
        if report.quick { ", quick mode: no figures" } else { "" }
    );
    println!("{:<38} {:>10} {:>10} {:>12} {:>10}", "", "p50 ns", "p99 ns", "per second", "calls");
    for row in &report.rows {
        println!("{:<38} {:>10} {:>10} {:>12} {:>10}", row.name, row.p50_ns, row.p99_ns, row.per_second, row.calls);
    }
    println!("publish over push: {:.2}", report.publish_over_push);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_quick_mode_runs() {
        super::run(&super::Args { quick: true, json: true }).unwrap();
    }
}
