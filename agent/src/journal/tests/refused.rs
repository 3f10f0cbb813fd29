//! io_uring refused by a seccomp filter: the journal says so by name and works on.

#![expect(unsafe_code, reason = "a seccomp filter is installed by prctl with a pointer")]

use super::*;

/// From now on io_uring_setup fails with `errno` in this thread and the ones that it starts.
fn refuse(errno: u32) -> std::io::Result<()> {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    // Load the number of the system call; if it is io_uring_setup give the error, else allow.
    let mut filter = [
        statement(0x20, 0),
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: setup },
        statement(0x06, libc::SECCOMP_RET_ERRNO | errno),
        statement(0x06, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: `program` points to `filter`, whose four instructions live until the call has returned; the kernel
    // copies them.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn a_refusal_is_named_and_the_journal_works_on() {
    let off = io::sysctl().is_some_and(|value| value != 0);
    for (errno, refusal) in [(libc::EPERM, IoRefusal::Seccomp), (libc::ENOSYS, IoRefusal::NoSystemCall)] {
        if off {
            println!("SKIPPED a_refusal_is_named_and_the_journal_works_on: io_uring is off by sysctl");
            return;
        }
        let thread = std::thread::spawn(move || {
            if let Err(error) = refuse(u32::try_from(errno).unwrap()) {
                println!("SKIPPED a_refusal_is_named_and_the_journal_works_on: seccomp: {error}");
                return;
            }
            assert_eq!(io_uring_available(), Err(refusal.clone()));
            let directory = tempfile::tempdir().unwrap();
            let forced = Journal::open(config(directory.path(), IoBackend::IoUring), clock::mono());
            assert!(matches!(forced, Err(JournalError::IoUring(_))));
            let (journal, recovered) = open(&config(directory.path(), IoBackend::Auto));
            assert_eq!((recovered.io_refusal, journal.stats().backend), (Some(refusal), "plain"));
            assert!(is_durable(&append(&journal, Stream::new(1).frame(1, 100))));
        });
        thread.join().unwrap();
    }
}
