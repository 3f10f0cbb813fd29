//! What stands in the coordinator: keys and records, as JSON so that an administrator can read them there.
//!
//! Owns: names and shapes. What can hurt: a record of a newer version, or one that somebody edited by hand; unknown
//! fields are kept out of the way and values out of range are an error that names the key. Refuses: deciding anything.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};

/// Prefix of all keys of a cluster.
#[must_use]
pub fn prefix(cluster: ClusterId) -> String {
    format!("/understudy/{:016x}/", cluster.0)
}

/// What a key names, without the cluster's prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// Who is active for a group.
    Group(GroupId),
    /// A node's right to be active.
    Lease(NodeId),
    /// What an administrator wants of a node.
    Node(NodeId),
    /// A pause.
    Pause(String),
}

impl Name {
    /// The key, without the prefix.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Group(group) => format!("group/{group}"),
            Self::Lease(node) => format!("lease/{node}"),
            Self::Node(node) => format!("node/{node}"),
            Self::Pause(id) => format!("pause/{id}"),
        }
    }

    /// Reads a key without its prefix; `None` for one that this version does not know.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        let (kind, rest) = key.split_once('/')?;
        let node = || NodeId::new(rest.parse().ok()?);
        match kind {
            "group" => Some(Self::Group(GroupId(rest.parse().ok()?))),
            "lease" => node().map(Self::Lease),
            "node" => node().map(Self::Node),
            "pause" if !rest.is_empty() => Some(Self::Pause(rest.to_owned())),
            _ => None,
        }
    }
}

// As its key's text.
impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.key())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        Self::parse(&key).ok_or_else(|| serde::de::Error::custom(format!("`{key}` is no key of the coordinator")))
    }
}

/// A record with the coordinator's revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    pub record: T,
    pub revision: u64,
}

/// Where an epoch of a group began: the last operation of the epochs before it that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub sequence: u64,
    /// Hash of the frame that ends there, 64 hexadecimal digits; zeros = not known.
    pub hash: String,
}

/// Why a group has the active node that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Written when the cluster was first set up.
    Placement,
    /// The node before lost its lease.
    Failover,
    /// Planned: nothing was left behind.
    Switchover,
    /// An administrator promoted a replica that could not prove that it has everything.
    Forced,
}

/// `group/N`: who is active for a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Rises with every change of the active node.
    pub epoch: u64,
    pub active: u16,
    /// First choice first; never holds `active`.
    pub replicas: Vec<u16>,
    /// Replicas that hold everything that was acknowledged; only these are promoted.
    #[serde(default)]
    pub in_sync: BTreeSet<u16>,
    /// The node that was active in the epoch before, and where that epoch ended for the new one.
    #[serde(default)]
    pub before: Option<u16>,
    #[serde(default)]
    pub base: Option<Base>,
    pub cause: Cause,
    /// An administrator wants the group to be active there; 0 = on whichever replica is best.
    #[serde(default)]
    pub move_to: Option<u16>,
    /// Not before this wall time; 0 = at once.
    #[serde(default)]
    pub move_at_wall_ns: u64,
    /// An administrator wants these replicas. Only the active node makes the list longer: it stays active without the
    /// coordinator while every replica *that it knows of* promises not to take over.
    #[serde(default)]
    pub replicas_wanted: Option<Vec<u16>>,
    /// Wall time of the change of the active node, for people.
    #[serde(default)]
    pub since_wall_ns: u64,
}

impl GroupRecord {
    /// The active node.
    #[must_use]
    pub fn active(&self) -> Option<NodeId> {
        NodeId::new(self.active)
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// The replicas, first choice first.
    #[must_use]
    pub fn replicas(&self) -> Vec<NodeId> {
        self.replicas.iter().filter_map(|raw| NodeId::new(*raw)).collect()
    }

    /// Replicas that may be promoted.
    pub fn in_sync(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.in_sync.iter().filter_map(|raw| NodeId::new(*raw))
    }

    /// Where the epoch began; `None` when it is not known.
    #[must_use]
    pub fn base_sequence(&self) -> Option<Sequence> {
        self.base.as_ref().map(|base| Sequence(base.sequence))
    }
}

/// `lease/NODE`: a node's right to be active, and what the others need to know of it to place groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Differs between two runs of one agent.
    pub incarnation: u64,
    /// Rises with every renewal.
    pub count: u64,
    /// How long one renewal holds, counted by the holder from before it was sent, by others from when they saw it.
    pub duration_ms: u64,
    /// The node gave it back: it is not active for anything any more.
    #[serde(default)]
    pub released: bool,
    #[serde(default)]
    pub site: String,
    /// Higher is preferred.
    #[serde(default)]
    pub priority: u32,
    /// Never promoted by itself.
    #[serde(default)]
    pub no_failover: bool,
    /// Most groups that may be active there; 0 = no limit.
    #[serde(default)]
    pub capacity_groups: u32,
}

/// `node/NODE`: what an administrator wants of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// No group is to be active there.
    #[serde(default)]
    pub drained: bool,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub owner: String,
    #[serde(default)]
    pub since_wall_ns: u64,
}

/// What a pause is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "name")]
pub enum Scope {
    Cluster,
    Node(u16),
    Group(u32),
    Account(String),
    /// What one node ships to another. Never in the coordinator: it is that node's own.
    Peer(u16),
}

/// What is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paused {
    /// Nothing of the scope is promoted or moved without an administrator.
    Failover,
    /// Operations of the scope are journaled and not applied on replicas.
    Replication,
}

/// `pause/ID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseRecord {
    pub what: Paused,
    pub scope: Scope,
    pub reason: String,
    pub owner: String,
    pub since_wall_ns: u64,
    /// 0 = until it is resumed.
    pub until_wall_ns: u64,
}

impl PauseRecord {
    /// Whether it still holds. Wall time: an expiry that people wrote down.
    #[must_use]
    pub fn holds(&self, now_wall_ns: u64) -> bool {
        self.until_wall_ns == 0 || now_wall_ns < self.until_wall_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_strangers_are_left_alone() {
        let node = NodeId::new(7).expect("in range");
        for name in [Name::Group(GroupId(0)), Name::Lease(node), Name::Node(node), Name::Pause("p-1".into())] {
            assert_eq!(Name::parse(&name.key()), Some(name.clone()));
            let text = serde_json::to_string(&name).expect("writes");
            assert_eq!(text, format!("\"{}\"", name.key()));
            assert_eq!(serde_json::from_str::<Name>(&text).expect("reads"), name);
        }
        for key in ["group/x", "lease/0", "lease/5000", "pause/", "other/1", "group"] {
            assert_eq!(Name::parse(key), None, "{key}");
        }
    }

    #[test]
    fn records_are_read_with_and_without_what_newer_versions_write() {
        let text = r#"{"epoch":2,"active":1,"replicas":[2,3],"cause":"failover","newer":true}"#;
        let record: GroupRecord = serde_json::from_str(text).expect("valid");
        assert_eq!((record.epoch, record.in_sync.len(), record.base), (2, 0, None));
        let pause = PauseRecord {
            what: Paused::Failover,
            scope: Scope::Group(4),
            reason: "disk".into(),
            owner: "a".into(),
            since_wall_ns: 1,
            until_wall_ns: 9,
        };
        let text = serde_json::to_string(&pause).expect("writes");
        assert_eq!(serde_json::from_str::<PauseRecord>(&text).expect("reads"), pause);
        assert!(pause.holds(8) && !pause.holds(9));
    }
}
