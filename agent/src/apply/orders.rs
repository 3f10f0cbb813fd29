//! What administrators have ordered, as replay must know it: rules of holding, pauses, and orders of the moment.
//!
//! Owns: the seam to whoever knows rules and pauses, and the closed set of orders. What can hurt: an order whose group
//! is paused or whose store is away; it is answered, and says so. Refuses: knowing where rules and pauses come from.

use serde::{Deserialize, Serialize};
use understudy_types::id::GroupId;

use super::hold::HeldKey;
use crate::rules::Hold;

/// What is asked before operations are applied.
pub trait Orders {
    /// What holds for the account's destructive operations.
    fn hold(&self, account: &str) -> Hold;

    /// Why nothing of the group is to be applied now, if so.
    fn group_paused(&self, group: GroupId, now_wall_ns: u64) -> Option<String>;

    /// As [`Self::group_paused`], for one account of the group.
    fn account_paused(&self, group: GroupId, account: &str, now_wall_ns: u64) -> Option<String>;
}

/// Nothing is held and nothing is paused.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOrders;

impl Orders for NoOrders {
    fn hold(&self, _account: &str) -> Hold {
        Hold::OFF
    }

    fn group_paused(&self, _group: GroupId, _now_wall_ns: u64) -> Option<String> {
        None
    }

    fn account_paused(&self, _group: GroupId, _account: &str, _now_wall_ns: u64) -> Option<String> {
        None
    }
}

/// Which held operations an order is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// Of this account only.
    pub account: Option<String>,
    /// These only.
    pub keys: Option<Vec<HeldKey>>,
}

/// An order of the moment for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Apply held operations now. `undone`: what they destroy was brought back, so a storm among them is no habit.
    Release { which: Which, undone: bool },
    /// Drop held operations: what they would have destroyed stays.
    Discard { which: Which },
    /// This node is promoted for the group: every account's held operations are released or dropped, as its rule says.
    Promote,
    /// Try a parked account again now.
    Retry { account: String },
    /// Pass over a parked account's operations: it gets a snapshot instead.
    Skip { account: String },
}

/// What came of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// Held operations that are applied or dropped.
    pub done: u64,
    /// Held operations that could not be, and stay.
    pub left: u64,
    /// Accounts whose store differs from what their stream says from now on, because something stays that it destroyed:
    /// once active, they owe their replicas a snapshot.
    pub kept: Vec<String>,
    /// Why some are left.
    #[serde(default)]
    pub why: Option<String>,
}

impl Ordered {
    /// Adds what another group or account answered.
    pub fn add(&mut self, other: Self) {
        self.done += other.done;
        self.left += other.left;
        self.kept.extend(other.kept);
        self.why = self.why.take().or(other.why);
    }
}
