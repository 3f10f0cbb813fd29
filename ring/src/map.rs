//! The mapped ring file: words, futexes and locks of the kernel.
//!
//! Owns: the mapping and the file descriptor that carries this process's locks.
//! What can hurt: a file that is cut short while it is mapped kills whoever touches the missing pages. The agent
//! allocates the whole file before it gives it its name and never truncates it; only its own user may.
//! Refuses: big-endian machines, where the futex would be the other half of the word.

#![expect(unsafe_code, reason = "maps shared memory and calls futex")]

#[cfg(not(target_endian = "little"))]
compile_error!("the ring's layout and its futexes need a little-endian machine");

use crate::fork;
use crate::memory::{Memory, Sealed, Words};
use crate::sync::{AtomicU64, DataWord};
use memmap2::MmapRaw;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use understudy_types::ring::Layout;

/// Offset of the lock of producer slot 0; slot n has the byte n after it. Far behind the end of any file.
const LOCK_BASE: i64 = 1 << 40;

/// A ring file, mapped writable and shared.
#[derive(Debug)]
pub struct Mapping {
    map: MmapRaw,
    file: ManuallyDrop<File>,
    layout: Layout,
    fork_generation: u32,
    registered: bool,
}

impl Mapping {
    /// Maps `file`, which must be as long as `layout` says.
    ///
    /// # Errors
    /// What the kernel says, or `InvalidData` when the file is too short.
    pub(crate) fn new(file: File, layout: Layout) -> io::Result<Self> {
        let bytes = layout.total * 8;
        if file.metadata()?.len() < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the ring file is shorter than its header says"));
        }
        let map = memmap2::MmapOptions::new().len(bytes).map_raw(&file)?;
        let registered = fork::register(file.as_raw_fd());
        if !registered {
            return Err(io::Error::other("too many ring files open in this process"));
        }
        Ok(Self { map, file: ManuallyDrop::new(file), layout, fork_generation: fork::generation(), registered })
    }

    /// The file, to compare it with what its path names now.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Takes producer slot `slot` for this process, until the process ends or the mapping is dropped.
    pub(crate) fn take_slot(&self, slot: u16) -> bool {
        let lock = flock(slot, libc::F_WRLCK);
        fcntl(&*self.file, FcntlArg::F_OFD_SETLK(&lock)).is_ok()
    }

    fn futex_address(&self, at: usize) -> *const u32 {
        std::ptr::from_ref(&self.words().control[at]).cast()
    }
}

fn flock(slot: u16, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCK_BASE + i64::from(slot),
        l_len: 1,
        l_pid: 0,
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a forked child the handler has closed the descriptor; its number may belong to another file by now.
        if self.inherited() {
            return;
        }
        if self.registered {
            fork::unregister(self.file.as_raw_fd());
        }
        // SAFETY: nothing uses the file after this, and it was not dropped before.
        unsafe { ManuallyDrop::drop(&mut self.file) };
    }
}

impl Sealed for Mapping {}

impl Memory for Mapping {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    #[inline]
    fn words(&self) -> Words<'_> {
        let base: *const u8 = self.map.as_ptr();
        // SAFETY: the mapping is page-aligned, holds `total` words (`new` checked the file and mapped exactly
        // these bytes), is writable and lives as long as `self`. Every access goes through atomics (`AtomicU64`, or
        // `DataWord`, which is a transparent one), so other processes may write at any time.
        unsafe {
            Words {
                control: std::slice::from_raw_parts(base.cast::<AtomicU64>(), self.layout.data),
                data: std::slice::from_raw_parts(
                    base.add(self.layout.data * 8).cast::<DataWord>(),
                    self.layout.total - self.layout.data,
                ),
            }
        }
    }

    fn futex_wait(&self, at: usize, expected: u32, timeout_ns: u64) {
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
        };
        // Not FUTEX_PRIVATE_FLAG: the other side is another process.
        // SAFETY: the address is an aligned word of the mapping, which outlives the call; `timeout` is on the stack.
        // Every result (woken, value changed, timed out, signal) means the same to the caller: look again.
        unsafe {
            libc::syscall(libc::SYS_futex, self.futex_address(at), libc::FUTEX_WAIT, expected, &raw const timeout);
        }
    }

    fn futex_wake(&self, at: usize) {
        // SAFETY: as above; FUTEX_WAKE does not touch the memory.
        unsafe {
            libc::syscall(libc::SYS_futex, self.futex_address(at), libc::FUTEX_WAKE, i32::MAX);
        }
    }

    fn slot_held(&self, slot: u16) -> bool {
        let mut lock = flock(slot, libc::F_WRLCK);
        match fcntl(&*self.file, FcntlArg::F_OFD_GETLK(&mut lock)) {
            Ok(_) => i32::from(lock.l_type) != libc::F_UNLCK,
            // An error proves nobody's death.
            Err(_) => true,
        }
    }

    #[inline]
    fn inherited(&self) -> bool {
        self.fork_generation != fork::generation()
    }
}
