//! Uploaders: a few threads that move bodies from the spool to central storage.
//!
//! Owns: the queue of wanted bodies and the waits between tries. What can hurt: central storage that is away for
//! hours; the queue holds ids only, each body once, and the spool keeps the bytes. Refuses: giving up; forgetting a
//! spooled body before central storage has it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use understudy_types::id::BlobId;

use super::spool::Spool;
use super::{BlobError, BlobStore, Put};
use crate::clock::{self, MonoNs};
use crate::limits::{UPLOAD_RETRY_MS_MAX, UPLOAD_RETRY_MS_MIN, UPLOADERS};

/// What became of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadEvent {
    /// In central storage, durable. `stored_bytes` is 0 when it was there before.
    Durable { id: BlobId, stored_bytes: u64, took_ns: u64 },
    /// Failed; will be tried again. Sent once per try.
    Failing { id: BlobId, reason: String },
    /// Neither in the spool nor in central storage: the body must be exported from the store again.
    Lost { id: BlobId },
}

/// Wait before try number `attempt` (1 = first repetition), in milliseconds.
#[must_use]
pub fn retry_ms(attempt: u32) -> u64 {
    UPLOAD_RETRY_MS_MIN.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(UPLOAD_RETRY_MS_MAX)
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<BlobId>,
    /// Every wanted id with the number of tries so far and, when it waits, until when.
    wanted: HashMap<BlobId, (u32, Option<MonoNs>)>,
    stop: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// Handle on the uploader threads; dropping it stops them after the body at hand.
pub struct Uploader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Uploader {
    /// Starts the threads. `report` is called from them and may block them.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(
        spool: &Spool,
        store: &Arc<dyn BlobStore>,
        report: impl Fn(UploadEvent) + Send + Clone + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::default()), wake: Condvar::new() });
        let mut threads = Vec::new();
        for n in 0..UPLOADERS {
            let (shared, spool, store, report) = (shared.clone(), spool.clone(), store.clone(), report.clone());
            let thread = std::thread::Builder::new().name(format!("upload-{n}"));
            threads.push(thread.spawn(move || run(&shared, &spool, store.as_ref(), &report))?);
        }
        Ok(Self { shared, threads })
    }

    /// Asks for a body to be in central storage. Asking again while it waits changes nothing.
    pub fn want(&self, id: BlobId) {
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let std::collections::hash_map::Entry::Vacant(slot) = queue.wanted.entry(id) {
            slot.insert((0, None));
            queue.ready.push_back(id);
            self.shared.wake.notify_one();
        }
    }

    /// Bodies that are not yet in central storage.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).wanted.len()
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has reported nothing more; there is nothing to do about it here.
            let _ = thread.join();
        }
    }
}

/// Takes the next body whose time has come; `None` when the threads are to stop.
fn take(shared: &Shared) -> Option<BlobId> {
    let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if queue.stop {
            return None;
        }
        let now = clock::mono();
        let due: Vec<BlobId> =
            queue.wanted.iter().filter(|(_, (_, until))| until.is_some_and(|t| t <= now)).map(|(id, _)| *id).collect();
        for id in due {
            if let Some((_, until)) = queue.wanted.get_mut(&id) {
                *until = None;
            }
            queue.ready.push_back(id);
        }
        if let Some(id) = queue.ready.pop_front() {
            return Some(id);
        }
        let waiting = queue.wanted.values().any(|(_, until)| until.is_some());
        let pause = Duration::from_millis(if waiting { UPLOAD_RETRY_MS_MIN } else { 1_000 });
        queue = shared.wake.wait_timeout(queue, pause).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn run(shared: &Shared, spool: &Spool, store: &dyn BlobStore, report: &dyn Fn(UploadEvent)) {
    while let Some(id) = take(shared) {
        let before = clock::mono();
        let outcome = upload(spool, store, id).map(|stored_bytes| {
            let took_ns = clock::mono().since_ns(before);
            stored_bytes.map(|stored_bytes| UploadEvent::Durable { id, stored_bytes, took_ns })
        });
        let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let event = match outcome {
            Ok(Some(event)) => {
                queue.wanted.remove(&id);
                event
            }
            Ok(None) => {
                queue.wanted.remove(&id);
                UploadEvent::Lost { id }
            }
            Err(error) => {
                if let Some((attempt, until)) = queue.wanted.get_mut(&id) {
                    *attempt = attempt.saturating_add(1);
                    *until = Some(clock::mono().after(Duration::from_millis(retry_ms(*attempt))));
                }
                UploadEvent::Failing { id, reason: error.to_string() }
            }
        };
        drop(queue);
        report(event);
    }
}

/// Bytes that were stored, 0 if it was there before; `None` when the body is nowhere.
pub(crate) fn upload(spool: &Spool, store: &dyn BlobStore, id: BlobId) -> Result<Option<u64>, BlobError> {
    let path = spool.path(id);
    let stored_bytes = match store.put(id, &path) {
        Ok(Put::Stored { bytes }) => bytes,
        Ok(Put::AlreadyThere) => 0,
        Err(BlobError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && !path.exists() => {
            return Ok(store.has(id)?.then_some(0));
        }
        Err(BlobError::Damaged { .. }) => {
            // A spooled file that does not hash to its name was cut short by a crash of the host: it is no body.
            spool.remove(id)?;
            return Ok(store.has(id)?.then_some(0));
        }
        Err(error) => return Err(error),
    };
    spool.remove(id)?;
    Ok(Some(stored_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::directory::Directory;

    fn wait(events: &crossbeam::channel::Receiver<UploadEvent>) -> UploadEvent {
        match events.recv_timeout(Duration::from_secs(60)).expect("an uploader answers") {
            UploadEvent::Durable { id, stored_bytes, .. } => UploadEvent::Durable { id, stored_bytes, took_ns: 0 },
            other => other,
        }
    }

    #[test]
    fn a_spooled_body_becomes_durable_and_leaves_the_spool() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn BlobStore> = Arc::new(Directory::open(&dir.path().join("blobs")).unwrap());
        let root = dir.path().join("spool");
        std::fs::create_dir(&root).unwrap();
        let spool = Spool::new(&root);
        let id = BlobId(*blake3::hash(b"hello").as_bytes());
        std::fs::write(spool.path(id), b"hello").unwrap();
        assert_eq!(spool.list().unwrap(), [id]);
        let (send, events) = crossbeam::channel::unbounded();
        let uploader = Uploader::start(&spool, &store, move |event| send.send(event).unwrap()).unwrap();
        uploader.want(id);
        assert_eq!(wait(&events), UploadEvent::Durable { id, stored_bytes: 5, took_ns: 0 });
        assert!(store.has(id).unwrap());
        assert!(spool.list().unwrap().is_empty());
        // Asked again after the spool forgot it: central storage answers for it.
        uploader.want(id);
        assert_eq!(wait(&events), UploadEvent::Durable { id, stored_bytes: 0, took_ns: 0 });
        let nowhere = BlobId([9; 32]);
        uploader.want(nowhere);
        assert_eq!(wait(&events), UploadEvent::Lost { id: nowhere });
        // A body cut short by a crash is no body.
        std::fs::write(spool.path(nowhere), b"half").unwrap();
        uploader.want(nowhere);
        assert_eq!(wait(&events), UploadEvent::Lost { id: nowhere });
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        assert_eq!(retry_ms(1), UPLOAD_RETRY_MS_MIN);
        assert_eq!(retry_ms(2), 2 * UPLOAD_RETRY_MS_MIN);
        assert_eq!(retry_ms(1000), UPLOAD_RETRY_MS_MAX);
    }
}
