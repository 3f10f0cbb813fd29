//! What a forked child must not do with its parent's ring.
//!
//! Owns: a counter that rises in every forked child, and the list of ring file descriptors to close there.
//! What can hurt: a child that keeps the descriptor keeps the parent's lock, so a dead parent would look alive.
//! `pthread_atfork` closes it in the child before anything else runs. Asking for the process id at every
//! publication would be a system call; the counter is one load.
//! Refuses: more than [`RINGS_MAX`] ring files in one process.

#![expect(unsafe_code, reason = "pthread_atfork and close in its handler are C calls")]

use std::os::fd::RawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// Most ring files that one process has open at a time.
pub(crate) const RINGS_MAX: usize = 16;

static GENERATION: AtomicU32 = AtomicU32::new(0);
static OPEN: [AtomicI32; RINGS_MAX] = [const { AtomicI32::new(-1) }; RINGS_MAX];
static INSTALL: Once = Once::new();

/// Runs in the child, where only async-signal-safe calls are allowed: atomics and `close` are.
extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::SeqCst);
    for place in &OPEN {
        let fd = place.swap(-1, Ordering::SeqCst);
        if fd >= 0 {
            // SAFETY: the descriptor was registered by its owner, whose `Drop` does not close it when the
            // generation has changed, so it is closed once.
            unsafe { libc::close(fd) };
        }
    }
}

/// How often this process is a child of a process that had a ring open.
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Has `fd` closed in every child. `false` when too many are open.
pub(crate) fn register(fd: RawFd) -> bool {
    INSTALL.call_once(|| {
        // SAFETY: the handler is a plain function that lives as long as this library; glibc removes handlers of
        // a library that is unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
    OPEN.iter().any(|place| place.compare_exchange(-1, fd, Ordering::SeqCst, Ordering::SeqCst).is_ok())
}

/// The owner closes `fd` itself from now on.
pub(crate) fn unregister(fd: RawFd) {
    for place in &OPEN {
        if place.compare_exchange(fd, -1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
    }
}
