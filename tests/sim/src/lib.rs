//! The simulator: the product's own deciders in a world with a seed, and a checker that believes none of them.
//!
//! Owns: the world (time, network, disks, processes, users, faults), the checker, the planted bugs' roll-call. One seed
//! gives one trace, byte for byte. What can hurt: a world that is kinder than the real one, and a checker that asks too
//! little; the planted bugs are there to notice both. Refuses: real time, threads inside a world, and any order that a
//! hash gives.
//!
//! Reading order: `random`, `queue`, `trace`, `event`; `plan` (what a seed draws); `fuse`, `disk`, `memory`, `bodies`,
//! `ring`, `host`, `net`, `coord` (the edges); `agent` (the product's stages put together); `users`; `checker`;
//! `world`; `run`.

pub mod agent;
pub mod bodies;
pub mod checker;
pub mod coord;
pub mod disk;
pub mod event;
pub mod fuse;
pub mod host;
pub mod memory;
pub mod net;
pub mod plan;
pub mod queue;
pub mod random;
pub mod ring;
pub mod run;
pub mod trace;
pub mod users;
pub mod world;
