//! The event loop's state and what each event does to it.
//!
//! Owns: everything that two paths share on a node. It waits in one place (`run`) and changes in one place (here). What
//! can hurt: blocking; every call that goes out of here queues and returns, and what could not be queued is kept and
//! tried again at the next turn. Refuses: deciding what a pure decider decides (`ship`, `receive`, `acks`, `queue`).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use understudy_ring::{CompletionRef, Status as RingStatus};
use understudy_types::frame::RingPosition;
use understudy_types::id::{BlobId, ClusterId, Epoch, GroupId, NodeId, Sequence};
use understudy_types::op::Op;

use super::accounts::Accounts;
use super::acks::{Acks, Ready, Waiting};
use super::board::Board;
use super::debts::{Asked, Unread};
use super::gauges::seconds;
use super::query::Query;
use super::remote::{Answering, Asks};
use crate::apply::ApplyEvent;
use crate::apply::worker::Workers;
use crate::batch::{BatchLimits, GroupBatch};
use crate::beat::BeatTable;
use crate::blob::upload::Uploader;
use crate::capture::view::SharedView;
use crate::capture::{Capture, Captured, CapturedOp};
use crate::clock::{self, MonoNs};
use crate::config::Config;
use crate::frame::{BuilderError, Frame, FrameCodec, level_for};
use crate::journal::{AppendError, Failure, Journal, JournalEvent, JournalReader, Recovered, Token};
use crate::metrics::Metrics;
use crate::receive::Receiver;
use crate::resync::{Exporters, Queue};
use crate::ship::{FrameMeta, ShipEvent, Shipper};
use crate::transport::{LinkId, TransportHandle};

/// A group that is active here.
pub(super) struct Own {
    pub batch: GroupBatch,
    /// Last operation that is durable here.
    pub journaled: u64,
    /// Last operation that `ship` was told of. The journal's reader may be ahead: its thread goes on while this one
    /// still has its events to read (seen: a position of 14 shipped with 13 told).
    pub told: Sequence,
    pub replicas: Vec<NodeId>,
    /// Last operation that is durable at each replica.
    pub acked: BTreeMap<NodeId, u64>,
    pub acks: Acks,
    /// Frames on their way to disk.
    pub in_flight: VecDeque<FrameMeta>,
    /// Last operation that was journaled before this agent started.
    pub inherited: u64,
    /// Ring index up to which the journal held this ring's records when the agent started.
    pub ring_journaled: Option<u64>,
}

/// A peer that is brought up to date by snapshots: until each of these accounts' snapshots is durable there, what it
/// acknowledges does not count.
#[derive(Debug, Default)]
pub(super) struct PeerResync {
    pub accounts: BTreeSet<String>,
    /// End of the last snapshot.
    pub until_seq: u64,
    /// Snapshots up to this number began before: the peer may not have their beginning, so their end says nothing.
    pub after_snapshot: u64,
}

