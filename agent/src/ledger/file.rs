//! The ledger's files: one for each day, replaced whole.
//!
//! Owns: the directory, the thread that writes. What can hurt: a disk that hangs; the thread alone waits for it, and
//! what it cannot take in the meantime is time in which nobody looked. Refuses: names that are not its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::{Sender, TrySendError, bounded};

use super::{DAY_MS, Ledger, Sight};
use crate::durable;
use crate::limits::{LEDGER_DAYS_MAX, LEDGER_SAVE_MS};

/// The ledger of a running node.
#[derive(Clone, Debug)]
pub struct Keeper {
    ledger: Arc<Mutex<Ledger>>,
    sights: Sender<(Vec<Sight>, u64)>,
}

fn path_of(directory: &Path, day: u64) -> PathBuf {
    directory.join(format!("{day}.json"))
}

/// Reads all days. What cannot be read is said and left alone.
#[must_use]
pub fn read(directory: &Path) -> Ledger {
    let mut ledger = Ledger::default();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = path.extension().is_some_and(|ext| ext == "json");
        let day = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()).filter(|_| is_ours);
        let Some(day) = day else { continue };
        let page = std::fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(std::io::Error::other));
        match page {
            Ok(page) => ledger.put(day, page),
            Err(error) => tracing::warn!(path = %path.display(), %error, "a day of the availability ledger is lost"),
        }
    }
    ledger
}

/// Writes what changed, and removes what is too old.
fn save(directory: &Path, ledger: &Mutex<Ledger>, now_ms: u64) {
    let pages = ledger.lock().unwrap_or_else(PoisonError::into_inner).take_dirty();
    for (day, page) in pages {
        // Plain data with text keys: it cannot fail.
        let text = serde_json::to_vec(&page).unwrap_or_default();
        if let Err(error) = durable::write(&path_of(directory, day), &text) {
            tracing::warn!(day, %error, "the availability ledger cannot be written; it is tried again");
            ledger.lock().unwrap_or_else(PoisonError::into_inner).keep_dirty(day);
        }
    }
    if let Some(old) = (now_ms / DAY_MS).checked_sub(LEDGER_DAYS_MAX as u64) {
        let _ = std::fs::remove_file(path_of(directory, old));
    }
}

impl Keeper {
    /// Reads the files and starts the thread.
    ///
    /// # Errors
    /// When directory or thread cannot be made.
    pub fn start(directory: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let ledger = Arc::new(Mutex::new(read(&directory)));
        let (sights, inbox) = bounded::<(Vec<Sight>, u64)>(4);
        let kept = ledger.clone();
        std::thread::Builder::new().name("ledger".into()).spawn(move || {
            let mut saved_ms = 0;
            while let Ok((sights, now_ms)) = inbox.recv() {
                let mut ledger = kept.lock().unwrap_or_else(PoisonError::into_inner);
                sights.into_iter().for_each(|sight| ledger.on(sight, now_ms));
                drop(ledger);
                if now_ms.abs_diff(saved_ms) >= LEDGER_SAVE_MS {
                    saved_ms = now_ms;
                    save(&directory, &kept, now_ms);
                }
            }
            save(&directory, &kept, saved_ms);
        })?;
        Ok(Self { ledger, sights })
    }

    /// What was seen just now.
    pub fn see(&self, sights: Vec<Sight>, now_ms: u64) {
        if let Err(TrySendError::Full(_)) = self.sights.try_send((sights, now_ms)) {
            tracing::debug!("the availability ledger is behind; what was seen is not counted");
        }
    }

    /// The ledger as it is now.
    #[must_use]
    pub fn copy(&self) -> Ledger {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
