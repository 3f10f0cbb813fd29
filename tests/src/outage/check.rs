//! At the end: is every message that was acknowledged there, exactly once?
//!
//! Owns: reading INBOXes through the proxy, and the verdict. What can hurt: mail that still waits in Postfix's queue;
//! it is waited for, as long as the caller has patience. Refuses: excusing a duplicate; where it came from is the
//! caller's to find.

use super::{Record, users};
use crate::imap::Imap;
use crate::mesh::Endpoint;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Every wait of the reader ends after this.
const READ_WAIT: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What became of what users were promised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub acknowledged: u64,
    /// Acknowledged, and not there, as `ACCOUNT ID`.
    pub missing: Vec<String>,
    /// There more than once, as `ACCOUNT ID`; also of those whose fate was unknown.
    pub repeated: Vec<String>,
    /// Of those whose fate nobody was told: how many are there.
    pub unknown_there: u64,
    pub unknown_absent: u64,
}

impl Verdict {
    /// Every message that was acknowledged is there once.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.missing.is_empty() && self.repeated.is_empty()
    }

    fn add(&mut self, account: &super::Account, there: &BTreeMap<String, u64>) {
        let times = |id: &String| there.get(id).copied().unwrap_or(0);
        let named = |id: &String| format!("{} {id}", account.name);
        self.acknowledged += account.acknowledged.len() as u64;
        self.missing.extend(account.acknowledged.keys().filter(|id| times(id) == 0).map(named));
        let all = account.acknowledged.keys().chain(&account.unknown);
        self.repeated.extend(all.filter(|id| times(id) > 1).map(named));
        let unknown_there = account.unknown.iter().filter(|id| times(id) > 0).count() as u64;
        self.unknown_there += unknown_there;
        self.unknown_absent += account.unknown.len() as u64 - unknown_there;
    }
}

/// Reads every account's INBOX at `imap` until nothing is missing, or `patience` is over.
///
/// # Errors
/// When an account cannot be read by then.
pub fn check(record: &Record, imap: &Endpoint, passwords: &[(String, String)], patience: Duration) -> Result<Verdict> {
    let begun = now();
    loop {
        let over = begun.elapsed() >= patience;
        match look(record, imap, passwords) {
            Ok(verdict) if verdict.missing.is_empty() || over => return Ok(verdict),
            Err(error) if over => return Err(error),
            _ => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

fn look(record: &Record, at: &Endpoint, passwords: &[(String, String)]) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for account in &record.accounts {
        let known = passwords.iter().find(|(name, _)| *name == account.name);
        let (name, password) = known.with_context(|| format!("no password of `{}`", account.name))?;
        let mut imap = Imap::login(&at.host, at.port, name, password, READ_WAIT)
            .with_context(|| format!("cannot log in as `{name}`"))?;
        imap.command("EXAMINE INBOX")?;
        let mut there: BTreeMap<String, u64> = BTreeMap::new();
        for id in users::ids(&mut imap, 0)?.0 {
            *there.entry(id).or_default() += 1;
        }
        imap.logout();
        verdict.add(account, &there);
    }
    Ok(verdict)
}

#[expect(clippy::disallowed_methods, reason = "patience has an end")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_there_twice_is_named() {
        let account = crate::outage::Account {
            name: "a".to_owned(),
            acknowledged: ["once", "never", "twice"].map(|id| (id.to_owned(), 1)).into(),
            unknown: ["came", "gone"].map(str::to_owned).into(),
            ..Default::default()
        };
        let there = [("once", 1), ("twice", 2), ("came", 1)].map(|(id, n)| (id.to_owned(), n)).into();
        let mut verdict = Verdict::default();
        verdict.add(&account, &there);
        assert!(!verdict.holds());
        assert_eq!((verdict.missing, verdict.repeated), (vec!["a never".to_owned()], vec!["a twice".to_owned()]));
        assert_eq!((verdict.acknowledged, verdict.unknown_there, verdict.unknown_absent), (3, 1, 1));
    }
}
