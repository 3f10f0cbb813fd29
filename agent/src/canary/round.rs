//! One round of a canary: what a user would do, in a second or less.
//!
//! Owns: the canary's messages, which carry their own checksum and number, and the order of commands. What can hurt: a
//! store that answers and has lost its mail; the message that was written last must be there, whole. Messages are told
//! apart by the node that wrote them, so observers do not meddle with each other. Refuses: any mailbox but INBOX of the
//! canary's account, and any message that is not its own.

use std::time::Duration;

use understudy_types::id::NodeId;

use super::imap::{Imap, ImapError, Untagged};
use crate::limits::{CANARY_BODY_BYTES, CANARY_ROUND_MS_MAX, CANARY_WRITE_ROUNDS};

/// How to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub account: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    /// Without the secret: it would end up in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("account", &self.account).finish_non_exhaustive()
    }
}

/// What a round found wrong.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    #[error(transparent)]
    Imap(#[from] ImapError),
    #[error("the canary's message of before is gone")]
    Gone,
    #[error("the canary's message is damaged: {0}")]
    Damaged(&'static str),
}

/// The canary of one observer for one peer.
#[derive(Debug)]
pub struct Canary {
    observer: NodeId,
    address: String,
    rounds: u64,
    /// Number of the newest message that the peer has confirmed.
    known: Option<u64>,
}

impl Canary {
    #[must_use]
    pub fn new(observer: NodeId, address: String) -> Self {
        Self { observer, address, rounds: 0, known: None }
    }

    /// Greeting; with a login also a read, and every fifth time a write. `number` is above all numbers before, also
    /// those of an agent before this one: wall time will do.
    ///
    /// # Errors
    /// The first thing that a user would have noticed.
    pub fn round(&mut self, login: Option<&Login>, number: u64) -> Result<(), RoundError> {
        let mut imap = Imap::connect(&self.address, Duration::from_millis(CANARY_ROUND_MS_MAX))?;
        if let Some(login) = login {
            imap.login(&login.account, &login.password)?;
            imap.command("SELECT", "SELECT INBOX")?;
            let mine = self.find(&mut imap)?;
            let read = self.read(&mut imap, mine.last().copied());
            // What is gone is written anew, so that this round tells of it and the next one can be good.
            let is_due = self.rounds.is_multiple_of(CANARY_WRITE_ROUNDS) || matches!(read, Err(RoundError::Gone));
            if is_due {
                self.write(&mut imap, &mine, number)?;
            }
            self.rounds = self.rounds.wrapping_add(1);
            read?;
        }
        // It has served its purpose; a server that does not say goodbye is no matter.
        let _ = imap.command("LOGOUT", "LOGOUT");
        Ok(())
    }

    fn subject(&self) -> String {
        format!("Understudy canary of node {}.", self.observer)
    }

    /// UIDs of this observer's messages, in order.
    fn find(&self, imap: &mut Imap) -> Result<Vec<u32>, RoundError> {
        let found = imap.command("SEARCH", &format!("UID SEARCH HEADER Subject \"{}\"", self.subject()))?;
        let lines = found.iter().filter_map(|untagged| untagged.line.strip_prefix("* SEARCH"));
        let mut uids: Vec<u32> = lines.flat_map(str::split_ascii_whitespace).filter_map(|w| w.parse().ok()).collect();
        uids.sort_unstable();
        Ok(uids)
    }

    fn read(&self, imap: &mut Imap, newest: Option<u32>) -> Result<(), RoundError> {
        let Some(uid) = newest else {
            // The first round ever finds nothing, and writes.
            return if self.known.is_some() { Err(RoundError::Gone) } else { Ok(()) };
        };
        let fetched = imap.command("FETCH", &format!("UID FETCH {uid} (BODY.PEEK[])"))?;
        let number = number_of(body_of(&fetched).ok_or(RoundError::Gone)?).map_err(RoundError::Damaged)?;
        // A write whose answer was lost may have made a newer one.
        if self.known.is_some_and(|known| number < known) { Err(RoundError::Gone) } else { Ok(()) }
    }

    fn write(&mut self, imap: &mut Imap, mine: &[u32], number: u64) -> Result<(), RoundError> {
        imap.append("INBOX", &message(&self.subject(), number))?;
        self.known = Some(number);
        // The one before stays: a reader never finds nothing.
        let Some((_, older)) = mine.split_last() else { return Ok(()) };
        for uids in older.chunks(CANARY_WRITE_ROUNDS as usize * 4) {
            let list = uids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            imap.command("STORE", &format!("UID STORE {list} +FLAGS.SILENT (\\Deleted)"))?;
            imap.command("EXPUNGE", &format!("UID EXPUNGE {list}"))?;
        }
        Ok(())
    }
}

fn body_of(fetched: &[Untagged]) -> Option<&[u8]> {
    let is_fetch = |untagged: &&Untagged| untagged.line.contains(" FETCH (") && untagged.line.contains("BODY[]");
    fetched.iter().filter(is_fetch).find_map(|untagged| untagged.literals.first()).map(Vec::as_slice)
}

const CHECKSUM: &str = "X-Understudy-Canary: ";

/// A message that carries its number and the BLAKE3 of its body.
fn message(subject: &str, number: u64) -> Vec<u8> {
    let mut body = format!("number {number}\r\n");
    let line = "The store of this node can log in, read and write. This message is replaced every few seconds.\r\n";
    while body.len() + line.len() < CANARY_BODY_BYTES {
        body.push_str(line);
    }
    let checksum = blake3::hash(body.as_bytes()).to_hex();
    let head = "From: understudy@localhost\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\nMIME-Version: 1.0\r\n";
    format!("{head}Subject: {subject}\r\n{CHECKSUM}{checksum}\r\n\r\n{body}").into_bytes()
}

/// The number of a message whose checksum is right.
fn number_of(message: &[u8]) -> Result<u64, &'static str> {
    let at = message.windows(4).position(|four| four == b"\r\n\r\n").ok_or("it has no body")?;
    let (head, body) = (&message[..at], &message[at + 4..]);
    let head = std::str::from_utf8(head).map_err(|_| "its head is not text")?;
    let said = head.lines().find_map(|line| line.strip_prefix(CHECKSUM)).ok_or("it has no checksum")?;
    if blake3::hash(body).to_hex().as_str() != said.trim() {
        return Err("its checksum does not match");
    }
    let first = body.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    first.and_then(|line| line.strip_prefix("number ")?.parse().ok()).ok_or("it has no number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canary::imap::tests::server;

    fn canary(address: &str) -> Canary {
        Canary::new(NodeId::new(2).expect("in range"), address.to_owned())
    }

    #[test]
    fn a_message_says_whether_it_is_whole() {
        let whole = message("x", 77);
        assert!(whole.len() <= CANARY_BODY_BYTES + 400);
        assert_eq!(number_of(&whole), Ok(77));
        for at in (0..whole.len()).step_by(7) {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            let head = whole.windows(4).position(|four| four == b"\r\n\r\n").expect("has a body");
            // A head that is damaged elsewhere than in its checksum is no matter.
            assert!(at < head || number_of(&bad).is_err(), "byte {at}");
        }
        assert!(number_of(&whole[..whole.len() - 1]).is_err());
        assert!(number_of(b"").is_err());
    }

    #[test]
    fn without_an_account_the_greeting_is_enough() {
        let (address, thread) = server(b"* OK hi\r\n", vec![b"u1 OK bye\r\n".to_vec()]);
        canary(&address).round(None, 1).expect("greeted");
        thread.join().expect("served");
        assert!(matches!(canary(&address).round(None, 2), Err(RoundError::Imap(ImapError::Unreachable(_)))));
    }

    #[test]
    fn a_message_that_is_damaged_or_older_than_the_known_one_is_told() {
        let login = Login { account: "a".into(), password: "b".into() };
        let good = message("Understudy canary of node 2.", 5);
        let mut bad = good.clone();
        let last = bad.len() - 3;
        bad[last] ^= 1;
        for (body, known, expected) in [(&good, Some(5), ""), (&bad, None, "damaged"), (&good, Some(6), "gone")] {
            let fetch = [format!("* 1 FETCH (UID 9 BODY[] {{{}}}\r\n", body.len()).as_bytes(), body, b")\r\nu4 OK\r\n"]
                .concat();
            let answers = vec![
                b"u1 OK in\r\n".to_vec(),
                b"* 1 EXISTS\r\nu2 OK [READ-WRITE]\r\n".to_vec(),
                b"* SEARCH 9\r\nu3 OK\r\n".to_vec(),
                fetch,
            ];
            let (address, thread) = server(b"* OK hi\r\n", answers);
            let mut canary = Canary { known, rounds: 1, ..canary(&address) };
            let result = canary.round(Some(&login), 7).map_err(|error| error.to_string());
            match expected {
                "" => assert_eq!(result, Ok(())),
                // It writes at once where something is gone, and this server does not let it.
                "gone" => assert!(result.expect_err("gone").contains("APPEND")),
                _ => assert!(result.expect_err("wrong").contains(expected)),
            }
            thread.join().expect("served");
        }
    }

    #[test]
    fn a_login_is_printed_without_its_secret() {
        let login = Login { account: "a".into(), password: "hidden".into() };
        assert!(!format!("{login:?}").contains("hidden"));
    }
}
