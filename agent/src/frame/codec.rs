//! Compression of frame bodies: zstd, with a dictionary for small ones, raw where it does not pay.
//!
//! Owns: the compression contexts (kept, because making one costs more than compressing a small frame). What can
//! hurt: a body that says it is small and decompresses to much; the output buffer is exactly what the header says,
//! and the header was judged against the format's limit. Refuses: checksums, which `Frame::parse` has checked.

use bytes::Bytes;
use understudy_types::frame::{Codec, FRAME_HEADER_BYTES};
use zstd::bulk::{Compressor, Decompressor};

use super::dictionary::{self, DICTIONARY_ID};
use super::{Frame, FrameError, Opened};

/// Below this a body is stored raw: zstd's own frame takes about 15 bytes, and two cache lines are not worth it.
const COMPRESS_BYTES_MIN: usize = 128;
/// Above this the dictionary is not used: zstd finds its own repetitions. On generated mailbox traffic it saves a
/// third of 4 operations and 2 % of 53 kB (`dictionary_pays_for_small_bodies` prints both).
const DICTIONARY_BODY_BYTES_MAX: usize = 128 * 1024;

/// How hard to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// zstd level 1.
    #[default]
    Fast,
    /// zstd level 3.
    Normal,
    /// zstd level 9: for links that are slower than the disk.
    Small,
}

impl Level {
    pub(super) const ALL: [Self; 3] = [Self::Fast, Self::Normal, Self::Small];

    pub(super) const fn zstd(self) -> i32 {
        match self {
            Self::Fast => 1,
            Self::Normal => 3,
            Self::Small => 9,
        }
    }
}

/// Level for a batch when `waiting_bytes` of operations wait behind it: the fuller the queue, the less time is
/// spent on size. The steps are guesses from zstd's usual speeds (about 400, 200 and 40 MB/s): below 64 KiB even
/// level 9 clears the queue within 2 ms.
#[must_use]
pub const fn level_for(waiting_bytes: usize) -> Level {
    match waiting_bytes {
        0..0x1_0000 => Level::Small,
        0x1_0000..0x10_0000 => Level::Normal,
        _ => Level::Fast,
    }
}

/// Compression and decompression contexts. One per thread; contexts are made when first needed.
#[derive(Default)]
pub struct FrameCodec {
    plain: [Option<Compressor<'static>>; Level::ALL.len()],
    with_dictionary: [Option<Compressor<'static>>; Level::ALL.len()],
    decompress: Option<Decompressor<'static>>,
    decompress_dictionary: Option<Decompressor<'static>>,
}

impl FrameCodec {
    /// No context yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Compressed form of `body`, or `None` where raw is as good. A failure of zstd also gives `None`: raw is always
    /// right, and the next frame tries again.
    pub(super) fn compress(&mut self, body: &[u8], level: Level) -> Option<(Codec, Vec<u8>)> {
        if body.len() < COMPRESS_BYTES_MIN {
            return None;
        }
        let index = level as usize;
        let (codec, context) = if body.len() <= DICTIONARY_BODY_BYTES_MAX {
            let slot = &mut self.with_dictionary[index];
            if slot.is_none() {
                *slot = Compressor::with_prepared_dictionary(dictionary::encoder(level.zstd())).ok();
            }
            (Codec::ZstdDictionary(DICTIONARY_ID), slot)
        } else {
            let slot = &mut self.plain[index];
            if slot.is_none() {
                *slot = Compressor::new(level.zstd()).ok();
            }
            (Codec::Zstd, slot)
        };
        let out = context.as_mut()?.compress(body).ok()?;
        // A reader pays for decompression: at least a sixteenth must be saved.
        (out.len() <= body.len() - body.len() / 16).then_some((codec, out))
    }

    /// Decompresses and checks every entry.
    ///
    /// # Errors
    /// The body is not what the header says. The frame's checksum was right, so its origin made it so.
    pub fn open(&mut self, frame: &Frame) -> Result<Opened, FrameError> {
        let header = frame.header();
        let said = header.uncompressed_len as usize;
        let body = match header.codec {
            Codec::Raw => {
                let body = frame.bytes.slice(FRAME_HEADER_BYTES..);
                return Opened::check(header, body);
            }
            Codec::Zstd => {
                if self.decompress.is_none() {
                    self.decompress = Decompressor::new().ok();
                }
                run(self.decompress.as_mut(), frame.body(), said)?
            }
            Codec::ZstdDictionary(DICTIONARY_ID) => {
                if self.decompress_dictionary.is_none() {
                    self.decompress_dictionary = Decompressor::with_prepared_dictionary(dictionary::decoder()).ok();
                }
                run(self.decompress_dictionary.as_mut(), frame.body(), said)?
            }
            Codec::ZstdDictionary(id) => return Err(FrameError::NoDictionary(id)),
        };
        if body.len() != said {
            return Err(FrameError::Decompressed { have: body.len(), said });
        }
        Opened::check(header, Bytes::from(body))
    }
}

/// Decompresses into a buffer of `said` bytes; what would pass it is an error of zstd, not a larger buffer.
fn run(context: Option<&mut Decompressor<'static>>, body: &[u8], said: usize) -> Result<Vec<u8>, FrameError> {
    let context = context.ok_or_else(|| FrameError::Decompress("no memory for zstd".to_owned()))?;
    context.decompress(body, said).map_err(|error| FrameError::Decompress(error.to_string()))
}
