//! Parked accounts: those whose operations wait on this replica while the others' go on.
//!
//! Owns: why each waits, since which operation, and when it is looked at next. Pure. What can hurt: an account that
//! waits for ever; every reason has a next try or a question that is asked again. Refuses: passing over an operation.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::MonoNs;
use crate::limits::{
    BODY_ASK_MS, BODY_GRACE_MS, PARK_RETRY_MS_MAX, PARK_RETRY_MS_MIN, POISON_RETRY_MS, RESYNC_ASK_MS, SNAPSHOT_RETRY_MS,
};

/// Why an account waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Reason {
    /// The body of an operation is missing or damaged in central storage.
    Body { blob: String, damaged: bool },
    /// The store refused an operation, or failed for the time being.
    Store { status: String },
    /// The replica cannot follow by operations: a snapshot is asked for. `bodies` = with all bodies.
    NeedsSnapshot { bodies: bool },
    /// A snapshot with this number is on its way.
    Snapshot { number: u64 },
    /// An administrator paused the account.
    Paused,
    /// The store died over an operation of the account again and again.
    Poison,
}

/// One parked account, as kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// First operation of the group's stream that was not applied for this account.
    pub since_seq: u64,
    /// The operation at fault, for people: kind, mailbox, UID and what failed.
    pub detail: String,
    #[serde(flatten)]
    pub reason: Reason,
}

#[derive(Clone, Debug)]
struct Waiting {
    parked: Parked,
    attempts: u32,
    /// Snapshots that came and did not help.
    failed: u32,
    since: MonoNs,
    next_try: MonoNs,
    /// When a body that stays away was asked for last.
    asked: MonoNs,
}

/// The parked accounts of one group.
#[derive(Clone, Debug, Default)]
pub struct Lot {
    accounts: BTreeMap<String, Waiting>,
}

impl Lot {
    /// Takes back what was kept on disk.
    #[must_use]
    pub fn restore(kept: impl IntoIterator<Item = (String, Parked)>, now: MonoNs) -> Self {
        let waiting = |parked| Waiting { parked, attempts: 0, failed: 0, since: now, next_try: now, asked: now };
        Self { accounts: kept.into_iter().map(|(account, parked)| (account, waiting(parked))).collect() }
    }

    /// Parks an account, or changes why it is parked. The waits start anew when the reason is another one.
    pub fn park(&mut self, account: &str, parked: Parked, now: MonoNs) {
        let retry_ms = if parked.reason == Reason::Poison { POISON_RETRY_MS } else { PARK_RETRY_MS_MIN };
        let retry = Duration::from_millis(retry_ms);
        match self.accounts.get_mut(account) {
            Some(waiting) if waiting.parked.reason == parked.reason && waiting.parked.since_seq == parked.since_seq => {
                let exponent = waiting.attempts.min(20);
                let wait_ms = (PARK_RETRY_MS_MIN << exponent).min(PARK_RETRY_MS_MAX).max(retry_ms);
                waiting.attempts = waiting.attempts.saturating_add(1);
                waiting.next_try = now.after(Duration::from_millis(wait_ms));
                waiting.parked.detail = parked.detail;
            }
            Some(waiting) => {
                // A snapshot is dear: the next one is asked for after growing waits (seen: four a second, for ever).
                let of_no_use = matches!(
                    (&waiting.parked.reason, &parked.reason),
                    (Reason::Snapshot { .. }, Reason::NeedsSnapshot { .. })
                );
                let failed = waiting.failed + u32::from(of_no_use);
                let wait_ms = match parked.reason {
                    Reason::Poison => POISON_RETRY_MS,
                    _ if of_no_use => SNAPSHOT_RETRY_MS << failed.min(6),
                    _ => PARK_RETRY_MS_MIN,
                };
                let next_try = now.after(Duration::from_millis(wait_ms));
                *waiting = Waiting { parked, attempts: 0, failed, since: waiting.since, next_try, asked: now };
            }
            None => {
                let waiting =
                    Waiting { parked, attempts: 0, failed: 0, since: now, next_try: now.after(retry), asked: now };
                self.accounts.insert(account.to_owned(), waiting);
            }
        }
    }

