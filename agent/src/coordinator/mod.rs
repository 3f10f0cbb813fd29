//! The coordinator: where leases, epochs and placement live, seen by every node of a cluster.
//!
//! Owns: what stands there (`record`), the seam [`Coordinator`] with its two sides (etcd, and a directory of one
//! machine), and the thread that the node talks to (`client`). What can hurt: a coordinator that is away, slow, or
//! answers late; each call ends within its time-out, and says whether the change may have happened. Refuses: deciding;
//! `failover` does. Refuses to try a transaction again that may have happened: the caller looks what is there.

pub mod client;
pub mod conformance;
pub mod embedded;
pub mod etcd;
pub mod record;
pub mod stats;

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use understudy_types::id::ClusterId;

use crate::config::Config;
use crate::config::model::CoordinatorKind;
use crate::limits::{
    COORDINATOR_KEY_BYTES_MAX, COORDINATOR_TIMEOUT_MS, COORDINATOR_TTL_MS_MAX, COORDINATOR_TXN_BYTES_MAX,
    COORDINATOR_TXN_MAX, COORDINATOR_VALUE_BYTES_MAX,
};

/// Why the coordinator did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// Nothing was changed: the request did not go out, or was turned away before it was looked at. It may go through
    /// later.
    #[error("coordinator `{of}` cannot be reached: {reason}")]
    Unreachable { of: String, reason: String },
    /// The request went out and no answer came: it may have happened, or may yet.
    #[error("coordinator `{of}` did not answer: {reason}")]
    Unknown { of: String, reason: String },
    /// Nothing was changed, and trying again will not help.
    #[error("coordinator `{of}` refused: {reason}")]
    Refused { of: String, reason: String },
    /// The administrator's to mend.
    #[error("coordinator: {0}")]
    Config(String),
}

/// One key and what stands there. Keys are without the cluster's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Vec<u8>,
    /// Revision of its last change.
    pub revision: u64,
}

/// Everything at one revision, in the order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub keys: Vec<KeyValue>,
    pub revision: u64,
}

/// A key that changed; `value` is `None` when it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    pub key: String,
    pub value: Option<Vec<u8>>,
    pub revision: u64,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// In the order of their revisions; a transaction is never torn apart.
    Changed(Vec<KeyChange>),
    /// The last word: from here on changes are missed. The caller takes a new snapshot.
    Lost(String),
}

/// What must hold for a transaction to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key's last change is of this revision. 0 = the key is not there.
    Revision {
        key: String,
        revision: u64,
    },
    Absent {
        key: String,
    },
}

impl Condition {
    fn key_and_revision(&self) -> (&str, u64) {
        match self {
            Self::Revision { key, revision } => (key, *revision),
            Self::Absent { key } => (key, 0),
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// With a `ttl_ms` the key goes away by itself, at the earliest after that time without another `Put`, and some
    /// seconds after twice that time. A backstop: nothing safe may rest on it.
    Put {
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    },
    Delete {
        key: String,
    },
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Writes all if all conditions hold, else nothing. A key is written once at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub conditions: Vec<Condition>,
    pub writes: Vec<Write>,
}

impl Txn {
    /// The first limit that it breaks, in words.
    fn check(&self) -> Result<(), String> {
        if self.conditions.len() > COORDINATOR_TXN_MAX || self.writes.len() > COORDINATOR_TXN_MAX {
            return Err(format!("a transaction has at most {COORDINATOR_TXN_MAX} conditions and as many writes"));
        }
        let mut written = BTreeSet::new();
        let mut bytes = 0;
        for key in self.conditions.iter().map(|c| c.key_and_revision().0).chain(self.writes.iter().map(Write::key)) {
            if key.is_empty() || key.len() > COORDINATOR_KEY_BYTES_MAX {
                return Err(format!("a key has 1 to {COORDINATOR_KEY_BYTES_MAX} bytes, `{key:.40}` does not"));
            }
        }
        for write in &self.writes {
            let key = write.key();
            if !written.insert(key) {
                return Err(format!("`{key}` is written twice"));
            }
            if let Write::Put { value, ttl_ms, .. } = write {
                bytes += value.len();
                if value.len() > COORDINATOR_VALUE_BYTES_MAX {
                    let bytes = value.len();
                    return Err(format!(
                        "the value of `{key}` has {bytes} bytes, the limit is {COORDINATOR_VALUE_BYTES_MAX}"
                    ));
                }
                if ttl_ms.is_some_and(|ms| ms == 0 || ms > COORDINATOR_TTL_MS_MAX) {
                    return Err(format!("the time to live of `{key}` is not from 1 to {COORDINATOR_TTL_MS_MAX} ms"));
                }
            }
        }
        if bytes > COORDINATOR_TXN_BYTES_MAX {
            return Err(format!(
                "the values of a transaction have {bytes} bytes, the limit is {COORDINATOR_TXN_BYTES_MAX}"
            ));
        }
        Ok(())
    }
}

/// How a transaction ended that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All was written, durably, at this revision.
    Done { revision: u64 },
    /// Some condition did not hold, and nothing was written.
    Refused,
}

/// Called once with the outcome of a submitted transaction, from any thread. It must not wait for anything.
pub type OnOutcome = Box<dyn FnOnce(Result<TxnOutcome, CoordinatorError>) + Send>;
/// Called with what a watch sees, from a thread of its own, in order. It may wait; the watch then waits too.
pub type Sink = Box<dyn FnMut(WatchEvent) + Send>;

/// Ends a watch when dropped. What is already on its way may still reach the sink.
pub struct WatchHandle(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send>);

impl fmt::Debug for WatchHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchHandle")
    }
}

