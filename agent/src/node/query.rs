//! Questions that other threads put to the event loop, and requests of peers that are answered outside of it.
//!
//! Owns: the closed set of both, and the layout of the payloads between agents. What can hurt: a payload from a peer;
//! lengths are checked before anything is read. Refuses: answering; `core` and `verify` do.

use crossbeam::channel::Sender;
use understudy_types::id::{BlobId, GroupId, NodeId};

use crate::apply::orders::Order as ReplayOrder;
use crate::apply::worker::Answer;
use crate::control::model::Status;
use crate::failover::Desired;
pub(crate) use crate::merge::wire::{account_name, put_op, take_ops};

/// Kinds of request between agents, beside those of `message::request`.
pub(crate) mod kind {
    /// Position, account: digest of the account's state at or after the position.
    pub(crate) const DIGEST: u16 = 2;
    /// Position, account: the state itself.
    pub(crate) const STATE: u16 = 3;
    /// Bodies or not, account: export the account into its group's stream.
    pub(crate) const RESYNC: u16 = 4;
    /// Account: compare it with its replicas; the answer is JSON.
    pub(crate) const VERIFY: u16 = 5;
    pub(crate) use crate::merge::wire::kind::{CONTENT, FORK, MERGE};
    /// JSON `HoldRequest`: what this node holds; the answer is JSON.
    pub(crate) const HOLDS: u16 = 9;
    /// JSON `HoldRequest`: apply held operations now; the answer is JSON.
    pub(crate) const RELEASE: u16 = 10;
    /// JSON `HoldRequest`: bring back what this node's held operations would destroy; the answer is JSON.
    pub(crate) const UNDO: u16 = 11;
}

/// Where an account stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccountPosition {
    pub group: GroupId,
    pub active: NodeId,
    pub replicas: Vec<NodeId>,
    /// Active here.
    pub own: bool,
    /// Last operation of the account; of its group when the account has had none in this life of the agent.
    pub last_seq: u64,
    /// A snapshot of the account is owed or under way, or a change of it.
    pub exporting: bool,
}

/// A question to the event loop. An answer that nobody takes any more is dropped.
pub(crate) enum Query {
    Status {
        with_accounts: bool,
        reply: Sender<Status>,
    },
    Top {
        reply: Sender<serde_json::Value>,
    },
    Account {
        account: String,
        reply: Sender<Option<AccountPosition>>,
    },
    /// A request to a peer. The answer is the whole payload.
    Ask {
        peer: NodeId,
        kind: u16,
        body: Vec<u8>,
        reply: Sender<Result<Vec<u8>, String>>,
    },
    /// Export the account.
    Resync {
        account: String,
        bodies: bool,
        why: String,
        reply: Sender<Result<(), String>>,
    },
    /// An order for the apply worker of a group.
    Replay {
        group: GroupId,
        order: ReplayOrder,
        reply: Answer,
    },
    /// Bodies that stand in the spool.
    Upload {
        bodies: Vec<BlobId>,
    },
    /// Names of all accounts that the node knows.
    Names {
        reply: Sender<Vec<String>>,
    },
    /// Accounts that the store has.
    Seen {
        names: Vec<String>,
        reply: Sender<()>,
    },
    /// What this node is to be for a group.
    Desire(Box<Desired>),
    /// An account's UIDs were raised after a promotion, or could not be.
    Raised(super::raise::Raised),
    /// Somebody wants to use the account, and it is not ready.
    AskedFor {
        account: String,
    },
    /// End the sessions of these groups' accounts.
    Kick {
        groups: Vec<GroupId>,
    },
    /// Run the fence hook against a node.
    Fence {
        node: NodeId,
    },
    /// The fence hook has ended.
    Fenced {
        node: NodeId,
        ok: bool,
    },
    /// How lease, coordinator and groups stand.
    Posture(Box<super::council::Posture>),
    /// What the decider of failover said.
    Said(crate::failover::Said),
    /// What the decider said of a group, newest last.
    Words {
        group: GroupId,
        reply: Sender<Vec<crate::control::model::Rule>>,
    },
    /// An order to the decider, from an administrator.
    Order {
        order: crate::failover::Order,
        reply: Sender<Result<String, String>>,
    },
    /// Its answer.
    Ordered {
        id: u64,
        result: Result<String, String>,
    },
    /// How a merge of what this node had alone goes on.
    Merge(crate::merge::MergeEvent),
    /// Rules and placement changed.
    Reloaded,
    Stop,
}

/// `position u64`, account.
#[must_use]
pub(crate) fn put_position(position: u64, account: &str) -> Vec<u8> {
    let mut body = position.to_le_bytes().to_vec();
    body.extend_from_slice(account.as_bytes());
    body
}

/// Reads what [`put_position`] wrote; `None` for anything else.
#[must_use]
pub(crate) fn take_position(body: &[u8]) -> Option<(u64, &str)> {
    let (position, account) = body.split_first_chunk::<8>()?;
    let account = account_name(account)?;
    Some((u64::from_le_bytes(*position), account))
}

/// `bodies u8`, account.
#[must_use]
pub(crate) fn put_resync(bodies: bool, account: &str) -> Vec<u8> {
    let mut body = vec![u8::from(bodies)];
    body.extend_from_slice(account.as_bytes());
    body
}

/// Reads what [`put_resync`] wrote; `None` for anything else.
#[must_use]
pub(crate) fn take_resync(body: &[u8]) -> Option<(bool, &str)> {
    let (bodies, account) = body.split_first()?;
    let account = account_name(account)?;
    (*bodies <= 1).then_some((*bodies == 1, account))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_round_trip_and_others_are_refused() {
        assert_eq!(take_position(&put_position(7, "u@x")), Some((7, "u@x")));
        assert_eq!(take_position(&[0; 8]), None, "no account");
        assert_eq!(take_position(&[0; 7]), None);
        assert_eq!(take_position(&put_position(7, "u\nx")), None);
        assert_eq!(take_resync(&put_resync(true, "u@x")), Some((true, "u@x")));
        assert_eq!(take_resync(b"\x02u"), None);
    }
}
