//! Replay of journaled operations into the store of a replica: order, idempotence, and accounts set aside.

pub mod cursor;
pub mod filter;
pub mod park;
pub mod plan;
