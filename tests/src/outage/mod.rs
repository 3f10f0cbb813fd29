//! What users see of an outage: sessions and deliveries through the proxies at a steady pace, each with its outcome.
//!
//! Owns: the threads, the pace, and what was acknowledged. Attempts of one account begin at fixed times, whether or not
//! earlier ones have ended, so that one that hangs hides nothing. What can hurt: a machine too slow for the pace;
//! beginnings that were missed are left out, and [`Series::pause_max_ms`] shows it. Refuses: judging a length.

mod check;
mod record;
mod users;

pub use check::{Verdict, check};
pub use record::{Attempt, Outage, Series, median};

use crate::mesh::{Endpoint, State};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};
use users::{Place, Work};

/// A thread that waits looks this often whether it is to end.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// What is to be tried, and how often.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where users log in; `None`: they do not.
    pub imap: Option<Endpoint>,
    /// Where mail is handed over; `None`: none is.
    pub smtp: Option<Endpoint>,
    /// Names and passwords.
    pub accounts: Vec<(String, String)>,
    /// Between the beginnings of two attempts of one kind for one account.
    pub interval: Duration,
    /// Every step of an attempt that takes longer has failed.
    pub step_timeout: Duration,
    /// Attempts of one kind and account that may be under way at one time. With fewer than `step_timeout / interval`
    /// an outage is seen less sharply.
    pub workers: u32,
    /// Every so many-th session adds a message; the others look for new ones. 0: none adds.
    pub append_every: u64,
}

impl Setup {
    /// All accounts of a mesh through its proxies, each 20 times a second, steps of at most a second.
    ///
    /// # Errors
    /// When the mesh has no proxies.
    pub fn of(state: &State) -> Result<Self> {
        let proxy = state.proxy.clone().context("this mesh has no proxies")?;
        Ok(Self {
            imap: Some(proxy.imap),
            smtp: Some(proxy.smtp),
            accounts: state.accounts.iter().map(|a| (a.name.clone(), a.password.clone())).collect(),
            interval: Duration::from_millis(50),
            step_timeout: Duration::from_secs(1),
            workers: 20,
            append_every: 4,
        })
    }
}

/// Something that was done meanwhile, such as a kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub name: String,
    pub at_ms: u64,
}

/// All that one account's users met. Times are since the prober began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub imap: Vec<Attempt>,
    pub smtp: Vec<Attempt>,
    /// Identities of messages that were acknowledged, and when.
    pub acknowledged: BTreeMap<String, u64>,
    /// Identities of messages whose fate nobody was told.
    pub unknown: BTreeSet<String>,
    /// When a message was first seen in INBOX.
    pub seen: BTreeMap<String, u64>,
}

/// Everything that a prober met.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Wall time of the beginning, in milliseconds since 1970.
    pub started_wall_ms: u64,
    pub length_ms: u64,
    pub marks: Vec<Mark>,
    pub accounts: Vec<Account>,
}

/// [`Record`] in figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub length_ms: u64,
    pub marks: Vec<Mark>,
    pub accounts: Vec<AccountReport>,
}

/// One account in figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountReport {
    pub name: String,
    pub imap: Series,
    pub smtp: Series,
    pub delivery: Delivery,
    pub acknowledged: u64,
    pub unknown: u64,
}

/// From the acknowledgement of a delivery until a session saw the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub seen: u64,
    /// Acknowledged, and not seen yet.
    pub waiting: u64,
    pub max_ms: u64,
    pub median_ms: u64,
}

impl Record {
    /// All of it in figures.
    #[must_use]
    pub fn report(&self) -> Report {
        self.between(0, self.length_ms)
    }

    /// In figures, the attempts that began from `from_ms` until before `to_ms`. Times count from `from_ms` then.
    #[must_use]
    pub fn between(&self, from_ms: u64, to_ms: u64) -> Report {
        let within = |at_ms: u64| (from_ms..to_ms.max(from_ms + 1)).contains(&at_ms);
        let series = |attempts: &[Attempt]| {
            let shifted = attempts.iter().filter(|a| within(a.start_ms)).map(|a| Attempt {
                start_ms: a.start_ms - from_ms,
                end_ms: a.end_ms - from_ms,
                error: a.error.clone(),
            });
            Series::of(&shifted.collect::<Vec<_>>(), to_ms.saturating_sub(from_ms))
        };
        let accounts = self.accounts.iter().map(|account| AccountReport {
            name: account.name.clone(),
            imap: series(&account.imap),
            smtp: series(&account.smtp),
            delivery: account.delivery(&within),
            acknowledged: account.acknowledged.values().filter(|at| within(**at)).count() as u64,
            unknown: account.unknown.len() as u64,
        });
        let marks = self.marks.iter().filter(|mark| within(mark.at_ms));
        Report {
            length_ms: to_ms.saturating_sub(from_ms),
            marks: marks.map(|m| Mark { name: m.name.clone(), at_ms: m.at_ms - from_ms }).collect(),
            accounts: accounts.collect(),
        }
    }
}

