//! Holding and pausing as the node sees it: what replay asks before it applies, and what people are told of it.
//!
//! Owns: the answers to replay (rules and pauses), and the copy of what each account holds. What can hurt: nothing
//! decides by that copy. Refuses: applying and releasing; the apply workers do.

use std::collections::BTreeMap;

use crossbeam::channel::{Receiver, TryRecvError, bounded};
use understudy_types::id::{GroupId, NodeId};

use super::core::Core;
use crate::apply::brake::Trip;
use crate::apply::orders::{Order, Ordered, Orders};
use crate::capture::view::{Seat, SharedView};
use crate::pause::{Pauses, describe};
use crate::rules::Hold;

/// What an account holds here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub held: u64,
    pub trip: Option<Trip>,
}

/// Rules and pauses, for replay.
pub(super) struct NodeOrders {
    pub node: NodeId,
    pub view: SharedView,
    pub pauses: Pauses,
}

impl NodeOrders {
    /// This node is to serve the group: what its journal holds is applied first, whatever is paused.
    fn is_taking_over(&self, group: GroupId) -> bool {
        self.view.read().seats.get(&group).is_some_and(|seat| !matches!(seat, Seat::Elsewhere { .. }))
    }
}

impl Orders for NodeOrders {
    fn hold(&self, account: &str) -> Hold {
        self.view.read().rules.resolve(account).hold
    }

    fn group_paused(&self, group: GroupId, now_wall_ns: u64) -> Option<String> {
        if self.is_taking_over(group) {
            return None;
        }
        self.pauses.group(self.node, group, now_wall_ns).map(|pause| describe(&pause, now_wall_ns))
    }

    fn account_paused(&self, group: GroupId, account: &str, now_wall_ns: u64) -> Option<String> {
        if self.is_taking_over(group) {
            return None;
        }
        self.pauses.account(account, now_wall_ns).map(|pause| describe(&pause, now_wall_ns))
    }
}

/// Orders to settle what groups hold, until they are carried out.
pub(super) type Settling = BTreeMap<GroupId, Receiver<Result<Ordered, String>>>;

impl Core {
    /// Whether nothing of the group is held any more: before this node serves it, held operations are applied or
    /// dropped, as each account's rule says.
    pub(super) fn are_holds_settled(&mut self, group: GroupId) -> bool {
        let Some(settling) = self.settling.get(&group) else {
            if !self.holds_any(group) {
                return true;
            }
            let (answer, settled) = bounded(1);
            self.workers.order(group, Order::Promote, answer);
            self.settling.insert(group, settled);
            return false;
        };
        let settled = match settling.try_recv() {
            Ok(settled) => settled,
            Err(TryRecvError::Empty) => return false,
            Err(TryRecvError::Disconnected) => Err("the apply worker is gone".to_owned()),
        };
        self.settling.remove(&group);
        match settled {
            Ok(ordered) => {
                let (done, left, kept) = (ordered.done, ordered.left, ordered.kept.len());
                tracing::info!(group = group.0, done, left, kept, "held operations are settled for a promotion");
                // What stays here although the stream destroyed it is news for the replicas.
                if let Err(error) = self.accounts.owe(ordered.kept.iter().map(String::as_str), false) {
                    tracing::error!(%error, "cannot note which accounts are to be compared");
                }
                true
            }
            Err(error) => {
                tracing::warn!(group = group.0, error, "held operations cannot be settled; tried again");
                false
            }
        }
    }

    fn holds_any(&self, group: GroupId) -> bool {
        let view = self.view.read();
        self.board.lock().holding.keys().any(|account| view.placement.group_of(account) == group)
    }

    /// What an account holds has changed.
    pub(super) fn holds(&mut self, _group: GroupId, account: String, held: u64, trip: Option<Trip>) {
        let mut board = self.board.lock();
        if held == 0 && trip.is_none() {
            board.holding.remove(&account);
        } else {
            board.holding.insert(account, Holding { held, trip });
        }
    }
}
