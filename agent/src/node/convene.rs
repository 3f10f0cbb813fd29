//! The first roles of a node, and the council that changes them.
//!
//! Owns: what a node is before anybody was heard, and what the decider of failover is told of this node once. What can
//! hurt: serving before the coordinator was heard; with one, everything begins fenced. Refuses: deciding.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow};
use crossbeam::channel::{Sender, unbounded};
use understudy_types::id::GroupId;

use super::core::Core;
use super::council;
use super::query::Query;
use crate::capture::view::Seat;
use crate::clock;
use crate::config::{Config, Placement};
use crate::coordinator;
use crate::coordinator::client::CoordinatorClient;
use crate::coordinator::record::{Cause, GroupRecord};
use crate::failover::budget;
use crate::failover::{Desired, Input, Placed, Role, Settings};
use crate::fence::watchdog::Watchdog;

/// Without a coordinator placement is as configured. With one, this node is what it was when it stopped, and serves
/// nobody until the coordinator has been heard: so that what the ring holds goes into the streams that it belongs to.
pub(super) fn first_roles(core: &mut Core) {
    let why = |text: &str| text.to_owned();
    let mut wanted = Vec::new();
    if core.roles.is_shared() {
        let groups: Vec<GroupId> = core.view.read().placement.groups().iter().map(|group| group.id).collect();
        core.view.change(|view| {
            for group in groups {
                view.seats.insert(group, Seat::Fenced(why("the coordinator was not heard yet")));
            }
        });
        for (group, record) in core.roles.stood.iter() {
            wanted.push(Desired {
                group,
                role: Role::Fenced,
                record: record.clone(),
                required: BTreeSet::new(),
                hold: false,
                number: 0,
                why: why("the coordinator was not heard yet"),
            });
        }
    } else {
        for group in core.view.read().placement.groups() {
            let role = if group.active == core.node {
                Role::Serve
            } else if group.replicas.contains(&core.node) {
                Role::Follow
            } else {
                Role::None
            };
            let record = GroupRecord {
                epoch: group.epoch.0,
                active: group.active.get(),
                replicas: group.replicas.iter().map(|node| node.get()).collect(),
                in_sync: BTreeSet::new(),
                before: None,
                base: None,
                cause: Cause::Placement,
                move_to: None,
                replicas_wanted: None,
                move_at_wall_ns: 0,
                since_wall_ns: 0,
            };
            let why = why("as configured");
            wanted.push(Desired {
                group: group.id,
                role,
                record,
                required: BTreeSet::new(),
                hold: false,
                number: 0,
                why,
            });
        }
    }
    wanted.into_iter().for_each(|desired| core.desire(Box::new(desired)));
}

/// What the decider of failover is told of this node once.
///
/// # Errors
/// When the configuration places groups in no way.
pub(super) fn settings(config: &Config) -> anyhow::Result<Settings> {
    Ok(Settings {
        placement: Placement::build(config)
            .map_err(|_| anyhow!("the placement cannot be built"))?
            .groups()
            .iter()
            .map(|group| Placed { group: group.id, active: group.active, replicas: group.replicas.clone() })
            .collect(),
        ..Settings::of(config, clock::wall_ns())
    })
}

/// Starts the council.
pub(super) fn convene(
    core: &Core,
    queries: &Sender<Query>,
    inputs: crossbeam::channel::Receiver<Input>,
    asks: crossbeam::channel::Receiver<council::Ask>,
) -> anyhow::Result<()> {
    let config = &core.config;
    let settings = settings(config)?;
    budget::check(&settings, config.failover.rto_ms * 1_000_000).map_err(|why| anyhow!(why))?;
    let coordinator = coordinator::open(config)?.ok_or_else(|| anyhow!("`coordinator.kind` is `none`"))?;
    let (events, inbox) = unbounded();
    let client = CoordinatorClient::start(coordinator, move |event| drop(events.send(event)))?;
    let failover = &config.failover;
    let watchdog = failover.watchdog.clone().map(|path| Watchdog::new(path, failover.lease_ms * 1_000_000));
    let parts = council::Parts {
        settings,
        coordinator: client,
        events: inbox,
        inputs,
        asks,
        transport: core.transport.clone(),
        lease: core.capture.write_lease(),
        queries: queries.clone(),
        pauses: core.pauses.clone(),
        metrics: core.metrics.clone(),
    };
    council::start(parts, watchdog).map(drop).context("cannot start the council")
}
