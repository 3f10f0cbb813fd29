//! What each group needs of the system, as data: Debian packages, and why in a few words.
//!
//! Refuses: versions that only one release of Debian has, where a name without a version serves.

use super::Group;

/// One set of packages that is installed and used together.
pub(super) struct Need {
    pub(super) group: Group,
    pub(super) packages: &'static [&'static str],
    /// Why, as printed.
    pub(super) why: &'static str,
}

/// In the order in which they are installed.
pub(super) const NEEDS: &[Need] = &[
    Need {
        group: Group::Base,
        packages: &["build-essential", "clang", "pkg-config", "git", "ca-certificates"],
        why: "C compiler and linker for the plugin, and for crates that build C",
    },
    Need {
        group: Group::Kernel,
        packages: &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev"],
        why: "bpf-linker is linked against this LLVM",
    },
    Need {
        group: Group::Dovecot,
        packages: &["dovecot-core", "dovecot-imapd", "dovecot-lmtpd", "dovecot-pop3d", "dovecot-sieve", "dovecot-dev"],
        why: "the mail store, and the headers that the plugin is built against",
    },
    Need {
        group: Group::Mesh,
        packages: &["iproute2", "nftables", "procps"],
        why: "network namespaces and faults between the nodes of a mesh",
    },
    Need {
        group: Group::Proxies,
        packages: &["nginx", "libnginx-mod-mail", "postfix", "haproxy", "etcd-server", "etcd-client"],
        why: "proxies, mail server and balancer that ask the agents where an account is, and the agents' coordinator",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_package_is_named_twice() {
        let mut all: Vec<&str> = NEEDS.iter().flat_map(|n| n.packages).copied().collect();
        let before = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), before);
    }
}
