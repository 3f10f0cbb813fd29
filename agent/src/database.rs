//! A redb file that is opened anew after an I/O error.
//!
//! Owns: the open file. What can hurt: a disk that was full for a moment; redb then refuses every change until the file
//! is closed and opened again (seen: a node whose disk had space again replayed and merged nothing any more, for ever).
//! What was not yet durable is lost with the closing, as in a crash, and those who use it are made for that.
//! Refuses: hiding an error; whoever meets one is told, and the next change opens the file.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{ReadTransaction, ReadableDatabase, StorageError, TransactionError, WriteTransaction};

/// The file.
pub struct Database {
    path: PathBuf,
    /// `None` while it could not be opened again.
    open: RwLock<Option<redb::Database>>,
}

impl Database {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn create(path: &Path) -> Result<Self, redb::Error> {
        let open = RwLock::new(Some(redb::Database::create(path)?));
        Ok(Self { path: path.to_path_buf(), open })
    }

    /// As redb's.
    ///
    /// # Errors
    /// As redb's, and when the file cannot be opened again.
    pub fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        if let Some(database) = self.read().as_ref() {
            match database.begin_write() {
                Err(TransactionError::Storage(StorageError::PreviousIo)) => {}
                other => return Ok(other?),
            }
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have opened it meanwhile.
        if let Some(Ok(write)) = open.as_ref().map(redb::Database::begin_write) {
            return Ok(write);
        }
        // Closed first: a file that is open is not opened a second time.
        *open = None;
        Ok(open.insert(redb::Database::create(&self.path)?).begin_write()?)
    }

    /// As redb's. One that fails because of an earlier error is well again after the next change.
    ///
    /// # Errors
    /// As redb's, and when the file cannot be opened again.
    pub fn begin_read(&self) -> Result<ReadTransaction, redb::Error> {
        if self.read().is_none() {
            drop(self.begin_write()?);
        }
        match self.read().as_ref() {
            Some(database) => Ok(database.begin_read()?),
            None => Err(redb::Error::DatabaseClosed),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<redb::Database>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }
}
