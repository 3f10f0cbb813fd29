//! A store that keeps mailboxes in memory, behind the same trait as a real one.
//!
//! Owns: the model: what each operation means, without files, locks or processes. Copies of a [`MemoryStore`] share one
//! store, so that several workers can be given one each. What can hurt: a model that is kinder than Dovecot would make
//! every test that uses it worthless; so both pass [`super::conformance`]. Refuses: knowing an account that was not
//! named before ([`MemoryStore::add_account`]), as a store with a user database does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use understudy_types::id::{BlobId, MailboxGuid};
use understudy_types::op::Op;

use super::{ApplyItem, DumpOptions, MailboxMark, Outcome, RaiseGap, Status, Store, StoreError};

mod account;
mod message;

use account::Account;

/// Where a store in memory finds the bodies that it is told to save, and puts those of a dump.
pub trait BodyPlace: Send + Sync + std::fmt::Debug {
    /// The body at a path.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>>;

    /// Puts a body into the spool.
    ///
    /// # Errors
    /// When it cannot be written, or there is no spool.
    fn spool(&self, blob: BlobId, body: &[u8]) -> std::io::Result<()>;
}

/// Files.
#[derive(Debug)]
struct Files {
    spool: Option<PathBuf>,
}

impl BodyPlace for Files {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn spool(&self, blob: BlobId, body: &[u8]) -> std::io::Result<()> {
        let spool = self.spool.as_ref().ok_or_else(|| std::io::Error::other("no spool was given"))?;
        put_into(spool, blob, body)
    }
}

/// A handle to a store in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    accounts: Arc<Mutex<BTreeMap<String, Account>>>,
    bodies: Arc<dyn BodyPlace>,
}

impl MemoryStore {
    /// An empty store that puts the bodies of a dump into `spool`, if one is given.
    #[must_use]
    pub fn new(spool: Option<PathBuf>) -> Self {
        Self::with_bodies(Arc::new(Files { spool }))
    }

    /// An empty store whose bodies are not in files.
    #[must_use]
    pub fn with_bodies(bodies: Arc<dyn BodyPlace>) -> Self {
        Self { accounts: Arc::default(), bodies }
    }

    /// Makes an account known, empty but for what the store makes by itself: nothing.
    pub fn add_account(&self, name: &str) {
        self.lock().entry(name.to_owned()).or_default();
    }

    /// A user of this account logs in, for tests.
    pub fn log_in(&self, account: &str) {
        if let Some(account) = self.lock().get_mut(account) {
            account.sessions += 1;
        }
    }

    /// Sessions of this account, for tests.
    #[must_use]
    pub fn sessions(&self, account: &str) -> u64 {
        self.lock().get(account).map_or(0, |account| account.sessions)
    }

    /// Body of a message, for tests.
    #[must_use]
    pub fn body(&self, account: &str, mailbox: MailboxGuid, uid: u32) -> Option<Vec<u8>> {
        self.lock().get(account)?.mailboxes.get(&mailbox)?.messages.get(&uid).map(|message| message.body.to_vec())
    }

    /// Forgets which messages were here once, as a store does after a while.
    pub fn forget_expunged(&self) {
        self.lock().values_mut().flat_map(|a| a.mailboxes.values_mut()).for_each(|folder| folder.expunged.clear());
    }

