//! The decider of one node; see `failover`.

use super::{Action, Input, Settings};
use crate::clock::BootNs;

/// Everything that one node knows about who is active.
#[derive(Clone, Debug)]
pub struct Decider {
    settings: Settings,
}

impl Decider {
    /// A node that holds nothing and has seen nothing.
    #[must_use]
    pub fn new(settings: Settings, _now: BootNs) -> Self {
        Self { settings }
    }

    /// Takes what happened, gives what is to be done, in order.
    pub fn on(&mut self, _input: Input, _now: BootNs) -> Vec<Action> {
        let _ = &self.settings;
        Vec::new()
    }
}
