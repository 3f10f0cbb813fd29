//! Round trips, golden bytes, every one-bit damage, and hostile bytes.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::frame::FRAME_BYTES_MAX;

fn node(raw: u16) -> NodeId {
    NodeId::new(raw).expect("a node id in range")
}

fn samples() -> Vec<Message> {
    vec![
        Message::Hello(Hello {
            protocol_min: 1,
            protocol_max: 3,
            node: node(7),
            channel: Channel::Data,
            cluster: ClusterId(0x1122_3344_5566_7788),
            incarnation: 9,
            capabilities: capability::ALL,
            software: "understudy 0.1.0".to_string(),
        }),
        Message::HelloAck(HelloAck {
            protocol: 1,
            node: node(2),
            cluster: ClusterId(5),
            incarnation: 77,
            capabilities: 3,
            credit_bytes: 1 << 23,
            software: "understudy 0.1.0".to_string(),
            positions: vec![
                Position {
                    group: GroupId(1),
                    epoch: Epoch(2),
                    journaled: Sequence(30),
                    applied: Sequence(29),
                    hash: [0xab; 32],
                },
                Position {
                    group: GroupId(9),
                    epoch: Epoch(0),
                    journaled: Sequence(0),
                    applied: Sequence(0),
                    hash: [0; 32],
                },
            ],
        }),
        Message::Refused { code: RefusedCode::Cluster, text: "cluster `5` is not `6`".to_string() },
        Message::Frame { writer_epoch: Epoch(4), bytes: vec![1, 2, 3, 4, 5] },
        Message::Ack(vec![GroupAck {
            group: GroupId(1),
            epoch: Epoch(2),
            received: Sequence(9),
            journaled: Sequence(8),
            applied: Sequence(7),
        }]),
        Message::Credit { bytes: 4096 },
        Message::ResyncNeeded { group: GroupId(3), epoch: Epoch(2), reason: ResyncReason::Diverged },
        Message::Beat(vec![0x5a; 40]),
        Message::Positions(vec![Position {
            group: GroupId(9),
            epoch: Epoch(3),
            journaled: Sequence(12),
            applied: Sequence(11),
            hash: [7; 32],
        }]),
        Message::Council(b"{}".to_vec()),
        Message::Request { id: 1, kind: request::DIGEST, body: b"u0001@example.test".to_vec() },
        Message::Reply { id: 1, status: status::OK, more: true, body: vec![9; 16] },
        Message::Ping { token: 1 },
        Message::Pong { token: 2 },
        Message::Goodbye,
        Message::Parked {
            group: GroupId(7),
            applied: Sequence(90),
            accounts: vec![("u0001@example.test".to_string(), Sequence(12)), ("b@x".to_string(), Sequence(88))],
        },
    ]
}

#[test]
fn every_message_round_trips_whole_and_byte_by_byte() {
    for message in samples() {
        let bytes = message.encode().expect("a message within limits");
        assert_eq!(Message::decode(&bytes), Ok(message.clone()));
        let mut decoder = Decoder::new(BODY_BYTES_MAX);
        for (i, byte) in bytes.iter().enumerate() {
            assert_eq!(decoder.next(), Ok(None), "nothing whole after {i} bytes");
            decoder.push(&[*byte]);
        }
        assert_eq!(decoder.next(), Ok(Some((message, bytes.len()))));
        assert_eq!(decoder.next(), Ok(None));
    }
}

#[test]
fn golden_bytes_of_version_1() {
    // These bytes were sent by protocol version 1; they must be read for as long as it is spoken.
    let ping = Message::Ping { token: 0x0102_0304_0506_0708 }.encode().expect("a message within limits");
    assert_eq!(ping, [8, 0, 0, 0, 11, 0, 0, 0, 0x8f, 0x5c, 0x75, 0x5a, 0x1c, 0x02, 0xf9, 0x26, 8, 7, 6, 5, 4, 3, 2, 1]);
    let refused = Message::Refused { code: RefusedCode::Version, text: "no".to_string() }
        .encode()
        .expect("a message within limits");
    assert_eq!(refused[16..], [1, 0, 2, 0, b'n', b'o']);
}

#[test]
fn every_one_bit_damage_of_every_message_is_an_error() {
    for message in samples() {
        let good = message.encode().expect("a message within limits");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::decode(&bad).is_err(), "bit {bit} of {message:?}");
            // In a stream, with the next message behind it: an error at once, not a wait for bytes that never come.
            let mut decoder = Decoder::new(BODY_BYTES_MAX);
            decoder.push(&bad);
            decoder.push(&good);
            let error = decoder.next().expect_err("damage in a stream");
            assert_eq!(decoder.next(), Err(error), "after damage the stream stays refused");
        }
    }
}

#[test]
fn every_cut_is_short() {
    for message in samples() {
        let good = message.encode().expect("a message within limits");
        for len in 0..good.len() {
            assert!(
                matches!(Message::decode(&good[..len]), Err(MessageError::Short { .. })),
                "{len} bytes of {message:?}"
            );
        }
        let mut long = good.clone();
        long.push(0);
        assert!(matches!(Message::decode(&long), Err(MessageError::Trailing { .. })));
    }
}

