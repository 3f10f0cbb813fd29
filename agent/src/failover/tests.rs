//! Tests of the decider on a tiny world: some deciders, a coordinator, stores that write while they may.
//!
//! Owns: the settings that all tests share. What can hurt: a world kinder than the real one; see `world` and `loops`.

mod faults;
mod loops;
mod plans;
mod random;
mod scenes;
mod world;

use super::*;

pub(super) const MS: u64 = 1_000_000;

pub(super) fn id(node: u16) -> NodeId {
    NodeId::new(node).expect("in range")
}

pub(super) fn settings(node: u16) -> Settings {
    Settings {
        node: id(node),
        incarnation: u64::from(node) * 1000,
        mode: Automation::On,
        lease_ns: 1500 * MS,
        renew_ns: 300 * MS,
        store_stall_ns: 2000 * MS,
        drift_ppm: 10_000,
        in_sync_timeout_ns: 1000 * MS,
        dwell_ns: 0,
        site: String::new(),
        priority: 100,
        no_failover: false,
        capacity_groups: 0,
        cross_site: true,
        fence_hook: false,
        placement: Vec::new(),
    }
}
