//! Replay of journaled operations into the store of a replica: order, idempotence, and accounts set aside.
//!
//! Owns: from a durable frame to a store that holds it. What can hurt: a crash between the store's commit and the
//! cursor's, operations that come in another order than they were committed, a body that is not there yet, a store that
//! refuses or dies, and destruction by mistake, which is held. Each has its file: [`cursor`], [`filter`], [`park`],
//! [`plan`], [`hold`], [`brake`]. Refuses: skipping an operation in silence, and letting one account hold up another
//! (rules 5, 9, 11).

pub mod applier;
pub mod brake;
pub mod cursor;
mod describe;
pub mod filter;
pub mod hold;
mod live;
pub(crate) mod names;
pub mod orders;
pub mod park;
pub mod plan;
mod request;
mod shelve;
mod snapshot;
#[cfg(test)]
mod tests;
mod unshelve;
pub mod worker;

pub use applier::{ApplyError, ApplyEvent, GroupApplier, Tools};
