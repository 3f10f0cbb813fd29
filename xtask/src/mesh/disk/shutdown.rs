//! Tells ext4 to shut down at once, as if its device were gone: from then on every access is an I/O error.
//!
//! Owns: one ioctl. What can hurt: the path of another file system; the caller names only mounts of a mesh.
//! Refuses: writing its log first; what was not yet durable is lost, as with a device that vanished.
#![expect(unsafe_code, reason = "the kernel offers this by ioctl only")]

use anyhow::{Context, Result};
use std::os::fd::AsRawFd;
use std::path::Path;

/// `EXT4_GOING_FLAGS_NOLOGFLUSH` of the kernel's `ext4.h`.
const NO_LOG_FLUSH: u32 = 2;

nix::ioctl_read!(ext4_shutdown, b'X', 125, u32);

/// Shuts down the file system that is mounted at `disk`.
///
/// # Errors
/// When it is no ext4, or is down already.
pub(super) fn shut_down(disk: &Path) -> Result<()> {
    let folder = std::fs::File::open(disk).with_context(|| format!("cannot open `{}`", disk.display()))?;
    let mut flags = NO_LOG_FLUSH;
    // SAFETY: the descriptor is open, and the kernel reads four bytes at `flags`, which outlives the call.
    unsafe { ext4_shutdown(folder.as_raw_fd(), &raw mut flags) }
        .with_context(|| format!("`{}` cannot be shut down", disk.display()))
        .map(|_| ())
}
