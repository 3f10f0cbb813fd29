//! Bytes of messages, both ways. The head first, on its own; then the body, field by field.

use alloc::string::String;
use alloc::vec::Vec;

use super::{
    BEAT_BYTES_MAX, BODY_BYTES_MAX, COUNCIL_BYTES_MAX, Channel, FRAME_PREFIX_BYTES, GROUP_ACK_BYTES, GROUPS_MAX,
    GroupAck, HEAD_BYTES, HELLO_BYTES_MAX, HELLO_MAGIC, Hello, HelloAck, Message, MessageError, PARKED_ACCOUNTS_MAX,
    POSITION_BYTES, Position, REFUSED_TEXT_BYTES_MAX, RefusedCode, ResyncReason, VERSION_TEXT_BYTES_MAX, kind,
};
use crate::frame::FRAME_BYTES_MAX;
use crate::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};
use crate::op::ACCOUNT_BYTES_MAX;

/// `more` in the flags of a Reply.
const REPLY_MORE: u16 = 1;

/// A checked head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: u16,
    pub body_bytes: usize,
    body_checksum: u32,
}

impl Head {
    /// Judges a head on its own: after this, `body_bytes` may be waited for.
    ///
    /// # Errors
    /// Wrong checksum, reserved bits, type 0, or a body longer than the type or `limit_bytes` allows.
    pub fn decode(raw: &[u8; HEAD_BYTES], limit_bytes: usize) -> Result<Self, MessageError> {
        let [l0, l1, l2, l3, k0, k1, f0, f1, h0, h1, h2, h3, b0, b1, b2, b3] = *raw;
        if crc32c::crc32c(&raw[..8]) != u32::from_le_bytes([h0, h1, h2, h3]) {
            return Err(MessageError::HeadChecksum);
        }
        let kind = u16::from_le_bytes([k0, k1]);
        let flags = u16::from_le_bytes([f0, f1]);
        if flags != 0 {
            return Err(MessageError::Flags(flags));
        }
        if kind == 0 {
            return Err(MessageError::Kind);
        }
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let max = body_bytes_max(kind).min(limit_bytes);
        if len > max {
            return Err(MessageError::TooLong { kind, len, max });
        }
        Ok(Self { kind, body_bytes: len, body_checksum: u32::from_le_bytes([b0, b1, b2, b3]) })
    }

    /// Reads the body that this head announced.
    ///
    /// # Errors
    /// Wrong length or checksum, or a field that breaks its rule.
    pub fn body(&self, body: &[u8]) -> Result<Message, MessageError> {
        if body.len() < self.body_bytes {
            return Err(MessageError::Short { kind: self.kind, at: 0, have: body.len(), need: self.body_bytes });
        }
        if body.len() > self.body_bytes {
            return Err(MessageError::Trailing { kind: self.kind, at: self.body_bytes });
        }
        if crc32c::crc32c(body) != self.body_checksum {
            return Err(MessageError::BodyChecksum { kind: self.kind });
        }
        read(self.kind, body)
    }
}

fn body_bytes_max(raw: u16) -> usize {
    match raw {
        kind::HELLO => HELLO_BYTES_MAX,
        kind::REFUSED => 4 + REFUSED_TEXT_BYTES_MAX,
        kind::FRAME => FRAME_PREFIX_BYTES + FRAME_BYTES_MAX,
        kind::ACK => 4 + GROUPS_MAX * GROUP_ACK_BYTES,
        kind::BEAT => BEAT_BYTES_MAX,
        kind::CREDIT | kind::PING | kind::PONG => 8,
        kind::RESYNC_NEEDED => 16,
        kind::GOODBYE => 0,
        kind::COUNCIL => COUNCIL_BYTES_MAX,
        kind::POSITIONS => 4 + GROUPS_MAX * POSITION_BYTES,
        kind::PARKED => 16 + PARKED_ACCOUNTS_MAX * (10 + ACCOUNT_BYTES_MAX),
        _ => BODY_BYTES_MAX,
    }
}

