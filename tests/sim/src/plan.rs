//! What a seed's world is like: its size, its times, its limits, and which faults come how often.
//!
//! Owns: everything that is drawn once, before the world begins. Each seed leaves most faults out (swarm testing: Groce
//! et al., ISSTA 2012): a world in which everything happens all the time hides what a single fault does. What can hurt:
//! a drawn limit that no product could have; each stands within what its own code takes. Refuses: what happens later.

use std::collections::BTreeSet;

use understudy_agent::batch::BatchLimits;
use understudy_agent::coordinator::record::{Cause, GroupRecord};
use understudy_agent::ship::ShipLimits;
use understudy_ring::AckLevel;
use understudy_types::id::{GroupId, NodeId};

use crate::random::Random;

/// One kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    AgentKilled,
    /// Killed between two of its effects.
    AgentCut,
    HostCut,
    AgentFrozen,
    HostFrozen,
    Partition,
    OneWay,
    Isolated,
    LinkBroken,
    Slow,
    WriteFails,
    SyncFails,
    BitFlip,
    DiskSlow,
    DiskReplaced,
    StoreKilled,
    StoreRefuses,
    StoreBreaks,
    StoreHangs,
    CentralDown,
    CentralDamaged,
    SessionDies,
    CoordinatorDown,
    CoordinatorCut,
    CoordinatorSlow,
    AnswersLost,
    Move,
    Drain,
}

impl Fault {
    /// All of them, with how often a world has them, of a thousand, and their weight there.
    pub const ALL: [(Self, u64, u64); 28] = [
        (Self::AgentKilled, 400, 4),
        (Self::AgentCut, 400, 4),
        (Self::HostCut, 300, 3),
        (Self::AgentFrozen, 200, 2),
        (Self::HostFrozen, 150, 2),
        (Self::Partition, 300, 3),
        (Self::OneWay, 200, 2),
        (Self::Isolated, 150, 2),
        (Self::LinkBroken, 300, 4),
        (Self::Slow, 200, 2),
        (Self::WriteFails, 150, 2),
        (Self::SyncFails, 150, 2),
        (Self::BitFlip, 150, 2),
        (Self::DiskSlow, 200, 2),
        (Self::DiskReplaced, 60, 1),
        (Self::StoreKilled, 200, 2),
        (Self::StoreRefuses, 200, 3),
        (Self::StoreBreaks, 250, 3),
        (Self::StoreHangs, 200, 2),
        (Self::CentralDown, 200, 2),
        (Self::CentralDamaged, 60, 1),
        (Self::SessionDies, 200, 2),
        (Self::CoordinatorDown, 200, 2),
        (Self::CoordinatorCut, 300, 3),
        (Self::CoordinatorSlow, 200, 2),
        (Self::AnswersLost, 200, 2),
        (Self::Move, 300, 3),
        (Self::Drain, 150, 2),
    ];
}

/// A group of the world.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    pub id: GroupId,
    pub active: NodeId,
    pub replicas: Vec<NodeId>,
}

impl GroupPlan {
    /// Its first record.
    #[must_use]
    pub fn record(&self) -> GroupRecord {
        GroupRecord {
            epoch: 1,
            active: self.active.get(),
            replicas: self.replicas.iter().map(|node| node.get()).collect(),
            in_sync: BTreeSet::new(),
            before: None,
            base: None,
            cause: Cause::Placement,
            move_to: None,
            move_at_wall_ns: 0,
            replicas_wanted: None,
            since_wall_ns: 0,
        }
    }
}

/// An account of the world.
#[derive(Clone, Debug)]
pub struct AccountPlan {
    pub name: String,
    pub group: GroupId,
    pub level: AckLevel,
    pub peers: u8,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// A coordinator says who is active; else the configuration does.
    pub shared: bool,
    pub nodes: Vec<NodeId>,
    pub groups: Vec<GroupPlan>,
    pub accounts: Vec<AccountPlan>,
    /// How long there are faults, and users.
    pub length_ns: u64,
    /// Pause of a user between two changes.
    pub user_pause_ns: (u64, u64),
    pub fault_pause_ns: u64,
    pub faults: Vec<(Fault, u64)>,
    /// The one node whose disk may turn bits over or be replaced: a minority.
    pub bad_disk: NodeId,
    pub lease_ns: u64,
    pub renew_ns: u64,
    pub store_stall_ns: u64,
    pub in_sync_timeout_ns: u64,
    pub dwell_ns: u64,
    pub coordinator_ns: (u64, u64),
    pub segment_bytes: u64,
    pub journal_bytes_max: u64,
    pub cache_bytes_max: usize,
    pub batch: BatchLimits,
    pub ship: ShipLimits,
    pub credit_bytes: u64,
    pub ring_capacity: usize,
    pub link_queue_max: usize,
    pub net_ns: (u64, u64),
    pub disk_ns: (u64, u64),
    pub turn_ns: (u64, u64),
    pub upload_ns: (u64, u64),
    pub export_ns: (u64, u64),
    /// Weights of what users do; see `users`.
    pub wishes: [u64; 12],
    /// Messages of an account at which users rather expunge than save.
    pub messages_max: usize,
    /// Parts per million by which each node's clock runs fast or slow.
    pub drift_ppm: Vec<i64>,
}

