//! What an observer says of its peers, from its canaries, and the bytes in which it says so to others. Pure.
//!
//! Owns: since when a peer fails ([`Track`]), whether the observer's own word counts, and the payload ([`Words`]). What
//! can hurt: an observer that is itself cut off, or has a wrong password; who never reached a peer, or reaches none of
//! several, accuses nobody. Bytes of peers are bounded and judged before they are believed. Refuses: verdicts.

use serde::{Deserialize, Serialize};
use understudy_types::id::NodeId;

use crate::clock::MonoNs;
use crate::limits::{BEAT_PEERS_MAX, CANARY_LATE_NS, CANARY_WHY_CHARS_MAX, CANARY_WORDS_BYTES_MAX};

/// How the canary of one peer stands.
#[derive(Clone, Debug, Default)]
pub struct Track {
    began: Option<MonoNs>,
    failing_since: Option<MonoNs>,
    was_ever_good: bool,
    why: String,
    pub rounds_good: u64,
    pub rounds_failed: u64,
}

impl Track {
    /// A round has begun.
    pub fn on_begin(&mut self, now: MonoNs) {
        self.began = Some(now);
    }

    /// It has ended.
    pub fn on_end(&mut self, result: Result<(), String>, now: MonoNs) {
        let began = self.began.take().unwrap_or(now);
        match result {
            Ok(()) => {
                self.rounds_good += 1;
                self.was_ever_good = true;
                self.failing_since = None;
                self.why.clear();
            }
            Err(why) => {
                self.rounds_failed += 1;
                // Users fail from the moment on at which they try.
                let _ = self.failing_since.get_or_insert(began);
                self.why = why.chars().take(CANARY_WHY_CHARS_MAX).collect();
            }
        }
    }

    /// For how long the peer has failed, in nanoseconds; 0 = fine. A round under way counts when it is late.
    #[must_use]
    pub fn failing_ns(&self, now: MonoNs) -> u64 {
        let late = self.began.filter(|began| now.since_ns(*began) >= CANARY_LATE_NS);
        let since = self.failing_since.or(late);
        // At least one: a failure of this very moment is not "fine".
        since.map_or(0, |since| now.since_ns(since).max(1))
    }

    fn why(&self, now: MonoNs) -> String {
        match (self.failing_ns(now), self.why.as_str()) {
            (0, _) => String::new(),
            (_, "") => "its service does not answer".to_owned(),
            (_, why) => why.to_owned(),
        }
    }
}

/// A word on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    pub of: NodeId,
    pub failing_ns: u64,
    /// `false`: the observer does not trust itself here; nobody is accused by this word.
    pub healthy: bool,
    pub why: String,
}

/// What one observer says of all its peers. The connection tells who says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    pub words: Vec<Word>,
}

/// Why bytes are no words.
#[derive(Debug, thiserror::Error)]
pub enum WordsError {
    #[error("{bytes} bytes of words, more than {CANARY_WORDS_BYTES_MAX}")]
    Bytes { bytes: usize },
    #[error("words are malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("words on {nodes} nodes, more than {BEAT_PEERS_MAX}")]
    Nodes { nodes: usize },
}