/// Everything the event loop changes.
pub(super) struct Core {
    pub config: Arc<Config>,
    pub node: NodeId,
    pub cluster: ClusterId,
    pub view: SharedView,
    pub metrics: Arc<Metrics>,
    pub board: Arc<Board>,
    pub capture: Capture,
    pub journal: Journal,
    pub reader: JournalReader,
    pub recovered: Recovered,
    pub transport: TransportHandle,
    pub workers: Workers,
    pub uploader: Uploader,
    pub exporters: Exporters,
    pub answering: Answering,
    pub accounts: Accounts,
    pub queue: Queue,
    pub shipper: Shipper,
    pub receiver: Receiver,
    pub own: BTreeMap<GroupId, Own>,
    pub asks: Asks,
    pub beats: BeatTable,
    pub limits: BatchLimits,
    pub codec: FrameCodec,
    /// Groups whose waiting store processes may be answerable.
    pub dirty: BTreeSet<GroupId>,
    /// Operations in the order of the ring that are not durable yet.
    pub ring_pending: VecDeque<(u64, GroupId, u64)>,
    pub ring_read: u64,
    pub ring_released: u64,
    /// Frames that the journal had no room for; received ones with the epoch of their sender.
    pub unsent: VecDeque<(Frame, Option<Epoch>)>,
    pub links: HashMap<NodeId, LinkId>,
    /// Connections that peers dialled: their frames come on them.
    pub dialled_by: HashMap<NodeId, LinkId>,
    pub roles: super::roles::Roles,
    pub council: super::council::Council,
    /// To this loop, from threads that it starts.
    pub queries: crossbeam::channel::Sender<Query>,
    pub orders: super::orders::Orders,
    /// What the council said last of lease, coordinator and groups.
    pub posture: Option<Box<super::council::Posture>>,
    /// Groups that lost frames here, until their stream begins anew; with the connection on which the active was told.
    pub lost_groups: BTreeMap<GroupId, Option<LinkId>>,
    /// Groups whose next frame starts their stream anew here.
    pub rebase_next: BTreeSet<GroupId>,
    pub peer_resync: BTreeMap<(GroupId, NodeId), PeerResync>,
    pub parked: super::parked::ParkedBoard,
    pub pauses: crate::pause::Pauses,
    pub settling: super::held::Settling,
    /// Ends of snapshots that are not durable yet: group, sequence, account.
    pub snapshot_ends: Vec<(GroupId, u64, String)>,
    /// Accounts that were changed here and are active elsewhere, until their active is asked.
    pub foreign_asked: BTreeMap<String, Asked>,
    pub merging: super::merging::Merging,
    pub unread: Unread,
    pub last_snapshot: u64,
    pub gaps_total: u64,
    pub foreign_total: u64,
    pub quarantine_told: BTreeSet<String>,
    pub probes: super::senses::Senses,
    pub availability: super::availability::Availability,
    /// How far this replica is behind, for balancers.
    pub lagging: super::routing::Laggings,
    pub started: MonoNs,
    pub failure: Option<String>,
    pub stopping: bool,
    pub now: MonoNs,
}

impl Core {
    /// Takes what the capture thread hands over.
    pub(crate) fn captured(&mut self, captured: Captured) {
        match captured {
            Captured::Op(op) => self.captured_op(op),
            Captured::Opened { account } => {
                self.seen(&account);
                self.asked_for(&account);
            }
            Captured::PolicyChanged { times } => self.roles.policy_told = times,
            Captured::Compare { account, why, bucket } => self.compare(&account, &why, bucket),
            Captured::CompareBuckets { buckets } => self.compare_buckets(buckets),
            Captured::CompareAll { why } => self.compare_all(&why),
            Captured::Idle { read_index, open } => self.ring_idle(read_index, open),
        }
    }

