//! Messages between agents: a head that can be judged on its own, then a body. `docs/formats.md`, "Messages between agents".
//!
//! Owns: the layout, its limits, and what a version of the protocol knows. What can hurt: bytes from a peer that
//! is broken, newer, or not a peer; every length is held against its limit and against the bytes that are there
//! before anything is read or allocated. Refuses: sockets, waiting, and deciding what a message means.

use alloc::string::String;
use alloc::vec::Vec;

use crate::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};

mod codec;
mod stream;
#[cfg(test)]
mod tests;

pub use codec::Head;
pub use stream::Decoder;

/// Lowest protocol version that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Highest protocol version that this build speaks.
pub const PROTOCOL_MAX: u16 = 1;

/// Bytes of a message's head: body length `u32`, type `u16`, flags `u16`, CRC32C of these eight `u32`, CRC32C of the
/// body `u32`.
pub const HEAD_BYTES: usize = 16;
/// Largest body. A longer one ends the connection.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Largest body of a Hello: all that a peer may send before it was let in.
pub const HELLO_BYTES_MAX: usize = 2048;
/// Bytes in front of the frame in the body of a Frame.
pub const FRAME_PREFIX_BYTES: usize = 8;
/// Largest beat.
pub const BEAT_BYTES_MAX: usize = 512;
/// Bytes in front of the payload in the body of a Request or a Reply.
pub const REQUEST_PREFIX_BYTES: usize = 12;
/// Largest payload of one Request or Reply. A longer answer is split, each part but the last with `more`.
pub const PAYLOAD_BYTES_MAX: usize = BODY_BYTES_MAX - REQUEST_PREFIX_BYTES;
/// Most groups in one HelloAck or one Ack.
pub const GROUPS_MAX: usize = 16_384;
/// Bytes of one position in a HelloAck.
pub const POSITION_BYTES: usize = 60;
/// Bytes of one group in an Ack.
pub const GROUP_ACK_BYTES: usize = 36;
/// Most accounts in one Parked. A replica with more says nothing, and all accounts of the group count by its Ack.
pub const PARKED_ACCOUNTS_MAX: usize = 1_024;
/// Longest body of a Council.
pub const COUNCIL_BYTES_MAX: usize = 512 << 10;
/// Longest text of a software version, in bytes.
pub const VERSION_TEXT_BYTES_MAX: usize = 64;
/// Longest text of a refusal, in bytes.
pub const REFUSED_TEXT_BYTES_MAX: usize = 512;

const _: () = assert!(GROUPS_MAX * POSITION_BYTES + 256 < BODY_BYTES_MAX, "a full HelloAck must fit into a body");

const _: () = assert!(
    FRAME_PREFIX_BYTES + crate::frame::FRAME_BYTES_MAX <= BODY_BYTES_MAX,
    "the largest frame must fit into a body"
);

/// First bytes of a Hello, so that a stray client is named as such and not as damage.
pub const HELLO_MAGIC: [u8; 8] = *b"UNDRSTDY";

/// Types of message, as they stand in the head.
pub mod kind {
    pub const HELLO: u16 = 1;
    pub const HELLO_ACK: u16 = 2;
    pub const REFUSED: u16 = 3;
    pub const FRAME: u16 = 4;
    pub const ACK: u16 = 5;
    pub const CREDIT: u16 = 6;
    pub const RESYNC_NEEDED: u16 = 7;
    pub const BEAT: u16 = 8;
    pub const REQUEST: u16 = 9;
    pub const REPLY: u16 = 10;
    pub const PING: u16 = 11;
    pub const PONG: u16 = 12;
    pub const GOODBYE: u16 = 13;
    pub const PARKED: u16 = 14;
    pub const POSITIONS: u16 = 15;
    pub const COUNCIL: u16 = 16;
}

