//! Debian packages: which are there, and installing those that are not.
//!
//! Owns: the calls of `dpkg-query` and `apt-get`. What can hurt: packages that start a service when installed; a
//! `policy-rc.d` that says no stands guard meanwhile, and is removed only if it is ours. Ctrl-C waits for `apt-get`.
//! Refuses: removing a package to make room for another (`--no-remove`).

use super::Group;
use super::needs::{NEEDS, Need};
use crate::host::{self, Lack};
use crate::{run, stop};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_MARK: &str = "# put here by `cargo xtask bootstrap` while it installs packages; may be removed";

/// Packages that bring services, which are not to serve this host because somebody tries this project on it.
const SERVICES: &[(&str, &[&str])] = &[
    ("dovecot-core", &["dovecot.service", "dovecot.socket"]),
    ("nginx", &["nginx.service"]),
    ("postfix", &["postfix.service"]),
    ("haproxy", &["haproxy.service"]),
    ("etcd-server", &["etcd.service"]),
];

/// Installs what is missing for `groups`; whatever stays missing goes to `lacks`.
pub(super) fn ensure(groups: &[Group], dry_run: bool, verbose: bool, lacks: &mut Vec<(Group, Lack)>) {
    let needs: Vec<&Need> = NEEDS.iter().filter(|n| groups.contains(&n.group)).collect();
    let missing = missing_of(&needs);
    if !dry_run && NoServices::is_ours() {
        drop(NoServices(true)); // of a run that was killed
    }
    for need in &needs {
        let absent = absent(need, &missing);
        if absent.is_empty() {
            if verbose {
                println!("{:8} have     {}", need.group.name(), need.packages.join(" "));
            }
        } else {
            let verb = match (dry_run, possible()) {
                (true, _) => "would",
                (false, true) => "install",
                (false, false) => "lacks",
            };
            println!("{:8} {verb:8} {} by apt-get: {}", need.group.name(), absent.join(" "), need.why);
        }
    }
    if missing.is_empty() {
        return;
    }
    if !dry_run {
        install_all(&needs, &missing);
    }
    let left = if dry_run { missing } else { missing_of(&needs) };
    for need in &needs {
        let absent = absent(need, &left);
        if !absent.is_empty() {
            let remedy = format!("`apt-get install {}` as root", absent.join(" "));
            lacks.push((need.group, Lack::new(format!("not installed: {}", absent.join(" ")), remedy)));
        }
    }
}

/// Installs packages outside the table (a compiler as second choice). True if they are there afterwards.
pub(super) fn install(packages: &[&str]) -> bool {
    let Some(mut command) = apt_get() else { return false };
    let _guard = NoServices::stand();
    apt_update_once();
    run_apt(command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages))
}

fn absent<'a>(need: &Need, missing: &BTreeSet<&'a str>) -> Vec<&'a str> {
    missing.iter().copied().filter(|p| need.packages.contains(p)).collect()
}

fn missing_of<'a>(needs: &[&'a Need]) -> BTreeSet<&'a str> {
    let mut missing: BTreeSet<&str> = needs.iter().flat_map(|n| n.packages).copied().collect();
    // Not `output_of`: dpkg-query fails when one of the names is unknown, and still lists the others.
    let query = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Abbrev}\n"])
        .args(&missing)
        .stderr(Stdio::null())
        .output();
    let Ok(query) = query else { return missing };
    for line in String::from_utf8_lossy(&query.stdout).lines() {
        if let Some((package, status)) = line.split_once(' ')
            && status.trim() == "ii"
        {
            missing.remove(package);
        }
    }
    missing
}

fn install_all(needs: &[&Need], missing: &BTreeSet<&str>) {
    let Some(mut command) = apt_get() else {
        println!(
            "         no package can be installed: no apt-get, or neither root nor a `sudo` that asks no password"
        );
        return;
    };
    let _guard = NoServices::stand();
    apt_update_once();
    let common = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    if !run_apt(command.args(common).args(missing)) && stop::check().is_ok() {
        // One name that this release does not have must not keep the rest away.
        for need in needs {
            let absent = absent(need, missing);
            if let (false, Some(mut command)) = (absent.is_empty(), apt_get()) {
                run_apt(command.args(common).args(absent));
            }
        }
    }
    let units = SERVICES.iter().filter(|(package, _)| missing.contains(package)).flat_map(|(_, units)| *units);
    let units: Vec<&str> = units.copied().collect();
    if !units.is_empty()
        && Path::new("/run/systemd/system").exists()
        && let Some(mut systemctl) = host::as_root("systemctl")
    {
        println!("         systemctl disable {}: installed to try things on, not to serve this host", units.join(" "));
        run::succeeds(systemctl.args(["disable", "--now"]).args(units));
    }
}

/// True if packages can be installed here at all.
pub(super) fn possible() -> bool {
    apt_get().is_some()
}

fn apt_get() -> Option<Command> {
    run::which("apt-get")?;
    let mut command = host::as_root("apt-get")?;
    // A fresh machine often updates itself just then.
    let options = ["-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=600"];
    command.env("DEBIAN_FRONTEND", "noninteractive").args(options);
    Some(command)
}

fn apt_update_once() {
    static DONE: std::sync::Once = std::sync::Once::new();
    DONE.call_once(|| {
        if let Some(mut command) = apt_get() {
            run_apt(command.arg("update"));
        }
    });
}

fn run_apt(command: &mut Command) -> bool {
    let limit = std::time::Duration::from_secs(1800);
    let name =
        format!("apt-get {}", command.get_args().skip(5).take(1).map(|a| a.to_string_lossy()).collect::<String>());
    match run::step_uninterrupted(&name, command, limit) {
        Ok(ran) if ran.ok => {
            println!("         {name}: done in {} s", ran.seconds);
            true
        }
        Ok(ran) => {
            let last = ran.tail.iter().rev().find(|l| l.starts_with("E:")).or(ran.tail.last());
            println!("         {name} failed ({}): {}", ran.why, last.map_or("", |l| l.as_str()));
            false
        }
        Err(error) => {
            println!("         {name} failed: {error:#}");
            false
        }
    }
}

/// While it lives, no package starts a service.
struct NoServices(bool);

impl NoServices {
    fn is_ours() -> bool {
        std::fs::read_to_string(POLICY).is_ok_and(|text| text.contains(POLICY_MARK))
    }

    fn stand() -> Self {
        if Path::new(POLICY).exists() && !Self::is_ours() {
            return Self(false); // the administrator's own policy counts
        }
        let script = format!("#!/bin/sh\n{POLICY_MARK}\nexit 101\n");
        let Some(mut sh) = host::as_root("sh") else { return Self(false) };
        let put = format!("cat > {POLICY} <<'END'\n{script}END\nchmod 755 {POLICY}");
        Self(run::succeeds(sh.args(["-c", &put])))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let (true, Some(mut rm)) = (self.0, host::as_root("rm")) {
            run::succeeds(rm.args(["-f", POLICY]));
        }
    }
}