struct Cursor<'a> {
    kind: u16,
    body: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, need: usize) -> Result<&'a [u8], MessageError> {
        let rest = &self.body[self.at..];
        let Some(bytes) = rest.get(..need) else {
            return Err(MessageError::Short { kind: self.kind, at: self.at, have: rest.len(), need });
        };
        self.at += need;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let mut raw = [0; N];
        raw.copy_from_slice(self.take(N)?);
        Ok(raw)
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, MessageError> {
        self.array().map(u64::from_le_bytes)
    }

    fn range<T>(&self, value: Option<T>, bytes: usize) -> Result<T, MessageError> {
        value.ok_or(MessageError::Range { kind: self.kind, at: self.at - bytes })
    }

    fn node(&mut self) -> Result<NodeId, MessageError> {
        let raw = self.u16()?;
        self.range(NodeId::new(raw), 2)
    }

    fn text(&mut self, max: usize) -> Result<String, MessageError> {
        let len = usize::from(self.u16()?);
        self.range((len <= max).then_some(()), 2)?;
        let at = self.at;
        let text = core::str::from_utf8(self.take(len)?).ok().filter(|text| !text.chars().any(char::is_control));
        text.map(String::from).ok_or(MessageError::Text { kind: self.kind, at })
    }

    /// A count, held against its limit and against the bytes that are left before anyone allocates by it.
    fn count(&mut self, item_bytes: usize) -> Result<usize, MessageError> {
        let count = self.u32()? as usize;
        self.range((count <= GROUPS_MAX).then_some(()), 4)?;
        let have = self.body.len() - self.at;
        if count * item_bytes > have {
            return Err(MessageError::Short { kind: self.kind, at: self.at, have, need: count * item_bytes });
        }
        Ok(count)
    }

    fn rest(&mut self) -> Vec<u8> {
        let bytes = self.body[self.at..].to_vec();
        self.at = self.body.len();
        bytes
    }

    fn end(&self) -> Result<(), MessageError> {
        if self.at == self.body.len() { Ok(()) } else { Err(MessageError::Trailing { kind: self.kind, at: self.at }) }
    }
}

fn read(raw_kind: u16, body: &[u8]) -> Result<Message, MessageError> {
    let mut from = Cursor { kind: raw_kind, body, at: 0 };
    let message = match raw_kind {
        kind::HELLO => return read_hello(&mut from),
        kind::HELLO_ACK => read_hello_ack(&mut from)?,
        kind::REFUSED => {
            Message::Refused { code: RefusedCode::new(from.u16()?), text: from.text(REFUSED_TEXT_BYTES_MAX)? }
        }
        kind::FRAME => Message::Frame { writer_epoch: Epoch(from.u64()?), bytes: from.rest() },
        kind::ACK => read_ack(&mut from)?,
        kind::CREDIT => Message::Credit { bytes: from.u64()? },
        kind::RESYNC_NEEDED => {
            let (group, epoch, reason) = (GroupId(from.u32()?), Epoch(from.u64()?), ResyncReason::new(from.u16()?));
            zero(&mut from)?;
            Message::ResyncNeeded { group, epoch, reason }
        }
        kind::BEAT => Message::Beat(from.rest()),
        kind::REQUEST => {
            let (id, request) = (from.u64()?, from.u16()?);
            zero(&mut from)?;
            Message::Request { id, kind: request, body: from.rest() }
        }
        kind::REPLY => {
            let (id, status, flags) = (from.u64()?, from.u16()?, from.u16()?);
            from.range((flags & !REPLY_MORE == 0).then_some(()), 2)?;
            Message::Reply { id, status, more: flags & REPLY_MORE != 0, body: from.rest() }
        }
        kind::PING => Message::Ping { token: from.u64()? },
        kind::PONG => Message::Pong { token: from.u64()? },
        kind::GOODBYE => Message::Goodbye,
        kind::PARKED => read_parked(&mut from)?,
        kind::POSITIONS => Message::Positions(read_positions(&mut from)?),
        kind::COUNCIL => Message::Council(from.rest()),
        _ => return Ok(Message::Unknown { kind: raw_kind, body_bytes: body.len() }),
    };
    from.end()?;
    Ok(message)
}

