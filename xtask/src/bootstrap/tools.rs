//! Tools that Debian does not package: a compiler for kernel programs, bpf-linker, an S3 server, Miri.
//!
//! Owns: which of two ways the kernel programs are compiled ([`KernelWay`]). What can hurt: a machine without network;
//! then the tool is named as missing, with its remedy. Refuses: installing a second copy of what is there.

use super::{debian, rustup};
use crate::host::Lack;
use crate::{run, stop};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The S3 server that the blob tests run against.
pub(super) const S3_SERVER: &str = "s3s-fs";
/// The newest that the workspace's `rust-version` compiles; `cargo install` does not look for it by itself.
const S3_SERVER_INSTALL: [&str; 6] = ["install", "--locked", "s3s-fs@0.14.1", "--features", "binary", "--quiet"];
const LINKER_INSTALL: [&str; 7] =
    ["install", "--locked", "bpf-linker@0.13.0", "--no-default-features", "--features", "llvm-22", "--quiet"];
/// Major version of the LLVM that bpf-linker is built with. It reads what an older LLVM wrote, and nothing newer.
const LINKER_LLVM: u32 = 22;
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const INSTALL_LIMIT: Duration = Duration::from_secs(3600);

/// How the kernel programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelWay {
    /// This nightly of rustup, which builds `core` for BPF from `rust-src`.
    Nightly(&'static str),
    /// Debian's own compiler with its prebuilt `core` for BPF, and RUSTC_BOOTSTRAP=1.
    Debian,
}

/// The way that works now, without installing anything; needs bpf-linker too.
pub(super) fn kernel_way() -> Option<KernelWay> {
    run::which("bpf-linker")?;
    compiler()
}

fn compiler() -> Option<KernelWay> {
    let serves = |llvm: Option<u32>| llvm.is_some_and(|version| version <= LINKER_LLVM);
    let nightly = rustup::nightlies().into_iter().find(|n| n.has("rust-src") && serves(n.llvm()));
    if let Some(nightly) = nightly {
        return Some(KernelWay::Nightly(nightly.name));
    }
    (Path::new(DEBIAN_CORE).exists() && serves(rustup::llvm_of(&mut Command::new(DEBIAN_RUSTC))))
        .then_some(KernelWay::Debian)
}

/// Installs compiler and bpf-linker for the kernel programs where they are missing.
pub(super) fn ensure_kernel(dry_run: bool, verbose: bool) -> Result<KernelWay, Lack> {
    let way = compiler().map_or_else(|| install_compiler(dry_run), Ok);
    if let Some(linker) = run::which("bpf-linker") {
        if let (true, Ok(way)) = (verbose, &way) {
            let compiler = match way {
                KernelWay::Nightly(name) => name,
                KernelWay::Debian => DEBIAN_RUSTC,
            };
            println!("kernel   have     compiler {compiler}, {}", linker.display());
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
    let why = "compiles the kernel programs, which stable Rust cannot";
    if let Some(mut install) = rustup::install_pinned(&["rust-src"])
        && say("kernel", &format!("{} with rust-src by rustup", rustup::PINNED), why, dry_run)
    {
        finish("rustup nightly", &mut install);
    }
    if compiler().is_none() && (!dry_run || run::which("rustup").is_none()) {
        let packages = ["rustc-web", "libstd-rust-web-dev-bpf"];
        if debian::possible() && say("kernel", &format!("{} by apt-get", packages.join(" ")), why, dry_run) {
            debian::install(&packages);
        }
    }
    compiler().ok_or_else(|| {
        let remedy = format!("`rustup toolchain install {} --profile minimal --component rust-src`", rustup::PINNED);
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

/// Installs Miri where it is missing; the nightly that has it.
pub(super) fn ensure_miri(dry_run: bool, verbose: bool) -> Result<&'static str, Lack> {
    let have = || rustup::nightlies().into_iter().find(|n| n.has("miri") && n.has("rust-src")).map(|n| n.name);
    if let Some(name) = have() {
        if verbose {
            println!("miri     have     miri and rust-src of {name}");
        }
        return Ok(name);
    }
    let components = ["miri", "rust-src"];
    let there = rustup::nightlies().first().map(|n| n.name);
    let command = match there {
        Some(name) => rustup::add(name, &components),
        None => rustup::install_pinned(&components),
    };
    let Some(mut command) = command else {
        return Err(Lack::new("Miri comes only with rustup", "install rustup (https://rustup.rs)"));
    };
    let name = there.unwrap_or(rustup::PINNED);
    if say("miri", &format!("miri of {name} by rustup"), "checks the ring for undefined behaviour", dry_run) {
        finish("rustup miri", &mut command);
    }
    have().ok_or_else(|| {
        let install = format!("`rustup toolchain install {} --component miri,rust-src`", rustup::PINNED);
        Lack::new("no Miri", install)
    })
}

/// Adds to the compiler in use what formats and judges code. rustup's minimal profile leaves it out.
pub(super) fn ensure_lint(dry_run: bool, verbose: bool) -> Result<(), Lack> {
    let have = || ["fmt", "clippy"].into_iter().all(|tool| run::succeeds(run::cargo().args([tool, "--version"])));
    if have() {
        if verbose {
            println!("lint     have     rustfmt and clippy");
        }
        return Ok(());
    }
    let toolchain = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    if let Some(mut add) = rustup::add(&toolchain, &["rustfmt", "clippy"])
        && say("lint", "rustfmt and clippy by rustup", "formats and judges the code", dry_run)
    {
        finish("rustup lint", &mut add);
    }
    have().then_some(()).ok_or_else(|| Lack::new("no rustfmt or no clippy", "`rustup component add rustfmt clippy`"))
}

/// One line of what is installed and why; true if it is to be done.
fn say(group: &str, what: &str, why: &str, dry_run: bool) -> bool {
    if stop::check().is_err() {
        return false;
    }
    let verb = if dry_run { "would" } else { "install" };
    println!("{group:8} {verb:8} {what}: {why}");
    !dry_run
}

fn finish(name: &str, command: &mut Command) {
    match run::step(name, command, INSTALL_LIMIT, &mut |_| {}) {
        Ok(ran) if ran.ok => println!("         {name}: done in {} s", ran.seconds),
        Ok(ran) => {
            let last = ran.tail.iter().rev().find(|l| l.contains("error")).or(ran.tail.last());
            println!("         {name} failed ({}): {}", ran.why, last.map_or("", |l| l.as_str()));
        }
        Err(error) => println!("         {name} failed: {error:#}"),
    }
}
