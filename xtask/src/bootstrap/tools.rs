//! Tools that Debian does not package: a compiler for kernel programs, bpf-linker, an S3 server, Miri.
//!
//! Owns: which of two ways the kernel programs are compiled ([`KernelWay`]). What can hurt: a machine without network;
//! then the tool is named as missing, with its remedy. Refuses: installing a second copy of what is there.

use super::debian;
use crate::host::Lack;
use crate::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The S3 server that the blob tests run against.
pub(super) const S3_SERVER: &str = "s3s-fs";
/// The newest that the workspace's `rust-version` compiles; `cargo install` does not look for it by itself.
const S3_SERVER_INSTALL: [&str; 6] = ["install", "--locked", "s3s-fs@0.14.1", "--features", "binary", "--quiet"];
const LINKER_INSTALL: [&str; 7] =
    ["install", "--locked", "bpf-linker@0.13.0", "--no-default-features", "--features", "llvm-22", "--quiet"];
const NIGHTLY: &str = "nightly";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const INSTALL_LIMIT: Duration = Duration::from_secs(3600);

/// How the kernel programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelWay {
    /// rustup's nightly, which builds `core` for BPF from `rust-src`.
    Nightly,
    /// Debian's own compiler with its prebuilt `core` for BPF, and RUSTC_BOOTSTRAP=1.
    Debian,
}

/// The way that works now, without installing anything; needs bpf-linker too.
pub(super) fn kernel_way() -> Option<KernelWay> {
    run::which("bpf-linker")?;
    compiler()
}

fn compiler() -> Option<KernelWay> {
    if components().iter().any(|c| c == "rust-src") {
        return Some(KernelWay::Nightly);
    }
    (Path::new("/usr/bin/rustc").exists() && Path::new(DEBIAN_CORE).exists()).then_some(KernelWay::Debian)
}

/// Components of rustup's nightly; empty when there is none.
fn components() -> Vec<String> {
    let mut list = Command::new("rustup");
    list.args(["component", "list", "--toolchain", NIGHTLY, "--installed"]);
    run::output_of(&mut list).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Installs compiler and bpf-linker for the kernel programs where they are missing.
pub(super) fn ensure_kernel(dry_run: bool, verbose: bool) -> Result<KernelWay, Lack> {
    let way = compiler().map_or_else(|| install_compiler(dry_run), Ok);
    if let Some(linker) = run::which("bpf-linker") {
        if let (true, Ok(way)) = (verbose, &way) {
            println!("kernel   have     {way:?} compiler, {}", linker.display());
        }
        return way;
    }
    let remedy = format!("`LLVM_PREFIX={LLVM_PREFIX} cargo {}`", LINKER_INSTALL.join(" "));
    if say("kernel", "bpf-linker by cargo install", "links the kernel programs", dry_run) {
        let mut install = run::cargo();
        finish("cargo install bpf-linker", install.env("LLVM_PREFIX", LLVM_PREFIX).args(LINKER_INSTALL));
    }
    match run::which("bpf-linker") {
        Some(_) => way,
        None => way.and(Err(Lack::new("no bpf-linker", remedy))),
    }
}

fn install_compiler(dry_run: bool) -> Result<KernelWay, Lack> {
    let nightly = !components().is_empty();
    if nightly {
        if say("kernel", "rust-src by rustup", "`core` is built for BPF from it", dry_run) {
            let mut add = Command::new("rustup");
            finish("rustup rust-src", add.args(["component", "add", "rust-src", "--toolchain", NIGHTLY]));
        }
    } else if say("kernel", "rustc-web libstd-rust-web-dev-bpf by apt-get", "compiler for kernel programs", dry_run) {
        debian::install(&["rustc-web", "libstd-rust-web-dev-bpf"]);
    }
    if compiler().is_none()
        && !nightly
        && run::which("rustup").is_some()
        && say("kernel", "nightly and rust-src by rustup", "Debian's compiler cannot be installed here", dry_run)
    {
        let mut add = Command::new("rustup");
        add.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"]);
        finish("rustup nightly", &mut add);
    }
    compiler().ok_or_else(|| {
        let remedy = "`rustup toolchain install nightly --component rust-src`, \
                      or `apt-get install rustc-web libstd-rust-web-dev-bpf`";
        Lack::new("no compiler for kernel programs", remedy)
    })
}

/// Installs the S3 server where it is missing.
pub(super) fn ensure_s3(dry_run: bool, verbose: bool) -> Result<PathBuf, Lack> {
    if let Some(server) = run::which(S3_SERVER) {
        if verbose {
            println!("s3       have     {}", server.display());
        }
        return Ok(server);
    }
    if say("s3", "s3s-fs by cargo install", "an S3 server for the tests of central storage", dry_run) {
        let mut install = run::cargo();
        finish("cargo install s3s-fs", install.args(S3_SERVER_INSTALL));
    }
    run::which(S3_SERVER).ok_or_else(|| Lack::new("no S3 server", format!("`cargo {}`", S3_SERVER_INSTALL.join(" "))))
}

/// Installs Miri into rustup's nightly where it is missing.
pub(super) fn ensure_miri(dry_run: bool, verbose: bool) -> Result<(), Lack> {
    let have = || {
        let found = components();
        found.iter().any(|c| c.starts_with("miri")) && found.iter().any(|c| c == "rust-src")
    };
    if have() {
        if verbose {
            println!("miri     have     miri and rust-src of rustup's nightly");
        }
        return Ok(());
    }
    if components().is_empty() {
        let remedy = "`rustup toolchain install nightly --component miri,rust-src`";
        return Err(Lack::new("Miri comes only with rustup's nightly, which is not installed", remedy));
    }
    if say("miri", "miri and rust-src by rustup", "checks the ring for undefined behaviour", dry_run) {
        let mut add = Command::new("rustup");
        finish("rustup miri", add.args(["component", "add", "miri", "rust-src", "--toolchain", NIGHTLY]));
    }
    if have() {
        return Ok(());
    }
    Err(Lack::new("no Miri", "`rustup component add miri rust-src --toolchain nightly`"))
}

/// One line of what is installed and why; true if it is to be done.
fn say(group: &str, what: &str, why: &str, dry_run: bool) -> bool {
    let verb = if dry_run { "would" } else { "install" };
    println!("{group:8} {verb:8} {what}: {why}");
    !dry_run
}

fn finish(name: &str, command: &mut Command) {
    match run::step(name, command, INSTALL_LIMIT, &mut |_| {}) {
        Ok(ran) if ran.ok => {}
        Ok(ran) => {
            let last = ran.tail.iter().rev().find(|l| l.contains("error")).or(ran.tail.last());
            println!("         {name} failed ({}): {}", ran.why, last.map_or("", |l| l.as_str()));
        }
        Err(error) => println!("         {name} failed: {error:#}"),
    }
}
