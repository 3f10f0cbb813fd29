//! What tests and trials of several nodes share: small clients of the store's own protocols.
//!
//! Owns: an IMAP and an LMTP client that say exactly what the server said, a private Dovecot, a private etcd. Links
//! nothing of the agent, so that it shows what a user sees. Refuses: being a client library; it speaks only as much
//! as the tests need.

pub mod agent;
pub mod dovecot;
pub mod etcd;
pub mod imap;
pub mod lmtp;
pub mod mesh;
pub mod traffic;
pub mod wire;
