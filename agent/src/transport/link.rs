//! One connection without its socket: bytes and `now` in, bytes and events out.
//!
//! Owns: TLS, the handshake, credit both ways, pace, pings and the judgement that the other side is dead. What can
//! hurt: everything a peer can send; an error ends this connection and leaves the others alone. Refuses: sockets,
//! clocks, waiting. Both backends and the tests drive the same code.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, Connection, ServerConnection};
use rustls_pki_types::ServerName;
use understudy_types::id::NodeId;
use understudy_types::message::{
    BODY_BYTES_MAX, Channel, Decoder, HELLO_BYTES_MAX, Hello, HelloAck, Message, RefusedCode, capability,
};

use super::certificate::node_dns_name;
use super::handshake::{DownReason, Own};
use super::pace::TokenBucket;
use super::queue::{LinkQueue, Queued};
use super::tls::{TlsMaterial, identity_of};
use super::{Identity, TransportLimits};
use crate::clock::MonoNs;
use crate::limits::LINK_WRITE_BYTES;

/// Plain bytes given to TLS at once: two full records.
const CHUNK_BYTES: usize = 32 << 10;

/// What a link tells its driver, in order.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// The peer that was dialled let this node in.
    Welcomed {
        ack: HelloAck,
        rtt_ns: u64,
    },
    /// A peer said a Hello that passed every check. A data link waits for the node's answer; a beat link is up.
    Greeted(Hello),
    Message {
        message: Message,
        wire_bytes: usize,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// TLS is not through.
    Tls,
    /// This side dialled and said Hello.
    SaidHello {
        at: MonoNs,
    },
    /// The other side dialled and has not said Hello.
    AwaitHello,
    /// The other side said Hello; the node has not answered.
    AwaitAnswer {
        protocol: u16,
    },
    Up,
    /// What is queued still goes out, nothing more is read.
    Closing(DownReason),
}

pub(super) struct Link {
    own: Arc<Own>,
    limits: TransportLimits,
    dialled: Option<(NodeId, Channel)>,
    tls: Connection,
    decoder: Decoder,
    state: State,
    plain: VecDeque<Vec<u8>>,
    plain_at: usize,
    bucket: TokenBucket,
    /// Bytes of frames that may be sent.
    credit: u64,
    /// Bytes of frames that the peer may still send.
    granted: u64,
    started_at: MonoNs,
    heard_at: MonoNs,
    pinged_at: MonoNs,
    ping: Option<(u64, MonoNs)>,
    ping_next: u64,
}

impl Link {
    pub(super) fn dial(
        own: Arc<Own>,
        limits: TransportLimits,
        tls: &TlsMaterial,
        peer: NodeId,
        channel: Channel,
        now: MonoNs,
    ) -> Result<Self, DownReason> {
        let name = node_dns_name(own.identity.cluster, peer);
        let name = ServerName::try_from(name).map_err(|error| DownReason::Tls(error.to_string()))?;
        let connection =
            ClientConnection::new(tls.client.clone(), name).map_err(|error| DownReason::Tls(error.to_string()))?;
        let mut link = Self::new(own, limits, connection.into(), Some((peer, channel)), now);
        link.decoder.set_limit(BODY_BYTES_MAX);
        link.set_pace(peer, channel, now);
        Ok(link)
    }

    pub(super) fn accept(
        own: Arc<Own>,
        limits: TransportLimits,
        tls: &TlsMaterial,
        now: MonoNs,
    ) -> Result<Self, DownReason> {
        let connection =
            ServerConnection::new(tls.server.clone()).map_err(|error| DownReason::Tls(error.to_string()))?;
        Ok(Self::new(own, limits, connection.into(), None, now))
    }

    fn new(
        own: Arc<Own>,
        limits: TransportLimits,
        tls: Connection,
        dialled: Option<(NodeId, Channel)>,
        now: MonoNs,
    ) -> Self {
        Self {
            granted: if dialled.is_some() { 0 } else { own.credit_bytes },
            own,
            limits,
            dialled,
            tls,
            decoder: Decoder::new(HELLO_BYTES_MAX),
            state: State::Tls,
            plain: VecDeque::new(),
            plain_at: 0,
            bucket: TokenBucket::new(0, now),
            credit: 0,
            started_at: now,
            heard_at: now,
            pinged_at: now,
            ping: None,
            ping_next: 1,
        }
    }

