//! What happened in a world, as text: one line for each event that matters.
//!
//! Owns: the bytes that two runs of one seed must agree on. What can hurt: a trace costs more than the world itself; so
//! lines are only made when somebody wants them. Refuses: addresses, real times, and anything in the order of a hash.

use std::fmt;
use std::fmt::Write;

/// The lines so far.
#[derive(Debug, Default)]
pub struct Trace {
    text: Option<String>,
}

impl Trace {
    /// A trace that keeps lines, or one that does not.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self { text: keep.then(String::new) }
    }

    /// Whether lines are kept; asked before a costly line is made.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.text.is_some()
    }

    /// Adds a line.
    pub fn line(&mut self, at_ns: u64, what: fmt::Arguments<'_>) {
        if let Some(text) = &mut self.text {
            // Writing into a string cannot fail.
            let _ = writeln!(text, "{}.{:06} {what}", at_ns / 1_000_000_000, at_ns / 1_000 % 1_000_000);
        }
    }

    /// The lines.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.as_deref().unwrap_or("")
    }
}
