//! Pauses: what an administrator has stopped for a while, by account, group, node, peer or for the whole cluster.
//!
//! Owns: the pauses in force as threads share them, and this node's own in a file. Those of the cluster come from the
//! coordinator; somebody else brings them. What can hurt: a pause that nobody remembers; each has a reason, an owner,
//! and may have an end, and `status` shows all of them. Refuses: acting; those who would act ask here first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};
use understudy_types::id::{GroupId, NodeId};

use crate::coordinator::record::{PauseRecord, Paused, Scope};
use crate::limits::PAUSES_MAX;

/// Where pauses are kept: the coordinator, or this node's file when there is none.
pub trait Keeper: Send + Sync {
    /// Keeps a pause under an id that nobody has.
    ///
    /// # Errors
    /// Why it cannot be kept, for the administrator.
    fn keep(&self, id: &str, pause: &PauseRecord) -> Result<(), String>;

    /// Ends a pause. `false`: there is none of this id.
    ///
    /// # Errors
    /// Why it cannot be ended, for the administrator.
    fn end(&self, id: &str) -> Result<bool, String>;
}

#[derive(Default)]
struct State {
    path: Option<PathBuf>,
    /// This node's own.
    local: BTreeMap<String, PauseRecord>,
    /// The coordinator's.
    cluster: BTreeMap<String, PauseRecord>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    id: String,
    #[serde(flatten)]
    pause: PauseRecord,
}

/// The pauses as threads share them.
#[derive(Clone, Default)]
pub struct Pauses(Arc<RwLock<State>>);

impl Pauses {
    /// Reads this node's own from their file, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read: going on would end every pause in silence.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let rows: Vec<Row> = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let local = rows.into_iter().map(|row| (row.id, row.pause)).collect();
        let state = State { path: Some(path.to_path_buf()), local, cluster: BTreeMap::new() };
        Ok(Self(Arc::new(RwLock::new(state))))
    }

    /// The coordinator's pauses, all of them.
    pub fn set_cluster(&self, pauses: impl IntoIterator<Item = (String, PauseRecord)>) {
        self.write().cluster = pauses.into_iter().take(PAUSES_MAX).collect();
    }

    /// One of the coordinator's pauses began, changed, or ended.
    pub fn change_cluster(&self, id: &str, pause: Option<PauseRecord>) {
        let mut state = self.write();
        match pause {
            Some(pause) if state.cluster.len() < PAUSES_MAX || state.cluster.contains_key(id) => {
                state.cluster.insert(id.to_owned(), pause);
            }
            Some(_) => tracing::warn!(id, "too many pauses in the coordinator; this one is not kept to"),
            None => drop(state.cluster.remove(id)),
        }
    }

    /// Every pause that holds: its id, and whether it is this node's own.
    #[must_use]
    pub fn all(&self, now_wall_ns: u64) -> Vec<(String, PauseRecord, bool)> {
        let state = self.read();
        let rows = |from: &BTreeMap<String, PauseRecord>, local| {
            let held = from.iter().filter(|(_, pause)| pause.holds(now_wall_ns));
            held.map(|(id, pause)| (id.clone(), pause.clone(), local)).collect::<Vec<_>>()
        };
        let mut all = rows(&state.cluster, false);
        all.extend(rows(&state.local, true));
        all
    }

    /// The pause that keeps operations of the whole group from being applied on `node`.
    #[must_use]
    pub fn group(&self, node: NodeId, group: GroupId, now_wall_ns: u64) -> Option<PauseRecord> {
        self.find(Paused::Replication, now_wall_ns, |scope| match scope {
            Scope::Cluster => true,
            Scope::Node(of) => *of == node.get(),
            Scope::Group(of) => *of == group.0,
            Scope::Account(_) | Scope::Peer(_) => false,
        })
    }

    /// The pause that keeps operations of this account alone from being applied.
    #[must_use]
    pub fn account(&self, account: &str, now_wall_ns: u64) -> Option<PauseRecord> {
        self.find(Paused::Replication, now_wall_ns, |scope| matches!(scope, Scope::Account(of) if of == account))
    }

    /// The pause that keeps this node from shipping anything to a peer.
    #[must_use]
    pub fn peer(&self, peer: NodeId, now_wall_ns: u64) -> Option<PauseRecord> {
        self.find(Paused::Replication, now_wall_ns, |scope| matches!(scope, Scope::Peer(of) if *of == peer.get()))
    }

    fn find(&self, what: Paused, now_wall_ns: u64, is_for: impl Fn(&Scope) -> bool) -> Option<PauseRecord> {
        let state = self.read();
        let mut all = state.local.values().chain(state.cluster.values());
        all.find(|pause| pause.what == what && pause.holds(now_wall_ns) && is_for(&pause.scope)).cloned()
    }

    // A thread that panicked left a whole state: each change is one assignment.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes this node's own, durably. What is over is forgotten on the way.
    fn change(&self, now_wall_ns: u64, change: impl FnOnce(&mut BTreeMap<String, PauseRecord>)) -> Result<(), String> {
        let mut state = self.write();
        let mut local = state.local.clone();
        local.retain(|_, pause| pause.holds(now_wall_ns));
        change(&mut local);
        if local.len() > PAUSES_MAX {
            return Err(format!("there are {PAUSES_MAX} pauses already; `understudy resume` some"));
        }
        if let Some(path) = &state.path {
            let rows: Vec<Row> = local.iter().map(|(id, pause)| Row { id: id.clone(), pause: pause.clone() }).collect();
            let text = serde_json::to_vec_pretty(&rows).map_err(|error| error.to_string())?;
            crate::durable::write(path, &text).map_err(|error| format!("`{}`: {error}", path.display()))?;
        }
        state.local = local;
        Ok(())
    }
}

