//! Messages out of a stream of bytes that arrives in pieces.
//!
//! What can hurt: a head that announces more than ever comes. Memory grows only with the bytes that arrived, and
//! never past the limit that is in force. After an error the stream has no further meaning: it stays an error.

use alloc::vec::Vec;

use super::codec::Head;
use super::{BODY_BYTES_MAX, HEAD_BYTES, Message, MessageError};

/// Collects bytes and gives messages.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    at: usize,
    limit_bytes: usize,
    failed: Option<MessageError>,
}

impl Decoder {
    /// A decoder that refuses bodies above `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self { buffer: Vec::new(), at: 0, limit_bytes: limit_bytes.min(BODY_BYTES_MAX), failed: None }
    }

    /// Changes the largest body, for messages whose head was not read yet.
    pub fn set_limit(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes.min(BODY_BYTES_MAX);
    }

    /// Adds bytes that arrived. Call [`Self::next`] until it gives `None` before adding more.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 && self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        } else if self.at > self.buffer.len() / 2 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that wait for the rest of their message.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len() - self.at
    }

    /// The next whole message with its bytes on the wire, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// The first error, for ever after.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at `None`; here more bytes may follow")]
    pub fn next(&mut self) -> Result<Option<(Message, usize)>, MessageError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.take();
        self.failed = result.as_ref().err().copied();
        result
    }

    fn take(&mut self) -> Result<Option<(Message, usize)>, MessageError> {
        let Some((head, rest)) = self.buffer[self.at..].split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let head = Head::decode(head, self.limit_bytes)?;
        let Some(body) = rest.get(..head.body_bytes) else {
            return Ok(None);
        };
        let message = head.body(body)?;
        let wire_bytes = HEAD_BYTES + head.body_bytes;
        self.at += wire_bytes;
        if self.at == self.buffer.len() && self.buffer.capacity() > (1 << 20) {
            // One large message must not pin its size for the life of the connection.
            self.buffer = Vec::new();
            self.at = 0;
        }
        Ok(Some((message, wire_bytes)))
    }
}
