//! Tests of the frame header: round trip, every broken rule, every bit.

use super::*;
use proptest::prelude::*;

fn header() -> FrameHeader {
    FrameHeader {
        body_checksum: [7; 16],
        body_len: 900,
        uncompressed_len: 4000,
        count: 17,
        codec: Codec::ZstdDictionary(1),
        cluster: ClusterId(0x1122_3344_5566_7788),
        group: GroupId(42),
        origin: NodeId::new(3).unwrap(),
        epoch: Epoch(5),
        first_sequence: Sequence(1000),
        previous_hash: [9; 32],
        ring_generation: 11,
        ring_index_first: 100,
        ring_index_last: 116,
        captured_first_wall_ns: 1_700_000_000_000_000_000,
        captured_last_wall_ns: 1_700_000_000_000_000_500,
    }
}

#[test]
fn header_round_trips() {
    let header = header();
    assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
    assert_eq!(header.last_sequence(), Sequence(1016));
}

#[test]
fn every_one_bit_damage_is_refused() {
    let good = header().encode();
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(FrameHeader::decode(&bad).is_err(), "bit {bit} went unnoticed");
    }
}

/// Changes raw bytes and makes the checksum fit again, so that the rule behind the checksum is what refuses.
fn forged(change: impl FnOnce(&mut [u8; FRAME_HEADER_BYTES])) -> Result<FrameHeader, FrameInvalid> {
    let mut raw = header().encode();
    change(&mut raw);
    let checksum = header_checksum(&raw);
    raw[12..16].copy_from_slice(&checksum.to_le_bytes());
    FrameHeader::decode(&raw)
}

#[test]
fn every_rule_refuses_by_its_name() {
    assert_eq!(FrameHeader::decode(&[0; 10]), Err(FrameInvalid::Short { have: 10, need: FRAME_HEADER_BYTES }));
    assert_eq!(forged(|raw| raw[0] = 0).map_err(|e| matches!(e, FrameInvalid::Magic(_))), Err(true));
    assert_eq!(forged(|raw| raw[8] = 2), Err(FrameInvalid::Version(2)));
    assert_eq!(forged(|raw| raw[10] = 160), Err(FrameInvalid::HeaderLength(160)));
    assert_eq!(forged(|raw| raw[52] = 1), Err(FrameInvalid::Flags(1)));
    for at in [45, 47, 70, 71, 160, 191] {
        assert_eq!(forged(|raw| raw[at] = 1), Err(FrameInvalid::Reserved { at }));
    }
    assert_eq!(forged(|raw| raw[44] = 3), Err(FrameInvalid::Codec(3)));
    assert_eq!(forged(|raw| raw[44] = 1), Err(FrameInvalid::Dictionary { codec: 1, id: 1 }));
    assert_eq!(forged(|raw| raw[48] = 0), Err(FrameInvalid::Dictionary { codec: 2, id: 0 }));
    assert_eq!(forged(|raw| raw[68] = 0), Err(FrameInvalid::Node(0)));
    let changed = |change: fn(&mut FrameHeader)| {
        let mut header = header();
        change(&mut header);
        let invalid = header.invalid();
        assert_eq!(FrameHeader::decode(&header.encode()).err(), invalid, "a writer and a reader must agree");
        invalid
    };
    assert_eq!(changed(|h| h.count = 0), Some(FrameInvalid::Count(0)));
    assert_eq!(changed(|h| h.count = FRAME_ENTRIES_MAX + 1), Some(FrameInvalid::Count(FRAME_ENTRIES_MAX + 1)));
    assert_eq!(changed(|h| h.body_len = 0), Some(FrameInvalid::BodyLength(0)));
    assert_eq!(changed(|h| h.body_len = u32::MAX), Some(FrameInvalid::BodyLength(u32::MAX)));
    assert_eq!(changed(|h| h.uncompressed_len = u32::MAX), Some(FrameInvalid::UncompressedLength(u32::MAX)));
    assert_eq!(changed(|h| h.codec = Codec::Raw), Some(FrameInvalid::RawLength { body: 900, uncompressed: 4000 }));
    assert_eq!(changed(|h| h.first_sequence = Sequence(0)), Some(FrameInvalid::Sequence(0)));
    assert_eq!(changed(|h| h.first_sequence = Sequence(1)), Some(FrameInvalid::FirstHasPrevious));
    assert_eq!(changed(|h| h.epoch = Epoch(0)), Some(FrameInvalid::Epoch(0)));
    let ring = FrameInvalid::Ring { generation: 11, first: 200, last: 116 };
    assert_eq!(changed(|h| h.ring_index_first = 200), Some(ring));
    assert_eq!(changed(|h| h.ring_generation = 0), Some(FrameInvalid::Ring { generation: 0, first: 100, last: 116 }));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = FrameHeader::decode(&bytes);
    }

    #[test]
    fn random_values_behind_a_good_checksum_never_panic(bytes in prop::collection::vec(any::<u8>(), 44..160)) {
        let _ = forged(|raw| raw[32..32 + bytes.len()].copy_from_slice(&bytes));
    }
}
