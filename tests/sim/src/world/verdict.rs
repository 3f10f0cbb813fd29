//! The end of a world: whether all is well again, in time, and whether everybody has what they were promised.
//!
//! Owns: the bounds of recovery. What can hurt: a world that is taken to be well a moment too early; so it must stay
//! well for some seconds. Refuses: mending; what is not well by itself is a finding.

use understudy_agent::coordinator::record::{GroupRecord, Name};
use understudy_agent::failover::Record;
use understudy_types::id::NodeId;

use super::{Node, SECOND_NS, World};
use crate::agent::Agent;
use crate::checker::view::AccountView;

/// How long after the last fault a world may take until all is well: several times the longest wait of the product.
const RECOVERY_NS_MAX: u64 = 240 * SECOND_NS;
/// How long after the last fault a group may be served by nobody.
const SERVED_NS_MAX: u64 = 60 * SECOND_NS;
/// How long all must stay well.
const QUIET_NS: u64 = 3 * SECOND_NS;

impl World {
    /// Who is active for the plan's groups, and who follows.
    fn records(&self) -> Vec<(understudy_types::id::GroupId, Option<GroupRecord>)> {
        let record = |group: &crate::plan::GroupPlan| {
            if !self.out.plan.shared {
                return Some(group.record());
            }
            match self.out.coordinator.get(&Name::Group(group.id)) {
                Some(Record::Group(record)) => Some(record.clone()),
                _ => None,
            }
        };
        self.out.plan.groups.iter().map(|group| (group.id, record(group))).collect()
    }

    /// Whether all is well; and if it is for long enough, or is not for too long, the end.
    pub(super) fn look(&mut self, now: u64) {
        if now < self.calm_at_ns + 2 * SECOND_NS {
            return;
        }
        let since_calm = now - self.calm_at_ns;
        let unserved = self.unserved();
        if let (Some(why), true) = (&unserved, since_calm > SERVED_NS_MAX) {
            self.out.checker.fail(format!("{} s after the last fault {why}", since_calm / SECOND_NS));
        }
        match unserved.or_else(|| self.unwell()) {
            None => {
                let since = *self.well_since_ns.get_or_insert(now);
                if now - since >= QUIET_NS {
                    self.done = true;
                    self.last_check();
                }
            }
            Some(why) => {
                self.well_since_ns = None;
                if since_calm > RECOVERY_NS_MAX {
                    let seconds = since_calm / SECOND_NS;
                    self.out.checker.fail(format!("not well {seconds} s after the last fault: {why}"));
                }
            }
        }
    }

    fn unserved(&self) -> Option<String> {
        for (group, record) in self.records() {
            let Some(record) = record else { return Some(format!("group {group} has no record")) };
            let active = record.active().map(|node| self.index(node));
            let serves = |agent: &Agent| agent.serves(group, record.epoch);
            if !active.is_some_and(|index| self.nodes[index].agent.as_ref().is_some_and(serves)) {
                return Some(format!("nobody serves group {group}, {record:?}"));
            }
        }
        None
    }

    fn unwell(&self) -> Option<String> {
        for Node { host, agent } in &self.nodes {
            match agent {
                None => return Some(format!("node {} has no agent", host.id)),
                Some(agent) if !agent.is_quiet(host) => return Some(agent.unrest(host)),
                Some(_) => {}
            }
        }
        for (group, record) in self.records() {
            let record = record?;
            if self.out.plan.shared && record.replicas.iter().any(|node| !record.in_sync.contains(node)) {
                return Some(format!("not all replicas of group {group} are in sync: {record:?}"));
            }
        }
        self.difference()
    }

    fn view(&self, node: NodeId, account: &str) -> Option<AccountView> {
        AccountView::of(&self.nodes[self.index(node)].host.store, account)
    }

    fn difference(&self) -> Option<String> {
        let records = self.records();
        for account in &self.out.plan.accounts {
            let (_, record) = records.iter().find(|(group, _)| *group == account.group)?;
            let record = record.as_ref()?;
            let active = record.active()?;
            let ours = self.view(active, &account.name)?;
            for replica in record.replicas() {
                let theirs = self.view(replica, &account.name)?;
                let found = ours.difference(&theirs);
                if found.is_none() != (ours.digest == theirs.digest) {
                    return Some(format!("{}: digests say otherwise than the checker: {found:?}", account.name));
                }
                if let Some(found) = found {
                    return Some(format!("{} on nodes {active} and {replica}: {found}", account.name));
                }
            }
        }
        None
    }

    fn last_check(&mut self) {
        let records = self.records();
        for (group, record) in &records {
            // Where nobody else was ever active, what was acknowledged at level local is there too.
            if record.as_ref().is_some_and(|record| record.epoch == 1) {
                self.out.checker.settle_local(*group);
            }
        }
        for (number, account) in self.out.plan.clone().accounts.iter().enumerate() {
            let record =
                records.iter().find(|(group, _)| *group == account.group).and_then(|(_, record)| record.clone());
            let view = record.and_then(|record| record.active()).and_then(|active| self.view(active, &account.name));
            if let Some(view) = view
                && let Err(wrong) = self.out.checker.account(number, &view)
            {
                self.out.checker.fail(format!("{}: {wrong}", account.name));
            }
        }
    }
}