    fn set_pace(&mut self, peer: NodeId, channel: Channel, now: MonoNs) {
        // Beats are small and must not stand behind a limit made for frames.
        if channel == Channel::Data
            && let Some(peer) = self.own.peer(peer)
        {
            self.bucket = TokenBucket::new(peer.bytes_per_second_max, now);
        }
    }

    /// Takes bytes from the socket.
    pub(super) fn received(
        &mut self,
        mut bytes: &[u8],
        queue: &LinkQueue,
        now: MonoNs,
        out: &mut Vec<LinkEvent>,
    ) -> Result<(), DownReason> {
        self.heard_at = now;
        while !bytes.is_empty() && !self.is_closing() {
            self.tls.read_tls(&mut bytes).map_err(|error| DownReason::Tls(error.to_string()))?;
            let state = self.tls.process_new_packets().map_err(|error| DownReason::Tls(error.to_string()))?;
            if self.state == State::Tls && !self.tls.is_handshaking() {
                self.secured(now)?;
            }
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            if !plain.is_empty() {
                self.tls.reader().read_exact(&mut plain).map_err(|error| DownReason::Tls(error.to_string()))?;
                self.decoder.push(&plain);
            }
            self.messages(queue, now, out)?;
        }
        Ok(())
    }

    /// TLS is through: both certificates are good ones of the cluster's authority.
    fn secured(&mut self, now: MonoNs) -> Result<(), DownReason> {
        match self.dialled {
            Some((peer, channel)) => {
                self.own.judge_dialled(peer, self.certified())?;
                let hello = Message::Hello(self.own.hello(channel));
                self.put(&hello)?;
                self.state = State::SaidHello { at: now };
            }
            None => self.state = State::AwaitHello,
        }
        Ok(())
    }

    fn certified(&self) -> Option<Identity> {
        self.tls.peer_certificates().and_then(|chain| chain.first()).and_then(identity_of)
    }

    fn messages(&mut self, queue: &LinkQueue, now: MonoNs, out: &mut Vec<LinkEvent>) -> Result<(), DownReason> {
        while !self.is_closing() {
            let next = self.decoder.next();
            let Some((message, wire_bytes)) = next.map_err(|error| self.damaged(error))? else {
                return Ok(());
            };
            queue.update(|status| status.received_bytes += wire_bytes as u64);
            self.message(message, wire_bytes, queue, now, out)?;
        }
        Ok(())
    }

    /// A peer that is not let in yet is told why.
    fn damaged(&self, error: understudy_types::message::MessageError) -> DownReason {
        match self.state {
            State::AwaitHello => DownReason::Rejected { code: RefusedCode::Malformed, text: error.to_string() },
            _ => DownReason::Damaged(error),
        }
    }

    fn message(
        &mut self,
        message: Message,
        wire_bytes: usize,
        queue: &LinkQueue,
        now: MonoNs,
        out: &mut Vec<LinkEvent>,
    ) -> Result<(), DownReason> {
        match (&self.state, message) {
            (State::SaidHello { .. } | State::Up, Message::Refused { code, text }) => {
                Err(DownReason::Refused { code, text })
            }
            (State::SaidHello { at }, Message::HelloAck(mut ack)) => {
                let rtt_ns = now.since_ns(*at);
                if let Some((peer, _)) = self.dialled {
                    self.own.judge_hello_ack(peer, &ack)?;
                }
                self.credit = ack.credit_bytes;
                ack.capabilities &= capability::ALL;
                self.up(queue, now);
                out.push(LinkEvent::Welcomed { ack, rtt_ns });
                Ok(())
            }
            (State::AwaitHello, Message::Hello(mut hello)) => {
                let protocol = self.own.judge_hello(&hello, self.certified())?;
                hello.capabilities &= capability::ALL;
                self.decoder.set_limit(BODY_BYTES_MAX);
                self.set_pace(hello.node, hello.channel, now);
                if hello.channel == Channel::Beat {
                    self.welcome(protocol, Vec::new(), queue, now)?;
                } else {
                    self.state = State::AwaitAnswer { protocol };
                }
                out.push(LinkEvent::Greeted(hello));
                Ok(())
            }
            (State::AwaitHello, other) => {
                let text = format!("message of type `{}` where a Hello was due", other.kind());
                Err(DownReason::Rejected { code: RefusedCode::Malformed, text })
            }
            (State::Up, message) => self.message_up(message, wire_bytes, queue, now, out),
            (_, other) => Err(DownReason::Protocol(format!("message of type `{}` during the handshake", other.kind()))),
        }
    }

