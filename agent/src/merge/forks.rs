//! Where the histories of accounts parted: the marks of every mailbox as a promotion found them.
//!
//! Owns: one redb file on the node that was promoted. What can hurt: marks that were read after the counters were
//! raised would make every message that never arrived look like one that was deleted; so the promotion reads them
//! (`Store::raise` by nothing), keeps them here, and only then raises; and what is kept for an epoch is never
//! replaced, so that a promotion that is repeated after a crash changes nothing. Several epochs of a group are kept:
//! a node that comes back needs the first one after its own.

use std::path::Path;

use redb::{ReadableTable, TableDefinition};
use understudy_types::id::{Epoch, GroupId};

use super::{MailboxMark, wire};
use crate::database::Database;

/// Group, account, epoch: the marks.
const FORKS: TableDefinition<'_, (u32, &str, u64), &[u8]> = TableDefinition::new("forks-1");

/// The file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ForksError {
    #[error("cannot use the file of fork states: {0}")]
    Database(#[from] redb::Error),
    #[error("a fork state in its file cannot be read: {0}")]
    Damaged(String),
}

macro_rules! from_redb {
    ($($kind:ty),*) => {$(
        impl From<$kind> for ForksError {
            fn from(error: $kind) -> Self {
                Self::Database(error.into())
            }
        }
    )*};
}

from_redb!(redb::DatabaseError, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

/// The file.
pub struct Forks {
    database: Database,
}

impl Forks {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(path: &Path) -> Result<Self, ForksError> {
        let database = Database::create(path)?;
        let write = database.begin_write()?;
        write.open_table(FORKS)?;
        write.commit()?;
        Ok(Self { database })
    }

    /// Keeps the marks of accounts, durable when it returns. An account that has some of this epoch keeps those.
    ///
    /// # Errors
    /// When the file cannot be written: the accounts must not be raised.
    pub fn keep_all<'a>(
        &self,
        group: GroupId,
        epoch: Epoch,
        accounts: impl IntoIterator<Item = (&'a str, &'a [MailboxMark])>,
    ) -> Result<(), ForksError> {
        let write = self.database.begin_write()?;
        {
            let mut table = write.open_table(FORKS)?;
            for (account, marks) in accounts {
                let key = (group.0, account, epoch.0);
                if table.get(key)?.is_none() {
                    table.insert(key, wire::put_marks(marks).as_slice())?;
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    /// [`Self::keep_all`] for one account.
    ///
    /// # Errors
    /// As there.
    pub fn keep(&self, group: GroupId, epoch: Epoch, account: &str, marks: &[MailboxMark]) -> Result<(), ForksError> {
        self.keep_all(group, epoch, [(account, marks)])
    }

    /// The first fork of the account after an epoch.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn after(
        &self,
        group: GroupId,
        account: &str,
        epoch: Epoch,
    ) -> Result<Option<(Epoch, Vec<MailboxMark>)>, ForksError> {
        let read = self.database.begin_read()?;
        let table = read.open_table(FORKS)?;
        let from = (group.0, account, epoch.0.saturating_add(1));
        let Some(row) = table.range(from..=(group.0, account, u64::MAX))?.next() else { return Ok(None) };
        let (key, marks) = row?;
        let marks = wire::take_marks(marks.value()).map_err(ForksError::Damaged)?;
        Ok(Some((Epoch(key.value().2), marks)))
    }

    /// The last fork of the account.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of(&self, group: GroupId, account: &str) -> Result<Option<(Epoch, Vec<MailboxMark>)>, ForksError> {
        let read = self.database.begin_read()?;
        let table = read.open_table(FORKS)?;
        let Some(row) = table.range((group.0, account, 0)..=(group.0, account, u64::MAX))?.next_back() else {
            return Ok(None);
        };
        let (key, marks) = row?;
        let marks = wire::take_marks(marks.value()).map_err(ForksError::Damaged)?;
        Ok(Some((Epoch(key.value().2), marks)))
    }

    /// Every node of the group has merged what it had before this epoch: its forks up to it are of no more use.
    ///
    /// # Errors
    /// When the file cannot be written: they are forgotten another time.
    pub fn forget(&self, group: GroupId, epoch: Epoch) -> Result<(), ForksError> {
        let write = self.database.begin_write()?;
        {
            let mut table = write.open_table(FORKS)?;
            let end = (group.0.saturating_add(1), "", 0);
            table.retain_in((group.0, "", 0)..end, |(_, _, of), _| of > epoch.0)?;
        }
        write.commit()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_types::id::MailboxGuid;

    fn mark(next_uid: u32) -> MailboxMark {
        MailboxMark { guid: MailboxGuid([1; 16]), name: "a".into(), uid_validity: 1, next_uid, highest_modseq: 2 }
    }

    #[test]
    fn the_first_marks_of_an_epoch_stay_and_the_first_epoch_after_ones_own_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("forks");
        let (group, other) = (GroupId(3), GroupId(4));
        {
            let forks = Forks::open(&path).unwrap();
            forks.keep(group, Epoch(2), "u", &[mark(10)]).unwrap();
            forks.keep(group, Epoch(2), "u", &[mark(1_010)]).unwrap();
            forks.keep(group, Epoch(5), "u", &[mark(1_020)]).unwrap();
            forks.keep(other, Epoch(2), "u", &[mark(7)]).unwrap();
        }
        let forks = Forks::open(&path).unwrap();
        let after = |epoch| forks.after(group, "u", Epoch(epoch)).unwrap();
        assert_eq!(after(1), Some((Epoch(2), vec![mark(10)])), "a repeated promotion replaces nothing");
        assert_eq!(after(2), Some((Epoch(5), vec![mark(1_020)])));
        assert_eq!(after(5), None);
        assert_eq!(forks.of(group, "u").unwrap().unwrap().0, Epoch(5));
        assert_eq!(forks.of(group, "v").unwrap(), None);
        forks.forget(group, Epoch(2)).unwrap();
        assert_eq!(forks.after(group, "u", Epoch(1)).unwrap().unwrap().0, Epoch(5));
        assert!(forks.of(other, "u").unwrap().is_some(), "groups are apart");
    }
}
