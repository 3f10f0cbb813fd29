//! rustup's nightlies: which are there, what they hold, and the one that is known to serve.
//!
//! Owns: the calls of `rustup`. What can hurt: rustup installs a toolchain by itself when it is only asked about it;
//! every question here forbids that. And the newest nightly: its LLVM may be newer than the linker's, which then
//! cannot read what it compiled; so the one that is installed is named by its day.
//! Refuses: changing or removing a toolchain beyond adding components to it.

use crate::run;
use std::process::Command;

/// A nightly whose LLVM is [`super::tools::LINKER_LLVM`], with `rust-src` and Miri.
pub(super) const PINNED: &str = "nightly-2026-05-20";
/// In the order in which they are taken.
const NAMES: [&str; 2] = [PINNED, "nightly"];

/// A nightly that is there.
pub(super) struct Nightly {
    pub(super) name: &'static str,
    components: Vec<String>,
}

impl Nightly {
    /// True if the component is installed.
    pub(super) fn has(&self, component: &str) -> bool {
        // Components of one host are listed with its name behind theirs.
        let host = format!("-{}-", std::env::consts::ARCH);
        let is_it = |rest: &str| rest.is_empty() || rest.starts_with(&host);
        self.components.iter().any(|c| c.strip_prefix(component).is_some_and(is_it))
    }

    /// Major version of the compiler's LLVM.
    pub(super) fn llvm(&self) -> Option<u32> {
        let mut rustc = rustup()?;
        llvm_of(rustc.args(["run", self.name, "rustc"]))
    }
}

/// The nightlies of ours that are there.
pub(super) fn nightlies() -> Vec<Nightly> {
    let installed = |name: &'static str| {
        let list = run::output_of(rustup()?.args(["component", "list", "--installed", "--toolchain", name]))?;
        Some(Nightly { name, components: list.lines().map(str::to_owned).collect() })
    };
    NAMES.into_iter().filter_map(installed).collect()
}

/// What installs [`PINNED`] with `components`; `None` without rustup.
pub(super) fn install_pinned(components: &[&str]) -> Option<Command> {
    let mut install = rustup()?;
    install.args(["toolchain", "install", PINNED, "--profile", "minimal", "--no-self-update"]);
    components.iter().for_each(|c| _ = install.args(["--component", c]));
    Some(install)
}

/// What adds `components` to a toolchain that is there; `None` without rustup.
pub(super) fn add(toolchain: &str, components: &[&str]) -> Option<Command> {
    let mut add = rustup()?;
    add.args(["component", "add", "--toolchain", toolchain]).args(components);
    Some(add)
}

/// rustup, if it is there.
fn rustup() -> Option<Command> {
    let mut rustup = Command::new(run::which("rustup")?);
    rustup.env("RUSTUP_AUTO_INSTALL", "0");
    Some(rustup)
}

/// Major version of the LLVM that a compiler says it has.
pub(super) fn llvm_of(rustc: &mut Command) -> Option<u32> {
    let text = run::output_of(rustc.arg("-vV"))?;
    text.lines().find_map(|l| l.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_found_with_and_without_its_host() {
        let nightly =
            Nightly { name: PINNED, components: vec!["miri-x86_64-unknown-linux-gnu".into(), "rust-src".into()] };
        assert!(nightly.has("miri") && nightly.has("rust-src"));
        assert!(!nightly.has("rust") && !nightly.has("clippy"));
    }

    #[test]
    fn the_version_of_llvm_is_read() {
        let llvm = llvm_of(Command::new("sh").args(["-c", "echo release: 1.97.0; echo LLVM version: 22.1.4", "rustc"]));
        assert_eq!(llvm, Some(22));
        assert_eq!(llvm_of(Command::new("sh").args(["-c", "echo rustc 1.97.0", "rustc"])), None);
    }
}
