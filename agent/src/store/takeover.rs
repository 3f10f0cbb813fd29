//! What failover asks of a store, as values: how far counters are raised, and where a mailbox stood before.
//!
//! Owns: types without logic. Refuses: when to ask, and what to conclude; that is failover's.

use understudy_types::id::MailboxGuid;

/// By how much the counters of an account's mailboxes are raised. All zero: they are only read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaiseGap {
    pub uid: u32,
    pub modseq: u64,
}

/// Where a mailbox stands: its identity, and the counters that nothing in it has reached yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxMark {
    pub guid: MailboxGuid,
    pub name: String,
    pub uid_validity: u32,
    /// UID that the next message gets.
    pub next_uid: u32,
    /// Highest modification sequence that was given.
    pub highest_modseq: u64,
}