/// Two reserved bytes.
fn zero(from: &mut Cursor<'_>) -> Result<(), MessageError> {
    let raw = from.u16()?;
    from.range((raw == 0).then_some(()), 2)
}

/// The one body that may go on after its end: a newer version can add to its Hello before it knows whom it meets.
fn read_hello(from: &mut Cursor<'_>) -> Result<Message, MessageError> {
    if from.array::<8>()? != HELLO_MAGIC {
        return Err(MessageError::Magic);
    }
    let (protocol_min, protocol_max) = (from.u16()?, from.u16()?);
    from.range((protocol_min <= protocol_max).then_some(()), 4)?;
    let node = from.node()?;
    let raw = from.u16()?;
    let channel = from.range(Channel::new(raw), 2)?;
    Ok(Message::Hello(Hello {
        protocol_min,
        protocol_max,
        node,
        channel,
        cluster: ClusterId(from.u64()?),
        incarnation: from.u64()?,
        capabilities: from.u64()?,
        software: from.text(VERSION_TEXT_BYTES_MAX)?,
    }))
}

fn read_hello_ack(from: &mut Cursor<'_>) -> Result<Message, MessageError> {
    let (protocol, node) = (from.u16()?, from.node()?);
    let (cluster, incarnation) = (ClusterId(from.u64()?), from.u64()?);
    let (capabilities, credit_bytes) = (from.u64()?, from.u64()?);
    let software = from.text(VERSION_TEXT_BYTES_MAX)?;
    let positions = read_positions(from)?;
    Ok(Message::HelloAck(HelloAck {
        protocol,
        node,
        cluster,
        incarnation,
        capabilities,
        credit_bytes,
        software,
        positions,
    }))
}

fn read_positions(from: &mut Cursor<'_>) -> Result<Vec<Position>, MessageError> {
    let count = from.count(POSITION_BYTES)?;
    let mut positions = Vec::with_capacity(count);
    for _ in 0..count {
        positions.push(Position {
            group: GroupId(from.u32()?),
            epoch: Epoch(from.u64()?),
            journaled: Sequence(from.u64()?),
            applied: Sequence(from.u64()?),
            hash: from.array()?,
        });
    }
    Ok(positions)
}

fn read_ack(from: &mut Cursor<'_>) -> Result<Message, MessageError> {
    let count = from.count(GROUP_ACK_BYTES)?;
    let mut acks = Vec::with_capacity(count);
    for _ in 0..count {
        let at_bytes = GROUP_ACK_BYTES;
        let ack = GroupAck {
            group: GroupId(from.u32()?),
            epoch: Epoch(from.u64()?),
            received: Sequence(from.u64()?),
            journaled: Sequence(from.u64()?),
            applied: Sequence(from.u64()?),
        };
        from.range((ack.applied <= ack.journaled && ack.journaled <= ack.received).then_some(()), at_bytes)?;
        acks.push(ack);
    }
    Ok(Message::Ack(acks))
}

fn read_parked(from: &mut Cursor<'_>) -> Result<Message, MessageError> {
    let (group, applied) = (GroupId(from.u32()?), Sequence(from.u64()?));
    let count = from.u32()? as usize;
    from.range((count <= PARKED_ACCOUNTS_MAX).then_some(()), 4)?;
    let mut accounts = Vec::with_capacity(count);
    for _ in 0..count {
        let first = Sequence(from.u64()?);
        accounts.push((from.text(ACCOUNT_BYTES_MAX)?, first));
    }
    Ok(Message::Parked { group, applied, accounts })
}

