//! The event loop's state and what each event does to it, as `agent/src/node/core.rs` has it.
//!
//! Owns: capture, batches, the journal's answers, acknowledgements, the release of the ring. What can hurt: see the
//! head of this folder. Refuses: everything that concerns peers (`peers`) or snapshots (`exports`).

use understudy_agent::apply::ApplyEvent;
use understudy_agent::frame::{BuilderError, Level};
use understudy_agent::journal::{AppendError, JournalEvent, Need, Token};
use understudy_agent::node::acks::{Ready, Waiting};
use understudy_agent::ship::{FrameMeta, ShipEvent};
use understudy_ring::{AckLevel, CompletionRef};
use understudy_types::frame::RingPosition;
use understudy_types::id::{BlobId, GroupId, Sequence};
use understudy_types::op::Op;

use super::{Agent, BURST, Out};
use crate::checker::log::{Held, Mark};
use crate::host::Host;
use crate::ring::Record;

fn at_of(number: u64) -> CompletionRef {
    CompletionRef { slot: u32::try_from(number).unwrap_or(u32::MAX), ticket: 1 }
}

impl Agent {
    /// Takes what the ring holds, and the marks of what was missed.
    pub(super) fn capture(&mut self, host: &mut Host, out: &mut Out) {
        self.ring_read = self.ring_read.max(host.ring.first());
        for _ in 0..BURST {
            let Some(record) = host.ring.at(self.ring_read).cloned() else { break };
            self.ring_read += 1;
            self.captured_op(record, host, out);
        }
        let gaps: Vec<String> = host.ring.gaps.iter().cloned().collect();
        for account in gaps {
            out.say(format_args!("n{} gap of {account}", self.me));
            let noted = match self.own_group(&account) {
                Some(_) => self.want_exports(std::iter::once(account.as_str()), false, host),
                // A change on a node that is not active for the account: its active is asked.
                None => {
                    self.ask_active(&account, host);
                    true
                }
            };
            if noted {
                host.ring.gaps.remove(&account);
            }
        }
    }

    fn captured_op(&mut self, record: Record, host: &mut Host, out: &mut Out) {
        let group = self.own_group(&record.account).filter(|group| self.own.contains_key(group));
        let Some(group) = group else {
            self.foreign(&record, host, out);
            return;
        };
        let Some(own) = self.own.get_mut(&group) else { return };
        let change = out.checker.change(record.number).cloned();
        let (level, peers) = change.map_or((AckLevel::None, 0), |change| (change.level, change.peers));
        let waits = record.waits;
        let waiting = |seq| Waiting {
            seq,
            account: record.account.clone(),
            at: at_of(record.number),
            level,
            peers,
            captured_wall_ns: record.wall_ns,
        };
        if own.ring_journaled.is_some_and(|index| record.index <= index) {
            // This agent's predecessor journaled it and died before it let go of it.
            let seq = own.journaled;
            if waits {
                own.acks.wait(waiting(seq));
                self.dirty.insert(group);
            }
            if let Some(blob) = Op::decode(&record.op).ok().and_then(|op| op.blob()) {
                self.body(group, &record.account, seq, blob, out);
            }
            return;
        }
        let Ok(decoded) = Op::decode(&record.op) else {
            out.checker.fail("a store published what is no operation".into());
            return;
        };
        let generation = host.ring.generation;
        let ring = RingPosition { generation, index: record.index };
        let Some(seq) = self.push(group, &record.account, &record.op, Some((ring, record.number)), host, out) else {
            return;
        };
        self.ring_pending.push_back((record.index, group, seq));
        if let Some(blob) = decoded.blob() {
            self.body(group, &record.account, seq, blob, out);
        }
        if self.roles.has_lost_lease(group) {
            // It is kept, and comes back when another node has taken over; nobody is told that it is safe.
            return;
        }
        if waits && let Some(own) = self.own.get_mut(&group) {
            own.acks.wait(waiting(seq));
            self.dirty.insert(group);
        }
    }

