//! What the agent answers: the status of a record, and the policy of an account.
//!
//! Owns: their numbers and the 32 bytes of an encoded policy. What can hurt: bytes of a completion slot that any store
//! process may have written; each field is held against its range. Refuses: deciding; the agent's rules do.

use super::{ANSWER_BYTES_MAX, RingError, pair};

/// The agent's answer to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Durable on this node.
    Durable = 1,
    /// Durable on as many peers as the rule asks for.
    Replicated = 2,
    /// The agent gave up waiting for its peers.
    TimedOut = 3,
    /// This node may not write.
    Fenced = 4,
    /// The agent refuses the record.
    Refused = 5,
    /// The answer holds a [`Policy`].
    Policy = 6,
}

impl Status {
    /// The status with this number.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Durable),
            2 => Some(Self::Replicated),
            3 => Some(Self::TimedOut),
            4 => Some(Self::Fenced),
            5 => Some(Self::Refused),
            6 => Some(Self::Policy),
            _ => None,
        }
    }
}

/// What a change must reach before the client gets its OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum AckLevel {
    /// Nothing: replicated behind the client's back.
    #[default]
    None = 0,
    /// Durable on this node.
    Local = 1,
    /// Durable on [`Policy::peers`] peers.
    Peer = 2,
}

/// What the store does when no answer comes in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum OnTimeout {
    /// Goes on; the record is in the ring and will be shipped.
    #[default]
    GoOn = 0,
    /// Tells the client that the change may not have reached the peer.
    Refuse = 1,
}

/// What the store does when the ring is full or no agent is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum OnFull {
    /// Goes on at once; the record is dropped, counted, and its account marked for comparison.
    #[default]
    GoOnAndMarkGap = 0,
    /// Waits at most [`Policy::wait_timeout_ms`], then refuses.
    Wait = 1,
    /// Refuses at once.
    Refuse = 2,
}

impl OnFull {
    /// The choice with this number.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::GoOnAndMarkGap),
            1 => Some(Self::Wait),
            2 => Some(Self::Refuse),
            _ => None,
        }
    }
}

/// Which part this node has for an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Role {
    /// Users change the account here.
    #[default]
    Active = 0,
    /// Another node is active: the store refuses changes before it commits them.
    Replica = 1,
}

/// What holds for an account, as the agent's rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether the account is captured at all.
    pub replicated: bool,
    /// What an acknowledgement asks for.
    pub level: AckLevel,
    /// Peers that must hold the change, for [`AckLevel::Peer`].
    pub peers: u8,
    /// No answer in time.
    pub on_timeout: OnTimeout,
    /// Ring full or agent absent.
    pub on_full: OnFull,
    /// Whether an intent goes before each commit.
    pub intents: bool,
    /// Whether users may change the account here.
    pub role: Role,
    /// Longest wait for space or for an answer, in milliseconds.
    pub wait_timeout_ms: u32,
    /// Policy generation of the ring when this was decided.
    pub generation: u32,
    /// Bit n is set when operations of kind n are captured.
    pub op_kinds: u64,
}

impl Default for Policy {
    /// Captured, nobody waits, nothing is refused: the store is never harmed.
    fn default() -> Self {
        Self {
            replicated: true,
            level: AckLevel::None,
            peers: 0,
            on_timeout: OnTimeout::GoOn,
            on_full: OnFull::GoOnAndMarkGap,
            intents: true,
            role: Role::Active,
            wait_timeout_ms: 1000,
            generation: 0,
            op_kinds: u64::MAX,
        }
    }
}

impl Policy {
    /// Bytes of an encoded policy.
    pub const BYTES: usize = ANSWER_BYTES_MAX;

    /// The policy as an answer.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = 1;
        bytes[1] = u8::from(self.replicated);
        bytes[2] = self.level as u8;
        bytes[3] = self.peers;
        bytes[4] = self.on_timeout as u8;
        bytes[5] = self.on_full as u8;
        bytes[6] = u8::from(self.intents);
        bytes[7] = self.role as u8;
        bytes[8..12].copy_from_slice(&self.wait_timeout_ms.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.op_kinds.to_le_bytes());
        bytes
    }

    /// Checks an answer that was copied out.
    ///
    /// # Errors
    /// [`RingError::Policy`] with the name of the first field out of range, [`RingError::Reserved`].
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, RingError> {
        let flag = |at: usize, name| match bytes[at] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RingError::Policy(name)),
        };
        let four = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[0] != 1 {
            return Err(RingError::Policy("version"));
        }
        if bytes[24..].iter().any(|byte| *byte != 0) {
            return Err(RingError::Reserved);
        }
        Ok(Self {
            replicated: flag(1, "replicated")?,
            level: match bytes[2] {
                0 => AckLevel::None,
                1 => AckLevel::Local,
                2 => AckLevel::Peer,
                _ => return Err(RingError::Policy("level")),
            },
            peers: bytes[3],
            on_timeout: if flag(4, "on_timeout")? { OnTimeout::Refuse } else { OnTimeout::GoOn },
            on_full: OnFull::from_u8(bytes[5]).ok_or(RingError::Policy("on_full"))?,
            intents: flag(6, "intents")?,
            role: if flag(7, "role")? { Role::Replica } else { Role::Active },
            wait_timeout_ms: four(8),
            generation: four(12),
            op_kinds: pair(four(16), four(20)),
        })
    }
}
