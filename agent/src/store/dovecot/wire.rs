//! Messages of the replay service as bytes: `docs/formats.md`, "Replay service".
//!
//! Owns: framing, the limits of a reply, and reading its parts. What can hurt: a reply that says a length and sends
//! another, or none: nothing is allocated before the bytes are there. Refuses: a reply to another request.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use understudy_types::op::{OP_HEAD_BYTES, tag};

use super::super::{ApplyItem, Outcome, Status, StoreError};
use crate::limits::STORE_REPLY_BYTES_MAX;

/// Commands of a request.
pub(super) mod command {
    pub(in super::super) const HELLO: u16 = 1;
    pub(in super::super) const USER: u16 = 2;
    pub(in super::super) const APPLY: u16 = 3;
    pub(in super::super) const DUMP: u16 = 4;
    pub(in super::super) const SPOOL: u16 = 5;
    pub(in super::super) const USERS: u16 = 7;
    pub(in super::super) const RAISE: u16 = 8;
    pub(in super::super) const KICK: u16 = 9;
}

const PROTOCOL_VERSION: u32 = 1;
/// Bytes of a message's head.
const HEAD_BYTES: usize = 12;
/// What a reply's command has on top of its request's.
const REPLY_BIT: u16 = 0x8000;

/// One reply.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// The text of a failure.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        if text.is_empty() { format!("status {}", self.status) } else { text.into_owned() }
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    timeout: Duration,
    number: u32,
}

impl Connection {
    pub(super) fn open(socket: &Path, timeout: Duration) -> Result<Self, StoreError> {
        let unreachable = |source| StoreError::Unreachable { path: socket.to_owned(), source };
        let stream = UnixStream::connect(socket).map_err(unreachable)?;
        let mut connection = Self { stream, timeout, number: 0 };
        connection.set_timeout(timeout)?;
        connection.hello()?;
        Ok(connection)
    }

    /// How long to wait for a byte from now on.
    pub(super) fn set_timeout(&mut self, timeout: Duration) -> Result<(), StoreError> {
        self.timeout = timeout;
        self.stream.set_read_timeout(Some(timeout)).map_err(StoreError::Broken)?;
        self.stream.set_write_timeout(Some(timeout)).map_err(StoreError::Broken)
    }

    /// Says hello and gives the store's name and version.
    pub(super) fn hello(&mut self) -> Result<String, StoreError> {
        let reply = self.request(command::HELLO, &PROTOCOL_VERSION.to_le_bytes())?;
        if reply.status != 0 {
            return Err(StoreError::Protocol(reply.text()));
        }
        let Some((head, text)) = reply.body.split_first_chunk::<8>() else {
            return Err(StoreError::Protocol("hello is cut short".into()));
        };
        let version = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if version != PROTOCOL_VERSION || len != text.len() {
            return Err(StoreError::Protocol(format!("hello of protocol `{version}` with `{len}` bytes of text")));
        }
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    pub(super) fn request(&mut self, number: u16, body: &[u8]) -> Result<Reply, StoreError> {
        self.number = self.number.wrapping_add(1);
        let len = u32::try_from(HEAD_BYTES - 4 + body.len())
            .map_err(|_| StoreError::Protocol("request is longer than a message can be".into()))?;
        let mut message = Vec::with_capacity(HEAD_BYTES + body.len());
        message.extend_from_slice(&len.to_le_bytes());
        message.extend_from_slice(&number.to_le_bytes());
        message.extend_from_slice(&[0; 2]);
        message.extend_from_slice(&self.number.to_le_bytes());
        message.extend_from_slice(body);
        self.stream.write_all(&message).map_err(|error| self.broken(error))?;
        self.reply(number)
    }

    /// Reads one reply to the last request, which was of this command.
    pub(super) fn reply(&mut self, number: u16) -> Result<Reply, StoreError> {
        let mut head = [0; HEAD_BYTES];
        self.stream.read_exact(&mut head).map_err(|error| self.broken(error))?;
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let said = u16::from_le_bytes([head[4], head[5]]);
        let status = u16::from_le_bytes([head[6], head[7]]);
        let request = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let Some(body_bytes) = len.checked_sub(HEAD_BYTES - 4).filter(|n| *n <= STORE_REPLY_BYTES_MAX) else {
            return Err(StoreError::Protocol(format!("reply of `{len}` bytes")));
        };
        if said != number | REPLY_BIT || request != self.number {
            return Err(StoreError::Protocol(format!("reply `{said:#x}` to request `{request}` in place of ours")));
        }
        let mut body = Vec::new();
        // Grows with what arrives, not with what was said.
        let took = (&mut self.stream).take(body_bytes as u64).read_to_end(&mut body).map_err(|e| self.broken(e))?;
        if took != body_bytes {
            return Err(StoreError::Broken(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        Ok(Reply { status, body })
    }

    fn broken(&self, error: io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                StoreError::TimedOut { timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX) }
            }
            _ => StoreError::Broken(error),
        }
    }
}

fn take_u32(bytes: &[u8]) -> Result<(usize, &[u8]), StoreError> {
    match bytes.split_first_chunk::<4>() {
        Some((number, rest)) => Ok((u32::from_le_bytes(*number) as usize, rest)),
        None => Err(StoreError::Protocol("reply is cut short".into())),
    }
}

/// A count, and so many (length, bytes).
pub(super) fn list<'a>(parts: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut body = u32::try_from(parts.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    for part in parts {
        body.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend_from_slice(part);
    }
    body
}

/// Walks a run of (length, bytes). Ends after the first error.
pub(super) fn runs(body: &[u8]) -> impl Iterator<Item = Result<&[u8], StoreError>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let one = take_u32(rest).and_then(|(len, after)| {
            after.split_at_checked(len).ok_or_else(|| StoreError::Protocol(format!("a part of `{len}` bytes")))
        });
        rest = one.as_ref().map_or(&[], |(_, after)| *after);
        Some(one.map(|(part, _)| part))
    })
}

/// Reads the reply to APPLY, which must have this many outcomes.
pub(super) fn outcomes(body: &[u8], wanted: usize) -> Result<Vec<Outcome>, StoreError> {
    let (count, mut rest) = take_u32(body)?;
    if count != wanted {
        return Err(StoreError::Protocol(format!("`{count}` outcomes for `{wanted}` operations")));
    }
    let mut outcomes = Vec::new();
    for _ in 0..count {
        let Some((head, after)) = rest.split_first_chunk::<4>() else {
            return Err(StoreError::Protocol("an outcome is cut short".into()));
        };
        let (len, after) = take_u32(after)?;
        let Some((text, after)) = after.split_at_checked(len) else {
            return Err(StoreError::Protocol(format!("an outcome's text of `{len}` bytes")));
        };
        let status = Status::from_number(u16::from_le_bytes([head[0], head[1]]));
        outcomes.push(Outcome { status, detail: String::from_utf8_lossy(text).into_owned() });
        rest = after;
    }
    if rest.is_empty() { Ok(outcomes) } else { Err(StoreError::Protocol("bytes after the last outcome".into())) }
}

/// The operation's bytes, with the path of its body.
pub(super) fn encode(item: &ApplyItem) -> Vec<u8> {
    let mut bytes = item.op.encode();
    if let Some(path) = item.body_path.as_deref().and_then(Path::to_str) {
        bytes.extend_from_slice(&tag::BODY_PATH.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
        let fields = u32::try_from(bytes.len() - OP_HEAD_BYTES).unwrap_or(u32::MAX);
        bytes[4..8].copy_from_slice(&fields.to_le_bytes());
    }
    bytes
}
