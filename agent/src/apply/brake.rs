//! The brake: is what an account destroys right now a storm, far above what it usually destroys?
//!
//! Owns: the count of the last minute and the account's habit. Pure; time is the wall time of the capture, so that a
//! replica that catches up with a day's work in a second sees no storm. What can hurt: an operation that is looked at
//! twice, after an error or a restart; it counts once. Refuses: learning from a storm that nobody has called harmless.

use serde::{Deserialize, Serialize};

use crate::limits::{BRAKE_FACTOR, BRAKE_HABIT_HALF_MINUTES};

const MINUTE_NS: u64 = 60_000_000_000;

/// Why the brake is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trip {
    /// First operation of the group's stream that it holds.
    pub since_seq: u64,
    pub wall_ns: u64,
    /// Most destructive operations within a minute since.
    pub count: u64,
    /// How many would have been none of the brake's business.
    pub limit: u64,
}

/// One destructive operation, or several at one place of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub seq: u64,
    /// When it was captured.
    pub wall_ns: u64,
    pub weight: u64,
}

/// What is remembered of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brake {
    /// Minutes since the epoch.
    minute: u64,
    count: u64,
    count_before: u64,
    /// Thousandths of the most operations within a minute, halved every [`BRAKE_HABIT_HALF_MINUTES`].
    habit_milli: u64,
    /// Last operation that was counted.
    until_seq: u64,
    trip: Option<Trip>,
}

impl Brake {
    /// Why it is on, if it is.
    #[must_use]
    pub fn trip(&self) -> Option<&Trip> {
        self.trip.as_ref()
    }

