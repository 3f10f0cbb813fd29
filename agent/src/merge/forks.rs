//! Where the histories of accounts parted. Placeholder of the file that keeps it.

use std::path::Path;

use understudy_types::id::{Epoch, GroupId};

use crate::store::MailboxMark;

/// Nothing yet.
pub struct Forks;

/// Never.
#[derive(Debug, thiserror::Error)]
#[error("no file of fork states")]
pub struct ForksError;

impl Forks {
    /// Opens nothing.
    ///
    /// # Errors
    /// Never.
    pub fn open(_: &Path) -> Result<Self, ForksError> {
        Ok(Self)
    }

    /// Keeps nothing.
    ///
    /// # Errors
    /// Never.
    pub fn keep(&self, _: GroupId, _: Epoch, _: &str, _: &[MailboxMark]) -> Result<(), ForksError> {
        Ok(())
    }

    /// Knows nothing.
    ///
    /// # Errors
    /// Never.
    pub fn of(&self, _: GroupId, _: &str) -> Result<Option<(Epoch, Vec<MailboxMark>)>, ForksError> {
        Ok(None)
    }
}
