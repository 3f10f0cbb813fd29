//! The coordinator of one machine: a directory that all its agents see, for single nodes and for trials.
//!
//! Owns: the lock that makes a transaction one, time-outs, and keys that go away by themselves. What can hurt: a
//! process that is stopped while it holds the lock; all others then get `Unreachable` within their time-out, until it
//! goes on or ends. A disk that hangs cannot be interrupted: [`Coordinator::submit`] therefore hands over to a thread,
//! and `client` bounds the wait. Times to live are counted in CLOCK_BOOTTIME of this machine. Refuses: a directory
//! that several machines share: locks and times would not be the same for all.

mod line;
mod log;
mod watch;

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Sender, TrySendError, bounded};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use understudy_types::id::ClusterId;

use self::log::{AppendError, Log, LogError};
use super::{Coordinator, CoordinatorError, KeyValue, OnOutcome, Sink, Snapshot, Txn, TxnOutcome, WatchHandle};
use crate::clock;
use crate::limits::{COORDINATOR_QUEUE_MAX, EMBEDDED_LOCK_PAUSE_MS};

/// One handle to the directory.
pub struct Embedded {
    directory: PathBuf,
    log: Log,
    boot: String,
    timeout: Arc<Mutex<Duration>>,
    /// Does what is submitted, one after the other. Begun with the first.
    worker: Option<Sender<(Txn, OnOutcome)>>,
}

/// Why an exclusive or shared look was not possible.
enum Look {
    Locked(String),
    Failed(String),
}

impl Embedded {
    /// Opens the cluster's part of `root`; makes it if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(root: &Path, cluster: ClusterId, timeout: Duration) -> Result<Self, CoordinatorError> {
        let directory = root.join(format!("{:016x}", cluster.0));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|error| CoordinatorError::Config(format!("cannot make `{}`: {error}", directory.display())))?;
        let mut this = Self::at(directory, Arc::new(Mutex::new(timeout)))?;
        let found = this.locked(true, |log, _| log.create().map_err(failed));
        found.map_err(|look| this.unreachable(look))?;
        Ok(this)
    }

    fn at(directory: PathBuf, timeout: Arc<Mutex<Duration>>) -> Result<Self, CoordinatorError> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = boot.map_err(|error| CoordinatorError::Config(format!("cannot read the boot's id: {error}")))?;
        let log = Log::new(&directory.join("log"));
        Ok(Self { log, directory, boot: boot.trim().to_owned(), timeout, worker: None })
    }

    /// Forgets the history: a watch from an earlier revision is lost.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn compact(&mut self) -> Result<(), CoordinatorError> {
        let done = self.locked(true, |log, _| {
            log.read_on(true).map_err(failed)?;
            log.rewrite().map_err(failed)
        });
        done.map_err(|look| self.unreachable(look))
    }

    /// Does something with the log under its lock.
    fn locked<T>(&mut self, exclusive: bool, job: impl FnOnce(&mut Log, &str) -> Result<T, Look>) -> Result<T, Look> {
        let _lock = self.lock(exclusive)?;
        let done = job(&mut self.log, &self.boot);
        if matches!(done, Err(Look::Failed(_))) {
            // What was read may not be what is there: read it all again next time.
            self.log = Log::new(&self.directory.join("log"));
        }
        done
    }

    fn lock(&self, exclusive: bool) -> Result<Flock<File>, Look> {
        let path = self.directory.join("lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = file.map_err(|error| Look::Failed(format!("cannot open `{}`: {error}", path.display())))?;
        let how = if exclusive { FlockArg::LockExclusiveNonblock } else { FlockArg::LockSharedNonblock };
        let end = clock::mono().after(self.timeout());
        loop {
            match Flock::lock(file, how) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
                Err((_, error)) => return Err(Look::Failed(format!("cannot lock `{}`: {error}", path.display()))),
            }
            if clock::mono() >= end {
                return Err(Look::Locked(format!("`{}` is locked by another process", path.display())));
            }
            std::thread::sleep(Duration::from_millis(EMBEDDED_LOCK_PAUSE_MS));
        }
    }

    fn unreachable(&self, look: Look) -> CoordinatorError {
        let (Look::Locked(reason) | Look::Failed(reason)) = look;
        CoordinatorError::Unreachable { of: self.describe(), reason }
    }

    fn append_error(&self, error: AppendError) -> CoordinatorError {
        let of = self.describe();
        match error {
            AppendError::NotDone(error) => CoordinatorError::Unreachable { of, reason: error.to_string() },
            AppendError::Unknown(error) => CoordinatorError::Unknown { of, reason: error.to_string() },
            AppendError::Full(reason) => CoordinatorError::Refused { of, reason },
        }
    }
}

