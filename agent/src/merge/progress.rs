//! Which merges there were, and how far each is.
//!
//! Owns: one redb file on the node that came back. What can hurt: an account that is noted as merged and is not; it is
//! noted after the active answered and a new plan was empty. One that is merged and not noted is compared once more.

use std::collections::BTreeMap;
use std::path::Path;

use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use understudy_types::id::{Epoch, GroupId};

use super::forks::ForksError;
use super::run::Order;
use crate::database::Database;
use crate::limits::MERGES_KEPT_MAX;

/// Group, epoch: the merge, as JSON.
const MERGES: TableDefinition<'_, (u32, u64), &str> = TableDefinition::new("merges-1");
/// Group, epoch, account: messages brought, conflicts.
const ACCOUNTS: TableDefinition<'_, (u32, u64, &str), (u32, u32)> = TableDefinition::new("accounts-1");

/// A merge as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub order: Order,
    pub since_wall_ns: u64,
    /// 0 = it is not done.
    pub done_wall_ns: u64,
}

/// The file.
pub struct Progress {
    database: Database,
}

impl Progress {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(path: &Path) -> Result<Self, ForksError> {
        let database = Database::create(path)?;
        let write = database.begin_write()?;
        write.open_table(MERGES)?;
        write.open_table(ACCOUNTS)?;
        write.commit()?;
        Ok(Self { database })
    }

    /// Takes note of a merge. What is known of the same one stays; a merge of the group with an older epoch ends. Gives
    /// the merges that were forgotten, the oldest, so that no more than [`MERGES_KEPT_MAX`] are kept.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(&self, order: &Order, wall_ns: u64) -> Result<Vec<(GroupId, Epoch)>, ForksError> {
        let mut kept = self.merges()?;
        let name = (order.group, order.epoch);
        let since_wall_ns = kept.get(&name).map_or(wall_ns, |before| before.since_wall_ns);
        kept.insert(name, Kept { order: order.clone(), since_wall_ns, done_wall_ns: 0 });
        let mut by_age: Vec<_> = kept.iter().map(|(name, merge)| (merge.since_wall_ns, *name)).collect();
        by_age.sort_unstable();
        let spare = by_age.len().saturating_sub(MERGES_KEPT_MAX);
        let forgotten: Vec<_> = by_age.into_iter().map(|(_, name)| name).filter(|of| *of != name).take(spare).collect();
        let write = self.database.begin_write()?;
        {
            let mut merges = write.open_table(MERGES)?;
            for ((group, epoch), merge) in &mut kept {
                let over = *group == order.group && *epoch < order.epoch && merge.done_wall_ns == 0;
                if over || (*group, *epoch) == name {
                    merge.done_wall_ns = if over { wall_ns } else { 0 };
                    merges.insert((group.0, epoch.0), json(merge)?.as_str())?;
                }
            }
            let mut accounts = write.open_table(ACCOUNTS)?;
            for (group, epoch) in &forgotten {
                merges.remove((group.0, epoch.0))?;
                accounts.retain_in((group.0, epoch.0, "")..(group.0, epoch.0 + 1, ""), |_, _| false)?;
            }
        }
        write.commit()?;
        Ok(forgotten)
    }

    /// The account is merged.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn merged(
        &self,
        group: GroupId,
        epoch: Epoch,
        account: &str,
        brought: u32,
        conflicts: u32,
    ) -> Result<(), ForksError> {
        let write = self.database.begin_write()?;
        write.open_table(ACCOUNTS)?.insert((group.0, epoch.0, account), (brought, conflicts))?;
        write.commit()?;
        Ok(())
    }

    /// The whole merge is done.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn done(&self, group: GroupId, epoch: Epoch, wall_ns: u64) -> Result<(), ForksError> {
        let Some(mut merge) = self.merges()?.remove(&(group, epoch)) else { return Ok(()) };
        merge.done_wall_ns = wall_ns;
        let write = self.database.begin_write()?;
        write.open_table(MERGES)?.insert((group.0, epoch.0), json(&merge)?.as_str())?;
        write.commit()?;
        Ok(())
    }

    /// Accounts that are merged, with messages brought and conflicts.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn accounts(&self, group: GroupId, epoch: Epoch) -> Result<BTreeMap<String, (u32, u32)>, ForksError> {
        let read = self.database.begin_read()?;
        let table = read.open_table(ACCOUNTS)?;
        let mut merged = BTreeMap::new();
        for row in table.range((group.0, epoch.0, "")..(group.0, epoch.0 + 1, ""))? {
            let (key, value) = row?;
            merged.insert(key.value().2.to_owned(), value.value());
        }
        Ok(merged)
    }

    /// All merges that are kept.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn merges(&self) -> Result<BTreeMap<(GroupId, Epoch), Kept>, ForksError> {
        let mut kept = BTreeMap::new();
        for row in self.database.begin_read()?.open_table(MERGES)?.iter()? {
            let (key, value) = row?;
            let (group, epoch) = key.value();
            let merge = serde_json::from_str(value.value()).map_err(|error| ForksError::Damaged(error.to_string()))?;
            kept.insert((GroupId(group), Epoch(epoch)), merge);
        }
        Ok(kept)
    }
}

fn json(merge: &Kept) -> Result<String, ForksError> {
    serde_json::to_string(merge).map_err(|error| ForksError::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_types::id::NodeId;

    fn order(group: u32, epoch: u64) -> Order {
        let active = NodeId::new(2).unwrap();
        let (group, epoch) = (GroupId(group), Epoch(epoch));
        Order { group, epoch, was: Epoch(1), active, peers: vec![], accounts: vec!["u".into()] }
    }

    #[test]
    fn what_is_merged_outlives_the_agent_and_the_oldest_merges_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("progress");
        let (group, epoch) = (GroupId(1), Epoch(2));
        {
            let progress = Progress::open(&path).unwrap();
            assert!(progress.begin(&order(1, 2), 10).unwrap().is_empty());
            progress.merged(group, epoch, "u", 3, 1).unwrap();
        }
        let progress = Progress::open(&path).unwrap();
        progress.begin(&order(1, 2), 20).unwrap();
        assert_eq!(progress.accounts(group, epoch).unwrap(), [("u".to_owned(), (3, 1))].into());
        assert!(progress.accounts(group, Epoch(3)).unwrap().is_empty());
        let kept = progress.merges().unwrap()[&(group, epoch)].clone();
        assert_eq!((kept.since_wall_ns, kept.done_wall_ns), (10, 0), "begun once");
        progress.begin(&order(1, 3), 30).unwrap();
        assert_eq!(progress.merges().unwrap()[&(group, epoch)].done_wall_ns, 30, "a newer one ends it");
        progress.done(group, Epoch(3), 40).unwrap();
        assert_eq!(progress.merges().unwrap()[&(group, Epoch(3))].done_wall_ns, 40);
        for n in 0..MERGES_KEPT_MAX as u64 {
            progress.begin(&order(9, n + 1), 100 + n).unwrap();
        }
        assert_eq!(progress.merges().unwrap().len(), MERGES_KEPT_MAX);
        assert!(progress.accounts(group, epoch).unwrap().is_empty());
    }
}
