//! Starting programs: where the workspace is, how a step's output is kept, and how a hung step is ended.
//!
//! Owns: the log of each step (`target/test-logs/NAME.log`) and its process group. What can hurt: a grandchild that
//! keeps the output pipe open; the step's own end counts, and its process group is ended with it, also when we are told
//! to end or fail on the way.
//! Refuses: judging speed. A watchdog only ends what hangs.

use crate::{clock, stop};
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Output that is still in the pipe when a step has ended is waited for so long, then left: a daemon may hold it open.
const DRAIN_WAIT: Duration = Duration::from_secs(3);
/// Between SIGTERM and SIGKILL to a step's group, so that a mesh in it can take away its namespaces and processes.
const TERM_WAIT: Duration = Duration::from_secs(30);

/// The top folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo builds: as the caller's environment says, or where this program lies, which is also right when the
/// user's own configuration of cargo names another folder than `target`.
pub(crate) fn target_dir() -> PathBuf {
    if let Some(named) = std::env::var_os("CARGO_TARGET_DIR") {
        return root().join(named);
    }
    let program = std::env::current_exe().unwrap_or_default();
    match program.parent() {
        Some(profile) if profile.ends_with("debug") || profile.ends_with("release") => {
            profile.parent().map_or_else(|| root().join("target"), Path::to_path_buf)
        }
        _ => root().join("target"),
    }
}

/// The cargo that started us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// A cargo of another toolchain: through rustup's own `cargo`, without what our toolchain put into the environment.
pub(crate) fn cargo_of(toolchain: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(format!("+{toolchain}")).current_dir(root());
    for key in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC", "CARGO_TARGET_DIR", "RUSTFLAGS"] {
        command.env_remove(key);
    }
    command
}

/// The program `name` in PATH or in cargo's own `bin`, if it is there and may be run.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok())
}

/// Runs `command` without showing it; its standard output if it ended well.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

/// True if `command` can be started and ends well; shows nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Standard output for one use only: whatever else is printed from here on goes to standard error.
///
/// # Errors
/// When there is no standard output or error.
pub(crate) fn take_stdout() -> Result<std::fs::File> {
    let kept = nix::unistd::dup(std::io::stdout()).context("no standard output")?;
    nix::unistd::dup2_stdout(std::io::stderr()).context("no standard error")?;
    Ok(kept.into())
}

/// How a step ended.
pub(crate) struct Ran {
    /// True if it ended by itself and well.
    pub(crate) ok: bool,
    /// In one line, how it ended when not `ok`.
    pub(crate) why: String,
    /// The last lines that it printed, at most [`TAIL_LINES`].
    pub(crate) tail: Vec<String>,
    /// Everything that it printed.
    pub(crate) log: PathBuf,
    /// How long it took.
    pub(crate) seconds: u64,
}

/// Lines kept in memory of a step's output; the log file has all of them.
const TAIL_LINES: usize = 60;

/// Runs one step to its end, at most `limit`: output to `target/test-logs/NAME.log` and line by line to `on_line`.
/// Past `limit` the step's whole process group is ended and the step has failed.
///
/// # Errors
/// When the log cannot be written, and when a signal asked us to end. A program that cannot be started is a step that
/// failed, not an error here.
pub(crate) fn step(name: &str, command: &mut Command, limit: Duration, on_line: &mut dyn FnMut(&str)) -> Result<Ran> {
    carry_out(name, command, limit, true, on_line)
}

/// As [`step`], but a signal that asks us to end has to wait until the step has ended: a package manager that is killed
/// half way leaves the system to be repaired by hand.
///
/// # Errors
/// As [`step`].
pub(crate) fn step_uninterrupted(name: &str, command: &mut Command, limit: Duration) -> Result<Ran> {
    carry_out(name, command, limit, false, &mut |_| {})
}