    fn message_up(
        &mut self,
        message: Message,
        wire_bytes: usize,
        queue: &LinkQueue,
        now: MonoNs,
        out: &mut Vec<LinkEvent>,
    ) -> Result<(), DownReason> {
        match &message {
            Message::Hello(_) | Message::HelloAck(_) => {
                return Err(DownReason::Protocol(format!("message of type `{}` after the handshake", message.kind())));
            }
            Message::Goodbye => return Err(DownReason::Goodbye),
            Message::Ping { token } => return self.put(&Message::Pong { token: *token }),
            Message::Pong { token } => {
                if let Some((_, at)) = self.ping.take_if(|ping| ping.0 == *token) {
                    queue.update(|status| status.rtt_ns = now.since_ns(at).max(1));
                }
                return Ok(());
            }
            Message::Unknown { .. } => {
                queue.update(|status| status.unknown_messages += 1);
                return Ok(());
            }
            Message::Frame { .. } => {
                let Some(left) = self.granted.checked_sub(wire_bytes as u64) else {
                    return Err(DownReason::Protocol(format!(
                        "frame of {wire_bytes} bytes with {} bytes of credit",
                        self.granted
                    )));
                };
                self.granted = left;
                queue.update(|status| status.received_frames += 1);
            }
            Message::Credit { bytes } => {
                self.credit = self.credit.saturating_add(*bytes);
                let credit = self.credit;
                queue.update(|status| status.credit_bytes = credit);
            }
            _ => {}
        }
        out.push(LinkEvent::Message { message, wire_bytes });
        Ok(())
    }

    fn up(&mut self, queue: &LinkQueue, now: MonoNs) {
        self.state = State::Up;
        self.pinged_at = now;
        let credit = self.credit;
        queue.update(|status| {
            status.up = true;
            status.credit_bytes = credit;
        });
    }

    fn welcome(
        &mut self,
        protocol: u16,
        positions: Vec<understudy_types::message::Position>,
        queue: &LinkQueue,
        now: MonoNs,
    ) -> Result<(), DownReason> {
        let ack = HelloAck {
            protocol,
            node: self.own.identity.node,
            cluster: self.own.identity.cluster,
            incarnation: self.own.incarnation,
            capabilities: capability::ALL,
            credit_bytes: self.own.credit_bytes,
            software: self.own.software.clone(),
            positions,
        };
        self.put(&Message::HelloAck(ack))?;
        self.up(queue, now);
        Ok(())
    }

    fn put(&mut self, message: &Message) -> Result<(), DownReason> {
        self.plain.push_back(message.encode()?);
        Ok(())
    }

    /// Encrypted bytes for the socket; none when nothing may go now.
    pub(super) fn output(&mut self, queue: &LinkQueue, now: MonoNs) -> Result<Vec<u8>, DownReason> {
        if let State::AwaitAnswer { protocol } = self.state
            && let Some(answer) = queue.take_answer()
        {
            match answer {
                Ok(positions) => self.welcome(protocol, positions, queue, now)?,
                Err((code, text)) => return Err(DownReason::Rejected { code, text }),
            }
        }
        let mut out = Vec::new();
        self.take_tls(&mut out)?;
        if self.tls.is_handshaking() {
            return Ok(out);
        }
        let mut budget = LINK_WRITE_BYTES;
        while budget > 0 {
            if self.plain.is_empty() {
                self.refill(queue);
            }
            let Some(front) = self.plain.front() else { break };
            let may_go = if self.is_closing() { usize::MAX } else { self.bucket.available(now) };
            let chunk = (front.len() - self.plain_at).min(CHUNK_BYTES).min(budget).min(may_go);
            if chunk == 0 {
                break;
            }
            let piece = &front[self.plain_at..self.plain_at + chunk];
            self.tls.writer().write_all(piece).map_err(|error| DownReason::Tls(error.to_string()))?;
            self.plain_at += chunk;
            if self.plain_at == front.len() {
                self.plain.pop_front();
                self.plain_at = 0;
            }
            self.bucket.take(chunk);
            budget -= chunk;
            queue.update(|status| status.sent_bytes += chunk as u64);
            self.take_tls(&mut out)?;
        }
        Ok(out)
    }

