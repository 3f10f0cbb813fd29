//! Bodies on their way into a replica's store: verified files that the replay service can read.
//!
//! Owns: the directory they are staged in. What can hurt: a crash leaves files behind; the directory is emptied when
//! the agent starts. Refuses: handing on a body that was not hashed in this process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use understudy_types::id::BlobId;

use super::{BlobError, BlobStore};

/// A verified body; the file goes when this is dropped.
#[derive(Debug)]
pub struct Body {
    path: PathBuf,
    /// Somebody else's, and stays.
    lent: bool,
}

impl Body {
    /// A body that whoever gives it keeps; `path` is a name that the store understands.
    #[must_use]
    pub fn lent(path: PathBuf) -> Self {
        Self { path, lent: true }
    }

    /// Where the service finds it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.lent {
            // If it stays, it is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Gives bodies to replay.
pub trait Bodies {
    /// Gives one body, verified.
    ///
    /// # Errors
    /// As [`BlobStore::get`].
    fn fetch(&self, id: BlobId) -> Result<Body, BlobError>;
}

/// Fetches bodies from central storage.
pub struct BodyCache {
    directory: PathBuf,
    store: Arc<dyn BlobStore>,
    next: crossbeam::atomic::AtomicCell<u64>,
}

impl BodyCache {
    /// Opens and empties the staging directory. The replay service's users must be able to search it.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(directory: &Path, store: Arc<dyn BlobStore>) -> Result<Self, BlobError> {
        fs::create_dir_all(directory).map_err(BlobError::io("create the staging directory", directory))?;
        for entry in fs::read_dir(directory).map_err(BlobError::io("read the staging directory", directory))?.flatten()
        {
            // What cannot be removed now is harmless: names are never used twice.
            let _ = fs::remove_file(entry.path());
        }
        let next = crossbeam::atomic::AtomicCell::new(crate::clock::wall_ns());
        Ok(Self { directory: directory.to_path_buf(), store, next })
    }
}

impl Bodies for BodyCache {
    fn fetch(&self, id: BlobId) -> Result<Body, BlobError> {
        let path = self.directory.join(format!("{:x}", self.next.fetch_add(1)));
        self.store.get(id, &path)?;
        Ok(Body { path, lent: false })
    }
}
