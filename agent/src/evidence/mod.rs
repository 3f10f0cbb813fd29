//! Evidence that the store makes progress or has nothing to do: what a node's lease hangs on.
//!
//! Owns: four signs of the store, each read by a thread of its own that may hang with what it looks at, and the thread
//! that judges them and never waits for anybody. What can hurt: a disk that neither answers nor fails; its sign stays
//! where it was and grows old. A probe or a canary that cannot be had here is not required, and said so. Refuses:
//! bounds (the failover decider has them), repairs, and waiting for its own threads at the end.
//!
//! | sign, every | good | no evidence at once | grows old | not required |
//! |---|---|---|---|---|
//! | first process, 100 ms | it is there | stopped, zombie, gone | the look hangs | /proc hides it |
//! | disk canary, 200 ms | see below | full, read-only, error, wrong bytes | a step hangs | no mail path, no right |
//! | store canary, 250 ms | the replay service answers | - | it does not | never |
//! | kernel probe, 250 ms | calls that do work are young | - | since the oldest began | no kernel programs |
//!
//! A round of the disk canary writes 4 KiB, waits for `fdatasync` and reads them back; every fifth looks for room, too.
//! After one that failed the disk must work for five rounds.
//!
//! The evidence is as good as the oldest sign that is required. [`rules::TABLE`] is the same as data, and what the code
//! follows.

pub mod disk;
pub mod master;
pub mod rules;
mod threads;

pub use self::rules::{Evidence, Reading, Sign, SignState};
pub use self::threads::{EvidenceConfig, EvidenceThread, Report};
