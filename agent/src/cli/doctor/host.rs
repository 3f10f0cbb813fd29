//! The host as the checks see it: files under a root, and a few programs.
//!
//! Owns: bounded reading, and running `dovecot` and `doveconf` with an end. What can hurt: a program that hangs; it is
//! killed. Tests put a folder of their own in the root's place.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Largest file or answer that a check reads. What is past it is cut.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Longest run of a program, in steps of [`STEP`]: 5 seconds.
const STEPS_MAX: u32 = 100;
const STEP: Duration = Duration::from_millis(50);

/// Where files are looked for.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// This host.
    #[must_use]
    pub fn this() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// A host whose files are in a folder.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// The place of an absolute path on this host.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file, trimmed.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(&self, path: &str) -> std::io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(self.path(path))?.take(READ_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    }

    /// Whether there is such a file or folder.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }
}

/// What a program prints on standard output, or why there is no answer.
///
/// # Errors
///
/// It cannot be started, fails, or does not end.
pub(super) fn ask(program: &str, args: &[&str]) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start `{program}`: {error}"))?;
    let mut out = child.stdout.take();
    // Read on a thread of its own: a program that prints more than a pipe holds would not end otherwise.
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(out) = out.as_mut() {
            let _ = out.take(READ_BYTES_MAX).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    for _ in 0..STEPS_MAX {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => {
                return reader.join().map_err(|_| format!("`{program}` cannot be read"));
            }
            Ok(Some(status)) => return Err(format!("`{program}` failed: {status}")),
            Ok(None) => std::thread::sleep(STEP),
            Err(error) => return Err(format!("`{program}`: {error}")),
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(format!("`{program}` does not end"))
}
