//! Routing: what nginx, Postfix, HAProxy and other balancers ask, answered from this node's own view.
//!
//! Owns: the three listeners of `[routing]`, their protocols, and [`Where`], which is all that it knows of the node.
//! What can hurt: hostile or endless input, and clients that never end; names, heads, requests, connections and waits
//! are bounded. Refuses: checking passwords (the store does), and deciding who is active (`node` hands that out).

pub mod address;
pub mod agent_check;
mod auth;
mod http;
mod listen;
pub mod name;
mod reach;
mod serve;
pub mod socketmap;

pub use address::{Addresses, Seat};
pub use serve::{Routing, RoutingError, serve};

/// Where users of an account are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// They work on this node.
    At(Seat),
    /// A node is about to serve them, and why not yet: whoever can wait a moment asks again.
    Soon(String),
    /// No node may serve them at the moment, and why: clients and mail come again later.
    Nobody(String),
}

/// What this node is to a balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes new sessions, with this share of its configured weight.
    Serving { percent: u8 },
    /// Sessions go on, new ones go elsewhere.
    Draining,
    /// An administrator has taken it out.
    Maintenance,
    /// It cannot serve, and why.
    Down(String),
}

/// What this node knows of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub node: String,
    pub standing: Standing,
    /// Groups that are active here.
    pub active_groups: usize,
    /// Groups that are replicated here.
    pub replica_groups: usize,
    /// How far the store here is behind the active nodes of those groups, at most, in seconds; `None` while that is
    /// not known.
    pub lag_s: Option<f64>,
    /// Accounts whose operations wait on this replica.
    pub parked_accounts: usize,
}

/// What routing is told by the node. Calls must not block: they are made for every login and every delivery.
pub trait Where: Send + Sync {
    /// Where users of `account` are to go now.
    fn account(&self, account: &str) -> Answer;
    /// The state of this node.
    fn health(&self) -> Health;
}

#[cfg(test)]
mod tests;