impl Account {
    fn delivery(&self, within: &dyn Fn(u64) -> bool) -> Delivery {
        let mut delivery = Delivery::default();
        let mut waits = Vec::new();
        for (id, at_ms) in self.acknowledged.iter().filter(|(id, at)| id.contains(SMTP) && within(**at)) {
            match self.seen.get(id) {
                Some(seen_ms) => waits.push(seen_ms.saturating_sub(*at_ms)),
                None => delivery.waiting += 1,
            }
        }
        delivery.seen = waits.len() as u64;
        delivery.max_ms = waits.iter().copied().max().unwrap_or(0);
        delivery.median_ms = median(&mut waits);
        delivery
    }
}

impl Report {
    /// All outages of all accounts and both kinds.
    pub fn outages(&self) -> impl Iterator<Item = &Outage> {
        self.accounts.iter().flat_map(|account| account.imap.outages.iter().chain(&account.smtp.outages))
    }
}

/// In the identity of a message that was delivered, and of one that was added by IMAP.
pub const SMTP: &str = "-smtp-";
const IMAP: &str = "-imap-";

/// Logs in at `at` with name and password, and adds the message of this identity.
///
/// # Errors
/// When it is not acknowledged: the step, and what was said.
pub fn add(at: &Endpoint, account: &(String, String), id: &str, timeout: Duration) -> Result<(), String> {
    users::imap(at, account, &Work::Append(id), timeout).map(|_| ()).map_err(|failure| failure.text)
}

struct Shared {
    setup: Setup,
    begun: Instant,
    started_wall_ms: u64,
    /// Part of every identity, so that what an earlier prober left is not taken for ours.
    run: String,
    stop: AtomicBool,
    count: AtomicU64,
    marks: Mutex<Vec<Mark>>,
    accounts: Vec<Mutex<(Account, Place)>>,
}

impl Shared {
    #[expect(clippy::disallowed_methods, reason = "users measure by the clock")]
    fn now(&self) -> Duration {
        Instant::now().duration_since(self.begun)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    fn account(&self, nth: usize) -> MutexGuard<'_, (Account, Place)> {
        self.accounts[nth].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `due`; `false` when the end comes first.
    fn wait(&self, due: Duration) -> bool {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = due.saturating_sub(self.now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(STOP_LOOK));
        }
    }

    /// One of the threads that take turns with attempts of one kind for one account.
    fn work(&self, account: usize, kind: &'static str, nth: u32) {
        // Accounts do not all begin at the same time.
        let apart = self.setup.interval * u32::try_from(account).unwrap_or(0)
            / u32::try_from(self.accounts.len().max(1)).unwrap_or(1);
        let due = |turn: u32| self.setup.interval.saturating_mul(turn) + apart;
        let mut turn = nth;
        while self.wait(due(turn)) {
            if kind == SMTP {
                self.deliver(account)
            } else {
                self.session(account)
            }
            turn = turn.saturating_add(self.setup.workers);
            while due(turn) < self.now() {
                turn = turn.saturating_add(self.setup.workers);
            }
        }
    }

    fn session(&self, account: usize) {
        let Some(at) = &self.setup.imap else { return };
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let every = self.setup.append_every;
        let id = (every > 0 && count.is_multiple_of(every)).then(|| format!("{}{IMAP}{count}", self.run));
        let work = id.as_deref().map_or_else(|| Work::Fetch(self.account(account).1), Work::Append);
        let start_ms = self.now_ms();
        let done = users::imap(at, &self.setup.accounts[account], &work, self.setup.step_timeout);
        let end_ms = self.now_ms();
        let mut of = self.account(account);
        let error = match done {
            Ok((ids, place)) => {
                if let Some(id) = id {
                    of.0.acknowledged.insert(id, end_ms);
                } else if (place.uid_validity, place.uid) > (of.1.uid_validity, of.1.uid) {
                    of.1 = place;
                }
                for id in ids.into_iter().filter(|id| id.starts_with(&self.run)) {
                    of.0.seen.entry(id).or_insert(end_ms);
                }
                None
            }
            Err(failure) => {
                of.0.unknown.extend(id.filter(|_| failure.fate_unknown));
                Some(failure.text)
            }
        };
        of.0.imap.push(Attempt { start_ms, end_ms, error });
    }

