//! The file of the embedded coordinator: one log of changes, which every process of the machine reads on.
//!
//! Owns: the lines (`CRC32C JSON`), what they add up to, and writing the file anew when it has grown. What can hurt: a
//! writer that dies in the middle of a line; a bad end is cut off by the next writer, for it was never acknowledged. A
//! bad line before good ones is damage, and nothing is served from such a file. A change is in the page cache before it
//! is on disk; so everybody reads under the lock that writers hold until both are true. After a failed fsync the file
//! is written anew without the change, since the kernel tells of a lost page only once. Refuses: locking; the caller
//! holds the lock.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::line::{Changed, Expiry, FORMAT, Line, Text, encode, good_line_after, line_at};
use crate::clock::BootNs;
use crate::coordinator::{KeyChange, Txn, Write};
use crate::durable;
use crate::limits::{COORDINATOR_BYTES_MAX, COORDINATOR_KEYS_MAX, EMBEDDED_LOG_BYTES_MAX, EMBEDDED_LOG_SLACK_BYTES};

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("cannot {action} `{path}`: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("`{path}` is damaged at byte {at}: {reason}; stop the agents, repair or remove it, and start them again")]
    Damaged { path: PathBuf, at: u64, reason: &'static str },
}

/// Why a change was not written.
#[derive(Debug)]
pub(super) enum AppendError {
    /// It did not happen.
    NotDone(LogError),
    /// It may be there after a power cut.
    Unknown(LogError),
    /// It would go past a limit.
    Full(String),
}

/// What stands under a key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Vec<u8>,
    pub(super) revision: u64,
    expires: Option<Expiry>,
}

/// The log as far as this process has read it.
pub(super) struct Log {
    path: PathBuf,
    open: Option<Open>,
    /// Revision at which the file began that was opened first: changes before are not told.
    pub(super) base: u64,
    pub(super) revision: u64,
    pub(super) entries: BTreeMap<String, Entry>,
    /// Of keys and values.
    bytes: usize,
}

struct Open {
    file: File,
    inode: u64,
    offset: u64,
}

/// What reading on found.
#[derive(Default)]
pub(super) struct ReadOn {
    pub(super) changes: Vec<KeyChange>,
    /// Changes between the last ones and these are not known.
    pub(super) gap: bool,
}

impl Log {
    pub(super) fn new(path: &Path) -> Self {
        let path = path.to_path_buf();
        Self { path, open: None, base: 0, revision: 0, entries: BTreeMap::new(), bytes: 0 }
    }

    /// Makes an empty log if there is none. Under the exclusive lock.
    pub(super) fn create(&self) -> Result<(), LogError> {
        if self.path.exists() {
            return Ok(());
        }
        // 1 as in etcd, so that a revision of 0 is never one of a key.
        let first = encode(&Line::Begin { format: FORMAT, revision: 1, keys: 0 }).unwrap_or_default();
        durable::write(&self.path, &first).map_err(self.io("write"))
    }

    /// Whether the file differs from what was read. Needs no lock.
    pub(super) fn stale(&self) -> Result<bool, LogError> {
        let now = std::fs::metadata(&self.path).map_err(self.io("look at"))?;
        Ok(self.open.as_ref().is_none_or(|open| open.inode != now.ino() || open.offset != now.len()))
    }

    /// Reads what others have written. Under the lock; `exclusive` cuts a bad end off.
    pub(super) fn read_on(&mut self, exclusive: bool) -> Result<ReadOn, LogError> {
        let mut found = ReadOn::default();
        loop {
            self.read_tail(exclusive, &mut found)?;
            let inode = std::fs::metadata(&self.path).map_err(self.io("look at"))?.ino();
            if self.open.as_ref().is_some_and(|open| open.inode == inode) {
                return Ok(found);
            }
            let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(self.io("open"))?;
            // Of the file that was opened, not of the name.
            let inode = file.metadata().map_err(self.io("look at"))?.ino();
            let first = self.open.is_none();
            let before = std::mem::replace(&mut self.revision, 0);
            self.entries.clear();
            self.bytes = 0;
            self.open = Some(Open { file, inode, offset: 0 });
            self.read_begin()?;
            if first {
                self.base = self.revision;
            } else if self.revision != before {
                found.gap = true;
            }
        }
    }