    fn body(&mut self, group: GroupId, account: &str, seq: u64, blob: BlobId, out: &mut Out) {
        if let Some(own) = self.own.get_mut(&group) {
            own.acks.body_pending(account, seq, blob);
        }
        self.want(blob, out);
    }

    /// An operation of an account that is not active here: the active's state wins, and it is asked for.
    fn foreign(&mut self, record: &Record, host: &mut Host, out: &mut Out) {
        out.say(format_args!("n{} foreign change of {}", self.me, record.account));
        out.checker.passed_over((self.me, host.ring.generation, record.index));
        if !out.plan.shared && self.own_group(&record.account).is_some() {
            return;
        }
        self.ask_active(&record.account, host);
    }

    /// Gives an operation its place in the group's stream.
    pub(super) fn push(
        &mut self,
        group: GroupId,
        account: &str,
        op: &[u8],
        ring: Option<(RingPosition, u64)>,
        host: &mut Host,
        out: &mut Out,
    ) -> Option<u64> {
        let (wall_ns, at) = (out.wall_ns(), ring.map(|(at, _)| at));
        let now = self.now;
        let own = self.own.get_mut(&group)?;
        let result = match own.batch.push(account, wall_ns, op, at, now) {
            Err(BuilderError::Full | BuilderError::RingGeneration { .. }) => {
                self.seal(group, host, out);
                self.own.get_mut(&group)?.batch.push(account, wall_ns, op, at, now)
            }
            other => other,
        };
        match result {
            Ok(seq) => {
                let at = at.map(|at| (self.me, at.generation, at.index));
                let snapshot = Op::decode(op).ok().and_then(|op| match op {
                    Op::ResyncBegin { snapshot } => Some((snapshot, false)),
                    Op::ResyncEnd { snapshot } => Some((snapshot, true)),
                    _ => None,
                });
                let account = account.to_owned();
                let mark = snapshot.map(|(snapshot, is_end)| Mark { account, snapshot, is_end });
                let number = ring.map(|(_, number)| number);
                out.checker.pushed(self.me, group, seq.0, Held { ring: at, number, mark });
                Some(seq.0)
            }
            Err(error) => {
                out.checker.fail(format!("an operation cannot be framed: {error}"));
                None
            }
        }
    }

    /// Seals the group's batch and gives it to the journal.
    pub(super) fn seal(&mut self, group: GroupId, _host: &mut Host, out: &mut Out) {
        let Some(own) = self.own.get_mut(&group) else { return };
        if own.batch.is_empty() {
            return;
        }
        match own.batch.seal(Level::Fast, &mut out.codec) {
            Ok(frame) => {
                let header = frame.header();
                if out.trace.is_kept() {
                    let (first, last, epoch) = (header.first_sequence, header.last_sequence(), header.epoch);
                    out.trace
                        .line(out.queue.now_ns(), format_args!("n{} seals g{group} {first}..{last} e{epoch}", self.me));
                }
                out.checker.sealed(self.me, header, frame.hash());
                own.in_flight.push_back(FrameMeta::of(&frame));
                self.unsent.push_back((frame, None));
                self.feed_journal(out);
            }
            Err(error) => self.failure = Some(format!("a batch of group {group} cannot be sealed: {error}")),
        }
    }

    /// Gives waiting frames to the journal, in order, as long as it takes them.
    pub(super) fn feed_journal(&mut self, out: &mut Out) {
        let mut fed = false;
        while let Some((frame, authority)) = self.unsent.pop_front() {
            let result = match authority {
                None => self.journal.append(frame, Token(0)),
                Some(epoch) => self.journal.append_received(frame, epoch, Token(0)),
            };
            match result {
                Ok(()) => fed = true,
                Err(AppendError::Busy(frame)) => {
                    self.unsent.push_front((frame, authority));
                    break;
                }
                Err(AppendError::Stopped(_, failure)) => {
                    self.failure.get_or_insert_with(|| format!("journal: {failure}"));
                    break;
                }
            }
        }
        if fed {
            self.wake_journal(out);
        }
    }

