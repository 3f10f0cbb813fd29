//! Message bodies: those in the spools of nodes, and those in central storage.
//!
//! Owns: the simulated side of [`Bodies`] and of the store's [`BodyPlace`]. What can hurt: a body that exists somewhere
//! is not yet one that a replica can have; so reading by name goes through what the place really holds. Refuses: files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use understudy_agent::blob::BlobError;
use understudy_agent::blob::cache::{Bodies, Body};
use understudy_agent::store::memory::BodyPlace;
use understudy_types::id::BlobId;

#[derive(Debug, Default)]
struct State {
    central: BTreeMap<BlobId, Arc<[u8]>>,
    /// By node.
    spools: BTreeMap<u16, BTreeMap<BlobId, Arc<[u8]>>>,
    down: bool,
    /// Bodies that central storage lost or damaged.
    damaged: BTreeSet<BlobId>,
}

/// All bodies of a world; handles share them.
#[derive(Clone, Debug, Default)]
pub struct Central(Arc<Mutex<State>>);

/// How an upload went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    Durable,
    Failing,
    Lost,
}

impl Central {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Central storage answers, or does not.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// Moves a body from a node's spool to central storage.
    #[must_use]
    pub fn upload(&self, node: u16, blob: BlobId) -> Upload {
        let mut state = self.lock();
        if state.down {
            return Upload::Failing;
        }
        match state.spools.entry(node).or_default().remove(&blob) {
            Some(body) => {
                state.central.insert(blob, body);
                state.damaged.remove(&blob);
                Upload::Durable
            }
            None if state.central.contains_key(&blob) => Upload::Durable,
            None => Upload::Lost,
        }
    }

    /// What a node's spool holds.
    #[must_use]
    pub fn spooled(&self, node: u16) -> Vec<BlobId> {
        self.lock().spools.get(&node).map(|spool| spool.keys().copied().collect()).unwrap_or_default()
    }

    /// Damages one body of central storage.
    pub fn damage(&self, random: &mut crate::random::Random) {
        let mut state = self.lock();
        let held: Vec<BlobId> = state.central.keys().copied().collect();
        state.damaged.extend(random.pick(&held));
    }

    /// Whether central storage ever had the body.
    #[must_use]
    pub fn had(&self, blob: BlobId) -> bool {
        self.lock().central.contains_key(&blob)
    }
}

impl Bodies for Central {
    fn fetch(&self, id: BlobId) -> Result<Body, BlobError> {
        let state = self.lock();
        if state.down {
            return Err(BlobError::Remote { id, reason: "central storage is down".into() });
        }
        if !state.central.contains_key(&id) {
            return Err(BlobError::Missing(id));
        }
        if state.damaged.contains(&id) {
            return Err(BlobError::Damaged { id, actual: BlobId([0; 32]) });
        }
        Ok(Body::lent(PathBuf::from(format!("central/{id}"))))
    }
}

/// Where the store of one node reads and puts bodies.
#[derive(Clone, Debug)]
pub struct Place {
    pub node: u16,
    pub central: Central,
}

impl Place {
    /// Puts a body into the node's spool, as a delivery does; gives its name.
    #[must_use]
    pub fn put(&self, body: &[u8]) -> (BlobId, PathBuf) {
        let blob = BlobId(*blake3::hash(body).as_bytes());
        self.central.lock().spools.entry(self.node).or_default().insert(blob, body.into());
        (blob, PathBuf::from(format!("spool/{blob}")))
    }
}

impl BodyPlace for Place {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(BlobId::from_hex);
        let blob = name.ok_or(std::io::ErrorKind::InvalidInput)?;
        let state = self.central.lock();
        let body = if path.starts_with("central") {
            state.central.get(&blob)
        } else {
            state.spools.get(&self.node).and_then(|spool| spool.get(&blob))
        };
        Ok(body.ok_or(std::io::ErrorKind::NotFound)?.to_vec())
    }

    fn spool(&self, blob: BlobId, body: &[u8]) -> std::io::Result<()> {
        self.central.lock().spools.entry(self.node).or_default().insert(blob, body.into());
        Ok(())
    }
}
