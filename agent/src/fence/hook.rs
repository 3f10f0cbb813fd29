//! The fence hook: a program of the administrator that cuts another node off from power, network or storage.
//!
//! Owns: its arguments and environment (`docs/detection.md`), its time, its output in the log. What can hurt: a program
//! that hangs or leaves children behind; it runs in a process group of its own, which is killed at the end of its time.
//! Refuses: a shell, this agent's environment, and believing anything but exit status 0.

use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SIGKILL, killpg};
use nix::unistd::Pid;
use understudy_types::id::NodeId;

use crate::clock;
use crate::limits::{FENCE_HOOK_LINES_MAX, FENCE_HOOK_MS_MAX, FENCE_HOOK_OUTPUT_BYTES_MAX};

/// How long a program that was killed may take to end, before it is left to itself.
const KILLED: Duration = Duration::from_secs(1);
/// Output and end are looked for this often.
const STEP_MS: u16 = 20;

/// Whom to fence, for the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub node: NodeId,
    pub name: String,
    pub site: String,
}

/// A configured hook.
#[derive(Clone, Debug)]
pub struct FenceHook {
    pub program: PathBuf,
    pub cluster: String,
    /// This node, which takes over.
    pub own: Target,
    /// Longest time; [`FENCE_HOOK_MS_MAX`] unless a test is in a hurry.
    pub patience: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status 0.
    pub ok: bool,
    /// For people.
    pub text: String,
    /// What it printed, line by line, within limits.
    pub lines: Vec<String>,
}

impl FenceHook {
    #[must_use]
    pub fn new(program: PathBuf, cluster: String, own: Target) -> Self {
        Self { program, cluster, own, patience: Duration::from_millis(FENCE_HOOK_MS_MAX) }
    }

    /// Runs it in a thread of its own and tells `done` whether the node is fenced.
    ///
    /// # Errors
    /// When no thread can be made; `done` is then not called.
    pub fn start(&self, target: Target, done: impl FnOnce(NodeId, bool) + Send + 'static) -> std::io::Result<()> {
        let hook = self.clone();
        let run = move || {
            let outcome = hook.run(&target);
            for line in &outcome.lines {
                tracing::info!(node = target.name, line, "the fence hook says");
            }
            if outcome.ok {
                tracing::warn!(node = target.name, "the fence hook has fenced the node");
            } else {
                tracing::error!(node = target.name, reason = outcome.text, "the fence hook has failed");
            }
            done(target.node, outcome.ok);
        };
        std::thread::Builder::new().name("fence hook".into()).spawn(run).map(drop)
    }

    /// Runs it to its end, or to the end of its time.
    #[must_use]
    pub fn run(&self, target: &Target) -> Outcome {
        let mut lines = Vec::new();
        match self.try_run(target, &mut lines) {
            Ok(Some(status)) if status.success() => Outcome { ok: true, text: String::new(), lines },
            Ok(Some(status)) => {
                let text = match status.signal() {
                    Some(signal) => format!("`{}` was ended by signal {signal}", self.program.display()),
                    None => format!("`{}` ended with status {}", self.program.display(), status.code().unwrap_or(-1)),
                };
                Outcome { ok: false, text, lines }
            }
            Ok(None) => {
                let (program, ms) = (self.program.display(), self.patience.as_millis());
                Outcome { ok: false, text: format!("`{program}` did not end within {ms} ms, and was killed"), lines }
            }
            Err(error) => {
                Outcome { ok: false, text: format!("cannot run `{}`: {error}", self.program.display()), lines }
            }
        }
    }

    fn try_run(&self, target: &Target, lines: &mut Vec<String>) -> std::io::Result<Option<ExitStatus>> {
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new(&self.program);
        command.arg(&target.name).arg(target.node.to_string());
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C");
        command.env("UNDERSTUDY_CLUSTER", &self.cluster);
        command.env("UNDERSTUDY_FENCE_NODE", &target.name).env("UNDERSTUDY_FENCE_NODE_ID", target.node.to_string());
        command.env("UNDERSTUDY_FENCE_SITE", &target.site);
        command.env("UNDERSTUDY_NODE", &self.own.name).env("UNDERSTUDY_NODE_ID", self.own.node.to_string());
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        command.current_dir("/").process_group(0);
        let child = command.spawn()?;
        // Its ends of the pipe are held by `command`; only the program's own may keep it open.
        drop(command);
        watch(child, reader, self.patience, lines)
    }
}

/// Waits for the end of a program, and reads what it prints. `None`: it had to be killed.
fn watch(
    mut child: Child,
    reader: PipeReader,
    patience: Duration,
    lines: &mut Vec<String>,
) -> std::io::Result<Option<ExitStatus>> {
    let deadline = clock::mono().after(patience);
    let mut output = Output { reader: Some(reader), bytes: Vec::new() };
    let status = loop {
        output.take(STEP_MS);
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if clock::mono() >= deadline {
            break None;
        }
    };
    // Also for a program that ended: what it left behind would go on against a node that is back by then.
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let _ = killpg(group, SIGKILL);
    output.take(0);
    *lines = output.lines();
    if status.is_none() {
        let deadline = clock::mono().after(KILLED);
        // A program that hangs in the kernel is not waited for; whoever started this agent reaps it.
        while child.try_wait()?.is_none() && clock::mono() < deadline {
            std::thread::sleep(Duration::from_millis(u64::from(STEP_MS)));
        }
    }
    Ok(status)
}

