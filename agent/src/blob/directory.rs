//! Central storage in a directory: the default, also for NFS and CephFS mounts.
//!
//! Owns: one file per body. What can hurt: a crash between write and rename leaves a `.tmp` file, which is no blob;
//! two writers of the same body both succeed, because both rename the same content into place.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use understudy_types::id::BlobId;

use super::{BlobError, BlobStore, Put, hash_reader, relative_path};
use crate::limits::BLOB_BYTES_MAX;

/// A directory that every node sees under some path.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    /// Makes temporary names of this process its own, also among nodes that share the directory.
    nonce: u64,
    next: crossbeam::atomic::AtomicCell<u64>,
}

impl Directory {
    /// Opens the directory; makes it if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or written to.
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        fs::create_dir_all(root).map_err(BlobError::io("create the blob directory", root))?;
        Ok(Self { root: root.to_path_buf(), nonce: rand::random(), next: crossbeam::atomic::AtomicCell::new(0) })
    }

    fn path(&self, id: BlobId) -> PathBuf {
        self.root.join(relative_path(id))
    }
}

/// Copies `from` into the new file `to` while hashing; fsyncs it when `durable`.
pub(super) fn copy_hashed(from: &mut dyn Read, to: &Path, id: BlobId, durable: bool) -> Result<u64, BlobError> {
    let result = copy_hashed_inner(from, to, id, durable);
    if result.is_err() {
        // Nothing useful can be done when the removal fails too: the name is a temporary one.
        let _ = fs::remove_file(to);
    }
    result
}

fn copy_hashed_inner(from: &mut dyn Read, to: &Path, id: BlobId, durable: bool) -> Result<u64, BlobError> {
    let mut out =
        OpenOptions::new().write(true).create_new(true).open(to).map_err(BlobError::io("create the file", to))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; 64 * 1024];
    let mut bytes = 0u64;
    loop {
        let n = from.read(&mut buffer).map_err(BlobError::io("read the body for", to))?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        if bytes > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge { id, bytes });
        }
        hasher.update(&buffer[..n]);
        out.write_all(&buffer[..n]).map_err(BlobError::io("write the body to", to))?;
    }
    let actual = BlobId(*hasher.finalize().as_bytes());
    if actual != id {
        return Err(BlobError::Damaged { id, actual });
    }
    if durable {
        out.sync_all().map_err(BlobError::io("make durable", to))?;
    }
    Ok(bytes)
}

impl BlobStore for Directory {
    fn put(&self, id: BlobId, file: &Path) -> Result<Put, BlobError> {
        let target = self.path(id);
        let mut input = File::open(file).map_err(BlobError::io("open the body", file))?;
        let length = input.metadata().map_err(BlobError::io("look at", file))?.len();
        // Stored before, if it hashes to its name: one that was damaged in place is replaced by this.
        if fs::metadata(&target).is_ok_and(|stored| stored.len() == length) {
            let stored = File::open(&target).and_then(|mut stored| hash_reader(&mut stored, BLOB_BYTES_MAX));
            if stored.is_ok_and(|(actual, _)| actual == id) {
                return Ok(Put::AlreadyThere);
            }
        }
        let directory = target.parent().unwrap_or(&self.root);
        fs::create_dir_all(directory).map_err(BlobError::io("create the directory", directory))?;
        let temporary = directory.join(format!(".{:016x}.{}.tmp", self.nonce, self.next.fetch_add(1)));
        let bytes = copy_hashed(&mut input, &temporary, id, true)?;
        fs::rename(&temporary, &target).map_err(BlobError::io("rename into place", &target))?;
        // The name is durable only when its directory is, and a new directory when its parent is.
        for made in [Some(directory), directory.parent(), Some(self.root.as_path())].into_iter().flatten() {
            File::open(made).and_then(|d| d.sync_all()).map_err(BlobError::io("make durable the directory", made))?;
        }
        Ok(Put::Stored { bytes })
    }

    fn get(&self, id: BlobId, to: &Path) -> Result<(), BlobError> {
        let path = self.path(id);
        let mut input = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(BlobError::Missing(id)),
            Err(error) => return Err(BlobError::io("open the blob", &path)(error)),
        };
        copy_hashed(&mut input, to, id, false).map(drop)
    }

    fn has(&self, id: BlobId) -> Result<bool, BlobError> {
        let path = self.path(id);
        path.try_exists().map_err(BlobError::io("look for", &path))
    }

    fn describe(&self) -> String {
        format!("directory {}", self.root.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_passes_the_conformance_suite() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("blobs");
        let store = Directory::open(&root).unwrap();
        super::super::conformance::run(&store, dir.path(), &mut |id, content| {
            let path = root.join(relative_path(id));
            match content {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        });
    }

    #[test]
    fn a_left_over_temporary_file_is_no_blob() {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::open(dir.path()).unwrap();
        let id = BlobId([7; 32]);
        let place = dir.path().join(relative_path(id));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place.parent().unwrap().join(".0.tmp"), b"half").unwrap();
        assert!(!store.has(id).unwrap());
    }
}
