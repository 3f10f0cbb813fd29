//! Placeholder.
pub mod acks;
