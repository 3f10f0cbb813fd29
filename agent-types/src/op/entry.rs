//! Entries: how a frame's body holds operations, each with its account and the time of its capture.
//!
//! `len u32` (bytes after this field), `account_len u16`, `flags u16` (zero), `captured_wall_ns u64`, account,
//! operation. Accounts repeat in full: zstd takes the repetition out, and an entry can be judged on its own.

use alloc::vec::Vec;

use super::{ACCOUNT_BYTES_MAX, OP_BYTES_MAX, OP_HEAD_BYTES};

/// Bytes of an entry before its account.
pub const ENTRY_HEAD_BYTES: usize = 16;

/// One operation with its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub account: &'a str,
    /// Wall time of the capture, in nanoseconds since the Unix epoch.
    pub captured_wall_ns: u64,
    /// Encoded operation; see [`super::Op::decode`].
    pub op: &'a [u8],
}

/// Why a frame's body is not a row of entries. `at` is the offset in the uncompressed body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("entry at {at} is cut short: {have} bytes, {need} needed")]
    Short { at: usize, have: usize, need: usize },
    #[error("entry at {at} has a length `{len}` out of range")]
    Length { at: usize, len: usize },
    #[error("entry at {at} has flags `{flags:#x}`, must be zero")]
    Flags { at: usize, flags: u16 },
    #[error("entry at {at} has an account that is empty, too long, not UTF-8 or holds control characters")]
    Account { at: usize },
}

/// Appends one entry.
pub fn put_entry(out: &mut Vec<u8>, account: &str, captured_wall_ns: u64, op: &[u8]) {
    let len = ENTRY_HEAD_BYTES - 4 + account.len() + op.len();
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&u16::try_from(account.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&captured_wall_ns.to_le_bytes());
    out.extend_from_slice(account.as_bytes());
    out.extend_from_slice(op);
}

/// Walks the entries of an uncompressed body. Ends after the first error.
pub fn entries(body: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, EntryError>> {
    let mut at = 0;
    core::iter::from_fn(move || {
        if at >= body.len() {
            return None;
        }
        let result = one(body, at);
        at = match &result {
            Ok((_, next)) => *next,
            Err(_) => body.len(),
        };
        Some(result.map(|(entry, _)| entry))
    })
}

fn one(body: &[u8], at: usize) -> Result<(Entry<'_>, usize), EntryError> {
    let rest = &body[at..];
    let Some((head, tail)) = rest.split_first_chunk::<ENTRY_HEAD_BYTES>() else {
        return Err(EntryError::Short { at, have: rest.len(), need: ENTRY_HEAD_BYTES });
    };
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let account_len = usize::from(u16::from_le_bytes([head[4], head[5]]));
    let flags = u16::from_le_bytes([head[6], head[7]]);
    if flags != 0 {
        return Err(EntryError::Flags { at, flags });
    }
    if account_len == 0 || account_len > ACCOUNT_BYTES_MAX {
        return Err(EntryError::Account { at });
    }
    let Some(text_len) = len.checked_sub(ENTRY_HEAD_BYTES - 4) else {
        return Err(EntryError::Length { at, len });
    };
    let op_len = text_len.checked_sub(account_len).filter(|n| (OP_HEAD_BYTES..=OP_BYTES_MAX).contains(n));
    let Some(op_len) = op_len else {
        return Err(EntryError::Length { at, len });
    };
    let Some(text) = tail.get(..account_len + op_len) else {
        return Err(EntryError::Short { at, have: tail.len(), need: account_len + op_len });
    };
    let (account, op) = text.split_at(account_len);
    let account = core::str::from_utf8(account).map_err(|_| EntryError::Account { at })?;
    if account.chars().any(char::is_control) {
        return Err(EntryError::Account { at });
    }
    let mut captured = [0; 8];
    captured.copy_from_slice(&head[8..16]);
    let entry = Entry { account, captured_wall_ns: u64::from_le_bytes(captured), op };
    Ok((entry, at + ENTRY_HEAD_BYTES + account_len + op_len))
}
