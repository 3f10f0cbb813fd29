//! Connections between agents: mutual TLS 1.3 over TCP, messages both ways, redialled for ever.
//!
//! Owns: one thread that moves bytes (tokio-uring, or plain system calls where io_uring is refused), the handshake,
//! pace and credit, bounded queues. What can hurt: a peer that is slow, half dead, an impostor or hostile; each costs
//! its own connection and nothing else. Refuses: knowing what a frame holds, deciding what to send, and keeping
//! anything for a peer that is not connected: shipping goes on by position.
//!
//! A node dials each peer that it ships to; frames go that way, acks come back. For beats the lower node id dials
//! one more connection, used both ways.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;
use understudy_types::id::{ClusterId, NodeId};
use understudy_types::message::{Channel, Message, MessageError, Position, RefusedCode};

use crate::journal::IoBackend;
use crate::limits;

pub mod certificate;
mod backoff;
mod connection;
mod driver;
mod handshake;
mod link;
mod pace;
mod plain;
mod queue;
mod shared;
mod tls;
mod uring;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod relay;

pub use backoff::redial_delay;
pub use handshake::DownReason;
pub use pace::TokenBucket;
pub use queue::LinkStatus;
pub use tls::{Identity, TlsError, TlsPaths, identity_of};

use shared::Shared;

/// One connection in the life of this process. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A peer that is let in and, where wanted, dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    pub node: NodeId,
    pub address: SocketAddr,
    /// This node ships frames to the peer or asks it something: dial a data connection.
    pub dial: bool,
    /// Most bytes in a second towards the peer on data connections; 0 = no limit.
    pub bytes_per_second_max: u64,
}

/// Times and sizes; the defaults are those of [`limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportLimits {
    pub keepalive: Duration,
    pub silence_max: Duration,
    pub handshake_max: Duration,
    pub redial_min: Duration,
    pub redial_max: Duration,
    /// Credit that this node gives to a peer at the start of a connection.
    pub credit_bytes: u64,
    pub queue_bytes_max: usize,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_millis(limits::KEEPALIVE_MS),
            silence_max: Duration::from_millis(limits::SILENCE_MS_MAX),
            handshake_max: Duration::from_millis(limits::HANDSHAKE_MS_MAX),
            redial_min: Duration::from_millis(limits::REDIAL_MS_MIN),
            redial_max: Duration::from_millis(limits::REDIAL_MS_MAX),
            credit_bytes: limits::CREDIT_BYTES,
            queue_bytes_max: limits::LINK_QUEUE_BYTES_MAX,
        }
    }
}

/// How to start a transport.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    pub node: NodeId,
    pub cluster: ClusterId,
    /// Differs between two runs of the agent.
    pub incarnation: u64,
    /// Name and version, for the people at the other end; at most 64 bytes.
    pub software: String,
    pub listen: SocketAddr,
    pub peers: Vec<PeerConfig>,
    pub tls: TlsPaths,
    pub limits: TransportLimits,
    pub backend: IoBackend,
}

/// What happened. The transport waits when the receiver does not keep up, and with it the peers.
#[derive(Clone, Debug)]
pub enum TransportEvent {
    /// A connection that this node dialled is up, or a beat connection that either side dialled.
    Connected {
        peer: NodeId,
        link: LinkId,
        channel: Channel,
        /// Differs from the last time if the peer's agent was started anew.
        incarnation: u64,
        /// What both sides can.
        capabilities: u64,
        software: String,
        /// Where the peer stands in this node's groups; empty for beats.
        positions: Vec<Position>,
        /// Bytes of frames that may be sent before the first Credit.
        credit_bytes: u64,
        /// From Hello to its answer, the peer's event loop included.
        rtt_ns: u64,
    },
    /// A peer dialled a data connection and waits for [`TransportHandle::welcome`] or [`TransportHandle::refuse`].
    /// Nothing else arrives on the link before.
    Asked { peer: NodeId, link: LinkId, incarnation: u64, capabilities: u64, software: String },
    /// `wire_bytes` is what the message took on the wire: what a Frame costs in credit.
    Message { peer: NodeId, link: LinkId, channel: Channel, message: Message, wire_bytes: usize },
    /// Follows every Connected and every Asked, last of its link.
    Disconnected { peer: NodeId, link: LinkId, channel: Channel, reason: DownReason },
    /// A dialled connection did not come up. It is tried again after `retry_after`.
    DialFailed { peer: NodeId, channel: Channel, attempt: u32, reason: DownReason, retry_after: Duration },
    /// Somebody who dialled this node was not let in.
    Rejected { from: SocketAddr, reason: DownReason },
    /// The certificate files changed. After an error the old ones stay in use.
    Certificates { result: Result<(), String> },
}

