//! Tests of frames: round trip, every bit damaged, forged bodies, golden bytes, the dictionary.

use bytes::Bytes;
use proptest::prelude::*;
use understudy_types::frame::{Codec, FRAME_BODY_BYTES_MAX, FrameHeader, RingPosition};
use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};
use understudy_types::op::OP_BYTES_MAX;

use super::traffic::Traffic;
use super::*;

fn seal(first: u64, level: Level) -> Seal {
    Seal {
        cluster: ClusterId(77),
        origin: NodeId::new(2).unwrap(),
        group: GroupId(9),
        epoch: Epoch(3),
        first_sequence: Sequence(first),
        previous_hash: if first == 1 { [0; 32] } else { [5; 32] },
        level,
    }
}

fn frame_of(count: u64, level: Level) -> Frame {
    let mut traffic = Traffic::new(7);
    let mut builder = FrameBuilder::new();
    for index in 0..count {
        let (account, captured, op) = traffic.entry();
        builder.push(&account, captured, &op, Some(RingPosition { generation: 4, index: 100 + index })).unwrap();
    }
    builder.seal(&seal(50, level), &mut FrameCodec::new()).unwrap()
}

/// A frame whose checksums are right, whatever its body is: what a faulty or hostile origin can make.
fn forged(body: &[u8], change: impl FnOnce(&mut FrameHeader)) -> Frame {
    let mut header = *frame_of(1, Level::Fast).header();
    header.body_checksum = body_checksum(body);
    header.body_len = u32::try_from(body.len()).unwrap();
    header.uncompressed_len = header.body_len;
    header.codec = Codec::Raw;
    change(&mut header);
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(body);
    Frame::parse(Bytes::from(bytes)).unwrap()
}

#[test]
fn frames_round_trip_with_every_codec() {
    for (count, level, codec) in [
        (2, Level::Small, Codec::ZstdDictionary(DICTIONARY_ID)),
        (100, Level::Fast, Codec::ZstdDictionary(DICTIONARY_ID)),
        (2000, Level::Normal, Codec::Zstd),
    ] {
        let frame = frame_of(count, level);
        assert_eq!(frame.header().codec, codec);
        let parsed = Frame::parse(frame.bytes().clone()).unwrap();
        assert_eq!(parsed, frame);
        let opened = FrameCodec::new().open(&parsed).unwrap();
        let mut traffic = Traffic::new(7);
        let mut sequence = 50;
        for (at, entry) in opened.entries() {
            let (account, captured, op) = traffic.entry();
            assert_eq!((at, entry.account, entry.captured_wall_ns), (Sequence(sequence), account.as_str(), captured));
            assert_eq!(entry.op, op);
            sequence += 1;
        }
        assert_eq!(sequence, 50 + count);
        let header = frame.header();
        assert_eq!((header.ring_index_first, header.ring_index_last), (100, 99 + count));
    }
}

#[test]
fn what_does_not_compress_is_stored_raw() {
    let mut traffic = Traffic::new(1);
    let noise: Vec<u8> = (0..4000).flat_map(|_| traffic.number().to_le_bytes()).collect();
    let mut builder = FrameBuilder::new();
    builder.push("a", 1, &noise, None).unwrap();
    let frame = builder.seal(&seal(1, Level::Small), &mut FrameCodec::new()).unwrap();
    assert_eq!(frame.header().codec, Codec::Raw);
    assert_eq!(FrameCodec::new().open(&frame).unwrap().count(), 1);
    assert_eq!((frame.header().ring_generation, frame.header().ring_index_last), (0, 0));
}

#[test]
fn every_one_bit_damage_is_a_typed_error() {
    let frame = frame_of(3, Level::Small);
    for bit in 0..frame.bytes().len() * 8 {
        let mut bad = frame.bytes().to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Frame::parse(Bytes::from(bad)).is_err(), "bit {bit} went unnoticed");
    }
    for len in 0..frame.bytes().len() {
        assert!(Frame::parse(frame.bytes().slice(..len)).is_err(), "cut at {len} went unnoticed");
    }
}