    /// Takes what the journal answers.
    pub(super) fn journal_event(&mut self, event: JournalEvent, host: &mut Host, out: &mut Out) {
        match event {
            JournalEvent::Durable { group, last, .. } if self.own.contains_key(&group) => {
                self.own_durable(group, last, host, out);
            }
            JournalEvent::Durable { group, last, .. } => {
                self.receiver.journaled(group, last, self.now);
                self.shift.wake(group);
                self.wake_apply(out.random.below(500_000), out);
            }
            JournalEvent::Refused { group, reason, .. } => {
                out.say(format_args!("n{} journal refuses: {reason}", self.me));
                if self.roles.is_closing(group) {
                    self.own_refused(group);
                } else if self.own.contains_key(&group) {
                    self.failure = Some(format!("the journal refused an own frame of group {group}: {reason}"));
                } else if let Some(link) = self.receiver.refused(group) {
                    self.close(link, out);
                }
            }
            JournalEvent::Rebased { group, tail, .. } => {
                self.shift.rebase(group, tail.sequence.0);
                self.wake_apply(0, out);
            }
            JournalEvent::Retired { retired, .. } => {
                if !retired.segments.is_empty() {
                    out.say(format_args!("n{} lets go of segments {:?}", self.me, retired.segments));
                }
                for group in self.own.keys().copied().collect::<Vec<_>>() {
                    if let Some(first) = self.reader.group(group).map(|state| state.first) {
                        self.ship(ShipEvent::Retired { group, first }, host, out);
                    }
                }
            }
            JournalEvent::Fenced { .. } => {}
            JournalEvent::Failed { failure } => {
                self.failure.get_or_insert_with(|| format!("journal: {failure}"));
            }
        }
    }

    fn own_durable(&mut self, group: GroupId, last: Sequence, host: &mut Host, out: &mut Out) {
        let Some(own) = self.own.get_mut(&group) else { return };
        assert!(last <= own.batch.captured(), "rule 1: journaled is never ahead of captured");
        own.journaled = own.journaled.max(last.0);
        let mut durable = Vec::new();
        while let Some(meta) = own.in_flight.pop_front_if(|meta| meta.last <= last) {
            own.batch.durable();
            durable.push(meta);
        }
        self.dirty.insert(group);
        for frame in durable {
            if let Some(own) = self.own.get_mut(&group) {
                own.told = frame.last;
            }
            self.ship(ShipEvent::Journaled { group, frame }, host, out);
        }
        self.snapshots_durable(group, last.0, host);
    }

    /// Takes what an apply worker reports.
    pub(super) fn apply_event(&mut self, event: ApplyEvent, host: &mut Host, out: &mut Out) {
        match event {
            ApplyEvent::Applied { group, seq } => {
                self.applied.insert(group, seq);
                self.tell_applied(group);
            }
            ApplyEvent::Parked { group, account, parked } => {
                out.say(format_args!("n{} parks {account}: {:?} {}", self.me, parked.reason, parked.detail));
                self.parked.insert(account, (group, parked));
                self.tell_applied(group);
            }
            ApplyEvent::Released { group, account } => {
                out.say(format_args!("n{} releases {account}", self.me));
                self.parked.remove(&account);
                self.tell_applied(group);
            }
            ApplyEvent::Lost { group, seq, why } => {
                out.say(format_args!("n{} lost frames of g{group} before {seq}: {why}", self.me));
                self.lost_groups.entry(group).or_default();
                self.tell_lost(out);
            }
            ApplyEvent::Ask { group, account, bodies } => {
                if let Some(active) = self.active_of(group) {
                    self.ask_resync(active, &account, bodies, host, out);
                }
            }
            // Nothing is held in the simulated worlds.
            ApplyEvent::Holds { .. }
            | ApplyEvent::Braked { .. }
            | ApplyEvent::Took { .. }
            | ApplyEvent::Count { .. } => {}
        }
    }

