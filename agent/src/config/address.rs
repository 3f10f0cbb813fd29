//! Where each node's store serves its clients.
//!
//! Owns: the four services that a proxy sends users and mail to, and what holds for one that is not configured.
//! What can hurt: a wildcard address, which no proxy can connect to; it counts as no host. Refuses: resolving names.

use understudy_types::id::NodeId;

use super::model::Config;

/// What a store serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    Imap,
    Pop3,
    Submission,
    Lmtp,
}

impl Service {
    /// All of them, in the order of [`Service::index`].
    pub const ALL: [Self; 4] = [Self::Imap, Self::Pop3, Self::Submission, Self::Lmtp];

    /// Its place in [`Service::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Imap => 0,
            Self::Pop3 => 1,
            Self::Submission => 2,
            Self::Lmtp => 3,
        }
    }

    /// The port where nobody names another.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Imap => 143,
            Self::Pop3 => 110,
            Self::Submission => 587,
            Self::Lmtp => 24,
        }
    }

    /// The key in `[store]` and `[[peers]]`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Imap => "imap_address",
            Self::Pop3 => "pop3_address",
            Self::Submission => "submission_address",
            Self::Lmtp => "lmtp_address",
        }
    }
}

impl Config {
    /// `host:port` of a service of a node's store; `None` for an unknown node, and where no host is known.
    #[must_use]
    pub fn store_address(&self, node: NodeId, service: Service) -> Option<String> {
        let (given, near) = if node == self.node_id() {
            let store = &self.store;
            let given = [&store.imap_address, &store.pop3_address, &store.submission_address, &store.lmtp_address];
            (given, &self.transport.listen)
        } else {
            let peer = self.peers.iter().find(|peer| peer.node_id() == node)?;
            let given = [&peer.imap_address, &peer.pop3_address, &peer.submission_address, &peer.lmtp_address];
            (given, &peer.address)
        };
        if let Some(address) = given[service.index()].as_ref().filter(|address| !address.is_empty()) {
            return Some(address.clone());
        }
        let (host, _) = near.rsplit_once(':')?;
        let names_one = !host.is_empty() && !["0.0.0.0", "[::]", "*"].contains(&host);
        names_one.then(|| format!("{host}:{}", service.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[node]\nid = 1\nname = \"a\"\n[transport]\nlisten = \"10.0.0.1:7470\"\n[store]\n\
        imap_address = \"10.9.0.1:1143\"\n[[peers]]\nid = 2\nname = \"b\"\naddress = \"[fd00::2]:7470\"\n\
        lmtp_address = \"10.9.0.2:2424\"\n";

    #[test]
    fn an_address_that_is_not_named_follows_from_the_agents() {
        let config = Config::from_toml(TEXT).unwrap();
        let at = |node: u16, service| config.store_address(NodeId::new(node).unwrap(), service);
        assert_eq!(at(1, Service::Imap).as_deref(), Some("10.9.0.1:1143"));
        assert_eq!(at(1, Service::Lmtp).as_deref(), Some("10.0.0.1:24"));
        assert_eq!(at(2, Service::Submission).as_deref(), Some("[fd00::2]:587"));
        assert_eq!(at(2, Service::Lmtp).as_deref(), Some("10.9.0.2:2424"));
        assert_eq!(at(3, Service::Lmtp), None);
    }

    #[test]
    fn a_router_without_an_address_to_name_is_refused() {
        let wild = TEXT.replace("10.0.0.1:7470", "0.0.0.0:7470");
        assert!(Config::from_toml(&wild).is_ok(), "nobody asks");
        let said = Config::from_toml(&format!("{wild}[routing]\nhttp_listen = \"10.0.0.1:7474\"\n")).unwrap_err();
        let said = said.to_string();
        assert!(said.contains("`store.pop3_address`: must be set") && !said.contains("imap"), "{said}");
    }
}
