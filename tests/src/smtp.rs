//! A blocking SMTP client: one step at a time, so that a caller can tell which one failed.
//!
//! Owns: nothing but the session. What can hurt: a connection that ends after the message was sent; the caller learns
//! that its fate is not known. Refuses: sending twice.

use crate::lmtp::stuffed;
use crate::wire::{Error, Wire};
use std::time::Duration;

/// One session.
#[derive(Debug)]
pub struct Smtp {
    wire: Wire,
}

impl Smtp {
    /// Connects and says who it is; every wait ends after `timeout`.
    ///
    /// # Errors
    /// When the server is not there or refuses.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self, Error> {
        let mut client = Self { wire: Wire::connect(host, port, timeout)? };
        client.wire.answer("2")?;
        client.command("EHLO client.example.test", "2")?;
        Ok(client)
    }

    /// Names sender and recipient.
    ///
    /// # Errors
    /// When the server refuses one of them.
    pub fn envelope(&mut self, from: &str, to: &str) -> Result<(), Error> {
        self.command(&format!("MAIL FROM:<{from}>"), "2")?;
        self.command(&format!("RCPT TO:<{to}>"), "2").map(|_| ())
    }

    /// Hands the message over (line ends as CRLF or LF); what the server said when it took it.
    ///
    /// # Errors
    /// When the server refuses it; with [`Error::Connection`] its fate may not be known.
    pub fn data(&mut self, message: &[u8]) -> Result<String, Error> {
        self.command("DATA", "354")?;
        self.wire.send(&stuffed(message))?;
        self.wire.answer("2")
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