const MS: u64 = 1_000_000;

fn node(n: u64) -> NodeId {
    // Small numbers, never 0.
    NodeId::new(u16::try_from(n + 1).unwrap_or(1)).unwrap_or_else(|| unreachable!("1 is a node"))
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 1);
        let r = &mut random;
        let count = r.one_of(&[2, 2, 3, 3, 3, 4]);
        let nodes: Vec<NodeId> = (0..count).map(node).collect();
        let groups: Vec<GroupPlan> = (0..r.within(1, 3))
            .map(|id| {
                let mut order = nodes.clone();
                for at in (1..order.len()).rev() {
                    order.swap(at, r.index(at + 1));
                }
                let active = order.remove(0);
                order.truncate(r.one_of(&[1, 2, 2]));
                GroupPlan { id: GroupId(u32::try_from(id).unwrap_or(0)), active, replicas: order }
            })
            .collect();
        let accounts = (0..r.within(1, 5))
            .map(|n| {
                let group = groups[r.index(groups.len())].clone();
                let (level, peers) = match r.below(8) {
                    0 => (AckLevel::None, 0),
                    1 | 2 => (AckLevel::Local, 0),
                    3 => (AckLevel::Peer, u8::try_from(group.replicas.len()).unwrap_or(1)),
                    _ => (AckLevel::Peer, 1),
                };
                AccountPlan { name: format!("user{n}@example.test"), group: group.id, level, peers }
            })
            .collect();
        let faults: Vec<(Fault, u64)> = Fault::ALL
            .into_iter()
            .filter(|(_, of, _)| r.chance(*of))
            .map(|(fault, _, weight)| (fault, weight))
            .collect();
        let pages = r.one_of(&[4, 8, 16, 64]);
        let segment_bytes = 4096 * (pages + 1);
        let busy = r.chance(300);
        let mut wishes = [0; 12];
        wishes.iter_mut().for_each(|weight| *weight = r.one_of(&[0, 1, 2, 5]));
        // Somebody must save something.
        wishes[0] = r.within(3, 10);
        let bad_disk = nodes[r.index(nodes.len())];
        let fast_disk = r.chance(500);
        let lease_ns = r.one_of(&[1_000, 2_000, 4_000]) * MS;
        let drift_ppm = nodes.iter().map(|_| i64::try_from(r.below(401)).unwrap_or(0) - 200).collect();
        Self {
            seed,
            shared: false,
            groups,
            accounts,
            length_ns: r.within(2_000, 12_000) * MS,
            user_pause_ns: if busy { (MS, 40 * MS) } else { (20 * MS, r.within(100, 600) * MS) },
            fault_pause_ns: r.one_of(&[150, 400, 1000, 3000]) * MS,
            faults,
            bad_disk,
            lease_ns,
            renew_ns: lease_ns / r.one_of(&[4, 6]),
            store_stall_ns: r.one_of(&[600, 1_500]) * MS,
            in_sync_timeout_ns: r.one_of(&[300, 1_000]) * MS,
            dwell_ns: r.one_of(&[0, 2_000]) * MS,
            coordinator_ns: r.one_of(&[(200_000, 2 * MS), (MS, 30 * MS), (10 * MS, 60 * MS)]),
            segment_bytes,
            journal_bytes_max: segment_bytes * r.one_of(&[3, 8, 1000]),
            cache_bytes_max: r.one_of(&[0, 4 << 10, 1 << 20]),
            batch: BatchLimits {
                ops_max: r.one_of(&[1, 4, 64]),
                bytes_max: r.one_of(&[512, 8 << 10]),
                linger_ns: r.one_of(&[0, MS, 5 * MS]),
            },
            ship: ShipLimits {
                window_bytes: r.one_of(&[2 << 10, 64 << 10, 4 << 20]),
                read_bytes: r.one_of(&[1 << 10, 16 << 10, 1 << 20]),
                frames_max: r.one_of(&[2, 16, 2048]),
            },
            credit_bytes: r.one_of(&[512 << 10, 8 << 20]),
            ring_capacity: r.one_of(&[4, 64, 1024, 1024]),
            link_queue_max: r.one_of(&[2, 16, 8192, 8192]),
            net_ns: r.one_of(&[(50_000, 300_000), (200_000, 3 * MS), (MS, 40 * MS)]),
            disk_ns: if fast_disk { (50_000, 400_000) } else { (MS, 15 * MS) },
            turn_ns: r.one_of(&[(10_000, 60_000), (50_000, 2 * MS)]),
            upload_ns: r.one_of(&[(MS, 5 * MS), (MS, 200 * MS)]),
            export_ns: r.one_of(&[(MS, 5 * MS), (MS, 100 * MS)]),
            wishes,
            messages_max: r.one_of(&[5, 20, 60]).try_into().unwrap_or(20),
            drift_ppm,
            nodes,
        }
    }

    /// The plan of an account's group.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&GroupPlan> {
        self.groups.iter().find(|group| group.id == id)
    }
}
