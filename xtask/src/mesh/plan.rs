//! What a mesh will look like, from its folder and its size alone: names, addresses, paths, accounts.
//!
//! Owns: every name that the mesh gives to something of the host, so that `down` finds it again even when the state
//! file is lost, and several meshes live side by side. Pure: looks at nothing and starts nothing.
//! What can hurt: interface names (15 bytes) and socket paths (108 bytes); both are short by construction, because the
//! folder is also mounted at a short path ([`Plan::home`]).

use super::contract::Format;
use std::path::{Path, PathBuf};

/// Nodes past this do not fit the address plan.
pub(crate) const NODES_MAX: usize = 100;
/// Accounts past this do not fit the form of the names (`u0001`).
pub(crate) const ACCOUNTS_MAX: usize = 9999;
/// The unprivileged user that owns all mail of the mesh; it needs no name on the host.
pub(crate) const MAIL_UID: u32 = 5000;
/// The password of every account.
pub(crate) const PASSWORD: &str = "pass";

/// A mesh before it is there.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Six hexadecimal digits of the folder's path; part of every name.
    pub(crate) tag: String,
    /// The folder as the user named it, made absolute.
    pub(crate) dir: PathBuf,
    /// The same folder, mounted where the mail user can reach it and socket paths stay short.
    pub(crate) home: PathBuf,
    pub(crate) bridge: String,
    pub(crate) format: Format,
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) accounts: usize,
}

/// One node before it is there.
#[derive(Clone, Debug)]
pub(crate) struct NodePlan {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) netns: String,
    /// The host's end of the node's cable.
    pub(crate) cable: String,
    /// Under [`Plan::home`].
    pub(crate) home: PathBuf,
    pub(crate) cgroup: String,
}

impl Plan {
    /// The plan for `dir`, which must be absolute.
    pub(crate) fn new(dir: &Path, nodes: usize, accounts: usize, format: Format) -> Self {
        let hash = hash(dir.as_os_str().as_encoded_bytes());
        let tag = format!("{:06x}", hash >> 16 & 0xff_ffff);
        let home = PathBuf::from(format!("/run/understudy-mesh/{tag}"));
        let nodes = (1..=nodes)
            .map(|number| NodePlan {
                number,
                name: format!("node{number}"),
                netns: format!("us-{tag}-node{number}"),
                cable: format!("us{tag}n{number}"),
                home: home.join(format!("node{number}")),
                cgroup: format!("understudy-mesh-{tag}-node{number}"),
            })
            .collect();
        Self { bridge: format!("us{tag}br"), dir: dir.to_path_buf(), tag, home, format, nodes, accounts }
    }

    /// The first three numbers of the mesh's addresses: the `attempt`th choice for this folder.
    pub(crate) fn subnet(&self, attempt: u64) -> String {
        let hash = hash(self.tag.as_bytes()).wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
        format!("10.{}.{}", 64 + hash % 128, hash / 128 % 254)
    }

    /// Account number `n` from 0: its name, and the numbers (from 0) of its active node and of its replica.
    pub(crate) fn account(&self, n: usize) -> (String, usize, Option<usize>) {
        let active = n % self.nodes.len().max(1);
        let replica = (active + 1) % self.nodes.len().max(1);
        (format!("u{:04}@example.test", n + 1), active, (replica != active).then_some(replica))
    }
}

/// The address of node `number` (from 1) or, with 0, of the host in `subnet`.
pub(crate) fn address(subnet: &str, number: usize) -> String {
    format!("{subnet}.{}", if number == 0 { 254 } else { number })
}

/// FNV-1a, and then the last step of MurmurHash3: without it, two folders that differ in their last byte would get the
/// same middle bits, and with them the same names.
fn hash(bytes: &[u8]) -> u64 {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (sum ^ sum >> 33_u32).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33_u32).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33_u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dir: &str, nodes: usize) -> Plan {
        Plan::new(Path::new(dir), nodes, 5, Format::Maildir)
    }

    #[test]
    fn names_fit_the_kernel_and_differ_between_meshes() {
        let long = format!("/{}", "long-folder-name/".repeat(20));
        let (a, b) = (plan(&long, NODES_MAX), plan("/tmp/b", 2));
        assert!(a.bridge.len() <= 15 && a.nodes.iter().all(|n| n.cable.len() <= 15));
        assert!(a.nodes.iter().all(|n| n.home.as_os_str().len() < 50), "room for socket names within 108 bytes");
        assert_ne!(a.tag, b.tag);
        assert_ne!(a.bridge, b.bridge);
        let neighbours: std::collections::BTreeSet<String> =
            (0..100).map(|n| plan(&format!("/tmp/x-{n}"), 1).tag).collect();
        assert_eq!(neighbours.len(), 100, "folders with names alike get tags alike");
    }

    #[test]
    fn accounts_are_spread_and_never_replicated_to_their_own_node() {
        let plan = plan("/tmp/a", 3);
        let spread: Vec<_> = (0..4).map(|n| plan.account(n)).collect();
        assert_eq!(spread[0], ("u0001@example.test".to_owned(), 0, Some(1)));
        assert_eq!(spread[2], ("u0003@example.test".to_owned(), 2, Some(0)));
        assert_eq!(spread[3], ("u0004@example.test".to_owned(), 0, Some(1)));
        assert_eq!(super::tests::plan("/tmp/a", 1).account(0).2, None);
    }

    #[test]
    fn another_attempt_is_another_subnet() {
        let plan = plan("/tmp/a", 2);
        assert_ne!(plan.subnet(0), plan.subnet(1));
        assert_eq!(plan.subnet(0), plan.subnet(0));
        assert_eq!(address("10.1.2", 0), "10.1.2.254");
        assert_eq!(address("10.1.2", 3), "10.1.2.3");
    }
}