    /// The first line and the keys after it. The file came there whole, by a rename.
    fn read_begin(&mut self) -> Result<(), LogError> {
        let bytes = self.unread()?;
        let mut at = 0;
        let mut left = None;
        while left != Some(0) {
            let Some((line, next)) = line_at(&bytes, at) else {
                return Err(self.damaged(at, "no beginning that can be read"));
            };
            match (line, &mut left) {
                (Line::Begin { format: FORMAT, revision, keys }, None) => {
                    self.revision = revision;
                    left = Some(keys);
                }
                (Line::Begin { .. }, None) => return Err(self.damaged(at, "written by another version")),
                (Line::Keep { key, value, revision, expires }, Some(left)) => {
                    let Some(value) = value.bytes() else { return Err(self.damaged(at, "not hexadecimal")) };
                    self.put(key, Entry { value, revision, expires });
                    *left -= 1;
                }
                _ => return Err(self.damaged(at, "a line out of place")),
            }
            at = next;
        }
        self.moved_on(at);
        Ok(())
    }

    fn read_tail(&mut self, exclusive: bool, found: &mut ReadOn) -> Result<(), LogError> {
        if self.open.is_none() {
            return Ok(());
        }
        let bytes = self.unread()?;
        let mut at = 0;
        while at < bytes.len() {
            let Some((line, next)) = line_at(&bytes, at) else {
                if good_line_after(&bytes, at) {
                    return Err(self.damaged(at, "a bad line before good ones"));
                }
                self.moved_on(at);
                if let (true, Some(open)) = (exclusive, &self.open) {
                    open.file.set_len(open.offset).and_then(|()| open.file.sync_all()).map_err(self.io("cut"))?;
                }
                return Ok(());
            };
            let Line::Change { revision, keys } = line else {
                return Err(self.damaged(at, "a line out of place"));
            };
            if revision != self.revision + 1 {
                return Err(self.damaged(at, "a revision out of order"));
            }
            for Changed { key, value, expires } in keys {
                let value = match value.map(Text::bytes) {
                    Some(None) => return Err(self.damaged(at, "not hexadecimal")),
                    value => value.flatten(),
                };
                found.changes.push(KeyChange { key: key.clone(), value: value.clone(), revision });
                match value {
                    Some(value) => self.put(key, Entry { value, revision, expires }),
                    None => self.remove(&key),
                }
            }
            self.revision = revision;
            at = next;
        }
        self.moved_on(at);
        Ok(())
    }

    /// What comes after what was read.
    fn unread(&self) -> Result<Vec<u8>, LogError> {
        let Some(open) = &self.open else { return Ok(Vec::new()) };
        let end = open.file.metadata().map_err(self.io("look at"))?.len();
        if end > EMBEDDED_LOG_BYTES_MAX {
            return Err(self.damaged(0, "longer than such a log can be"));
        }
        if end < open.offset {
            return Err(self.damaged(0, "shorter than it was"));
        }
        let mut bytes = vec![0; usize::try_from(end - open.offset).unwrap_or(0)];
        open.file.read_exact_at(&mut bytes, open.offset).map_err(self.io("read"))?;
        Ok(bytes)
    }

    fn moved_on(&mut self, by: usize) {
        if let Some(open) = &mut self.open {
            open.offset += by as u64;
        }
    }

