//! Placeholder.
pub mod acks;

/// Runs a node until it is told to stop.
///
/// # Errors
///
/// Whatever keeps the node from running.
pub fn run(_loaded: crate::config::Loaded) -> anyhow::Result<()> {
    anyhow::bail!("the node is not there yet")
}
