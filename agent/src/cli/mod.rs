//! Placeholder.

pub mod top;
