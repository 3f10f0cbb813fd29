//! The decider of the evidence: readings in, the time of the last good sign out. Pure.
//!
//! Owns: [`TABLE`], which says what each case of a reading means, and [`Evidence`], which follows it. What can hurt: a
//! reading that never comes because its thread hangs; nothing moves then, and the last good sign grows old. Refuses:
//! bounds. How old a sign may be is the failover decider's to judge (`failover.store_stall_ms`).

use serde::{Deserialize, Serialize};

use crate::clock::BootNs;
use crate::limits::{EVIDENCE_DISK_ROUNDS_MIN, EVIDENCE_LATE_NS};

/// Where a sign of the store comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// The store's first process, as /proc shows it.
    Master,
    /// The canary that writes to the mail file system.
    Disk,
    /// The canary that asks the store's replay service.
    Store,
    /// System calls in flight, as the kernel probe sees them.
    Calls,
}

impl Sign {
    /// All of them, in the order of `self as usize`.
    pub const ALL: [Self; 4] = [Self::Master, Self::Disk, Self::Store, Self::Calls];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Disk => "disk",
            Self::Store => "store",
            Self::Calls => "calls",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Master => "the look at the store's first process",
            Self::Disk => "the disk canary",
            Self::Store => "the store canary",
            Self::Calls => "the kernel probe",
        }
    }
}

/// What a sign can show. Closed: each case has its row in [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Case {
    MasterAlive,
    MasterStopped,
    MasterZombie,
    MasterGone,
    MasterHidden,
    DiskDone,
    DiskFull,
    DiskReadOnly,
    DiskFailed,
    DiskDamaged,
    DiskForbidden,
    DiskUnnamed,
    StoreAnswered,
    StoreSilent,
    CallsYoung,
    CallsOld,
    CallsUnseen,
}

/// What a case does to its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The sign was good at the time of the reading.
    Good,
    /// A fact against the store: there is no evidence at all until the sign is good again.
    Bad,
    /// Nothing moves: the last good sign grows older.
    Ages,
    /// The sign was last good when the call began that has not returned.
    Since,
    /// The sign cannot be had here: the others decide.
    NotRequired,
}

/// One row: what a case means, and why.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub case: Case,
    pub sign: Sign,
    pub effect: Effect,
    pub why: &'static str,
}

const fn row(case: Case, sign: Sign, effect: Effect, why: &'static str) -> Row {
    Row { case, sign, effect, why }
}

/// Every case once. The head of the module draws the same in words.
pub const TABLE: [Row; 17] = {
    use Case as C;
    use Effect::{Ages, Bad, Good, NotRequired, Since};
    use Sign::{Calls, Disk, Master, Store};
    [
        row(C::MasterAlive, Master, Good, "it can start and watch the store's other processes"),
        row(C::MasterStopped, Master, Bad, "a stopped process does nothing until somebody lets it go on"),
        row(C::MasterZombie, Master, Bad, "it has ended, and its parent has not asked"),
        row(C::MasterGone, Master, Bad, "nobody listens any more, and who is left serves only what is open"),
        row(C::MasterHidden, Master, NotRequired, "/proc does not show processes of others here (`hidepid`)"),
        row(C::DiskDone, Disk, Good, "bytes reached the disk and came back"),
        row(C::DiskFull, Disk, Bad, "no message can be saved"),
        row(C::DiskReadOnly, Disk, Bad, "nothing can be changed; a file system is made so after an error"),
        row(C::DiskFailed, Disk, Bad, "the disk or the file system says that it failed"),
        row(C::DiskDamaged, Disk, Bad, "what was read is not what was written"),
        row(C::DiskForbidden, Disk, NotRequired, "the agent may not write there, which says nothing of the store"),
        row(C::DiskUnnamed, Disk, NotRequired, "`store.mail_paths` is empty"),
        row(C::StoreAnswered, Store, Good, "its processes and their sockets work"),
        row(C::StoreSilent, Store, Ages, "it may be busy, or about to be started; time tells"),
        row(C::CallsYoung, Calls, Good, "no call that does work is in flight, or all are young"),
        row(C::CallsOld, Calls, Since, "the call that does work and is oldest has not returned since"),
        row(C::CallsUnseen, Calls, NotRequired, "without kernel programs the canaries decide"),
    ]
};

/// What one source says at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Time passed.
    Tick,
    /// A step that may hang has begun.
    Began { sign: Sign, step: &'static str },
    /// A case, and what was seen, for people. `age_ns` counts for [`Effect::Since`] only.
    Saw { case: Case, text: String, age_ns: u64 },
}

impl Reading {
    /// A case that needs no age.
    #[must_use]
    pub fn saw(case: Case, text: impl Into<String>) -> Self {
        Self::Saw { case, text: text.into(), age_ns: 0 }
    }
}