#[test]
fn forged_bodies_are_typed_errors() {
    let mut codec = FrameCodec::new();
    let body = Traffic::new(3).body(2);
    let count = codec.open(&forged(&body, |_| {}));
    assert_eq!(count, Err(FrameError::Count { have: 2, said: 1 }));
    assert!(matches!(codec.open(&forged(&body[..body.len() - 1], |_| {})), Err(FrameError::Entry(_))));
    let unknown = forged(&body, |h| h.codec = Codec::ZstdDictionary(2));
    assert_eq!(codec.open(&unknown), Err(FrameError::NoDictionary(2)));
    for zstd in [Codec::Zstd, Codec::ZstdDictionary(1)] {
        let garbage = forged(&body, |h| h.codec = zstd);
        assert!(matches!(codec.open(&garbage), Err(FrameError::Decompress(_))));
    }
    // 64 MiB of zeros in a few kilobytes, under a header that admits to little, and to as much as is allowed.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    for said in [100, FRAME_BODY_BYTES_MAX] {
        let bomb = forged(&bomb, |h| {
            h.codec = Codec::Zstd;
            h.uncompressed_len = u32::try_from(said).unwrap();
        });
        assert!(matches!(codec.open(&bomb), Err(FrameError::Decompress(_))));
    }
    let short = zstd::bulk::compress(&body, 1).unwrap();
    let short = forged(&short, |h| {
        h.codec = Codec::Zstd;
        h.uncompressed_len = 5000;
    });
    assert_eq!(codec.open(&short), Err(FrameError::Decompressed { have: body.len(), said: 5000 }));
}

#[test]
fn builder_refuses_before_it_changes_anything() {
    let mut builder = FrameBuilder::new();
    let codec = &mut FrameCodec::new();
    assert_eq!(builder.seal(&seal(1, Level::Fast), codec), Err(BuilderError::Empty));
    let op = vec![0; OP_BYTES_MAX];
    let too_long = builder.push("a", 1, &vec![0; OP_BYTES_MAX + 1], None);
    assert!(matches!(too_long, Err(BuilderError::OutOfRange { .. })));
    assert!(matches!(builder.push("", 1, &op, None), Err(BuilderError::OutOfRange { .. })));
    assert!(matches!(builder.push("a\n", 1, &op, None), Err(BuilderError::OutOfRange { .. })));
    let ring = |generation| Some(RingPosition { generation, index: 5 });
    builder.push("a", 1, &op, ring(1)).unwrap();
    assert_eq!(builder.push("a", 1, &op, ring(2)), Err(BuilderError::RingGeneration { have: 1, got: 2 }));
    while builder.push("a", 1, &op, None).is_ok() {}
    assert_eq!(builder.push("a", 1, &op, None), Err(BuilderError::Full));
    let count = builder.count();
    assert!(builder.seal(&seal(0, Level::Fast), codec).is_err());
    assert_eq!(builder.count(), count, "a refused seal keeps the operations");
    let frame = builder.seal(&seal(1, Level::Fast), codec).unwrap();
    assert_eq!((frame.header().count, builder.is_empty()), (count, true));
    assert_eq!(codec.open(&frame).unwrap().count(), count);
}

#[test]
fn level_falls_as_the_queue_grows() {
    assert_eq!(level_for(0), Level::Small);
    assert_eq!(level_for(100_000), Level::Normal);
    assert_eq!(level_for(usize::MAX), Level::Fast);
}

#[test]
fn dictionary_is_the_one_that_frames_were_made_with() {
    let bytes = dictionary(DICTIONARY_ID).unwrap();
    assert!(bytes.len() <= DICTIONARY_BYTES_MAX);
    assert_eq!(hex::encode(blake3::hash(bytes).as_bytes()), DICTIONARY_1_BLAKE3);
    assert_eq!(dictionary(DICTIONARY_ID + 1), None);
}

const DICTIONARY_1_BLAKE3: &str = "6315af164eb4a331f9034fc12c7d6c03fc1e1d0a878b1bdd5ff668ac3c5523d7";

