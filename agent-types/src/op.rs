//! Operations: one committed change of an account's metadata, as bytes.
//!
//! Owns: the encoding (`docs/formats.md`, "Operation") that the store's plugin writes, the ring carries, frames
//! hold and the replay service reads, so it is simple enough for C: a head, then tagged fields. What can hurt:
//! bytes from a store or a peer; [`Op::decode`] checks every length before it reads or allocates. Refuses:
//! deciding; an unknown kind or field of a newer version is kept ([`Op::Unknown`]), never dropped.

use alloc::string::String;
use alloc::vec::Vec;

use crate::id::{BlobId, MailboxGuid};

mod codec;
mod entry;

pub use codec::{Encoder, Fields, RawField};
pub use entry::{ENTRY_HEAD_BYTES, Entry, EntryError, entries, put_entry};

/// Bytes of an operation's head: kind `u16`, flags `u16` (zero), length of the fields `u32`.
pub const OP_HEAD_BYTES: usize = 8;
/// Bytes of a field's head: tag `u16`, length `u32`.
pub const FIELD_HEAD_BYTES: usize = 6;
/// Largest encoded operation. A plugin that would pass it marks a gap instead: the account is compared.
pub const OP_BYTES_MAX: usize = 192 * 1024;
/// Largest account name, in bytes.
pub const ACCOUNT_BYTES_MAX: usize = 512;
/// Largest mailbox name, in bytes of UTF-8.
pub const MAILBOX_NAME_BYTES_MAX: usize = 4096;
/// Most keywords on one message.
pub const KEYWORDS_MAX: usize = 1024;
/// Largest METADATA value that is replicated, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 128 * 1024;

/// Kinds of operation, as they stand in the head.
pub mod kind {
    pub const MAILBOX_CREATED: u16 = 1;
    pub const MAILBOX_DELETED: u16 = 2;
    pub const MAILBOX_RENAMED: u16 = 3;
    pub const MAILBOX_UPDATED: u16 = 4;
    pub const SUBSCRIBED: u16 = 5;
    pub const UNSUBSCRIBED: u16 = 6;
    pub const MESSAGE_SAVED: u16 = 7;
    pub const MESSAGE_COPIED: u16 = 8;
    pub const MESSAGE_EXPUNGED: u16 = 9;
    pub const FLAGS_SET: u16 = 10;
    pub const ATTRIBUTE_SET: u16 = 11;
    pub const QUARANTINED: u16 = 12;
    pub const RESYNC_BEGIN: u16 = 13;
    pub const RESYNC_END: u16 = 14;
}

/// Tags of fields.
pub mod tag {
    pub const MAILBOX_GUID: u16 = 1;
    pub const MAILBOX_NAME: u16 = 2;
    pub const UID_VALIDITY: u16 = 3;
    pub const UID: u16 = 4;
    pub const MESSAGE_GUID: u16 = 5;
    pub const BLOB_ID: u16 = 6;
    pub const SIZE_PHYSICAL: u16 = 7;
    pub const SIZE_VIRTUAL: u16 = 8;
    pub const RECEIVED_S: u16 = 9;
    pub const RECEIVED_TZ_MINUTES: u16 = 10;
    pub const SAVED_S: u16 = 11;
    pub const FLAGS: u16 = 12;
    pub const KEYWORD: u16 = 13;
    pub const MODSEQ: u16 = 14;
    pub const SOURCE_MAILBOX_GUID: u16 = 15;
    pub const SOURCE_UID: u16 = 16;
    pub const OLD_NAME: u16 = 17;
    pub const DIRECTORY: u16 = 18;
    pub const NEXT_UID: u16 = 19;
    pub const HIGHEST_MODSEQ: u16 = 20;
    pub const ATTRIBUTE_KEY: u16 = 21;
    pub const ATTRIBUTE_VALUE: u16 = 22;
    pub const ATTRIBUTE_PRIVATE: u16 = 23;
    pub const SNAPSHOT: u16 = 24;
    pub const MOVED: u16 = 25;
    pub const SESSION_USER: u16 = 26;
    pub const SERVICE: u16 = 27;
    pub const REASON: u16 = 28;
    /// Only between agent and replay service: path of a file that holds the body.
    pub const BODY_PATH: u16 = 40;
}