fn carry_out(
    name: &str,
    command: &mut Command,
    limit: Duration,
    may_be_stopped: bool,
    on_line: &mut dyn FnMut(&str),
) -> Result<Ran> {
    stop::check()?;
    let logs = target_dir().join("test-logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make `{}`", logs.display()))?;
    let log = logs.join(format!("{}.log", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")));
    let mut file = std::fs::File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
    writeln!(file, "$ {command:?}")?;
    let started = clock::now();
    let mut tail = std::collections::VecDeque::new();
    let mut take = |line: String| -> Result<()> {
        writeln!(file, "{line}")?;
        on_line(&line);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
        Ok(())
    };
    let (mut child, lines) = match start(command) {
        Ok((child, lines)) => (Group { child, over: false }, lines),
        Err(error) => {
            let why = format!("cannot start {:?}: {error:#}", command.get_program());
            writeln!(file, "{why}")?;
            return Ok(Ran { ok: false, why: why.clone(), tail: vec![why], log, seconds: 0 });
        }
    };
    let mut status: Option<ExitStatus> = None;
    let mut ended_at = started;
    let mut timed_out = false;
    loop {
        if may_be_stopped {
            stop::check()?;
        }
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => take(line)?,
            Err(RecvTimeoutError::Disconnected) if status.is_some() => break,
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(20)),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if status.is_none() {
            status = child.child.try_wait()?;
            ended_at = clock::now();
        }
        if status.is_some() && ended_at.elapsed() > DRAIN_WAIT {
            break;
        }
        if status.is_none() && started.elapsed() > limit {
            timed_out = true;
            status = Some(child.end()?);
            ended_at = clock::now();
        }
    }
    child.end_rest();
    let status = status.context("a step without an end")?;
    let why =
        if timed_out { format!("hung: ended by the watchdog after {} s", limit.as_secs()) } else { status.to_string() };
    if !status.success() {
        writeln!(file, "{why}")?;
    }
    let seconds = started.elapsed().as_secs();
    Ok(Ran { ok: status.success() && !timed_out, why, tail: tail.into(), log, seconds })
}

fn start(command: &mut Command) -> Result<(Child, Receiver<String>)> {
    let (reader, writer) = std::io::pipe()?;
    let errors = writer.try_clone()?;
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(errors).process_group(0).spawn()?;
    // The command keeps its ends of the pipe; give them up, or the reader never sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (send, lines) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            if send.send(line).is_err() {
                break;
            }
            bytes.clear();
        }
    });
    Ok((child, lines))
}

/// A step's process and whatever it started in its group; none of it outlives this.
struct Group {
    child: Child,
    over: bool,
}

impl Group {
    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Ends the step.
    fn end(&mut self) -> Result<ExitStatus> {
        let _ = killpg(self.id(), Signal::SIGTERM);
        let asked = clock::now();
        while asked.elapsed() < TERM_WAIT {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = killpg(self.id(), Signal::SIGKILL);
        Ok(self.child.wait()?)
    }

    /// Ends what the step left behind in its group: usually nothing, after a test that died the mesh that it started.
    fn end_rest(&mut self) {
        self.over = true;
        let asked = clock::now();
        if killpg(self.id(), Signal::SIGTERM).is_err() {
            return; // nobody
        }
        while runs(self.id()) && asked.elapsed() < TERM_WAIT {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = killpg(self.id(), Signal::SIGKILL);
    }
}

/// True while a process of the group runs. Not by a signal 0: one that has ended and that nobody waits for, as happens
/// in a container without an init, would be waited for in vain.
fn runs(group: Pid) -> bool {
    let of_group = |stat: String| {
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let (state, id) = (fields.next()?, fields.nth(1)?);
        Some(id == group.to_string() && !matches!(state, "Z" | "X"))
    };
    let folder = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut stats = folder.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.any(|stat| of_group(stat) == Some(true))
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.over {
            let _ = self.end();
            self.end_rest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_step_keeps_its_lines_and_its_end() {
        let mut seen = Vec::new();
        let ran = step("selftest a", &mut shell("echo one; echo two >&2; exit 3"), Duration::from_secs(60), &mut |l| {
            seen.push(l.to_owned());
        })
        .expect("runs");
        assert!(!ran.ok);
        assert_eq!(seen, ["one", "two"]);
        assert!(ran.why.contains('3'), "{}", ran.why);
        assert!(std::fs::read_to_string(ran.log).expect("log").contains("two"));
    }

    #[test]
    fn a_hung_step_is_ended_with_its_children() {
        let script = "sleep 1000 & echo $!; wait";
        let mut pid = String::new();
        let ran = step("selftest b", &mut shell(script), Duration::from_millis(500), &mut |l| pid = l.to_owned());
        let ran = ran.expect("runs");
        assert!(!ran.ok && ran.why.contains("watchdog"), "{}", ran.why);
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "the child `{pid}` is still there: {state}");
    }

    #[test]
    fn a_program_that_is_not_there_is_a_failed_step() {
        let mut command = Command::new("no-such-program-anywhere");
        let ran = step("selftest c", &mut command, Duration::from_secs(5), &mut |_| {}).expect("runs");
        assert!(!ran.ok && ran.why.contains("cannot start"));
    }
}
