//! The shared-memory ring between a mail store and its agent.
//!
//! Owns: one memory-mapped file with many producer processes and one consumer. The bytes are in
//! `docs/formats.md`, section Ring; their constants in `understudy_types::ring`.
//! What can hurt: every word is writable by every process that maps the file, and every process can die
//! between any two instructions. So: copy out, check, then use; no state of a dead process is ever waited for;
//! no lock is held by anybody.
//! Refuses: knowing what an operation is (payloads are opaque), and allocating or calling the kernel while
//! publishing.
//!
//! # The algorithm
//!
//! `head` is one word: the index of the next record and its position. Publishing takes three
//! compare-and-swaps:
//!
//! 1. the descriptor `index % D` from free to reserved, which holds the record's length and its owner;
//! 2. `head` to the next index and position. Whoever finds the head's descriptor reserved does this step for
//!    its owner, so a producer killed between 1 and 2 stops nobody;
//! 3. after the record is filled, the descriptor from reserved to committed.
//!
//! The consumer reads descriptors in order. A reserved one is waited for only while its owner lives: each
//! producer process holds an OFD byte-range lock on the ring file, which the kernel drops at its death. That
//! neither errs when a process id is used again nor when agent and store live in different PID namespaces.
//! A record of a dead owner whose checksum is right is delivered: it is whole, and the store had committed it.
//!
//! # Choices, and why
//!
//! * Indices have 40 bits, positions 24. With 32 bits of index, a producer that is stopped for 71 minutes at a
//!   million records a second could find its old index again.
//! * The incarnation of a producer slot stands in the descriptor (9 bits): a slot that is taken again by a new
//!   process must not make a dead reservation look alive.
//! * The data area is read and written by relaxed 8-byte atomics, not by `memcpy`: the same speed for records
//!   of this size, and no data race in the language's terms, whatever another process does.
//! * The consumer has two cursors: `read` is private; `release` is published once the record is durable in
//!   the journal. A new agent starts at `release`, so the death of an agent loses nothing.
//! * A damaged descriptor or head is repaired by the consumer: from the record's own header, or from the chain
//!   of lengths counted back from `head`. What cannot be placed is reported as [`Event::Damaged`].

#![deny(unsafe_code)]

mod sync;
#[cfg(not(loom))]
mod clock;
#[cfg(not(loom))]
pub mod memory;
mod claim;
#[cfg(not(loom))]
mod checksum;
#[cfg(not(loom))]
mod record;
mod completion;
#[cfg(not(loom))]
mod gaps;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod map;
#[cfg(not(loom))]
mod file;
#[cfg(not(loom))]
mod producer;
#[cfg(not(loom))]
mod intents;
#[cfg(not(loom))]
mod consumer;
#[cfg(not(loom))]
mod abi;
#[cfg(not(loom))]
pub use abi::{blob, ffi};
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(all(test, not(loom), not(miri)))]
mod lease_tests;
#[cfg(all(test, not(loom)))]
mod damage_tests;
#[cfg(all(test, not(loom)))]
mod death_tests;

#[cfg(not(loom))]
pub use consumer::{Completer, Consumer, ConsumerStats, Event, OrphanedIntent, Record, Waker, WriteLease};
#[cfg(not(loom))]
pub use file::{AttachError, ConsumerOptions};
#[cfg(not(loom))]
pub use map::Mapping;
#[cfg(not(loom))]
pub use memory::HeapMemory;
#[cfg(not(loom))]
pub use producer::{OpenError, Outcome, Producer, PublishError, Published, RecordSpec};
pub use understudy_types::ring::{
    AckLevel, CompletionRef, Geometry, OnFull, OnTimeout, Owner, Policy, RecordKind, Role, Status, gap_bucket,
};
