//! One session at work: every kind of operation at random, and an account of what was promised.
//!
//! Owns: what the server acknowledged. A message that was acknowledged into INBOX stays there under its token, and its
//! fate is checked later; everything else happens in other mailboxes. What can hurt: a server that dies under it; an
//! operation without an answer is counted as unknown and promises nothing. Refuses: repeating such an operation.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use understudy_tests::imap::{Imap, Reply, Value, quoted};
use understudy_tests::lmtp::Lmtp;
use understudy_tests::traffic::Target;
use understudy_tests::wire::Error;

const CLIENT_WAIT: Duration = Duration::from_secs(30);
const RETRY_WAIT: Duration = Duration::from_millis(200);
/// Names of mailboxes: few, so that sessions meet; with children, spaces and letters beyond ASCII.
const NAMES: [&str; 10] =
    ["Work", "Archive", "A", "A/B", "A/B/C", "D", "D/E f", "&ANw-ml&AOQ-ut", "&ANw-ml&AOQ-ut/x", "Junk"];
const FLAGS: [&str; 8] = ["\\Seen", "\\Flagged", "\\Answered", "\\Draft", "$a", "$b", "NonJunk", "$Forwarded"];

/// What one session did.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Acknowledged operations by name.
    pub(crate) done: BTreeMap<&'static str, u64>,
    pub(crate) refused: u64,
    /// Without an answer.
    pub(crate) unknown: u64,
    /// Attempts to connect that failed.
    pub(crate) unreachable: u64,
    /// Account and token of each message that was acknowledged into INBOX.
    pub(crate) promised: Vec<(String, String)>,
    /// Answers that no server should give.
    pub(crate) odd: Vec<String>,
}

impl Tally {
    /// All acknowledged operations.
    pub(crate) fn total(&self) -> u64 {
        self.done.values().sum()
    }

    /// Adds another session's.
    pub(crate) fn add(&mut self, other: Self) {
        other.done.into_iter().for_each(|(name, count)| *self.done.entry(name).or_default() += count);
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.unreachable += other.unreachable;
        self.promised.extend(other.promised);
        self.odd.extend(other.odd);
    }
}

/// One session.
pub(crate) struct Worker {
    target: Target,
    /// Accounts of the same node, for deliveries to several.
    neighbours: Vec<String>,
    random: StdRng,
    seed: u64,
    pause: Duration,
    /// Whether mailboxes are renamed and deleted too.
    folders: bool,
    session: Option<Imap>,
    selected: Option<String>,
    count: u64,
    tally: Tally,
}

type Done = Result<&'static str, Error>;

impl Worker {
    pub(crate) fn new(target: Target, neighbours: Vec<String>, seed: u64, pause: Duration) -> Self {
        Self {
            target,
            neighbours,
            random: StdRng::seed_from_u64(seed),
            seed,
            pause,
            folders: true,
            session: None,
            selected: None,
            count: 0,
            tally: Tally::default(),
        }
    }

    /// Mailboxes are made, and neither renamed nor deleted.
    pub(crate) fn keeping_folders(mut self) -> Self {
        self.folders = false;
        self
    }

