//! A process that can die between any two of its effects.
//!
//! Owns: the count of effects (writes, commits, requests) that a process still lives through. What can hurt: a crash
//! that only ever comes between events would never tear what one event does in several steps. Refuses: knowing what
//! an effect is; whoever makes one burns the fuse first.

use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Default)]
struct State {
    left: Option<u64>,
    dead: bool,
}

/// Shared by everything that one process has in hand.
#[derive(Clone, Debug, Default)]
pub struct Fuse(Arc<Mutex<State>>);

impl Fuse {
    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The process dies after so many more effects.
    pub fn light(&self, effects: u64) {
        self.with(|state| state.left = Some(effects));
    }

    /// Called before an effect: `false` = the process died before it.
    #[must_use]
    pub fn burn(&self) -> bool {
        self.with(|state| {
            match &mut state.left {
                Some(0) => state.dead = true,
                Some(left) => *left -= 1,
                None => {}
            }
            !state.dead
        })
    }

    /// Whether the process died.
    #[must_use]
    pub fn is_burnt(&self) -> bool {
        self.with(|state| state.dead)
    }

    /// The error that an effect of a dead process gives.
    pub fn check(&self) -> std::io::Result<()> {
        if self.burn() { Ok(()) } else { Err(std::io::Error::other("the process died here")) }
    }
}
