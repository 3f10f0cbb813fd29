//! What this host lets us do: root, BTF, BPF, io_uring, network namespaces, cgroups; each with its remedy.
//!
//! Owns: the questions, asked of the kernel itself and never guessed from a distribution's name. Nothing here changes
//! the host. Refuses: deciding what follows; a command skips by name what it cannot do.
#![expect(unsafe_code, reason = "two system calls that nix does not wrap, made only to see how they are refused")]

use crate::run;
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One ability of the host.
pub(crate) struct Ability {
    /// Short name, as printed.
    pub(crate) name: &'static str,
    /// What needs it.
    pub(crate) used_by: &'static str,
    /// `Ok` or why it is missing and what the administrator can do.
    pub(crate) state: Result<(), Lack>,
}

/// Why something cannot be used, and what would change that.
#[derive(Clone, Debug)]
pub(crate) struct Lack {
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

impl Lack {
    pub(crate) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; remedy: {}", self.reason, self.remedy)
    }
}

/// All abilities, in the order in which they are printed.
pub(crate) fn abilities() -> Vec<Ability> {
    vec![
        Ability { name: "root", used_by: "installing packages, mesh, kernel programs", state: root() },
        Ability { name: "BTF", used_by: "kernel programs", state: btf() },
        Ability { name: "BPF", used_by: "kernel programs", state: bpf() },
        Ability { name: "io_uring", used_by: "journal and transport (plain calls without it)", state: io_uring() },
        Ability { name: "network namespaces", used_by: "mesh, demo, multi-node tests", state: namespaces() },
        Ability { name: "cgroup v2", used_by: "pressure of the store alone", state: cgroup2().map(|_| ()) },
    ]
}

/// Are we root?
pub(crate) fn root() -> Result<(), Lack> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Lack::new(
        "not root",
        "run as root, as with `sudo env PATH=\"$PATH\" HOME=\"$HOME\" cargo xtask …`; for installing packages alone a \
         `sudo` that asks no password serves",
    ))
}

/// A command that may install packages: as root, or through a `sudo` that asks no password.
pub(crate) fn as_root(program: &str) -> Option<Command> {
    if nix::unistd::geteuid().is_root() {
        return Some(Command::new(program));
    }
    if run::succeeds(Command::new("sudo").args(["-n", "true"])) {
        let mut command = Command::new("sudo");
        command.args(["-n", "--preserve-env=DEBIAN_FRONTEND", program]);
        return Some(command);
    }
    None
}

fn btf() -> Result<(), Lack> {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Ok(());
    }
    Err(Lack::new("the kernel has no `/sys/kernel/btf/vmlinux`", "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"))
}

/// May this process load kernel programs?
pub(crate) fn bpf() -> Result<(), Lack> {
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_PERFMON: u32 = 38;
    const CAP_BPF: u32 = 39;
    // SAFETY: an unknown command with a null attribute of length 0: the kernel reads and writes no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, 0x7fff, std::ptr::null::<u8>(), 0) };
    match Errno::result(answer).err() {
        Some(Errno::ENOSYS) => {
            return Err(Lack::new("the kernel has no bpf(2)", "boot a kernel with CONFIG_BPF_SYSCALL=y"));
        }
        Some(Errno::EPERM) => {
            return Err(Lack::new(
                "bpf(2) is refused (capability, seccomp or lockdown)",
                "run as root outside the container, or add CAP_BPF and CAP_PERFMON and allow bpf in seccomp",
            ));
        }
        _ => {}
    }
    let held = capabilities();
    let has = |bit: u32| held >> bit & 1 == 1;
    if has(CAP_SYS_ADMIN) || has(CAP_BPF) && has(CAP_PERFMON) {
        return Ok(());
    }
    Err(Lack::new("this process has neither CAP_BPF and CAP_PERFMON nor CAP_SYS_ADMIN", "run as root"))
}

fn capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or("");
    u64::from_str_radix(line.trim(), 16).unwrap_or(0)
}

/// Does the kernel let this process make an io_uring?
pub(crate) fn io_uring() -> Result<(), Lack> {
    let file = "/proc/sys/kernel/io_uring_disabled";
    let disabled = std::fs::read_to_string(file).unwrap_or_default();
    // SAFETY: a null parameter block: the kernel answers EFAULT when it would serve us, and touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null_mut::<u8>()) };
    match Errno::result(answer).err() {
        Some(Errno::ENOSYS) => Err(Lack::new("the kernel has no io_uring", "boot a kernel with CONFIG_IO_URING=y")),
        Some(Errno::EPERM | Errno::EACCES) if matches!(disabled.trim(), "1" | "2") => Err(Lack::new(
            format!("io_uring is refused by sysctl kernel.io_uring_disabled={}", disabled.trim()),
            "`sysctl -w kernel.io_uring_disabled=0`, or 1 and a group in kernel.io_uring_group",
        )),
        Some(Errno::EPERM | Errno::EACCES) => Err(Lack::new(
            "io_uring is refused by seccomp or a security module",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
        )),
        _ => Ok(()),
    }
}

/// May we make network namespaces (and run `ip` in them)?
pub(crate) fn namespaces() -> Result<(), Lack> {
    root()?;
    if run::which("ip").is_none() {
        return Err(Lack::new("no `ip` program", "install iproute2"));
    }
    let refused = match Command::new("unshare").args(["--net", "--mount", "true"]).output() {
        Ok(done) if done.status.success() => return Ok(()),
        Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        Err(error) => format!("cannot start `unshare`: {error}"),
    };
    Err(Lack::new(
        format!("new network and mount namespaces are refused ({refused})"),
        "run as root outside the container (CAP_SYS_ADMIN), and in no chroot that is not a mount point of its own",
    ))
}

/// The top of the cgroup v2 tree, if we may make groups in it.
pub(crate) fn cgroup2() -> Result<PathBuf, Lack> {
    let remedy = "mount a cgroup v2 tree at /sys/fs/cgroup and run as root";
    for top in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let top = Path::new(top);
        if top.join("cgroup.controllers").exists() {
            return match nix::unistd::access(top, nix::unistd::AccessFlags::W_OK) {
                Ok(()) => Ok(top.to_path_buf()),
                Err(error) => Err(Lack::new(format!("`{}` cannot be written: {error}", top.display()), remedy)),
            };
        }
    }
    Err(Lack::new("no cgroup v2 tree", remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lack_comes_with_a_remedy() {
        for ability in abilities() {
            if let Err(lack) = ability.state {
                assert!(!lack.reason.is_empty() && !lack.remedy.is_empty(), "{}", ability.name);
            }
        }
    }
}
