//! Users who add, flag, move and expunge mail through one address, and an account of what they were told.
//!
//! Owns: what a user may rely on afterwards, message by message ([`Ledger`]), and the comparison with what is there.
//! What can hurt: a connection that ends before the answer; both fates are allowed then, until the user acts again.
//! Refuses: touching messages of others, so that every difference is the server's.

use crate::imap::{Account, Imap};
use crate::mesh::Endpoint;
use crate::wire::Error;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Every wait of a client ends after this.
const CLIENT_WAIT: Duration = Duration::from_secs(5);
/// Between two attempts to reach a server that is down.
const RETRY_WAIT: Duration = Duration::from_millis(200);
/// Mailboxes of these users: messages come into the first, and may be moved to the second.
const MAILBOXES: [&str; 2] = ["Desk", "Shelf"];
/// The flag that is set.
const FLAG: &str = "\\Flagged";
/// Messages that a user still acts on; older ones stay as they are.
const AT_HAND: usize = 12;

/// What a user knows of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Known {
    /// Mailboxes in which it may be; several when a move's fate is unknown.
    pub may_be_in: BTreeSet<&'static str>,
    /// It may be nowhere.
    pub may_be_gone: bool,
    /// The flag is set for certain; `None`: its fate is unknown.
    pub flagged: Option<bool>,
}

/// Everything that a user was told.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ledger {
    pub account: String,
    pub messages: BTreeMap<String, Known>,
    /// Acknowledged operations by name.
    pub done: BTreeMap<&'static str, u64>,
    pub refused: u64,
    pub unknown: u64,
    pub unreachable: u64,
    /// Messages that were acknowledged and not found when the user wanted to act on them.
    pub not_found: Vec<String>,
}

impl Ledger {
    /// What is not as the user was told, in words.
    #[must_use]
    pub fn broken(&self, there: &Account) -> Vec<String> {
        let mut found: BTreeMap<String, Vec<(&str, bool)>> = BTreeMap::new();
        for (name, mailbox) in &there.mailboxes {
            for message in mailbox.iter().flat_map(|mailbox| &mailbox.messages) {
                let text = String::from_utf8_lossy(&message.body);
                let Some(token) = text.lines().find_map(|line| line.strip_prefix("Subject: ")) else { continue };
                found.entry(token.to_owned()).or_default().push((name, message.flags.contains(FLAG)));
            }
        }
        let mut broken = Vec::new();
        for (token, known) in &self.messages {
            let places = found.get(token).map_or(&[][..], Vec::as_slice);
            let mut say = |what: String| broken.push(format!("{}: {token}: {what}", self.account));
            if places.is_empty() && !known.may_be_gone {
                say(format!("is missing, was in {:?}", known.may_be_in));
            }
            for name in MAILBOXES {
                let times = places.iter().filter(|(at, _)| *at == name).count();
                if times > 1 {
                    say(format!("is there {times} times in `{name}`"));
                }
                if times > 0 && known.may_be_in.is_empty() {
                    say(format!("was expunged, and is back in `{name}`"));
                } else if times > 0 && !known.may_be_in.contains(name) {
                    say(format!("was moved away, and is in `{name}`"));
                }
            }
            let told = known.flagged.filter(|told| !places.is_empty() && places.iter().all(|(_, set)| set != told));
            if let Some(told) = told {
                say(format!("its flag is {}, told was {told}", !told));
            }
        }
        broken
    }
}

/// One user.
pub struct Keeper {
    at: Endpoint,
    password: String,
    run: String,
    random: StdRng,
    pause: Duration,
    session: Option<Imap>,
    count: u64,
    ledger: Ledger,
}

impl Keeper {
    /// A user whose choices follow from `seed`. `run` is part of every message's name.
    #[must_use]
    pub fn new(at: Endpoint, account: &str, password: &str, run: &str, seed: u64, pause: Duration) -> Self {
        Self {
            at,
            password: password.to_owned(),
            run: run.to_owned(),
            random: StdRng::seed_from_u64(seed),
            pause,
            session: None,
            count: 0,
            ledger: Ledger { account: account.to_owned(), ..Ledger::default() },
        }
    }

