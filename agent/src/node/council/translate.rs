//! Between the coordinator's bytes and the decider's records.
//!
//! Owns: nothing but the translation. What can hurt: a record that cannot be read (a newer version, an editor): it is
//! said, and counts as not there for group and pause, which is the side on which nobody is promoted by it.

use crate::coordinator::client::{CoordinatorEvent, TxnResult};
use crate::coordinator::record::Name;
use crate::coordinator::{Condition, Txn, Write};
use crate::failover::{Answer, Change, Input, Record};

/// What the decider is told of an event.
pub(super) fn input(event: CoordinatorEvent) -> Option<Input> {
    Some(match event {
        CoordinatorEvent::Snapshot(all, revision) => {
            let changes = all.into_iter().filter_map(|kv| change(&kv.key, Some(&kv.value), kv.revision)).collect();
            Input::Whole { changes, revision }
        }
        CoordinatorEvent::Changed(changes) => {
            let changes = changes
                .into_iter()
                .filter_map(|changed| change(&changed.key, changed.value.as_deref(), changed.revision))
                .collect();
            Input::Changed { changes }
        }
        CoordinatorEvent::Lost { reason } => Input::Lost { reason },
        CoordinatorEvent::Answer { id, result, rtt_ns } => {
            let answer = match result {
                TxnResult::Done { revision } => Answer::Done { revision },
                TxnResult::Refused => Answer::Refused,
                TxnResult::Unreachable(why) => {
                    tracing::debug!(why, "the coordinator cannot be reached");
                    Answer::Unreachable
                }
                TxnResult::Unknown(why) => {
                    tracing::debug!(why, "the coordinator did not answer");
                    Answer::Unknown
                }
            };
            Input::Answered { id, answer, rtt_ns }
        }
    })
}

fn change(key: &str, value: Option<&[u8]>, revision: u64) -> Option<Change> {
    let name = Name::parse(key)?;
    let record = value.and_then(|value| {
        let read = match &name {
            Name::Group(_) => serde_json::from_slice(value).map(Record::Group),
            Name::Lease(_) => serde_json::from_slice(value).map(Record::Lease),
            Name::Node(_) => serde_json::from_slice(value).map(Record::Node),
            Name::Pause(_) => serde_json::from_slice(value).map(Record::Pause),
        };
        read.inspect_err(|error| tracing::error!(key, %error, "a record of the coordinator cannot be read")).ok()
    });
    Some(Change { name, record, revision })
}

/// The coordinator's transaction for what the decider wants.
pub(super) fn transaction(expect: Vec<(Name, u64)>, write: Vec<(Name, Option<Record>, Option<u64>)>) -> Txn {
    let key = Name::key;
    let conditions = expect
        .iter()
        .map(|(name, revision)| match revision {
            0 => Condition::Absent { key: key(name) },
            revision => Condition::Revision { key: key(name), revision: *revision },
        })
        .collect();
    let writes = write
        .iter()
        .map(|(name, record, ttl_ms)| {
            let value = record.as_ref().map(|record| {
                let text = match record {
                    Record::Group(record) => serde_json::to_vec(record),
                    Record::Lease(record) => serde_json::to_vec(record),
                    Record::Node(record) => serde_json::to_vec(record),
                    Record::Pause(record) => serde_json::to_vec(record),
                };
                // Plain data with text keys: it cannot fail.
                text.unwrap_or_default()
            });
            match value {
                Some(value) => Write::Put { key: key(name), value, ttl_ms: *ttl_ms },
                None => Write::Delete { key: key(name) },
            }
        })
        .collect();
    Txn { conditions, writes }
}
