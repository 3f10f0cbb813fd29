//! The narrow interface to the disk: one write made durable at a time.
//!
//! Owns: the buffers, the choice between io_uring and plain system calls, and the words for why io_uring is refused.
//! What can hurt: a buffer that the kernel still reads; it moves into the operation and comes back with the
//! completion. Refuses: retrying; a failed write or fsync goes up as it is.

use std::io;
use std::sync::Arc;

use memmap2::MmapMut;
use understudy_types::segment::WRITE_BYTES_MAX;

use super::disk::LogFile;
use super::plain::PlainIo;
use super::uring::UringIo;
use super::{IoBackend, JournalError};

/// Buffers of a journal: one is filled while the other is written.
pub(super) const BUFFERS: usize = 2;

/// Page-aligned memory for one write. An anonymous mapping: aligned for O_DIRECT without any unsafe code, and never
/// moved, so that it can be registered with the kernel.
#[derive(Debug)]
pub struct Buffer {
    /// Number that it is registered by.
    pub index: u16,
    pub map: MmapMut,
}

impl Buffer {
    /// Room for the largest write.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(index: u16) -> io::Result<Self> {
        Ok(Self { index, map: MmapMut::map_anon(WRITE_BYTES_MAX)? })
    }
}

/// A write that is to be made durable.
#[derive(Debug)]
pub struct WriteOp {
    pub buffer: Buffer,
    /// Bytes of the buffer: whole pages.
    pub len: usize,
    /// Offset in the file: whole pages.
    pub at: u64,
}

/// What went wrong.
#[derive(Debug)]
pub enum IoFailure {
    Write(io::Error),
    Sync(io::Error),
}

/// One journal's way to its disk.
pub trait LogIo: Send {
    /// `io_uring` or `plain`.
    fn name(&self) -> &'static str;

    /// Later writes go to this file.
    ///
    /// # Errors
    /// Whatever the kernel says.
    fn install(&mut self, file: &Arc<dyn LogFile>) -> io::Result<()>;

    /// Begins to write and fdatasync. At most one at a time.
    ///
    /// # Errors
    /// It was not begun; the buffer comes back.
    fn submit(&mut self, write: WriteOp) -> Result<(), (IoFailure, WriteOp)>;

    /// Waits for what was submitted; `None` if nothing was. The buffer comes back in either case.
    fn complete(&mut self) -> Option<(WriteOp, Result<(), IoFailure>)>;
}

/// Why io_uring cannot be used here, with what an administrator can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoRefusal {
    #[error(
        "io_uring is switched off for everybody: sysctl `kernel.io_uring_disabled` is 2; set it to 0 (or to 1 and see `kernel.io_uring_group`)"
    )]
    SysctlAll,
    #[error(
        "io_uring is switched off for this process: sysctl `kernel.io_uring_disabled` is 1; put the agent's group into sysctl `kernel.io_uring_group`, or set it to 0"
    )]
    SysctlGroup,
    #[error(
        "io_uring is refused (EPERM) though sysctl allows it: a seccomp filter or a security module forbids it; allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile or the unit's SystemCallFilter"
    )]
    Seccomp,
    #[error(
        "io_uring is refused (EACCES): a security module forbids it; look for `io_uring` in the audit log (SELinux class `io_uring`)"
    )]
    SecurityModule,
    #[error(
        "kernel has no io_uring (ENOSYS), or a seccomp filter says so; use Linux 5.11 or newer, or allow io_uring in the container's seccomp profile"
    )]
    NoSystemCall,
    #[error("io_uring cannot lock memory (ENOMEM); raise the limit on locked memory (LimitMEMLOCK=) to 64 MiB")]
    LockedMemory,
    #[error("this kernel's io_uring lacks `{0}`; use Linux 5.11 or newer")]
    Opcode(&'static str),
    #[error("io_uring failed at `{step}`: {error}")]
    Other { step: &'static str, error: String },
}

/// Names a refusal from the error of a step and the sysctl's value.
pub(super) fn explain(step: &'static str, error: &io::Error, sysctl: Option<u32>) -> IoRefusal {
    match (error.raw_os_error(), sysctl) {
        (Some(libc::EPERM), Some(2)) => IoRefusal::SysctlAll,
        (Some(libc::EPERM), Some(1)) => IoRefusal::SysctlGroup,
        (Some(libc::EPERM), _) => IoRefusal::Seccomp,
        (Some(libc::EACCES), _) => IoRefusal::SecurityModule,
        (Some(libc::ENOSYS), _) => IoRefusal::NoSystemCall,
        (Some(libc::ENOMEM), _) => IoRefusal::LockedMemory,
        _ => IoRefusal::Other { step, error: error.to_string() },
    }
}

/// Value of the sysctl `kernel.io_uring_disabled`; `None` on kernels before 6.6, which do not have it.
pub(super) fn sysctl() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// Whether this process could use io_uring for a journal now: for `understudy doctor`.
///
/// # Errors
/// Which refusal it is.
pub fn io_uring_available() -> Result<(), IoRefusal> {
    let buffers = [Buffer::new(0)].into_iter().collect::<io::Result<Vec<_>>>();
    let buffers = buffers.map_err(|error| explain("buffers", &error, None))?;
    UringIo::new(&buffers).map(drop)
}

/// A way to the disk with its buffers.
pub type Way = (Box<dyn LogIo>, Vec<Buffer>);

/// The way to the disk that `choice` asks for, its buffers, and why it is not io_uring where that was wished for.
pub(super) fn open(choice: IoBackend) -> Result<(Way, Option<IoRefusal>), JournalError> {
    let buffers = (0..BUFFERS).map(|index| Buffer::new(u16::try_from(index).unwrap_or(0)));
    let buffers = buffers.collect::<io::Result<Vec<_>>>().map_err(JournalError::Memory)?;
    if choice == IoBackend::Plain {
        return Ok(((Box::new(PlainIo::default()), buffers), None));
    }
    match UringIo::new(&buffers) {
        Ok(io) => Ok(((Box::new(io), buffers), None)),
        Err(refusal) if choice == IoBackend::IoUring => Err(JournalError::IoUring(refusal)),
        Err(refusal) => Ok(((Box::new(PlainIo::default()), buffers), Some(refusal))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_by_name() {
        let of = |errno, sysctl| explain("setup", &io::Error::from_raw_os_error(errno), sysctl);
        assert_eq!(of(libc::EPERM, Some(2)), IoRefusal::SysctlAll);
        assert_eq!(of(libc::EPERM, Some(1)), IoRefusal::SysctlGroup);
        assert_eq!(of(libc::EPERM, Some(0)), IoRefusal::Seccomp);
        assert_eq!(of(libc::EPERM, None), IoRefusal::Seccomp);
        assert_eq!(of(libc::EACCES, Some(0)), IoRefusal::SecurityModule);
        assert_eq!(of(libc::ENOSYS, None), IoRefusal::NoSystemCall);
        assert_eq!(of(libc::ENOMEM, None), IoRefusal::LockedMemory);
        assert!(matches!(of(libc::EIO, None), IoRefusal::Other { step: "setup", .. }));
    }
}