    /// Works until `stop` is set.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> Tally {
        while !stop.load(Ordering::Relaxed) {
            self.step();
            std::thread::sleep(self.pause);
        }
        if let Some(session) = self.session.take() {
            session.logout();
        }
        self.tally
    }

    /// One random operation.
    pub(crate) fn step(&mut self) {
        self.count += 1;
        let choice = self.random.random_range(0..100);
        if choice >= 14 && self.session.is_none() && !self.connect() {
            self.tally.unreachable += 1;
            std::thread::sleep(RETRY_WAIT);
            return;
        }
        let result = match choice {
            0..14 => self.deliver(),
            14..26 => self.append_inbox(),
            26..38 => self.append_elsewhere(),
            38..58 => self.store(),
            58..66 => self.copy(),
            66..74 => self.relocate(),
            74..82 => self.expunge(),
            82..87 => self.create(),
            87..92 if self.folders => self.rename(),
            92..95 if self.folders => self.delete(),
            _ => self.subscribe(),
        };
        match result {
            Ok(name) => *self.tally.done.entry(name).or_default() += 1,
            Err(Error::Refused(_)) => self.tally.refused += 1,
            Err(error) => {
                if let Error::Protocol(what) = &error {
                    self.tally.odd.push(what.clone());
                }
                self.tally.unknown += 1;
                self.session = None;
                self.selected = None;
                std::thread::sleep(RETRY_WAIT);
            }
        }
    }

    fn connect(&mut self) -> bool {
        let (host, port) = &self.target.imap;
        let (user, password) = (&self.target.account, &self.target.password);
        self.session = Imap::login(host, *port, user, password, CLIENT_WAIT).ok();
        self.session.is_some()
    }

    fn command(&mut self, command: &str) -> Result<Reply, Error> {
        match &mut self.session {
            Some(session) => session.command(command),
            None => Err(Error::Connection("not connected".to_owned())),
        }
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.random.random_range(0..from.len())]
    }

    fn name(&mut self) -> &'static str {
        self.pick(&NAMES)
    }

    /// Selects it (sometimes it is selected already) and gives the number of its messages.
    fn select(&mut self, name: &str) -> Result<u64, Error> {
        if self.selected.as_deref() == Some(name) && self.random.random_bool(0.5) {
            let reply = self.command("UID SEARCH ALL")?;
            let count = reply.untagged.iter().find(|parts| parts.first() == Some(&Value::Atom("SEARCH".to_owned())));
            return Ok(count.map_or(0, |parts| parts.len() as u64 - 1));
        }
        self.selected = None;
        let reply = self.command(&format!("SELECT {}", quoted(name)))?;
        self.selected = Some(name.to_owned());
        let exists = reply.untagged.iter().find_map(|parts| match &parts[..] {
            [count, Value::Atom(word)] if word == "EXISTS" => count.number(),
            _ => None,
        });
        Ok(exists.unwrap_or(0))
    }

    /// Some messages of `count`: one, a range, or all.
    fn set(&mut self, count: u64) -> Result<String, Error> {
        if count == 0 {
            return Err(Error::Refused("nothing there".to_owned()));
        }
        let one = self.random.random_range(1..=count);
        Ok(match self.random.random_range(0..10) {
            0..6 => one.to_string(),
            6..9 => format!("{one}:{}", (one + self.random.random_range(0..4)).min(count)),
            _ => "1:*".to_owned(),
        })
    }

    fn token(&self) -> String {
        format!("t{:x}-{}", self.seed, self.count)
    }

    fn text(&mut self, token: &str) -> Vec<u8> {
        let lines = if self.random.random_bool(0.02) { 3000 } else { self.random.random_range(0..40) };
        let word: u64 = self.random.random();
        let mut text = format!("Message-ID: <{token}@traffic.example.test>\r\nSubject: {token}\r\n\r\n");
        for line in 0..lines {
            text.push_str(&format!("{word:x} line {line} of a message that somebody wrote\r\n.\r\n"));
        }
        text.into_bytes()
    }

    fn flags(&mut self) -> String {
        let count = self.random.random_range(0..4);
        (0..count).map(|_| self.pick(&FLAGS)).collect::<Vec<_>>().join(" ")
    }

    /// Flags and date of a message to be appended.
    fn head(&mut self) -> String {
        let (flags, day) = (self.flags(), self.random.random_range(1..29));
        let zone = ["+0000", "+0100", "-0730", "+1245"][self.random.random_range(0..4)];
        format!("({flags}) \"{day:02}-Nov-2024 08:09:{:02} {zone}\"", day * 2)
    }

    fn deliver(&mut self) -> Done {
        let token = self.token();
        let text = self.text(&token);
        let mut to = vec![self.target.account.clone()];
        if self.random.random_bool(0.2) {
            to.extend(self.neighbours.iter().filter(|name| **name != self.target.account).take(2).cloned());
        }
        let (host, port) = self.target.lmtp.clone();
        let mut lmtp = Lmtp::connect(&host, port, CLIENT_WAIT)?;
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let mut refused = Ok("deliver");
        for (account, answer) in to.iter().zip(lmtp.deliver("sender@example.test", &to, &text)?) {
            match answer {
                Ok(()) => self.tally.promised.push(((*account).to_owned(), token.clone())),
                Err(error) => refused = Err(error),
            }
        }
        lmtp.quit();
        refused
    }

    fn append(&mut self, mailbox: &str, token: &str) -> Result<(), Error> {
        let (text, head) = (self.text(token), self.head());
        let Some(session) = &mut self.session else { return Err(Error::Connection("not connected".to_owned())) };
        session.append(mailbox, &head, &text).map(|_| ())
    }

    fn append_inbox(&mut self) -> Done {
        let token = self.token();
        self.append("INBOX", &token)?;
        self.tally.promised.push((self.target.account.clone(), token));
        Ok("append")
    }

    fn append_elsewhere(&mut self) -> Done {
        let (token, name) = (self.token(), self.name());
        self.append(name, &token)?;
        Ok("append")
    }

    fn anywhere(&mut self) -> &'static str {
        if self.random.random_bool(0.4) { "INBOX" } else { self.name() }
    }

    fn store(&mut self) -> Done {
        let name = self.anywhere();
        let count = self.select(name)?;
        let (set, flags) = (self.set(count)?, self.flags());
        let sign = self.pick(&["+", "-", ""]);
        self.command(&format!("STORE {set} {sign}FLAGS ({flags})"))?;
        Ok("store")
    }

    fn copy(&mut self) -> Done {
        let (from, to) = (self.anywhere(), self.name());
        let count = self.select(from)?;
        let set = self.set(count)?;
        self.command(&format!("COPY {set} {}", quoted(to)))?;
        Ok("copy")
    }

    /// MOVE, out of a mailbox that promises nothing.
    fn relocate(&mut self) -> Done {
        let (from, to) = (self.name(), self.name());
        let count = self.select(from)?;
        let set = self.set(count)?;
        self.command(&format!("MOVE {set} {}", quoted(to)))?;
        Ok("move")
    }

    fn expunge(&mut self) -> Done {
        let name = self.name();
        let count = self.select(name)?;
        let set = self.set(count)?;
        self.command(&format!("STORE {set} +FLAGS.SILENT (\\Deleted)"))?;
        self.command("EXPUNGE")?;
        Ok("expunge")
    }

    fn create(&mut self) -> Done {
        let name = self.name();
        self.command(&format!("CREATE {}", quoted(name)))?;
        Ok("create")
    }

    fn rename(&mut self) -> Done {
        let (from, to) = (self.name(), self.name());
        self.unselect(from)?;
        self.command(&format!("RENAME {} {}", quoted(from), quoted(to)))?;
        Ok("rename")
    }

    fn delete(&mut self) -> Done {
        let name = self.name();
        self.unselect(name)?;
        self.command(&format!("DELETE {}", quoted(name)))?;
        Ok("delete")
    }

    fn unselect(&mut self, name: &str) -> Result<(), Error> {
        if self.selected.as_deref().is_some_and(|selected| selected.starts_with(name)) {
            self.selected = None;
            self.command("UNSELECT")?;
        }
        Ok(())
    }

    fn subscribe(&mut self) -> Done {
        let name = self.name();
        let verb = self.pick(&["SUBSCRIBE", "UNSUBSCRIBE"]);
        self.command(&format!("{verb} {}", quoted(name)))?;
        Ok("subscribe")
    }
}
