//! What the node tells people: status and the model of `top`.
//!
//! Owns: the mapping from the event loop's state to the contract in `control::model`. What can hurt: a lag of 0 for an
//! account that is not equal; a copy that was not made or is owed, a snapshot under way, a change in the making, what
//! an agent before this one captured, and a parked account all count as behind.

use understudy_types::id::{GroupId, NodeId};

use super::core::Core;
use super::gauges::seconds;
use crate::clock;
use crate::control::model::{
    AccountStatus, BlobStatus, GroupPeerStatus, GroupStatus, JournalStatus, Lag, NodeStatus, PeerStatus, ReplicaState,
    ReplicaStatus, RingStatus, Role, Status, StoreStatus,
};
use crate::ship::Stage;

/// Where an account stands on its active node.
#[derive(Clone, Copy)]
struct Stand {
    /// Last operation that may be the account's.
    last: u64,
    owes: bool,
    changing: bool,
}

impl Core {
    /// The whole status. `unread`: the ring holds what no position counts yet.
    pub(crate) fn status(&self, with_accounts: bool, unread: bool) -> Status {
        let ring = self.capture.stats();
        let journal = self.journal.stats();
        let wall_ns = clock::wall_ns();
        let mut reasons = Vec::new();
        if self.probes.store_pid.is_none() {
            reasons.push("the store does not run".to_owned());
        }
        if let Some(failed) = &journal.failed {
            reasons.push(format!("the journal has failed: {failed}"));
        }
        reasons.extend(self.recovered.damage.iter().map(|damage| format!("journal: {damage}")));
        reasons.extend(self.merge_reasons());
        reasons.extend(self.posture_reasons());
        let board = self.board.lock();
        let paused = |parked: &crate::apply::park::Parked| parked.reason == crate::apply::park::Reason::Paused;
        for (account, (_, parked)) in board.parked.iter().filter(|(_, (_, parked))| !paused(parked)) {
            reasons.push(format!("account `{account}` waits: {}", parked.detail));
        }
        for (account, trip) in board.holding.iter().filter_map(|(account, holding)| Some((account, holding.trip?))) {
            reasons.push(format!(
                "account `{account}`: a storm of {} destructive operations in a minute (limit {}) is held; `understudy hold list`, then `hold release` or `hold undo`",
                trip.count, trip.limit
            ));
        }
        let holds = crate::control::model::HoldStatus {
            operations: board.holding.values().map(|holding| holding.held).sum(),
            accounts: board.holding.values().filter(|holding| holding.held > 0).count() as u64,
            braked: board.holding.values().filter(|holding| holding.trip.is_some()).count() as u64,
        };
        let damaged = |(_, parked): &&(GroupId, crate::apply::park::Parked)| {
            matches!(parked.reason, crate::apply::park::Reason::Body { damaged: true, .. })
        };
        let missing = |(_, parked): &&(GroupId, crate::apply::park::Parked)| {
            matches!(parked.reason, crate::apply::park::Reason::Body { damaged: false, .. })
        };
        let (damaged, missing) =
            (board.parked.values().filter(damaged).count(), board.parked.values().filter(missing).count());
        drop(board);
        for peer in self.config.peers.iter().filter(|peer| !self.links.contains_key(&peer.node_id())) {
            let why = self.probes.dial_errors.get(&peer.node_id()).map_or("", String::as_str);
            reasons.push(format!("peer `{}` is not connected: {why}", peer.name));
        }
        Status {
            node: NodeStatus {
                id: self.node.get(),
                name: self.config.node.name.clone(),
                cluster: format!("{:016x}", self.cluster.0),
                version: crate::cli::version().to_owned(),
                pid: std::process::id(),
                uptime_seconds: seconds(self.now.since_ns(self.started)),
                lease: self.lease_status(),
            },
            healthy: reasons.is_empty(),
            reasons,
            store: StoreStatus {
                kind: "dovecot".into(),
                version: self.probes.version(),
                pid: self.probes.store_pid,
                up: self.probes.store_pid.is_some(),
            },
            ring: RingStatus {
                path: self.config.ring.path.display().to_string(),
                fill_bytes: ring.used_bytes,
                capacity_bytes: ring.capacity_bytes,
                records_total: ring.delivered,
                gaps: self.gaps_total,
                dropped_total: ring.dropped_total,
                changes_open: ring.intents_open,
            },
            journal: JournalStatus {
                io_backend: journal.backend.to_owned(),
                io_fallback: self.recovered.io_refusal.as_ref().map(ToString::to_string),
                bytes: journal.segment_bytes,
                bytes_max: self.config.journal.bytes_max,
                segments: journal.segments,
                fsyncs_total: journal.writes,
            },
            blobs: BlobStatus {
                kind: format!("{:?}", self.config.blobs.kind).to_lowercase(),
                uploads_pending: self.uploader.waiting() as u64,
                missing: missing as u64,
                damaged: damaged as u64,
            },
            groups: self.group_statuses(wall_ns),
            peers: self.peer_statuses(wall_ns),
            accounts: if with_accounts { self.account_statuses(wall_ns, unread) } else { Vec::new() },
            pauses: self
                .pauses
                .all(wall_ns)
                .into_iter()
                .map(|(id, pause, local)| super::pausing::row(id, &pause, local, wall_ns))
                .collect(),
            holds,
            blind: self.probes.signal.as_ref().map(|signal| signal.blind.clone()).unwrap_or_default(),
        }
    }

