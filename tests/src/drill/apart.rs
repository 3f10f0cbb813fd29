//! Writing to a node that is cut off from everybody: from inside its own network, while its lease still holds.
//!
//! Owns: a thread that enters the node's network namespace. What can hurt: the namespace belongs to a thread, so this
//! one ends with its work. Refuses: counting what was not acknowledged.

use crate::mesh::{Account, State};
use crate::outage;
use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use std::time::Duration;

/// An answer may take so long. A store that is fenced says no at once.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// It ends by itself when the store refuses; this is for one that never does.
const MESSAGES_MAX: u32 = 500;
/// Between two messages.
const PAUSE: Duration = Duration::from_millis(20);

/// Adds messages to `account` at `node` until it refuses; identities of those that it acknowledged.
pub(super) fn write(state: &State, node: &str, account: &Account, tag: &str) -> Result<Vec<String>> {
    let node = state.node(node)?.clone();
    let (name, password, tag) = (account.name.clone(), account.password.clone(), tag.to_owned());
    let work = move || -> Result<Vec<String>> {
        let namespace = std::fs::File::open(format!("/run/netns/{}", node.netns)).context("no network namespace")?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the node's network")?;
        let mut acknowledged = Vec::new();
        for nth in 0..MESSAGES_MAX {
            let id = format!("{tag}-{nth}");
            if outage::add(&node.imap, &(name.clone(), password.clone()), &id, ANSWER_WAIT).is_err() {
                break;
            }
            acknowledged.push(id);
            std::thread::sleep(PAUSE);
        }
        Ok(acknowledged)
    };
    std::thread::spawn(work).join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
}
