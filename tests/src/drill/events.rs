//! The events of drills: how each is made, how it is healed, and what it may do to users.
//!
//! Owns: the list. What can hurt: an event that is only half made; each step says what failed, and healing is tried in
//! any case. Refuses: waiting; that is the drill's.

use super::agents;
use crate::mesh::{Mesh, State};
use anyhow::Result;
use std::time::Duration;

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Machine,
    Switchover,
    StoreFrozen,
    DiskHung,
    DiskFull,
    AgentKilled,
    Partition,
    SlowReplica,
    EtcdSilent,
}

/// What must not make a difference is left so for this long.
const HARMLESS_TIME: Duration = Duration::from_secs(5);
/// A round trip of a slow replica, and how much of its traffic is lost.
const SLOW_MS: u32 = 100;
const SLOW_LOSS: f64 = 1.0;

impl What {
    /// In the order of the documents.
    pub const ALL: [Self; 9] = [
        Self::Machine,
        Self::Switchover,
        Self::StoreFrozen,
        Self::DiskHung,
        Self::DiskFull,
        Self::AgentKilled,
        Self::Partition,
        Self::SlowReplica,
        Self::EtcdSilent,
    ];

    /// As the command line has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Switchover => "switchover",
            Self::StoreFrozen => "store-frozen",
            Self::DiskHung => "disk-hung",
            Self::DiskFull => "disk-full",
            Self::AgentKilled => "agent-killed",
            Self::Partition => "partition",
            Self::SlowReplica => "slow-replica",
            Self::EtcdSilent => "etcd-silent",
        }
    }

    /// Disks of their own are needed.
    #[must_use]
    pub fn disks(self) -> bool {
        matches!(self, Self::DiskHung | Self::DiskFull)
    }

    /// What clients wait for. Only where a single copy is enough, two sides of a cut can both acknowledge.
    #[must_use]
    pub fn level(self) -> &'static str {
        if self == Self::Partition { "local" } else { "peer" }
    }

    /// No user may see a failure.
    #[must_use]
    pub fn unseen(self) -> bool {
        self.harmless() || self == Self::Switchover
    }

    /// No group may change its epoch.
    #[must_use]
    pub fn harmless(self) -> bool {
        matches!(self, Self::SlowReplica | Self::EtcdSilent)
    }

    /// The longest pause that users may see, unless told otherwise: what is promised, or follows from the default
    /// budget of a stalled store.
    #[must_use]
    pub fn bound_ms(self) -> u64 {
        match self {
            Self::Switchover => 500,
            Self::StoreFrozen | Self::DiskHung | Self::DiskFull => 8000,
            Self::Machine | Self::AgentKilled | Self::Partition | Self::SlowReplica | Self::EtcdSilent => 5000,
        }
    }

    /// A client waits so long for each answer. Where nobody may see a failure, its own impatience is none.
    #[must_use]
    pub fn patience(self) -> Duration {
        if self.unseen() { Duration::from_secs(10) } else { Duration::from_secs(1) }
    }

    /// Makes the event at `node`.
    pub(super) fn make(self, mesh: &Mesh, state: &State, node: &str) -> Result<()> {
        match self {
            Self::Machine => mesh.kill(node, "machine", "KILL"),
            Self::Switchover => agents::switch_over(mesh, state, node),
            Self::StoreFrozen => mesh.kill(node, "store", "STOP"),
            Self::DiskHung => mesh.fault(node, "hang"),
            Self::DiskFull => mesh.fault(node, "full"),
            Self::AgentKilled => mesh.kill(node, "agent", "KILL"),
            Self::Partition => mesh.partition(node, &[]),
            Self::SlowReplica => {
                mesh.delay(node, SLOW_MS, SLOW_LOSS)?;
                std::thread::sleep(HARMLESS_TIME);
                Ok(())
            }
            Self::EtcdSilent => {
                mesh.kill_service("etcd", "STOP")?;
                std::thread::sleep(HARMLESS_TIME);
                Ok(())
            }
        }
    }

    /// Undoes it.
    pub(super) fn heal(self, mesh: &Mesh, node: &str) -> Result<()> {
        match self {
            Self::Switchover => Ok(()),
            Self::Machine => mesh.start(node, "machine"),
            Self::StoreFrozen => mesh.kill(node, "store", "CONT"),
            Self::DiskHung | Self::DiskFull => mesh.mend(),
            Self::AgentKilled => mesh.start(node, "agent"),
            Self::Partition => mesh.heal(),
            Self::SlowReplica => mesh.delay(node, 0, 0.0),
            Self::EtcdSilent => mesh.kill_service("etcd", "CONT"),
        }
    }
}
