//! How this node stands with its groups, for the decider of failover.
//!
//! Owns: what is said and how often. What can hurt: a busy node with many groups; each is looked at some ten times a
//! second, and at every turn only while it changes its role. Refuses: judging.

use std::time::Duration;

use understudy_types::id::{GroupId, Sequence};

use super::core::Core;
use super::roles::Stage;
use crate::capture::bucket_of;
use crate::failover::{Input, ReplicaStands, Role, Stands};
use crate::limits::STANDS_MS;
use crate::ship;

impl Core {
    /// Tells what changed.
    pub(super) fn tell_stands(&mut self) {
        if !self.roles.is_shared() {
            return;
        }
        let due = self.now >= self.roles.next_look;
        if due {
            self.roles.next_look = self.now.after(Duration::from_millis(STANDS_MS));
        }
        let groups: Vec<GroupId> =
            if due { self.roles.groups.keys().copied().collect() } else { self.roles.on_their_way().collect() };
        for group in groups {
            let Some(stands) = self.stands(group) else { continue };
            let Some(standing) = self.roles.groups.get_mut(&group) else { continue };
            if standing.told.as_ref() != Some(&stands) {
                standing.told = Some(stands.clone());
                self.council.tell(Input::Stands(stands));
            }
        }
    }

    fn stands(&self, group: GroupId) -> Option<Stands> {
        let standing = self.roles.groups.get(&group)?;
        let (record, role) = (&standing.desired.record, standing.desired.role);
        let tail = self.reader.tail(group);
        let applied = self.board.lock().applied_by_all(group);
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
            hash: hex::encode(tail.hash),
            tail_epoch: tail.epoch,
            complete: !self.lost_groups.contains_key(&group),
            parked: u32::try_from(self.board.lock().parked.values().filter(|(of, _)| *of == group).count())
                .unwrap_or(u32::MAX),
            replicas: Vec::new(),
        };
        match standing.stage {
            Stage::Following => stands.ready = true,
            Stage::Active => {
                let own = self.own.get(&group)?;
                stands.ready = standing.is_open();
                stands.captured = own.batch.captured();
                stands.journaled = Sequence(own.journaled);
                stands.applied = Sequence(own.journaled);
                stands.quiet = role == Role::Fenced && self.is_quiet(group);
                stands.replicas = own.replicas.iter().map(|peer| self.replica_stands(group, *peer)).collect();
            }
            Stage::Idle | Stage::TakingOver | Stage::Closing | Stage::Merging => {}
        }
        Some(stands)
    }

    fn replica_stands(&self, group: GroupId, node: understudy_types::id::NodeId) -> ReplicaStands {
        let lag = self.shipper.lag(group, node, 0);
        let copied = self
            .accounts
            .iter()
            .filter(|(_, known)| known.group == group)
            .all(|(_, known)| known.copied_for.contains(&node));
        ReplicaStands {
            node,
            streaming: lag.is_some_and(|lag| lag.stage == ship::Stage::Streaming),
            complete: copied && !self.peer_resync.contains_key(&(group, node)),
            acked: lag.map_or(Sequence(0), |lag| lag.acked),
            applied: lag.map_or(Sequence(0), |lag| lag.applied),
        }
    }

    /// No change of the group is in the making, and the ring holds nothing that was not taken.
    fn is_quiet(&self, group: GroupId) -> bool {
        let Some(own) = self.own.get(&group) else { return false };
        if !self.is_seat_known(group)
            || self.is_ring_unread()
            || !own.batch.is_empty()
            || own.journaled != own.batch.captured().0
        {
            return false;
        }
        let open = self.open_buckets();
        open.is_empty() || !self.names_of(group).iter().any(|account| open.contains(&bucket_of(account)))
    }
}
