//! One line of the embedded coordinator's log: `CRC32C JSON`, so that people can read it and damage is seen.
//!
//! Owns: the shape of the lines, and when a key's time is over. What can hurt: a line that was torn; it has no end or
//! another checksum, and is no line. Refuses: judging the order of lines; `log` does.

use serde::{Deserialize, Serialize};

use crate::clock::BootNs;

/// The layout of the lines. Another one is refused.
pub(super) const FORMAT: u32 = 1;
/// Digits of the checksum, and the blank after it.
const HEAD: usize = 9;

/// When a key goes away by itself. Times of another boot say nothing now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Expiry {
    boot: String,
    at_ns: u64,
    ttl_ms: u64,
}

impl Expiry {
    pub(super) fn new(boot: &str, now: BootNs, ttl_ms: u64) -> Self {
        Self { boot: boot.to_owned(), at_ns: now.after_ns(ttl_ms.saturating_mul(1_000_000)).0, ttl_ms }
    }

    /// What was written before this boot has been there for all the time since it.
    pub(super) fn over(&self, boot: &str, now: BootNs) -> bool {
        let at_ns = if self.boot == boot { self.at_ns } else { self.ttl_ms.saturating_mul(1_000_000) };
        now.0 >= at_ns
    }
}

/// Bytes, as text where they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Text {
    Utf8(String),
    Hex { hex: String },
}

impl Text {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Utf8(text.to_owned()),
            Err(_) => Self::Hex { hex: hex::encode(bytes) },
        }
    }

    pub(super) fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Utf8(text) => Some(text.into_bytes()),
            Self::Hex { hex } => hex::decode(hex).ok(),
        }
    }
}

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line {
    /// The first: the keys at this revision follow.
    Begin {
        format: u32,
        revision: u64,
        keys: usize,
    },
    Keep {
        key: String,
        value: Text,
        revision: u64,
        expires: Option<Expiry>,
    },
    Change {
        revision: u64,
        keys: Vec<Changed>,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) struct Changed {
    pub(super) key: String,
    /// `None`: gone.
    pub(super) value: Option<Text>,
    pub(super) expires: Option<Expiry>,
}

pub(super) fn encode(line: &Line) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(line).ok()?;
    let mut bytes = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
    bytes.extend(json);
    bytes.push(b'\n');
    Some(bytes)
}

/// The line that begins at `at`, and where the next one begins. `None` if there is no whole and good one.
pub(super) fn line_at(bytes: &[u8], at: usize) -> Option<(Line, usize)> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = &rest[..end];
    let (head, json) = (line.get(..HEAD)?, line.get(HEAD..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(head).ok()?.strip_suffix(' ')?, 16).ok()?;
    if sum != crc32c::crc32c(json) {
        return None;
    }
    Some((serde_json::from_slice(json).ok()?, at + end + 1))
}

pub(super) fn good_line_after(bytes: &[u8], at: usize) -> bool {
    let ends = bytes.iter().enumerate().skip(at).filter(|(_, byte)| **byte == b'\n').map(|(n, _)| n + 1);
    ends.into_iter().any(|next| line_at(bytes, next).is_some())
}
