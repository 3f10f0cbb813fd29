//! What deciders of failover say to each other: the body of a Council message.
//!
//! Owns: its JSON. What can hurt: a peer of a newer version; a word that is not known is left out, a body that is none
//! ends nothing. Refuses: anything without a bound; the message has one.

use serde::{Deserialize, Serialize};
use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};

use crate::failover::{Action, Input};
use crate::limits::{CANARY_WHY_CHARS_MAX, COUNCIL_GROUPS_MAX};

/// One word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    AskPromise { id: u64, groups: Vec<(GroupId, Epoch)>, duration_ns: u64 },
    Promise { id: u64, groups: Vec<GroupId> },
    AskCandidate { groups: Vec<GroupId> },
    Candidate { tails: Vec<(GroupId, Epoch, Sequence)> },
    Observed { of: NodeId, failing_ns: u64, healthy: bool, why: String },
}

impl Word {
    /// The words of an action, and to whom; several when there are many groups.
    pub(crate) fn of(action: &Action) -> Option<(NodeId, Vec<Self>)> {
        fn parts<T: Clone>(all: &[T]) -> Vec<Vec<T>> {
            if all.is_empty() { vec![Vec::new()] } else { all.chunks(COUNCIL_GROUPS_MAX).map(<[T]>::to_vec).collect() }
        }
        match action {
            Action::AskPromise { peer, id, groups, duration_ns } => {
                let word = |groups| Self::AskPromise { id: *id, groups, duration_ns: *duration_ns };
                Some((*peer, parts(groups).into_iter().map(word).collect()))
            }
            Action::Promise { peer, id, groups } => {
                Some((*peer, parts(groups).into_iter().map(|groups| Self::Promise { id: *id, groups }).collect()))
            }
            Action::AskCandidate { peer, groups } => {
                Some((*peer, parts(groups).into_iter().map(|groups| Self::AskCandidate { groups }).collect()))
            }
            Action::TellCandidate { peer, tails } => {
                Some((*peer, parts(tails).into_iter().map(|tails| Self::Candidate { tails }).collect()))
            }
            _ => None,
        }
    }

    /// What the decider is told when a peer says it.
    pub(crate) fn inputs(self, peer: NodeId) -> Vec<Input> {
        match self {
            Self::AskPromise { id, groups, duration_ns } => {
                vec![Input::PromiseAsked { peer, id, groups, duration_ns }]
            }
            Self::Promise { id, groups } => vec![Input::Promised { peer, id, groups }],
            Self::AskCandidate { groups } => vec![Input::CandidateAsked { peer, groups }],
            Self::Candidate { tails } => tails
                .into_iter()
                .map(|(group, tail_epoch, journaled)| Input::Candidate { peer, group, tail_epoch, journaled })
                .collect(),
            Self::Observed { of, failing_ns, healthy, why } => {
                // It goes into logs here.
                let why = why.chars().filter(|c| !c.is_control()).take(CANARY_WHY_CHARS_MAX).collect();
                vec![Input::Observed { by: peer, of, failing_ns, healthy, why }]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_many_groups_become_several() {
        let peer = NodeId::new(2).expect("in range");
        let groups: Vec<_> = (0..9_000).map(|n| (GroupId(n), Epoch(1))).collect();
        let (to, words) = Word::of(&Action::AskPromise { peer, id: 1, groups, duration_ns: 5 }).expect("a word");
        assert_eq!((to, words.len()), (peer, 3));
        for word in words {
            let text = serde_json::to_vec(&word).expect("writes");
            assert!(text.len() < understudy_types::message::COUNCIL_BYTES_MAX);
            assert_eq!(serde_json::from_slice::<Word>(&text).expect("reads"), word);
        }
        assert!(serde_json::from_slice::<Word>(br#"{"newer":{}}"#).is_err());
    }
}
