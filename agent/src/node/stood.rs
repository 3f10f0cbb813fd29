//! Groups for which this node was the last active that it knows of: what a restart must not forget.
//!
//! Owns: one file, written before the first change of an epoch is served. What can hurt: a node that comes back and
//! takes itself for a replica would put changes that only it has aside; so what stands here is merged first. One that
//! comes back while the coordinator is away goes on taking what its ring holds into its own stream, and serves nobody.
//! Refuses: deciding who is active.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use understudy_types::id::GroupId;

use crate::coordinator::record::GroupRecord;

/// The file, as it was written last.
pub(super) struct Stood {
    path: PathBuf,
    groups: BTreeMap<u32, GroupRecord>,
    changed: bool,
}

impl Stood {
    /// Reads the file; without one this node was never active.
    ///
    /// # Errors
    /// A file that cannot be read or is not ours: guessing would lose what it says.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join("stood.json");
        let groups = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| anyhow::anyhow!("`{}` cannot be read: {error}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(anyhow::anyhow!("`{}` cannot be read: {error}", path.display())),
        };
        Ok(Self { path, groups, changed: false })
    }

    pub(super) fn get(&self, group: GroupId) -> Option<&GroupRecord> {
        self.groups.get(&group.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupId, &GroupRecord)> {
        self.groups.iter().map(|(group, record)| (GroupId(*group), record))
    }

    /// Notes that this node stands for the group by this record; durable with the next [`Self::save`].
    pub(super) fn put(&mut self, group: GroupId, record: &GroupRecord) {
        if self.groups.get(&group.0).is_none_or(|known| !is_same(known, record)) {
            self.groups.insert(group.0, record.clone());
            self.changed = true;
        }
    }

    /// Nothing of the group is only here any more.
    pub(super) fn remove(&mut self, group: GroupId) {
        self.changed |= self.groups.remove(&group.0).is_some();
    }

    /// Makes what was noted durable.
    ///
    /// # Errors
    /// When the file cannot be written; nothing of what was noted may be served then.
    pub(super) fn save(&mut self) -> std::io::Result<()> {
        if self.changed {
            let text = serde_json::to_vec(&self.groups).map_err(std::io::Error::other)?;
            crate::durable::write(&self.path, &text)?;
            self.changed = false;
        }
        Ok(())
    }
}

/// What matters after a restart: who replicates it, and in which epoch.
fn is_same(a: &GroupRecord, b: &GroupRecord) -> bool {
    a.epoch == b.epoch && a.replicas == b.replicas && a.base == b.base
}
