//! Placement: from an account to its group, from a group to its active node and its replicas.
//!
//! Owns: the hash (the same on every node, in every version, for ever) and the rule by which groups are spread
//! when nobody places them. What can hurt: two nodes that compute different placements; so everything follows
//! from values that are the same on all nodes. Refuses: deciding about failover; a later owner of epochs
//! replaces groups through [`Placement::set_group`].

use std::collections::HashMap;
use std::path::Path;

use understudy_types::id::{Epoch, GroupId, NodeId};

use super::model::{Config, GroupConfig, NodeRef, PlacementConfig};
use super::{Problem, Severity};

/// Most groups.
pub const GROUPS_MAX: u32 = 65_536;

/// Where one group lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: GroupId,
    /// The node on which users work.
    pub active: NodeId,
    /// First choice first; never holds `active`.
    pub replicas: Vec<NodeId>,
    /// Fencing number; configured placement is epoch 1.
    pub epoch: Epoch,
}

/// The placement of all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    groups: Vec<Group>,
    overrides: HashMap<String, GroupId>,
}

/// First 8 bytes, little-endian, of the BLAKE3 hash of a text.
#[must_use]
pub fn hash(text: &str) -> u64 {
    let digest = blake3::hash(text.as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Reads `"0-49,60"` as (first, last) pairs.
///
/// # Errors
///
/// The part that is no number and no range.
pub fn parse_groups(text: &str) -> Result<Vec<(u32, u32)>, String> {
    text.split(',')
        .map(|part| {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
                (Ok(first), Ok(last)) if first <= last && last < GROUPS_MAX => Ok((first, last)),
                _ => Err(format!("`{part}` is no group and no range of groups")),
            }
        })
        .collect()
}

impl Placement {
    /// The placement that a configuration describes.
    ///
    /// # Errors
    ///
    /// Every entry that contradicts another or names an unknown node, with what to do about it.
    pub fn build(config: &Config) -> Result<Self, Vec<Problem>> {
        let nodes = config.nodes();
        let wanted = &config.placement;
        let mut problems = Vec::new();
        let mut groups: Vec<Option<Group>> = vec![None; wanted.group_count as usize];
        for (index, entry) in wanted.groups.iter().enumerate() {
            place_entry(index, entry, &nodes, &mut groups, &mut problems);
        }
        if wanted.groups.is_empty() {
            spread(&nodes, wanted.replica_count, &mut groups);
        }
        let missing: Vec<u32> = (0u32..).zip(&groups).filter(|(_, group)| group.is_none()).map(|(id, _)| id).collect();
        if let (Some(first), true) = (missing.first(), problems.is_empty()) {
            problems.push(Problem::error(
                "placement.groups",
                format!("{} of {} groups are not placed, the first is {first}", missing.len(), wanted.group_count),
                "name them in an entry's `ids`, or leave `placement.groups` out to spread all over the nodes",
            ));
        }
        for (account, group) in &wanted.accounts {
            if *group >= wanted.group_count {
                problems.push(Problem::error(
                    format!("placement.accounts.\"{account}\""),
                    format!("there is no group {group}"),
                    format!("groups go from 0 to {}", wanted.group_count.saturating_sub(1)),
                ));
            }
        }
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(problems);
        }
        Ok(Self {
            groups: groups.into_iter().flatten().collect(),
            overrides: wanted.accounts.iter().map(|(account, group)| (account.clone(), GroupId(*group))).collect(),
        })
    }

    /// The group of an account: what an override says, else [`hash`] modulo the number of groups.
    #[must_use]
    pub fn group_of(&self, account: &str) -> GroupId {
        if let Some(group) = self.overrides.get(account) {
            return *group;
        }
        let count = u64::try_from(self.groups.len()).unwrap_or(1).max(1);
        GroupId(u32::try_from(hash(account) % count).unwrap_or(0))
    }

    /// The group of this number, if there is one.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(usize::try_from(id.0).ok()?)
    }

    /// Every group, by number.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Accounts that have a group by name.
    pub fn placed_accounts(&self) -> impl Iterator<Item = &str> {
        self.overrides.keys().map(String::as_str)
    }

    /// Replaces a group by what the coordinator has of it.
    pub fn put_group(&mut self, group: Group) {
        if let Some(old) = usize::try_from(group.id.0).ok().and_then(|at| self.groups.get_mut(at)) {
            *old = group;
        }
    }

    /// Replaces a group, for the owner of epochs. Refused (`false`) when the epoch does not rise.
    pub fn set_group(&mut self, group: Group) -> bool {
        match usize::try_from(group.id.0).ok().and_then(|at| self.groups.get_mut(at)) {
            Some(old) if old.epoch < group.epoch => {
                *old = group;
                true
            }
            _ => false,
        }
    }
}

