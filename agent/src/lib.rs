//! The node agent as a library. Modules are declared in reading order: along the record path of the active
//! node, then of the replica, then the signal path, then where they meet.
//!
//! Owns: everything an agent does between the ring and the store. Refuses: knowing how a store works
//! (`store` is the only door), and deciding with a clock in hand (`clock` is read by `node` and passed in).
//!
//! A stage may name a stage before it on its own path, never one after it; `cargo xtask tidy` holds that.

pub mod limits;
pub mod clock;
pub mod database;
pub mod durable;
pub mod planted;
pub mod config;
pub mod rules;

pub mod capture;
pub mod batch;
pub mod frame;
pub mod journal;
pub mod transport;
pub mod ship;
pub mod receive;
pub mod apply;
pub mod blob;
pub mod digest;
pub mod store;
pub mod resync;
pub mod merge;

pub mod probe;
pub mod pressure;
pub mod signal;
pub mod beat;
pub mod evidence;
pub mod suspect;
pub mod canary;

pub mod coordinator;
pub mod pause;
pub mod failover;
pub mod fence;
pub mod ledger;

pub mod routing;
pub mod metrics;
pub mod control;
pub mod node;
pub mod cli;
