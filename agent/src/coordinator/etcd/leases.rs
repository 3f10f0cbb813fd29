//! Times to live in etcd: a lease of its own for each key that has one.
//!
//! Owns: which lease a key has, and when it was last kept alive. A lease lives twice the time to live that was asked
//! for, in whole seconds. So a write needs no round trip of its own as long as the lease was kept alive within one time
//! to live: half of it later that is done beside the write, one of it later before. What can hurt: a lease that ended;
//! etcd then refuses the write, which is done again with a new one. Refuses: to give leases back; they end by
//! themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::timeout;
use tonic::Status;

use super::calls::{Meaning, Shared, meaning};
use super::connection::Token;
use super::members::Chosen;
use super::messages::{LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use crate::clock::{self, BootNs};
use crate::coordinator::{Txn, Write};
use crate::limits::ETCD_LEASES_MAX;

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// By key.
#[derive(Default)]
pub(super) struct Leases {
    known: Mutex<HashMap<String, Lease>>,
}

#[derive(Clone, Copy)]
struct Lease {
    id: i64,
    ttl_ms: u64,
    /// When it was last asked to be kept alive and was.
    kept: BootNs,
    /// That is under way.
    keeping: bool,
}

/// What a lease needs before a write, by its age.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Beside,
    Before,
}

fn need(age_ns: u64, ttl_ms: u64) -> Need {
    let ttl_ns = ttl_ms.saturating_mul(1_000_000);
    match age_ns {
        age if age <= ttl_ns / 2 => Need::Nothing,
        age if age <= ttl_ns => Need::Beside,
        _ => Need::Before,
    }
}

/// etcd counts in seconds.
fn seconds(ttl_ms: u64) -> i64 {
    i64::try_from(ttl_ms.saturating_mul(2).div_ceil(1000) + 1).unwrap_or(i64::MAX)
}

impl Leases {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Lease>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the leases of the keys that a transaction writes.
    pub(super) fn forget(&self, txn: &Txn) {
        let mut known = self.known();
        for write in &txn.writes {
            if let Write::Put { key, .. } = write {
                known.remove(key);
            }
        }
    }
}

impl Shared {
    /// The lease for a write of `key`, with at least `ttl_ms` to live.
    pub(super) async fn lease(
        self: &Arc<Self>,
        key: &str,
        ttl_ms: u64,
        chosen: &Chosen,
        token: Option<&Token>,
    ) -> Result<i64, Status> {
        let now = clock::boot();
        let known = self.leases.known().get(key).copied().filter(|lease| lease.ttl_ms == ttl_ms);
        if let Some(lease) = known {
            match need(now.since_ns(lease.kept), ttl_ms) {
                Need::Nothing => return Ok(lease.id),
                Need::Beside => {
                    self.keep_beside(key, lease, chosen.clone(), token.cloned());
                    return Ok(lease.id);
                }
                Need::Before if self.keep(key, lease, chosen, token).await? => return Ok(lease.id),
                Need::Before => {}
            }
        }
        if known.is_none() && self.leases.known().len() >= ETCD_LEASES_MAX {
            let why = format!("etcdserver: more than {ETCD_LEASES_MAX} keys with a time to live");
            return Err(Status::failed_precondition(why));
        }
        let grant = LeaseGrantRequest { ttl: seconds(ttl_ms) };
        let granted: LeaseGrantResponse = chosen.connection.call(GRANT, grant, token).await?;
        let lease = Lease { id: granted.id, ttl_ms, kept: now, keeping: false };
        self.leases.known().insert(key.to_owned(), lease);
        Ok(granted.id)
    }

    /// Keeps it alive. False if it is over.
    async fn keep(&self, key: &str, lease: Lease, chosen: &Chosen, token: Option<&Token>) -> Result<bool, Status> {
        let now = clock::boot();
        let ask = LeaseKeepAliveRequest { id: lease.id };
        let kept = chosen.connection.call::<_, LeaseKeepAliveResponse>(KEEP_ALIVE, ask, token).await;
        let lives = match kept {
            Ok(answer) => answer.ttl > 0,
            Err(status) if meaning(&status) == Meaning::Lease => false,
            Err(status) => return Err(status),
        };
        let mut known = self.leases.known();
        if lives && let Some(known) = known.get_mut(key).filter(|known| known.id == lease.id) {
            known.kept = now;
        }
        Ok(lives)
    }

    fn keep_beside(self: &Arc<Self>, key: &str, lease: Lease, chosen: Chosen, token: Option<Token>) {
        let mut known = self.leases.known();
        if known.get_mut(key).is_none_or(|known| std::mem::replace(&mut known.keeping, true)) {
            return;
        }
        drop(known);
        let (shared, key) = (self.clone(), key.to_owned());
        tokio::spawn(async move {
            // What fails is done again beside the next write, or before it.
            let _ = timeout(shared.timeout(), shared.keep(&key, lease, &chosen, token.as_ref())).await;
            if let Some(known) = shared.leases.known().get_mut(&key) {
                known.keeping = false;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_outlives_the_time_that_was_asked_for_whatever_its_age_at_the_write() {
        assert_eq!(need(50_000_000, 100), Need::Nothing);
        assert_eq!(need(50_000_001, 100), Need::Beside);
        assert_eq!(need(100_000_000, 100), Need::Beside);
        assert_eq!(need(100_000_001, 100), Need::Before);
        for ttl_ms in [1, 499, 500, 501, 1000, 1500, 86_400_000] {
            // The oldest that is written with without a round trip before.
            let left_ms = u64::try_from(seconds(ttl_ms)).expect("positive") * 1000 - ttl_ms;
            assert!(left_ms >= ttl_ms, "{ttl_ms}");
            assert!(seconds(ttl_ms) >= 2, "etcd's own minimum");
        }
    }
}