    fn deliver(&self, account: usize) {
        let Some(at) = &self.setup.smtp else { return };
        let id = format!("{}{SMTP}{}", self.run, self.count.fetch_add(1, Ordering::Relaxed));
        let start_ms = self.now_ms();
        let done = users::smtp(at, &self.setup.accounts[account].0, &id, self.setup.step_timeout);
        let end_ms = self.now_ms();
        let mut of = self.account(account);
        let error = match done {
            Ok(()) => {
                of.0.acknowledged.insert(id, end_ms);
                None
            }
            Err(failure) => {
                of.0.unknown.extend(Some(id).filter(|_| failure.fate_unknown));
                Some(failure.text)
            }
        };
        of.0.smtp.push(Attempt { start_ms, end_ms, error });
    }
}

/// Users at work, until [`Prober::stop`].
pub struct Prober {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Prober {
    /// Begins.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "users measure by the clock")]
    pub fn start(setup: Setup) -> Self {
        let wall = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let named = |(name, _): &(String, String)| {
            Mutex::new((Account { name: name.clone(), ..Account::default() }, Place::default()))
        };
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            started_wall_ms: u64::try_from(wall.as_millis()).unwrap_or(0),
            run: format!("p{:x}", rand::random::<u32>()),
            stop: AtomicBool::new(false),
            count: AtomicU64::new(0),
            marks: Mutex::default(),
            accounts: setup.accounts.iter().map(named).collect(),
            setup,
        });
        let mut threads = Vec::new();
        let kinds = [(IMAP, shared.setup.imap.is_some()), (SMTP, shared.setup.smtp.is_some())];
        for (kind, _) in kinds.into_iter().filter(|(_, wanted)| *wanted) {
            for account in 0..shared.accounts.len() {
                for nth in 0..shared.setup.workers {
                    let shared = shared.clone();
                    threads.push(std::thread::spawn(move || shared.work(account, kind, nth)));
                }
            }
        }
        Self { shared, threads }
    }

    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    /// Notes that something was done; when.
    pub fn mark(&self, name: &str) -> u64 {
        let at_ms = self.now_ms();
        let mut marks = self.shared.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.push(Mark { name: name.to_owned(), at_ms });
        at_ms
    }

    /// True when every account has had a session and a delivery that began after `since_ms` and succeeded.
    #[must_use]
    pub fn recovered(&self, since_ms: u64) -> bool {
        let fine = |attempts: &[Attempt], wanted: bool| {
            !wanted || attempts.iter().rev().any(|a| a.error.is_none() && a.start_ms > since_ms)
        };
        let (imap, smtp) = (self.shared.setup.imap.is_some(), self.shared.setup.smtp.is_some());
        (0..self.shared.accounts.len()).all(|nth| {
            let of = self.shared.account(nth);
            fine(&of.0.imap, imap) && fine(&of.0.smtp, smtp)
        })
    }

    /// True when of every account a message was added, and one was delivered and seen, that began after `since_ms`.
    #[must_use]
    pub fn served(&self, since_ms: u64) -> bool {
        self.unserved(since_ms).is_empty()
    }

    /// Accounts of which [`Self::served`] is not true.
    #[must_use]
    pub fn unserved(&self, since_ms: u64) -> Vec<String> {
        let served = |of: &Account| {
            let mut new = of.acknowledged.iter().filter(|(_, at)| **at > since_ms);
            let added = of.imap.iter().rev().any(|a| a.error.is_none() && a.start_ms > since_ms)
                && new.clone().any(|(id, _)| id.contains(IMAP));
            added && new.any(|(id, _)| id.contains(SMTP) && of.seen.contains_key(id))
        };
        let all = (0..self.shared.accounts.len()).map(|nth| self.shared.account(nth));
        all.filter(|of| !served(&of.0)).map(|of| of.0.name.clone()).collect()
    }

    /// Ends, after what is under way.
    #[must_use]
    pub fn stop(mut self) -> Record {
        self.end();
        self.record()
    }

    /// All so far.
    #[must_use]
    pub fn record(&self) -> Record {
        let accounts = (0..self.shared.accounts.len()).map(|nth| self.shared.account(nth).0.clone());
        Record {
            started_wall_ms: self.shared.started_wall_ms,
            length_ms: self.now_ms(),
            marks: self.shared.marks.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            accounts: accounts.collect(),
        }
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