    /// Works until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool) -> Ledger {
        while !stop.load(Ordering::Relaxed) {
            self.step();
            std::thread::sleep(self.pause);
        }
        if let Some(session) = self.session.take() {
            session.logout();
        }
        self.ledger
    }

    fn step(&mut self) {
        if self.session.is_none() {
            self.session = self.connect();
        }
        let Some(mut imap) = self.session.take() else {
            self.ledger.unreachable += 1;
            std::thread::sleep(RETRY_WAIT);
            return;
        };
        let at_hand = self.at_hand();
        let chosen = (!at_hand.is_empty()).then(|| at_hand[self.random.random_range(0..at_hand.len())].clone());
        let done = match (self.random.random_range(0..10), chosen) {
            (0..4, _) | (_, None) => self.add(&mut imap),
            (4..7, Some(token)) => self.flag(&mut imap, &token),
            (7..9, Some(token)) => self.shift(&mut imap, &token),
            (_, Some(token)) => self.expunge(&mut imap, &token),
        };
        match done {
            Ok(Some(name)) => *self.ledger.done.entry(name).or_default() += 1,
            Ok(None) => {}
            Err(Error::Refused(_)) => {
                // The session may be one of a node that lost its lease: the next is another one.
                self.ledger.refused += 1;
                imap.logout();
                return;
            }
            Err(_) => {
                self.ledger.unknown += 1;
                return;
            }
        }
        self.session = Some(imap);
    }

    /// Messages of which all is known, the newest ones.
    fn at_hand(&self) -> Vec<String> {
        let sure = |known: &Known| known.may_be_in.len() == 1 && !known.may_be_gone;
        let all = self.ledger.messages.iter().filter(|(_, known)| sure(known)).map(|(token, _)| token);
        all.rev().take(AT_HAND).cloned().collect()
    }

    fn connect(&mut self) -> Option<Imap> {
        let mut imap =
            Imap::login(&self.at.host, self.at.port, &self.ledger.account, &self.password, CLIENT_WAIT).ok()?;
        for mailbox in MAILBOXES {
            let _ = imap.command(&format!("CREATE {mailbox}")); // already there after the first time
        }
        Some(imap)
    }

    fn add(&mut self, imap: &mut Imap) -> Result<Option<&'static str>, Error> {
        self.count += 1;
        let token = format!("{}-keep-{:06}", self.run, self.count);
        let text = format!("Message-ID: <{token}@keep.example.test>\r\nSubject: {token}\r\n\r\nKeep this.\r\n");
        let known = Known { may_be_in: [MAILBOXES[0]].into(), may_be_gone: false, flagged: Some(false) };
        let done = imap.append(MAILBOXES[0], "", text.as_bytes());
        match done {
            Ok(_) => _ = self.ledger.messages.insert(token, known),
            Err(ref error) if !matches!(error, Error::Refused(_)) => {
                self.ledger.messages.insert(token, Known { may_be_gone: true, ..known });
            }
            Err(_) => {}
        }
        done.map(|_| Some("append"))
    }

    /// Opens the message's mailbox and finds it; `None` when it is not there.
    fn find(&mut self, imap: &mut Imap, token: &str) -> Result<Option<u64>, Error> {
        let Some(name) = self.ledger.messages.get(token).and_then(|known| known.may_be_in.first().copied()) else {
            return Ok(None);
        };
        imap.command(&format!("SELECT {name}"))?;
        let reply = imap.command(&format!("UID SEARCH HEADER Message-ID {token}"))?;
        let hit = reply.untagged.iter().find(|parts| parts.first().and_then(|v| v.text()).as_deref() == Some("SEARCH"));
        let uid = hit.and_then(|parts| parts.get(1)?.number());
        if uid.is_none() {
            self.ledger.not_found.push(format!("{}: {token} in `{name}`", self.ledger.account));
            self.know(token, |known| known.may_be_gone = false);
        }
        Ok(uid)
    }

    fn know(&mut self, token: &str, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.ledger.messages.get_mut(token) {
            change(known);
        }
    }

    fn flag(&mut self, imap: &mut Imap, token: &str) -> Result<Option<&'static str>, Error> {
        let Some(uid) = self.find(imap, token)? else { return Ok(None) };
        let set = self.random.random_bool(0.7);
        let done = imap.command(&format!("UID STORE {uid} {}FLAGS ({FLAG})", if set { '+' } else { '-' }));
        match &done {
            Ok(_) => self.know(token, |known| known.flagged = Some(set)),
            Err(Error::Refused(_)) => {}
            Err(_) => self.know(token, |known| known.flagged = None),
        }
        done.map(|_| Some("flag"))
    }

    fn shift(&mut self, imap: &mut Imap, token: &str) -> Result<Option<&'static str>, Error> {
        let Some(uid) = self.find(imap, token)? else { return Ok(None) };
        let from = self.ledger.messages.get(token).and_then(|known| known.may_be_in.first().copied());
        let to = if from == Some(MAILBOXES[0]) { MAILBOXES[1] } else { MAILBOXES[0] };
        let done = imap.command(&format!("UID MOVE {uid} {to}"));
        match &done {
            Ok(_) => self.know(token, |known| known.may_be_in = [to].into()),
            // A move is a copy and an expunge; refused in the middle of it, the copy stays (`lib-storage` undoes none).
            Err(_) => self.know(token, |known| _ = known.may_be_in.insert(to)),
        }
        done.map(|_| Some("move"))
    }

    fn expunge(&mut self, imap: &mut Imap, token: &str) -> Result<Option<&'static str>, Error> {
        let Some(uid) = self.find(imap, token)? else { return Ok(None) };
        let marked = imap.command(&format!("UID STORE {uid} +FLAGS (\\Deleted)"));
        let done = marked.and_then(|_| imap.command(&format!("UID EXPUNGE {uid}")));
        match &done {
            Ok(_) => self.know(token, |known| *known = Known { may_be_gone: true, ..Known::default() }),
            Err(_) => self.know(token, |known| known.may_be_gone = true),
        }
        done.map(|_| Some("expunge"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::{Mailbox, Message};

    fn account(mail: &[(&str, &[(&str, bool)])]) -> Account {
        let message = |(token, flagged): &(&str, bool)| Message {
            uid: 1,
            flags: flagged.then(|| FLAG.to_owned()).into_iter().collect(),
            internal_date: String::new(),
            body: format!("Subject: {token}\r\n\r\n").into_bytes(),
        };
        let mailbox = |messages: &[(&str, bool)]| Mailbox {
            uid_validity: 1,
            uid_next: 9,
            messages: messages.iter().map(message).collect(),
        };
        let mailboxes = mail.iter().map(|(name, of)| ((*name).to_owned(), Some(mailbox(of)))).collect();
        Account { mailboxes, ..Account::default() }
    }

    #[test]
    fn what_was_told_is_held_against_what_is_there() {
        let known = |places: &[&'static str], may_be_gone, flagged| Known {
            may_be_in: places.iter().copied().collect(),
            may_be_gone,
            flagged,
        };
        let mut ledger = Ledger { account: "a".to_owned(), ..Ledger::default() };
        for (token, known) in [
            ("fine", known(&["Desk"], false, Some(true))),
            ("lost", known(&["Desk"], false, Some(false))),
            ("twice", known(&["Desk"], false, None)),
            ("moved", known(&["Shelf"], false, None)),
            ("back", known(&[], true, None)),
            ("flag", known(&["Desk"], false, Some(true))),
            ("maybe", known(&["Desk", "Shelf"], true, None)),
        ] {
            ledger.messages.insert(token.to_owned(), known);
        }
        let desk =
            [("fine", true), ("twice", false), ("twice", false), ("moved", false), ("back", false), ("flag", false)];
        let broken = ledger.broken(&account(&[("Desk", &desk), ("Shelf", &[])]));
        let of = |token: &str| broken.iter().filter(|line| line.contains(&format!("{token}:"))).count();
        assert_eq!(
            ["fine", "lost", "twice", "moved", "back", "flag", "maybe"].map(of),
            [0, 1, 1, 1, 1, 1, 0],
            "{broken:?}"
        );
    }
}