/// Capability bits of a Hello. What both sides have may be used; a bit that one side does not know is left alone.
pub mod capability {
    /// Answers [`super::Message::Request`].
    pub const REQUESTS: u64 = 1;
    /// Everything that this build can.
    pub const ALL: u64 = REQUESTS;
}

/// Kinds of request between agents.
pub mod request {
    pub const STATUS: u16 = 1;
    pub const DIGEST: u16 = 2;
    pub const VERIFY: u16 = 3;
}

/// Status of a reply.
pub mod status {
    pub const OK: u16 = 0;
    /// The peer does not know the request's kind.
    pub const UNKNOWN_KIND: u16 = 1;
    /// The payload is a text that says why.
    pub const FAILED: u16 = 2;
    /// Ask again later.
    pub const BUSY: u16 = 3;
}

/// What a connection is for. Beats have their own, so that no frame stands in front of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    Data,
    Beat,
}

impl Channel {
    /// The number as it stands in a Hello.
    #[must_use]
    pub const fn get(self) -> u16 {
        match self {
            Self::Data => 1,
            Self::Beat => 2,
        }
    }

    /// `None` for a channel that this version does not have.
    #[must_use]
    pub const fn new(raw: u16) -> Option<Self> {
        match raw {
            1 => Some(Self::Data),
            2 => Some(Self::Beat),
            _ => None,
        }
    }
}

/// First message on a connection, from the side that dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub protocol_min: u16,
    pub protocol_max: u16,
    pub node: NodeId,
    pub channel: Channel,
    pub cluster: ClusterId,
    /// Differs between two runs of one agent.
    pub incarnation: u64,
    pub capabilities: u64,
    /// For people.
    pub software: String,
}

/// How far a replica has come with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub group: GroupId,
    /// Highest epoch that the replica has seen for the group.
    pub epoch: Epoch,
    /// Last operation that is durable in the replica's journal.
    pub journaled: Sequence,
    pub applied: Sequence,
    /// Hash of the frame that ends at `journaled`; zeros when there is none.
    pub hash: [u8; 32],
}

/// The answer to a Hello that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloAck {
    /// The version that both speak from here on.
    pub protocol: u16,
    pub node: NodeId,
    pub cluster: ClusterId,
    pub incarnation: u64,
    pub capabilities: u64,
    /// Bytes of frames that may be sent before the first Credit.
    pub credit_bytes: u64,
    pub software: String,
    pub positions: Vec<Position>,
}

/// Why a Hello was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusedCode {
    /// The peer's versions and ours have none in common.
    Version,
    Cluster,
    /// The certificate names another node than the Hello, or none.
    Identity,
    /// The node is not in the configuration of the other side.
    NotAPeer,
    /// Not a Hello, or a damaged one.
    Malformed,
    /// Try again later.
    Busy,
    /// From a newer version.
    Other(u16),
}

impl RefusedCode {
    /// The number as it stands in the message.
    #[must_use]
    pub const fn get(self) -> u16 {
        match self {
            Self::Version => 1,
            Self::Cluster => 2,
            Self::Identity => 3,
            Self::NotAPeer => 4,
            Self::Malformed => 5,
            Self::Busy => 6,
            Self::Other(raw) => raw,
        }
    }

    /// Every number is a code; those of a newer version are [`Self::Other`].
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        match raw {
            1 => Self::Version,
            2 => Self::Cluster,
            3 => Self::Identity,
            4 => Self::NotAPeer,
            5 => Self::Malformed,
            6 => Self::Busy,
            other => Self::Other(other),
        }
    }
}

/// Why a group's stream cannot go on from where the replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResyncReason {
    /// The position is older than what the journal keeps.
    BelowJournal,
    /// The two journals differ at the position.
    Diverged,
    /// A frame in between is missing.
    Gap,
    /// A frame of the journal cannot be read any more.
    Damaged,
    /// From a newer version.
    Other(u16),
}

