//! Which class each system call of this machine belongs to.
//!
//! Owns: the table handed to the kernel programs. Refuses: calls that wait for nothing and fail for nothing
//! interesting (`getpid`, `brk`); they have no class and cost one comparison.

use understudy_types::probe::{Row, SYSCALLS_MAX};

/// Class numbers by system-call number; 0 is "not measured".
#[must_use]
pub fn classes() -> [u8; SYSCALLS_MAX] {
    let mut table = [0u8; SYSCALLS_MAX];
    for (row, calls) in TABLE {
        for call in *calls {
            if let Some(slot) = usize::try_from(*call).ok().and_then(|index| table.get_mut(index)) {
                *slot = *row as u8;
            }
        }
    }
    table
}

/// The calls that every architecture has.
const TABLE: &[(Row, &[i64])] = &[
    (Row::Read, &[libc::SYS_read, libc::SYS_pread64, libc::SYS_readv, libc::SYS_preadv, libc::SYS_preadv2]),
    (
        Row::Write,
        &[
            libc::SYS_write,
            libc::SYS_pwrite64,
            libc::SYS_writev,
            libc::SYS_pwritev,
            libc::SYS_pwritev2,
            libc::SYS_sendfile,
            libc::SYS_splice,
            libc::SYS_copy_file_range,
        ],
    ),
    (
        Row::Fsync,
        &[
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_sync_file_range,
            libc::SYS_syncfs,
            libc::SYS_sync,
            libc::SYS_msync,
        ],
    ),
    (Row::Open, &[libc::SYS_openat, libc::SYS_openat2]),
    (
        Row::Name,
        &[
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_unlinkat,
            libc::SYS_mkdirat,
        ],
    ),
    (
        Row::Lookup,
        &[
            libc::SYS_statx,
            libc::SYS_fstat,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_getdents64,
            libc::SYS_readlinkat,
            libc::SYS_statfs,
            libc::SYS_fstatfs,
        ],
    ),
    (Row::Resize, &[libc::SYS_ftruncate, libc::SYS_truncate, libc::SYS_fallocate]),
    (Row::Lock, &[libc::SYS_flock, libc::SYS_fcntl]),
    (
        Row::Net,
        &[
            libc::SYS_connect,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_sendmmsg,
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_recvmmsg,
        ],
    ),
    (Row::Accept, &[libc::SYS_accept, libc::SYS_accept4]),
    (
        Row::Wait,
        &[
            libc::SYS_ppoll,
            libc::SYS_pselect6,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
            libc::SYS_futex,
            libc::SYS_nanosleep,
            libc::SYS_clock_nanosleep,
            libc::SYS_rt_sigsuspend,
            libc::SYS_rt_sigtimedwait,
            libc::SYS_restart_syscall,
            libc::SYS_wait4,
            libc::SYS_waitid,
        ],
    ),
    #[cfg(target_arch = "x86_64")]
    (Row::Open, &[libc::SYS_open, libc::SYS_creat]),
    #[cfg(target_arch = "x86_64")]
    (
        Row::Name,
        &[libc::SYS_rename, libc::SYS_link, libc::SYS_symlink, libc::SYS_unlink, libc::SYS_mkdir, libc::SYS_rmdir],
    ),
    #[cfg(target_arch = "x86_64")]
    (
        Row::Lookup,
        &[
            libc::SYS_stat,
            libc::SYS_lstat,
            libc::SYS_newfstatat,
            libc::SYS_access,
            libc::SYS_getdents,
            libc::SYS_readlink,
        ],
    ),
    #[cfg(target_arch = "x86_64")]
    (Row::Wait, &[libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_wait, libc::SYS_pause]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_waiting_have_their_classes() {
        let table = classes();
        let class = |call: i64| Row::from_number(u32::from(table[call as usize]));
        assert_eq!(class(libc::SYS_fsync), Some(Row::Fsync));
        assert_eq!(class(libc::SYS_openat), Some(Row::Open));
        assert!(class(libc::SYS_epoll_pwait).is_some_and(Row::is_idle));
        assert!(class(libc::SYS_futex).is_some_and(Row::is_idle));
        assert_eq!(class(libc::SYS_getpid), None);
    }

    #[test]
    fn no_call_is_in_two_classes() {
        let mut seen = std::collections::BTreeMap::new();
        for (row, calls) in TABLE {
            for call in *calls {
                assert_eq!(seen.insert(*call, *row), None, "system call {call}");
            }
        }
    }
}
