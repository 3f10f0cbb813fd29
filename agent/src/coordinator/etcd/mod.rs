//! etcd as coordinator.
//!
//! Owns: the runtime on which the calls go on (`calls`, `leases`, `watch` over `members` and `connection`), and the
//! door of the seam. What can hurt: an etcd that is away, slow, frozen or compacted; each shows as the typed error that
//! fits. The client is written here, over `tonic`'s framing: what a lease needs is to know whether a request went out,
//! and to go on at another member when one is silent; and no compiler for protocol buffers is needed to build it.
//! Refuses: member changes, snapshots of etcd, users: those are the administrator's, with etcdctl.

mod calls;
mod connection;
mod leases;
mod members;
mod messages;
mod watch;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use understudy_types::id::ClusterId;

use self::calls::Shared;
use self::connection::{Endpoint, TlsFiles};
use self::members::Members;
use super::record;
use super::{Coordinator, CoordinatorError, OnOutcome, Sink, Snapshot, Txn, TxnOutcome, WatchHandle};
use crate::limits::ETCD_PASSWORD_BYTES_MAX;

/// Where etcd is and how one gets in.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `https://HOST:PORT` or `http://HOST:PORT` of each member.
    pub endpoints: Vec<String>,
    /// Certificate of etcd's authority, for `https`.
    pub authority: Option<PathBuf>,
    /// Certificate and key to show.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// Name, and the file whose first line is the password.
    pub user: Option<(String, PathBuf)>,
}

/// One handle. All handles of [`Coordinator::another`] share runtime and connections.
pub struct Etcd {
    shared: Arc<Shared>,
    runtime: Arc<OwnRuntime>,
}

/// Ends without waiting for what is under way: a handle may be dropped anywhere.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Etcd {
    /// Begins to connect, and does not wait for it.
    ///
    /// # Errors
    /// [`CoordinatorError::Config`] for options that cannot work.
    pub fn open(options: &Options, cluster: ClusterId, timeout: Duration) -> Result<Self, CoordinatorError> {
        let config = CoordinatorError::Config;
        if options.endpoints.is_empty() {
            return Err(config("`coordinator.endpoints` is empty".to_owned()));
        }
        let endpoints: Result<Vec<_>, _> = options.endpoints.iter().map(|url| Endpoint::parse(url)).collect();
        let endpoints = endpoints.map_err(config)?;
        let tls = TlsFiles { authority: options.authority.clone(), pair: options.pair.clone() };
        if endpoints.iter().any(|endpoint| endpoint.tls) {
            tls.load().map_err(config)?;
        }
        if let Some((_, file)) = &options.user {
            read_small(file, ETCD_PASSWORD_BYTES_MAX).map_err(config)?;
        }
        let runtime =
            Builder::new_multi_thread().worker_threads(2).thread_name("coordinator-etcd").enable_all().build();
        let runtime = runtime.map_err(|error| config(format!("cannot begin a thread: {error}")))?;
        let members = runtime.block_on(async { Members::start(endpoints, tls) });
        let shared = Shared {
            members,
            prefix: record::prefix(cluster),
            user: options.user.clone(),
            timeout: Mutex::new(timeout),
            token: Mutex::default(),
            leases: leases::Leases::default(),
        };
        Ok(Self { shared: Arc::new(shared), runtime: Arc::new(OwnRuntime(Some(runtime))) })
    }

    fn runtime(&self) -> Result<&Runtime, CoordinatorError> {
        // Taken only by its drop.
        self.runtime.0.as_ref().ok_or_else(|| self.shared.unreachable("it is shut down"))
    }
}

impl Coordinator for Etcd {
    fn snapshot(&mut self) -> Result<Snapshot, CoordinatorError> {
        self.runtime()?.block_on(self.shared.snapshot())
    }

    fn transact(&mut self, txn: &Txn) -> Result<TxnOutcome, CoordinatorError> {
        self.runtime()?.block_on(self.shared.transact(txn))
    }

    fn submit(&mut self, txn: Txn, done: OnOutcome) {
        match self.runtime() {
            Err(error) => done(Err(error)),
            Ok(runtime) => {
                let shared = self.shared.clone();
                runtime.spawn(async move { done(shared.transact(&txn).await) });
            }
        }
    }

    fn watch(&mut self, revision: u64, sink: Sink) -> Result<WatchHandle, CoordinatorError> {
        self.runtime()?.block_on(watch::begin(&self.shared, revision, sink))
    }

    fn set_timeout(&mut self, timeout: Duration) {
        *self.shared.timeout.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
    }

    fn timeout(&self) -> Duration {
        self.shared.timeout()
    }

    fn another(&self) -> Result<Box<dyn Coordinator>, CoordinatorError> {
        Ok(Box::new(Self { shared: self.shared.clone(), runtime: self.runtime.clone() }))
    }

    fn describe(&self) -> String {
        self.shared.describe()
    }
}

/// A small file, whole.
fn read_small(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    let read = read.map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    if read as u64 > bytes_max {
        return Err(format!("`{}` is larger than {bytes_max} bytes", path.display()));
    }
    Ok(bytes)
}
