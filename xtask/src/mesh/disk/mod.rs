//! `mesh up --disks` and `mesh fault`: a small file system of its own for each node, and what can go wrong with it.
//!
//! Owns: the image, its loop device and its mounts. On it are the node's mail, its spool and its agent's data; logs and
//! sockets are not. What can hurt: a frozen file system, on which processes wait and cannot be killed; it is thawed
//! before anything else at the end. Refuses: faults of single blocks, which need device-mapper.

mod shutdown;

use super::contract::State;
use super::plan::{Plan, Seat};
use super::{At, node_named};
use crate::host::Lack;
use crate::run;
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of a node's file system; the image is sparse.
const BYTES: u64 = 1 << 30;
/// What is on it.
const FOLDERS: [&str; 3] = ["mail", "spool", "data"];
/// What takes up all the space that is left.
const FILLER: &str = ".filler";

/// Arguments of `mesh fault`.
#[derive(clap::Args)]
pub(crate) struct Fault {
    #[command(flatten)]
    at: At,
    /// The node, by number (from 1) or name; with `--clear`, all without it
    #[arg(long, required_unless_present = "clear")]
    node: Option<String>,
    /// What its disk does
    #[arg(long, value_enum, required_unless_present = "clear")]
    what: Option<What>,
    /// Mend it
    #[arg(long, conflicts_with = "what")]
    clear: bool,
}

/// What a disk can do to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// No space is left
    Full,
    /// The kernel has made it read-only, as after an error of its journal
    Readonly,
    /// Whoever writes waits, and cannot be killed
    Hang,
    /// Every access is an I/O error
    Eio,
}

/// What of it this host lacks.
pub(crate) fn available() -> Result<(), Lack> {
    for (program, package) in [("losetup", "mount"), ("mkfs.ext4", "e2fsprogs"), ("fsfreeze", "util-linux")] {
        if run::which(program).is_none() {
            return Err(Lack::new(
                format!("no `{program}` program"),
                format!("install {package}, or leave `--disks` out"),
            ));
        }
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err(Lack::new("no loop devices", "load the module loop, or leave `--disks` out"));
    }
    Ok(())
}

/// Makes the file systems of all nodes and mounts them; both under the mesh's folder and under its short path.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn make(plan: &Plan) -> Result<()> {
    for node in &plan.nodes {
        let (image, disk) = (image(plan, node), disk(plan, node));
        std::fs::create_dir_all(&disk).with_context(|| format!("cannot make `{}`", disk.display()))?;
        std::fs::File::create(&image)?.set_len(BYTES)?;
        // No blocks kept for root, so that a full one is full for the agent too.
        call(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        attach(plan, node)?;
        for folder in FOLDERS {
            std::fs::create_dir_all(disk.join(folder))?;
            let link = plan.dir.join(&node.name).join(folder);
            std::os::unix::fs::symlink(Path::new("disk").join(folder), link)?;
        }
    }
    Ok(())
}

fn image(plan: &Plan, node: &Seat) -> PathBuf {
    plan.dir.join(format!("{}.disk", node.name))
}

/// Where it is mounted; a second time under [`Seat::home`].
pub(crate) fn disk(plan: &Plan, node: &Seat) -> PathBuf {
    plan.dir.join(&node.name).join("disk")
}

/// Mounts the image, always by a loop device of its own: with one that is in use, the kernel would give back the file
/// system that was shut down (seen with `mount -o loop`). The device goes with its last mount.
fn attach(plan: &Plan, node: &Seat) -> Result<()> {
    let device = run::output_of(Command::new("losetup").args(["--find", "--show"]).arg(image(plan, node)));
    let device = device.context("`losetup` gives no loop device")?.trim().to_owned();
    let disk = disk(plan, node);
    let mounted = call(Command::new("mount").args(["-t", "ext4", "-o", "errors=remount-ro", &device]).arg(&disk));
    let _ = call(Command::new("losetup").args(["--detach", &device]));
    mounted?;
    let none: Option<&str> = None;
    mount(Some(&disk), &node.home.join("disk"), none, MsFlags::MS_BIND, none)
        .with_context(|| format!("cannot mount `{}` a second time", disk.display()))
}

/// `mesh fault`.
///
/// # Errors
/// When the mesh has no disks of its own, or the kernel refuses.
pub(crate) fn main(args: &Fault) -> Result<bool> {
    let dir = super::absolute(&args.at.dir)?;
    let state = State::load(&dir)?;
    let plan = state.plan(&dir);
    ensure!(state.mesh.nodes.iter().any(|node| node.disk.is_some()), "this mesh was made without `--disks`");
    let name = args.node.as_ref().map(|node| node_named(&plan, node)).transpose()?;
    for node in plan.nodes.iter().filter(|node| name.as_ref().is_none_or(|name| node.name == *name)) {
        match args.what {
            Some(what) => cause(&disk(&plan, node), what)?,
            None => mend(&plan, node)?,
        }
    }
    Ok(true)
}

