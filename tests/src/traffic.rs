//! Users at work: random operations of one account by IMAP and LMTP, with an account of what was acknowledged.
//!
//! Owns: what a user was promised. A message whose delivery was acknowledged stays in INBOX under a token, and must be
//! found there later; everything else happens in other mailboxes. What can hurt: servers that are killed meanwhile; a
//! lost connection leaves the fate of one operation unknown, which is counted and never taken for a promise.
//! Refuses: repeating an operation whose fate is unknown.

use crate::imap::{Imap, quoted};
use crate::lmtp::Lmtp;
use crate::wire::Error;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Every wait of a client ends after this.
const CLIENT_WAIT: Duration = Duration::from_secs(20);
/// Between two attempts to reach a server that is down.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// Where an account is served.
#[derive(Clone, Debug)]
pub struct Target {
    pub imap: (String, u16),
    pub lmtp: (String, u16),
    pub account: String,
    pub password: String,
}

/// What one user did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Acknowledged operations by name.
    pub done: BTreeMap<&'static str, u64>,
    /// Operations that the server refused.
    pub refused: u64,
    /// Operations whose fate is unknown: the connection ended first.
    pub unknown: u64,
    /// Attempts to connect that failed.
    pub unreachable: u64,
    /// Tokens of messages that were acknowledged into INBOX, where nothing removes them.
    pub promised: Vec<String>,
}

impl Tally {
    /// All acknowledged operations.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.done.values().sum()
    }

    /// Adds another user's.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.done {
            *self.done.entry(name).or_default() += count;
        }
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.unreachable += other.unreachable;
        self.promised.extend(other.promised.iter().cloned());
    }
}

/// One user.
#[derive(Debug)]
pub struct User {
    target: Target,
    random: StdRng,
    pause: Duration,
    session: Option<Imap>,
    count: u64,
    tally: Tally,
}

impl User {
    /// A user whose choices follow from `seed`, with `pause` between two operations.
    #[must_use]
    pub fn new(target: Target, seed: u64, pause: Duration) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { target, random, pause, session: None, count: 0, tally: Tally::default() }
    }

    /// Works until `stop` is set; counts each acknowledged operation into `progress` too.
    pub fn run(mut self, stop: &AtomicBool, progress: &AtomicU64) -> Tally {
        while !stop.load(Ordering::Relaxed) {
            let before = self.tally.total();
            self.step();
            progress.fetch_add(self.tally.total() - before, Ordering::Relaxed);
            std::thread::sleep(self.pause);
        }
        if let Some(session) = self.session.take() {
            session.logout();
        }
        self.tally
    }

    /// One random operation. In the functions it calls, `None` means that nobody answered, so nothing was tried.
    pub fn step(&mut self) {
        self.count += 1;
        let result = match self.random.random_range(0..100) {
            0..25 => self.deliver(),
            25..40 => self.append_inbox(),
            40..50 => {
                self.churn("append to Work", |imap, text, _| imap.append("Work", "(\\Flagged $work)", text).map(|_| ()))
            }
            50..70 => self.churn("store", |imap, _, n| {
                let (sign, flag) = if n % 2 == 0 { ("+", "\\Seen") } else { ("-", "\\Seen $note") };
                imap.command("SELECT INBOX")?;
                imap.command(&format!("STORE * {sign}FLAGS ({flag})")).map(|_| ())
            }),
            70..78 => self.churn("copy", |imap, _, _| {
                imap.command("SELECT INBOX")?;
                imap.command("COPY * Work").map(|_| ())
            }),
            78..84 => self.churn("move", |imap, _, _| {
                imap.command("SELECT Work")?;
                imap.command("MOVE 1 Archive").map(|_| ())
            }),
            84..90 => self.churn("expunge", |imap, _, _| {
                imap.command("SELECT Archive")?;
                imap.command("STORE 1 +FLAGS (\\Deleted)")?;
                imap.command("EXPUNGE").map(|_| ())
            }),
            90..96 => self.churn("mailbox", |imap, _, n| {
                let (one, two) = (format!("Project {}", n % 5), format!("Old/Project {}", n % 7));
                match n % 3 {
                    0 => imap.command(&format!("CREATE {}", quoted(&one))),
                    1 => imap.command(&format!("RENAME {} {}", quoted(&one), quoted(&two))),
                    _ => imap.command(&format!("DELETE {}", quoted(&two))),
                }
                .map(|_| ())
            }),
            _ => self.churn("subscribe", |imap, _, n| {
                let verb = if n % 2 == 0 { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
                imap.command(&format!("{verb} Work")).map(|_| ())
            }),
        };
        match result {
            Ok(None) => {
                self.tally.unreachable += 1;
                std::thread::sleep(RETRY_WAIT);
            }
            Ok(Some(name)) => *self.tally.done.entry(name).or_default() += 1,
            Err(Error::Refused(_)) => self.tally.refused += 1,
            Err(_) => {
                self.tally.unknown += 1;
                self.session = None;
            }
        }
    }

    fn token(&self) -> String {
        format!("{}-{}", self.target.account.split('@').next().unwrap_or("u"), self.count)
    }

    fn text(&mut self, token: &str) -> Vec<u8> {
        let lines = self.random.random_range(1..60);
        let word: u64 = self.random.random();
        let mut text = format!("Message-ID: <{token}@traffic.example.test>\r\nSubject: {token}\r\n\r\n");
        for line in 0..lines {
            text.push_str(&format!("{word:x} line {line} of a message that somebody wrote\r\n"));
        }
        text.into_bytes()
    }

    fn deliver(&mut self) -> Result<Option<&'static str>, Error> {
        let token = self.token();
        let text = self.text(&token);
        let (host, port) = self.target.lmtp.clone();
        let Ok(mut lmtp) = Lmtp::connect(&host, port, CLIENT_WAIT) else { return Ok(None) };
        lmtp.deliver_one("sender@example.test", &self.target.account, &text)?;
        self.tally.promised.push(token);
        lmtp.quit();
        Ok(Some("deliver"))
    }

    fn append_inbox(&mut self) -> Result<Option<&'static str>, Error> {
        let token = self.token();
        let text = self.text(&token);
        let Some(imap) = self.session() else { return Ok(None) };
        imap.append("INBOX", "(\\Seen) \"17-Nov-2025 08:09:10 +0100\"", &text)?;
        self.tally.promised.push(token);
        Ok(Some("append"))
    }

    /// An operation outside INBOX, or that takes nothing out of it.
    fn churn(
        &mut self,
        name: &'static str,
        operation: impl FnOnce(&mut Imap, &[u8], u64) -> Result<(), Error>,
    ) -> Result<Option<&'static str>, Error> {
        let token = self.token();
        let text = self.text(&token);
        let n = self.random.random();
        let Some(imap) = self.session() else { return Ok(None) };
        operation(imap, &text, n).map(|()| Some(name))
    }

    fn session(&mut self) -> Option<&mut Imap> {
        if self.session.is_none() {
            let (host, port) = &self.target.imap;
            let (user, password) = (&self.target.account, &self.target.password);
            let mut imap = Imap::login(host, *port, user, password, CLIENT_WAIT).ok()?;
            for mailbox in ["Work", "Archive"] {
                let _ = imap.command(&format!("CREATE {mailbox}")); // already there after the first time
            }
            self.session = Some(imap);
        }
        self.session.as_mut()
    }
}
