//! The disk canary: a small file in the mail file system, written, made durable and read back.
//!
//! Owns: the folder [`FOLDER`] in the first of `store.mail_paths`, its one file, and what an error of the file system
//! means. What can hurt: a file system that hangs, and the calling thread with it (it has a thread of its own), or that
//! gives other bytes than it was given (each round has its own number, and a checksum). Refuses: growing; the file is
//! 4 KiB but for the moment in which it tries whether 64 KiB more would find room.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::fstatvfs;
use understudy_types::id::NodeId;

use super::rules::{Case, Reading};
use crate::limits::{EVIDENCE_DISK_BYTES, EVIDENCE_SPACE_BYTES, EVIDENCE_SPACE_ROUNDS};

/// In the first of `store.mail_paths`.
pub const FOLDER: &str = ".understudy-canary";

const MAGIC: [u8; 8] = *b"USCANARY";
const CHECKSUM_AT: usize = EVIDENCE_DISK_BYTES - 4;

/// The canary of one file system.
#[derive(Debug)]
pub struct DiskCanary {
    folder: PathBuf,
    name: String,
    file: Option<File>,
    sequence: u64,
}

/// Why a round ended without a sign.
#[derive(Debug)]
enum Fault {
    Error(&'static str, io::Error),
    Full(String),
    ReadOnly,
    Damaged(String),
}

impl Fault {
    fn of(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Error(step, error)
    }
}

impl DiskCanary {
    /// For this folder of mail; touches nothing yet. Nodes that share a file system each have a file of their own.
    /// `first` is before the first round's number: another at each start, so that an old block is told apart.
    #[must_use]
    pub fn new(mail_path: &Path, node: NodeId, first: u64) -> Self {
        Self { folder: mail_path.join(FOLDER), name: format!("node-{node}"), file: None, sequence: first }
    }

