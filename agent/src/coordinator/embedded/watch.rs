//! A watch of the embedded coordinator: a thread that looks at the log every few milliseconds.
//!
//! Owns: the thread, and when it gives up. What can hurt: a log that was written anew twice between two looks; what
//! happened in between is then unknown, and the watch is lost. Refuses: reading without the lock: a change that is not
//! durable yet must not be seen.

use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use super::{AppendError, Embedded, Look, failed};
use crate::clock;
use crate::coordinator::{CoordinatorError, KeyChange, Sink, WatchEvent, WatchHandle};
use crate::limits::{EMBEDDED_SILENCE_MS_MAX, EMBEDDED_WATCH_MS};

pub(super) fn begin(handle: Embedded, revision: u64, sink: Sink) -> Result<WatchHandle, CoordinatorError> {
    let (stop, stopped) = bounded::<()>(0);
    let work = move || follow(handle, revision, sink, &stopped);
    let thread = std::thread::Builder::new().name("coordinator-watch".to_owned()).spawn(work);
    let reason = |error| CoordinatorError::Config(format!("cannot begin a thread: {error}"));
    thread.map_err(reason).map(|_| WatchHandle(Box::new(stop)))
}

fn follow(mut handle: Embedded, revision: u64, mut sink: Sink, stopped: &Receiver<()>) {
    let mut first = true;
    let mut looked = clock::mono();
    loop {
        let begun = clock::mono();
        match look(&mut handle, &mut first, revision) {
            Ok(changes) => {
                looked = begun;
                if !changes.is_empty() {
                    sink(WatchEvent::Changed(changes));
                }
            }
            Err(Look::Locked(reason)) => {
                if clock::mono().since_ns(looked) > EMBEDDED_SILENCE_MS_MAX * 1_000_000 {
                    return sink(WatchEvent::Lost(reason));
                }
            }
            Err(Look::Failed(reason)) => return sink(WatchEvent::Lost(reason)),
        }
        // The handle never sends: it is there, or it was dropped.
        if stopped.recv_timeout(Duration::from_millis(EMBEDDED_WATCH_MS)) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn look(handle: &mut Embedded, first: &mut bool, from: u64) -> Result<Vec<KeyChange>, Look> {
    let expired = handle.log.any_expired(&handle.boot, clock::boot());
    if !expired && !handle.log.stale().map_err(failed)? {
        return Ok(Vec::new());
    }
    let mut changes = handle.locked(expired, |log, boot| {
        let mut found = log.read_on(expired).map_err(failed)?;
        if std::mem::replace(first, false) {
            if log.base > from {
                let base = log.base;
                return Err(Look::Failed(format!(
                    "changes after revision {from} are forgotten: the log begins at {base}"
                )));
            }
            if log.revision < from {
                let last = log.revision;
                return Err(Look::Failed(format!("revision {from} is not there yet, the last one is {last}")));
            }
        }
        if found.gap {
            return Err(Look::Failed("the log was written anew more than once meanwhile".to_owned()));
        }
        if expired {
            match log.purge(boot, clock::boot()) {
                Ok(gone) => found.changes.extend(gone),
                Err(AppendError::NotDone(error) | AppendError::Unknown(error)) => return Err(failed(error)),
                Err(AppendError::Full(reason)) => return Err(Look::Failed(reason)),
            }
        }
        Ok(found.changes)
    })?;
    changes.retain(|change| change.revision > from);
    Ok(changes)
}