struct Output {
    reader: Option<PipeReader>,
    bytes: Vec<u8>,
}

impl Output {
    /// Reads what is there, after waiting for it at most so long.
    fn take(&mut self, wait_ms: u16) {
        let mut wait_ms = wait_ms;
        while let Some(reader) = &mut self.reader {
            let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut fds, PollTimeout::from(wait_ms)), Ok(1..)) {
                return;
            }
            let mut chunk = [0; 4096];
            match reader.read(&mut chunk) {
                Ok(0) | Err(_) => self.reader = None,
                // What is past the limit is read and dropped, so that the program does not wait for a reader.
                Ok(read) => {
                    let room = FENCE_HOOK_OUTPUT_BYTES_MAX.saturating_sub(self.bytes.len());
                    self.bytes.extend_from_slice(chunk.get(..read.min(room)).unwrap_or_default());
                    // A program that prints without end must not keep its watcher from the clock.
                    if room == 0 {
                        return;
                    }
                }
            }
            wait_ms = 0;
        }
        if wait_ms > 0 {
            std::thread::sleep(Duration::from_millis(u64::from(wait_ms)));
        }
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines = text.lines().take(FENCE_HOOK_LINES_MAX);
        lines.map(|line| line.chars().filter(|c| !c.is_control()).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn hook(folder: &Path, script: &str) -> FenceHook {
        let program = folder.join("fence");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
        let own = Target { node: NodeId::new(1).expect("in range"), name: "me".into(), site: "here".into() };
        FenceHook::new(program, "c".into(), own)
    }

    fn target() -> Target {
        Target { node: NodeId::new(3).expect("in range"), name: "mail3".into(), site: "there".into() }
    }

    #[test]
    fn arguments_and_environment_are_as_documented() {
        let folder = tempfile::tempdir().expect("a folder");
        let hook = hook(folder.path(), "echo \"$# $1 $2\"; env | sort | grep UNDERSTUDY; echo oops >&2; pwd");
        let outcome = hook.run(&target());
        let expected = [
            "2 mail3 3",
            "UNDERSTUDY_CLUSTER=c",
            "UNDERSTUDY_FENCE_NODE=mail3",
            "UNDERSTUDY_FENCE_NODE_ID=3",
            "UNDERSTUDY_FENCE_SITE=there",
            "UNDERSTUDY_NODE=me",
            "UNDERSTUDY_NODE_ID=1",
            "oops",
            "/",
        ];
        assert_eq!((outcome.ok, outcome.lines), (true, expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn only_status_0_is_a_success_and_the_reason_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        for (script, said) in [("exit 7", "status 7"), ("kill -9 $$", "signal 9")] {
            let outcome = hook(folder.path(), script).run(&target());
            assert!(!outcome.ok && outcome.text.contains(said), "{outcome:?}");
        }
        let mut missing = hook(folder.path(), "");
        missing.program = "/nonexistent/fence".into();
        assert!(missing.run(&target()).text.contains("/nonexistent/fence"));
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().expect("a folder");
        let pid = folder.path().join("pid");
        let mut hook = hook(folder.path(), &format!("sleep 1000 & echo $! >{}; echo begun; wait", pid.display()));
        hook.patience = Duration::from_millis(500);
        let outcome = hook.run(&target());
        assert!(!outcome.ok && outcome.text.contains("within 500 ms"), "{outcome:?}");
        assert_eq!(outcome.lines, ["begun"]);
        let child = std::fs::read_to_string(pid).expect("written");
        let stat = format!("/proc/{}/stat", child.trim());
        // Gone, or a zombie that nobody of ours can reap.
        while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn endless_output_neither_fills_memory_nor_stops_the_clock() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut endless = hook(folder.path(), "exec yes");
        endless.patience = Duration::from_millis(300);
        let outcome = endless.run(&target());
        assert!(!outcome.ok && outcome.lines.len() == FENCE_HOOK_LINES_MAX, "{} lines", outcome.lines.len());
        // A child that goes on in the background does not hold up the end of its parent.
        let outcome = hook(folder.path(), "sleep 1000 & exit 0").run(&target());
        assert!(outcome.ok, "{outcome:?}");
    }

    #[test]
    fn the_end_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let (sender, told) = crossbeam::channel::bounded(1);
        let started = hook(folder.path(), "exit 0").start(target(), move |node, ok| {
            let _ = sender.send((node, ok));
        });
        started.expect("starts");
        assert_eq!(told.recv(), Ok((target().node, true)));
    }
}
