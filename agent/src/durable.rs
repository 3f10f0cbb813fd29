//! The one helper that makes a small file durable.
//!
//! Owns: the order write, fsync, rename, fsync of the directory. What can hurt: a file that is half old and half new
//! after a power cut, or gone. Evidence: rename(2) replaces atomically, but neither it nor the data are on disk
//! before their fsyncs: without the first fsync, ext4 and XFS may show the new name with no bytes (Pillai et al.,
//! "All File Systems Are Not Created Equal", OSDI 2014, table 3); without the second the rename itself may be lost.
//! No third fsync is needed: the temporary name may be left behind, and the next write replaces it. Refuses: retrying
//! a failed fsync, because the kernel reports a lost page once and then forgets it (Rebello et al., "Can Applications
//! Recover from fsync Failures?", ATC 2020): the caller gets the error and the old file stays.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Puts `bytes` at `path`, whole or not at all, durable when it returns. Readable by the owner only.
///
/// # Errors
/// Whatever the file system says; the old file is then still there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    let temporary = directory.join(temporary);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_directory(directory)
}

/// Makes the names in a directory durable: creations, renames, removals.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #[test]
    fn replaces_whole_and_survives_a_left_over_temporary() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        std::fs::write(directory.path().join("control.tmp"), "left over by a crash, and longer than what follows")
            .unwrap();
        super::write(&path, b"one").unwrap();
        super::write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(super::write(&directory.path().join("no/such"), b"").is_err());
    }
}