    /// How far the group is applied for every one of its accounts: `node/board.rs`.
    pub(super) fn applied_by_all(&self, group: GroupId) -> u64 {
        let applied = self.applied.get(&group).copied().unwrap_or(0);
        let first = self.parked.values().filter(|(of, _)| *of == group).map(|(_, parked)| parked.since_seq).min();
        first.map_or(applied, |first| applied.min(first.saturating_sub(1)))
    }

    fn tell_applied(&mut self, group: GroupId) {
        let applied = self.applied_by_all(group);
        self.receiver.applied(group, Sequence(applied), self.now);
    }

    /// What is done once after the events of a turn: seal, ship, acknowledge, release.
    pub(super) fn end_of_turn(&mut self, idle: bool, host: &mut Host, out: &mut Out) {
        self.feed_journal(out);
        let limits = out.plan.batch;
        let due = self.own.iter().filter(|(_, own)| own.batch.is_due(&limits, idle, self.now));
        let due: Vec<GroupId> = due.map(|(group, _)| *group).collect();
        due.into_iter().for_each(|group| self.seal(group, host, out));
        for job in self.exports.start(self.now) {
            self.start_export(job, out);
        }
        self.send_outgoing(out);
        for group in std::mem::take(&mut self.dirty) {
            let Some(own) = self.own.get_mut(&group) else { continue };
            let acked: Vec<u64> = own
                .replicas
                .iter()
                .map(|peer| {
                    let seq = own.acked.get(peer).copied().unwrap_or(0);
                    match self.peer_resync.get(&(group, *peer)) {
                        Some(resync) if !resync.accounts.is_empty() || seq < resync.until_seq => 0,
                        _ => seq,
                    }
                })
                .collect();
            let required = self.roles.required(group).map(|peer| {
                let at = own.replicas.iter().position(|replica| *replica == peer);
                at.and_then(|at| acked.get(at)).copied().unwrap_or(0)
            });
            let required = required.min().unwrap_or(u64::MAX);
            let ready = if self.roles.has_lost_lease(group) {
                own.acks.fence()
            } else {
                own.acks.ready(own.journaled, &acked, required)
            };
            for Ready { at, status, .. } in ready {
                out.answer(host, at, status);
            }
        }
        self.advance_roles(host, out);
        self.release_ring(host, out);
    }

    fn release_ring(&mut self, host: &mut Host, out: &mut Out) {
        let own = &self.own;
        let is_durable = |group: &GroupId, seq: u64| own.get(group).is_none_or(|own| own.journaled >= seq);
        while self.ring_pending.pop_front_if(|(_, group, seq)| is_durable(group, *seq)).is_some() {}
        let release = self.ring_pending.front().map_or(self.ring_read, |(index, _, _)| *index);
        if release > host.ring.first() && self.fuse.burn() {
            let generation = host.ring.generation;
            for record in host.ring.release(release) {
                out.checker.released((self.me, generation, record.index), record.number);
            }
        }
    }

    /// Tells the journal what is still needed: `node/mod.rs`.
    pub(super) fn retain(&mut self, out: &mut Out) {
        let mut needs = Vec::new();
        for (group, own) in &self.own {
            for peer in &own.replicas {
                let from = self.shipper.needed_from(*group, *peer);
                let done = from.map_or(own.journaled, |from| from.0.saturating_sub(1));
                needs.push(Need { group: *group, peer: *peer, done: Sequence(done) });
            }
        }
        for (group, (_, replicas)) in &self.placement {
            if replicas.contains(&self.me) {
                needs.push(Need { group: *group, peer: self.me, done: Sequence(self.applied_by_all(*group)) });
            }
        }
        // Busy: it is asked again in some seconds.
        if self.journal.retain(needs, Token(0)).is_ok() {
            self.wake_journal(out);
        }
    }
}
