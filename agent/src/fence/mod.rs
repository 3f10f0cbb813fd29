//! Two ways to make sure that a node does no more harm: the administrator's fence hook, against another node, and the
//! watchdog device, against this one.
//!
//! Owns: running them. What can hurt: a hook that hangs (it has an end), a watchdog that resets a host in good order
//! (it is fed only under a lease, and let go in good order). Refuses: deciding when; the failover decider and the event
//! loop do.

pub mod hook;
pub mod watchdog;
