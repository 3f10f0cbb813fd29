//! Return and merge; for now only where histories part.
//!
//! Owns: `forks`.

pub mod forks;