    /// One round: write, make durable, read back; now and then look for room. `step` is told of each step before.
    pub fn round(&mut self, mut step: impl FnMut(&'static str)) -> Reading {
        match self.try_round(&mut step) {
            Ok(()) => Reading::saw(Case::DiskDone, String::new()),
            Err(fault) => {
                // A handle that saw an error is not asked again: the next one sees the file system as it is then.
                self.file = None;
                self.reading(&fault)
            }
        }
    }

    fn try_round(&mut self, step: &mut dyn FnMut(&'static str)) -> Result<(), Fault> {
        self.sequence = self.sequence.wrapping_add(1);
        step("open");
        let file = match self.file.take() {
            // Somebody may have removed the file or its folder; what has no name is not where the mail is.
            Some(file) if file.metadata().map_err(Fault::of("fstat"))?.nlink() > 0 => file,
            _ => open(&self.folder, &self.name).map_err(Fault::of("open"))?,
        };
        let block = block_of(self.sequence);
        step("write");
        file.write_all_at(&block, 0).map_err(Fault::of("write"))?;
        step("fdatasync");
        file.sync_data().map_err(Fault::of("fdatasync"))?;
        // So that the bytes come from the disk and not from memory. It is a hint, and may do nothing.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        let mut back = vec![0; EVIDENCE_DISK_BYTES];
        step("read");
        file.read_exact_at(&mut back, 0).map_err(Fault::of("read"))?;
        check(&back, self.sequence).map_err(Fault::Damaged)?;
        if self.sequence.is_multiple_of(EVIDENCE_SPACE_ROUNDS) {
            look_for_room(&file, step)?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn reading(&self, fault: &Fault) -> Reading {
        let at = self.folder.display();
        let (case, text) = match fault {
            Fault::Full(what) => (Case::DiskFull, format!("the file system of `{at}` is full: {what}")),
            Fault::ReadOnly => (Case::DiskReadOnly, format!("the file system of `{at}` is read-only")),
            Fault::Damaged(what) => (Case::DiskDamaged, format!("the file system of `{at}` gives wrong bytes: {what}")),
            Fault::Error(step, error) => (case_of(error), format!("`{step}` in `{at}`: {error}")),
        };
        Reading::saw(case, text)
    }
}

/// What an error means. What is about the agent's own rights and limits says nothing of the store; anything else that a
/// file system answers to so plain a request is a failure of it.
fn case_of(error: &io::Error) -> Case {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC) => Case::DiskFull,
        Some(Errno::EROFS) => Case::DiskReadOnly,
        Some(
            Errno::EACCES | Errno::EPERM | Errno::EDQUOT | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ELOOP,
        ) => Case::DiskForbidden,
        _ => Case::DiskFailed,
    }
}

fn open(folder: &Path, name: &str) -> io::Result<File> {
    // The parent must be there: a mail folder that is not mounted must not look like one that works.
    match std::fs::create_dir(folder) {
        Ok(()) => std::fs::set_permissions(folder, Permissions::from_mode(0o700))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(folder.join(name))
}

/// A file system may have room for whoever is root and none for mail: both are asked.
fn look_for_room(file: &File, step: &mut dyn FnMut(&'static str)) -> Result<(), Fault> {
    step("statvfs");
    let told = fstatvfs(file).map_err(|errno| Fault::Error("statvfs", errno.into()))?;
    if told.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        return Err(Fault::ReadOnly);
    }
    if told.blocks() > 0 && told.blocks_available().saturating_mul(told.fragment_size()) < EVIDENCE_SPACE_BYTES {
        return Err(Fault::Full("less than 64 KiB are left for users other than root".to_owned()));
    }
    if told.files() > 0 && told.files_available() == 0 {
        return Err(Fault::Full("no inode is left".to_owned()));
    }
    step("write");
    let more = vec![0x55; usize::try_from(EVIDENCE_SPACE_BYTES).unwrap_or(0)];
    let written = file.write_all_at(&more, EVIDENCE_DISK_BYTES as u64).map_err(Fault::of("write"));
    // Room may be found only when the bytes go to the disk.
    step("fdatasync");
    let durable = written.and_then(|()| file.sync_data().map_err(Fault::of("fdatasync")));
    step("truncate");
    let cut = file.set_len(EVIDENCE_DISK_BYTES as u64).map_err(Fault::of("truncate"));
    durable.and(cut)
}

/// The bytes of a round: the number, bytes that follow from it, a checksum.
fn block_of(sequence: u64) -> Vec<u8> {
    let mut block = vec![0; EVIDENCE_DISK_BYTES];
    block[..8].copy_from_slice(&MAGIC);
    block[8..16].copy_from_slice(&sequence.to_le_bytes());
    let mut value = sequence;
    for chunk in block[16..CHECKSUM_AT].chunks_mut(8) {
        value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
    }
    let checksum = crc32c::crc32c(&block[..CHECKSUM_AT]);
    block[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    block
}

fn check(back: &[u8], sequence: u64) -> Result<(), String> {
    if back == block_of(sequence) {
        return Ok(());
    }
    let (Some(body), Some(checksum)) = (back.get(..CHECKSUM_AT), back.get(CHECKSUM_AT..)) else {
        return Err(format!("{} bytes", back.len()));
    };
    if crc32c::crc32c(body).to_le_bytes() != checksum {
        return Err("the checksum does not match".to_owned());
    }
    let mut number = [0; 8];
    number.copy_from_slice(&body[8..16]);
    let number = u64::from_le_bytes(number);
    Err(format!("round {number} in place of round {sequence}; does another agent use this folder?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        NodeId::new(7).expect("in range")
    }

    fn case(reading: &Reading) -> Case {
        let Reading::Saw { case, .. } = reading else { panic!("no case") };
        *case
    }

    #[test]
    fn rounds_succeed_and_the_file_stays_small() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut canary = DiskCanary::new(folder.path(), node(), 0);
        let mut steps = Vec::new();
        for _ in 0..=EVIDENCE_SPACE_ROUNDS {
            assert_eq!(canary.round(|step| steps.push(step)), Reading::saw(Case::DiskDone, ""));
        }
        assert_eq!(steps[..4], ["open", "write", "fdatasync", "read"]);
        assert!(steps.contains(&"statvfs") && steps.contains(&"truncate"));
        let meta = std::fs::metadata(folder.path().join(FOLDER).join("node-7")).expect("is there");
        assert_eq!((meta.len(), meta.mode() & 0o777), (EVIDENCE_DISK_BYTES as u64, 0o600));
    }

    #[test]
    fn a_removed_file_is_made_anew_and_a_missing_mail_folder_is_a_fact() {
        let folder = tempfile::tempdir().expect("a folder");
        let mail = folder.path().join("mail");
        let mut canary = DiskCanary::new(&mail, node(), 0);
        assert_eq!(case(&canary.round(|_| ())), Case::DiskFailed);
        std::fs::create_dir(&mail).expect("made");
        assert_eq!(case(&canary.round(|_| ())), Case::DiskDone);
        std::fs::remove_dir_all(mail.join(FOLDER)).expect("removed");
        assert_eq!(case(&canary.round(|_| ())), Case::DiskDone);
        assert!(mail.join(FOLDER).join("node-7").exists());
        std::fs::remove_dir_all(&mail).expect("removed");
        assert_eq!(case(&canary.round(|_| ())), Case::DiskFailed);
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(FOLDER)).expect("made");
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "precious").expect("written");
        std::os::unix::fs::symlink(&victim, folder.path().join(FOLDER).join("node-7")).expect("linked");
        let mut canary = DiskCanary::new(folder.path(), node(), 0);
        assert_eq!(case(&canary.round(|_| ())), Case::DiskForbidden);
        assert_eq!(std::fs::read(&victim).expect("read"), b"precious");
    }

    #[test]
    fn wrong_bytes_are_told_apart() {
        let mut block = block_of(7);
        assert_eq!(check(&block, 7), Ok(()));
        assert!(check(&block, 8).expect_err("old").contains("round 7"));
        block[100] ^= 1;
        assert!(check(&block, 7).expect_err("damaged").contains("checksum"));
        assert!(check(&block[..9], 7).is_err());
    }

    #[test]
    fn errors_of_the_agent_say_nothing_of_the_disk() {
        for (errno, expected) in [
            (Errno::ENOSPC, Case::DiskFull),
            (Errno::EROFS, Case::DiskReadOnly),
            (Errno::EIO, Case::DiskFailed),
            (Errno::ESTALE, Case::DiskFailed),
            (Errno::ENOENT, Case::DiskFailed),
            (Errno::EUCLEAN, Case::DiskFailed),
            (Errno::EACCES, Case::DiskForbidden),
            (Errno::EDQUOT, Case::DiskForbidden),
            (Errno::EMFILE, Case::DiskForbidden),
        ] {
            assert_eq!(case_of(&io::Error::from_raw_os_error(errno as i32)), expected, "{errno}");
        }
    }
}
