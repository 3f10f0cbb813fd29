//! Failover: who is active for a group, decided from what the coordinator, the store and the peers say. Pure.
//!
//! Owns: [`decide::Decider`], and the closed sets of what it is told ([`Input`]) and what it wants done ([`Action`]).
//! What can hurt: two nodes that take the same group for theirs. A node serves a group only while it holds its lease,
//! which it counts from before it asked for it; another promotes itself only by one transaction that fails unless the
//! lease that it saw run out is still the same; and that transaction takes the old lease away, so that its holder must
//! read everything anew before it serves again. Refuses: clocks, sockets, files; the simulator runs the same code.
//!
//! Reading order: `decide` (dispatch, state), `view` (what the coordinator has), `observe` (others' leases), `lease`
//! and `promise` (the own right to be active), `txn` (changes under way), `desire` (what follows for each group),
//! `sync`, `rank` and `promote`, `shift` (planned moves), `orders`, `explain`; beside it `budget` and `plan` (with
//! `spread`).

pub mod budget;
pub mod decide;
mod desire;
pub mod explain;
mod lease;
mod observe;
mod orders;
pub mod plan;
mod promise;
mod promote;
mod rank;
mod shift;
mod spread;
mod sync;
#[cfg(test)]
mod tests;
mod txn;
mod view;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};

use crate::clock::BootNs;
use crate::config::Config;
use crate::config::model::Automation;
use crate::coordinator::record::{Base, GroupRecord, LeaseRecord, Name, NodeRecord, PauseRecord};

/// What does not change while an agent runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub node: NodeId,
    pub incarnation: u64,
    pub mode: Automation,
    pub lease_ns: u64,
    pub renew_ns: u64,
    /// Age at which the last sign of the store no longer renews the lease.
    pub store_stall_ns: u64,
    pub drift_ppm: u64,
    pub in_sync_timeout_ns: u64,
    pub dwell_ns: u64,
    pub site: String,
    pub priority: u32,
    pub no_failover: bool,
    /// 0 = no limit.
    pub capacity_groups: u32,
    pub cross_site: bool,
    /// A fence hook is configured, and no promotion goes without it.
    pub fence_hook: bool,
    /// The configured placement: what a group's first record is made of.
    pub placement: Vec<Placed>,
}

impl Settings {
    /// As configured, without placement.
    #[must_use]
    pub fn of(config: &Config, incarnation: u64) -> Self {
        let failover = &config.failover;
        let ns = |ms: u64| ms.saturating_mul(1_000_000);
        Self {
            node: config.node_id(),
            incarnation,
            mode: failover.mode,
            lease_ns: ns(failover.lease_ms),
            renew_ns: ns(failover.renew_ms),
            store_stall_ns: ns(failover.store_stall_ms),
            drift_ppm: failover.drift_ppm,
            in_sync_timeout_ns: ns(failover.in_sync_timeout_ms),
            dwell_ns: ns(failover.dwell_ms),
            site: config.node.site.clone(),
            priority: config.node.priority,
            no_failover: config.node.no_failover,
            capacity_groups: config.node.capacity_groups,
            cross_site: failover.cross_site,
            fence_hook: failover.fence_hook.is_some(),
            placement: Vec::new(),
        }
    }
}

/// A group as the configuration places it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub group: GroupId,
    pub active: NodeId,
    pub replicas: Vec<NodeId>,
}

/// A record as the coordinator has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    Group(GroupRecord),
    Lease(LeaseRecord),
    Node(NodeRecord),
    Pause(PauseRecord),
}

/// One key of the coordinator; `record` is `None` when it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub name: Name,
    pub record: Option<Record>,
    pub revision: u64,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done {
        revision: u64,
    },
    /// Some expectation did not hold; nothing was written.
    Refused,
    /// Nothing was written.
    Unreachable,
    /// Nobody knows whether it was written: the coordinator's own word will tell.
    Unknown,
}

/// How a replica stands, as its active sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStands {
    pub node: NodeId,
    /// Connected, and frames go out as they come.
    pub streaming: bool,
    /// It has every account whole: no first copy or snapshot is owed.
    pub complete: bool,
    pub acked: Sequence,
    pub applied: Sequence,
}

/// How the node stands with a group, as its event loop says: on every change, at most some ten times a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stands {
    pub group: GroupId,
    pub epoch: Epoch,
    pub role: Role,
    /// As active: the journal's tail was applied and accounts are served. As replica: the journal is open for frames.
    pub ready: bool,
    /// Nothing is on its way any more: no change is open in the store, and all that was captured is journaled.
    pub quiet: bool,
    pub captured: Sequence,
    pub journaled: Sequence,
    pub applied: Sequence,
    /// Hash and epoch of the frame that ends at `journaled`.
    pub hash: String,
    pub tail_epoch: Epoch,
    /// As replica: the store's copy is whole up to `applied` (no first copy under way, no frames lost).
    pub complete: bool,
    /// Accounts that wait here.
    pub parked: u32,
    /// As active.
    pub replicas: Vec<ReplicaStands>,
    /// Number of the last [`Desired`] of the group that is obeyed: from it the decider knows that what stands here was
    /// so after a replica began to be waited for, or after changes were refused. 0 = none yet.
    #[serde(default)]
    pub desired: u64,
}

/// What a node is for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Users work here.
    Serve,
    /// It is the active node, and refuses changes: its lease has ended, or the group is about to move.
    Fenced,
    Follow,
    /// Nothing of the group is kept here.
    None,
}

