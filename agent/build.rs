//! Embeds the kernel programs, when they were built, into the agent; and the commit, in a release build.
//!
//! Owns: the choice of the file: `UNDERSTUDY_BPF_OBJECT`, else `target/bpf/understudy.bpf.o` of the repository.
//! Refuses: building them (`cargo xtask build` does) and failing without them; the agent then says what it lacks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/understudy.bpf.o");
    let object = env::var_os("UNDERSTUDY_BPF_OBJECT").map_or(default, PathBuf::from);
    println!("cargo::rerun-if-env-changed=UNDERSTUDY_BPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", watched(&object).display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let bytes = fs::read(&object).unwrap_or_default();
    fs::write(out.join("understudy.bpf.o"), &bytes).expect("OUT_DIR is writable");
    let source =
        "pub(super) const OBJECT: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/understudy.bpf.o\"));\n";
    fs::write(out.join("kernel_programs.rs"), source).expect("OUT_DIR is writable");
    commit();
}

/// `UNDERSTUDY_COMMIT` as given, else what git says, for release builds only: a development build would compile the
/// agent anew after every commit.
fn commit() {
    println!("cargo::rerun-if-env-changed=UNDERSTUDY_COMMIT");
    if env::var_os("UNDERSTUDY_COMMIT").is_some() || env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return;
    }
    let git = |args: &[&str]| {
        let said = Command::new("git").args(args).output().ok().filter(|done| done.status.success())?;
        String::from_utf8(said.stdout).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env=UNDERSTUDY_COMMIT={commit}");
    }
}

/// Cargo runs the script (and compiles the agent) on every build while a watched file is missing. So its folder is
/// made and watched instead: when the object appears there, the script runs again.
fn watched(object: &Path) -> PathBuf {
    match object.parent() {
        Some(folder) if !object.exists() && fs::create_dir_all(folder).is_ok() => folder.to_owned(),
        _ => object.to_owned(),
    }
}
