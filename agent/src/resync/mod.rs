//! Snapshots of accounts, from the active's side: first copy, repair after a gap, answer to a replica that asks.
//!
//! Owns: which accounts are to be exported, one export for each at a time, and the threads that do it. What can
//! hurt: a thousand accounts that need a snapshot at once; they queue, each once, and live operations go between.
//! Refuses: order; the event loop gives every operation of a snapshot its place in the group's stream.

pub mod export;
pub mod queue;

pub use export::{ExportEvent, Exporters, numbered};
pub use queue::{Job, Queue};