    /// An administrator says that now is the time. `false`: the account is not parked, or waits for a snapshot.
    pub fn retry(&mut self, account: &str, now: MonoNs) -> bool {
        let Some(waiting) = self.accounts.get_mut(account) else { return false };
        waiting.next_try = now;
        waiting.attempts = 0;
        is_tried(&waiting.parked.reason)
    }

    /// Lets an account go.
    pub fn release(&mut self, account: &str) -> bool {
        self.accounts.remove(account).is_some()
    }

    /// Why the account waits, if it does.
    #[must_use]
    pub fn get(&self, account: &str) -> Option<&Parked> {
        self.accounts.get(account).map(|waiting| &waiting.parked)
    }

    /// Everybody who waits.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Parked)> {
        self.accounts.iter().map(|(account, waiting)| (account.as_str(), &waiting.parked))
    }

    /// Whether the account has waited so long that people should know. A body that is some moments late is normal.
    #[must_use]
    pub fn is_quarantined(&self, account: &str, now: MonoNs) -> bool {
        self.accounts.get(account).is_some_and(|waiting| match waiting.parked.reason {
            Reason::Body { damaged: true, .. } | Reason::Store { .. } | Reason::Poison => true,
            Reason::Body { .. } => now.since_ns(waiting.since) > BODY_GRACE_MS * 1_000_000,
            Reason::NeedsSnapshot { .. } | Reason::Snapshot { .. } | Reason::Paused => false,
        })
    }

    /// Accounts whose operations are to be tried again now. Those that wait for a snapshot are not among them.
    #[must_use]
    pub fn due(&self, now: MonoNs) -> Vec<String> {
        let ready = |w: &Waiting| w.next_try <= now && is_tried(&w.parked.reason);
        self.accounts.iter().filter(|(_, w)| ready(w)).map(|(account, _)| account.clone()).collect()
    }

    /// Accounts for which a snapshot is to be asked for now, and whether with bodies. Asking again is due when
    /// nothing came for [`RESYNC_ASK_MS`]; `progress` of a snapshot counts as an answer.
    pub fn ask(&mut self, now: MonoNs) -> Vec<(String, bool)> {
        let mut asks = Vec::new();
        for (account, waiting) in &mut self.accounts {
            let bodies = match waiting.parked.reason {
                Reason::NeedsSnapshot { bodies } => bodies,
                Reason::Snapshot { .. } => false,
                // A body that stays away is asked for too: the active's store still has it.
                Reason::Body { .. } if now.since_ns(waiting.since) > BODY_ASK_MS * 1_000_000 => {
                    if now.since_ns(waiting.asked) > BODY_ASK_MS * 1_000_000 {
                        waiting.asked = now;
                        asks.push((account.clone(), true));
                    }
                    continue;
                }
                _ => continue,
            };
            if waiting.next_try <= now {
                // An unfinished snapshot is asked for again only after a pause: its active may have died.
                let first_sight = waiting.attempts == 0 && matches!(waiting.parked.reason, Reason::Snapshot { .. });
                waiting.next_try = now.after(Duration::from_millis(RESYNC_ASK_MS));
                waiting.attempts = waiting.attempts.saturating_add(1);
                if !first_sight {
                    asks.push((account.clone(), bodies));
                }
            }
        }
        asks
    }

    /// Notes that operations of a snapshot arrived: it is alive.
    pub fn progress(&mut self, account: &str, now: MonoNs) {
        if let Some(waiting) = self.accounts.get_mut(account)
            && matches!(waiting.parked.reason, Reason::Snapshot { .. })
        {
            waiting.next_try = now.after(Duration::from_millis(RESYNC_ASK_MS));
            waiting.attempts = waiting.attempts.max(1);
        }
    }

    /// First operation that some parked account still needs; the journal must keep it.
    #[must_use]
    pub fn first_needed_seq(&self) -> Option<u64> {
        self.accounts.values().map(|waiting| waiting.parked.since_seq).min()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
}

