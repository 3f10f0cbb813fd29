//! What a replica remembers over a restart: how far each group is applied, who is parked, which body a message has.
//!
//! Owns: one redb file. What can hurt: a cursor that is ahead of the store would lose operations, so it is written
//! after the store committed; one that is behind only repeats what is a no-op. Refuses: a file of another format.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use redb::{Durability, TableDefinition};
use understudy_types::id::{BlobId, GroupId};

use super::brake::Brake;
use super::hold::{Held, HeldKey};
use super::park::Parked;
use crate::database::Database;

const APPLIED: TableDefinition<'_, u32, u64> = TableDefinition::new("applied-1");
const PARKED: TableDefinition<'_, (u32, &str), &str> = TableDefinition::new("parked-1");
const HELD: TableDefinition<'_, (u32, u64, u32), &str> = TableDefinition::new("held-1");
const BRAKES: TableDefinition<'_, (u32, &str), &str> = TableDefinition::new("brake-1");
const BODIES: TableDefinition<'_, (&str, &str), [u8; 32]> = TableDefinition::new("bodies-1");

/// The file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    #[error("cannot use the cursor file: {0}")]
    Database(#[from] redb::Error),
    #[error("a parked account or a held operation in the cursor file cannot be read: {0}")]
    Parked(#[from] serde_json::Error),
}

macro_rules! from_redb {
    ($($kind:ty),*) => {$(
        impl From<$kind> for CursorError {
            fn from(error: $kind) -> Self {
                Self::Database(error.into())
            }
        }
    )*};
}

impl From<std::io::Error> for CursorError {
    fn from(error: std::io::Error) -> Self {
        Self::Database(redb::Error::Io(error))
    }
}

from_redb!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

/// A change that goes in as a whole.
#[derive(Debug, Default)]
pub struct Update {
    pub applied: Option<u64>,
    pub park: Vec<(String, Parked)>,
    pub release: Vec<String>,
    /// `(account, message guid, body)`
    pub bodies: Vec<(String, String, BlobId)>,
    pub hold: BTreeMap<HeldKey, Held>,
    pub unhold: BTreeSet<HeldKey>,
    pub brakes: BTreeMap<String, Brake>,
}

impl Update {
    /// Whether it holds nothing but bodies, which are worth no write of their own.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let nothing_held = self.hold.is_empty() && self.unhold.is_empty() && self.brakes.is_empty();
        self.applied.is_none() && nothing_held && !self.is_pressing()
    }

    /// Whether it is to be on disk before anything else happens.
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        !self.park.is_empty() || !self.release.is_empty()
    }
}

/// What is held of one group, and how each account's brake stands.
#[derive(Debug, Default)]
pub struct Holds {
    pub held: Vec<(HeldKey, Held)>,
    pub brakes: Vec<(String, Brake)>,
}

/// What replay needs of whoever remembers: the file, or the simulator's.
pub trait Remember {
    /// How far the group is applied and who is parked.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&self, group: GroupId) -> Result<(u64, Vec<(String, Parked)>), CursorError>;

    /// What the group holds.
    ///
    /// # Errors
    /// When it cannot be read.
    fn holds(&self, _group: GroupId) -> Result<Holds, CursorError> {
        Ok(Holds::default())
    }

    /// Writes a change. `durable` = returns after it is on disk; otherwise it is on disk with the next durable one,
    /// and a crash of the host repeats some operations.
    ///
    /// # Errors
    /// When it cannot be written.
    fn store(&self, group: GroupId, update: &Update, durable: bool) -> Result<(), CursorError>;

    /// The body of a message, if an operation ever named it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn body(&self, account: &str, message: &str) -> Result<Option<BlobId>, CursorError>;
}

/// The file.
pub struct Cursors {
    database: Database,
}

impl Cursors {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// When it cannot be opened or is of another format.
    pub fn open(path: &Path) -> Result<Self, CursorError> {
        let database = Database::create(path)?;
        let write = database.begin_write()?;
        write.open_table(APPLIED)?;
        write.open_table(PARKED)?;
        write.open_table(HELD)?;
        write.open_table(BRAKES)?;
        write.open_table(BODIES)?;
        write.commit()?;
        Ok(Self { database })
    }
}