/// What the node is to be for a group from now on. Whole each time: the event loop brings it about from wherever it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    pub group: GroupId,
    pub role: Role,
    pub record: GroupRecord,
    /// Replicas whose acknowledgement every answer of level `peer` waits for: those that are, or are about to be, in
    /// sync.
    pub required: BTreeSet<NodeId>,
    /// Routing holds logins and deliveries: the group is about to be served by somebody.
    pub hold: bool,
    /// Rises with every one of the group; see [`Stands::desired`].
    #[serde(default)]
    pub number: u64,
    /// For people.
    pub why: String,
}

/// What an administrator asks for; the same from every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Make the group active on another node, with nothing lost. `None`: on the best replica.
    Move {
        groups: Vec<GroupId>,
        to: Option<NodeId>,
        at_wall_ns: u64,
    },
    /// Take a wish to move back.
    CancelMove {
        groups: Vec<GroupId>,
    },
    /// No group is to be active on the node, or it may have some again.
    Drain {
        node: NodeId,
        drained: bool,
        reason: String,
        owner: String,
    },
    /// Promote this node although it cannot prove that it has everything.
    Force {
        group: GroupId,
    },
    Pause {
        id: String,
        pause: PauseRecord,
    },
    Resume {
        id: String,
    },
    /// Change lists of replicas; an active node is changed by [`Order::Move`].
    Replicas {
        group: GroupId,
        replicas: Vec<NodeId>,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Time passed; at least every 50 ms.
    Tick {
        wall_ns: u64,
    },
    /// Everything that the coordinator has: what is not named is not there.
    Whole {
        changes: Vec<Change>,
        revision: u64,
    },
    /// What changed in the coordinator, in its order.
    Changed {
        changes: Vec<Change>,
    },
    /// The coordinator cannot be heard any more; [`Input::Whole`] follows when it can.
    Lost {
        reason: String,
    },
    /// Answer to [`Action::Transact`], and how long it took.
    Answered {
        id: u64,
        answer: Answer,
        rtt_ns: u64,
    },
    /// When the store here was last seen to make progress, or to have nothing to do; and what is wrong since.
    Store {
        good_at: Option<BootNs>,
        why: String,
    },
    Stands(Stands),
    /// A peer, active for these groups, asks for our word that we will not take them for so long.
    PromiseAsked {
        peer: NodeId,
        id: u64,
        groups: Vec<(GroupId, Epoch)>,
        duration_ns: u64,
    },
    /// A peer's answer: the groups for which it gave its word.
    Promised {
        peer: NodeId,
        id: u64,
        groups: Vec<GroupId>,
    },
    /// Another candidate's tail of a group.
    Candidate {
        peer: NodeId,
        group: GroupId,
        tail_epoch: Epoch,
        journaled: Sequence,
    },
    CandidateAsked {
        peer: NodeId,
        groups: Vec<GroupId>,
    },
    /// How much we suspect a peer to be gone (phi, in thousandths), and whether its beats say that it starves or
    /// leaves.
    Suspicion {
        peer: NodeId,
        phi_milli: u32,
    },
    /// What an observer says of a node's service, from its canaries: how long it has failed, in nanoseconds; 0 = fine.
    /// `healthy`: the observer itself is neither late nor starved.
    Observed {
        by: NodeId,
        of: NodeId,
        failing_ns: u64,
        healthy: bool,
        why: String,
    },
    FenceDone {
        node: NodeId,
        ok: bool,
    },
    Order {
        id: u64,
        order: Order,
        wall_ns: u64,
    },
    /// The agent stops: give the lease back.
    Stop,
}

/// A decision, or one that was held back, for people: the last word on `rule` and `group`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    pub rule: String,
    pub group: Option<GroupId>,
    /// `false`: the rule held something back.
    pub holds: bool,
    pub text: String,
    /// After which the rule no longer holds back by itself; 0 = not by time.
    pub left_ns: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Write all if all expectations hold. An expected revision of 0: the key is not there. A time to live, in
    /// milliseconds, is a backstop.
    Transact {
        id: u64,
        expect: Vec<(Name, u64)>,
        write: Vec<(Name, Option<Record>, Option<u64>)>,
    },
    /// Read everything anew ([`Input::Whole`]).
    Reread,
    /// Until then the store may change mail.
    WriteUntil {
        until: BootNs,
    },
    Desire(Desired),
    /// End the sessions of these groups' accounts here.
    Kick {
        groups: Vec<GroupId>,
    },
    AskPromise {
        peer: NodeId,
        id: u64,
        groups: Vec<(GroupId, Epoch)>,
        duration_ns: u64,
    },
    Promise {
        peer: NodeId,
        id: u64,
        groups: Vec<GroupId>,
    },
    AskCandidate {
        peer: NodeId,
        groups: Vec<GroupId>,
    },
    /// Our tails, for a candidate that asked.
    TellCandidate {
        peer: NodeId,
        tails: Vec<(GroupId, Epoch, Sequence)>,
    },
    /// Run the fence hook against a node.
    Fence {
        node: NodeId,
    },
    Say(Said),
    /// The answer to an order.
    Reply {
        id: u64,
        result: Result<String, String>,
    },
    /// The lease was given back: the agent may end.
    Stopped,
}

/// Where an epoch began, as [`Stands`] tells it.
#[must_use]
pub fn base_of(stands: &Stands) -> Base {
    Base { sequence: stands.journaled.0, hash: stands.hash.clone() }
}