    fn put(&mut self, key: String, entry: Entry) {
        self.remove(&key);
        self.bytes += key.len() + entry.value.len();
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= key.len() + entry.value.len();
        }
    }

    /// Whether any key's time is over.
    pub(super) fn any_expired(&self, boot: &str, now: BootNs) -> bool {
        self.entries.values().any(|entry| entry.expires.as_ref().is_some_and(|expiry| expiry.over(boot, now)))
    }

    /// Takes keys away whose time is over. Under the exclusive lock, everything read.
    pub(super) fn purge(&mut self, boot: &str, now: BootNs) -> Result<Vec<KeyChange>, AppendError> {
        let over = |entry: &Entry| entry.expires.as_ref().is_some_and(|expiry| expiry.over(boot, now));
        let keys = self.entries.iter().filter(|(_, entry)| over(entry)).map(|(key, _)| key.clone());
        let keys: Vec<_> = keys.map(|key| Changed { key, value: None, expires: None }).collect();
        self.append(keys)
    }

    /// Whether a transaction's conditions hold.
    pub(super) fn holds(&self, txn: &Txn) -> bool {
        txn.conditions.iter().all(|condition| {
            let (key, revision) = condition.key_and_revision();
            self.entries.get(key).map_or(0, |entry| entry.revision) == revision
        })
    }

    /// Writes a transaction whose conditions hold. Under the exclusive lock, everything read.
    pub(super) fn write(&mut self, txn: &Txn, boot: &str, now: BootNs) -> Result<Vec<KeyChange>, AppendError> {
        let mut keys = Vec::new();
        let (mut count, mut bytes) = (self.entries.len(), self.bytes);
        for write in &txn.writes {
            let there = self.entries.get(write.key());
            match write {
                Write::Put { key, value, ttl_ms } => {
                    count += usize::from(there.is_none());
                    bytes += key.len() + value.len();
                    bytes -= there.map_or(0, |entry| key.len() + entry.value.len());
                    let expires = ttl_ms.map(|ms| Expiry::new(boot, now, ms));
                    keys.push(Changed { key: key.clone(), value: Some(Text::of(value)), expires });
                }
                Write::Delete { key } if there.is_some() => {
                    keys.push(Changed { key: key.clone(), value: None, expires: None });
                }
                Write::Delete { .. } => {}
            }
        }
        if count > COORDINATOR_KEYS_MAX || bytes > COORDINATOR_BYTES_MAX {
            let limits = format!("{COORDINATOR_KEYS_MAX} keys and {COORDINATOR_BYTES_MAX} bytes");
            return Err(AppendError::Full(format!("`{}` would go past {limits}", self.path.display())));
        }
        self.append(keys)
    }

    /// Durable when it returns. Nothing to write is nothing written.
    fn append(&mut self, keys: Vec<Changed>) -> Result<Vec<KeyChange>, AppendError> {
        let Some(open) = self.open.as_ref().filter(|_| !keys.is_empty()) else { return Ok(Vec::new()) };
        let line = encode(&Line::Change { revision: self.revision + 1, keys });
        let Some(line) = line else {
            return Err(AppendError::Full("a change that cannot be written as a line".to_owned()));
        };
        if let Err(error) = open.file.write_all_at(&line, open.offset) {
            // What is there of it has no end, so it is no line, whether it is cut off or not.
            let _ = open.file.set_len(open.offset);
            return Err(AppendError::NotDone(self.io("write")(error)));
        }
        if let Err(error) = open.file.sync_data() {
            let error = self.io("sync")(error);
            let _ = open.file.set_len(open.offset);
            return Err(match self.rewrite() {
                Ok(()) => AppendError::NotDone(error),
                Err(_) => AppendError::Unknown(error),
            });
        }
        let mut found = ReadOn::default();
        self.read_tail(true, &mut found).map_err(AppendError::Unknown)?;
        Ok(found.changes)
    }

    /// Writes the file anew if most of it is history.
    pub(super) fn tidy(&mut self) -> Result<(), LogError> {
        let grown =
            self.open.as_ref().is_some_and(|open| open.offset > EMBEDDED_LOG_SLACK_BYTES + 8 * self.bytes as u64);
        if grown { self.rewrite() } else { Ok(()) }
    }

    /// Writes the file anew, with what there is and no history. Under the exclusive lock, everything read.
    pub(super) fn rewrite(&mut self) -> Result<(), LogError> {
        let begin = Line::Begin { format: FORMAT, revision: self.revision, keys: self.entries.len() };
        let keeps = self.entries.iter().map(|(key, entry)| Line::Keep {
            key: key.clone(),
            value: Text::of(&entry.value),
            revision: entry.revision,
            expires: entry.expires.clone(),
        });
        let mut bytes = Vec::new();
        for line in std::iter::once(begin).chain(keeps) {
            bytes.extend(encode(&line).unwrap_or_default());
        }
        durable::write(&self.path, &bytes).map_err(self.io("write"))?;
        let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(self.io("open"))?;
        let inode = file.metadata().map_err(self.io("look at"))?.ino();
        self.open = Some(Open { file, inode, offset: bytes.len() as u64 });
        Ok(())
    }

    fn io(&self, action: &'static str) -> impl FnOnce(io::Error) -> LogError + use<> {
        let path = self.path.clone();
        move |source| LogError::Io { action, path, source }
    }

    fn damaged(&self, at: usize, reason: &'static str) -> LogError {
        let at = self.open.as_ref().map_or(0, |open| open.offset) + at as u64;
        LogError::Damaged { path: self.path.clone(), at, reason }
    }
}

#[cfg(test)]
mod tests;