impl Words {
    /// From the tracks of all peers. `is_healthy`: this node is neither late nor starved.
    #[must_use]
    pub fn of<'a>(tracks: impl Iterator<Item = (NodeId, &'a Track)> + Clone, is_healthy: bool, now: MonoNs) -> Self {
        // Whoever can reach none of several others is more likely to be the one that is cut off.
        let is_cut_off = tracks.clone().count() > 1 && tracks.clone().all(|(_, track)| track.failing_ns(now) > 0);
        let word = |(of, track): (NodeId, &Track)| Word {
            of,
            failing_ns: track.failing_ns(now),
            healthy: is_healthy && !is_cut_off && track.was_ever_good,
            why: track.why(now),
        };
        Self { words: tracks.map(word).collect() }
    }

    /// The bytes: JSON, so that a later version can add to it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Plain structures of numbers and texts have no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Judges bytes of a peer.
    ///
    /// # Errors
    /// When they are too many, or not words.
    pub fn decode(bytes: &[u8]) -> Result<Self, WordsError> {
        if bytes.len() > CANARY_WORDS_BYTES_MAX {
            return Err(WordsError::Bytes { bytes: bytes.len() });
        }
        let mut words: Self = serde_json::from_slice(bytes)?;
        if words.words.len() > BEAT_PEERS_MAX {
            return Err(WordsError::Nodes { nodes: words.words.len() });
        }
        for word in &mut words.words {
            // It goes into logs here.
            word.why = word.why.chars().filter(|c| !c.is_control()).take(CANARY_WHY_CHARS_MAX).collect();
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> MonoNs {
        MonoNs(ms * MS)
    }

    fn node(number: u16) -> NodeId {
        NodeId::new(number).expect("in range")
    }

    fn good() -> Track {
        let mut track = Track::default();
        track.on_begin(at(0));
        track.on_end(Ok(()), at(10));
        track
    }

    fn words(tracks: &[(NodeId, Track)], is_healthy: bool, now: MonoNs) -> Vec<Word> {
        Words::of(tracks.iter().map(|(node, track)| (*node, track)), is_healthy, now).words
    }

    #[test]
    fn failing_is_counted_from_the_begin_of_the_first_round_that_failed() {
        let mut track = good();
        assert_eq!(track.failing_ns(at(900)), 0);
        for (begin, end) in [(1000, 1200), (2000, 2200)] {
            track.on_begin(at(begin));
            track.on_end(Err("no".to_owned()), at(end));
        }
        assert_eq!((track.failing_ns(at(3000)), track.why(at(3000))), (2000 * MS, "no".to_owned()));
        track.on_begin(at(3000));
        track.on_end(Ok(()), at(3100));
        assert_eq!((track.failing_ns(at(3200)), track.why(at(3200))), (0, String::new()));
        assert_eq!((track.rounds_good, track.rounds_failed), (2, 2));
    }

    #[test]
    fn a_round_that_hangs_counts_before_it_ends() {
        let mut track = good();
        track.on_begin(at(1000));
        assert_eq!(track.failing_ns(at(1500)), 0);
        assert_eq!(track.failing_ns(at(4000)), 3000 * MS);
        assert_eq!(track.why(at(4000)), "its service does not answer");
    }

    #[test]
    fn who_is_late_or_cut_off_or_never_got_through_accuses_nobody() {
        let mut failing = good();
        failing.on_begin(at(1000));
        failing.on_end(Err("refused".to_owned()), at(1001));
        let seen = words(&[(node(2), failing.clone()), (node(3), good())], true, at(9000));
        assert_eq!((seen[0].failing_ns, seen[0].healthy, seen[1].failing_ns), (8000 * MS, true, 0));
        let late = words(&[(node(2), failing.clone()), (node(3), good())], false, at(9000));
        assert!(late.iter().all(|word| !word.healthy));
        let cut_off = words(&[(node(2), failing.clone()), (node(3), failing.clone())], true, at(9000));
        assert!(cut_off.iter().all(|word| !word.healthy));
        let mut never = Track::default();
        never.on_begin(at(0));
        never.on_end(Err("wrong password".to_owned()), at(1));
        let wrong = words(&[(node(2), never), (node(3), good())], true, at(9000));
        assert_eq!((wrong[0].healthy, wrong[1].healthy), (false, true));
        // With one peer alone there is nobody to compare with; a majority cannot come of it anyway.
        assert!(words(&[(node(2), failing)], true, at(9000))[0].healthy);
    }

    #[test]
    fn bytes_are_said_again_and_hostile_ones_are_refused() {
        let said = Words { words: vec![Word { of: node(2), failing_ns: 5, healthy: true, why: "x".to_owned() }] };
        assert_eq!(Words::decode(&said.encode()).expect("words"), said);
        let evil =
            Words { words: vec![Word { why: format!("\u{1b}[2J\n{}", "y".repeat(5000)), ..said.words[0].clone() }] };
        let tamed = Words::decode(&evil.encode()).expect("words");
        assert!(tamed.words[0].why.starts_with("[2Jy") && tamed.words[0].why.len() == CANARY_WHY_CHARS_MAX);
        let many = Words { words: vec![said.words[0].clone(); BEAT_PEERS_MAX + 1] };
        assert!(Words::decode(&many.encode()).is_err());
        assert!(Words::decode(&vec![b' '; CANARY_WORDS_BYTES_MAX + 1]).is_err());
        assert!(Words::decode(br#"{"words":[{"of":0,"failing_ns":1,"healthy":true,"why":""}]}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_words_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Words::decode(&bytes);
        }
    }
}
