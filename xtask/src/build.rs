//! `cargo xtask build`: kernel programs, workspace, store plugins, in this order.
//!
//! Owns: where the results lie (`target/bpf/`, `target/dovecot/`). What can hurt: a part whose tools are missing; it is
//! skipped by name, the rest is built. Refuses: installing; that is `bootstrap`, which runs first.

use crate::bootstrap::{self, Group, KernelWay, Ready};
use crate::host::{self, Lack};
use crate::run::{self, Ran};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A build past this hangs (a first build on two slow cores takes some ten minutes).
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// The part without which everything else still runs.
const KERNEL_PROGRAMS: &str = "kernel programs";

/// Arguments of `build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build with optimisation
    #[arg(long)]
    release: bool,
}

/// A part of the build: its end, or why it was skipped.
pub(crate) enum Part {
    Built(Ran),
    Skipped(Lack),
}

/// The command.
///
/// # Errors
/// When logs cannot be written.
pub(crate) fn main(args: &Args) -> Result<bool> {
    let ready = bootstrap::ensure(&Group::BUILD, false, false);
    let mut ok = true;
    for (name, part) in all(&ready, args.release, &mut |name, line| {
        if line.is_empty() {
            println!("{name} ...");
        }
    })? {
        match part {
            Part::Built(ran) if ran.ok => println!("{name}: built in {} s", ran.seconds),
            Part::Built(ran) => {
                ok = false;
                ran.tail.iter().for_each(|line| println!("{line}"));
                println!("{name}: failed ({}), log {}", ran.why, ran.log.display());
            }
            Part::Skipped(lack) => println!("{name}: skipped, {lack}"),
        }
    }
    Ok(ok)
}

/// Builds all parts; a part that fails does not keep the next from being tried. `progress` is told the part, and each
/// line that its tools print; at its beginning an empty one.
///
/// # Errors
/// When logs cannot be written.
pub(crate) fn all(
    ready: &Ready,
    release: bool,
    progress: &mut dyn FnMut(&str, &str),
) -> Result<Vec<(&'static str, Part)>> {
    let mut parts = Vec::new();
    progress(KERNEL_PROGRAMS, "");
    parts.push((KERNEL_PROGRAMS, kernel_programs(ready, &mut |line| pass(KERNEL_PROGRAMS, line, progress))?));
    progress("workspace", "");
    let mut cargo = run::cargo();
    // Not xtask itself: the program that runs this would be replaced under its own feet, and starts itself again later.
    cargo.args(["build", "--workspace", "--exclude", "xtask"]);
    if release {
        cargo.arg("--release");
    }
    let built = run::step("build workspace", &mut cargo, BUILD_LIMIT, &mut |line| pass("workspace", line, progress))?;
    parts.push(("workspace", Part::Built(built)));
    progress("dovecot plugins", "");
    parts.push(("dovecot plugins", dovecot(ready, release)?));
    Ok(parts)
}

/// Passes a line of a tool on, but no empty one: that would say that the part begins.
fn pass(part: &str, line: &str, progress: &mut dyn FnMut(&str, &str)) {
    if !line.trim().is_empty() {
        progress(part, line);
    }
}

/// Installs and builds what a mesh needs, with what stands beside its nodes if `beside`. A part that cannot be had
/// here, and kernel programs that do not compile, are noted, and the mesh runs without; `progress` is as for [`all`],
/// `note` is told what is to stay on the screen.
///
/// # Errors
/// When a mesh cannot be without what was not built.
pub(crate) fn for_mesh(beside: bool, progress: &mut dyn FnMut(&str, &str), note: &mut dyn FnMut(&str)) -> Result<()> {
    let cannot = |lack: Lack| anyhow::anyhow!("a mesh cannot run here: {lack}");
    // Before minutes of installing and building that would be in vain.
    host::root().map_err(cannot)?;
    let more = if beside { &[Group::Proxies][..] } else { &[] };
    let ready = bootstrap::ensure(&[&Group::MESH[..], more].concat(), false, false);
    ready.mesh.clone().and(ready.dovecot.clone()).map_err(cannot)?;
    for (name, part) in all(&ready, false, progress)? {
        match part {
            Part::Built(ran) if ran.ok => {}
            Part::Built(ran) => {
                ran.tail.iter().for_each(|line| note(line));
                let failed = format!("building {name} failed ({}), log `{}`", ran.why, ran.log.display());
                anyhow::ensure!(name == KERNEL_PROGRAMS, "{failed}");
                note(&format!("without {name}: {failed}"));
            }
            Part::Skipped(lack) => note(&format!("without {name}: {lack}")),
        }
    }
    Ok(())
}

