//! What an agent remembers in its data directory: cursors, first copies, debts.
//!
//! Owns: the simulated side of replay's [`Remember`] and of the register of accounts, with what a crash leaves of them.
//! What can hurt: a cursor that was not stored durably falls back to the last durable one; the real file does the same
//! whether the process dies or the host does. Refuses: deciding.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use understudy_agent::apply::cursor::{CursorError, Remember, Update};
use understudy_agent::apply::park::Parked;
use understudy_agent::coordinator::record::GroupRecord;
use understudy_types::id::{BlobId, Epoch, GroupId, NodeId};

use crate::fuse::Fuse;

#[derive(Clone, Debug, Default)]
struct Cursors {
    applied: BTreeMap<GroupId, u64>,
    parked: BTreeMap<(GroupId, String), Parked>,
    bodies: BTreeMap<(String, String), BlobId>,
}

#[derive(Debug, Default)]
struct State {
    now: Cursors,
    durable: Cursors,
    /// Account, and the nodes that have a whole copy.
    copied: BTreeMap<String, BTreeSet<NodeId>>,
    /// Accounts that owe a snapshot, and whether with bodies.
    owed: BTreeMap<String, bool>,
    ring_generation: u64,
    /// Groups that this node was active for, by which record.
    stood: BTreeMap<GroupId, GroupRecord>,
    /// Epoch for which an account's fork state was kept.
    forks: BTreeMap<(GroupId, String), Epoch>,
    fuse: Fuse,
}

/// One node's data directory; handles share it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<State>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new process has it in hand: what the one before did not make durable is gone.
    pub fn take(&self, fuse: Fuse) {
        let mut state = self.lock();
        state.now = state.durable.clone();
        state.fuse = fuse;
    }

    /// Everything about copies and debts: copied, owed.
    #[must_use]
    pub fn accounts(&self) -> (BTreeMap<String, BTreeSet<NodeId>>, BTreeMap<String, bool>) {
        let state = self.lock();
        (state.copied.clone(), state.owed.clone())
    }

    /// These accounts owe a snapshot; `false` = it could not be noted.
    #[must_use]
    pub fn owe<'a>(&self, accounts: impl Iterator<Item = &'a str>, bodies: bool) -> bool {
        let mut state = self.lock();
        if !state.fuse.burn() {
            return false;
        }
        for account in accounts {
            *state.owed.entry(account.to_owned()).or_default() |= bodies;
        }
        true
    }

    /// The account owes nothing any more.
    pub fn settled(&self, account: &str) {
        let mut state = self.lock();
        if state.fuse.burn() {
            state.owed.remove(account);
        }
    }

    /// These nodes, and no others, have whole copies of the account.
    pub fn copied(&self, account: &str, nodes: &BTreeSet<NodeId>) {
        let mut state = self.lock();
        if state.fuse.burn() {
            state.copied.insert(account.to_owned(), nodes.clone());
        }
    }

    /// The ring whose records the journal knows.
    #[must_use]
    pub fn ring_generation(&self) -> u64 {
        self.lock().ring_generation
    }

    /// See [`Self::ring_generation`].
    pub fn set_ring_generation(&self, generation: u64) {
        let mut state = self.lock();
        if state.fuse.burn() {
            state.ring_generation = generation;
        }
    }

    /// Groups that this node was active for.
    #[must_use]
    pub fn stood(&self) -> BTreeMap<GroupId, GroupRecord> {
        self.lock().stood.clone()
    }

    /// Replaces them; `false` = it could not be noted.
    #[must_use]
    pub fn set_stood(&self, stood: &BTreeMap<GroupId, GroupRecord>) -> bool {
        let mut state = self.lock();
        let alive = state.fuse.burn();
        if alive {
            state.stood.clone_from(stood);
        }
        alive
    }

    /// The epoch for which an account's fork state was kept.
    #[must_use]
    pub fn fork(&self, group: GroupId, account: &str) -> Option<Epoch> {
        self.lock().forks.get(&(group, account.to_owned())).copied()
    }

    /// Keeps one; `false` = it could not be kept.
    #[must_use]
    pub fn keep_fork(&self, group: GroupId, account: &str, epoch: Epoch) -> bool {
        let mut state = self.lock();
        let alive = state.fuse.burn();
        if alive {
            state.forks.insert((group, account.to_owned()), epoch);
        }
        alive
    }

    /// The applied position that is durable, for the checker.
    #[must_use]
    pub fn applied_durable(&self, group: GroupId) -> u64 {
        self.lock().durable.applied.get(&group).copied().unwrap_or(0)
    }
}

impl Remember for Memory {
    fn load(&self, group: GroupId) -> Result<(u64, Vec<(String, Parked)>), CursorError> {
        let state = self.lock();
        let parked = state.now.parked.range((group, String::new())..).take_while(|((of, _), _)| *of == group);
        let parked = parked.map(|((_, account), parked)| (account.clone(), parked.clone())).collect();
        Ok((state.now.applied.get(&group).copied().unwrap_or(0), parked))
    }

    fn store(&self, group: GroupId, update: &Update, durable: bool) -> Result<(), CursorError> {
        let mut state = self.lock();
        if !state.fuse.burn() {
            return Err(std::io::Error::other("the process died here").into());
        }
        let now = &mut state.now;
        now.applied.extend(update.applied.map(|applied| (group, applied)));
        for account in &update.release {
            now.parked.remove(&(group, account.clone()));
        }
        for (account, parked) in &update.park {
            now.parked.insert((group, account.clone()), parked.clone());
        }
        for (account, message, blob) in &update.bodies {
            now.bodies.insert((account.clone(), message.clone()), *blob);
        }
        if durable {
            state.durable = state.now.clone();
        }
        Ok(())
    }

    fn body(&self, account: &str, message: &str) -> Result<Option<BlobId>, CursorError> {
        Ok(self.lock().now.bodies.get(&(account.to_owned(), message.to_owned())).copied())
    }
}