/// The seam. Every call ends within the time-out, or a little later. Both sides pass [`conformance`].
pub trait Coordinator: Send {
    /// Everything under the cluster's prefix at one revision.
    ///
    /// # Errors
    /// [`CoordinatorError`]; nothing is changed either way.
    fn snapshot(&mut self) -> Result<Snapshot, CoordinatorError>;

    /// Writes all if all conditions hold, else nothing.
    ///
    /// # Errors
    /// [`CoordinatorError`]: only `Unknown` leaves open whether it happened.
    fn transact(&mut self, txn: &Txn) -> Result<TxnOutcome, CoordinatorError>;

    /// As [`Coordinator::transact`] without waiting: several may be under way, and end in any order.
    fn submit(&mut self, txn: Txn, done: OnOutcome);

    /// Changes after `revision`, each once and in order, until the handle is dropped or [`WatchEvent::Lost`].
    ///
    /// # Errors
    /// [`CoordinatorError`]; the sink is then never called.
    fn watch(&mut self, revision: u64, sink: Sink) -> Result<WatchHandle, CoordinatorError>;

    /// From now on, for all handles of [`Coordinator::another`].
    fn set_timeout(&mut self, timeout: Duration);

    /// The time-out in force.
    fn timeout(&self) -> Duration;

    /// Another handle for another thread.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn another(&self) -> Result<Box<dyn Coordinator>, CoordinatorError>;

    /// For people and for `status`.
    fn describe(&self) -> String;
}

/// Opens what the configuration names; `None` without a coordinator. Nothing is sent yet: whether it answers is seen
/// later.
///
/// # Errors
/// [`CoordinatorError::Config`], or what keeps the directory of the embedded one from being used.
pub fn open(config: &Config) -> Result<Option<Box<dyn Coordinator>>, CoordinatorError> {
    let of = &config.coordinator;
    let cluster: ClusterId = config.node.cluster.id();
    let timeout = Duration::from_millis(COORDINATOR_TIMEOUT_MS);
    Ok(match of.kind {
        CoordinatorKind::None => None,
        CoordinatorKind::Embedded => Some(Box::new(embedded::Embedded::open(&of.path, cluster, timeout)?)),
        CoordinatorKind::Etcd => {
            let options = etcd::Options {
                endpoints: of.endpoints.clone(),
                authority: of.ca.clone(),
                pair: match (&of.cert, &of.key) {
                    (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
                    (None, None) => None,
                    _ => {
                        let why = "`coordinator.cert` and `coordinator.key` are set together or not at all";
                        return Err(CoordinatorError::Config(why.to_owned()));
                    }
                },
                user: match (&of.user, &of.password_file) {
                    (Some(user), Some(file)) => Some((user.clone(), file.clone())),
                    (None, None) => None,
                    _ => {
                        let why = "`coordinator.user` and `coordinator.password_file` are set together or not at all";
                        return Err(CoordinatorError::Config(why.to_owned()));
                    }
                },
            };
            Some(Box::new(etcd::Etcd::open(&options, cluster, timeout)?))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, bytes: usize, ttl_ms: Option<u64>) -> Write {
        Write::Put { key: key.to_owned(), value: vec![b'x'; bytes], ttl_ms }
    }

    #[test]
    fn limits_of_a_transaction_are_checked_before_it_is_sent() {
        let writes = |writes: Vec<Write>| Txn { conditions: Vec::new(), writes }.check();
        assert_eq!(writes(vec![put("a", COORDINATOR_VALUE_BYTES_MAX, Some(1)), put("b", 0, None)]), Ok(()));
        for bad in [
            vec![put("a", COORDINATOR_VALUE_BYTES_MAX + 1, None)],
            vec![put("", 1, None)],
            vec![put(&"k".repeat(COORDINATOR_KEY_BYTES_MAX + 1), 1, None)],
            vec![put("a", 1, None), Write::Delete { key: "a".to_owned() }],
            vec![put("a", 1, Some(0))],
            vec![put("a", 1, Some(COORDINATOR_TTL_MS_MAX + 1))],
            (0..=COORDINATOR_TXN_MAX).map(|n| put(&n.to_string(), 1, None)).collect(),
            (0..=20).map(|n| put(&n.to_string(), COORDINATOR_VALUE_BYTES_MAX, None)).collect(),
        ] {
            assert!(writes(bad.clone()).is_err(), "{bad:?}");
        }
        let condition = Condition::Absent { key: String::new() };
        assert!(Txn { conditions: vec![condition], writes: Vec::new() }.check().is_err());
    }

    #[test]
    fn the_configuration_names_which_one_is_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = |text: &str| {
            let config = Config::from_toml(&format!("[node]\nid = 1\nname = \"a\"\n{text}")).expect("valid");
            open(&config).map(|coordinator| coordinator.map(|c| c.describe()))
        };
        assert_eq!(opened(""), Ok(None));
        let embedded = opened(&format!("[coordinator]\nkind = \"embedded\"\npath = \"{}\"\n", dir.path().display()));
        assert!(embedded.expect("opens").is_some_and(|name| name.starts_with("embedded, ")));
        let etcd = "[coordinator]\nkind = \"etcd\"\nendpoints = [\"http://127.0.0.1:1\"]\n";
        assert!(opened(etcd).expect("opens, though nobody answers").is_some_and(|name| name.starts_with("etcd, ")));
        for bad in ["endpoints = [\"https://127.0.0.1:1\"]", "endpoints = [\"x\"]"] {
            let text = format!("[coordinator]\nkind = \"etcd\"\n{bad}\n");
            assert!(matches!(opened(&text), Err(CoordinatorError::Config(_))), "{bad}");
        }
    }
}
