//! Lines and literals over one TCP connection, with an end to every wait.
//!
//! Owns: the connection and its limits. What can hurt: a server that sends without end; a line or literal past its
//! limit is an error, not memory. Refuses: meaning.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Longest line; past it the server is not speaking our protocol.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Longest literal: far above any message of a test.
const LITERAL_BYTES_MAX: usize = 256 << 20;

/// What went wrong with a server.
#[derive(Debug)]
pub enum Error {
    /// The connection failed or ended: whether the last command was carried out is not known.
    Connection(String),
    /// The server said no: the command was not carried out.
    Refused(String),
    /// The server said something that we do not understand.
    Protocol(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connection(what) => write!(f, "connection: {what}"),
            Self::Refused(what) => write!(f, "refused: {what}"),
            Self::Protocol(what) => write!(f, "not understood: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// True when it is not known whether the command was carried out.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::Connection(_))
    }
}

/// One connection.
#[derive(Debug)]
pub struct Wire {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

fn lost(error: std::io::Error) -> Error {
    Error::Connection(error.to_string())
}

impl Wire {
    /// Connects; each later read or write waits at most `timeout`.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self, Error> {
        let address = (host, port).to_socket_addrs().map_err(lost)?.next();
        let address = address.ok_or_else(|| Error::Connection(format!("`{host}` has no address")))?;
        let writer = TcpStream::connect_timeout(&address, timeout).map_err(lost)?;
        writer.set_read_timeout(Some(timeout)).map_err(lost)?;
        writer.set_write_timeout(Some(timeout)).map_err(lost)?;
        writer.set_nodelay(true).map_err(lost)?;
        let reader = BufReader::new(writer.try_clone().map_err(lost)?);
        Ok(Self { reader, writer })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.writer.write_all(bytes).map_err(lost)
    }

    /// One line without its end.
    ///
    /// # Errors
    /// [`Error::Connection`], or [`Error::Protocol`] past the longest line.
    pub fn line(&mut self) -> Result<Vec<u8>, Error> {
        let mut line = Vec::new();
        (&mut self.reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(lost)?;
        if line.pop() != Some(b'\n') {
            return Err(match u64::try_from(line.len()) {
                Ok(len) if len + 1 < LINE_BYTES_MAX => Error::Connection("closed by the server".to_owned()),
                _ => Error::Protocol("a line without end".to_owned()),
            });
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }

    /// An answer as SMTP and LMTP give it: the last of its lines, which must begin with `expected`.
    ///
    /// # Errors
    /// [`Error::Refused`] with the line when it begins otherwise; else as [`Self::line`].
    pub fn answer(&mut self, expected: &str) -> Result<String, Error> {
        loop {
            let line = String::from_utf8_lossy(&self.line()?).into_owned();
            if line.as_bytes().get(3) == Some(&b'-') {
                continue; // more lines of the same answer follow
            }
            return if line.starts_with(expected) { Ok(line) } else { Err(Error::Refused(line)) };
        }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Error::Connection`], or [`Error::Protocol`] past the longest literal.
    pub fn literal(&mut self, len: usize) -> Result<Vec<u8>, Error> {
        if len > LITERAL_BYTES_MAX {
            return Err(Error::Protocol(format!("a literal of {len} bytes")));
        }
        let mut bytes = Vec::new();
        (&mut self.reader).take(u64::try_from(len).unwrap_or(0)).read_to_end(&mut bytes).map_err(lost)?;
        if bytes.len() < len {
            return Err(Error::Connection("closed inside a literal".to_owned()));
        }
        Ok(bytes)
    }
}
