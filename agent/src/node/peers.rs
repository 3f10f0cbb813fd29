//! The event loop towards its peers: what transport reports, what `ship` and `receive` decide, requests both ways.
//!
//! Owns: the way from a decision to a message. What can hurt: a peer that says what it must not; its link is closed
//! and nothing else happens. A group whose peer cannot go on by frames goes on from here: the peer takes the next
//! frame as a new beginning, and a snapshot of every account of the group follows.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crossbeam::channel::Sender;
use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::message::{Channel, Message, ResyncReason, status};

use super::core::{Core, PeerResync};
use super::query::{self, AccountPosition, kind};
use crate::clock;
use crate::frame::Frame;
use crate::journal::{ReadError, Tail, Token};
use crate::limits::{ASK_MS_MAX, UNDO_MS_MAX};
use crate::receive::{Arrived, Decision};
use crate::ship::{FrameMeta, ShipAction, ShipEvent, ShipOutcome};
use crate::transport::{LinkId, SendError, TransportEvent};

impl Core {
    /// Takes what the transport reports.
    pub(crate) fn transport_event(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Connected {
                peer, link, channel: Channel::Data, positions, credit_bytes, software, ..
            } => {
                tracing::info!(peer = self.name(peer), software, "connected");
                self.links.insert(peer, link);
                self.probes.dial_errors.remove(&peer);
                let labels = crate::metrics::Peer::new(&self.name(peer));
                self.metrics.peer_connects.get_or_create(&labels).inc();
                self.ship(ShipEvent::Connected { peer, link, credit_bytes, positions });
            }
            TransportEvent::Asked { peer, link, .. } => {
                self.dialled_by.insert(peer, link);
                let positions = self.receiver.greeted(peer, link);
                // The link may be gone by now; its Disconnected follows.
                let _ = self.transport.welcome(link, positions);
            }
            TransportEvent::Message { peer, link, channel, message, wire_bytes } => {
                if let Message::Council(words) = message {
                    self.council.heard(peer, &words);
                } else if channel == Channel::Beat {
                    self.beat(peer, &message);
                } else {
                    self.message(peer, link, message, wire_bytes as u64);
                }
            }
            TransportEvent::Disconnected { peer, link, channel: Channel::Data, reason } => {
                tracing::info!(peer = self.name(peer), %reason, "disconnected");
                self.receiver.disconnected(link);
                self.asks.disconnected(link);
                self.parked.forget(peer);
                if self.dialled_by.get(&peer) == Some(&link) {
                    self.dialled_by.remove(&peer);
                }
                if self.links.get(&peer) == Some(&link) {
                    self.links.remove(&peer);
                    self.ship(ShipEvent::Disconnected { peer, link });
                }
            }
            TransportEvent::DialFailed { peer, channel: Channel::Data, attempt, reason, .. } => {
                // Told once and then rarely: a peer that is away for a day would fill the log.
                if attempt == 1 || attempt % 100 == 0 {
                    tracing::warn!(peer = self.name(peer), attempt, %reason, "cannot connect; tried again for ever");
                }
                self.probes.dial_errors.insert(peer, reason.to_string());
            }
            TransportEvent::Rejected { from, reason } => tracing::warn!(%from, %reason, "a connection was refused"),
            TransportEvent::Certificates { result } => match result {
                Ok(()) => tracing::info!("certificates were read again"),
                Err(error) => tracing::error!(error, "the new certificates cannot be used; the old ones stay"),
            },
            _ => {}
        }
    }

    pub(super) fn name(&self, node: NodeId) -> String {
        self.config.node_name(node)
    }

    fn message(&mut self, peer: NodeId, link: LinkId, message: Message, wire_bytes: u64) {
        match message {
            Message::Frame { writer_epoch, bytes } => match Frame::parse(bytes.into()) {
                Ok(frame) => self.frame(peer, link, writer_epoch, frame, wire_bytes),
                Err(error) => {
                    tracing::error!(peer = self.name(peer), %error, "a damaged frame arrived");
                    self.transport.close(link, error.to_string());
                }
            },
            Message::Positions(positions) => self.positions_told(peer, link, positions),
            Message::Ack(acks) => self.ship(ShipEvent::Ack { peer, link, acks }),
            Message::Credit { bytes } => self.ship(ShipEvent::Credit { peer, link, bytes }),
            Message::ResyncNeeded { group, reason, .. } => {
                if self.own.contains_key(&group) {
                    self.ship(ShipEvent::PeerNeedsResync { peer, link, group, reason });
                } else {
                    tracing::warn!(
                        group = group.0,
                        peer = self.name(peer),
                        ?reason,
                        "the group's stream begins anew here"
                    );
                    self.rebase_next.insert(group);
                }
            }
            Message::Parked { group, applied, accounts } => self.parked_told(peer, group, applied.0, accounts),
            Message::Request { id, kind, body } => self.request(peer, link, id, kind, body),
            Message::Reply { id, status, more, body } => self.asks.reply(peer, id, status, more, body),
            other => tracing::debug!(peer = self.name(peer), ?other, "a message that is not expected here"),
        }
    }

    fn frame(&mut self, peer: NodeId, link: LinkId, writer_epoch: Epoch, frame: Frame, wire_bytes: u64) {
        let header = *frame.header();
        let group = header.group;
        if header.cluster != self.cluster {
            self.transport.close(link, "a frame of another cluster".into());
            return;
        }
        if self.rebase_next.remove(&group) {
            let sequence = Sequence(header.first_sequence.0 - 1);
            let tail = Tail { sequence, epoch: header.epoch, hash: header.previous_hash };
            if self.journal.rebase(group, tail, Token(0)).is_err() {
                self.rebase_next.insert(group);
                self.transport.close(link, "the journal is busy".into());
                return;
            }
            self.lost_groups.remove(&group);
            self.board.lock().applied.insert(group, sequence.0);
            self.receiver.rebased(group, tail, sequence, self.now);
        }
        let arrived = Arrived { peer, link, writer_epoch, header: &header, hash: frame.hash(), wire_bytes };
        match self.receiver.frame(&arrived, self.now) {
            // The journal fences by the writer's epoch, which goes along with every frame.
            Decision::Accept { .. } => self.receive(peer, frame, writer_epoch),
            Decision::Duplicate { raise_fence } => {
                if let Some(epoch) = raise_fence
                    && self.journal.fence(group, epoch, Token(0)).is_err()
                {
                    self.transport.close(link, "the journal is busy".into());
                }
            }
            Decision::Fenced { known } => {
                tracing::warn!(
                    peer = self.name(peer),
                    group = group.0,
                    known = known.0,
                    "a frame of a fenced node was refused"
                );
            }
            Decision::Gap { expected } => {
                self.transport.close(link, format!("frames of group {group} before {expected} are missing"));
            }
            Decision::NotReplica => {
                self.transport.close(link, format!("this node is no replica of group {group}"));
            }
            Decision::Diverged { at } => {
                tracing::warn!(peer = self.name(peer), group = group.0, at = at.0, "the streams have diverged: resync");
                if let Some(outgoing) = self.receiver.resync_needed(group) {
                    let _ = self.transport.send_on(outgoing.link, &outgoing.message);
                }
            }
        }
    }

    fn receive(&mut self, peer: NodeId, frame: Frame, writer_epoch: Epoch) {
        let labels = crate::metrics::Peer::new(&self.name(peer));
        self.metrics.received_operations.get_or_create(&labels).inc_by(u64::from(frame.header().count));
        self.unsent.push_back((frame, Some(writer_epoch)));
        self.feed_journal();
    }

    /// Feeds the shipping decider and does what it says, until it says nothing more.
    pub(crate) fn ship(&mut self, event: ShipEvent) {
        let mut actions: VecDeque<ShipAction> = self.shipper.apply(event).into();
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.ship_action(action) {
                actions.extend(self.shipper.apply(event));
            }
        }
    }

    fn ship_action(&mut self, action: ShipAction) -> Option<ShipEvent> {
        match action {
            ShipAction::Ship { peer, link, group, writer_epoch, from, bytes_max } => {
                let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
                let (mut sent, mut outcome) = (Vec::new(), ShipOutcome::Sent);
                if self.pauses.peer(peer, clock::wall_ns()).is_some() {
                    // Tried again every second.
                    let (frames, outcome) = (sent, ShipOutcome::Full);
                    return Some(ShipEvent::Shipped { peer, link, group, frames, outcome });
                }
                match self.reader.read(group, from, bytes_max) {
                    Ok(frames) => {
                        let told = self.own.get(&group).map_or(Sequence(0), |own| own.told);
                        for frame in frames.into_iter().filter(|frame| frame.last_sequence() <= told) {
                            let meta = FrameMeta::of(&frame);
                            let message = Message::Frame { writer_epoch, bytes: frame.bytes().to_vec() };
                            match self.transport.send_on(link, &message) {
                                Ok(()) => {
                                    let labels = crate::metrics::Peer::new(&self.name(peer));
                                    self.metrics.peer_sent.get_or_create(&labels).inc_by(meta.bytes);
                                    let count = u64::from(frame.header().count);
                                    self.metrics.peer_shipped.get_or_create(&labels).inc_by(count);
                                    sent.push(meta);
                                }
                                Err(SendError::Full | SendError::NotConnected | SendError::Direction) => {
                                    outcome = ShipOutcome::Full;
                                    break;
                                }
                                Err(SendError::Message(error)) => {
                                    tracing::error!(group = group.0, %error, "a frame does not fit into a message");
                                    outcome = ShipOutcome::Unreadable(ResyncReason::Damaged);
                                    break;
                                }
                            }
                        }
                    }
                    Err(error) => {
                        tracing::warn!(group = group.0, from = from.0, %error, "frames for a peer cannot be read");
                        outcome = ShipOutcome::Unreadable(match error {
                            ReadError::Retired { .. } => ResyncReason::BelowJournal,
                            ReadError::Gap { .. } => ResyncReason::Gap,
                            ReadError::Inside { .. } => ResyncReason::Diverged,
                            ReadError::Damaged { .. } | ReadError::Io { .. } => ResyncReason::Damaged,
                        });
                    }
                }
                Some(ShipEvent::Shipped { peer, link, group, frames: sent, outcome })
            }
            ShipAction::LookUpHash { peer, link, group, at } => {
                Some(ShipEvent::HashKnown { peer, link, group, at, hash: self.hash_at(group, at) })
            }
            ShipAction::Acked { peer, group, acked } => {
                if let Some(own) = self.own.get_mut(&group) {
                    let before = own.acked.insert(peer, acked.0).unwrap_or(0);
                    let labels = crate::metrics::Peer::new(&self.config.node_name(peer));
                    self.metrics.peer_acked.get_or_create(&labels).inc_by(acked.0.saturating_sub(before));
                    self.dirty.insert(group);
                }
                let done = |r: &PeerResync| r.accounts.is_empty() && acked.0 >= r.until_seq;
                if self.peer_resync.get(&(group, peer)).is_some_and(done) {
                    self.peer_resync.remove(&(group, peer));
                }
                None
            }
            ShipAction::ResyncNeeded { peer, link, group, epoch, reason } => {
                Some(self.begin_peer_resync(peer, link, group, epoch, reason))
            }
            ShipAction::Fenced { peer, group, ours, theirs } => {
                tracing::error!(
                    peer = self.name(peer),
                    group = group.0,
                    ours = ours.0,
                    theirs = theirs.0,
                    "a peer knows a newer epoch: this node must not be active for the group"
                );
                None
            }
            ShipAction::WentBack { peer, group, acked, now } => {
                tracing::error!(
                    peer = self.name(peer),
                    group = group.0,
                    acked = acked.0,
                    now = now.0,
                    "a peer no longer has what it had acknowledged: its journal was lost"
                );
                if let Some(own) = self.own.get_mut(&group) {
                    own.acked.insert(peer, now.0);
                }
                None
            }
            ShipAction::Drop { link, why, .. } => {
                self.transport.close(link, why);
                None
            }
        }
    }

    /// The peer's stream goes on after what is journaled here; every account of the group gets a snapshot.
    fn begin_peer_resync(
        &mut self,
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        epoch: Epoch,
        reason: ResyncReason,
    ) -> ShipEvent {
        let at = self.reader.tail(group).sequence;
        tracing::warn!(
            peer = self.name(peer),
            group = group.0,
            ?reason,
            at = at.0,
            "resync needed: accounts are copied anew"
        );
        let accounts: BTreeSet<String> = self
            .accounts
            .iter()
            .filter(|(_, known)| known.group == group)
            .map(|(account, _)| account.to_owned())
            .collect();
        // Noted before the peer begins anew: an agent that died in between would take it for one that has everything.
        self.want_exports(accounts.iter().map(String::as_str), true, "a peer must be brought up to date");
        // If the link is gone, the peer's position is judged again when it is back.
        let _ = self.transport.send_on(link, &Message::ResyncNeeded { group, epoch, reason });
        self.peer_resync
            .insert((group, peer), PeerResync { accounts, until_seq: at.0, after_snapshot: self.last_snapshot });
        ShipEvent::Rebased { peer, group, at }
    }

    fn hash_at(&self, group: GroupId, at: Sequence) -> Option<[u8; 32]> {
        let frames = match self.reader.read(group, at, 1) {
            Err(ReadError::Inside { first, .. }) => self.reader.read(group, first, 1),
            other => other,
        };
        frames.ok()?.first().filter(|frame| frame.last_sequence() == at).map(Frame::hash)
    }

    /// Tells the actives of groups that frames are lost here: they make the stream begin anew and send snapshots. It
    /// goes the way on which their frames come, which is the one that they know us by; told again on every new
    /// connection, until the stream does begin anew.
    pub(crate) fn tell_lost(&mut self) {
        for (group, told) in &mut self.lost_groups {
            let Some(link) = self.receiver.link(*group).filter(|link| *told != Some(*link)) else { continue };
            let epoch = self.receiver.positions(*group).map_or(Epoch(0), |at| at.epoch);
            let message = Message::ResyncNeeded { group: *group, epoch, reason: ResyncReason::Gap };
            if self.transport.send_on(link, &message).is_ok() {
                *told = Some(link);
            }
        }
    }

    /// Sends acknowledgements and credit that are due.
    pub(crate) fn send_outgoing(&mut self) {
        if self.receiver.due().is_none_or(|due| due > self.now) {
            return;
        }
        for outgoing in self.receiver.take(self.now) {
            if let Err(SendError::Full) = self.transport.send_on(outgoing.link, &outgoing.message) {
                // The peer does not read: it comes back and goes on by position.
                self.transport.close(outgoing.link, "the peer does not take acknowledgements".into());
            }
        }
    }

    fn request(&mut self, peer: NodeId, link: LinkId, id: u64, kind: u16, body: Vec<u8>) {
        if kind == kind::RESYNC {
            let (state, text) = match query::take_resync(&body) {
                Some((bodies, account)) if self.view.read().own_group(account).is_some() => {
                    let account = account.to_owned();
                    self.want_export(&account, bodies, "a replica asks");
                    (status::OK, Vec::new())
                }
                Some(_) => (status::FAILED, b"the account is not active here".to_vec()),
                None => (status::FAILED, b"malformed request".to_vec()),
            };
            let reply = Message::Reply { id, status: state, more: false, body: text };
            let _ = self.transport.send_on(link, &reply);
        } else if !self.answering.start(link, id, kind, body) {
            tracing::debug!(peer = self.name(peer), kind, "too many requests of peers at once");
            let reply = Message::Reply { id, status: status::BUSY, more: false, body: Vec::new() };
            let _ = self.transport.send_on(link, &reply);
        }
    }

    /// Asks a peer something; the answer goes to `reply`.
    pub(crate) fn ask(
        &mut self,
        peer: NodeId,
        kind: u16,
        body: Vec<u8>,
        reply: Option<Sender<Result<Vec<u8>, String>>>,
    ) {
        let Some(link) = self.links.get(&peer).copied() else {
            if let Some(reply) = reply {
                let _ = reply.send(Err("the peer is not connected".into()));
            }
            return;
        };
        let patience_ms = if kind == kind::UNDO { UNDO_MS_MAX } else { ASK_MS_MAX };
        let id = self.asks.open(peer, link, reply, self.now.after(Duration::from_millis(patience_ms)));
        if let Err(error) = self.transport.send_on(link, &Message::Request { id, kind, body }) {
            self.asks.fail(id, &error.to_string());
        }
    }

    pub(super) fn ask_resync(&mut self, active: NodeId, account: &str, bodies: bool) {
        self.ask(active, kind::RESYNC, query::put_resync(bodies, account), None);
    }

    pub(super) fn position(&self, account: &str) -> Option<AccountPosition> {
        let view = self.view.read();
        let group = view.placement.group(view.placement.group_of(account))?;
        if !view.rules.resolve(account).replicate {
            return None;
        }
        let own = self.own.contains_key(&group.id);
        let exporting = self.owes(account, &group.replicas) || self.is_changing(account, self.is_ring_unread());
        let last_seq = self.last_seq(account, group.id);
        let (active, replicas) = (group.active, group.replicas.clone());
        Some(AccountPosition { group: group.id, active, replicas, own, last_seq, exporting })
    }
}
