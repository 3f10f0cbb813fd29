//! Measurements, each side by side with what a user would pick instead, all in one run.
//!
//! Owns: the command line of the benches. Refuses: judging figures; they are printed with their machine's own.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

mod journal;
mod ring;

#[derive(Parser)]
#[command(about = "Measurements of Understudy, beside the machine's own")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Publication into the ring, beside crossbeam's `ArrayQueue` and a plain cross-core ping-pong.
    Ring(ring::Args),
    /// Time until a frame is durable, beside bare fdatasync.
    Journal {
        /// A directory on the disk to be measured.
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().bench {
        Bench::Ring(arguments) => ring::run(&arguments)?,
        Bench::Journal { dir, quick } => {
            let (figures, refusal) = journal::measure(&dir, quick)?;
            let report = serde_json::json!({ "journal": figures, "io_uring_refused": refusal });
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
    }
    Ok(())
}
