//! The spool: bodies that the store wrote and that are not yet in central storage.
//!
//! Owns: naming and listing. What can hurt: the directory is written by store processes of other users, so a name
//! is believed only when it is 64 hexadecimal digits, and a content only when it hashes to its name.

use std::fs;
use std::path::{Path, PathBuf};

use understudy_types::id::BlobId;

use super::BlobError;
use crate::limits::{SPOOL_FILES_MAX, SPOOL_TMP_AGE_S_MAX};

/// A directory of bodies on this host.
#[derive(Clone, Debug)]
pub struct Spool {
    root: PathBuf,
}

impl Spool {
    /// Names the directory; it must be there (packages and `understudy agent` make it, with the store's group).
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// Where the body would lie.
    #[must_use]
    pub fn path(&self, id: BlobId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bodies that lie here, at most [`SPOOL_FILES_MAX`] of them (the rest is found by the next look).
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<BlobId>, BlobError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(BlobError::io("read the spool", &self.root))? {
            let entry = entry.map_err(BlobError::io("read the spool", &self.root))?;
            if let Some(id) = entry.file_name().to_str().and_then(BlobId::from_hex) {
                found.push(id);
            }
            if found.len() >= SPOOL_FILES_MAX {
                break;
            }
        }
        Ok(found)
    }

    /// Removes what store processes that died left half written: `tmp.*` files older than an hour.
    ///
    /// # Errors
    /// When the directory cannot be read. A file that cannot be removed stays.
    pub fn clean(&self) -> Result<(), BlobError> {
        for entry in fs::read_dir(&self.root).map_err(BlobError::io("read the spool", &self.root))?.flatten() {
            let old = entry
                .metadata()
                .and_then(|meta| meta.modified())
                .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > SPOOL_TMP_AGE_S_MAX));
            if old && entry.file_name().to_string_lossy().starts_with("tmp.") {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Forgets a body that is in central storage. One that is gone already is fine.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    pub fn remove(&self, id: BlobId) -> Result<(), BlobError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(BlobError::io("remove the spooled body", &path)(error))
            }
            _ => Ok(()),
        }
    }
}
