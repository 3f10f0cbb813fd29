//! Processes of a node: started in the node's network namespace and control group, found and signalled by them.
//!
//! Owns: starting in a session of its own, so that a terminal's signals do not reach the node and every descendant is
//! found again. What can hurt: a process number used again by somebody else; a process counts as the node's only while
//! it is in the node's network namespace or control group. Refuses: signalling anything that is in neither.
#![expect(unsafe_code, reason = "a child must not inherit the signals that the owner of a mesh blocks")]

use crate::clock;
use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The environment variable that says what a process is to its node: `agent` or `store`.
const MARK: &str = "UNDERSTUDY_MESH";
/// Three `exec`s take milliseconds.
const ENTER_WAIT: Duration = Duration::from_secs(10);
/// Between SIGTERM and SIGKILL when a mesh goes down.
const TERM_WAIT: Duration = Duration::from_secs(5);

/// Where a process is to run.
pub(crate) struct Place<'a> {
    pub(crate) netns: &'a str,
    pub(crate) cgroup: Option<&'a Path>,
    /// `agent` or `store`.
    pub(crate) mark: &'static str,
    /// Standard output and error go there, appended.
    pub(crate) log: &'a Path,
}

/// Starts `program` in `place`; its process number, which is also its session.
///
/// # Errors
/// When the log cannot be written or the shell cannot be started. A program that ends at once is not noticed here.
pub(crate) fn spawn<S: AsRef<OsStr>>(place: &Place<'_>, program: &Path, args: &[S]) -> Result<i32> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(place.log);
    let log = log.with_context(|| format!("cannot write `{}`", place.log.display()))?;
    // Each `exec` keeps the process number. The shell joins the control group before anything can fork.
    let script = r#"if [ -n "$CG" ]; then echo $$ > "$CG/cgroup.procs" || exit 99; fi; unset CG
        ulimit -n 65536 2>/dev/null; exec nsenter --net="/run/netns/$NETNS" setsid "$0" "$@""#;
    let mut command = Command::new("sh");
    // SAFETY: the closure runs between fork and exec and calls nothing but pthread_sigmask, which may be called there.
    unsafe {
        command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?));
    }
    let child = command
        .args(["-c", script])
        .arg(program)
        .args(args)
        .env("NETNS", place.netns)
        .env("CG", place.cgroup.map_or(OsStr::new(""), Path::as_os_str))
        .env(MARK, place.mark)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start sh")?;
    let pid = i32::try_from(child.id()).context("a process number past i32")?;
    // Until it is in the namespace it cannot be told from a stranger.
    let started = clock::now();
    while !alive(pid, place.netns) && is_there(pid) && started.elapsed() < ENTER_WAIT {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(pid)
}

/// A process that is there and has not ended (a zombie has).
pub(crate) fn is_there(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Which network namespace a file stands for; `None` when it is not there.
fn inode(file: &str) -> Option<u64> {
    Some(std::fs::metadata(file).ok()?.ino())
}

/// True while `pid` runs in `netns`.
pub(crate) fn alive(pid: i32, netns: &str) -> bool {
    let (here, there) = (inode(&format!("/run/netns/{netns}")), inode(&format!("/proc/{pid}/ns/net")));
    here.is_some() && here == there && is_there(pid)
}

/// All processes in `netns`.
pub(crate) fn in_netns(netns: &str) -> Vec<i32> {
    let here = inode(&format!("/run/netns/{netns}"));
    let folder = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folder.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| here.is_some() && inode(&format!("/proc/{pid}/ns/net")) == here && is_there(*pid)).collect()
}

/// What a process is to its node, by the mark in its environment; Dovecot clears it, so it has none.
pub(crate) fn mark_of(pid: i32) -> Option<String> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let start = format!("{MARK}=");
    let entry = environ.split(|b| *b == 0).find(|e| e.starts_with(start.as_bytes()))?;
    Some(String::from_utf8_lossy(&entry[start.len()..]).into_owned())
}

/// The program of a process.
pub(crate) fn program_of(pid: i32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

/// True if `pid` leads its session, as whatever [`spawn`] started does.
fn leads(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let session = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3)?.parse().ok());
    session == Some(pid)
}

/// Processes in a control group: the store's children stay there when their master and its mark are gone.
pub(crate) fn in_cgroup(cgroup: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|l| l.parse().ok()).filter(|pid| is_there(*pid)).collect()
}

/// Sends `signal` to all of `pids`; those that are gone meanwhile are passed over.
pub(crate) fn signal(pids: &[i32], signal: Signal) {
    for pid in pids {
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}

/// Ends everything that `find` finds: SIGTERM to those that lead, then SIGKILL to all, until nothing is left. A stopped
/// process is continued. A leader ends its own children; told at the same time as they, Dovecot's waits long for them.
pub(crate) fn end_all(find: impl Fn() -> Vec<i32>) -> bool {
    let started = clock::now();
    let all = find();
    let leaders: Vec<i32> = all.iter().copied().filter(|pid| leads(*pid)).collect();
    signal(&leaders, Signal::SIGTERM);
    signal(&all, Signal::SIGCONT);
    while started.elapsed() < TERM_WAIT * 3 {
        reap();
        let left = find();
        if left.is_empty() {
            return true;
        }
        if started.elapsed() > TERM_WAIT || leaders.is_empty() {
            signal(&left, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    find().is_empty()
}

/// Takes leave of children that have ended, so that they do not stay as zombies.
pub(crate) fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Lets go of descendants' fate: what loses its parent becomes our child, so that [`reap`] sees its end.
pub(crate) fn adopt_orphans() {
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// Gives the process that runs the mesh its own view of signals: those in `set` are waited for, never delivered.
///
/// # Errors
/// When the kernel refuses, which it does not.
pub(crate) fn block_signals() -> Result<nix::sys::signalfd::SignalFd> {
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    let mut set = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|s| set.add(s));
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}
