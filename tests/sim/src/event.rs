//! Everything that can happen in a world.
//!
//! Owns: the closed set. Refuses: behaviour.

use understudy_agent::failover::{Answer, Input};
use understudy_agent::transport::LinkId;
use understudy_ring::Status;
use understudy_types::id::{BlobId, Epoch, GroupId, NodeId};

use crate::coord::Request;
use crate::net::Packet;

/// What wakes an agent. An agent that is frozen gets it when it is thawed; one that died meanwhile never does.
#[derive(Clone, Debug)]
pub enum Wake {
    /// The event loop takes a turn.
    Turn,
    /// The journal's thread looks at its queue.
    JournalBegin,
    /// The write that is under way is done.
    JournalDone,
    /// The apply worker takes a turn.
    Apply,
    Upload(BlobId),
    /// An exporter reads the store.
    Export {
        account: String,
        snapshot: u64,
        bodies: bool,
    },
    /// The decider's thread takes what waits.
    Council,
    /// Time passed for the decider.
    Tick,
    /// The evidence of the store is looked at.
    Evidence,
    /// The capture thread has sessions ask how groups stand.
    Policy,
    /// A raiser takes up an account.
    Raise {
        group: GroupId,
        epoch: Epoch,
        account: String,
    },
    /// Once a second.
    Second,
    Dial(NodeId),
    /// The peer did not let us in for so long.
    DialTimeout(NodeId, LinkId),
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    Arrives {
        link: LinkId,
        end: usize,
        packet: Packet,
    },
    Broken {
        link: LinkId,
        end: usize,
    },
    /// Words between deciders.
    Word {
        from: NodeId,
        to: NodeId,
        inputs: Vec<Input>,
    },
    /// A transaction is at the coordinator.
    CoordArrives {
        request: Box<Request>,
    },
    CoordAnswers {
        node: NodeId,
        life: u64,
        id: u64,
        answer: Answer,
        sent_ns: u64,
    },
    /// A request for everything is at the coordinator.
    CoordReads {
        node: NodeId,
        life: u64,
    },
    CoordTold {
        node: NodeId,
        life: u64,
        input: Box<Input>,
    },
    CoordSilent {
        node: NodeId,
    },
    CoordFree {
        node: NodeId,
    },
    CoordFast,
    Agent {
        node: NodeId,
        life: u64,
        wake: Wake,
    },
    /// The agent starts, if it does not run.
    Start {
        node: NodeId,
    },
    /// The host has power again, if it had none.
    PowerOn {
        node: NodeId,
    },
    /// A frozen agent, or its whole host, goes on.
    Thaw {
        node: NodeId,
    },
    /// The store's processes run again.
    StoreUp {
        node: NodeId,
    },
    /// The user of an account does something.
    User {
        account: usize,
    },
    /// A session publishes what it committed; `number` names the change.
    Publish {
        number: u64,
    },
    /// A session hears its answer.
    Heard {
        number: u64,
        node: NodeId,
        status: Status,
    },
    Fault,
    /// A blocked or slow way is free again.
    Unblock {
        from: NodeId,
        to: NodeId,
    },
    CentralUp,
    /// A slow disk is fast again.
    DiskFast {
        node: NodeId,
    },
    /// The faults end.
    Calm,
    Second,
}
