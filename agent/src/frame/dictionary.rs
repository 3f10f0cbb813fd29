//! The zstd dictionary for small frames, and how it is made.
//!
//! Owns: `dictionary-1.zdict`, committed beside this file and never changed: every frame that names it needs exactly
//! these bytes for ever. A better dictionary gets the next number and stands beside it. It is made by
//! [`train_dictionary`] from generated mailbox traffic (`traffic`), which has a fixed seed; `UNDERSTUDY_TRAIN=path
//! cargo test -p understudy-agent train_the_dictionary` writes a new one. Refuses: training at run time, because a
//! replica must be able to read what the active node wrote.

use std::sync::LazyLock;

use zstd::dict::{DecoderDictionary, EncoderDictionary};

use super::Level;

/// Number that frames name the current dictionary by.
pub const DICTIONARY_ID: u32 = 1;
/// Largest dictionary.
pub const DICTIONARY_BYTES_MAX: usize = 32 * 1024;

static BYTES_1: &[u8] = include_bytes!("dictionary-1.zdict");

static ENCODERS: LazyLock<[(i32, EncoderDictionary<'static>); 3]> =
    LazyLock::new(|| Level::ALL.map(|level| (level.zstd(), EncoderDictionary::copy(BYTES_1, level.zstd()))));
static DECODER: LazyLock<DecoderDictionary<'static>> = LazyLock::new(|| DecoderDictionary::copy(BYTES_1));

/// Bytes of the dictionary with that number, if this version has it.
#[must_use]
pub fn dictionary(id: u32) -> Option<&'static [u8]> {
    (id == DICTIONARY_ID).then_some(BYTES_1)
}

pub(super) fn encoder(level: i32) -> &'static EncoderDictionary<'static> {
    let encoders = &*ENCODERS;
    encoders.iter().find(|(of, _)| *of == level).map_or(&encoders[0].1, |(_, encoder)| encoder)
}

pub(super) fn decoder() -> &'static DecoderDictionary<'static> {
    &DECODER
}

/// Makes a dictionary from samples of uncompressed frame bodies. The same samples and the same zstd give the same
/// dictionary.
///
/// # Errors
/// zstd finds the samples too few or too small.
pub fn train_dictionary(samples: &[Vec<u8>]) -> std::io::Result<Vec<u8>> {
    zstd::dict::from_samples(samples, DICTIONARY_BYTES_MAX)
}
