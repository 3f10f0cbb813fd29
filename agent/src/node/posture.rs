//! Lease, coordinator and groups as this node has them: for status and metrics.
//!
//! Owns: the words for people when something is not as it should be. What can hurt: a page of a hundred groups with one
//! reason; groups of one reason are one line. Refuses: explaining single rules; `understudy explain` does.

use std::collections::BTreeMap;

use understudy_types::id::{GroupId, NodeId};

use super::core::Core;
use super::roles::Stage;
use crate::capture::view::Seat;
use crate::control::model::LeaseStatus;
use crate::failover::Role;
use crate::metrics;

/// States in which a node can be for a group; each has a series.
const STATES: [&str; 7] = ["serving", "opening", "fenced", "moving", "merging", "following", "none"];

/// Groups that one line names; the others are counted.
const NAMED_MAX: usize = 8;

fn listed(groups: &[u32]) -> String {
    let named: Vec<String> = groups.iter().take(NAMED_MAX).map(u32::to_string).collect();
    let word = if groups.len() == 1 { "group" } else { "groups" };
    let more = groups.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{word} {}{more}", named.join(", "))
}

impl Core {
    /// What this node is for a group just now.
    pub(super) fn state_of(&self, group: GroupId, seats: &std::collections::HashMap<GroupId, Seat>) -> &'static str {
        let Some(standing) = self.roles.groups.get(&group) else { return "none" };
        match (seats.get(&group), standing.stage) {
            (Some(Seat::Serving), _) => "serving",
            (Some(Seat::Opening { .. }), _) => "opening",
            (Some(Seat::Moving), _) => "moving",
            (Some(Seat::Fenced(_)), _) => "fenced",
            (_, Stage::Merging) => "merging",
            (_, Stage::Following) => "following",
            _ => "none",
        }
    }

    /// For `status`; `None` where placement is what the configuration says.
    pub(super) fn lease_status(&self) -> Option<LeaseStatus> {
        if !self.roles.is_shared() {
            return None;
        }
        let Some(posture) = &self.posture else {
            return Some(LeaseStatus { why: "the agent has just started".to_owned(), ..LeaseStatus::default() });
        };
        let seen = &posture.overview;
        let held = seen.lease_left_ms > 0;
        let why = if held {
            String::new()
        } else if !seen.store_trouble.is_empty() {
            seen.store_trouble.clone()
        } else if !seen.coordinator_heard {
            "the coordinator is not heard".to_owned()
        } else {
            "it was lost or is new; it is being taken".to_owned()
        };
        Some(LeaseStatus {
            held,
            left_ms: seen.lease_left_ms,
            why,
            coordinator_heard: seen.coordinator_heard,
            failsafe: seen.failsafe,
            drained: seen.nodes.get(&self.node.get()).is_some_and(|node| node.drained),
            coordinator_p99_ms: super::gauges::seconds(posture.coordinator.p99_ns) * 1000.0,
        })
    }

    /// What an administrator should know of lease and groups.
    pub(super) fn posture_reasons(&self) -> Vec<String> {
        let Some(lease) = self.lease_status() else { return Vec::new() };
        let mut reasons = Vec::new();
        if !lease.held {
            reasons.push(format!("no lease is held: {}", lease.why));
        }
        if !lease.coordinator_heard && self.posture.is_some() {
            let served = if lease.failsafe { "groups are served while all their replicas confirm it" } else { "" };
            reasons.push(format!("the coordinator is not heard; {served}").trim_end_matches("; ").to_owned());
        }
        if lease.drained {
            reasons.push("this node is drained: no group is to be active here (`understudy undrain`)".to_owned());
        }
        let mut by_reason: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let mut lagging: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        let view = self.view.read();
        for (group, standing) in &self.roles.groups {
            let text = match view.seats.get(group) {
                Some(Seat::Opening { .. }) => "opening after a promotion".to_owned(),
                Some(Seat::Moving) => format!("moving: {}", standing.desired.why),
                Some(Seat::Fenced(why)) => format!("fenced: {why}"),
                _ if standing.stage == Stage::Merging => "merging what only this node had".to_owned(),
                _ => String::new(),
            };
            if !text.is_empty() {
                by_reason.entry(text).or_default().push(group.0);
            }
            if standing.stage == Stage::Active && standing.desired.role == Role::Serve {
                let record = &standing.desired.record;
                for replica in record.replicas().into_iter().filter(|node| !record.in_sync.contains(&node.get())) {
                    lagging.entry(replica).or_default().push(group.0);
                }
            }
        }
        drop(view);
        reasons.extend(by_reason.into_iter().map(|(text, groups)| format!("{}: {text}", listed(&groups))));
        reasons.extend(lagging.into_iter().map(|(node, groups)| {
            format!("replica `{}` is not in sync, and would not be promoted, for {}", self.name(node), listed(&groups))
        }));
        reasons
    }

    /// Once a second.
    pub(super) fn posture_gauges(&self) {
        let to = &self.metrics.failover;
        let left_ms = self.posture.as_ref().map_or(0, |posture| posture.overview.lease_left_ms);
        to.lease_held.set(i64::from(left_ms > 0));
        to.lease_left.set(super::gauges::seconds(left_ms.saturating_mul(1_000_000)));
        let mut counts = BTreeMap::from(STATES.map(|state| (state, 0)));
        let view = self.view.read();
        for group in view.placement.groups() {
            *counts.entry(self.state_of(group.id, &view.seats)).or_default() += 1;
        }
        for (state, count) in counts {
            to.group_role.get_or_create(&metrics::State::new(state)).set(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_groups_are_one_line() {
        assert_eq!(listed(&[3]), "group 3");
        assert_eq!(listed(&[1, 2]), "groups 1, 2");
        assert_eq!(listed(&(0..10).collect::<Vec<_>>()), "groups 0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}
