//! The census: accounts that the store has and this agent never saw get their first copy without waiting for a user.
//!
//! Owns: the pace. What can hurt: a store that is down or cannot list its users; it is asked again, and what was seen
//! before stays. Refuses: deciding who is replicated, which is the event loop's, and asking often: an account that is
//! used is seen by itself.

use std::time::Duration;

use crossbeam::channel::{Sender, bounded};

use super::query::Query;
use super::verify::Connect;
use crate::limits::{CENSUS_NAMES_MAX, CENSUS_PAUSE_MS, CENSUS_RETRY_MS};
use crate::store::Store;

/// Starts the thread; it ends when the event loop is gone.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn start(connect: &Connect, queries: Sender<Query>) -> std::io::Result<()> {
    let mut store = connect();
    let work = move || {
        let mut told = String::new();
        loop {
            let (gone, error) = count(store.as_mut(), &queries);
            if gone {
                return;
            }
            // The same trouble is told once.
            if !error.is_empty() && error != told {
                tracing::warn!(
                    error,
                    "the store's users cannot be listed; an account without sign of life has no copy"
                );
            }
            let pause = if error.is_empty() { CENSUS_PAUSE_MS } else { CENSUS_RETRY_MS };
            told = error;
            std::thread::sleep(Duration::from_millis(pause));
        }
    };
    std::thread::Builder::new().name("census".into()).spawn(work).map(drop)
}

/// Tells the event loop of all users. Whether the loop is gone, and what the store said if it could not list them.
fn count(store: &mut dyn Store, queries: &Sender<Query>) -> (bool, String) {
    let mut names = Vec::new();
    let mut gone = false;
    let listed = store.accounts(&mut |name| {
        names.push(name);
        if names.len() >= CENSUS_NAMES_MAX {
            gone |= !tell(queries, std::mem::take(&mut names));
        }
    });
    gone |= !names.is_empty() && !tell(queries, names);
    (gone, listed.err().map_or_else(String::new, |error| error.to_string()))
}

/// Waits until the event loop took them, so that a store of a million users does not fill its queue.
fn tell(queries: &Sender<Query>, names: Vec<String>) -> bool {
    let (reply, taken) = bounded(1);
    queries.send(Query::Seen { names, reply }).is_ok() && taken.recv().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn every_user_is_told_in_portions_and_the_loops_end_is_noticed() {
        let mut store = MemoryStore::new(None);
        (0..CENSUS_NAMES_MAX + 3).for_each(|n| store.add_account(&format!("u{n}")));
        let (queries, inbox) = crossbeam::channel::unbounded();
        let taker = std::thread::spawn(move || {
            let mut portions = Vec::new();
            while let Ok(Query::Seen { names, reply }) = inbox.recv() {
                portions.push(names.len());
                reply.send(()).unwrap();
            }
            portions
        });
        assert_eq!(count(&mut store, &queries), (false, String::new()));
        drop(queries);
        assert_eq!(taker.join().unwrap(), [CENSUS_NAMES_MAX, 3]);
        let (queries, inbox) = crossbeam::channel::unbounded();
        drop(inbox);
        assert_eq!(count(&mut store, &queries), (true, String::new()));
    }
}