    fn captured_op(&mut self, op: CapturedOp) {
        self.ring_read = op.index + 1;
        let (group, policy, kinds) = {
            let view = self.view.read();
            let resolved = view.rules.resolve(&op.account);
            (view.own_group(&op.account), view.decide(&op.account), resolved.kinds)
        };
        let Some(group) = group.filter(|group| self.own.contains_key(group)) else {
            self.foreign(&op);
            return;
        };
        let answer = |status| op.completion.map(|at| (at, status));
        if !kinds.contains(op.kind) {
            self.answer(answer(RingStatus::Durable));
            return;
        }
        self.seen(&op.account);
        let Some(own) = self.own.get_mut(&group) else { return };
        let level = |seq| Waiting {
            seq,
            account: op.account.clone(),
            at: at_of(&op),
            level: policy.level,
            peers: policy.peers,
            captured_wall_ns: op.captured_wall_ns,
        };
        if own.ring_journaled.is_some_and(|index| op.index <= index) {
            // This agent's predecessor journaled it and died before it let go of it.
            let seq = own.journaled;
            if op.completion.is_some() {
                own.acks.wait(level(seq));
                self.dirty.insert(group);
            }
            // Its body may still be in the spool: nobody is told that it is safe before it is in central storage.
            if let Some(blob) = Op::decode(&op.op).ok().and_then(|op| op.blob()) {
                self.body(group, &op.account, seq, blob);
            }
            return;
        }
        let decoded = match Op::decode(&op.op) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.metrics.capture_malformed.inc();
                self.answer(answer(RingStatus::Refused));
                self.want_export(&op.account, false, &format!("a malformed operation was captured: {error}"));
                return;
            }
        };
        let ring = RingPosition { generation: self.capture.generation, index: op.index };
        let Some(seq) = self.push(group, &op.account, op.captured_wall_ns, &op.op, Some(ring)) else {
            self.answer(answer(RingStatus::Refused));
            return;
        };
        self.ring_pending.push_back((op.index, group, seq));
        if let Some(blob) = decoded.blob() {
            self.body(group, &op.account, seq, blob);
        }
        if self.roles.has_lost_lease(group) {
            // It is kept, and comes back when another node has taken over; nobody is told that it is safe.
            self.answer(answer(RingStatus::Fenced));
            return;
        }
        if op.completion.is_some()
            && let Some(own) = self.own.get_mut(&group)
        {
            own.acks.wait(level(seq));
            self.dirty.insert(group);
        }
    }

    /// An operation of an account that is not active here, or not replicated.
    fn foreign(&mut self, op: &CapturedOp) {
        let active = {
            let view = self.view.read();
            let replicated = view.rules.resolve(&op.account).replicate;
            view.placement.group(view.placement.group_of(&op.account)).map(|g| g.active).filter(|_| replicated)
        };
        if active.is_none() || !self.roles.is_shared() && active == Some(self.node) {
            self.answer(op.completion.map(|at| (at, RingStatus::Durable)));
            return;
        }
        // The store had no agent to ask, or an old answer. The active's state wins; it is asked for.
        self.foreign_total += 1;
        tracing::warn!(account = op.account, "a change was made on a replica; the account is copied from its active");
        self.answer(op.completion.map(|at| (at, RingStatus::Fenced)));
        self.ask_active(&op.account);
    }

    fn answer(&self, answer: Option<(CompletionRef, RingStatus)>) {
        if let Some((at, status)) = answer {
            self.capture.complete(at, status);
        }
    }

    /// Gives an operation its place in the group's stream.
    pub(crate) fn push(
        &mut self,
        group: GroupId,
        account: &str,
        wall_ns: u64,
        op: &[u8],
        ring: Option<RingPosition>,
    ) -> Option<u64> {
        let own = self.own.get_mut(&group)?;
        let result = match own.batch.push(account, wall_ns, op, ring, self.now) {
            Err(BuilderError::Full | BuilderError::RingGeneration { .. }) => {
                self.seal(group);
                self.own.get_mut(&group)?.batch.push(account, wall_ns, op, ring, self.now)
            }
            other => other,
        };
        match result {
            Ok(seq) => {
                self.accounts.see(account, group).last_seq = seq.0;
                Some(seq.0)
            }
            Err(error) => {
                self.metrics.capture_malformed.inc();
                tracing::error!(account, %error, "an operation cannot be framed; the account is compared");
                self.want_export(account, false, "an operation could not be framed");
                None
            }
        }
    }

    pub(super) fn body(&mut self, group: GroupId, account: &str, seq: u64, blob: BlobId) {
        if let Some(own) = self.own.get_mut(&group) {
            own.acks.body_pending(account, seq, blob);
        }
        self.uploader.want(blob);
    }

    /// A sign of life of an account: it gets its first copy if it had none.
    pub(crate) fn seen(&mut self, account: &str) {
        if !self.roles.names.contains(account) {
            self.roles.names.insert(account.to_owned());
        }
        let Some(group) = self.view.read().own_group(account) else { return };
        let Some(own) = self.own.get(&group) else { return };
        let known = self.accounts.see(account, group);
        if !known.is_copied_for(&own.replicas) && !self.queue.contains(account) && !self.is_ending(account) {
            self.queue.want(account, true, "first copy");
        }
    }

    /// Seals the group's batch and gives it to the journal.
    pub(crate) fn seal(&mut self, group: GroupId) {
        let Some(own) = self.own.get_mut(&group) else { return };
        if own.batch.is_empty() {
            return;
        }
        let level = level_for(self.ring_pending.len() * 200);
        match own.batch.seal(level, &mut self.codec) {
            Ok(frame) => {
                let header = frame.header();
                self.metrics.batches.inc();
                self.metrics.batch_operations.observe(f64::from(header.count));
                self.metrics.frame_raw.inc_by(u64::from(header.uncompressed_len));
                self.metrics.frame_encoded.inc_by(frame.bytes().len() as u64);
                own.in_flight.push_back(FrameMeta::of(&frame));
                self.unsent.push_back((frame, None));
                self.feed_journal();
            }
            Err(error) => self.failure = Some(format!("a batch of group {group} cannot be sealed: {error}")),
        }
    }

    /// Gives waiting frames to the journal, in order, as long as it takes them.
    pub(crate) fn feed_journal(&mut self) {
        while let Some((frame, authority)) = self.unsent.pop_front() {
            let result = match authority {
                None => self.journal.append(frame, Token(0)),
                Some(epoch) => self.journal.append_received(frame, epoch, Token(0)),
            };
            match result {
                Ok(()) => {}
                Err(AppendError::Busy(frame)) => {
                    self.unsent.push_front((frame, authority));
                    return;
                }
                Err(AppendError::Stopped(_, failure)) => {
                    self.failed(&failure);
                    return;
                }
            }
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.metrics.journal_failed.set(1);
        self.failure.get_or_insert_with(|| format!("journal: {failure}"));
    }

    /// Takes what the journal answers.
    pub(crate) fn journal_event(&mut self, event: JournalEvent) {
        match event {
            JournalEvent::Durable { group, last, .. } if self.own.contains_key(&group) => self.own_durable(group, last),
            JournalEvent::Durable { group, last, .. } => {
                self.receiver.journaled(group, last, self.now);
                self.workers.wake(group);
            }
            JournalEvent::Refused { group, reason, .. } => {
                tracing::error!(group = group.0, %reason, "the journal refused a frame");
                if self.roles.is_closing(group) {
                    self.own_refused(group);
                } else if self.own.contains_key(&group) {
                    self.failure = Some(format!("the journal refused an own frame of group {group}: {reason}"));
                } else if let Some(link) = self.receiver.refused(group) {
                    self.transport.close(link, reason.to_string());
                }
            }
            JournalEvent::Rebased { group, tail, .. } => self.workers.rebase(group, tail.sequence.0),
            JournalEvent::Retired { retired, .. } => {
                for (group, peer) in retired.resync {
                    tracing::warn!(group = group.0, peer = peer.get(), "past the journal's bound: resync needed");
                }
                for group in self.own.keys().copied().collect::<Vec<_>>() {
                    if let Some(first) = self.reader.group(group).map(|state| state.first) {
                        self.ship(ShipEvent::Retired { group, first });
                    }
                }
            }
            JournalEvent::Fenced { .. } => {}
            JournalEvent::Failed { failure } => self.failed(&failure),
        }
    }

    fn own_durable(&mut self, group: GroupId, last: Sequence) {
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
            self.ship(ShipEvent::Journaled { group, frame });
        }
        self.snapshots_durable(group, last.0);
    }

    /// Takes what an apply worker reports.
    pub(crate) fn apply_event(&mut self, event: ApplyEvent) {
        match event {
            ApplyEvent::Applied { group, seq } => {
                self.board.lock().applied.insert(group, seq);
                self.tell_applied(group);
            }
            ApplyEvent::Parked { group, account, parked } => {
                tracing::info!(account, detail = parked.detail, "the account's operations wait");
                self.board.lock().parked.insert(account, (group, parked));
                self.tell_applied(group);
            }
            ApplyEvent::Released { group, account } => {
                tracing::info!(account, "the account's operations go on");
                self.quarantine_told.remove(&account);
                self.board.lock().parked.remove(&account);
                self.tell_applied(group);
            }
            ApplyEvent::Lost { group, why, .. } => {
                tracing::error!(group = group.0, why, "the group's accounts must be copied anew");
                self.lost_groups.entry(group).or_default();
                self.tell_lost();
            }
            ApplyEvent::Ask { group, account, bodies } => {
                let active = self.view.read().placement.group(group).map(|group| group.active);
                if let Some(active) = active {
                    self.ask_resync(active, &account, bodies);
                }
            }
            ApplyEvent::Holds { group, account, held, trip } => self.holds(group, account, held, trip),
            ApplyEvent::Braked { account, trip, .. } => {
                self.metrics.brakes.inc();
                tracing::warn!(
                    account,
                    count = trip.count,
                    limit = trip.limit,
                    "a storm of destructive operations: they are held until an administrator says what it was"
                );
            }
            ApplyEvent::Took { ns } => self.metrics.apply.observe(seconds(ns)),
            ApplyEvent::Count { kind, status, count } => {
                let outcome = format!("{status:?}").to_lowercase();
                let labels = crate::metrics::Op::new(Op::kind_name(kind), &outcome);
                self.metrics.applied_operations.get_or_create(&labels).inc_by(count);
            }
        }
    }

    fn tell_applied(&mut self, group: GroupId) {
        let applied = self.board.lock().applied_by_all(group);
        self.receiver.applied(group, Sequence(applied), self.now);
    }

    /// What is done once after the events of a turn: seal, ship, acknowledge, release.
    pub(crate) fn end_of_turn(&mut self, idle: bool) {
        self.feed_journal();
        let due: Vec<GroupId> = self
            .own
            .iter()
            .filter(|(_, own)| own.batch.is_due(&self.limits, idle, self.now))
            .map(|(group, _)| *group)
            .collect();
        due.into_iter().for_each(|group| self.seal(group));
        for job in self.queue.start(self.now) {
            self.exporters.start_job(job);
        }
        self.send_outgoing();
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
            let wall_ns = clock::wall_ns();
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
            for Ready { at, status, captured_wall_ns } in ready {
                self.capture.complete(at, status);
                self.metrics.ack_wait.observe(seconds(wall_ns.saturating_sub(captured_wall_ns)));
                let outcome = crate::metrics::Outcome::new(match status {
                    RingStatus::Replicated => "replicated",
                    RingStatus::Fenced => "fenced",
                    _ => "durable",
                });
                self.metrics.acks.get_or_create(&outcome).inc();
            }
        }
        self.release_ring();
        self.answer_statuses();
        self.advance_roles();
    }

    fn release_ring(&mut self) {
        let own = &self.own;
        let is_durable = |group: &GroupId, seq: u64| own.get(group).is_none_or(|own| own.journaled >= seq);
        while self.ring_pending.pop_front_if(|(_, group, seq)| is_durable(group, *seq)).is_some() {}
        let release = self.ring_pending.front().map_or(self.ring_read, |(index, _, _)| *index);
        if release > self.ring_released {
            self.ring_released = release;
            self.capture.release_to(release);
        }
    }

    /// Answers a question of another thread.
    pub(crate) fn query(&mut self, query: Query) {
        match query {
            Query::Status { with_accounts, reply } => self.status_asked(with_accounts, reply),
            Query::Top { reply } => drop(reply.send(self.top())),
            Query::Account { account, reply } => drop(reply.send(self.position(&account))),
            Query::Ask { peer, kind, body, reply } => self.ask(peer, kind, body, Some(reply)),
            Query::Resync { account, bodies, why, reply } => drop(reply.send(self.resync(&account, bodies, &why))),
            Query::Replay { group, order, reply } => self.workers.order(group, order, reply),
            Query::Upload { bodies } => bodies.into_iter().for_each(|id| self.uploader.want(id)),
            Query::Names { reply } => {
                drop(reply.send(self.accounts.iter().map(|(account, _)| account.to_owned()).collect()));
            }
            Query::Desire(desired) => self.desire(desired),
            Query::Raised(raised) => self.raised(raised),
            Query::AskedFor { account } => self.asked_for(&account),
            Query::Kick { groups } => self.kick(&groups),
            Query::Fence { node } => self.run_fence(node),
            Query::Fenced { node, ok } => self.fenced(node, ok),
            Query::Posture(posture) => self.posture = Some(posture),
            Query::Said(said) => self.said(said),
            Query::Words { group, reply } => drop(reply.send(self.orders.of(group))),
            Query::Order { order, reply } => self.order(order, reply),
            Query::Ordered { id, result } => self.ordered(id, result),
            Query::Seen { names, reply } => {
                names.iter().for_each(|account| self.seen(account));
                // The census ends with the loop; nobody else asks.
                let _ = reply.send(());
            }
            Query::Merge(event) => self.merge_event(event),
            Query::Reloaded => {
                self.policy_changed();
                let names: Vec<String> = self.accounts.iter().map(|(account, _)| account.to_owned()).collect();
                names.iter().for_each(|account| self.seen(account));
            }
            Query::Stop => self.stopping = true,
        }
    }

    fn resync(&mut self, account: &str, bodies: bool, why: &str) -> Result<(), String> {
        let (own, active) = {
            let view = self.view.read();
            let group = view.placement.group(view.placement.group_of(account));
            (view.own_group(account), group.map(|group| group.active))
        };
        match (own, active) {
            (Some(_), _) => {
                self.want_export(account, bodies, why);
                Ok(())
            }
            (None, Some(active)) if active != self.node => {
                self.ask_resync(active, account, bodies);
                Ok(())
            }
            _ => Err(format!("account `{account}` is not replicated: see `understudy rules resolve {account}`")),
        }
    }
}

fn at_of(op: &CapturedOp) -> CompletionRef {
    op.completion.unwrap_or(CompletionRef { slot: 0, ticket: 0 })
}
