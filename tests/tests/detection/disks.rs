//! The disk canary on file systems that are full, read-only, broken and frozen.
//!
//! Owns: the mounts of a case, taken away at its end. What can hurt: a case that ends while its file system is frozen;
//! it is thawed before it is unmounted. Refuses: devices of this machine; all is in files and memory.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use understudy_agent::evidence::disk::DiskCanary;
use understudy_agent::evidence::{Reading, rules::Case};
use understudy_agent::probe::{Probe, ProbeConfig, Source};
use understudy_agent::store::memory::MemoryStore;
use understudy_tests::dovecot::run;
use understudy_types::id::NodeId;

use crate::{STALL_MS, Watched, skipped};

/// A file system of its own for one case.
struct Mounted {
    at: PathBuf,
    /// Holds the image of a loop device.
    below: Option<Box<Self>>,
    _folder: tempfile::TempDir,
}

impl Mounted {
    fn tmpfs(size: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let at = folder.path().to_path_buf();
        mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], &at)?;
        Ok(Self { at, below: None, _folder: folder })
    }

    /// An ext4 of 64 MiB in a sparse file, on a tmpfs that has room for `size`.
    fn ext4(size: &str) -> Result<Self, String> {
        let below = Self::tmpfs(size)?;
        let image = below.at.join("image");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(64 << 20).map_err(|error| error.to_string())?;
        tool(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=1"]).arg(&image))?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let at = folder.path().to_path_buf();
        mount(&["-o", "loop", &image.display().to_string()], &at)?;
        Ok(Self { at, below: Some(Box::new(below)), _folder: folder })
    }

    fn freeze(&self, is_frozen: bool) -> Result<(), String> {
        tool(Command::new("fsfreeze").arg(if is_frozen { "-f" } else { "-u" }).arg(&self.at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.below.is_some() {
            let _ = self.freeze(false);
        }
        // The canary's thread may be in the middle of a round.
        let _ = run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    tool(Command::new("mount").args(arguments).arg(at))
}

fn tool(command: &mut Command) -> Result<(), String> {
    run(command).map(drop).map_err(|error| format!("{error:#}"))
}

fn root() -> Option<&'static str> {
    (!nix::unistd::geteuid().is_root()).then_some("needs root, to mount file systems")
}

/// The file system, or a word on why the case cannot run.
fn made(name: &str, mounted: Result<Mounted, String>) -> Option<Mounted> {
    mounted.inspect_err(|why| println!("SKIPPED {name}: {}", why.lines().next().unwrap_or_default())).ok()
}

fn canary(at: &Path) -> DiskCanary {
    DiskCanary::new(at, NodeId::new(1).expect("in range"), 0)
}

/// Five rounds: the fifth looks for room.
fn cases(canary: &mut DiskCanary) -> Vec<Case> {
    let round = |_| {
        let Reading::Saw { case, .. } = canary.round(|_| ()) else { panic!("no case") };
        case
    };
    (0..5).map(round).collect()
}

fn fill(file: &Path) {
    let mut dd = Command::new("dd");
    // It ends with "no space left", as it should.
    let _ = dd
        .args(["if=/dev/zero", "bs=4k", "status=none"])
        .arg(format!("of={}", file.display()))
        .stderr(Stdio::null())
        .status();
}

/// Alive as long as the test process is.
fn own_pid_file(folder: &Path) -> PathBuf {
    let file = folder.join("pid");
    std::fs::write(&file, std::process::id().to_string()).expect("written");
    file
}

#[test]
fn a_full_file_system_is_a_fact_and_room_makes_it_good_again() {
    let name = "a_full_file_system_is_a_fact_and_room_makes_it_good_again";
    if skipped(name, root()) {
        return;
    }
    for kind in ["tmpfs", "ext4"] {
        let mounted = if kind == "tmpfs" { Mounted::tmpfs("1m") } else { Mounted::ext4("128m") };
        let Some(disk) = made(name, mounted) else { return };
        let folder = tempfile::tempdir().expect("a folder");
        let watched = Watched::start(own_pid_file(folder.path()), Some(disk.at.clone()), memory(), None);
        watched.until_good();
        fill(&disk.at.join("filler"));
        let report = watched.until("full", |report, _| report.good_at.is_none());
        assert!(report.why.contains("is full"), "{kind}: {}", report.why);
        std::fs::remove_file(disk.at.join("filler")).expect("removed");
        watched.until_good();
    }
}

#[test]
fn what_only_root_may_still_use_counts_as_full() {
    let name = "what_only_root_may_still_use_counts_as_full";
    if skipped(name, root()) {
        return;
    }
    let Some(disk) = made(name, Mounted::ext4("128m")) else { return };
    let mut canary = canary(&disk.at);
    assert_eq!(cases(&mut canary), [Case::DiskDone; 5]);
    // Mail is not written by root: the five per cent that ext4 keeps for it are left.
    let filler = disk.at.join("filler");
    std::fs::write(&filler, "").expect("made");
    std::os::unix::fs::chown(&filler, Some(5000), Some(5000)).expect("ours");
    let script = format!("dd if=/dev/zero bs=4k status=none >>{} 2>/dev/null", filler.display());
    std::fs::set_permissions(&disk.at, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("ours");
    let _ =
        Command::new("setpriv").args(["--reuid=5000", "--regid=5000", "--clear-groups", "sh", "-c", &script]).status();
    std::fs::write(disk.at.join("by-root"), vec![0; 128 << 10]).expect("root has room");
    assert!(cases(&mut canary).contains(&Case::DiskFull));
}

#[test]
fn a_read_only_file_system_and_one_whose_disk_fails_are_facts() {
    let name = "a_read_only_file_system_and_one_whose_disk_fails_are_facts";
    if skipped(name, root()) {
        return;
    }
    let Some(disk) = made(name, Mounted::tmpfs("1m")) else { return };
    let mut first = canary(&disk.at);
    assert_eq!(cases(&mut first), [Case::DiskDone; 5]);
    // A file that is open for writing would hold the mount back.
    drop(first);
    mount(&["-o", "remount,ro"], &disk.at).expect("remounted");
    assert!(cases(&mut canary(&disk.at)).iter().all(|case| *case == Case::DiskReadOnly));

    // A disk that takes no write any more: the image's own file system is full.
    let Some(disk) = made(name, Mounted::ext4("16m")) else { return };
    let mut canary = canary(&disk.at);
    assert_eq!(cases(&mut canary), [Case::DiskDone; 5]);
    fill(&disk.below.as_ref().expect("is below").at.join("filler"));
    let mut seen = Vec::new();
    for _ in 0..200 {
        // New blocks and the journal need room below, which is not there.
        let _ = std::fs::write(disk.at.join("more"), vec![1; 1 << 20]);
        let _ = run(Command::new("sync").arg("-f").arg(&disk.at));
        seen = cases(&mut canary);
        if seen.iter().any(|case| *case != Case::DiskDone) {
            break;
        }
    }
    assert!(seen.iter().any(|case| matches!(case, Case::DiskFailed | Case::DiskReadOnly)), "{seen:?}");
}

#[test]
fn a_frozen_file_system_lets_the_evidence_grow_old_and_a_thaw_renews_it() {
    let name = "a_frozen_file_system_lets_the_evidence_grow_old_and_a_thaw_renews_it";
    if skipped(name, root()) {
        return;
    }
    let Some(disk) = made(name, Mounted::ext4("128m")) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let watched = Watched::start(own_pid_file(folder.path()), Some(disk.at.clone()), memory(), None);
    watched.until_good();
    if let Err(why) = disk.freeze(true) {
        println!("SKIPPED {name}: {}", why.lines().next().unwrap_or_default());
        return;
    }
    let frozen_at = understudy_agent::clock::boot();
    let report = watched.until("old", |_, age| age > STALL_MS);
    // It was good until it was frozen, give or take the one round that was under way, and the judge goes on telling.
    assert!(report.good_at.is_some_and(|at| at.since_ns(frozen_at) < 500_000_000), "{report:?}");
    assert!(report.why.starts_with("the disk canary: `") && report.why.ends_with("has not returned"), "{}", report.why);
    disk.freeze(false).expect("thawed");
    watched.until_good();
    // The end does not wait for a thread that hangs.
    disk.freeze(true).expect("frozen");
    watched.until("old", |_, age| age > 500);
    drop(watched);
}

#[test]
fn the_kernel_probe_shows_the_call_that_hangs() {
    let name = "the_kernel_probe_shows_the_call_that_hangs";
    if skipped(name, root()) {
        return;
    }
    let Some(disk) = made(name, Mounted::ext4("128m")) else { return };
    // The store here is a shell that appends a line ten times a second, beside a sleeper that does nothing.
    let script = format!("sleep 1000 & while :; do echo x >>{}; sleep 0.1; done", disk.at.join("log").display());
    let store = Shell::start(&script);
    let probe = Probe::start(ProbeConfig { store_pid: Some(store.0.id()), ..ProbeConfig::default() }).expect("starts");
    let is_seen = probe.source == Source::Kernel;
    if is_seen {
        let folder = tempfile::tempdir().expect("a folder");
        let pid_file = folder.path().join("pid");
        std::fs::write(&pid_file, store.0.id().to_string()).expect("written");
        // No canary on the disk: the probe alone must see it.
        let watched = Watched::start(pid_file, None, memory(), Some(probe.looks.clone()));
        watched.until_good();
        disk.freeze(true).expect("frozen");
        let report = watched.until("old", |_, age| age > STALL_MS);
        assert!(report.why.contains("the kernel probe: `") && report.why.contains("(`sh`)"), "{}", report.why);
        disk.freeze(false).expect("thawed");
        watched.until_good();
    } else {
        println!("SKIPPED {name}: the kernel programs cannot be used here");
    }
}

fn memory() -> Box<dyn understudy_agent::store::Store> {
    Box::new(MemoryStore::new(None))
}

/// A shell in a process group of its own, ended with its children.
pub(crate) struct Shell(Child);

impl Shell {
    pub(crate) fn start(script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.process_group(0).spawn().expect("sh starts"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::SIGKILL);
        // Not waited for: a shell that hangs in a frozen file system ends when that is thawed, which comes after.
        let _ = self.0.try_wait();
    }
}
