//! As much of an IMAP client as a canary needs.
//!
//! Owns: lines, literals and tagged answers, within one deadline and one number of bytes for the whole session. What
//! can hurt: a server that says anything at all, for ever, or nothing; every length is bounded before a byte is kept,
//! and nothing is allocated for what was only announced. Refuses: TLS (the way is the one that proxies use) and names
//! or passwords that a quoted string cannot hold.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::clock::{self, MonoNs};
use crate::limits::{CANARY_LINE_BYTES_MAX, CANARY_LINES_MAX, CANARY_SESSION_BYTES_MAX};

/// Why a session did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ImapError {
    #[error("cannot connect: {0}")]
    Unreachable(io::Error),
    #[error("no answer to {step} in time")]
    TimedOut { step: &'static str },
    #[error("the connection broke at {step}: {source}")]
    Broken { step: &'static str, source: io::Error },
    #[error("{step} was refused: {text}")]
    Refused { step: &'static str, text: String },
    #[error("the answer to {step} is not IMAP: {what}")]
    Protocol { step: &'static str, what: String },
    #[error("`{0}` has characters other than printable ASCII")]
    Characters(&'static str),
}

/// An untagged answer: its line, and what its literals hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untagged {
    pub line: String,
    pub literals: Vec<Vec<u8>>,
}

/// One session.
#[derive(Debug)]
pub struct Imap {
    stream: TcpStream,
    /// Read and not yet taken.
    buffer: Vec<u8>,
    deadline: MonoNs,
    bytes: usize,
    tag: u32,
    step: &'static str,
}

impl Imap {
    /// Connects and reads the greeting. All of the session must be over within `patience`.
    ///
    /// # Errors
    /// When nobody is there, or does not greet with OK.
    pub fn connect(address: &str, patience: Duration) -> Result<Self, ImapError> {
        let deadline = clock::mono().after(patience);
        let found = address.to_socket_addrs().map_err(ImapError::Unreachable)?.next();
        let found = found.ok_or_else(|| ImapError::Unreachable(io::Error::other("the name has no address")))?;
        // Resolving may have taken its time.
        let left = left(deadline).ok_or(ImapError::TimedOut { step: "the name" })?;
        let stream = TcpStream::connect_timeout(&found, left).map_err(ImapError::Unreachable)?;
        let _ = stream.set_nodelay(true);
        let mut imap = Self { stream, buffer: Vec::new(), deadline, bytes: 0, tag: 0, step: "the greeting" };
        let greeting = imap.line()?;
        match greeting.strip_prefix("* ") {
            Some(text) if text.starts_with("OK") => Ok(imap),
            Some(text) if text.starts_with("BYE") => Err(imap.refused(text)),
            _ => Err(imap.wrong(&greeting)),
        }
    }

    /// Logs in.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn login(&mut self, account: &str, password: &str) -> Result<(), ImapError> {
        let command = format!("LOGIN {} {}", quoted("account", account)?, quoted("password", password)?);
        self.command("LOGIN", &command).map(drop)
    }

    /// Sends a command and gives its untagged answers. `step` names it, without what is secret.
    ///
    /// # Errors
    /// The first thing that was not as it should be.
    pub fn command(&mut self, step: &'static str, command: &str) -> Result<Vec<Untagged>, ImapError> {
        let tag = self.begin(step);
        self.send(format!("{tag} {command}\r\n").as_bytes())?;
        self.answer(&tag)
    }

    /// Adds a message; gives its UID.
    ///
    /// # Errors
    /// As [`Self::command`], and when the server does not say the UID.
    pub fn append(&mut self, mailbox: &str, message: &[u8]) -> Result<u32, ImapError> {
        let tag = self.begin("APPEND");
        self.send(format!("{tag} APPEND {mailbox} {{{}}}\r\n", message.len()).as_bytes())?;
        let mut lines = 0;
        loop {
            let line = self.line()?;
            if line.starts_with('+') {
                break;
            }
            if line.starts_with(&tag) {
                return Err(self.refused(&line));
            }
            lines += 1;
            if lines > CANARY_LINES_MAX {
                return Err(self.wrong("too many lines"));
            }
        }
        self.send(message)?;
        self.send(b"\r\n")?;
        let (_, text) = self.answer_and_text(&tag)?;
        let uid = text.split_once("[APPENDUID ").and_then(|(_, rest)| rest.split([' ', ']']).nth(1)?.parse().ok());
        uid.ok_or_else(|| self.wrong(&text))
    }

    fn begin(&mut self, step: &'static str) -> String {
        self.step = step;
        self.tag = self.tag.wrapping_add(1);
        format!("u{}", self.tag)
    }

    fn answer(&mut self, tag: &str) -> Result<Vec<Untagged>, ImapError> {
        self.answer_and_text(tag).map(|(untagged, _)| untagged)
    }

    fn answer_and_text(&mut self, tag: &str) -> Result<(Vec<Untagged>, String), ImapError> {
        let mut untagged = Vec::new();
        loop {
            let mut line = self.line()?;
            if let Some(text) = line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')) {
                let word = text.split(' ').next().unwrap_or_default();
                return match word.to_ascii_uppercase().as_str() {
                    "OK" => Ok((untagged, text.to_owned())),
                    "NO" | "BAD" => Err(self.refused(text)),
                    _ => Err(self.wrong(&line)),
                };
            }
            if !line.starts_with("* ") || untagged.len() >= CANARY_LINES_MAX {
                return Err(self.wrong(&line));
            }
            if line.starts_with("* BYE") && self.step != "LOGOUT" {
                return Err(self.refused(&line));
            }
            let mut literals = Vec::new();
            while let Some(bytes) = announced(&line) {
                literals.push(self.literal(bytes)?);
                line.push_str(&self.line()?);
                if line.len() > CANARY_LINE_BYTES_MAX {
                    return Err(self.wrong("a line that is too long"));
                }
            }
            untagged.push(Untagged { line, literals });
        }
    }

    /// One line without its end; what is not UTF-8 becomes a mark.
    fn line(&mut self) -> Result<String, ImapError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                let line = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n")).unwrap_or(&line);
                return Ok(String::from_utf8_lossy(line).into_owned());
            }
            searched = self.buffer.len();
            if searched > CANARY_LINE_BYTES_MAX {
                return Err(self.wrong("a line that is too long"));
            }
            self.more()?;
        }
    }

    fn literal(&mut self, bytes: usize) -> Result<Vec<u8>, ImapError> {
        if bytes > CANARY_SESSION_BYTES_MAX {
            return Err(self.wrong("a literal that is too long"));
        }
        while self.buffer.len() < bytes {
            self.more()?;
        }
        let rest = self.buffer.split_off(bytes);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn more(&mut self) -> Result<(), ImapError> {
        let left = self.left()?;
        self.stream.set_read_timeout(Some(left)).map_err(|error| self.broken(error))?;
        let mut chunk = [0; 4096];
        let read = self.stream.read(&mut chunk).map_err(|error| self.broken(error))?;
        if read == 0 {
            return Err(self.broken(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        self.bytes = self.bytes.saturating_add(read);
        if self.bytes > CANARY_SESSION_BYTES_MAX {
            return Err(self.wrong("more bytes than a canary asks for"));
        }
        self.buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), ImapError> {
        let left = self.left()?;
        self.stream.set_write_timeout(Some(left)).map_err(|error| self.broken(error))?;
        self.stream.write_all(bytes).map_err(|error| self.broken(error))
    }

    fn left(&self) -> Result<Duration, ImapError> {
        left(self.deadline).ok_or(ImapError::TimedOut { step: self.step })
    }

    fn broken(&self, source: io::Error) -> ImapError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ImapError::TimedOut { step: self.step },
            _ => ImapError::Broken { step: self.step, source },
        }
    }

    fn refused(&self, text: &str) -> ImapError {
        ImapError::Refused { step: self.step, text: short(text) }
    }

    fn wrong(&self, what: &str) -> ImapError {
        ImapError::Protocol { step: self.step, what: short(what) }
    }
}

fn left(deadline: MonoNs) -> Option<Duration> {
    let ns = deadline.since_ns(clock::mono());
    (ns > 0).then(|| Duration::from_nanos(ns))
}

/// A server's words for a log: printable, and not many.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

/// Bytes of the literal that a line ends with.
fn announced(line: &str) -> Option<usize> {
    let (_, digits) = line.strip_suffix('}')?.rsplit_once('{')?;
    // A number that does not fit is as good as the largest one: both are refused.
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().unwrap_or(usize::MAX))
}

