//! Is a store there at all? Asked only where nothing is heard of its node.
//!
//! Owns: one connection attempt for an address, remembered for a moment, so that a thousand logins to a dead node cost
//! one attempt a second. What can hurt: a host that swallows packets; the attempt ends by itself. Refuses: speaking
//! the store's protocol: a store that accepts is the store's own matter.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{self, MonoNs};
use crate::limits::{ROUTING_REACH_KEPT_MS, ROUTING_REACH_MS_MAX};

/// What was found lately. As many entries as there are addresses of stores.
#[derive(Debug, Default)]
pub(super) struct Reach(Mutex<HashMap<SocketAddr, (MonoNs, bool)>>);

impl Reach {
    /// True if something accepts connections at `address`.
    pub(super) async fn is_there(&self, address: SocketAddr) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&address).copied();
        if let Some((at, is_there)) = known
            && clock::mono().since_ns(at) < ROUTING_REACH_KEPT_MS * 1_000_000
        {
            return is_there;
        }
        let attempt = tokio::net::TcpStream::connect(address);
        let done = tokio::time::timeout(Duration::from_millis(ROUTING_REACH_MS_MAX), attempt).await;
        let is_there = matches!(done, Ok(Ok(_)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(address, (clock::mono(), is_there));
        is_there
    }
}