/// System flags of a message, as bits of `FLAGS`.
pub mod flag {
    pub const ANSWERED: u32 = 0x01;
    pub const FLAGGED: u32 = 0x02;
    pub const DELETED: u32 = 0x04;
    pub const SEEN: u32 = 0x08;
    pub const DRAFT: u32 = 0x10;
    /// Every bit that a peer may set.
    pub const ALL: u32 = 0x1f;
}

/// Why bytes are not an operation. `at` is the offset in the operation's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    #[error("operation is cut short: {have} bytes at {at}, {need} needed")]
    Short { at: usize, have: usize, need: usize },
    #[error("operation is {0} bytes long, more than the limit")]
    TooLong(usize),
    #[error("operation's head says `{said}` bytes of fields, `{have}` are there")]
    Length { said: usize, have: usize },
    #[error("operation's head flags are `{0:#x}`, must be zero")]
    Flags(u16),
    #[error("field `{tag}` at {at} has a wrong length `{len}`")]
    FieldLength { tag: u16, at: usize, len: usize },
    #[error("field `{tag}` at {at} is not UTF-8 or holds a NUL")]
    Text { tag: u16, at: usize },
    #[error("field `{tag}` at {at} has a value out of range")]
    Range { tag: u16, at: usize },
    #[error("operation of kind `{kind}` lacks field `{tag}`")]
    Missing { kind: u16, tag: u16 },
}

/// State of one message, as the store committed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub mailbox: MailboxGuid,
    /// Name at the time, for people and for a mailbox that the peer does not know yet.
    pub mailbox_name: String,
    /// 0 = not known when the operation was written.
    pub uid_validity: u32,
    pub uid: u32,
    /// The store's message GUID (any text; copies keep it).
    pub guid: String,
    pub blob: Option<BlobId>,
    pub size_physical_bytes: u64,
    pub size_virtual_bytes: u64,
    pub received_s: i64,
    pub received_tz_minutes: i32,
    pub saved_s: i64,
    pub flags: u32,
    /// Sorted, no duplicates.
    pub keywords: Vec<String>,
    /// 0 = not known.
    pub modseq: u64,
}

/// State of one mailbox. Zero means "not known" for the numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mailbox {
    pub guid: MailboxGuid,
    pub name: String,
    pub uid_validity: u32,
    pub next_uid: u32,
    pub highest_modseq: u64,
    /// Created as a directory that holds mailboxes but no mail.
    pub directory: bool,
}

/// One operation. Operations carry resulting state and identity, so that replay is idempotent and two that
/// arrive in the wrong order still converge. `snapshot` is not 0 on operations that a resync wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    MailboxCreated {
        mailbox: Mailbox,
        snapshot: u64,
    },
    MailboxDeleted {
        guid: MailboxGuid,
        name: String,
    },
    /// Children move along silently, as the store does it.
    MailboxRenamed {
        guid: MailboxGuid,
        old_name: String,
        new_name: String,
    },
    /// Identity or counters became known or were raised.
    MailboxUpdated {
        mailbox: Mailbox,
        snapshot: u64,
    },
    Subscribed {
        name: String,
        snapshot: u64,
    },
    Unsubscribed {
        name: String,
    },
    MessageSaved {
        message: Message,
        snapshot: u64,
    },
    MessageCopied {
        message: Message,
        source: MailboxGuid,
        source_uid: u32,
        moved: bool,
    },
    MessageExpunged {
        mailbox: MailboxGuid,
        uid: u32,
        guid: String,
    },
    /// Whole resulting value, not a change; the highest modseq wins.
    FlagsSet {
        mailbox: MailboxGuid,
        uid: u32,
        guid: String,
        flags: u32,
        keywords: Vec<String>,
        modseq: u64,
    },
    /// `mailbox` is `None` for server-wide metadata; `value` is `None` when it was removed.
    AttributeSet {
        mailbox: Option<MailboxGuid>,
        private: bool,
        key: String,
        value: Option<Vec<u8>>,
        snapshot: u64,
    },
    /// The account was set aside by a peer or an administrator.
    Quarantined {
        reason: String,
    },
    /// A snapshot of the account follows, operation by operation, between the account's live ones.
    ResyncBegin {
        snapshot: u64,
    },
    /// The snapshot is complete: what it did not name and no later operation made is to go.
    ResyncEnd {
        snapshot: u64,
    },
    /// From a newer version: passed on as it is.
    Unknown {
        kind: u16,
        fields: Vec<u8>,
    },
}