fn failed(error: LogError) -> Look {
    Look::Failed(error.to_string())
}

impl Coordinator for Embedded {
    fn snapshot(&mut self) -> Result<Snapshot, CoordinatorError> {
        let look = |log: &mut Log, boot: &str, exclusive: bool| {
            log.read_on(exclusive).map_err(failed)?;
            if log.any_expired(boot, clock::boot()) {
                if !exclusive {
                    return Ok(None);
                }
                match log.purge(boot, clock::boot()) {
                    Ok(_) => {}
                    Err(AppendError::NotDone(error) | AppendError::Unknown(error)) => return Err(failed(error)),
                    Err(AppendError::Full(reason)) => return Err(Look::Failed(reason)),
                }
            }
            let keys = log.entries.iter();
            let keys = keys.map(|(key, e)| KeyValue { key: key.clone(), value: e.value.clone(), revision: e.revision });
            Ok(Some(Snapshot { keys: keys.collect(), revision: log.revision }))
        };
        let found = match self.locked(false, |log, boot| look(log, boot, false)) {
            Ok(None) => self.locked(true, |log, boot| look(log, boot, true)),
            found => found,
        };
        found.map(Option::unwrap_or_default).map_err(|look| self.unreachable(look))
    }

    fn transact(&mut self, txn: &Txn) -> Result<TxnOutcome, CoordinatorError> {
        txn.check().map_err(|reason| CoordinatorError::Refused { of: self.describe(), reason })?;
        let done = self.locked(true, |log, boot| {
            log.read_on(true).map_err(failed)?;
            Ok(write(log, boot, txn))
        });
        let done = done.map_err(|look| self.unreachable(look))?;
        if matches!(done, Err(AppendError::Unknown(_) | AppendError::NotDone(_))) {
            self.log = Log::new(&self.directory.join("log"));
        }
        done.map_err(|error| self.append_error(error))
    }

    fn submit(&mut self, txn: Txn, done: OnOutcome) {
        if self.worker.is_none() {
            let (sender, jobs) = bounded::<(Txn, OnOutcome)>(COORDINATOR_QUEUE_MAX);
            let handle = Self::at(self.directory.clone(), self.timeout.clone());
            let begun = handle.map_err(|error| error.to_string()).and_then(|mut handle| {
                let work = move || jobs.iter().for_each(|(txn, done)| done(handle.transact(&txn)));
                let thread = std::thread::Builder::new().name("coordinator-dir".to_owned()).spawn(work);
                thread.map_err(|error| error.to_string())
            });
            if let Err(reason) = begun {
                return done(Err(CoordinatorError::Unreachable { of: self.describe(), reason }));
            }
            self.worker = Some(sender);
        }
        let Some(worker) = &self.worker else { return };
        if let Err(TrySendError::Full((_, done)) | TrySendError::Disconnected((_, done))) = worker.try_send((txn, done))
        {
            let reason = "its disk does not answer, and too many transactions wait for it".to_owned();
            done(Err(CoordinatorError::Unreachable { of: self.describe(), reason }));
        }
    }

    fn watch(&mut self, revision: u64, sink: Sink) -> Result<WatchHandle, CoordinatorError> {
        watch::begin(Self::at(self.directory.clone(), self.timeout.clone())?, revision, sink)
    }

    fn set_timeout(&mut self, timeout: Duration) {
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
    }

    fn timeout(&self) -> Duration {
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn another(&self) -> Result<Box<dyn Coordinator>, CoordinatorError> {
        Ok(Box::new(Self::at(self.directory.clone(), self.timeout.clone())?))
    }

    fn describe(&self) -> String {
        format!("embedded, {}", self.directory.display())
    }
}

/// Under the exclusive lock, everything read.
fn write(log: &mut Log, boot: &str, txn: &Txn) -> Result<TxnOutcome, AppendError> {
    log.purge(boot, clock::boot())?;
    if !log.holds(txn) {
        return Ok(TxnOutcome::Refused);
    }
    log.write(txn, boot, clock::boot())?;
    let revision = log.revision;
    if let Err(error) = log.tidy() {
        // What was written stands in the old file; the next transaction tries again.
        tracing::warn!(%error, "the log of the embedded coordinator cannot be written anew");
    }
    Ok(TxnOutcome::Done { revision })
}

#[cfg(test)]
mod tests;
