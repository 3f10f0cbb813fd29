//! Mail processes killed in the worst moment: between the store's commit and the publication.
//!
//! Owns: a small preloaded library that ends the process right after it has written to an index log. Refuses: luck;
//! the second case kills at random and accepts every outcome but one: a change that nobody is told of.

use crate::tap::{Tap, pause};
use crate::{PLUGINS, message, skipped, start};
use rand::Rng as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use understudy_ring::Policy;
use understudy_tests::dovecot::{Dovecot, FORMATS, run};
use understudy_types::op::Op;

/// Ends the process with SIGKILL after the first write to a transaction log while the file of this name exists.
const KILLER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void end_if_log(int fd)
{
    char link[64], name[512];
    ssize_t bytes;

    if (access(TRIGGER, F_OK) < 0)
        return;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    bytes = readlink(link, name, sizeof(name) - 1);
    if (bytes <= 0)
        return;
    name[bytes] = '\0';
    if (strlen(name) > 17 && strcmp(name + strlen(name) - 17, "dovecot.index.log") == 0 && strstr(name, MAILBOX)) {
        unlink(TRIGGER);
        raise(SIGKILL);
    }
}

ssize_t write(int fd, const void *data, size_t bytes)
{
    static ssize_t (*real)(int, const void *, size_t);
    ssize_t ret;

    if (real == NULL)
        real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    ret = real(fd, data, bytes);
    end_if_log(fd);
    return ret;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    static ssize_t (*real)(int, const void *, size_t, off_t);
    ssize_t ret;

    if (real == NULL)
        real = (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    ret = real(fd, data, bytes, at);
    end_if_log(fd);
    return ret;
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off_t at)
{
    return pwrite(fd, data, bytes, at);
}
"#;

fn killer(dir: &Path, trigger: &Path) -> PathBuf {
    let (source, library) = (dir.join("killer.c"), dir.join("killer.so"));
    std::fs::write(&source, KILLER).expect("written");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
    cc.arg(format!("-DTRIGGER=\"{}\"", trigger.display())).arg("-DMAILBOX=\"/mail/\"");
    run(&mut cc).expect("compiles");
    library
}

#[test]
fn death_between_commit_and_publication_leaves_an_open_intent() {
    if skipped("death_between_commit_and_publication_leaves_an_open_intent") {
        return;
    }
    let kept = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(kept.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("permissions");
    let trigger = kept.path().join("trigger");
    let library = killer(kept.path(), &trigger);
    let config = format!("import_environment = $import_environment LD_PRELOAD={}\n", library.display());
    let dovecot = Dovecot::start(&FORMATS, PLUGINS, &config).expect("Dovecot starts");
    let tap = Tap::start(dovecot.dir(), Policy::default());
    for format in FORMATS {
        let mut imap = dovecot.imap(format).expect("login");
        imap.append("INBOX", "", &message("there", 1)).expect("append");
        imap.command("SELECT INBOX").expect("select");
        tap.settle();
        std::fs::write(&trigger, "").expect("written");
        let stored = imap.command("STORE 1 +FLAGS (\\Flagged kw)");
        assert!(stored.as_ref().is_err_and(understudy_tests::wire::Error::is_connection), "{stored:?}");
        assert!(!trigger.exists(), "the process was killed where it should be");
        for _ in 0..500 {
            if tap.orphans().contains(&format.to_owned()) {
                break;
            }
            pause();
        }
        assert_eq!(tap.open_intents(format).len(), 1, "{format}");
        assert!(tap.orphans().contains(&format.to_owned()), "{format}: {:?}", tap.orphans());
        let ops = tap.ops(format);
        assert!(!ops.iter().any(|op| matches!(op, Op::FlagsSet { .. })), "{format}: {ops:?}");
        // It is committed: the next session sees it.
        let mut imap = dovecot.imap(format).expect("login");
        let seen = imap.mailbox("INBOX").expect("examine");
        assert!(seen.messages[0].flags.contains("\\Flagged"), "{format}: {:?}", seen.messages[0].flags);
        imap.logout();
    }
}

/// Whatever is in the store was published, or its account is to be compared.
#[test]
fn no_change_is_missed_when_processes_are_killed_at_random() {
    if skipped("no_change_is_missed_when_processes_are_killed_at_random") {
        return;
    }
    let dovecot = start(&FORMATS);
    let tap = Tap::start(dovecot.dir(), Policy::default());
    let mut random = rand::rng();
    for format in FORMATS {
        for round in 0..12 {
            let mut imap = dovecot.imap(format).expect("login");
            let after_us = random.random_range(0..60_000);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for n in 0.. {
                        if imap.append("INBOX", "", &message("killed", round * 1000 + n)).is_err() {
                            break;
                        }
                    }
                });
                std::thread::sleep(std::time::Duration::from_micros(after_us));
                for pid in dovecot.processes("imap") {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
            });
            dovecot.remove_stale_locks(format);
        }
        tap.settle();
        let published: Vec<u32> = tap
            .ops(format)
            .iter()
            .filter_map(|op| match op {
                Op::MessageSaved { message, .. } => Some(message.uid),
                _ => None,
            })
            .collect();
        let lines = dovecot.look(&["fetch", "-u", format, "uid", "mailbox", "INBOX"]).expect("fetch");
        let stored: Vec<u32> = lines.lines().skip(1).filter_map(|l| l.trim().parse().ok()).collect();
        let missed: Vec<_> = stored.iter().filter(|uid| !published.contains(uid)).collect();
        let told = tap.orphans().contains(&format.to_owned());
        assert!(missed.is_empty() || told, "{format}: {missed:?} were missed and nobody was told");
        // A mailbox is damaged by none of this.
        assert!(stored.len() >= 12 || told || !published.is_empty(), "{format}: nothing was saved at all");
    }
    assert_eq!(tap.strange(), Vec::<String>::new());
}
