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
/// Groups per node of a mesh: enough that several accounts share one, and one node has several.
const GROUPS_PER_NODE: usize = 4;
/// Replicas of each group, where there are nodes enough.
const REPLICAS_MAX: usize = 2;
/// The address of what stands before the nodes.
const PROXY_NUMBER: usize = 200;
/// The address of the first member of etcd, less one.
const ETCD_NUMBER: usize = 200;
/// Members past this say nothing new.
pub(crate) const ETCD_MAX: usize = 3;

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
    pub(crate) nodes: Vec<Seat>,
    /// Where nginx, HAProxy and Postfix are.
    pub(crate) proxy: Option<Seat>,
    /// The members of etcd.
    pub(crate) etcd: Vec<Seat>,
    pub(crate) accounts: usize,
}

/// A node, or something beside the nodes, before it is there.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    /// The last number of its address; nodes count from 1.
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) netns: String,
    /// The host's end of its cable.
    pub(crate) cable: String,
    /// What the cable is put behind while it is long (`mesh delay`).
    pub(crate) tap: String,
    /// Under [`Plan::home`].
    pub(crate) home: PathBuf,
    pub(crate) cgroup: String,
}

impl Seat {
    fn new(tag: &str, home: &Path, name: String, number: usize) -> Self {
        Self {
            number,
            netns: format!("us-{tag}-{name}"),
            cable: format!("us{tag}n{number}"),
            tap: format!("us{tag}t{number}"),
            home: home.join(&name),
            cgroup: format!("understudy-mesh-{tag}-{name}"),
            name,
        }
    }
}

/// Who has a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Number of the node, from 0.
    pub(crate) active: usize,
    /// Numbers of nodes, from 0, first choice first.
    pub(crate) replicas: Vec<usize>,
}

impl Plan {
    /// The plan for `dir`, which must be absolute.
    pub(crate) fn new(dir: &Path, nodes: usize, accounts: usize, format: Format) -> Self {
        let hash = hash(dir.as_os_str().as_encoded_bytes());
        let tag = format!("{:06x}", hash >> 16 & 0xff_ffff);
        let home = PathBuf::from(format!("/run/understudy-mesh/{tag}"));
        let nodes = (1..=nodes).map(|number| Seat::new(&tag, &home, format!("node{number}"), number)).collect();
        let bridge = format!("us{tag}br");
        Self { bridge, dir: dir.to_path_buf(), tag, home, format, nodes, proxy: None, etcd: Vec::new(), accounts }
    }

    /// Adds what stands beside the nodes.
    pub(crate) fn with(mut self, proxies: bool, etcd: usize) -> Self {
        let seat = |name, number| Seat::new(&self.tag, &self.home, name, number);
        let proxy = proxies.then(|| seat("proxy".to_owned(), PROXY_NUMBER));
        let etcd = (1..=etcd).map(|n| seat(format!("etcd{n}"), ETCD_NUMBER + n)).collect();
        (self.proxy, self.etcd) = (proxy, etcd);
        self
    }

    /// All that has a network of its own.
    pub(crate) fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.nodes.iter().chain(&self.proxy).chain(&self.etcd)
    }

    /// The first three numbers of the mesh's addresses: the `attempt`th choice for this folder.
    pub(crate) fn subnet(&self, attempt: u64) -> String {
        let hash = hash(self.tag.as_bytes()).wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
        format!("10.{}.{}", 64 + hash % 128, hash / 128 % 254)
    }

    /// Account number `n` from 0: its name and its group.
    pub(crate) fn account(&self, n: usize) -> (String, usize) {
        (format!("u{:04}@example.test", n + 1), n % self.group_count().max(1))
    }

    /// How many groups there are.
    pub(crate) fn group_count(&self) -> usize {
        self.nodes.len() * GROUPS_PER_NODE
    }

    /// How many replicas each group has.
    pub(crate) fn replica_count(&self) -> usize {
        self.nodes.len().saturating_sub(1).min(if self.nodes.len() < 3 { 1 } else { REPLICAS_MAX })
    }

    /// Where a group is at first. Groups of one node begin their replicas with different others, so that the groups of
    /// a lost node go to several.
    pub(crate) fn group(&self, group: usize) -> Placed {
        let count = self.nodes.len().max(1);
        let (active, nth) = (group % count, group / count);
        let others = count - 1;
        let replica = |r: usize| (active + 1 + (nth + r) % others) % count;
        Placed { active, replicas: (0..self.replica_count()).map(replica).collect() }
    }
}

/// The addresses of `seats` in `subnet`.
pub(crate) fn addresses(subnet: &str, seats: &[Seat]) -> Vec<String> {
    seats.iter().map(|seat| address(subnet, seat.number)).collect()
}

/// The address of the seat with this number or, with 0, of the host in `subnet`.
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
    fn accounts_are_spread_and_groups_never_replicated_to_their_own_node() {
        let two = plan("/tmp/a", 2);
        assert_eq!(two.account(0), ("u0001@example.test".to_owned(), 0));
        assert_eq!(two.account(9).1, 1, "eight groups");
        assert_eq!(two.group(3), Placed { active: 1, replicas: vec![0] });
        assert_eq!(plan("/tmp/a", 1).group(2), Placed { active: 0, replicas: vec![] });
        for nodes in 3..7 {
            let plan = plan("/tmp/a", nodes);
            for group in 0..plan.group_count() {
                let Placed { active, replicas } = plan.group(group);
                assert!(active == group % nodes && replicas.len() == 2 && replicas[0] != replicas[1]);
                assert!(replicas.iter().all(|replica| *replica != active && *replica < nodes));
            }
        }
        let three = plan("/tmp/a", 3);
        let first: Vec<usize> = (0..4).map(|k| three.group(1 + 3 * k).replicas[0]).collect();
        assert_eq!(first, [2, 0, 2, 0], "the groups of a lost node go to both others");
    }

    #[test]
    fn what_stands_beside_the_nodes_has_names_of_its_own() {
        let plan = plan("/tmp/a", NODES_MAX).with(true, ETCD_MAX);
        let of = |name: fn(&Seat) -> &str| plan.seats().map(name).collect::<std::collections::BTreeSet<_>>().len();
        let all = NODES_MAX + 1 + ETCD_MAX;
        assert_eq!([of(|p| &p.netns), of(|p| &p.cable), of(|p| &p.tap), of(|p| &p.name)], [all; 4]);
        assert!(plan.seats().all(|p| p.cable.len() <= 15 && p.tap.len() <= 15 && (1..254).contains(&p.number)));
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
