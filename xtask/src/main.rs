//! `cargo xtask`: every command that a contributor or CI runs, one module per command.
//!
//! Owns: setting a machine up, building what cargo alone cannot build, running everything that shows the project
//! works, and the mesh to try things on. Links nothing of the product, so that it builds even when `agent` does not.
//! Refuses: policy of the product; a command here only starts programs and reads what they print.

mod bench;
mod bootstrap;
mod build;
mod chaos;
mod ci;
mod clock;
mod demo;
mod drill;
mod host;
mod mesh;
mod run;
mod stop;
mod test;
mod tidy;

use clap::Parser;
use std::process::ExitCode;

/// Sets up, builds, tests and tries Understudy.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
enum Command {
    /// Install what is missing on this machine, once, and say what and why
    Bootstrap(bootstrap::Args),
    /// Build kernel programs, workspace and store plugins
    Build(build::Args),
    /// Two nodes, real traffic, every process killed once, all accounts compared
    Demo(demo::Args),
    /// An event, again and again, on three nodes with users, and what they saw of it
    Drill(drill::Args),
    /// Run everything that shows the project works
    Test(test::Args),
    /// Check what no compiler checks: module heads, import directions, documents against code
    Tidy(tidy::Args),
    /// Several nodes on this host to try things on
    Mesh(mesh::Args),
    /// Let one thing after the other go wrong under load, and hold what users were told against what is there
    Chaos(chaos::Args),
    /// Measure, side by side with what a user would pick instead
    Bench(bench::Args),
    /// What CI runs: `test`, without a terminal
    Ci(ci::Args),
}

impl Command {
    /// True if it goes on for long in several steps. Of the others Ctrl-C is simply the end.
    fn starts_programs(&self) -> bool {
        match self {
            Self::Tidy(_) | Self::Bench(_) => false,
            Self::Mesh(args) => args.stays(),
            Self::Bootstrap(_)
            | Self::Build(_)
            | Self::Demo(_)
            | Self::Drill(_)
            | Self::Chaos(_)
            | Self::Test(_)
            | Self::Ci(_) => true,
        }
    }
}

fn main() -> ExitCode {
    stop::speak_plainly_of_closed_pipes();
    let command = Command::parse();
    if command.starts_programs() {
        stop::notice_signals();
    }
    let done = match command {
        Command::Bootstrap(args) => bootstrap::main(&args),
        Command::Build(args) => build::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Drill(args) => return ended(drill::main(&args)),
        Command::Test(args) => test::main(&args),
        Command::Tidy(args) => tidy::main(&args),
        Command::Mesh(args) => mesh::main(&args),
        Command::Chaos(args) => return chaos::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Ci(args) => ci::main(&args),
    };
    ended(done.map(|good| if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn ended(done: anyhow::Result<ExitCode>) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The names of all commands, for `tidy` to hold documents against.
fn command_names() -> Vec<String> {
    use clap::CommandFactory;
    Command::command().get_subcommands().map(|c| c.get_name().to_owned()).collect()
}
