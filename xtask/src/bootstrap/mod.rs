//! `cargo xtask bootstrap`: detects what this machine has, installs what is missing, once, and says what and why.
//!
//! Owns: the list of what each command needs ([`needs`]) and the answer to what can be done here ([`Ready`]).
//! What can hurt: a package manager without network; every group is then tried alone, and what stays missing is
//! named with its remedy while everything else goes on. Detection is real and quick, so there is no stamp to go stale.
//! Refuses: removing packages, starting services, changing system settings.

mod debian;
mod needs;
mod rustup;
mod tools;

use crate::host::{self, Lack};
use crate::{run, stop};
use anyhow::Result;
use std::path::PathBuf;

pub(crate) use tools::KernelWay;

/// What a group of programs and libraries is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Group {
    /// Compilers and linkers
    Base,
    /// Toolchain for the kernel programs
    Kernel,
    /// The mail store and its headers
    Dovecot,
    /// Network namespaces for several nodes on one host
    Mesh,
    /// What asks the agents where an account is, and their coordinator
    Proxies,
    /// An S3 server to test against
    S3,
    /// The checker of undefined behaviour
    Miri,
    /// What formats and judges the code
    Lint,
}

impl Group {
    pub(crate) const ALL: [Self; 8] =
        [Self::Base, Self::Kernel, Self::Dovecot, Self::Mesh, Self::Proxies, Self::S3, Self::Miri, Self::Lint];
    /// What `build` needs.
    pub(crate) const BUILD: [Self; 3] = [Self::Base, Self::Kernel, Self::Dovecot];
    /// What `mesh` and `demo` need.
    pub(crate) const MESH: [Self; 4] = [Self::Base, Self::Kernel, Self::Dovecot, Self::Mesh];
    /// What tests with real processes need.
    pub(crate) const TRIALS: [Self; 6] = [Self::Base, Self::Kernel, Self::Dovecot, Self::Mesh, Self::Proxies, Self::S3];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Kernel => "kernel",
            Self::Dovecot => "dovecot",
            Self::Mesh => "mesh",
            Self::Proxies => "proxies",
            Self::S3 => "s3",
            Self::Miri => "miri",
            Self::Lint => "lint",
        }
    }
}

/// Arguments of `bootstrap`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what would be installed
    #[arg(long)]
    dry_run: bool,
    /// Only these groups (default: all)
    #[arg(long = "group", value_enum)]
    groups: Vec<Group>,
}

/// What can be done on this machine once bootstrap has run. `Err` says why not, and the remedy.
pub(crate) struct Ready {
    pub(crate) kernel: Result<KernelWay, Lack>,
    pub(crate) dovecot: Result<(), Lack>,
    pub(crate) mesh: Result<(), Lack>,
    pub(crate) s3: Result<PathBuf, Lack>,
    /// The nightly that has it.
    pub(crate) miri: Result<&'static str, Lack>,
    pub(crate) lint: Result<(), Lack>,
}

/// The command.
///
/// # Errors
/// None today; what cannot be installed is reported by name.
pub(crate) fn main(args: &Args) -> Result<bool> {
    let groups = if args.groups.is_empty() { Group::ALL.to_vec() } else { args.groups.clone() };
    ensure(&groups, args.dry_run, true);
    stop::check()?;
    Ok(true)
}

/// Detects and installs what `groups` need. Speaks only of what is installed or missing, unless `verbose`.
pub(crate) fn ensure(groups: &[Group], dry_run: bool, verbose: bool) -> Ready {
    let mut lacks: Vec<(Group, Lack)> = Vec::new();
    debian::ensure(groups, dry_run, verbose, &mut lacks);
    let lack_of = |group: Group| lacks.iter().find(|(g, _)| *g == group).map(|(_, l)| l.clone());
    let wanted = |group: Group| groups.contains(&group);
    let not_asked = || Lack::new("not asked for", "run `cargo xtask bootstrap`");

    let base = lack_of(Group::Base).map_or(Ok(()), Err);
    let kernel = match lack_of(Group::Kernel) {
        _ if !wanted(Group::Kernel) => tools::kernel_way().ok_or_else(not_asked),
        Some(lack) if tools::kernel_way().is_none() => Err(lack),
        _ => tools::ensure_kernel(dry_run, verbose),
    };
    let dovecot = base.clone().and(lack_of(Group::Dovecot).map_or(Ok(()), Err));
    let mesh = lack_of(Group::Mesh).map_or(Ok(()), Err).and_then(|()| host::namespaces());
    let s3 = if wanted(Group::S3) {
        tools::ensure_s3(dry_run, verbose)
    } else {
        run::which(tools::S3_SERVER).ok_or_else(not_asked)
    };
    let miri = if wanted(Group::Miri) { tools::ensure_miri(dry_run, verbose) } else { Err(not_asked()) };
    let lint = if wanted(Group::Lint) { tools::ensure_lint(dry_run, verbose) } else { Ok(()) };

    let ready = Ready { kernel, dovecot, mesh, s3, miri, lint };
    if stop::check().is_err() {
        return ready; // the caller's next step says so; what is missing is no finding now
    }
    if let Err(lack) = base {
        println!("base     missing  {lack}");
    }
    for (group, lack) in ready.lacks() {
        if wanted(group) {
            println!("{:8} missing  {lack}", group.name());
        }
    }
    // Where agents are to run, also what the kernel does not let them do; where not, nobody needs it.
    // What the mesh lacks is named above.
    let shown = |name: &str| verbose || wanted(Group::Mesh) && !["root", "network namespaces"].contains(&name);
    for ability in host::abilities().into_iter().filter(|a| shown(a.name)) {
        match ability.state {
            Ok(()) if verbose => println!("host     fine     {} ({})", ability.name, ability.used_by),
            Ok(()) => {}
            Err(lack) => println!("host     lacking  {} ({}): {lack}", ability.name, ability.used_by),
        }
    }
    ready
}

impl Ready {
    fn lacks(&self) -> Vec<(Group, &Lack)> {
        let mut all = Vec::new();
        all.extend(self.kernel.as_ref().err().map(|l| (Group::Kernel, l)));
        all.extend(self.dovecot.as_ref().err().map(|l| (Group::Dovecot, l)));
        all.extend(self.mesh.as_ref().err().map(|l| (Group::Mesh, l)));
        all.extend(self.s3.as_ref().err().map(|l| (Group::S3, l)));
        all.extend(self.miri.as_ref().err().map(|l| (Group::Miri, l)));
        all.extend(self.lint.as_ref().err().map(|l| (Group::Lint, l)));
        all
    }
}
