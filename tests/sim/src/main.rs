//! The simulator's command line; `cargo xtask sim` builds and runs it.
//!
//! Owns: flags and what is printed. Refuses: everything else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use understudy_sim::run;

/// Runs the real deciders in simulated worlds and checks what users were promised
#[derive(Parser)]
struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed; alone, the only one
    #[arg(long)]
    seed: Option<u64>,
    /// Write the trace of one seed here
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Threads; default: one for each core
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    run::quiet_panics();
    if let Some(path) = &args.trace {
        let (outcome, text) = run::seed(args.seed.unwrap_or(0), true);
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("error: cannot write `{}`: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("{outcome:?}");
        return if outcome.wrong.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (mut ran, mut wrong, mut events, mut changes) = (0u64, 0u64, 0u64, 0usize);
    run::many(args.seed.unwrap_or(0), args.seeds, threads, &|| (), &mut |outcome| {
        ran += 1;
        events += outcome.events;
        changes += outcome.changes;
        if let Some(what) = &outcome.wrong {
            wrong += 1;
            println!("seed {}: {what}", outcome.seed);
        }
        wrong < 20
    });
    println!("{ran} seeds, {wrong} wrong, {events} events, {changes} changes");
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
