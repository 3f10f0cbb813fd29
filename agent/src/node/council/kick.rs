//! Ending sessions of accounts that are no longer served here, so that clients connect to the node that serves them.
//!
//! Owns: one thread. What can hurt: a store that hangs; it is asked by this thread alone, and what it must not change
//! the ring refuses anyway. Refuses: asking twice for what waits already.

use std::collections::BTreeSet;

use crossbeam::channel::{Sender, unbounded};

use crate::node::verify::Connect;

/// The thread's orders.
pub(crate) struct Kicker {
    orders: Sender<Vec<String>>,
}

impl Kicker {
    /// Starts the thread; it ends when this is dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn start(connect: &Connect) -> std::io::Result<Self> {
        let (orders, inbox) = unbounded::<Vec<String>>();
        let mut store = connect();
        std::thread::Builder::new().name("kick".into()).spawn(move || {
            while let Ok(accounts) = inbox.recv() {
                let all: BTreeSet<String> = accounts.into_iter().chain(inbox.try_iter().flatten()).collect();
                let all: Vec<String> = all.into_iter().collect();
                match store.kick(&all) {
                    Ok(sessions) => tracing::info!(accounts = all.len(), sessions, "sessions were ended"),
                    Err(error) => tracing::warn!(accounts = all.len(), %error, "sessions cannot be ended"),
                }
            }
        })?;
        Ok(Self { orders })
    }

    /// Ends the sessions of these accounts.
    pub(crate) fn kick(&self, accounts: Vec<String>) {
        if !accounts.is_empty() {
            // The thread is gone only after a panic of its own.
            let _ = self.orders.send(accounts);
        }
    }
}