fn place_entry(
    index: usize,
    entry: &GroupConfig,
    nodes: &[(NodeId, &str)],
    groups: &mut [Option<Group>],
    problems: &mut Vec<Problem>,
) {
    let at = |name: &str| format!("placement.groups[{index}].{name}");
    let mut resolve = |key: &str, node: &NodeRef| {
        let found = nodes.iter().find(|(id, name)| match node {
            NodeRef::Id(wanted) => id.get() == *wanted,
            NodeRef::Name(wanted) => name == wanted,
        });
        if found.is_none() {
            let near = match node {
                NodeRef::Name(wanted) => super::keys::nearest(wanted, nodes.iter().map(|(_, name)| *name)),
                NodeRef::Id(_) => None,
            };
            let remedy = near.map_or_else(|| "add it to `peers`".to_owned(), |near| format!("did you mean `{near}`?"));
            problems.push(Problem::error(at(key), format!("there is no node `{node}`"), remedy));
        }
        found.map(|(id, _)| *id)
    };
    let active = resolve("active", &entry.active);
    let mut replicas = Vec::new();
    for node in &entry.replicas {
        let Some(id) = resolve("replicas", node) else { continue };
        replicas.push((id, node));
    }
    let Some(active) = active else { return };
    let mut ids = Vec::new();
    for (id, node) in replicas {
        if id == active {
            problems.push(Problem::error(
                at("replicas"),
                format!("`{node}` is the active node already"),
                "name another node",
            ));
        } else if ids.contains(&id) {
            problems.push(Problem::error(at("replicas"), format!("`{node}` is named twice"), "name it once"));
        } else {
            ids.push(id);
        }
    }
    for (first, last) in parse_groups(&entry.ids).unwrap_or_default() {
        for id in first..=last {
            match usize::try_from(id).ok().and_then(|at| groups.get_mut(at)) {
                None => {
                    problems.push(Problem::error(
                        at("ids"),
                        format!("there is no group {id}"),
                        "raise `placement.group_count` or correct the range",
                    ));
                    return;
                }
                Some(Some(_)) => {
                    problems.push(Problem::error(
                        at("ids"),
                        format!("group {id} is placed twice"),
                        "name each group in one entry",
                    ));
                    return;
                }
                Some(slot) => *slot = Some(Group { id: GroupId(id), active, replicas: ids.clone(), epoch: Epoch(1) }),
            }
        }
    }
}

/// Group by group round the nodes; replicas are the nodes that follow, the step growing from round to round so
/// that the load of a lost node spreads over all the rest.
fn spread(nodes: &[(NodeId, &str)], replica_count: usize, groups: &mut [Option<Group>]) {
    let count = nodes.len();
    for (number, slot) in (0u32..).zip(groups.iter_mut()) {
        let index = number as usize;
        let (active, round) = (index % count, index / count);
        let others = count - 1;
        let replicas =
            (0..replica_count.min(others)).map(|k| nodes[(active + 1 + (round + k) % others) % count].0).collect();
        *slot = Some(Group { id: GroupId(number), active: nodes[active].0, replicas, epoch: Epoch(1) });
    }
}

/// Reads `groups` and `accounts` of the placement file over those of the configuration.
pub(super) fn merge_file(placement: &mut PlacementConfig, path: &Path) -> Result<(), Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        groups: Vec<Entry>,
        #[serde(default)]
        accounts: std::collections::BTreeMap<String, u32>,
    }
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        ids: String,
        active: NodeRef,
        #[serde(default)]
        replicas: Vec<NodeRef>,
    }
    let text = super::read(path)?;
    let file: File = toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1);
        Problem::error(
            "",
            error.message().to_owned(),
            "the file holds `[[groups]]` with `ids`, `active`, `replicas`, and `[accounts]`",
        )
        .at(super::Origin::File { path: path.to_path_buf(), line })
    })?;
    for entry in &file.groups {
        parse_groups(&entry.ids)
            .map_err(|why| Problem::error("groups.ids", format!("{}: {why}", path.display()), ""))?;
    }
    placement.groups = file
        .groups
        .into_iter()
        .map(|entry| GroupConfig { ids: entry.ids, active: entry.active, replicas: entry.replicas })
        .collect();
    placement.accounts = file.accounts;
    Ok(())
}
