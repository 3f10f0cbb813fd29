//! Return and merge: a node that was active for a group, lost it without a planned switchover, and comes back.
//!
//! Owns: what of its changes nobody else had ([`plan`], pure), where the two histories parted ([`forks`]), bringing
//! them to the node that is active now ([`run`]), and the report of it ([`report`]). It compares states, not streams,
//! so that it also works when ring or journal were lost. What can hurt: taking a message that the active deleted for
//! one that it never had, and the other way round; the fork state tells them apart, and without it messages come back
//! rather than get lost. Refuses: deciding when to merge and when a node may follow again; `node` does.

mod account;
pub mod finding;
pub mod forks;
mod messages;
pub mod plan;
pub mod progress;
pub mod queue;
pub mod report;
pub mod run;
pub mod target;
pub mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use understudy_types::id::{Epoch, MailboxGuid};

pub use finding::{Finding, What};
pub use forks::Forks;
pub use plan::{MergePlan, plan};
pub use run::{Ask, MergeEvent, Merger, Order, Tools};

pub use crate::store::MailboxMark;

/// Where the histories of one account parted: what both sides had. Nothing is known without an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForkState {
    /// The epoch that began there.
    pub epoch: Option<Epoch>,
    pub marks: BTreeMap<MailboxGuid, MailboxMark>,
}

impl ForkState {
    /// From what a promotion kept.
    #[must_use]
    pub fn of(epoch: Epoch, marks: impl IntoIterator<Item = MailboxMark>) -> Self {
        Self { epoch: Some(epoch), marks: marks.into_iter().map(|mark| (mark.guid, mark)).collect() }
    }

    /// Whether it is known at all.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.epoch.is_some()
    }
}