fn quoted(what: &'static str, text: &str) -> Result<String, ImapError> {
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(ImapError::Characters(what));
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    /// Serves one connection: says `greeting`, then one of `answers` for each line that it reads, then closes.
    pub(in super::super) fn server(greeting: &[u8], answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let greeting = greeting.to_vec();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accepted");
            let mut writer = stream.try_clone().expect("cloned");
            let mut lines = io::BufRead::lines(io::BufReader::new(stream));
            let _ = writer.write_all(&greeting);
            for answer in answers {
                if lines.next().is_none() || writer.write_all(&answer).is_err() {
                    return;
                }
            }
        });
        (address, thread)
    }

    fn one(greeting: &[u8], answer: &[u8]) -> Result<Vec<Untagged>, ImapError> {
        let (address, thread) = server(greeting, vec![answer.to_vec()]);
        let result = Imap::connect(&address, Duration::from_millis(500))
            .and_then(|mut imap| imap.command("FETCH", "FETCH 1 BODY[]"));
        thread.join().expect("served");
        result
    }

    #[test]
    fn literals_are_taken_out_of_their_line() {
        let untagged = one(b"* OK hi\r\n", b"* 1 FETCH (UID 7 BODY[] {4}\r\na\r\nb FLAGS ())\r\nu1 OK done\r\n");
        let line = "* 1 FETCH (UID 7 BODY[] {4} FLAGS ())".to_owned();
        assert_eq!(untagged.expect("an answer"), [Untagged { line, literals: vec![b"a\r\nb".to_vec()] }]);
    }

    #[test]
    fn every_way_to_be_wrong_is_an_error() {
        let too_long = [b"* ".to_vec(), vec![b'x'; 2 * CANARY_SESSION_BYTES_MAX], b"\r\n".to_vec()].concat();
        let many = b"* 1 EXISTS\r\n".repeat(CANARY_LINES_MAX + 1);
        let cases: [(&[u8], &[u8], &str); 11] = [
            (b"* BYE busy\r\n", b"", "the greeting was refused"),
            (b"SSH-2.0-x\r\n", b"", "not IMAP"),
            (b"* OK hi\r\n", b"u1 NO [UNAVAILABLE] no\r\n", "FETCH was refused"),
            (b"* OK hi\r\n", b"u1 WHAT\r\n", "not IMAP"),
            (b"* OK hi\r\n", b"u2 OK\r\n", "not IMAP"),
            (b"* OK hi\r\n", b"* BYE gone\r\n", "FETCH was refused"),
            (b"* OK hi\r\n", b"* 1 FETCH {99999999999999999999999}\r\n", "too long"),
            (b"* OK hi\r\n", b"* 1 FETCH {10}\r\nabc", "broke at FETCH"),
            (b"* OK hi\r\n", b"", "broke at FETCH"),
            (b"* OK hi\r\n", &too_long, "too long"),
            (b"* OK hi\r\n", &many, "not IMAP"),
        ];
        for (greeting, answer, expected) in cases {
            let said = one(greeting, answer).expect_err(expected).to_string();
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn a_server_that_says_nothing_or_drips_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let silent = Imap::connect(&address, Duration::from_millis(50)).expect_err("silent");
        assert!(matches!(silent, ImapError::TimedOut { step: "the greeting" }), "{silent}");
        let drip = std::thread::spawn(move || {
            // The first connection waits unserved in the queue.
            let _ = listener.accept();
            let (mut stream, _) = listener.accept().expect("accepted");
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let dripping = Imap::connect(&address, Duration::from_millis(200)).expect_err("dripping");
        assert!(matches!(dripping, ImapError::TimedOut { step: "the greeting" }), "{dripping}");
        drip.join().expect("ended");
    }

    #[test]
    fn words_of_the_administrator_cannot_become_commands() {
        assert_eq!(quoted("account", "a\"b\\c").expect("quoted"), "\"a\\\"b\\\\c\"");
        assert!(quoted("password", "x\r\nu2 DELETE INBOX").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_end_in_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = one(b"* OK hi\r\n", &bytes);
        }

        #[test]
        fn literals_of_any_length_are_survived(text in "\\PC{0,20}\\{[0-9]{0,25}\\}") {
            let _ = announced(&text);
        }
    }
}
