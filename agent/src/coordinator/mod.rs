//! The coordinator: where leases, epochs and placement live, seen by every node of a cluster.
//!
//! Owns: what stands there (`record`). What can hurt: a coordinator that is away, slow, or answers late; nothing here
//! waits for it. Refuses: deciding; `failover` does.

pub mod record;