/// One sign as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignState {
    pub sign: Sign,
    pub is_required: bool,
    pub good_at: Option<BootNs>,
    /// A fact against the store.
    pub fact: Option<String>,
    /// What was seen last, where it was not good; why a sign is not required.
    pub text: String,
    /// The step under way.
    pub step: String,
    /// Good rounds since the last fact.
    rounds: u32,
}

/// What is known of the store.
#[derive(Clone, Debug)]
pub struct Evidence {
    signs: [SignState; 4],
    now: BootNs,
}

impl Default for Evidence {
    fn default() -> Self {
        let sign = |sign| SignState {
            sign,
            is_required: true,
            good_at: None,
            fact: None,
            text: String::new(),
            step: String::new(),
            rounds: 0,
        };
        Self { signs: Sign::ALL.map(sign), now: BootNs(0) }
    }
}

impl Evidence {
    /// Takes a reading of the moment `now`. Readings of several threads may arrive in another order; a sign's last good
    /// time never goes back, but for [`Effect::Since`], which says that it was told too late.
    pub fn on(&mut self, reading: Reading, now: BootNs) {
        self.now = self.now.max(now);
        match reading {
            Reading::Tick => {}
            Reading::Began { sign, step } => step.clone_into(&mut self.signs[sign as usize].step),
            Reading::Saw { case, text, age_ns } => {
                let Some(row) = TABLE.iter().find(|row| row.case == case) else { return };
                self.signs[row.sign as usize].take(row.effect, text, age_ns, now);
            }
        }
    }

    /// When the last of all required signs was good: the oldest of them. `None`: one was never seen, or there is a fact
    /// against the store.
    #[must_use]
    pub fn good_at(&self) -> Option<BootNs> {
        let required = || self.signs.iter().filter(|sign| sign.is_required);
        if required().any(|sign| sign.fact.is_some() || sign.good_at.is_none()) {
            return None;
        }
        required().filter_map(|sign| sign.good_at).min()
    }

    /// What is wrong, for people; empty when nothing is. It holds no ages, so it changes only when something does.
    #[must_use]
    pub fn why(&self) -> String {
        let facts: Vec<&str> = self.signs.iter().filter_map(|sign| sign.fact.as_deref()).collect();
        if !facts.is_empty() {
            return facts.join("; ");
        }
        let late = self.signs.iter().filter(|sign| sign.is_required && sign.is_late(self.now));
        late.map(SignState::lateness).collect::<Vec<_>>().join("; ")
    }

    /// Every sign as it stands.
    #[must_use]
    pub fn signs(&self) -> &[SignState] {
        &self.signs
    }

    /// Whether there is a fact against the store.
    #[must_use]
    pub fn has_fact(&self) -> bool {
        self.signs.iter().any(|sign| sign.fact.is_some())
    }
}

impl SignState {
    fn take(&mut self, effect: Effect, text: String, age_ns: u64, now: BootNs) {
        self.step.clear();
        self.is_required = effect != Effect::NotRequired;
        match effect {
            Effect::Good => {
                self.rounds = self.rounds.saturating_add(1);
                // A disk that fails now and then is not good for having worked once in between.
                if self.fact.is_some() && self.sign == Sign::Disk && self.rounds < EVIDENCE_DISK_ROUNDS_MIN {
                    return;
                }
                self.fact = None;
                self.text.clear();
                self.good_at = self.good_at.max(Some(now));
            }
            Effect::Bad => {
                self.rounds = 0;
                self.fact = Some(text);
            }
            Effect::Ages => self.text = text,
            Effect::Since => {
                self.text = text;
                self.good_at = Some(BootNs(now.0.saturating_sub(age_ns)));
            }
            Effect::NotRequired => {
                self.fact = None;
                self.text = text;
            }
        }
    }

    fn is_late(&self, now: BootNs) -> bool {
        self.good_at.is_none_or(|at| now.since_ns(at) >= EVIDENCE_LATE_NS)
    }

