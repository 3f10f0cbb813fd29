//! The event loop towards its peers, as `agent/src/node/peers.rs` has it, and the dialling that the transport does.
//!
//! Owns: the way from a decision to a message. What can hurt: see the head of this folder. Refuses: the wire; messages
//! travel as values, and frames as their bytes, which are parsed again where they arrive.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use understudy_agent::frame::Frame;
use understudy_agent::journal::{ReadError, Tail, Token};
use understudy_agent::limits::{HANDSHAKE_MS_MAX, REDIAL_MS_MAX, REDIAL_MS_MIN};
use understudy_agent::receive::{Arrived, Decision};
use understudy_agent::ship::{FrameMeta, ShipAction, ShipEvent, ShipOutcome};
use understudy_agent::transport::{LinkId, redial_delay};
use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::message::{Message, ResyncReason, status};

use super::{Agent, CLUSTER, Incoming, Out, PeerResync};
use crate::event::Wake;
use crate::host::Host;
use crate::net::Packet;

/// Kind of the request for a snapshot, as `node/query.rs` has it.
const RESYNC: u16 = 4;

impl Agent {
    /// The transport dials a peer.
    pub(super) fn dial(&mut self, peer: NodeId, out: &mut Out) {
        let Some(dial) = self.dials.get_mut(&peer).filter(|dial| dial.link.is_none()) else { return };
        let link = out.net.dial(self.me, peer, &mut out.queue);
        dial.link = Some(link);
        dial.connected = false;
        self.wake_after(HANDSHAKE_MS_MAX * 1_000_000, Wake::DialTimeout(peer, link), out);
    }

    pub(super) fn dial_timed_out(&mut self, peer: NodeId, link: LinkId, out: &mut Out) {
        if self.dials.get(&peer).is_some_and(|dial| dial.link == Some(link) && !dial.connected) {
            self.close(link, out);
        }
    }

    /// Closes a link; its end is heard of like any other.
    pub(super) fn close(&mut self, link: LinkId, out: &mut Out) {
        if out.net.end_of(link, self.me).is_some() {
            out.net.close(link, self.me, &mut out.queue);
            self.inbox.push_back(Incoming::Disconnected { link });
            self.poke(out);
        }
    }

    pub(super) fn send(&mut self, link: LinkId, message: Message, out: &mut Out) -> bool {
        out.net.send(link, self.me, message, &mut out.queue)
    }

    /// Takes what the transport reports.
    pub(super) fn transport_event(&mut self, event: Incoming, host: &mut Host, out: &mut Out) {
        match event {
            Incoming::Connected { peer, link, credit_bytes, positions } => {
                out.say(format_args!("n{} connected to n{peer}", self.me));
                let Some(dial) = self.dials.get_mut(&peer).filter(|dial| dial.link == Some(link)) else { return };
                dial.connected = true;
                dial.attempt = 0;
                self.links.insert(peer, link);
                self.ship(ShipEvent::Connected { peer, link, credit_bytes, positions }, host, out);
            }
            Incoming::Asked { peer, link } => {
                self.dialled_by.insert(peer, link);
                let positions = self.receiver.greeted(peer, link);
                let welcome = Packet::Welcome { credit_bytes: out.plan.credit_bytes, positions };
                out.net.welcome(link, self.me, welcome, &mut out.queue);
            }
            Incoming::Message { peer, link, message } => self.message(peer, link, message, host, out),
            Incoming::Disconnected { link } => self.disconnected(link, host, out),
        }
    }

