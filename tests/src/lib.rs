//! What tests and trials of several nodes share: small clients of the store's own protocols.
//!
//! Owns: IMAP, LMTP and SMTP clients that say exactly what the server said, a private Dovecot, a private etcd, the
//! servers that stand before the agents, and users who measure outages. Links nothing of the agent, so that it shows
//! what a user sees. Refuses: being a client library; it speaks only as much as the tests need.

pub mod agent;
pub mod dovecot;
pub mod drill;
pub mod etcd;
pub mod imap;
pub mod lmtp;
pub mod mesh;
pub mod outage;
pub mod promises;
pub mod proxies;
pub mod smtp;
pub mod traffic;
pub mod wire;
