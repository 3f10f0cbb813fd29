//! The checksum of a record, with the processor's own instruction.
//!
//! Owns: a quick way to the result that `understudy_types::ring::record_checksum` defines. A record has some hundred
//! bytes, and of a publication of 256 bytes a third was spent on getting into and out of the checksum's crate, three
//! times for each record (see `bench/README.md`).
//! What can hurt: another result than the definition's; a test compares the two.
//! Refuses: processors without the instruction, and Miri; there, the definition does it.

#![cfg_attr(
    all(target_arch = "x86_64", not(miri)),
    expect(unsafe_code, reason = "a function that uses an instruction is called after a look whether it is there")
)]

use understudy_types::ring::{RECORD_HEADER_WORDS, record_checksum as portable};

/// CRC-32C of a record: seed, header with a zero checksum, account, payload (without padding).
#[inline]
pub(crate) fn record_checksum(seed: u32, header: &[u64; RECORD_HEADER_WORDS], account: &[u8], payload: &[u8]) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has SSE 4.2, which is all that the function asks for.
        return unsafe { sse42(seed, header, account, payload) };
    }
    portable(seed, header, account, payload)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "sse4.2")]
fn sse42(seed: u32, header: &[u64; RECORD_HEADER_WORDS], account: &[u8], payload: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let [first, rest @ ..] = header;
    // The checksum itself is the upper half of the first word.
    let mut crc = _mm_crc32_u64(u64::from(!seed), first & 0xFFFF_FFFF);
    for word in rest {
        crc = _mm_crc32_u64(crc, *word);
    }
    for part in [account, payload] {
        let (words, tail) = part.as_chunks::<8>();
        for word in words {
            crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
        }
        for byte in tail {
            crc = u64::from(_mm_crc32_u8(crc as u32, *byte));
        }
    }
    !(crc as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_way_gives_what_the_format_says() {
        let bytes: Vec<u8> = (0_u32..600).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let header = std::array::from_fn(|n| 0x0123_4567_89AB_CDEF_u64.wrapping_mul(n as u64 + 3));
        for (account_bytes, payload_bytes) in [(0, 0), (1, 7), (8, 8), (18, 256), (17, 255), (255, 300), (3, 1)] {
            let (account, rest) = bytes.split_at(account_bytes);
            let payload = &rest[..payload_bytes];
            for seed in [0, 1, u32::MAX, 0xDEAD_BEEF] {
                let quick = record_checksum(seed, &header, account, payload);
                assert_eq!(quick, portable(seed, &header, account, payload), "{account_bytes} {payload_bytes}");
            }
        }
    }
}