    fn lateness(&self) -> String {
        let words = self.sign.words();
        match (self.text.is_empty(), self.step.is_empty()) {
            (false, _) => format!("{words}: {}", self.text),
            (true, false) => format!("{words}: `{}` has not returned", self.step),
            (true, true) if self.good_at.is_none() => format!("{words} has shown nothing yet"),
            (true, true) => format!("{words} is late"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> BootNs {
        BootNs(ms * MS)
    }

    /// All signs good at 1 s.
    fn good() -> Evidence {
        let mut evidence = Evidence::default();
        for case in [Case::MasterAlive, Case::DiskDone, Case::StoreAnswered, Case::CallsYoung] {
            assert_eq!(evidence.good_at(), None, "before {case:?}");
            evidence.on(Reading::saw(case, ""), at(1000));
        }
        evidence
    }

    fn others(sign: Sign) -> Vec<Case> {
        let all = [Case::MasterAlive, Case::DiskDone, Case::StoreAnswered, Case::CallsYoung];
        all.into_iter().enumerate().filter(|(index, _)| *index != sign as usize).map(|(_, case)| case).collect()
    }

    #[test]
    fn every_row_of_the_table_does_what_it_says() {
        let mut seen = Vec::new();
        for row in TABLE {
            assert!(!seen.contains(&row.case), "{:?} twice", row.case);
            seen.push(row.case);
            let mut evidence = good();
            assert_eq!(evidence.good_at(), Some(at(1000)));
            for case in others(row.sign) {
                evidence.on(Reading::saw(case, ""), at(5000));
            }
            evidence.on(Reading::Saw { case: row.case, text: "what was seen".to_owned(), age_ns: 3000 * MS }, at(5000));
            let expected = match row.effect {
                Effect::Good | Effect::NotRequired => Some(at(5000)),
                Effect::Bad => None,
                Effect::Ages => Some(at(1000)),
                Effect::Since => Some(at(2000)),
            };
            assert_eq!(evidence.good_at(), expected, "{row:?}");
            let is_said = evidence.why().contains("what was seen");
            assert_eq!(is_said, matches!(row.effect, Effect::Bad | Effect::Ages | Effect::Since), "{row:?}");
            assert_eq!(evidence.has_fact(), row.effect == Effect::Bad, "{row:?}");
        }
        // A case without a row does not compile away silently: this match names them all.
        let count = |case: Case| match case {
            Case::MasterAlive | Case::MasterStopped | Case::MasterZombie | Case::MasterGone | Case::MasterHidden => 17,
            Case::DiskDone | Case::DiskFull | Case::DiskReadOnly | Case::DiskFailed | Case::DiskDamaged => 17,
            Case::DiskForbidden | Case::DiskUnnamed | Case::StoreAnswered | Case::StoreSilent => 17,
            Case::CallsYoung | Case::CallsOld | Case::CallsUnseen => 17,
        };
        assert_eq!(seen.len(), count(Case::MasterAlive));
    }

    #[test]
    fn the_oldest_required_sign_counts() {
        let mut evidence = good();
        evidence.on(Reading::saw(Case::DiskDone, ""), at(9000));
        evidence.on(Reading::saw(Case::MasterAlive, ""), at(9000));
        evidence.on(Reading::saw(Case::CallsYoung, ""), at(9000));
        assert_eq!(evidence.good_at(), Some(at(1000)));
        assert_eq!(evidence.why(), "the store canary is late");
    }

    #[test]
    fn without_probe_and_mail_path_the_store_canary_decides() {
        let mut evidence = Evidence::default();
        evidence.on(Reading::saw(Case::CallsUnseen, "off"), at(1));
        evidence.on(Reading::saw(Case::DiskUnnamed, "none"), at(1));
        evidence.on(Reading::saw(Case::MasterHidden, "hidepid"), at(1));
        assert_eq!(evidence.good_at(), None);
        evidence.on(Reading::saw(Case::StoreAnswered, ""), at(2));
        assert_eq!((evidence.good_at(), evidence.why()), (Some(at(2)), String::new()));
    }

    #[test]
    fn a_step_that_hangs_is_named_and_nothing_moves() {
        let mut evidence = good();
        evidence.on(Reading::Began { sign: Sign::Disk, step: "fdatasync" }, at(1200));
        for ms in (1300..6000).step_by(100) {
            for case in others(Sign::Disk) {
                evidence.on(Reading::saw(case, ""), at(ms));
            }
            evidence.on(Reading::Tick, at(ms));
        }
        assert_eq!(evidence.good_at(), Some(at(1000)));
        assert_eq!(evidence.why(), "the disk canary: `fdatasync` has not returned");
        evidence.on(Reading::saw(Case::DiskDone, ""), at(6000));
        assert_eq!((evidence.good_at(), evidence.why()), (Some(at(5900)), String::new()));
    }

    #[test]
    fn a_disk_that_failed_must_work_for_a_while_and_a_master_is_back_at_once() {
        let mut evidence = good();
        evidence.on(Reading::saw(Case::DiskFailed, "EIO"), at(1100));
        for round in 1..EVIDENCE_DISK_ROUNDS_MIN {
            evidence.on(Reading::saw(Case::DiskDone, ""), at(1100 + u64::from(round)));
            assert_eq!((evidence.good_at(), evidence.why()), (None, "EIO".to_owned()), "round {round}");
        }
        evidence.on(Reading::saw(Case::DiskDone, ""), at(1200));
        assert_eq!(evidence.good_at(), Some(at(1000)));
        evidence.on(Reading::saw(Case::MasterStopped, "stopped"), at(1300));
        assert_eq!(evidence.good_at(), None);
        evidence.on(Reading::saw(Case::MasterAlive, ""), at(1400));
        assert_eq!(evidence.good_at(), Some(at(1000)));
    }

    #[test]
    fn a_late_reading_does_not_make_a_sign_older() {
        let mut evidence = good();
        evidence.on(Reading::saw(Case::StoreAnswered, ""), at(900));
        assert_eq!(evidence.good_at(), Some(at(1000)));
    }
}
