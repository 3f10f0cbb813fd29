//! The background comparison: every account in turn, its replicas against its active.
//!
//! Owns: the pace. What can hurt: changes that bypass the store (a file dropped into a folder) tell nobody; they are
//! found here, and the account is copied anew. Refuses: haste; one account at a time, with a pause after each.

use std::time::Duration;

use crossbeam::channel::{Sender, bounded};

use super::query::Query;
use super::verify::Verifier;
use crate::limits::COMPARE_PAUSE_MS;

/// Starts the thread; it ends when the event loop is gone.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn start(verifier: Verifier, queries: Sender<Query>) -> std::io::Result<()> {
    std::thread::Builder::new().name("compare".into()).spawn(move || while pass(&verifier, &queries) {}).map(drop)
}

/// One round over all accounts; `false` when the event loop is gone.
fn pass(verifier: &Verifier, queries: &Sender<Query>) -> bool {
    std::thread::sleep(Duration::from_millis(COMPARE_PAUSE_MS));
    let (reply, answer) = bounded(1);
    if queries.send(Query::Names { reply }).is_err() {
        return false;
    }
    let Ok(names) = answer.recv() else { return false };
    for account in names {
        let own = verifier.view.read().own_group(&account).is_some();
        if !own {
            continue;
        }
        std::thread::sleep(Duration::from_millis(COMPARE_PAUSE_MS));
        let differs = verifier
            .verify(std::slice::from_ref(&account))
            .into_iter()
            .find(|result| !result.equal && result.error.is_none());
        if let Some(result) = differs {
            let why = result.first_difference.unwrap_or_default();
            tracing::warn!(account, replica = result.replica, why, "a replica differs; the account is copied anew");
            let (reply, _answer) = bounded(1);
            let why = format!("the comparison found a difference: {why}");
            if queries.send(Query::Resync { account, bodies: true, why, reply }).is_err() {
                return false;
            }
        }
    }
    true
}
