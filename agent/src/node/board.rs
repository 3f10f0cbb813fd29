//! What other threads may know about replay here: applied positions and parked accounts.
//!
//! Owns: a copy that the event loop keeps up to date. What can hurt: nothing decides by it; it is for answers to
//! peers and to people, and may be some microseconds old.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use understudy_types::id::GroupId;

use crate::apply::park::Parked;

/// The copy.
#[derive(Default)]
pub(crate) struct Board(Mutex<State>);

/// What it holds.
#[derive(Default)]
pub(crate) struct State {
    pub applied: HashMap<GroupId, u64>,
    pub parked: HashMap<String, (GroupId, Parked)>,
    /// By account.
    pub holding: HashMap<String, super::held::Holding>,
    /// For routing.
    pub said: super::routing::Said,
}

impl Board {
    /// Reads or changes it. Hold the guard for a moment only.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// First operation of the group that some parked account still waits for.
    #[must_use]
    pub(crate) fn first_parked_seq(&self, group: GroupId) -> Option<u64> {
        self.parked.values().filter(|(of, _)| *of == group).map(|(_, parked)| parked.since_seq).min()
    }

    /// How far the group is applied for every one of its accounts.
    #[must_use]
    pub(crate) fn applied_by_all(&self, group: GroupId) -> u64 {
        let applied = self.applied.get(&group).copied().unwrap_or(0);
        self.first_parked_seq(group).map_or(applied, |first| applied.min(first.saturating_sub(1)))
    }
}
