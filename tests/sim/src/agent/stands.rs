//! How an agent stands with its groups, for its decider: as `agent/src/node/stands.rs` has it.
//!
//! Owns: what is said. What can hurt: a rule that is written here otherwise than in the product. Refuses: judging.

use understudy_agent::failover::{Input, ReplicaStands, Role, Stands};
use understudy_agent::limits::STANDS_MS;
use understudy_agent::ship;
use understudy_types::id::{GroupId, NodeId, Sequence};

use super::roles::{Stage, hex};
use super::{Agent, Out};
use crate::host::Host;

impl Agent {
    /// Tells the decider what changed: `node/stands.rs`.
    pub(super) fn tell_stands(&mut self, host: &Host, out: &mut Out) {
        let now = out.queue.now_ns();
        let due = now >= self.roles.next_look_ns;
        if due {
            self.roles.next_look_ns = now + STANDS_MS * 1_000_000;
            self.turn_within(STANDS_MS * 1_000_000, out);
        }
        let groups: Vec<GroupId> =
            if due { self.roles.groups.keys().copied().collect() } else { self.roles.moving.iter().copied().collect() };
        for group in groups {
            let Some(stands) = self.stands(group, host) else { continue };
            let Some(standing) = self.roles.groups.get_mut(&group) else { continue };
            if standing.told.as_ref() != Some(&stands) {
                standing.told = Some(stands.clone());
                self.council.push_back(Input::Stands(stands));
                self.wake_council(out);
            }
        }
    }

    fn stands(&self, group: GroupId, host: &Host) -> Option<Stands> {
        let standing = self.roles.groups.get(&group)?;
        let (record, role) = (&standing.desired.record, standing.desired.role);
        let tail = self.reader.tail(group);
        let applied = self.applied_by_all(group);
        let mut stands = Stands {
            desired: standing.desired.number,
            group,
            epoch: record.epoch(),
            role,
            ready: false,
            quiet: false,
            captured: tail.sequence,
            journaled: tail.sequence,
            applied: Sequence(applied.min(tail.sequence.0)),
            hash: hex(&tail.hash),
            tail_epoch: tail.epoch,
            complete: !self.lost_groups.contains_key(&group),
            parked: u32::try_from(self.parked.values().filter(|(of, _)| *of == group).count()).unwrap_or(u32::MAX),
            replicas: Vec::new(),
        };
        match standing.stage {
            Stage::Following => stands.ready = true,
            Stage::Active => {
                let own = self.own.get(&group)?;
                stands.ready = standing.opening.is_empty();
                stands.captured = own.batch.captured();
                stands.journaled = Sequence(own.journaled);
                stands.applied = Sequence(own.journaled);
                stands.quiet = role == Role::Fenced && self.is_group_quiet(group, host);
                stands.replicas = own.replicas.iter().map(|peer| self.replica_stands(group, *peer)).collect();
            }
            Stage::Idle | Stage::TakingOver | Stage::Closing | Stage::Merging => {}
        }
        Some(stands)
    }

    fn replica_stands(&self, group: GroupId, node: NodeId) -> ReplicaStands {
        let lag = self.shipper.lag(group, node, 0);
        let copied = self
            .names_of(group)
            .iter()
            .all(|account| self.copied.get(account).is_some_and(|copied| copied.contains(&node)));
        ReplicaStands {
            node,
            streaming: lag.is_some_and(|lag| lag.stage == ship::Stage::Streaming),
            complete: copied && !self.peer_resync.contains_key(&(group, node)),
            acked: lag.map_or(Sequence(0), |lag| lag.acked),
            applied: lag.map_or(Sequence(0), |lag| lag.applied),
        }
    }

    fn is_group_quiet(&self, group: GroupId, host: &Host) -> bool {
        let Some(own) = self.own.get(&group) else { return false };
        self.is_seat_known(group)
            && host.ring.is_read(self.ring_read)
            && own.batch.is_empty()
            && own.journaled == own.batch.captured().0
            && self.names_of(group).iter().all(|account| !host.ring.intents.contains_key(account))
    }
}