    fn disconnected(&mut self, link: LinkId, host: &mut Host, out: &mut Out) {
        self.receiver.disconnected(link);
        self.dialled_by.retain(|_, known| *known != link);
        let dialled = self.dials.iter().find(|(_, dial)| dial.link == Some(link)).map(|(peer, _)| *peer);
        let Some(peer) = dialled else { return };
        if self.links.get(&peer) == Some(&link) {
            out.say(format_args!("n{} disconnected from n{peer}", self.me));
            self.links.remove(&peer);
            self.ship(ShipEvent::Disconnected { peer, link }, host, out);
        }
        let Some(dial) = self.dials.get_mut(&peer) else { return };
        dial.link = None;
        let (min, max) = (Duration::from_millis(REDIAL_MS_MIN), Duration::from_millis(REDIAL_MS_MAX));
        let random = u32::try_from(out.random.below(u64::from(u32::MAX))).unwrap_or(0);
        let wait = redial_delay(dial.attempt, random, min, max);
        dial.attempt = dial.attempt.saturating_add(1);
        self.wake_after(u64::try_from(wait.as_nanos()).unwrap_or(0), Wake::Dial(peer), out);
    }

    fn message(&mut self, peer: NodeId, link: LinkId, message: Message, host: &mut Host, out: &mut Out) {
        match message {
            Message::Frame { writer_epoch, bytes } => {
                let wire_bytes = Message::frame_cost_bytes(bytes.len());
                match Frame::parse(bytes.into()) {
                    Ok(frame) => self.frame(peer, link, writer_epoch, frame, wire_bytes, out),
                    Err(_) => self.close(link, out),
                }
            }
            Message::Positions(positions) => self.positions_told(peer, link, positions, host, out),
            Message::Ack(acks) => self.ship(ShipEvent::Ack { peer, link, acks }, host, out),
            Message::Credit { bytes } => self.ship(ShipEvent::Credit { peer, link, bytes }, host, out),
            Message::ResyncNeeded { group, reason, .. } => {
                if self.own.contains_key(&group) {
                    self.ship(ShipEvent::PeerNeedsResync { peer, link, group, reason }, host, out);
                } else {
                    out.say(format_args!("n{} stream of g{group} begins anew ({reason:?})", self.me));
                    self.rebase_next.insert(group);
                }
            }
            Message::Request { id, kind: RESYNC, body } => self.resync_asked(link, id, &body, host, out),
            Message::Reply { id, status: status::OK, .. } => {
                if let Some(account) = self.asked.remove(&id) {
                    self.foreign_asked.remove(&account);
                    self.owed.remove(&account);
                    host.memory.settled(&account);
                }
            }
            _ => {}
        }
    }

    fn frame(&mut self, peer: NodeId, link: LinkId, writer_epoch: Epoch, frame: Frame, wire_bytes: u64, out: &mut Out) {
        let header = *frame.header();
        let group = header.group;
        if header.cluster != CLUSTER {
            self.close(link, out);
            return;
        }
        if self.rebase_next.remove(&group) {
            let sequence = Sequence(header.first_sequence.0 - 1);
            let tail = Tail { sequence, epoch: header.epoch, hash: header.previous_hash };
            if self.journal.rebase(group, tail, Token(0)).is_err() {
                self.rebase_next.insert(group);
                self.close(link, out);
                return;
            }
            out.say(format_args!("n{} rebases g{group} to {sequence}", self.me));
            self.wake_journal(out);
            self.lost_groups.remove(&group);
            self.applied.insert(group, sequence.0);
            self.receiver.rebased(group, tail, sequence, self.now);
        }
        let arrived = Arrived { peer, link, writer_epoch, header: &header, hash: frame.hash(), wire_bytes };
        let decision = self.receiver.frame(&arrived, self.now);
        if out.trace.is_kept() {
            let (first, last) = (header.first_sequence, header.last_sequence());
            out.say(format_args!("n{} gets g{group} {first}..{last} from n{peer}: {decision:?}", self.me));
        }
        match decision {
            Decision::Accept { .. } => {
                self.unsent.push_back((frame, Some(writer_epoch)));
                self.feed_journal(out);
            }
            Decision::Duplicate { raise_fence } => {
                if let Some(epoch) = raise_fence {
                    if self.journal.fence(group, epoch, Token(0)).is_err() {
                        self.close(link, out);
                    } else {
                        self.wake_journal(out);
                    }
                }
            }
            Decision::Fenced { .. } => {}
            Decision::Gap { .. } | Decision::NotReplica => self.close(link, out),
            Decision::Diverged { .. } => {
                if let Some(outgoing) = self.receiver.resync_needed(group) {
                    self.send(outgoing.link, outgoing.message, out);
                }
            }
        }
    }

