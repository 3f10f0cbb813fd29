//! Addresses of the stores as proxies need them: resolved, because nginx takes nothing but an IP address.
//!
//! Owns: one lookup at the start. What can hurt: a name that is not known then; the agent does not start, and says
//! which key it was. Refuses: looking names up again; an address that changes needs a restart.

use std::net::{SocketAddr, ToSocketAddrs};

use understudy_types::id::NodeId;

use crate::config::Config;
use crate::config::address::Service;

/// Where a store serves, in the order of [`Service::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses([SocketAddr; 4]);

/// A node as users reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its name.
    pub node: String,
    pub addresses: Addresses,
    /// Nothing is heard of the node: its store is tried before somebody is sent there.
    pub is_doubtful: bool,
}

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve `{text}` for `{key}` of node `{node}`: {source}; name an IP address, or repair the lookup")]
pub struct AddressError {
    node: String,
    key: &'static str,
    text: String,
    source: std::io::Error,
}

impl Addresses {
    /// All at one address: for tests.
    #[cfg(test)]
    pub(super) fn all(address: SocketAddr) -> Self {
        Self([address; 4])
    }

    /// Of one service.
    #[must_use]
    pub fn of(&self, service: Service) -> SocketAddr {
        self.0[service.index()]
    }

    /// Of a node's store, as the configuration has it.
    ///
    /// # Errors
    ///
    /// A host name that cannot be resolved.
    pub fn resolve(config: &Config, node: NodeId) -> Result<Self, AddressError> {
        let mut found = Self([SocketAddr::from(([0, 0, 0, 0], 0)); 4]);
        for service in Service::ALL {
            let text = config.store_address(node, service).unwrap_or_default();
            let address = text
                .to_socket_addrs()
                .and_then(|mut all| all.next().ok_or_else(|| std::io::ErrorKind::AddrNotAvailable.into()));
            found.0[service.index()] = address.map_err(|source| AddressError {
                node: config.node_name(node),
                key: service.key(),
                text,
                source,
            })?;
        }
        Ok(found)
    }
}
