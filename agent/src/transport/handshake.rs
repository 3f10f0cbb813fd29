//! Who may talk to whom: the checks of Hello and HelloAck, pure.
//!
//! Owns: the order of the checks and the words of every refusal. What can hurt: an agent of another cluster, or a
//! node that says it is another. Refuses: sockets and time.

use understudy_types::id::{ClusterId, NodeId};
use understudy_types::message::{
    Channel, Hello, HelloAck, MessageError, PROTOCOL_MAX, PROTOCOL_MIN, RefusedCode, capability, choose_protocol,
};

use super::{Identity, PeerConfig};

/// Why a connection ended or did not come up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    #[error("connection failed: {0}")]
    Io(String),
    #[error("TLS failed: {0}; compare the certificates with `understudy cert show`")]
    Tls(String),
    /// The other side sent it.
    #[error("peer refused: {text}")]
    Refused { code: RefusedCode, text: String },
    /// This side sent it.
    #[error("refused: {text}")]
    Rejected { code: RefusedCode, text: String },
    #[error("peer sent damaged bytes: {0}")]
    Damaged(#[from] MessageError),
    /// Well-formed, but not allowed at that point.
    #[error("peer broke the protocol: {0}")]
    Protocol(String),
    #[error("peer has been silent for {0} ms")]
    Silent(u64),
    #[error("handshake took longer than {0} ms")]
    HandshakeTimeout(u64),
    /// `pending_bytes` of an unfinished message were lost with it.
    #[error("peer closed the connection with {pending_bytes} bytes of an unfinished message")]
    Gone { pending_bytes: usize },
    #[error("peer said goodbye")]
    Goodbye,
    #[error("peer opened a new connection in place of this one")]
    Replaced,
    #[error("too many connections that did not say whose they are")]
    Crowded,
    #[error("closed by this node: {0}")]
    ClosedHere(String),
    #[error("this node's transport stops")]
    Stopped,
}

/// This node, as far as a handshake needs it.
pub(super) struct Own {
    pub(super) identity: Identity,
    pub(super) incarnation: u64,
    pub(super) software: String,
    pub(super) peers: Vec<PeerConfig>,
    pub(super) credit_bytes: u64,
}

impl Own {
    pub(super) fn peer(&self, node: NodeId) -> Option<&PeerConfig> {
        self.peers.iter().find(|peer| peer.node == node)
    }

    pub(super) fn hello(&self, channel: Channel) -> Hello {
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            node: self.identity.node,
            channel,
            cluster: self.identity.cluster,
            incarnation: self.incarnation,
            capabilities: capability::ALL,
            software: self.software.clone(),
        }
    }

    /// The version to speak with whoever said `hello` over a connection whose certificate names `certified`.
    pub(super) fn judge_hello(&self, hello: &Hello, certified: Option<Identity>) -> Result<u16, DownReason> {
        let reject = |code, text| Err(DownReason::Rejected { code, text });
        let theirs = (hello.protocol_min, hello.protocol_max);
        let Some(protocol) = choose_protocol((PROTOCOL_MIN, PROTOCOL_MAX), theirs) else {
            let text = format!(
                "node `{}` speaks protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}, not {} to {}; upgrade the older one",
                self.identity.node, theirs.0, theirs.1
            );
            return reject(RefusedCode::Version, text);
        };
        if hello.cluster != self.identity.cluster {
            return reject(RefusedCode::Cluster, wrong_cluster(self.identity, hello.cluster));
        }
        match certified {
            Some(id) if id.cluster != self.identity.cluster => {
                return reject(RefusedCode::Cluster, wrong_cluster(self.identity, id.cluster));
            }
            Some(id) if id.node == hello.node => {}
            Some(id) => {
                return reject(
                    RefusedCode::Identity,
                    format!("hello says node `{}`, the certificate is for {id}", hello.node),
                );
            }
            None => return reject(RefusedCode::Identity, "the certificate names no node".to_owned()),
        }
        if hello.node == self.identity.node {
            return reject(RefusedCode::Identity, format!("node `{}` is this node", hello.node));
        }
        if self.peer(hello.node).is_none() {
            return reject(
                RefusedCode::NotAPeer,
                format!("node `{}` is not a peer of node `{}`", hello.node, self.identity.node),
            );
        }
        Ok(protocol)
    }

    /// Whether the certificate of the node that was dialled is the right one.
    pub(super) fn judge_dialled(&self, peer: NodeId, certified: Option<Identity>) -> Result<(), DownReason> {
        let wanted = Identity { cluster: self.identity.cluster, node: peer };
        match certified {
            Some(id) if id == wanted => Ok(()),
            Some(id) => Err(DownReason::Rejected {
                code: RefusedCode::Identity,
                text: format!("dialled {wanted}, the certificate is for {id}"),
            }),
            None => Err(DownReason::Rejected {
                code: RefusedCode::Identity,
                text: format!("dialled {wanted}, the certificate names no node"),
            }),
        }
    }

    /// Whether an answer to this node's Hello fits it.
    pub(super) fn judge_hello_ack(&self, peer: NodeId, ack: &HelloAck) -> Result<(), DownReason> {
        if ack.protocol < PROTOCOL_MIN || ack.protocol > PROTOCOL_MAX {
            return Err(DownReason::Protocol(format!(
                "it chose protocol {}, offered were {PROTOCOL_MIN} to {PROTOCOL_MAX}",
                ack.protocol
            )));
        }
        if ack.cluster != self.identity.cluster || ack.node != peer {
            return Err(DownReason::Protocol(format!(
                "it answered as node `{}` of cluster `{}`",
                ack.node, ack.cluster
            )));
        }
        Ok(())
    }
}