impl ResyncReason {
    /// The number as it stands in the message.
    #[must_use]
    pub const fn get(self) -> u16 {
        match self {
            Self::BelowJournal => 1,
            Self::Diverged => 2,
            Self::Gap => 3,
            Self::Damaged => 4,
            Self::Other(raw) => raw,
        }
    }

    /// Every number is a reason; those of a newer version are [`Self::Other`].
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        match raw {
            1 => Self::BelowJournal,
            2 => Self::Diverged,
            3 => Self::Gap,
            4 => Self::Damaged,
            other => Self::Other(other),
        }
    }
}

/// Positions of a replica in one group: `applied <= journaled <= received`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupAck {
    pub group: GroupId,
    /// Highest epoch that the replica has seen for the group.
    pub epoch: Epoch,
    pub received: Sequence,
    pub journaled: Sequence,
    pub applied: Sequence,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    HelloAck(HelloAck),
    Refused {
        code: RefusedCode,
        text: String,
    },
    /// A frame exactly as it is journaled. `writer_epoch` is the epoch in which the sender is active *now*, which is
    /// what the replica fences by: the frame's own epoch may be older, when it is sent again after a failover.
    Frame {
        writer_epoch: Epoch,
        bytes: Vec<u8>,
    },
    Ack(Vec<GroupAck>),
    /// So many more bytes of frames (each counted with its whole message) may be sent.
    Credit {
        bytes: u64,
    },
    ResyncNeeded {
        group: GroupId,
        epoch: Epoch,
        reason: ResyncReason,
    },
    /// What the replica's `applied` of a group hides: these accounts wait, each for its operation at the sequence, and
    /// all others are applied up to `applied`. Empty: nobody waits any more.
    Parked {
        group: GroupId,
        applied: Sequence,
        accounts: Vec<(String, Sequence)>,
    },
    /// Where a replica stands in groups that it follows the receiver in, since the connection was made.
    Positions(Vec<Position>),
    /// What deciders of failover say to each other: JSON, on the connection for beats.
    Council(Vec<u8>),
    Beat(Vec<u8>),
    Request {
        id: u64,
        kind: u16,
        body: Vec<u8>,
    },
    Reply {
        id: u64,
        status: u16,
        /// Another part of the same reply follows.
        more: bool,
        body: Vec<u8>,
    },
    Ping {
        token: u64,
    },
    Pong {
        token: u64,
    },
    /// The sender stops in good order.
    Goodbye,
    /// From a newer version: counted and skipped.
    Unknown {
        kind: u16,
        body_bytes: usize,
    },
}

/// Why bytes are not a message, or why a message cannot be written. `at` is the offset in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("message's head has a wrong checksum")]
    HeadChecksum,
    #[error("message's head has flags `{0:#x}`, must be zero")]
    Flags(u16),
    #[error("message has type `0`")]
    Kind,
    #[error("message of type `{kind}` has a body of {len} bytes, more than {max}")]
    TooLong { kind: u16, len: usize, max: usize },
    #[error("body of a message of type `{kind}` has a wrong checksum")]
    BodyChecksum { kind: u16 },
    #[error("message of type `{kind}` is cut short: {have} bytes at {at}, {need} needed")]
    Short { kind: u16, at: usize, have: usize, need: usize },
    #[error("message of type `{kind}` goes on after its end at {at}")]
    Trailing { kind: u16, at: usize },
    #[error("message of type `{kind}` has a value out of range at {at}")]
    Range { kind: u16, at: usize },
    #[error("message of type `{kind}` has a text at {at} that is not UTF-8 or holds control characters")]
    Text { kind: u16, at: usize },
    #[error("hello does not begin with the magic bytes; whoever dialled is not an agent")]
    Magic,
}

/// The version that two ranges share: the highest. `None` if they share none.
#[must_use]
pub fn choose_protocol(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let high = ours.1.min(theirs.1);
    (high >= ours.0.max(theirs.0)).then_some(high)
}
