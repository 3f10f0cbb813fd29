//! The availability ledger: when each node and each group was up or down, as this node's probes saw it.
//!
//! Owns: observed time and failures by day ([`Ledger`]), the figures made of them ([`figures`]) and their files
//! ([`file`]). What can hurt: a time in which nobody looked that counts as up; between two sights that are too far
//! apart nothing is counted. A service that flaps is one failure, not a hundred. Refuses: clocks; what it is told has
//! a wall time, since the record is for people, and decides nothing.

pub mod figures;
pub mod file;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use understudy_types::id::{GroupId, NodeId};

use crate::limits::{LEDGER_DAYS_MAX, LEDGER_FAILURES_MAX, LEDGER_FLAP_MS, LEDGER_SIGHT_MS_MAX};

/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;

/// Whose availability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Node(NodeId),
    Group(GroupId),
}

impl Subject {
    fn key(self) -> String {
        match self {
            Self::Node(node) => format!("node/{node}"),
            Self::Group(group) => format!("group/{}", group.0),
        }
    }

    fn parse(key: &str) -> Option<Self> {
        match key.split_once('/')? {
            ("node", number) => NodeId::new(number.parse().ok()?).map(Self::Node),
            ("group", number) => number.parse().ok().map(|number| Self::Group(GroupId(number))),
            _ => None,
        }
    }
}

/// What was seen of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Up,
    /// For so long already, in milliseconds.
    Down {
        failing_ms: u64,
    },
    Unknown,
}

/// One look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    pub of: Subject,
    pub seen: Seen,
    /// Users that it serves.
    pub users: u64,
}

/// A failure, with the pauses of a flapping service in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub from_ms: u64,
    /// When it was last seen down.
    pub to_ms: u64,
    /// Time that was seen down; less than `to_ms - from_ms` where it flapped or nobody looked.
    pub down_ms: u64,
    /// Not seen up since.
    pub open: bool,
}

/// A subject on one day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    pub up_ms: u64,
    pub down_ms: u64,
    /// Time down, times the users that were served.
    pub user_ms: u64,
    /// Those that began on this day.
    pub failures: Vec<Failure>,
}

/// A day by subject, as it stands in a file.
pub type Page = BTreeMap<String, Day>;

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    days: BTreeMap<u64, BTreeMap<Subject, Day>>,
    /// The last look, where it knew anything: was it up, and when.
    last: BTreeMap<Subject, (bool, u64)>,
    /// Days that are not in their file as they are here.
    dirty: BTreeSet<u64>,
}

impl Ledger {
    /// Takes a day that was read from a file.
    pub fn put(&mut self, day: u64, page: Page) {
        let subjects = page.into_iter().filter_map(|(key, day)| Some((Subject::parse(&key)?, day)));
        self.days.insert(day, subjects.collect());
    }

    /// Takes what was seen.
    pub fn on(&mut self, sight: Sight, now_ms: u64) {
        let Sight { of, seen, users } = sight;
        let last = self.last.remove(&of);
        let passed_ms = |at: u64| now_ms.checked_sub(at).filter(|passed| *passed <= LEDGER_SIGHT_MS_MAX);
        let (was_up, known_ms) = last.and_then(|(was_up, at)| Some((was_up, passed_ms(at)?))).unwrap_or((true, 0));
        let down_ms = match seen {
            Seen::Unknown => return,
            Seen::Up if was_up => 0,
            Seen::Up => known_ms,
            Seen::Down { failing_ms } if was_up => failing_ms.min(known_ms),
            Seen::Down { .. } => known_ms,
        };
        let today = now_ms / DAY_MS;
        let day = self.days.entry(today).or_default().entry(of).or_default();
        day.up_ms += known_ms - down_ms;
        day.down_ms += down_ms;
        day.user_ms += down_ms.saturating_mul(users);
        self.dirty.insert(today);
        self.last.insert(of, (seen == Seen::Up, now_ms));
        match seen {
            Seen::Up => self.close(of, down_ms, now_ms),
            _ => self.fail(of, down_ms, now_ms),
        }
        while self.days.len() > LEDGER_DAYS_MAX {
            self.days.pop_first();
        }
    }

    /// The last failure of a subject, and its day.
    fn newest(&mut self, of: Subject) -> Option<(u64, &mut Failure)> {
        let days = self.days.iter_mut().rev();
        days.filter_map(|(day, page)| Some((*day, page.get_mut(&of)?.failures.last_mut()?))).next()
    }

    fn close(&mut self, of: Subject, down_ms: u64, now_ms: u64) {
        let Some((day, failure)) = self.newest(of).filter(|(_, failure)| failure.open) else { return };
        failure.open = false;
        failure.down_ms += down_ms;
        if down_ms > 0 {
            failure.to_ms = failure.to_ms.max(now_ms);
        }
        self.dirty.insert(day);
    }

    fn fail(&mut self, of: Subject, down_ms: u64, now_ms: u64) {
        let from_ms = now_ms - down_ms;
        let today = now_ms / DAY_MS;
        let full = self.days.get(&today).and_then(|page| page.get(&of));
        let full = full.is_some_and(|day| day.failures.len() >= LEDGER_FAILURES_MAX);
        let same = |failure: &Failure| failure.open || full || from_ms.saturating_sub(failure.to_ms) <= LEDGER_FLAP_MS;
        if let Some((day, failure)) = self.newest(of).filter(|(_, failure)| same(failure)) {
            failure.open = true;
            failure.to_ms = failure.to_ms.max(now_ms);
            failure.down_ms += down_ms;
            self.dirty.insert(day);
            return;
        }
        let day = self.days.entry(today).or_default().entry(of).or_default();
        day.failures.push(Failure { from_ms, to_ms: now_ms, down_ms, open: true });
    }

    /// Days that are to be written, and that are written then.
    pub fn take_dirty(&mut self) -> Vec<(u64, Page)> {
        let page = |day: &u64| {
            let page = self.days.get(day)?.iter().map(|(of, day)| (of.key(), day.clone())).collect();
            Some((*day, page))
        };
        let pages = self.dirty.iter().filter_map(page).collect();
        self.dirty.clear();
        pages
    }

    /// A day could not be written.
    pub fn keep_dirty(&mut self, day: u64) {
        self.dirty.insert(day);
    }

    /// Everybody of whom anything is known.
    #[must_use]
    pub fn subjects(&self) -> BTreeSet<Subject> {
        self.days.values().flat_map(BTreeMap::keys).copied().collect()
    }

    /// The days of a subject from one on.
    fn days_of(&self, of: Subject, from_day: u64) -> impl Iterator<Item = &Day> {
        self.days.range(from_day..).filter_map(move |(_, page)| page.get(&of))
    }

    /// What was seen last, if that was a short time ago.
    #[must_use]
    pub fn now(&self, of: Subject, now_ms: u64) -> Option<bool> {
        let (is_up, at) = self.last.get(&of)?;
        (now_ms.saturating_sub(*at) <= LEDGER_SIGHT_MS_MAX).then_some(*is_up)
    }
}

#[cfg(test)]
mod tests;
