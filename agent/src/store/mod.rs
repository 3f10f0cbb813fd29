//! What a store must offer, and the stores that offer it.
//!
//! Owns: the trait [`Store`], its outcomes, and its two sides: [`dovecot`] (the replay service, over a UNIX socket) and
//! [`memory`] (a model behind the same trait, for tests and the simulator). Both pass [`conformance`]. What can hurt:
//! a store that hangs; every call has the time-outs of its side. Refuses: order, tombstones and "newest wins", which
//! are `apply`'s; and letting anything that is particular to one store show through.

pub mod conformance;
pub mod dovecot;
pub mod memory;
mod takeover;

pub use takeover::{MailboxMark, RaiseGap};

use std::path::PathBuf;

use understudy_types::op::Op;

/// One operation for the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyItem {
    pub op: Op,
    /// File with the verified body, for operations that save a message.
    pub body_path: Option<PathBuf>,
}

/// What became of one operation. The numbers are those of `docs/formats.md`, "Replay service".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    Applied,
    AlreadySo,
    UnknownUser,
    NoMailbox,
    SourceMissing,
    UidConflict,
    BodyUnreadable,
    Temporary,
    Refused,
    Malformed,
    /// An operation before it in the same request failed, so that this one was left alone.
    NotTried,
    /// From a newer service.
    Other(u16),
}

impl Status {
    /// From the number in a reply.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Applied,
            1 => Self::AlreadySo,
            2 => Self::UnknownUser,
            3 => Self::NoMailbox,
            4 => Self::SourceMissing,
            5 => Self::UidConflict,
            6 => Self::BodyUnreadable,
            7 => Self::Temporary,
            8 => Self::Refused,
            9 => Self::Malformed,
            10 => Self::NotTried,
            other => Self::Other(other),
        }
    }
}

/// Status and, on a failure, what the store said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: Status,
    pub detail: String,
}

/// What a dump is to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpOptions {
    /// Messages, not only mailboxes.
    pub messages: bool,
    /// Put each body into the spool and name it by its blob id.
    pub bodies: bool,
}

/// Why a store could not be asked. None of these says anything about a single operation.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "cannot reach the store's replay service at `{path}`: {source}; is the store running, with the service configured?"
    )]
    Unreachable { path: PathBuf, source: std::io::Error },
    #[error("the store's replay service did not answer within {timeout_ms} ms")]
    TimedOut { timeout_ms: u64 },
    #[error("the connection to the store's replay service broke: {0}")]
    Broken(std::io::Error),
    #[error("the store's replay service answered out of order or malformed: {0}")]
    Protocol(String),
    #[error("the store does not know the account `{0}`")]
    UnknownAccount(String),
    #[error("the store failed for account `{account}`: {detail}")]
    Failed { account: String, detail: String },
}

/// A store, as one worker sees it: one connection, one request at a time.
pub trait Store: Send {
    /// Applies operations of one account in order; gives one outcome each.
    ///
    /// # Errors
    /// When nothing is known about the outcomes: the caller applies all of them again.
    fn apply(&mut self, account: &str, items: &[ApplyItem]) -> Result<Vec<Outcome>, StoreError>;

    /// Gives the account's state as operations, in the order of `docs/formats.md`.
    ///
    /// # Errors
    /// When the account cannot be read whole; `sink` may have seen a part.
    fn dump(&mut self, account: &str, options: DumpOptions, sink: &mut dyn FnMut(Op)) -> Result<(), StoreError>;

    /// Names of all accounts that the store knows, in no order.
    ///
    /// # Errors
    /// When the store cannot be asked or cannot list them; `sink` may have seen a part.
    fn accounts(&mut self, sink: &mut dyn FnMut(String)) -> Result<(), StoreError>;

    /// Where every mailbox of the account stands, by name; then their next UIDs and highest modification sequences are
    /// raised by `gap`, so that what another node may have given and never shipped is not given again. Raised once
    /// more, they only go higher; so a caller that needs the marks reads them with no gap, keeps them, and raises then.
    ///
    /// # Errors
    /// When nothing is known, or some are raised and others not.
    fn raise(&mut self, account: &str, gap: RaiseGap) -> Result<Vec<MailboxMark>, StoreError>;

    /// Ends the users' sessions of these accounts, of every account when none is named, so that their clients connect
    /// again; gives how many. Deliveries go on. A session that is in the middle of a command ends after it, and is not
    /// waited for; one that begins meanwhile may be missed, so whoever leads clients elsewhere does that first.
    ///
    /// # Errors
    /// When the store cannot be asked, or may not end sessions; some may have been ended.
    fn kick(&mut self, accounts: &[String]) -> Result<u64, StoreError>;

    /// The store's name and version, for people.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn version(&mut self) -> Result<String, StoreError>;
}