    /// Feeds the shipping decider and does what it says, until it says nothing more.
    pub(super) fn ship(&mut self, event: ShipEvent, host: &mut Host, out: &mut Out) {
        let mut actions: VecDeque<ShipAction> = self.shipper.apply(event).into();
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.ship_action(action, host, out) {
                actions.extend(self.shipper.apply(event));
            }
        }
    }

    fn ship_action(&mut self, action: ShipAction, host: &mut Host, out: &mut Out) -> Option<ShipEvent> {
        match action {
            ShipAction::Ship { peer, link, group, writer_epoch, from, bytes_max } => {
                let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
                let (mut sent, mut outcome) = (Vec::new(), ShipOutcome::Sent);
                match self.reader.read(group, from, bytes_max) {
                    Ok(frames) => {
                        let told = self.own.get(&group).map_or(Sequence(0), |own| own.told);
                        for frame in frames.into_iter().filter(|frame| frame.last_sequence() <= told) {
                            let meta = FrameMeta::of(&frame);
                            let message = Message::Frame { writer_epoch, bytes: frame.bytes().to_vec() };
                            if self.send(link, message, out) {
                                sent.push(meta);
                            } else {
                                outcome = ShipOutcome::Full;
                                break;
                            }
                        }
                    }
                    Err(error) => {
                        out.say(format_args!("n{} cannot read g{group} {from} for n{peer}: {error}", self.me));
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
                    own.acked.insert(peer, acked.0);
                    self.dirty.insert(group);
                }
                let done = |r: &PeerResync| r.accounts.is_empty() && acked.0 >= r.until_seq;
                if self.peer_resync.get(&(group, peer)).is_some_and(done) {
                    self.peer_resync.remove(&(group, peer));
                }
                None
            }
            ShipAction::ResyncNeeded { peer, link, group, epoch, reason } => {
                Some(self.begin_peer_resync(peer, link, group, epoch, reason, host, out))
            }
            ShipAction::Fenced { peer, group, ours, theirs } => {
                out.say(format_args!("n{} hears from n{peer} that g{group} is at e{theirs}, not e{ours}", self.me));
                None
            }
            ShipAction::WentBack { peer, group, acked, now } => {
                out.say(format_args!("n{}: n{peer} went back in g{group} from {acked} to {now}", self.me));
                if let Some(own) = self.own.get_mut(&group) {
                    own.acked.insert(peer, now.0);
                }
                None
            }
            ShipAction::Drop { link, why, peer } => {
                out.say(format_args!("n{} drops n{peer}: {why}", self.me));
                self.close(link, out);
                None
            }
        }
    }

    /// The peer's stream goes on after what is journaled here; every account of the group gets a snapshot.
    #[expect(clippy::too_many_arguments, reason = "what the action says, and the world")]
    fn begin_peer_resync(
        &mut self,
        peer: NodeId,
        link: LinkId,
        group: GroupId,
        epoch: Epoch,
        reason: ResyncReason,
        host: &mut Host,
        out: &mut Out,
    ) -> ShipEvent {
        let at = self.reader.tail(group).sequence;
        out.say(format_args!("n{} resyncs n{peer} in g{group} from {at}: {reason:?}", self.me));
        let accounts: BTreeSet<String> =
            self.accounts.iter().filter(|(_, of)| **of == group).map(|(account, _)| account.clone()).collect();
        // Noted before the peer begins anew: an agent that died in between would take it for one that has everything.
        self.want_exports(accounts.iter().map(String::as_str), true, host);
        // If the link is gone, the peer's position is judged again when it is back.
        self.send(link, Message::ResyncNeeded { group, epoch, reason }, out);
        let resync = PeerResync { accounts, until_seq: at.0, after_snapshot: self.last_snapshot };
        self.peer_resync.insert((group, peer), resync);
        ShipEvent::Rebased { peer, group, at }
    }

    fn hash_at(&self, group: GroupId, at: Sequence) -> Option<[u8; 32]> {
        let frames = match self.reader.read(group, at, 1) {
            Err(ReadError::Inside { first, .. }) => self.reader.read(group, first, 1),
            other => other,
        };
        frames.ok()?.first().filter(|frame| frame.last_sequence() == at).map(Frame::hash)
    }

    /// Tells the actives of groups that frames are lost here, on every new connection, until the stream begins anew.
    pub(super) fn tell_lost(&mut self, out: &mut Out) {
        for (group, told) in self.lost_groups.clone() {
            let Some(link) = self.receiver.link(group).filter(|link| told != Some(*link)) else { continue };
            let epoch = self.receiver.positions(group).map_or(Epoch(0), |at| at.epoch);
            if self.send(link, Message::ResyncNeeded { group, epoch, reason: ResyncReason::Gap }, out) {
                self.lost_groups.insert(group, Some(link));
            }
        }
    }

    /// Sends acknowledgements and credit that are due.
    pub(super) fn send_outgoing(&mut self, out: &mut Out) {
        if self.receiver.due().is_none_or(|due| due > self.now) {
            return;
        }
        for outgoing in self.receiver.take(self.now) {
            let gone = out.net.end_of(outgoing.link, self.me).is_none();
            if !self.send(outgoing.link, outgoing.message, out) && !gone {
                // The peer does not read: it comes back and goes on by position.
                self.close(outgoing.link, out);
            }
        }
    }

    fn resync_asked(&mut self, link: LinkId, id: u64, body: &[u8], host: &mut Host, out: &mut Out) {
        let asked = body.split_first().and_then(|(bodies, name)| Some((*bodies == 1, std::str::from_utf8(name).ok()?)));
        let status = match asked.filter(|(_, account)| self.own_group(account).is_some()) {
            Some((bodies, account)) => {
                let account = account.to_owned();
                self.want_exports(std::iter::once(account.as_str()), bodies, host);
                status::OK
            }
            None => status::FAILED,
        };
        self.send(link, Message::Reply { id, status, more: false, body: Vec::new() }, out);
    }

    pub(super) fn ask_resync(
        &mut self,
        active: NodeId,
        account: &str,
        bodies: bool,
        _host: &mut Host,
        out: &mut Out,
    ) -> Option<u64> {
        let link = self.links.get(&active).copied()?;
        self.next_ask += 1;
        let id = self.next_ask;
        let mut body = vec![u8::from(bodies)];
        body.extend_from_slice(account.as_bytes());
        out.say(format_args!("n{} asks n{active} for {account}", self.me));
        self.send(link, Message::Request { id, kind: RESYNC, body }, out).then_some(id)
    }

    /// Once a second: asks for accounts that were changed here and are active elsewhere.
    pub(super) fn ask_actives(&mut self, host: &mut Host, out: &mut Out) {
        for account in self.foreign_asked.iter().cloned().collect::<Vec<_>>() {
            let group = self.accounts.get(&account).copied();
            match group.and_then(|group| self.active_of(group)) {
                Some(active) if active != self.me => {
                    if let Some(id) = self.ask_resync(active, &account, true, host, out) {
                        self.asked.insert(id, account);
                    }
                }
                // It is active here now: what was changed here counts, and its replicas are told.
                Some(_) if self.own_group(&account).is_some() => {
                    self.foreign_asked.remove(&account);
                    self.want_exports(std::iter::once(account.as_str()), true, host);
                }
                _ => {}
            }
        }
    }
}