/// Where the kernel programs lie once built.
pub(crate) fn kernel_object() -> PathBuf {
    run::target_dir().join("bpf/understudy.bpf.o")
}

fn kernel_programs(ready: &Ready, on_line: &mut dyn FnMut(&str)) -> Result<Part> {
    let way = match &ready.kernel {
        Ok(way) => *way,
        Err(lack) => return Ok(Part::Skipped(lack.clone())),
    };
    let folder = run::root().join("agent-ebpf");
    if !folder.join("Cargo.toml").exists() {
        return Ok(Part::Skipped(Lack::new("`agent-ebpf/Cargo.toml` is not there", "use a whole checkout")));
    }
    let mut cargo = match way {
        KernelWay::Nightly(toolchain) => {
            let mut cargo = run::cargo_of(toolchain);
            cargo.args(["build", "--release", "-Z", "build-std=core", "--target", "bpfel-unknown-none"]);
            cargo
        }
        KernelWay::Debian => {
            let mut cargo = Command::new("cargo");
            for key in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTDOC", "CARGO_TARGET_DIR", "RUSTFLAGS"] {
                cargo.env_remove(key);
            }
            // Debian's compiler brings `core` for BPF ready made. Only the compiler may know that unstable features
            // are on: cargo would otherwise build `core` again, from sources that are not there.
            cargo.env("RUSTC", "/usr/bin/rustc");
            cargo.args(["build", "--release", "--target", "bpfel-unknown-none"]);
            cargo.args(["--config", "env.RUSTC_BOOTSTRAP='1'"]);
            cargo
        }
    };
    let built = run::target_dir().join("ebpf");
    cargo.current_dir(&folder).arg("--target-dir").arg(&built);
    let mut ran = run::step("build kernel programs", &mut cargo, BUILD_LIMIT, on_line)?;
    let kept = kernel_object();
    if ran.ok {
        std::fs::create_dir_all(kept.parent().unwrap_or(&kept))?;
        let object = built.join("bpfel-unknown-none/release/understudy-ebpf");
        if let Err(error) = std::fs::copy(&object, &kept) {
            ran.ok = false;
            ran.why = format!("no `{}`: {error}", object.display());
        }
    } else {
        let _ = std::fs::remove_file(&kept); // an old one would pass for what was just to be built
    }
    Ok(Part::Built(ran))
}

fn dovecot(ready: &Ready, release: bool) -> Result<Part> {
    if let Err(lack) = &ready.dovecot {
        return Ok(Part::Skipped(lack.clone()));
    }
    let folder = run::root().join("stores/dovecot");
    if !folder.join("Makefile").exists() {
        return Ok(Part::Skipped(Lack::new("`stores/dovecot/Makefile` is not there", "use a whole checkout")));
    }
    Ok(Part::Built(run::step("build dovecot plugins", &mut dovecot_make(release), BUILD_LIMIT, &mut |_| {})?))
}

/// `make` in `stores/dovecot` with the workspace's library and output folder; the caller adds targets.
pub(crate) fn dovecot_make(release: bool) -> Command {
    let profile = if release { "release" } else { "debug" };
    let target = run::target_dir();
    let mut make = Command::new("make");
    make.arg("-C").arg(run::root().join("stores/dovecot"));
    make.arg(format!("RING_LIB={}", target.join(profile).join("libunderstudy_ring.a").display()));
    make.arg(format!("OUT={}", target.join("dovecot").display()));
    make
}