    /// Whether the brake holds the operation at this place of the stream.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        self.trip.is_some_and(|trip| seq >= trip.since_seq)
    }

    /// Counts operations that came together, in order, before any of them is applied. `true` when they trip the brake:
    /// it then holds all of them that are not older than a minute.
    pub fn note(&mut self, losses: &[Loss], floor: u32) -> bool {
        let mut tripped = false;
        for (at, loss) in losses.iter().enumerate().filter(|(_, loss)| loss.weight > 0) {
            if loss.seq <= self.until_seq {
                continue;
            }
            self.until_seq = loss.seq;
            self.roll(loss.wall_ns / MINUTE_NS);
            self.count = self.count.saturating_add(loss.weight);
            let left_ns = MINUTE_NS - loss.wall_ns % MINUTE_NS;
            let before = self.count_before.saturating_mul(left_ns / 1_000_000) / (MINUTE_NS / 1_000_000);
            let count = self.count.saturating_add(before);
            let limit = u64::from(floor).max(self.habit_milli.saturating_mul(BRAKE_FACTOR) / 1000);
            match &mut self.trip {
                Some(trip) => trip.count = trip.count.max(count),
                None if count > limit => {
                    let recent = |before: &&Loss| before.wall_ns.saturating_add(MINUTE_NS) >= loss.wall_ns;
                    let since_seq = losses[..=at].iter().find(recent).map_or(loss.seq, |first| first.seq);
                    self.trip = Some(Trip { since_seq, wall_ns: loss.wall_ns, count, limit });
                    tripped = true;
                }
                None => {}
            }
        }
        tripped
    }

    /// An administrator let the storm through: so much is this account's habit from now on.
    pub fn harmless(&mut self) {
        if let Some(trip) = self.trip.take() {
            self.habit_milli = self.habit_milli.max(trip.count.saturating_mul(1000));
            self.forget_minute();
        }
    }

    /// An administrator undid the storm.
    pub fn undone(&mut self) {
        if self.trip.take().is_some() {
            self.forget_minute();
        }
    }

    fn forget_minute(&mut self) {
        (self.count, self.count_before) = (0, 0);
    }

    /// Goes on to another minute. A clock that was set back stays in the minute at hand.
    fn roll(&mut self, minute: u64) {
        let passed = minute.saturating_sub(self.minute);
        if passed == 0 {
            return;
        }
        // Only what is out of the last minute's count is a habit: a storm is not to excuse itself.
        let over = if passed == 1 { self.count_before } else { self.count.max(self.count_before) };
        if self.trip.is_none() {
            self.habit_milli = self.habit_milli.max(over.saturating_mul(1000));
        }
        let (halvings, rest) = (passed / BRAKE_HABIT_HALF_MINUTES, passed % BRAKE_HABIT_HALF_MINUTES);
        self.habit_milli = self.habit_milli.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0);
        self.habit_milli -= self.habit_milli.saturating_mul(rest) / (2 * BRAKE_HABIT_HALF_MINUTES);
        self.count_before = if passed == 1 { self.count } else { 0 };
        self.count = 0;
        self.minute = minute;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: u32 = 50;
    const DAY: u64 = 24 * 60 * MINUTE_NS;

    /// `count` operations from `seq` on, one each second.
    fn losses(seq: u64, wall_ns: u64, count: u64) -> Vec<Loss> {
        (0..count).map(|n| Loss { seq: seq + n, wall_ns: wall_ns + n * 1_000_000, weight: 1 }).collect()
    }

    #[test]
    fn a_storm_trips_it_and_all_that_came_together_is_held() {
        let mut brake = Brake::default();
        assert!(!brake.note(&losses(1, DAY, 50), FLOOR), "the floor is never a storm");
        assert!(brake.note(&losses(100, DAY + MINUTE_NS / 2, 30), FLOOR));
        assert!(!brake.holds(99) && brake.holds(100) && brake.holds(1_000_000), "from the first that came with it");
        assert!(!brake.note(&losses(200, DAY + MINUTE_NS / 2, 500), FLOOR), "once");
        assert_eq!(brake.trip().map(|trip| (trip.count, trip.limit)), Some((580, 50)));
    }

    #[test]
    fn what_is_counted_once_is_not_counted_again() {
        let mut brake = Brake::default();
        for _ in 0..10 {
            assert!(!brake.note(&losses(1, DAY, 40), FLOOR));
        }
        assert!(brake.note(&losses(1, DAY, 51), FLOOR), "eleven more");
        assert!(brake.holds(1), "the whole of it, although some were counted before");
    }

    #[test]
    fn a_slow_trickle_and_a_catching_up_replica_are_no_storm() {
        let mut brake = Brake::default();
        // A day of forty each minute, taken in one go.
        let day: Vec<Loss> =
            (0..40 * 1440).map(|n| Loss { seq: n + 1, wall_ns: DAY + n * MINUTE_NS / 40, weight: 1 }).collect();
        assert!(!brake.note(&day, FLOOR));
        // That is its habit now: ten times as much is none of the brake's business.
        assert!(!brake.note(&losses(100_000, 3 * DAY, 350), FLOOR));
        assert!(brake.note(&losses(200_000, 4 * DAY, 4_000), FLOOR));
    }

    #[test]
    fn a_minutes_border_is_no_way_around_it() {
        let mut brake = Brake::default();
        assert!(!brake.note(&losses(1, DAY + MINUTE_NS - 50 * 1_000_000, 50), FLOOR));
        assert!(brake.note(&losses(60, DAY + MINUTE_NS, 20), FLOOR));
    }

    #[test]
    fn a_storm_that_was_let_through_is_a_habit_and_one_that_was_undone_is_not() {
        let storm = |seq, day| losses(seq, day * DAY, 300);
        let mut brake = Brake::default();
        assert!(brake.note(&storm(1, 1), FLOOR));
        brake.harmless();
        assert!(!brake.holds(1_000) && !brake.note(&storm(1_000, 2), FLOOR));
        // A year without any: forgotten.
        assert!(brake.note(&storm(2_000, 400), FLOOR));
        brake.undone();
        assert!(brake.note(&storm(3_000, 401), FLOOR));
    }

    #[test]
    fn numbers_at_their_ends_do_no_harm() {
        let mut brake = Brake::default();
        brake.note(&[Loss { seq: u64::MAX, wall_ns: u64::MAX, weight: u64::MAX / 4 }], u32::MAX);
        brake.harmless();
        brake.note(&losses(1, 0, 3), 1);
        let kept: Brake = serde_json::from_str(&serde_json::to_string(&brake).unwrap()).unwrap();
        assert_eq!(kept, brake);
    }
}