impl Message {
    /// The type as it stands in the head.
    #[must_use]
    pub fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::HelloAck(_) => kind::HELLO_ACK,
            Self::Refused { .. } => kind::REFUSED,
            Self::Frame { .. } => kind::FRAME,
            Self::Ack(_) => kind::ACK,
            Self::Credit { .. } => kind::CREDIT,
            Self::ResyncNeeded { .. } => kind::RESYNC_NEEDED,
            Self::Beat(_) => kind::BEAT,
            Self::Request { .. } => kind::REQUEST,
            Self::Reply { .. } => kind::REPLY,
            Self::Ping { .. } => kind::PING,
            Self::Pong { .. } => kind::PONG,
            Self::Goodbye => kind::GOODBYE,
            Self::Parked { .. } => kind::PARKED,
            Self::Positions(_) => kind::POSITIONS,
            Self::Council(_) => kind::COUNCIL,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    /// Bytes that a Frame with a frame of `frame_bytes` takes on the wire, which is what it costs in credit.
    #[must_use]
    pub const fn frame_cost_bytes(frame_bytes: usize) -> u64 {
        (HEAD_BYTES + FRAME_PREFIX_BYTES + frame_bytes) as u64
    }

    /// Reads one message that fills `bytes` exactly.
    ///
    /// # Errors
    /// Anything that breaks a rule of the layout.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(MessageError::Short { kind: 0, at: 0, have: bytes.len(), need: HEAD_BYTES });
        };
        Head::decode(head, BODY_BYTES_MAX)?.body(body)
    }

    /// The message's bytes. [`Message::Unknown`] has no body to write and is refused as out of range.
    ///
    /// # Errors
    /// A body, text or list past its limit.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let raw_kind = self.kind();
        let mut out = Vec::with_capacity(HEAD_BYTES + self.body_hint());
        out.extend_from_slice(&[0; HEAD_BYTES]);
        self.put_body(&mut out)?;
        let len = out.len() - HEAD_BYTES;
        let max = body_bytes_max(raw_kind);
        if len > max {
            return Err(MessageError::TooLong { kind: raw_kind, len, max });
        }
        let body_checksum = crc32c::crc32c(&out[HEAD_BYTES..]);
        let len = u32::try_from(len).map_err(|_| MessageError::TooLong { kind: raw_kind, len, max })?;
        out[..4].copy_from_slice(&len.to_le_bytes());
        out[4..6].copy_from_slice(&raw_kind.to_le_bytes());
        let head_checksum = crc32c::crc32c(&out[..8]);
        out[8..12].copy_from_slice(&head_checksum.to_le_bytes());
        out[12..16].copy_from_slice(&body_checksum.to_le_bytes());
        Ok(out)
    }

    fn body_hint(&self) -> usize {
        match self {
            Self::Frame { bytes, .. } => bytes.len() + 8,
            Self::Request { body, .. } | Self::Reply { body, .. } => body.len() + 12,
            Self::Ack(acks) => acks.len() * GROUP_ACK_BYTES + 4,
            Self::HelloAck(ack) => ack.positions.len() * POSITION_BYTES + 128,
            _ => 64,
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        let raw_kind = self.kind();
        match self {
            Self::Hello(hello) => {
                out.extend_from_slice(&HELLO_MAGIC);
                for number in [hello.protocol_min, hello.protocol_max, hello.node.get(), hello.channel.get()] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                for number in [hello.cluster.0, hello.incarnation, hello.capabilities] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                put_text(out, raw_kind, &hello.software, VERSION_TEXT_BYTES_MAX)?;
            }
            Self::HelloAck(ack) => {
                out.extend_from_slice(&ack.protocol.to_le_bytes());
                out.extend_from_slice(&ack.node.get().to_le_bytes());
                for number in [ack.cluster.0, ack.incarnation, ack.capabilities, ack.credit_bytes] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                put_text(out, raw_kind, &ack.software, VERSION_TEXT_BYTES_MAX)?;
                put_positions(out, raw_kind, &ack.positions)?;
            }
            Self::Refused { code, text } => {
                out.extend_from_slice(&code.get().to_le_bytes());
                put_text(out, raw_kind, text, REFUSED_TEXT_BYTES_MAX)?;
            }
            Self::Frame { writer_epoch, bytes } => {
                out.extend_from_slice(&writer_epoch.0.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Ack(acks) => {
                put_count(out, raw_kind, acks.len())?;
                for ack in acks {
                    out.extend_from_slice(&ack.group.0.to_le_bytes());
                    for number in [ack.epoch.0, ack.received.0, ack.journaled.0, ack.applied.0] {
                        out.extend_from_slice(&number.to_le_bytes());
                    }
                }
            }
            Self::Credit { bytes: number } | Self::Ping { token: number } | Self::Pong { token: number } => {
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::ResyncNeeded { group, epoch, reason } => {
                out.extend_from_slice(&group.0.to_le_bytes());
                out.extend_from_slice(&epoch.0.to_le_bytes());
                out.extend_from_slice(&reason.get().to_le_bytes());
                out.extend_from_slice(&[0; 2]);
            }
            Self::Beat(bytes) | Self::Council(bytes) => out.extend_from_slice(bytes),
            Self::Positions(positions) => put_positions(out, raw_kind, positions)?,
            Self::Request { id, kind, body } => {
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&kind.to_le_bytes());
                out.extend_from_slice(&[0; 2]);
                out.extend_from_slice(body);
            }
            Self::Reply { id, status, more, body } => {
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&status.to_le_bytes());
                out.extend_from_slice(&(if *more { REPLY_MORE } else { 0 }).to_le_bytes());
                out.extend_from_slice(body);
            }
            Self::Goodbye => {}
            Self::Parked { group, applied, accounts } => {
                let at = out.len() - HEAD_BYTES;
                let count = u32::try_from(accounts.len()).ok().filter(|_| accounts.len() <= PARKED_ACCOUNTS_MAX);
                let count = count.ok_or(MessageError::Range { kind: raw_kind, at: at + 12 })?;
                out.extend_from_slice(&group.0.to_le_bytes());
                out.extend_from_slice(&applied.0.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
                for (account, first) in accounts {
                    out.extend_from_slice(&first.0.to_le_bytes());
                    put_text(out, raw_kind, account, ACCOUNT_BYTES_MAX)?;
                }
            }
            Self::Unknown { .. } => return Err(MessageError::Range { kind: raw_kind, at: 0 }),
        }
        Ok(())
    }
}

fn put_positions(out: &mut Vec<u8>, raw_kind: u16, positions: &[Position]) -> Result<(), MessageError> {
    put_count(out, raw_kind, positions.len())?;
    for position in positions {
        out.extend_from_slice(&position.group.0.to_le_bytes());
        for number in [position.epoch.0, position.journaled.0, position.applied.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&position.hash);
    }
    Ok(())
}

fn put_text(out: &mut Vec<u8>, raw_kind: u16, text: &str, max: usize) -> Result<(), MessageError> {
    let at = out.len() - HEAD_BYTES;
    let len = u16::try_from(text.len()).ok().filter(|len| usize::from(*len) <= max);
    let Some(len) = len else {
        return Err(MessageError::Range { kind: raw_kind, at });
    };
    if text.chars().any(char::is_control) {
        return Err(MessageError::Text { kind: raw_kind, at });
    }
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn put_count(out: &mut Vec<u8>, raw_kind: u16, count: usize) -> Result<(), MessageError> {
    let at = out.len() - HEAD_BYTES;
    let Some(raw) = u32::try_from(count).ok().filter(|_| count <= GROUPS_MAX) else {
        return Err(MessageError::Range { kind: raw_kind, at });
    };
    out.extend_from_slice(&raw.to_le_bytes());
    Ok(())
}