    // A panic of another test thread does not make the data wrong: every operation is whole or not there.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn apply(&mut self, account: &str, items: &[ApplyItem]) -> Result<Vec<Outcome>, StoreError> {
        let mut accounts = self.lock();
        let mut known = accounts.get_mut(account);
        let mut stopped = false;
        let outcomes = items.iter().map(|item| {
            if stopped {
                return Outcome { status: Status::NotTried, detail: String::new() };
            }
            let outcome = match &mut known {
                Some(account) => account.apply(item, self.bodies.as_ref()),
                None => failed(Status::UnknownUser, "user is not known"),
            };
            stopped = !matches!(outcome.status, Status::Applied | Status::AlreadySo);
            outcome
        });
        Ok(outcomes.collect())
    }

    fn dump(&mut self, account: &str, options: DumpOptions, sink: &mut dyn FnMut(Op)) -> Result<(), StoreError> {
        // The state of one moment; the lock is not held while somebody else's code runs.
        let state = self.lock().get(account).cloned();
        let Some(state) = state else { return Err(StoreError::UnknownAccount(account.to_owned())) };
        for op in state.dump(options.messages, options.bodies) {
            if let (true, Op::MessageSaved { message, .. }) = (options.bodies, &op) {
                let body = state.mailboxes.get(&message.mailbox).and_then(|m| m.messages.get(&message.uid));
                if let (Some(body), Some(blob)) = (body, message.blob) {
                    self.bodies.spool(blob, &body.body).map_err(|e| failed_dump(account, &e.to_string()))?;
                }
            }
            sink(op);
        }
        Ok(())
    }

    fn accounts(&mut self, sink: &mut dyn FnMut(String)) -> Result<(), StoreError> {
        let names: Vec<String> = self.lock().keys().cloned().collect();
        names.into_iter().for_each(sink);
        Ok(())
    }

    fn raise(&mut self, account: &str, gap: RaiseGap) -> Result<Vec<MailboxMark>, StoreError> {
        let mut accounts = self.lock();
        let known = accounts.get_mut(account).ok_or_else(|| StoreError::UnknownAccount(account.to_owned()))?;
        known.raise(gap).map_err(|detail| StoreError::Failed { account: account.to_owned(), detail })
    }

    fn kick(&mut self, accounts: &[String]) -> Result<u64, StoreError> {
        let mut known = self.lock();
        let chosen = known.iter_mut().filter(|(name, _)| accounts.is_empty() || accounts.contains(name));
        Ok(chosen.map(|(_, account)| std::mem::take(&mut account.sessions)).sum())
    }

    fn version(&mut self) -> Result<String, StoreError> {
        Ok("memory".to_owned())
    }
}

fn put_into(spool: &Path, blob: BlobId, body: &[u8]) -> std::io::Result<()> {
    let name = spool.join(blob.to_string());
    if name.exists() {
        return Ok(());
    }
    let half = spool.join(format!("tmp.{}.{blob}", std::process::id()));
    fs::write(&half, body)?;
    fs::rename(half, name)
}

fn failed_dump(account: &str, detail: &str) -> StoreError {
    StoreError::Failed { account: account.to_owned(), detail: detail.to_owned() }
}

fn failed(status: Status, detail: impl Into<String>) -> Outcome {
    Outcome { status, detail: detail.into() }
}

/// An operation that changed something, or nothing.
fn done(changed: bool) -> Outcome {
    Outcome { status: if changed { Status::Applied } else { Status::AlreadySo }, detail: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_in_memory_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("spool");
        fs::create_dir(&spool).unwrap();
        let mut store = MemoryStore::new(Some(spool.clone()));
        let handle = store.clone();
        let mut n = 0;
        let mut fresh = || {
            n += 1;
            let name = format!("account-{n}");
            handle.add_account(&name);
            name
        };
        let ran = super::super::conformance::run(&mut store, &mut fresh, folder.path(), &spool);
        assert!(ran.unwrap() >= 10);
    }

    #[test]
    fn sessions_of_the_named_accounts_end() {
        let mut store = MemoryStore::new(None);
        for name in ["a", "b", "c"] {
            store.add_account(name);
            store.log_in(name);
        }
        store.log_in("a");
        assert_eq!(store.kick(&["a".into(), "nobody".into()]).unwrap(), 2);
        assert_eq!(["a", "b", "c"].map(|name| store.sessions(name)), [0, 1, 1]);
        assert_eq!(store.kick(&[]).unwrap(), 2);
    }
}