/// Whether operations of an account that waits for this are tried again by and by.
fn is_tried(reason: &Reason) -> bool {
    matches!(reason, Reason::Body { .. } | Reason::Store { .. } | Reason::Poison)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(since_seq: u64) -> Parked {
        Parked { since_seq, detail: String::new(), reason: Reason::Body { blob: "b".into(), damaged: false } }
    }

    const fn ms(n: u64) -> MonoNs {
        MonoNs(n * 1_000_000)
    }

    #[test]
    fn tries_come_with_growing_waits_and_never_end() {
        let mut lot = Lot::default();
        lot.park("u", body(5), ms(0));
        assert!(lot.due(ms(0)).is_empty());
        assert_eq!(lot.due(ms(PARK_RETRY_MS_MIN)), ["u"]);
        for _ in 0..100 {
            lot.park("u", body(5), ms(1000));
        }
        assert!(lot.due(ms(1000)).is_empty());
        assert_eq!(lot.due(ms(1000 + PARK_RETRY_MS_MAX)), ["u"]);
        assert_eq!(lot.first_needed_seq(), Some(5));
        assert!(lot.release("u") && lot.is_empty());
    }

    #[test]
    fn a_late_body_is_normal_and_a_missing_one_is_told() {
        let mut lot = Lot::default();
        lot.park("u", body(5), ms(0));
        assert!(!lot.is_quarantined("u", ms(BODY_GRACE_MS)));
        assert!(lot.is_quarantined("u", ms(BODY_GRACE_MS + 1)));
        let damaged = Parked { reason: Reason::Body { blob: "b".into(), damaged: true }, ..body(5) };
        lot.park("v", damaged, ms(0));
        assert!(lot.is_quarantined("v", ms(0)), "damage does not pass by itself");
    }

    #[test]
    fn a_snapshot_that_did_not_help_is_asked_for_again_after_growing_waits() {
        let mut lot = Lot::default();
        let needs = || Parked { reason: Reason::NeedsSnapshot { bodies: false }, ..body(7) };
        lot.park("u", needs(), ms(0));
        let (mut at, mut waits) = (PARK_RETRY_MS_MIN, Vec::new());
        for number in 1..4 {
            lot.park("u", Parked { reason: Reason::Snapshot { number }, ..body(7 + number) }, ms(at));
            lot.park("u", needs(), ms(at));
            let asked = (at..at + 100_000).step_by(100).find(|now| !lot.ask(ms(*now)).is_empty()).unwrap();
            waits.push(asked - at);
            at = asked;
        }
        assert_eq!(waits, [2 * SNAPSHOT_RETRY_MS, 4 * SNAPSHOT_RETRY_MS, 8 * SNAPSHOT_RETRY_MS]);
    }

    #[test]
    fn a_snapshot_is_asked_for_again_when_nothing_comes() {
        let mut lot = Lot::default();
        let needs = Parked { reason: Reason::NeedsSnapshot { bodies: true }, ..body(7) };
        lot.park("u", needs, ms(0));
        assert_eq!(lot.ask(ms(10)), [("u".to_owned(), true)]);
        assert!(lot.ask(ms(20)).is_empty());
        let coming = Parked { reason: Reason::Snapshot { number: 3 }, ..body(9) };
        lot.park("u", coming, ms(100));
        lot.progress("u", ms(200));
        assert!(lot.ask(ms(200 + RESYNC_ASK_MS - 1)).is_empty());
        assert_eq!(lot.ask(ms(200 + RESYNC_ASK_MS)).len(), 1, "the active may have died half way");
    }
}
