//! The ring file: made or taken over by the agent, opened by store processes.
//!
//! Owns: creation, the check of a found file, the lock that keeps two agents apart.
//! What can hurt: a half-made file under the ring's name (it gets its name only when it is complete), a sparse
//! file on a full tmpfs (all blocks are allocated first, or a store process would die of SIGBUS), and
//! producers that still map a file which was replaced (it is marked retired).
//! Refuses: a second consumer.

use crate::map::Mapping;
use crate::memory::Memory;
use crate::sync::Ordering;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;
use understudy_types::ring::{
    FLAG_RETIRED, FileHeader, Geometry, HEADER_WORDS, Policy, RingError, WRITE_UNTIL_EXPIRED, word,
};

/// How the agent makes its ring.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// Sizes; a file that was made with others is replaced.
    pub geometry: Geometry,
    /// Permission bits of the file. Whoever may write the file may publish, and may damage the ring.
    pub mode: u32,
    /// Group of the file, if not the agent's own.
    pub group: Option<u32>,
    /// What holds for accounts whose question is not answered in time.
    pub default_policy: Policy,
    /// Mail may be changed only while a lease is held: until [`crate::WriteLease::set_until`] is called, it may not,
    /// whatever the agent before this one has set. Else the time that is set is left as it is.
    pub leased: bool,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            geometry: Geometry::default(),
            mode: 0o660,
            group: None,
            default_policy: Policy::default(),
            leased: false,
        }
    }
}

/// Why the agent has no ring.
#[derive(Debug, Error)]
pub enum AttachError {
    /// Another agent holds the ring's lock.
    #[error("another agent uses the ring `{0}`; stop it first")]
    Busy(PathBuf),
    /// The kernel refused something.
    #[error("cannot {what} `{path}`")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The asked sizes are no sizes of a ring.
    #[error("cannot make a ring of these sizes")]
    Geometry(#[from] RingError),
}

/// Opens, checks and maps a ring file.
pub(crate) fn open(path: &Path) -> io::Result<(Mapping, FileHeader)> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY).open(path)?;
    let mut bytes = [0; HEADER_WORDS * 8];
    file.read_exact_at(&mut bytes, 0)?;
    let mut words = [0; HEADER_WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        *word = u64::from_le_bytes(eight);
    }
    let invalid = |error: RingError| io::Error::new(io::ErrorKind::InvalidData, error);
    let header = FileHeader::decode(&words).map_err(invalid)?;
    let layout = header.geometry.layout().map_err(invalid)?;
    Ok((Mapping::new(file, layout)?, header))
}

/// What the agent holds of its ring: the mapping, its header, the lock that is kept while it is open.
pub(crate) struct Attached {
    pub(crate) mapping: Mapping,
    pub(crate) header: FileHeader,
    pub(crate) lock: File,
}

/// Takes the ring at `path` over, or makes it.
pub(crate) fn attach(path: &Path, options: &ConsumerOptions, now_wall_ns: u64) -> Result<Attached, AttachError> {
    options.geometry.layout()?;
    let lock = lock(path)?;
    let found = open(path);
    if let Ok((mapping, header)) = found {
        let retired = mapping.words().control[word::FLAGS].load(Ordering::SeqCst) & FLAG_RETIRED != 0;
        if header.geometry == options.geometry && !retired {
            if options.leased {
                // Who set it may have lost the lease since, or the host was started anew and its clock with it.
                mapping.words().control[word::WRITE_UNTIL].store(WRITE_UNTIL_EXPIRED, Ordering::SeqCst);
            }
            set_access(mapping.file(), path, options)?;
            return Ok(Attached { mapping, header, lock });
        }
        mapping.words().control[word::FLAGS].fetch_or(FLAG_RETIRED, Ordering::SeqCst);
    }
    create(path, options, now_wall_ns)?;
    let (mapping, header) =
        open(path).map_err(|source| AttachError::Io { what: "open", path: path.to_owned(), source })?;
    Ok(Attached { mapping, header, lock })
}

/// The lock stands on a file of its own: the ring file may be replaced under it.
fn lock(path: &Path) -> Result<File, AttachError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC)
        .open(&lock_path)
        .map_err(|source| AttachError::Io { what: "open", path: lock_path.clone(), source })?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(file),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Err(AttachError::Busy(path.to_owned())),
        Err(errno) => Err(AttachError::Io { what: "lock", path: lock_path, source: errno.into() }),
    }
}

fn set_access(file: &File, path: &Path, options: &ConsumerOptions) -> Result<(), AttachError> {
    let io = |what, source| AttachError::Io { what, path: path.to_owned(), source };
    if let Some(group) = options.group {
        std::os::unix::fs::fchown(file, None, Some(group)).map_err(|source| io("set the group of", source))?;
    }
    // By fchmod and not at creation, so that the umask does not lock the store out.
    file.set_permissions(Permissions::from_mode(options.mode)).map_err(|source| io("set the mode of", source))
}

fn create(path: &Path, options: &ConsumerOptions, now_wall_ns: u64) -> Result<(), AttachError> {
    let io = |what, source| AttachError::Io { what, path: path.to_owned(), source };
    let layout = options.geometry.layout()?;
    let mut random = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut source| io::Read::read_exact(&mut source, &mut random))
        .map_err(|source| io("draw a generation for", source))?;
    let header =
        FileHeader { geometry: options.geometry, generation: u64::from_le_bytes(random), created_wall_ns: now_wall_ns };
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new_path = PathBuf::from(name);
    match std::fs::remove_file(&new_path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(io("replace", source)),
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(&new_path)
        .map_err(|source| io("create", source))?;
    let bytes = i64::try_from(layout.total * 8).unwrap_or(i64::MAX);
    nix::fcntl::posix_fallocate(&file, 0, bytes).map_err(|errno| io("allocate", errno.into()))?;
    let encoded: Vec<u8> = header.encode().iter().flat_map(|word| word.to_le_bytes()).collect();
    file.write_all_at(&encoded, 0).map_err(|source| io("write", source))?;
    if options.leased {
        // Before it has its name: nobody may find a ring without a limit.
        let offset = word::WRITE_UNTIL as u64 * 8;
        file.write_all_at(&WRITE_UNTIL_EXPIRED.to_le_bytes(), offset).map_err(|source| io("write", source))?;
    }
    set_access(&file, path, options)?;
    std::fs::rename(&new_path, path).map_err(|source| io("name", source))
}