impl Remember for Cursors {
    fn load(&self, group: GroupId) -> Result<(u64, Vec<(String, Parked)>), CursorError> {
        let read = self.database.begin_read()?;
        let applied = read.open_table(APPLIED)?.get(group.0)?.map_or(0, |value| value.value());
        let mut parked = Vec::new();
        for row in read.open_table(PARKED)?.range((group.0, "")..=(group.0, "\u{10ffff}"))? {
            let (key, value) = row?;
            parked.push((key.value().1.to_owned(), serde_json::from_str(value.value())?));
        }
        Ok((applied, parked))
    }

    fn holds(&self, group: GroupId) -> Result<Holds, CursorError> {
        let read = self.database.begin_read()?;
        let mut holds = Holds::default();
        for row in read.open_table(HELD)?.range((group.0, 0, 0)..=(group.0, u64::MAX, u32::MAX))? {
            let (key, value) = row?;
            let (_, seq, n) = key.value();
            holds.held.push((HeldKey { seq, n }, serde_json::from_str(value.value())?));
        }
        for row in read.open_table(BRAKES)?.range((group.0, "")..=(group.0, "\u{10ffff}"))? {
            let (key, value) = row?;
            holds.brakes.push((key.value().1.to_owned(), serde_json::from_str(value.value())?));
        }
        Ok(holds)
    }

    fn store(&self, group: GroupId, update: &Update, durable: bool) -> Result<(), CursorError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        {
            if let Some(applied) = update.applied {
                write.open_table(APPLIED)?.insert(group.0, applied)?;
            }
            let mut table = write.open_table(PARKED)?;
            for account in &update.release {
                table.remove((group.0, account.as_str()))?;
            }
            for (account, parked) in &update.park {
                table.insert((group.0, account.as_str()), serde_json::to_string(parked)?.as_str())?;
            }
            let mut held = write.open_table(HELD)?;
            for key in &update.unhold {
                held.remove((group.0, key.seq, key.n))?;
            }
            for (key, row) in &update.hold {
                held.insert((group.0, key.seq, key.n), serde_json::to_string(row)?.as_str())?;
            }
            let mut brakes = write.open_table(BRAKES)?;
            for (account, brake) in &update.brakes {
                brakes.insert((group.0, account.as_str()), serde_json::to_string(brake)?.as_str())?;
            }
            let mut bodies = write.open_table(BODIES)?;
            for (account, message, blob) in &update.bodies {
                bodies.insert((account.as_str(), message.as_str()), blob.0)?;
            }
        }
        write.commit()?;
        Ok(())
    }

    fn body(&self, account: &str, message: &str) -> Result<Option<BlobId>, CursorError> {
        let read = self.database.begin_read()?;
        Ok(read.open_table(BODIES)?.get((account, message))?.map(|value| BlobId(value.value())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::park::Reason;
    use super::*;

    #[test]
    fn what_was_stored_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursor");
        let parked = Parked { since_seq: 4, detail: "d".into(), reason: Reason::NeedsSnapshot { bodies: true } };
        let blob = BlobId([3; 32]);
        {
            let cursors = Cursors::open(&path).unwrap();
            let update = Update {
                applied: Some(9),
                park: vec![("u@x".into(), parked.clone())],
                bodies: vec![("u@x".into(), "guid".into(), blob)],
                ..Update::default()
            };
            cursors.store(GroupId(2), &update, true).unwrap();
        }
        let cursors = Cursors::open(&path).unwrap();
        assert_eq!(cursors.load(GroupId(2)).unwrap(), (9, vec![("u@x".into(), parked)]));
        assert_eq!(cursors.load(GroupId(1)).unwrap(), (0, vec![]), "groups are apart");
        assert_eq!(cursors.body("u@x", "guid").unwrap(), Some(blob));
        assert_eq!(cursors.body("v@x", "guid").unwrap(), None, "accounts are apart");
        cursors.store(GroupId(2), &Update { release: vec!["u@x".into()], ..Update::default() }, true).unwrap();
        assert_eq!(cursors.load(GroupId(2)).unwrap(), (9, vec![]));
    }
}
