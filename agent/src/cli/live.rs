//! `understudy top`: brings the model from the admin socket to the view.
//!
//! Owns: the flags. Refuses: drawing; `top` does.

use super::top::{TopModel, once};
use super::{Context, Exit, Failure, output, top};

/// Flags of `top`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one picture as text and end
    #[arg(long)]
    pub once: bool,
}

/// Shows the view until it is left, or prints it once.
///
/// # Errors
///
/// No agent answers, or the terminal cannot be used.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    if context.global.json {
        let model: serde_json::Value = client.get("/v1/top")?;
        context.print_json(&model)?;
    } else if args.once {
        let model: TopModel = client.get("/v1/top")?;
        output::text(&once(&model).map_err(|error| Failure::Other(format!("{error:#}")))?)?;
    } else {
        // The first question here, so that "no agent" has its own exit code.
        let _: serde_json::Value = client.get("/v1/top")?;
        top::run(|| Ok(client.get("/v1/top")?)).map_err(|error| Failure::Other(format!("{error:#}")))?;
    }
    Ok(Exit::Fine)
}
