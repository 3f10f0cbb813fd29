//! The store's first process: is it there, and does it run?
//!
//! Owns: one look at the pid file and at `/proc/PID/stat`. What can hurt: a pid file that outlives its process and
//! names another one meanwhile (the store canary tells), and a /proc that hides other users' processes. Refuses:
//! touching the store's disk; the pid file lies in its runtime folder.

use std::io::ErrorKind;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::rules::{Case, Reading};
use crate::probe::tree::read_stat;

/// Bytes of a pid file that are looked at.
const PID_BYTES_MAX: usize = 32;

/// Looks once.
#[must_use]
pub fn look(pid_file: &Path) -> Reading {
    let at = pid_file.display();
    let text = match std::fs::read(pid_file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes[..bytes.len().min(PID_BYTES_MAX)]).into_owned(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Reading::saw(Case::MasterHidden, format!("cannot read `{at}`: {error}"));
        }
        Err(error) => return Reading::saw(Case::MasterGone, format!("the store does not run: `{at}`: {error}")),
    };
    let Some(pid) = text.trim().parse::<i32>().ok().filter(|pid| *pid > 0) else {
        return Reading::saw(Case::MasterGone, format!("`{at}` names no process"));
    };
    match read_stat(pid.unsigned_abs()).map(|stat| stat.state) {
        Some('T' | 't') => Reading::saw(Case::MasterStopped, format!("the store's process {pid} is stopped")),
        Some('Z' | 'X' | 'x') => Reading::saw(Case::MasterZombie, format!("the store's process {pid} has ended")),
        Some(_) => Reading::saw(Case::MasterAlive, String::new()),
        // Not shown is not gone.
        None => match kill(Pid::from_raw(pid), None) {
            Err(Errno::ESRCH) => Reading::saw(Case::MasterGone, format!("the store's process {pid} is gone")),
            _ => Reading::saw(Case::MasterHidden, format!("/proc does not show the store's process {pid}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    fn case(pid_file: &Path) -> Case {
        let Reading::Saw { case, .. } = look(pid_file) else { panic!("no case") };
        case
    }

    #[test]
    fn a_real_process_is_alive_then_stopped_then_a_zombie_then_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        assert_eq!(case(&file), Case::MasterGone);
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep starts");
        std::fs::write(&file, format!("{}\n", child.id())).expect("written");
        let until = |wanted: Case| {
            while case(&file) != wanted {
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        until(Case::MasterAlive);
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        for (signal, wanted) in [
            (nix::sys::signal::SIGSTOP, Case::MasterStopped),
            (nix::sys::signal::SIGCONT, Case::MasterAlive),
            (nix::sys::signal::SIGKILL, Case::MasterZombie),
        ] {
            kill(pid, signal).expect("signalled");
            until(wanted);
        }
        child.wait().expect("waited");
        assert_eq!(case(&file), Case::MasterGone);
    }

    #[test]
    fn a_damaged_pid_file_names_no_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        for text in ["", "x", "-1", "0", "99999999999999999999999999999999999", "\u{0}\u{0}"] {
            std::fs::write(&file, text).expect("written");
            assert_eq!(case(&file), Case::MasterGone, "{text:?}");
        }
    }
}
