//! Records in the data area: write, copy out and check.
//!
//! Owns: the way from bytes to words and back, across the end of the area.
//! What can hurt: a header with impossible lengths, a body that changes while it is read. The header is copied
//! and checked before its lengths are used; the body is copied before its checksum is taken, and only the copy
//! is delivered.
//! Refuses: anything longer than the record limit.

use crate::checksum::record_checksum;
use crate::claim::Core;
use crate::sync::DataWord;
use understudy_types::ring::{Cursor, RECORD_HEADER_BYTES, RECORD_HEADER_WORDS, RecordHeader, RingError};

/// Writes `bytes`, padded with zeros, from word `at` on; gives the word after them. `at` may be past the end of
/// the area; it wraps.
#[inline]
fn write_bytes(data: &[DataWord], at: usize, bytes: &[u8]) -> usize {
    let words = bytes.len().div_ceil(8);
    let start = at & (data.len() - 1);
    let first_bytes = ((data.len() - start) * 8).min(bytes.len());
    let (first, rest) = bytes.split_at(first_bytes);
    for (part, target) in [(first, &data[start..]), (rest, data)] {
        let mut chunks = part.chunks_exact(8);
        let mut words = target.iter();
        for (chunk, word) in chunks.by_ref().zip(words.by_ref()) {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            word.set(u64::from_le_bytes(eight));
        }
        let tail = chunks.remainder();
        if let (false, Some(word)) = (tail.is_empty(), words.next()) {
            let mut eight = [0; 8];
            eight[..tail.len()].copy_from_slice(tail);
            word.set(u64::from_le_bytes(eight));
        }
    }
    start + words
}

/// Fills a claimed place. The caller made sure that the record has as many units as were claimed.
#[inline]
pub(crate) fn write(core: &Core<'_>, position: u32, header: &RecordHeader, seed: u32, account: &[u8], payload: &[u8]) {
    let mut words = header.encode();
    words[0] |= u64::from(record_checksum(seed, &words, account, payload)) << 32;
    let mut at = position as usize;
    for word in words {
        core.data[at & (core.data.len() - 1)].set(word);
        at += 1;
    }
    at = write_bytes(core.data, at, account);
    write_bytes(core.data, at, payload);
}

/// A record that was copied out and found whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole {
    pub(crate) header: RecordHeader,
    /// Where the payload starts in the scratch buffer; the account is at 0.
    pub(crate) payload_at: usize,
}

/// Copies the record at `at` into `scratch` and checks it. `scratch` grows to at most `record_bytes_max`.
pub(crate) fn read(
    core: &Core<'_>,
    at: Cursor,
    seed: u32,
    record_bytes_max: usize,
    scratch: &mut Vec<u8>,
) -> Result<Whole, RingError> {
    let mask = core.data.len() - 1;
    let position = at.position() as usize;
    let mut words = [0; RECORD_HEADER_WORDS];
    for (step, word) in words.iter_mut().enumerate() {
        *word = core.data[(position + step) & mask].get();
    }
    let header = RecordHeader::decode(&words, at.index(), record_bytes_max)?;
    let payload_at = (header.account_bytes as usize).next_multiple_of(8);
    let body_words = header.units() as usize - RECORD_HEADER_WORDS;
    debug_assert!(body_words * 8 + RECORD_HEADER_BYTES <= record_bytes_max);
    scratch.clear();
    scratch.reserve(body_words * 8);
    for step in 0..body_words {
        let word = core.data[(position + RECORD_HEADER_WORDS + step) & mask].get();
        scratch.extend_from_slice(&word.to_le_bytes());
    }
    let account_end = header.account_bytes as usize;
    let payload_end = payload_at + header.payload_bytes as usize;
    let (account, payload) = (&scratch[..account_end], &scratch[payload_at..payload_end]);
    if record_checksum(seed, &words, account, payload) != (words[0] >> 32) as u32 {
        return Err(RingError::RecordChecksum);
    }
    if scratch[account_end..payload_at].iter().chain(&scratch[payload_end..]).any(|byte| *byte != 0) {
        return Err(RingError::Reserved);
    }
    Ok(Whole { header, payload_at })
}