    fn group_statuses(&self, wall_ns: u64) -> Vec<GroupStatus> {
        let view = self.view.read();
        let board = self.board.lock();
        let mut statuses = Vec::new();
        for group in view.placement.groups() {
            let mut status = GroupStatus {
                id: group.id.0,
                active: self.name(group.active),
                replicas: group.replicas.iter().map(|node| self.name(*node)).collect(),
                in_sync: self.in_sync(group.id),
                state: self.state_of(group.id, &view.seats).to_owned(),
                epoch: group.epoch.0,
                ..GroupStatus::default()
            };
            if let Some(own) = self.own.get(&group.id) {
                status.role = Role::Active;
                status.captured = own.batch.captured().0;
                status.journaled = own.journaled;
                status.peers = own
                    .replicas
                    .iter()
                    .filter_map(|peer| {
                        let lag = self.shipper.lag(group.id, *peer, wall_ns)?;
                        Some(GroupPeerStatus {
                            name: self.name(*peer),
                            shipped: lag.journaled.0.min(own.journaled),
                            acked: lag.acked.0,
                            applied: lag.applied.0,
                            resync_needed: self.needs_resync(group.id, *peer, &lag),
                        })
                    })
                    .collect();
            } else if let Some(position) = self.receiver.positions(group.id) {
                status.role = Role::Replica;
                status.received = position.received.0;
                status.journaled = position.journaled.0;
                status.applied = board.applied.get(&group.id).copied().unwrap_or(0);
            } else {
                continue;
            }
            // Groups without any operation would fill the page and say nothing.
            let is_quiet = matches!(status.state.as_str(), "serving" | "following" | "none");
            if status.captured + status.journaled + status.received > 0 || !is_quiet {
                statuses.push(status);
            }
        }
        statuses
    }

    fn in_sync(&self, group: GroupId) -> Vec<String> {
        let standing = self.roles.groups.get(&group);
        standing
            .into_iter()
            .flat_map(|standing| standing.desired.record.in_sync())
            .map(|node| self.name(node))
            .collect()
    }

    fn needs_resync(&self, group: GroupId, peer: NodeId, lag: &crate::ship::Lag) -> bool {
        matches!(lag.stage, Stage::Resync(_)) || lag.below_journal || self.peer_resync.contains_key(&(group, peer))
    }

    fn peer_statuses(&self, wall_ns: u64) -> Vec<PeerStatus> {
        let links = self.transport.links();
        self.config
            .peers
            .iter()
            .map(|peer| {
                let node = peer.node_id();
                let mut lag = Lag::default();
                for group in self.own.keys() {
                    if let Some(of) = self.shipper.lag(*group, node, wall_ns) {
                        lag.operations += of.apply_operations;
                        lag.bytes += of.bytes;
                        lag.seconds = lag.seconds.max(seconds(of.apply_age_ns));
                    }
                }
                PeerStatus {
                    id: node.get(),
                    name: peer.name.clone(),
                    address: peer.address.clone(),
                    connected: self.links.contains_key(&node),
                    lag,
                    sent_bytes_total: links
                        .iter()
                        .filter(|link| link.peer == Some(node))
                        .map(|link| link.sent_bytes)
                        .sum(),
                    beat_age_seconds: self.beats.age(node, self.now).map(seconds),
                    last_error: self.probes.dial_errors.get(&node).cloned(),
                }
            })
            .collect()
    }