/// Which system calls carry the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    IoUring,
    /// With the reason, and its remedy, when io_uring was wanted.
    Plain {
        refusal: Option<String>,
    },
}

/// Why a transport cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("cannot listen on `{address}`: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("certificate `{path}` is for {found}, this agent is {wanted}; make one with `understudy cert node`")]
    Identity { path: String, found: Identity, wanted: Identity },
    #[error("io_uring cannot be used for the transport: {0}")]
    IoUring(String),
    #[error("transport's thread cannot be started: {0}")]
    Thread(std::io::Error),
    #[error("software version text is {0} bytes long, more than 64")]
    Software(usize),
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Try again after what is queued has gone out.
    #[error("queue of the connection is full")]
    Full,
    /// The connection is gone, or not up yet. What comes next is a Connected.
    #[error("peer is not connected")]
    NotConnected,
    /// Frames go on a link that this node dialled; the other way there is no credit.
    #[error("frames cannot go on a connection that the peer dialled")]
    Direction,
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// A running transport.
pub struct Transport;

impl Transport {
    /// Reads the certificates, binds the listener, starts the thread `us-transport`.
    ///
    /// # Errors
    /// What the administrator must see to first.
    pub fn start(config: TransportConfig, events: Sender<TransportEvent>) -> Result<TransportHandle, TransportError> {
        let shared = driver::start(config, events)?;
        Ok(TransportHandle { shared })
    }
}

/// Talks to the transport's thread, from any thread. Nothing here waits, but [`Self::stop`].
#[derive(Clone)]
pub struct TransportHandle {
    shared: Arc<Shared>,
}

impl TransportHandle {
    /// Where peers can reach this node; tells the port when the configuration said 0.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.shared.local_address
    }

    /// Which system calls are in use.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.shared.backend
    }

    /// Queues a message on the data connection to the peer: the one that this node dialled, else the one that the
    /// peer dialled. Frames and acks belong to one link: use [`Self::send_on`] for them.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(&self, peer: NodeId, message: &Message) -> Result<(), SendError> {
        let queue = self.shared.data_link(peer).ok_or(SendError::NotConnected)?;
        queue.push(message)
    }

    /// Queues a message on one link.
    ///
    /// # Errors
    /// See [`SendError`]; a link that is down stays so.
    pub fn send_on(&self, link: LinkId, message: &Message) -> Result<(), SendError> {
        self.shared.link(link).ok_or(SendError::NotConnected)?.push(message)
    }

    /// Queues a beat on the beat connection. A beat still waiting is replaced: an old one is worth nothing.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_beat(&self, peer: NodeId, beat: &[u8]) -> Result<(), SendError> {
        self.shared.beat_link(peer).ok_or(SendError::NotConnected)?.push_beat(beat)
    }

    /// Queues what deciders say to each other, on the connection for beats.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_council(&self, peer: NodeId, words: Vec<u8>) -> Result<(), SendError> {
        self.shared.beat_link(peer).ok_or(SendError::NotConnected)?.push(&Message::Council(words))
    }

    /// Answers [`TransportEvent::Asked`]: how far this node has come with the groups of the peer that dialled.
    ///
    /// # Errors
    /// The link is gone.
    pub fn welcome(&self, link: LinkId, positions: Vec<Position>) -> Result<(), SendError> {
        self.shared.link(link).ok_or(SendError::NotConnected)?.answer(Ok(positions))
    }

    /// Answers [`TransportEvent::Asked`] with a refusal.
    ///
    /// # Errors
    /// The link is gone.
    pub fn refuse(&self, link: LinkId, code: RefusedCode, text: String) -> Result<(), SendError> {
        self.shared.link(link).ok_or(SendError::NotConnected)?.answer(Err((code, text)))
    }

    /// Closes a link; its Disconnected follows. A dialled one is dialled again.
    pub fn close(&self, link: LinkId, why: String) {
        if let Some(queue) = self.shared.link(link) {
            queue.close(DownReason::ClosedHere(why));
        }
    }

    /// Reads the certificate files again now.
    pub fn reload(&self) {
        self.shared.reload.notify_one();
    }

    /// Every connection as it stands.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        self.shared.statuses()
    }

    /// Says goodbye on every connection and waits for the thread to end.
    pub fn stop(&self) {
        self.shared.stop();
    }
}