#[test]
fn dictionary_pays_for_small_bodies() {
    let mut codec = FrameCodec::new();
    for count in [1, 4, 16, 256] {
        let body = Traffic::new(99).body(count);
        let with = codec.compress(&body, Level::Normal).map_or(body.len(), |(_, out)| out.len());
        let without = zstd::bulk::compress(&body, 3).unwrap().len();
        println!("{count} operations: {} bytes, {without} by zstd alone, {with} with the dictionary", body.len());
        assert!(count > 16 || with < without);
    }
}

#[test]
fn train_the_dictionary() {
    // Only on request: a new dictionary is a new number and a new file, never a change of this one.
    let Some(path) = std::env::var_os("UNDERSTUDY_TRAIN") else { return };
    let made = train_dictionary(&Traffic::samples()).unwrap();
    std::fs::write(path, made).unwrap();
}

/// `UNDERSTUDY_GOLDEN=directory` writes the files; they are committed once per version and never change again.
const GOLDEN: [(&str, u64); 3] = [("frame-v1-raw", 0), ("frame-v1-dictionary", 3), ("frame-v1-zstd", 1000)];

fn golden_frame(count: u64) -> Frame {
    if count == 0 {
        let mut builder = FrameBuilder::new();
        builder.push("u0001@example.test", 1_767_225_600_000_000_000, &[5, 0, 0, 0, 0, 0, 0, 0], None).unwrap();
        return builder.seal(&seal(1, Level::Normal), &mut FrameCodec::new()).unwrap();
    }
    frame_of(count, Level::Normal)
}

#[test]
fn golden_frames_decode_for_ever() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for (name, count) in GOLDEN {
        if let Some(out) = std::env::var_os("UNDERSTUDY_GOLDEN") {
            std::fs::write(std::path::Path::new(&out).join(format!("{name}.bin")), golden_frame(count).bytes())
                .unwrap();
        }
        let bytes = std::fs::read(directory.join(format!("{name}.bin"))).unwrap();
        let frame = Frame::parse(Bytes::from(bytes)).unwrap();
        let opened = FrameCodec::new().open(&frame).unwrap();
        let made = golden_frame(count);
        // The header's fields that do not depend on the build of zstd, and every entry.
        let (golden, made_header) = (frame.header(), made.header());
        assert_eq!(golden.first_sequence, made_header.first_sequence);
        assert_eq!(golden.uncompressed_len, made_header.uncompressed_len);
        assert_eq!((golden.codec, golden.count), (made_header.codec, made_header.count));
        assert_eq!(opened, FrameCodec::new().open(&made).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_operations_round_trip(
        ops in prop::collection::vec(("[a-z]{1,20}@[a-z.]{1,30}", any::<u64>(), prop::collection::vec(any::<u8>(), 8..300)), 1..40),
        first in 1..u64::MAX / 4,
    ) {
        let mut builder = FrameBuilder::new();
        for (account, captured, op) in &ops {
            builder.push(account, *captured, op, None).unwrap();
        }
        let mut codec = FrameCodec::new();
        let frame = builder.seal(&seal(first, Level::Fast), &mut codec).unwrap();
        let opened = codec.open(&Frame::parse(frame.bytes().clone()).unwrap()).unwrap();
        prop_assert_eq!(opened.count() as usize, ops.len());
        for ((sequence, entry), (index, (account, captured, op))) in opened.entries().zip(ops.iter().enumerate()) {
            prop_assert_eq!(sequence.0, first + index as u64);
            prop_assert_eq!((entry.account, entry.captured_wall_ns, entry.op), (account.as_str(), *captured, &op[..]));
        }
    }

    #[test]
    fn random_bodies_never_panic(
        body in prop::collection::vec(any::<u8>(), 1..2000),
        kind in 0..3u8,
        said in 1..4000u32,
    ) {
        let frame = forged(&body, |h| {
            h.codec = [Codec::Raw, Codec::Zstd, Codec::ZstdDictionary(1)][usize::from(kind)];
            if kind > 0 {
                h.uncompressed_len = said;
            }
        });
        let _ = FrameCodec::new().open(&frame);
    }
}
