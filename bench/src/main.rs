//! Measurements, each side by side with what a user would pick instead, all in one run.
//!
//! Owns: the command line of the benches. Refuses: judging figures; they are printed with their machine's own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod agents;
mod journal;
mod pipeline;
mod ring;
mod stats;

#[derive(Parser)]
#[command(about = "Measurements of Understudy, beside the machine's own")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Publication into the ring, beside crossbeam's `ArrayQueue` and a plain cross-core ping-pong
    Ring(ring::Args),
    /// From the ring to the disk, and to a peer's disk, beside bare fdatasync
    Pipeline(pipeline::Args),
    /// Time until a frame is durable, beside bare fdatasync
    Journal(journal::Args),
    /// The publishing process of `ring`
    #[command(hide = true)]
    RingProducer(ring::ProducerArgs),
    /// An agent of `pipeline`
    #[command(hide = true)]
    Agent { configuration: PathBuf },
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().bench {
        Bench::Ring(arguments) => ring::run(&arguments)?,
        Bench::Pipeline(arguments) => pipeline::run(&arguments)?,
        Bench::Journal(arguments) => journal::run(&arguments)?,
        Bench::RingProducer(arguments) => ring::produce(&arguments)?,
        Bench::Agent { configuration } => return Ok(agents::run(&configuration)),
    }
    Ok(ExitCode::SUCCESS)
}
