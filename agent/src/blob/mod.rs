//! Message bodies: from the store's spool into central storage, and from there to a replica.
//!
//! Owns: the trait [`BlobStore`] with its two sides (directory, S3), the spool, and the uploader threads. What can
//! hurt: a body that is missing or damaged must be noticed and never be skipped, so every read is hashed before
//! anyone sees it. Refuses: trusting a name; sending a body from agent to agent.

pub mod cache;
pub mod conformance;
pub mod directory;
pub mod s3;
pub mod spool;
pub mod upload;

use std::io::Read;
use std::path::{Path, PathBuf};

use understudy_types::id::BlobId;

/// Why a body could not be stored or had.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Central storage answered that it does not hold the body.
    #[error("blob `{0}` is not in central storage")]
    Missing(BlobId),
    /// What is stored under the name hashes to something else.
    #[error("blob `{id}` in central storage is damaged: its content hashes to `{actual}`")]
    Damaged { id: BlobId, actual: BlobId },
    /// Larger than [`crate::limits::BLOB_BYTES_MAX`].
    #[error("blob `{id}` is {bytes} bytes long, more than the limit")]
    TooLarge { id: BlobId, bytes: u64 },
    /// A file operation failed.
    #[error("cannot {action} `{path}`: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// Central storage could not be reached or refused; it may answer later.
    #[error("central storage failed for blob `{id}`: {reason}")]
    Remote { id: BlobId, reason: String },
}

impl BlobError {
    /// Adds what was being done, and to which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// Central storage of bodies. Both sides pass [`conformance::run`].
pub trait BlobStore: Send + Sync {
    /// Stores the file's content under `id` and returns when it is durable. Storing what is there already costs a
    /// look and changes nothing.
    ///
    /// # Errors
    /// [`BlobError::Damaged`] if the file does not hash to `id`; nothing is stored then.
    fn put(&self, id: BlobId, file: &Path) -> Result<Put, BlobError>;

    /// Writes the body to the new file `to`, verified against `id`. On an error there is no file.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Damaged`], or a failure that may pass.
    fn get(&self, id: BlobId, to: &Path) -> Result<(), BlobError>;

    /// Whether the body is there, without reading it.
    ///
    /// # Errors
    /// When central storage cannot tell.
    fn has(&self, id: BlobId) -> Result<bool, BlobError>;

    /// For people and for `status`.
    fn describe(&self) -> String;
}

/// What a `put` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Stored { bytes: u64 },
    AlreadyThere,
}

/// Hashes what is left of `input`, at most `limit` bytes of it.
///
/// # Errors
/// Only those of reading.
pub fn hash_reader(input: &mut dyn Read, limit: u64) -> std::io::Result<(BlobId, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0u64;
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        let n = input.read(&mut buffer)?;
        if n == 0 {
            return Ok((BlobId(*hasher.finalize().as_bytes()), bytes));
        }
        bytes += n as u64;
        if bytes > limit {
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "larger than the limit for a blob"));
        }
        hasher.update(&buffer[..n]);
    }
}

/// Path of a blob below a root: two levels of two digits, so that no directory grows past some thousands.
#[must_use]
pub fn relative_path(id: BlobId) -> String {
    let name = id.to_string();
    format!("{}/{}/{name}", &name[..2], &name[2..4])
}
