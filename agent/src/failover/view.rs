//! What the coordinator has, as this node heard it last.
//!
//! Owns: the records with their revisions, and how far the view goes. What can hurt: a view that is behind; so nothing
//! is true because it stands here, only because a transaction that expects these revisions was done. A change that is
//! older than the last whole reading is a late echo, and ignored. Refuses: judging what it shows.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::{GroupId, NodeId};

use super::{Change, Record};
use crate::coordinator::record::{GroupRecord, LeaseRecord, Name, NodeRecord, PauseRecord, Paused, Scope, Versioned};

#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) groups: BTreeMap<GroupId, Versioned<GroupRecord>>,
    pub(super) leases: BTreeMap<NodeId, Versioned<LeaseRecord>>,
    pub(super) nodes: BTreeMap<NodeId, Versioned<NodeRecord>>,
    pub(super) pauses: BTreeMap<String, Versioned<PauseRecord>>,
    /// Everything up to it has been seen.
    pub(super) revision: u64,
    /// Revision of the last whole reading.
    whole: u64,
    /// Everything was read at least once.
    pub(super) known: bool,
    /// Changes are being heard now.
    pub(super) heard: bool,
}

fn put<K: Ord, T>(map: &mut BTreeMap<K, Versioned<T>>, key: K, record: Option<T>, revision: u64) {
    match record {
        Some(record) => drop(map.insert(key, Versioned { record, revision })),
        None => drop(map.remove(&key)),
    }
}

impl View {
    /// Takes one change; `false` when it is older than what is known.
    pub(super) fn apply(&mut self, change: &Change) -> bool {
        if change.revision <= self.whole {
            return false;
        }
        self.store(change);
        self.revision = self.revision.max(change.revision);
        true
    }

    /// A value that is not of its key's kind counts as none: no expectation on it will hold.
    fn store(&mut self, change: &Change) {
        let (record, revision) = (change.record.clone(), change.revision);
        macro_rules! of {
            ($kind:ident) => {
                record.and_then(|record| if let Record::$kind(record) = record { Some(record) } else { None })
            };
        }
        match &change.name {
            Name::Group(group) => put(&mut self.groups, *group, of!(Group), revision),
            Name::Lease(node) => put(&mut self.leases, *node, of!(Lease), revision),
            Name::Node(node) => put(&mut self.nodes, *node, of!(Node), revision),
            Name::Pause(id) => put(&mut self.pauses, id.clone(), of!(Pause), revision),
        }
    }

    /// Takes a whole reading; gives what changed by it, keys that are gone included.
    pub(super) fn replace(&mut self, changes: Vec<Change>, revision: u64) -> Vec<Change> {
        let named: BTreeSet<Name> = changes.iter().map(|change| change.name.clone()).collect();
        let gone = self.names().into_iter().filter(|name| !named.contains(name));
        let gone: Vec<Change> = gone.map(|name| Change { name, record: None, revision }).collect();
        let mut different = gone;
        different.extend(changes.into_iter().filter(|change| self.revision_of(&change.name) != change.revision));
        for change in &different {
            self.store(change);
        }
        (self.revision, self.whole, self.known, self.heard) = (revision, revision, true, true);
        different
    }

    fn names(&self) -> Vec<Name> {
        let groups = self.groups.keys().map(|group| Name::Group(*group));
        let leases = self.leases.keys().map(|node| Name::Lease(*node));
        let nodes = self.nodes.keys().map(|node| Name::Node(*node));
        let pauses = self.pauses.keys().map(|id| Name::Pause(id.clone()));
        groups.chain(leases).chain(nodes).chain(pauses).collect()
    }

    /// Revision of a key's last change; 0 = it is not there.
    pub(super) fn revision_of(&self, name: &Name) -> u64 {
        match name {
            Name::Group(group) => self.groups.get(group).map(|entry| entry.revision),
            Name::Lease(node) => self.leases.get(node).map(|entry| entry.revision),
            Name::Node(node) => self.nodes.get(node).map(|entry| entry.revision),
            Name::Pause(id) => self.pauses.get(id).map(|entry| entry.revision),
        }
        .unwrap_or(0)
    }

    /// Whether a key is known to have changed since it had this revision: an expectation of it can no longer hold.
    pub(super) fn moved_on(&self, name: &Name, expected: u64) -> bool {
        let seen = self.revision_of(name);
        // A view that ends before the expected revision says nothing: it is behind an answer that was had directly.
        seen != expected && self.revision >= expected && (seen > expected || seen == 0)
    }

    pub(super) fn group(&self, group: GroupId) -> Option<&GroupRecord> {
        self.groups.get(&group).map(|entry| &entry.record)
    }

    pub(super) fn lease(&self, node: NodeId) -> Option<&LeaseRecord> {
        self.leases.get(&node).map(|entry| &entry.record)
    }

    pub(super) fn drained(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|entry| entry.record.drained)
    }

    /// Groups that a node is active for.
    pub(super) fn active_count(&self, node: NodeId) -> usize {
        self.groups.values().filter(|entry| entry.record.active() == Some(node)).count()
    }

    /// The pause that forbids to promote a group of this node's here, or to move it.
    pub(super) fn failover_pause(
        &self,
        group: GroupId,
        nodes: &[NodeId],
        wall_ns: u64,
    ) -> Option<(&str, &PauseRecord)> {
        self.pauses.iter().find_map(|(id, entry)| {
            let pause = &entry.record;
            let concerned = match &pause.scope {
                Scope::Cluster => true,
                Scope::Node(node) => nodes.iter().any(|n| n.get() == *node),
                Scope::Group(paused) => *paused == group.0,
                Scope::Account(_) | Scope::Peer(_) => false,
            };
            let holds = concerned && pause.what == Paused::Failover && pause.holds(wall_ns);
            holds.then_some((id.as_str(), pause))
        })
    }
}