    fn account_statuses(&self, wall_ns: u64, unread: bool) -> Vec<AccountStatus> {
        let view = self.view.read();
        let board = self.board.lock();
        let mut names: std::collections::BTreeSet<String> =
            self.accounts.iter().map(|(account, _)| account.to_owned()).collect();
        names.extend(view.placement.placed_accounts().map(str::to_owned));
        names.extend(view.rules.named_accounts());
        names.extend(board.parked.keys().cloned());
        let mut statuses = Vec::new();
        for name in names {
            let Some(group) = view.placement.group(view.placement.group_of(&name)) else { continue };
            if !view.rules.resolve(&name).replicate {
                continue;
            }
            let own = self.own.contains_key(&group.id);
            let stand = Stand {
                last: self.last_seq(&name, group.id),
                owes: self.owes(&name, &group.replicas),
                changing: self.is_changing(&name, unread),
            };
            let replicas = group.replicas.iter().filter(|_| own);
            let replicas = replicas.map(|peer| self.replica_status(&name, group.id, *peer, stand, wall_ns)).collect();
            statuses.push(AccountStatus {
                group: group.id.0,
                role: if own {
                    Role::Active
                } else if group.replicas.contains(&self.node) {
                    Role::Replica
                } else {
                    Role::None
                },
                active: self.name(group.active),
                replicas,
                quarantined: board
                    .parked
                    .get(&name)
                    .filter(|(_, parked)| parked.reason != crate::apply::park::Reason::Paused)
                    .map(|(_, parked)| parked.detail.clone()),
                held: board.holding.get(&name).map_or(0, |holding| holding.held),
                braked: board.holding.get(&name).is_some_and(|holding| holding.trip.is_some()),
                paused: self
                    .pauses
                    .account(&name, wall_ns)
                    .or_else(|| self.pauses.group(self.node, group.id, wall_ns))
                    .map(|pause| crate::pause::describe(&pause, wall_ns)),
                name,
            });
        }
        statuses
    }

    fn replica_status(&self, account: &str, group: GroupId, peer: NodeId, stand: Stand, wall_ns: u64) -> ReplicaStatus {
        let node = self.name(peer);
        let Some(of) = self.shipper.lag(group, peer, wall_ns) else {
            return ReplicaStatus { node, ..ReplicaStatus::default() };
        };
        let applied = self.parked.applied(group, peer, account, of.applied.0);
        let behind = stand.last.saturating_sub(applied);
        let mut lag = Lag::default();
        if behind > 0 || stand.owes || stand.changing {
            lag.operations = behind.max(1);
            lag.bytes = of.bytes;
            lag.seconds = seconds(of.apply_age_ns).max(0.001);
        }
        let resync = self.peer_resync.get(&(group, peer));
        let state = if of.below_journal || resync.is_some_and(|resync| resync.accounts.contains(account)) {
            ReplicaState::ResyncNeeded
        } else if stand.owes {
            ReplicaState::Resyncing
        } else if of.stage == Stage::Down {
            ReplicaState::Unknown
        } else if behind > 0 || stand.changing {
            ReplicaState::Behind
        } else {
            ReplicaState::Equal
        };
        ReplicaStatus { node, lag, state }
    }

    /// The model of `understudy top`.
    pub(crate) fn top(&self) -> serde_json::Value {
        let model = crate::cli::top::TopModel {
            node: self.config.node.name.clone(),
            version: crate::cli::version().to_owned(),
            state: if self.probes.store_pid.is_some() { "serving" } else { "store down" }.to_owned(),
            uptime_ns: self.now.since_ns(self.started),
            signal: self.probes.signal.clone(),
            capabilities: self.probes.probe.as_ref().map(|probe| probe.capabilities.clone()).unwrap_or_default(),
            beat_lateness_ns: self.probes.watch.beat_late_ns,
            beat_unprotected: self.probes.sender.as_ref().map_or_else(String::new, |sender| {
                let protection = sender.protection();
                format!("{} {}", protection.lock_refusal, protection.priority_refusal).trim().to_owned()
            }),
        };
        // Plain data: it cannot fail, and `null` would show as "no model".
        serde_json::to_value(model).unwrap_or_default()
    }
}