/// A message with right checksums around any head fields and body.
fn forged(raw_kind: u16, flags: u16, len: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&raw_kind.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    let head_checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&head_checksum.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

#[test]
fn limits_are_held_before_the_body_is_waited_for() {
    let mut decoder = Decoder::new(HELLO_BYTES_MAX);
    decoder.push(&forged(kind::FRAME, 0, 4 << 20, &[]));
    assert!(matches!(decoder.next(), Err(MessageError::TooLong { max: HELLO_BYTES_MAX, .. })));
    for (raw_kind, len) in [
        (kind::FRAME, u32::MAX),
        (kind::FRAME, (4 << 20) + 1),
        (kind::BEAT, 513),
        (kind::GOODBYE, 1),
        (kind::HELLO, 2049),
        (999, u32::MAX),
    ] {
        let mut decoder = Decoder::new(usize::MAX);
        decoder.push(&forged(raw_kind, 0, len, &[]));
        assert!(matches!(decoder.next(), Err(MessageError::TooLong { .. })), "type {raw_kind} with {len} bytes");
    }
    assert_eq!(Message::decode(&forged(kind::PING, 4, 8, &[0; 8])), Err(MessageError::Flags(4)));
    assert_eq!(Message::decode(&forged(0, 0, 0, &[])), Err(MessageError::Kind));
}

#[test]
fn counts_are_held_against_the_bytes_left() {
    let body = u32::MAX.to_le_bytes();
    assert!(matches!(Message::decode(&forged(kind::ACK, 0, 4, &body)), Err(MessageError::Range { .. })));
    let body = 16_000u32.to_le_bytes();
    assert!(matches!(Message::decode(&forged(kind::ACK, 0, 4, &body)), Err(MessageError::Short { need: 576_000, .. })));
}

#[test]
fn an_unknown_type_is_skipped_and_the_next_message_is_read() {
    let mut decoder = Decoder::new(BODY_BYTES_MAX);
    decoder.push(&forged(4711, 0, 3, b"new"));
    decoder.push(&Message::Goodbye.encode().expect("a message within limits"));
    assert_eq!(decoder.next(), Ok(Some((Message::Unknown { kind: 4711, body_bytes: 3 }, 19))));
    assert_eq!(decoder.next(), Ok(Some((Message::Goodbye, 16))));
}

#[test]
fn a_hello_of_a_newer_version_may_be_longer_and_others_may_not() {
    let hello = samples().remove(0);
    let mut body = hello.encode().expect("a message within limits")[HEAD_BYTES..].to_vec();
    body.extend_from_slice(b"what version 3 added");
    let len = u32::try_from(body.len()).expect("a short body");
    assert_eq!(Message::decode(&forged(kind::HELLO, 0, len, &body)), Ok(hello));
    assert!(matches!(Message::decode(&forged(kind::PING, 0, 8, &[0; 9])), Err(MessageError::Trailing { .. })));
}

#[test]
fn an_ack_whose_positions_contradict_each_other_is_refused() {
    let ack = GroupAck {
        group: GroupId(1),
        epoch: Epoch(1),
        received: Sequence(5),
        journaled: Sequence(6),
        applied: Sequence(0),
    };
    let bytes = Message::Ack(vec![ack]).encode().expect("a message within limits");
    assert!(matches!(Message::decode(&bytes), Err(MessageError::Range { .. })));
}

#[test]
fn what_is_past_a_limit_is_not_written() {
    assert!(Message::Beat(vec![0; BEAT_BYTES_MAX + 1]).encode().is_err());
    assert!(Message::Frame { writer_epoch: Epoch(1), bytes: vec![0; FRAME_BYTES_MAX] }.encode().is_ok());
    assert!(Message::Frame { writer_epoch: Epoch(1), bytes: vec![0; FRAME_BYTES_MAX + 1] }.encode().is_err());
    assert!(
        Message::Refused { code: RefusedCode::Busy, text: String::from_utf8(vec![b'x'; 513]).expect("ascii") }
            .encode()
            .is_err()
    );
    assert!(Message::Refused { code: RefusedCode::Busy, text: "two\nlines".to_string() }.encode().is_err());
    assert!(Message::Unknown { kind: 99, body_bytes: 0 }.encode().is_err());
}

#[test]
fn the_highest_common_version_is_chosen() {
    assert_eq!(choose_protocol((1, 3), (2, 5)), Some(3));
    assert_eq!(choose_protocol((1, 1), (1, 1)), Some(1));
    assert_eq!(choose_protocol((1, 2), (3, 4)), None);
    assert_eq!(choose_protocol((3, 4), (1, 2)), None);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096), cut in 1usize..64) {
        let _ = Message::decode(&bytes);
        let mut decoder = Decoder::new(BODY_BYTES_MAX);
        for piece in bytes.chunks(cut) {
            decoder.push(piece);
            if decoder.next().is_err() {
                break;
            }
            prop_assert!(decoder.pending_bytes() <= bytes.len());
        }
    }

    #[test]
    fn random_bodies_with_right_checksums_never_panic(
        raw_kind in 1u16..16,
        body in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let len = u32::try_from(body.len()).unwrap_or(0);
        if let Ok(message) = Message::decode(&forged(raw_kind, 0, len, &body))
            && !matches!(message, Message::Unknown { .. } | Message::Hello(_))
        {
            // What is accepted is canonical: it is written again as it came.
            prop_assert_eq!(&message.encode().expect("what was read can be written")[HEAD_BYTES..], &body[..]);
        }
    }
}
