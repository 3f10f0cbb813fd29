//! The binary `understudy`: the arguments go in, an exit code comes out; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(understudy_agent::cli::main(std::env::args_os()) as u8)
}