impl Keeper for Pauses {
    fn keep(&self, id: &str, pause: &PauseRecord) -> Result<(), String> {
        self.change(pause.since_wall_ns, |local| drop(local.insert(id.to_owned(), pause.clone())))
    }

    fn end(&self, id: &str) -> Result<bool, String> {
        if !self.read().local.contains_key(id) {
            return Ok(false);
        }
        self.change(0, |local| drop(local.remove(id))).map(|()| true)
    }
}

/// A pause in a sentence.
#[must_use]
pub fn describe(pause: &PauseRecord, now_wall_ns: u64) -> String {
    let what = match pause.what {
        Paused::Failover => "failover",
        Paused::Replication => "replication",
    };
    let left = match pause.until_wall_ns {
        0 => "until it is resumed".to_owned(),
        until => format!("for {} s more", until.saturating_sub(now_wall_ns).div_ceil(1_000_000_000)),
    };
    format!("{what} of {} is paused by {}: {} ({left})", scope_name(&pause.scope), pause.owner, pause.reason)
}

/// What a pause is for, in words.
#[must_use]
pub fn scope_name(scope: &Scope) -> String {
    match scope {
        Scope::Cluster => "the cluster".to_owned(),
        Scope::Node(node) => format!("node {node}"),
        Scope::Group(group) => format!("group {group}"),
        Scope::Account(account) => format!("account `{account}`"),
        Scope::Peer(peer) => format!("peer {peer}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(scope: Scope, until_wall_ns: u64) -> PauseRecord {
        PauseRecord {
            what: Paused::Replication,
            scope,
            reason: "disk".into(),
            owner: "ops".into(),
            since_wall_ns: 1,
            until_wall_ns,
        }
    }

    fn node(raw: u16) -> NodeId {
        NodeId::new(raw).unwrap()
    }

    #[test]
    fn each_scope_stops_its_own_and_nothing_else() {
        let pauses = Pauses::default();
        let is = |pauses: &Pauses| {
            (
                pauses.group(node(2), GroupId(4), 5).is_some(),
                pauses.account("u@x", 5).is_some(),
                pauses.peer(node(3), 5).is_some(),
            )
        };
        for (scope, wanted) in [
            (Scope::Cluster, (true, false, false)),
            (Scope::Node(2), (true, false, false)),
            (Scope::Node(3), (false, false, false)),
            (Scope::Group(4), (true, false, false)),
            (Scope::Group(5), (false, false, false)),
            (Scope::Account("u@x".into()), (false, true, false)),
            (Scope::Account("v@x".into()), (false, false, false)),
            (Scope::Peer(3), (false, false, true)),
        ] {
            pauses.set_cluster([("a".to_owned(), pause(scope.clone(), 0))]);
            assert_eq!(is(&pauses), wanted, "{scope:?}");
            pauses.set_cluster([("a".to_owned(), PauseRecord { what: Paused::Failover, ..pause(scope, 0) })]);
            assert_eq!(is(&pauses), (false, false, false), "failover is another matter");
        }
    }

    #[test]
    fn a_nodes_own_pauses_outlive_it_until_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pauses.json");
        {
            let pauses = Pauses::open(&path).unwrap();
            pauses.keep("a", &pause(Scope::Group(4), 100)).unwrap();
            pauses.keep("b", &pause(Scope::Cluster, 0)).unwrap();
            pauses.keep("c", &pause(Scope::Cluster, 0)).unwrap();
            assert_eq!(pauses.end("c"), Ok(true));
            assert_eq!(pauses.end("c"), Ok(false));
        }
        let pauses = Pauses::open(&path).unwrap();
        assert_eq!(pauses.all(50).iter().map(|(id, ..)| id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(pauses.all(100).len(), 1, "its end has come");
        let fresh = PauseRecord { since_wall_ns: 200, ..pause(Scope::Cluster, 0) };
        pauses.keep("d", &fresh).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("\"a\""), "forgotten");
        std::fs::write(&path, "{").unwrap();
        assert!(Pauses::open(&path).is_err());
    }

    #[test]
    fn a_pause_is_told_with_who_why_and_how_long() {
        let text = describe(&pause(Scope::Account("u@x".into()), 61_500_000_000), 1_000_000_000);
        assert_eq!(text, "replication of account `u@x` is paused by ops: disk (for 61 s more)");
    }
}