fn cause(disk: &Path, what: What) -> Result<()> {
    match what {
        What::Full => fill(disk),
        // `remount,ro` is refused while a file is open for writing; this is what the kernel does after an error.
        What::Readonly => call(Command::new("mount").args(["-o", "remount,abort"]).arg(disk)),
        What::Hang if frozen(disk) => Ok(()),
        What::Hang => call(Command::new("fsfreeze").arg("--freeze").arg(disk)),
        What::Eio => shutdown::shut_down(disk),
    }
}

/// Asks by freezing, which a frozen one refuses.
fn frozen(disk: &Path) -> bool {
    let mut freeze = Command::new("fsfreeze");
    if !run::succeeds(freeze.arg("--freeze").arg(disk)) {
        return !failed(disk);
    }
    thaw(disk);
    false
}

fn thaw(disk: &Path) {
    let _ = run::succeeds(Command::new("fsfreeze").arg("--unfreeze").arg(disk));
}

/// Takes all space that is left, whatever is given back meanwhile too.
fn fill(disk: &Path) -> Result<()> {
    let path = disk.join(FILLER);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot write `{}`", path.display()))?;
    let mut length = file.metadata()?.len();
    let mut step = BYTES;
    while step >= 1024 {
        let (from, bytes) = (i64::try_from(length)?, i64::try_from(step)?);
        match fallocate(&file, FallocateFlags::empty(), from, bytes) {
            Ok(()) => length += step,
            Err(nix::errno::Errno::ENOSPC) => step /= 2,
            Err(error) => bail!("cannot fill `{}`: {error}", disk.display()),
        }
    }
    Ok(())
}

/// After an error the kernel writes nothing any more, or refuses all.
fn failed(disk: &Path) -> bool {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of = |line: &&str| line.split(' ').nth(1).is_some_and(|at| unescaped(at) == disk);
    let flags = ["abort", "emergency_ro", "shutdown", "ro"];
    text.lines().rfind(of).is_some_and(|line| {
        line.split(' ').nth(3).is_some_and(|options| options.split(',').any(|option| flags.contains(&option)))
    })
}

/// Makes it whole again: thawed, with space, and mounted anew when the kernel had given it up. Whoever has a file of
/// the one before open has that one still.
fn mend(plan: &Plan, node: &Seat) -> Result<()> {
    let disk = disk(plan, node);
    thaw(&disk);
    if failed(&disk) || std::fs::read_dir(&disk).is_err() {
        for at in [node.home.join("disk"), disk.clone()] {
            umount2(&at, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount `{}`", at.display()))?;
        }
        // What it had to mend is no failure: 1 says that it did.
        let check = Command::new("e2fsck").args(["-f", "-y"]).arg(image(plan, node)).output();
        let check = check.context("cannot start `e2fsck`")?;
        let code = check.status.code().unwrap_or(8);
        ensure!(code <= 1, "e2fsck: {}", String::from_utf8_lossy(&check.stdout).trim());
        attach(plan, node)?;
    }
    match std::fs::remove_file(disk.join(FILLER)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Lets go of everybody who waits for a frozen one, so that they can end. By the mesh's name alone.
pub(crate) fn thaw_all(plan: &Plan) {
    mounts(plan).iter().for_each(|at| thaw(at));
}

/// Takes all of them away; nothing may run on them any more.
pub(crate) fn unmount_all(plan: &Plan) {
    for at in mounts(plan) {
        let _ = umount2(&at, MntFlags::MNT_DETACH);
    }
}

/// Mounts of ours, innermost first: no mesh mounts anything below its folder but disks.
fn mounts(plan: &Plan) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts_in(&text, &[&plan.dir, &plan.home])
}

fn mounts_in(text: &str, tops: &[&PathBuf]) -> Vec<PathBuf> {
    let all = text.lines().filter_map(|line| line.split(' ').nth(1)).map(unescaped);
    let below = |at: &PathBuf| tops.iter().any(|top| at.starts_with(top) && at != *top) && at.ends_with("disk");
    let mut found: Vec<PathBuf> = all.filter(below).collect();
    found.reverse();
    found
}

/// A path as the kernel writes it, with `\040` for a space.
fn unescaped(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let (mut path, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        path.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

fn call(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let words = || command.get_args().map(OsStr::as_bytes).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "`{} {}`: {}", command.get_program().display(), words(), error.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_mesh_are_found_by_its_folder() {
        let text = "/dev/vda / ext4 rw 0 0\n/dev/vda /run/m/0a ext4 rw 0 0\n/dev/loop0 /tmp/a\\040b/node1/disk ext4 rw 0 0\n\
            /dev/loop0 /run/m/0a/node1/disk ext4 rw 0 0\n/dev/loop1 /tmp/a\\040bc/node1/disk ext4 rw 0 0\n";
        let found = mounts_in(text, &[&"/tmp/a b".into(), &"/run/m/0a".into()]);
        assert_eq!(found, [PathBuf::from("/run/m/0a/node1/disk"), PathBuf::from("/tmp/a b/node1/disk")]);
    }
}
