//! The binary `understudy`: the arguments go in, an exit code comes out; everything else is in the library.

use std::process::ExitCode;

#[cfg(feature = "planted")]
compile_error!("the product is not built with planted bugs: leave the feature `planted` to the simulator");

fn main() -> ExitCode {
    ExitCode::from(understudy_agent::cli::main(std::env::args_os()) as u8)
}
