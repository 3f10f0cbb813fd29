//! Payloads of the requests of a merge, and rows of operations between agents.
//!
//! Owns: their layouts. What can hurt: a payload from a peer; lengths are checked before anything is read. Refuses:
//! answering; `node` does, with [`super::target`].

use serde::{Deserialize, Serialize};
use understudy_types::id::Epoch;
use understudy_types::op::{ACCOUNT_BYTES_MAX, Mailbox, Op};

use super::MailboxMark;

/// Kinds of request. Numbers are those of `docs/formats.md`.
pub mod kind {
    /// Position, account: the account's state as a row of operations.
    pub const STATE: u16 = 3;
    /// Account: digest of its state without the counters, which a promotion raises.
    pub const CONTENT: u16 = 6;
    /// Epoch, account: where the histories parted at the first promotion after that epoch.
    pub const FORK: u16 = 7;
    /// Epoch, account, row of operations: merge them.
    pub const MERGE: u16 = 8;
}

/// What became of a [`kind::MERGE`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    pub applied: u32,
    pub already: u32,
    /// The first item that was refused, and why: it and what follows was not done.
    #[serde(default)]
    pub failed: Option<String>,
}

/// An account's name as a payload.
#[must_use]
pub fn account_name(bytes: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(bytes).ok()?;
    let fine = !name.is_empty() && name.len() <= ACCOUNT_BYTES_MAX && !name.chars().any(char::is_control);
    fine.then_some(name)
}

/// A row of operations: `length u32`, operation.
pub fn put_op(body: &mut Vec<u8>, op: &Op) {
    let bytes = op.encode();
    body.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    body.extend_from_slice(&bytes);
}

/// Reads a row of operations.
///
/// # Errors
/// The place and the rule that is broken.
pub fn take_ops(mut body: &[u8]) -> Result<Vec<Op>, String> {
    let mut ops = Vec::new();
    let whole = body.len();
    while !body.is_empty() {
        let at = whole - body.len();
        let (len, rest) = body.split_first_chunk::<4>().ok_or(format!("cut short at {at}"))?;
        let len = u32::from_le_bytes(*len) as usize;
        let op = rest.get(..len).ok_or(format!("operation at {at} says {len} bytes, {} are there", rest.len()))?;
        ops.push(Op::decode(op).map_err(|error| format!("operation at {at}: {error}"))?);
        body = &rest[len..];
    }
    Ok(ops)
}

/// `number u64`, account: a position or an epoch.
#[must_use]
pub fn put_account(number: u64, account: &str) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.extend_from_slice(account.as_bytes());
    body
}

/// Reads what [`put_account`] wrote; `None` for anything else.
#[must_use]
pub fn take_account(body: &[u8]) -> Option<(u64, &str)> {
    let (number, account) = body.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), account_name(account)?))
}

/// `epoch u64`, `length u16`, account, row of operations.
#[must_use]
pub fn put_merge(epoch: Epoch, account: &str, row: &[u8]) -> Vec<u8> {
    let mut body = epoch.0.to_le_bytes().to_vec();
    body.extend_from_slice(&u16::try_from(account.len()).unwrap_or(u16::MAX).to_le_bytes());
    body.extend_from_slice(account.as_bytes());
    body.extend_from_slice(row);
    body
}

/// Reads what [`put_merge`] wrote.
///
/// # Errors
/// What is wrong with it.
pub fn take_merge(body: &[u8]) -> Result<(Epoch, &str, Vec<Op>), String> {
    let (epoch, rest) = body.split_first_chunk::<8>().ok_or("no epoch")?;
    let (len, rest) = rest.split_first_chunk::<2>().ok_or("no account")?;
    let (account, row) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))).ok_or("no account")?;
    let account = account_name(account).ok_or("no account")?;
    Ok((Epoch(u64::from_le_bytes(*epoch)), account, take_ops(row)?))
}

/// Marks as a row of `mailbox-updated`.
#[must_use]
pub fn put_marks(marks: &[MailboxMark]) -> Vec<u8> {
    let mut row = Vec::new();
    for mark in marks {
        let mailbox = Mailbox {
            guid: mark.guid,
            name: mark.name.clone(),
            uid_validity: mark.uid_validity,
            next_uid: mark.next_uid,
            highest_modseq: mark.highest_modseq,
            directory: false,
        };
        put_op(&mut row, &Op::MailboxUpdated { mailbox, snapshot: 0 });
    }
    row
}

/// Reads what [`put_marks`] wrote.
///
/// # Errors
/// The place and the rule that is broken.
pub fn take_marks(row: &[u8]) -> Result<Vec<MailboxMark>, String> {
    let mark = |op| match op {
        Op::MailboxUpdated { mailbox, .. } => Ok(MailboxMark {
            guid: mailbox.guid,
            name: mailbox.name,
            uid_validity: mailbox.uid_validity,
            next_uid: mailbox.next_uid,
            highest_modseq: mailbox.highest_modseq,
        }),
        other => Err(format!("operation of kind `{}` among marks", other.kind())),
    };
    take_ops(row)?.into_iter().map(mark).collect()
}

/// The answer to [`kind::FORK`]: nothing, or `epoch u64` and the marks.
#[must_use]
pub fn put_fork(fork: Option<&(Epoch, Vec<MailboxMark>)>) -> Vec<u8> {
    let Some((epoch, marks)) = fork else { return Vec::new() };
    let mut body = epoch.0.to_le_bytes().to_vec();
    body.extend(put_marks(marks));
    body
}

/// Reads what [`put_fork`] wrote.
///
/// # Errors
/// What is wrong with it.
pub fn take_fork(body: &[u8]) -> Result<Option<(Epoch, Vec<MailboxMark>)>, String> {
    if body.is_empty() {
        return Ok(None);
    }
    let (epoch, row) = body.split_first_chunk::<8>().ok_or("no epoch")?;
    Ok(Some((Epoch(u64::from_le_bytes(*epoch)), take_marks(row)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_types::id::MailboxGuid;

    #[test]
    fn payloads_round_trip_and_others_are_refused() {
        let op = Op::Unsubscribed { name: "a".into() };
        let mut row = Vec::new();
        put_op(&mut row, &op);
        put_op(&mut row, &op);
        assert_eq!(take_ops(&row).unwrap(), [op.clone(), op.clone()]);
        assert!(take_ops(&row[..row.len() - 1]).is_err());
        let body = put_merge(Epoch(3), "u@x", &row);
        assert_eq!(take_merge(&body).unwrap(), (Epoch(3), "u@x", vec![op.clone(), op]));
        for len in 0..body.len() {
            let whole = take_merge(&body[..len]);
            assert!(whole.is_err() || whole.is_ok_and(|(_, _, ops)| ops.len() < 2), "{len}");
        }
        let mark = MailboxMark {
            guid: MailboxGuid([1; 16]),
            name: "INBOX".into(),
            uid_validity: 2,
            next_uid: 3,
            highest_modseq: 4,
        };
        let fork = (Epoch(9), vec![mark]);
        assert_eq!(take_fork(&put_fork(Some(&fork))).unwrap(), Some(fork));
        assert_eq!(take_fork(&put_fork(None)).unwrap(), None);
        assert!(take_fork(&[1]).is_err());
        assert!(take_marks(&row).is_err());
        assert_eq!(take_account(&put_account(7, "u@x")), Some((7, "u@x")));
        assert_eq!(take_account(&put_account(7, "u\nx")), None);
    }
}