fn wrong_cluster(own: Identity, theirs: ClusterId) -> String {
    format!("node `{}` belongs to cluster `{}`, not to `{theirs}`", own.node, own.cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(raw: u16) -> NodeId {
        NodeId::new(raw).expect("a node id in range")
    }

    fn own() -> Own {
        let peer =
            PeerConfig { node: node(2), address: ([127, 0, 0, 1], 1).into(), dial: true, bytes_per_second_max: 0 };
        let identity = Identity { cluster: ClusterId(9), node: node(1) };
        Own { identity, incarnation: 1, software: String::new(), peers: vec![peer], credit_bytes: 1 }
    }

    fn hello(raw: u16) -> Hello {
        Hello { node: node(raw), ..own().hello(Channel::Data) }
    }

    fn code(result: Result<u16, DownReason>) -> Option<RefusedCode> {
        match result {
            Err(DownReason::Rejected { code, .. }) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn every_rule_of_a_hello_has_its_refusal() {
        let certified = |cluster, raw| Some(Identity { cluster: ClusterId(cluster), node: node(raw) });
        assert_eq!(own().judge_hello(&hello(2), certified(9, 2)), Ok(PROTOCOL_MAX));
        let newer = Hello { protocol_min: PROTOCOL_MAX + 1, protocol_max: PROTOCOL_MAX + 2, ..hello(2) };
        assert_eq!(code(own().judge_hello(&newer, certified(9, 2))), Some(RefusedCode::Version));
        let wider = Hello { protocol_max: PROTOCOL_MAX + 2, ..hello(2) };
        assert_eq!(own().judge_hello(&wider, certified(9, 2)), Ok(PROTOCOL_MAX));
        let staging = Hello { cluster: ClusterId(8), ..hello(2) };
        assert_eq!(code(own().judge_hello(&staging, certified(9, 2))), Some(RefusedCode::Cluster));
        assert_eq!(code(own().judge_hello(&hello(2), certified(8, 2))), Some(RefusedCode::Cluster));
        assert_eq!(code(own().judge_hello(&hello(2), certified(9, 3))), Some(RefusedCode::Identity));
        assert_eq!(code(own().judge_hello(&hello(2), None)), Some(RefusedCode::Identity));
        assert_eq!(code(own().judge_hello(&hello(1), certified(9, 1))), Some(RefusedCode::Identity));
        assert_eq!(code(own().judge_hello(&hello(3), certified(9, 3))), Some(RefusedCode::NotAPeer));
    }

    #[test]
    fn an_answer_must_come_from_whom_was_dialled() {
        let ack = HelloAck {
            protocol: 1,
            node: node(2),
            cluster: ClusterId(9),
            incarnation: 0,
            capabilities: 0,
            credit_bytes: 0,
            software: String::new(),
            positions: Vec::new(),
        };
        assert!(own().judge_hello_ack(node(2), &ack).is_ok());
        assert!(own().judge_hello_ack(node(3), &ack).is_err());
        assert!(own().judge_hello_ack(node(2), &HelloAck { protocol: 7, ..ack.clone() }).is_err());
        assert!(own().judge_hello_ack(node(2), &HelloAck { cluster: ClusterId(1), ..ack }).is_err());
    }
}