    fn refill(&mut self, queue: &LinkQueue) {
        if self.state != State::Up {
            return;
        }
        let Some(Queued { bytes, is_frame, grant }) = queue.pop(self.credit) else { return };
        if is_frame {
            self.credit -= bytes.len() as u64;
            let credit = self.credit;
            queue.update(|status| {
                status.sent_frames += 1;
                status.credit_bytes = credit;
            });
        }
        // Credit that this node gives counts from the moment it is written: the peer cannot know of it before.
        self.granted = self.granted.saturating_add(grant);
        self.plain.push_back(bytes);
    }

    fn take_tls(&mut self, out: &mut Vec<u8>) -> Result<(), DownReason> {
        while self.tls.wants_write() {
            self.tls.write_tls(out).map_err(|error| DownReason::Tls(error.to_string()))?;
        }
        Ok(())
    }

    /// Looks at the time: pings, and gives up on a peer that is silent or slow to say who it is.
    pub(super) fn tick(&mut self, now: MonoNs) -> Result<(), DownReason> {
        match self.state {
            State::Closing(_) => Ok(()),
            State::Up => {
                let silent = self.limits.silence_max;
                if now.since_ns(self.heard_at) > ns(silent) {
                    return Err(DownReason::Silent(ns(silent) / 1_000_000));
                }
                if now.since_ns(self.pinged_at) >= ns(self.limits.keepalive) {
                    self.pinged_at = now;
                    self.ping = Some((self.ping_next, now));
                    let ping = Message::Ping { token: self.ping_next };
                    self.ping_next += 1;
                    self.put(&ping)?;
                }
                Ok(())
            }
            State::AwaitAnswer { .. } if now.since_ns(self.started_at) > ns(self.limits.handshake_max) => {
                Err(DownReason::Rejected {
                    code: RefusedCode::Busy,
                    text: "node did not answer in time; try again".to_owned(),
                })
            }
            _ if now.since_ns(self.started_at) > ns(self.limits.handshake_max) => {
                Err(DownReason::HandshakeTimeout(ns(self.limits.handshake_max) / 1_000_000))
            }
            _ => Ok(()),
        }
    }

    /// The reader was held up by this node, not by the peer: its silence does not count.
    pub(super) fn excuse(&mut self, now: MonoNs) {
        self.heard_at = now;
    }

    /// When there may be something to write again that no wake-up tells of.
    pub(super) fn paced_until(&self) -> Option<MonoNs> {
        (!self.plain.is_empty()).then(|| self.bucket.ready_at())
    }

    /// No more is read or taken from the queue; what explains the end to the peer still goes out.
    pub(super) fn close(&mut self, reason: DownReason) {
        if self.is_closing() {
            return;
        }
        let last = match &reason {
            DownReason::Rejected { code, text } => Some(Message::Refused { code: *code, text: clean(text) }),
            DownReason::Stopped | DownReason::ClosedHere(_) if self.state == State::Up => Some(Message::Goodbye),
            _ => None,
        };
        // A message that was begun must be finished, or the last one could not be read; but not megabytes of it.
        if self.plain_at > 0 {
            self.plain.truncate(1);
        } else {
            self.plain.clear();
        }
        if let Some(last) = last {
            // A text within its limits always encodes.
            let _ = self.put(&last);
        }
        self.state = State::Closing(reason);
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing(_))
    }

    /// Everything that was to go out is out.
    pub(super) fn is_drained(&self) -> bool {
        self.plain.is_empty() && !self.tls.wants_write()
    }

    /// Bytes of a message that has not come to its end.
    pub(super) fn pending_bytes(&self) -> usize {
        self.decoder.pending_bytes()
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Text for a Refused: within its limit, no control characters.
fn clean(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut end = out.len().min(understudy_types::message::REFUSED_TEXT_BYTES_MAX);
    while !out.is_char_boundary(end) {
        end -= 1;
    }
    out.truncate(end);
    out
}
