//! A blocking LMTP client: delivers one message, and tells for each recipient what the server answered.
//!
//! Owns: dot-stuffing and reply lines. What can hurt: a connection that ends between DATA and the answer; the caller
//! learns that the fate of the message is not known. Refuses: sending twice.

use crate::wire::{Error, Wire};
use std::time::Duration;

/// One session.
#[derive(Debug)]
pub struct Lmtp {
    wire: Wire,
}

impl Lmtp {
    /// Connects and says LHLO.
    ///
    /// # Errors
    /// When the server is not there or refuses.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self, Error> {
        let mut client = Self { wire: Wire::connect(host, port, timeout)? };
        client.wire.answer("2")?;
        client.command("LHLO client.example.test", "2")?;
        Ok(client)
    }

    /// Delivers `message` (line ends as CRLF or LF) to `recipients`; an answer for each, in their order.
    ///
    /// # Errors
    /// When the transaction as a whole failed; with [`Error::Connection`] after DATA its fate is not known.
    pub fn deliver(
        &mut self,
        from: &str,
        recipients: &[&str],
        message: &[u8],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        self.command(&format!("MAIL FROM:<{from}>"), "2")?;
        let mut known = Vec::new();
        for recipient in recipients {
            known.push(match self.command(&format!("RCPT TO:<{recipient}>"), "2") {
                Err(error) if error.is_connection() => return Err(error),
                other => other.map(|_| ()),
            });
        }
        if known.iter().all(Result::is_err) {
            let _ = self.command("RSET", "2");
            return Ok(known);
        }
        self.command("DATA", "354")?;
        self.wire.send(&stuffed(message))?;
        for slot in known.iter_mut().filter(|r| r.is_ok()) {
            match self.wire.answer("2") {
                Err(error) if error.is_connection() => return Err(error),
                other => *slot = other.map(|_| ()),
            }
        }
        Ok(known)
    }

    /// Delivers to one recipient.
    ///
    /// # Errors
    /// As [`Self::deliver`], and when this recipient was refused.
    pub fn deliver_one(&mut self, from: &str, recipient: &str, message: &[u8]) -> Result<(), Error> {
        self.deliver(from, &[recipient], message)?.pop().unwrap_or_else(|| Err(Error::Protocol("no answer".to_owned())))
    }

    /// Ends the session.
    pub fn quit(mut self) {
        let _ = self.command("QUIT", "2");
    }

    fn command(&mut self, line: &str, expected: &str) -> Result<String, Error> {
        self.wire.send(format!("{line}\r\n").as_bytes())?;
        self.wire.answer(expected)
    }
}

/// The message as it goes over the wire: CRLF line ends, leading dots doubled, the end marked.
pub(crate) fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + 16);
    let body = message.strip_suffix(b"\n").unwrap_or(message);
    for line in body.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_doubled_and_lines_end_alike() {
        assert_eq!(stuffed(b"a\n.b\r\n"), b"a\r\n..b\r\n.\r\n");
        assert_eq!(stuffed(b"a"), b"a\r\n.\r\n");
    }
}
