//! What the kernel has and permits: version, BTF, bpf(), tracefs, io_uring, pressure, cgroups, limits, clock.
//!
//! Owns: naming what refuses (a sysctl, a seccomp filter, a missing capability), because the remedy differs.
//! What can hurt: a permission that the doctor has and the agent's user has not; the report says as whom it looked.

use nix::sys::resource::{Resource, getrlimit};

use super::{Finding, Host};

/// Oldest kernel on which the kernel programs can run: ring buffers (5.8).
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Locked memory that io_uring and the beat's thread need, in bytes, where the kernel still counts it.
const MEMLOCK_BYTES_MIN: u64 = 8 << 20;
/// Open files: connections, segments, blobs, and the store's workers.
const FILES_MIN: u64 = 4096;

const CAPABILITIES: &[(u32, &str)] = &[
    (12, "CAP_NET_ADMIN"),
    (14, "CAP_IPC_LOCK"),
    (21, "CAP_SYS_ADMIN"),
    (23, "CAP_SYS_NICE"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings = vec![version(host), btf(host), bpf(host), tracefs(host), io_uring(host)];
    findings.extend(pressure(host));
    findings.push(cgroup(host));
    findings.push(memlock(host));
    findings.push(files());
    findings.push(clock(host));
    findings
}

fn version(host: &Host) -> Finding {
    const CHECK: &str = "kernel";
    let release = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    match parse_release(&release) {
        Some(found) if found >= KERNEL_MIN => Finding::fine(CHECK, format!("Linux {release}")),
        Some(_) => Finding::limited(
            CHECK,
            format!("Linux {release} is too old for the kernel programs"),
            "run Linux 5.8 or later",
        ),
        None => Finding::limited(CHECK, "the kernel's version cannot be read", "mount /proc"),
    }
}

pub(super) fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn btf(host: &Host) -> Finding {
    const CHECK: &str = "btf";
    match std::fs::metadata(host.path("/sys/kernel/btf/vmlinux")) {
        Ok(found) if found.len() > 0 => Finding::fine(CHECK, format!("/sys/kernel/btf/vmlinux, {} bytes", found.len())),
        _ => Finding::limited(
            CHECK,
            "no /sys/kernel/btf/vmlinux: the kernel programs cannot be fitted to this kernel",
            "run a kernel with CONFIG_DEBUG_INFO_BTF=y (every Debian kernel since 11 has it)",
        ),
    }
}

/// The effective capabilities among those that matter.
pub(super) fn capabilities(host: &Host) -> Vec<&'static str> {
    let status = host.read("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, _)| mask & 1 << bit != 0).map(|(_, name)| *name).collect()
}

fn bpf(host: &Host) -> Finding {
    const CHECK: &str = "bpf";
    let held = capabilities(host);
    let has = |name: &str| held.contains(&name);
    let refused = match aya::sys::is_program_supported(aya::programs::ProgramType::RawTracePoint) {
        Ok(true) => None,
        Ok(false) => Some("the kernel does not take raw tracepoint programs".to_owned()),
        Err(error) => Some(format!("the kernel refuses bpf(): {}", deepest(&error))),
    };
    match refused {
        None => Finding::fine(
            CHECK,
            format!(
                "a program can be loaded (uid {}, {})",
                nix::unistd::geteuid(),
                if held.is_empty() { "no capabilities".to_owned() } else { held.join(" ") }
            ),
        ),
        Some(why) => {
            let remedy = if !(has("CAP_SYS_ADMIN") || (has("CAP_BPF") && has("CAP_PERFMON"))) {
                "run as root, or give the agent CAP_BPF and CAP_PERFMON (`AmbientCapabilities=` of its unit)"
            } else {
                "allow bpf() in the seccomp filter of the service or container, and in kernel lockdown"
            };
            Finding::limited(CHECK, format!("{why}; the agent sees the store by /proc and PSI only"), remedy)
        }
    }
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Not needed: the programs are raw tracepoints, which are attached by name through bpf(). Said, because other tools
/// of their kind need it and administrators look for it.
fn tracefs(host: &Host) -> Finding {
    const CHECK: &str = "tracefs";
    let mounted = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .into_iter()
        .find(|path| host.exists(&format!("{path}/events")));
    Finding::fine(
        CHECK,
        mounted
            .map_or_else(|| "not mounted, and not needed: the programs are raw tracepoints".to_owned(), str::to_owned),
    )
}

fn io_uring(host: &Host) -> Finding {
    const CHECK: &str = "io_uring";
    const WITHOUT: &str = "journal and transport use plain system calls";
    let setting = host.read("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let error = match io_uring::IoUring::new(8) {
        Ok(ring) => {
            let mut probe = io_uring::Probe::new();
            let need = [
                ("WRITE_FIXED", io_uring::opcode::WriteFixed::CODE),
                ("FSYNC", io_uring::opcode::Fsync::CODE),
                ("ACCEPT", io_uring::opcode::Accept::CODE),
                ("SEND", io_uring::opcode::Send::CODE),
                ("RECV", io_uring::opcode::Recv::CODE),
            ];
            if ring.submitter().register_probe(&mut probe).is_err() {
                return Finding::limited(
                    CHECK,
                    format!("opcodes cannot be asked for; {WITHOUT}"),
                    "run Linux 5.10 or later",
                );
            }
            let missing: Vec<&str> =
                need.iter().filter(|(_, code)| !probe.is_supported(*code)).map(|(name, _)| *name).collect();
            return if missing.is_empty() {
                Finding::fine(CHECK, "a ring can be made, with every opcode that is needed")
            } else {
                Finding::limited(CHECK, format!("{} missing; {WITHOUT}", missing.join(", ")), "run Linux 5.10 or later")
            };
        }
        Err(error) => error,
    };
    let (why, remedy) = match (error.raw_os_error(), setting.as_str()) {
        (Some(libc::EPERM), "1" | "2") => (
            format!("`kernel.io_uring_disabled` is {setting}"),
            "`sysctl kernel.io_uring_disabled=0`, or 1 with the agent's group in `kernel.io_uring_group`".to_owned(),
        ),
        (Some(libc::EPERM | libc::EACCES), _) => (
            "a seccomp filter or SELinux refuses io_uring_setup".to_owned(),
            "allow io_uring_setup, io_uring_enter, io_uring_register in the profile of the service or container"
                .to_owned(),
        ),
        (Some(libc::ENOSYS), _) => (
            "this kernel has no io_uring, or a seccomp filter hides it".to_owned(),
            "run Linux 5.10 or later".to_owned(),
        ),
        (Some(libc::ENOMEM), _) => {
            ("too little memory may be locked".to_owned(), "raise `LimitMEMLOCK=` of the unit".to_owned())
        }
        _ => (error.to_string(), String::new()),
    };
    Finding::limited(CHECK, format!("{why}; {WITHOUT}"), remedy)
}

fn pressure(host: &Host) -> Vec<Finding> {
    const CHECK: &str = "psi";
    let unreadable: Vec<&str> = ["cpu", "io", "memory"]
        .into_iter()
        .filter(|name| host.read(&format!("/proc/pressure/{name}")).is_err())
        .collect();
    if unreadable.is_empty() {
        return vec![Finding::fine(CHECK, "/proc/pressure: cpu, io, memory")];
    }
    vec![Finding::limited(
        CHECK,
        format!(
            "/proc/pressure: {} cannot be read: the agent does not see that the node is short of them",
            unreadable.join(", ")
        ),
        "boot with `psi=1`, on a kernel with CONFIG_PSI=y",
    )]
}

fn cgroup(host: &Host) -> Finding {
    const CHECK: &str = "cgroup";
    // The second place is where a hybrid hierarchy has it.
    for place in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        if let Ok(controllers) = host.read(&format!("{place}/cgroup.controllers")) {
            return Finding::fine(CHECK, format!("version 2 at {place} ({controllers})"));
        }
    }
    Finding::limited(
        CHECK,
        "no cgroup version 2: the store's own pressure is not seen, only the node's",
        "boot with `systemd.unified_cgroup_hierarchy=1`",
    )
}

fn memlock(host: &Host) -> Finding {
    const CHECK: &str = "memlock";
    if capabilities(host).contains(&"CAP_IPC_LOCK") {
        return Finding::fine(CHECK, "no limit (CAP_IPC_LOCK)");
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft >= MEMLOCK_BYTES_MIN => Finding::fine(CHECK, format!("{soft} bytes")),
        Ok((soft, _)) => Finding::limited(
            CHECK,
            format!("only {soft} bytes may be locked: beats can be late when the node runs out of memory"),
            "set `LimitMEMLOCK=64M` in the unit",
        ),
        Err(error) => Finding::limited(CHECK, format!("the limit cannot be read: {error}"), ""),
    }
}

fn files() -> Finding {
    const CHECK: &str = "open files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= FILES_MIN => Finding::fine(CHECK, format!("limit {soft}")),
        Ok((soft, hard)) if hard >= FILES_MIN => Finding::fine(CHECK, format!("limit {soft}, may be raised to {hard}")),
        Ok((soft, _)) => {
            Finding::limited(CHECK, format!("at most {soft} files may be open"), "set `LimitNOFILE=65536` in the unit")
        }
        Err(error) => Finding::limited(CHECK, format!("the limit cannot be read: {error}"), ""),
    }
}

fn clock(host: &Host) -> Finding {
    const CHECK: &str = "clock";
    let source = host.read("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap_or_default();
    if matches!(source.as_str(), "hpet" | "acpi_pm" | "jiffies") {
        return Finding::limited(
            CHECK,
            format!("clock source `{source}`: every reading of the clock is a slow call"),
            "use `tsc` or the hypervisor's own clock (/sys/devices/system/clocksource)",
        );
    }
    let named = |source: String| if source.is_empty() { "unknown".to_owned() } else { source };
    let keepers = [
        "/run/systemd/timesync/synchronized",
        "/run/chrony/chronyd.pid",
        "/run/ntpd.pid",
        "/var/run/ntpd.pid",
        "/run/ntpsec/ntpd.pid",
    ];
    match keepers.iter().find(|path| host.exists(path)) {
        Some(keeper) => Finding::fine(CHECK, format!("source {}, kept by what left {keeper}", named(source))),
        None => Finding::limited(
            CHECK,
            format!("source {}; nothing is seen that keeps the time", named(source)),
            "run systemd-timesyncd or chrony: times in logs and lags in seconds are compared between nodes (decisions are not taken by them)",
        ),
    }
}