impl Op {
    /// The kind as it stands in the head.
    #[must_use]
    pub fn kind(&self) -> u16 {
        match self {
            Self::MailboxCreated { .. } => kind::MAILBOX_CREATED,
            Self::MailboxDeleted { .. } => kind::MAILBOX_DELETED,
            Self::MailboxRenamed { .. } => kind::MAILBOX_RENAMED,
            Self::MailboxUpdated { .. } => kind::MAILBOX_UPDATED,
            Self::Subscribed { .. } => kind::SUBSCRIBED,
            Self::Unsubscribed { .. } => kind::UNSUBSCRIBED,
            Self::MessageSaved { .. } => kind::MESSAGE_SAVED,
            Self::MessageCopied { .. } => kind::MESSAGE_COPIED,
            Self::MessageExpunged { .. } => kind::MESSAGE_EXPUNGED,
            Self::FlagsSet { .. } => kind::FLAGS_SET,
            Self::AttributeSet { .. } => kind::ATTRIBUTE_SET,
            Self::Quarantined { .. } => kind::QUARANTINED,
            Self::ResyncBegin { .. } => kind::RESYNC_BEGIN,
            Self::ResyncEnd { .. } => kind::RESYNC_END,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    /// Name of a kind, for people; `unknown` for one of a newer version.
    #[must_use]
    pub fn kind_name(raw: u16) -> &'static str {
        match raw {
            kind::MAILBOX_CREATED => "mailbox-created",
            kind::MAILBOX_DELETED => "mailbox-deleted",
            kind::MAILBOX_RENAMED => "mailbox-renamed",
            kind::MAILBOX_UPDATED => "mailbox-updated",
            kind::SUBSCRIBED => "subscribed",
            kind::UNSUBSCRIBED => "unsubscribed",
            kind::MESSAGE_SAVED => "message-saved",
            kind::MESSAGE_COPIED => "message-copied",
            kind::MESSAGE_EXPUNGED => "message-expunged",
            kind::FLAGS_SET => "flags-set",
            kind::ATTRIBUTE_SET => "attribute-set",
            kind::QUARANTINED => "quarantined",
            kind::RESYNC_BEGIN => "resync-begin",
            kind::RESYNC_END => "resync-end",
            _ => "unknown",
        }
    }

    /// Mailbox that the operation is about, where it is about one.
    #[must_use]
    pub fn mailbox(&self) -> Option<MailboxGuid> {
        let guid = match self {
            Self::MailboxCreated { mailbox, .. } | Self::MailboxUpdated { mailbox, .. } => Some(mailbox.guid),
            Self::MailboxDeleted { guid, .. } | Self::MailboxRenamed { guid, .. } => Some(*guid),
            Self::MessageSaved { message, .. } | Self::MessageCopied { message, .. } => Some(message.mailbox),
            Self::MessageExpunged { mailbox, .. } | Self::FlagsSet { mailbox, .. } => Some(*mailbox),
            Self::AttributeSet { mailbox, .. } => *mailbox,
            _ => None,
        };
        // All directories share the zero GUID, which identifies none of them.
        guid.filter(|guid| *guid != MailboxGuid::default())
    }

    /// Blob that must be in central storage before the operation is acknowledged as replicated.
    #[must_use]
    pub fn blob(&self) -> Option<BlobId> {
        match self {
            Self::MessageSaved { message, .. } | Self::MessageCopied { message, .. } => message.blob,
            _ => None,
        }
    }
}
