//! Hostile peers against the link itself, without sockets: damage in the handshake, strangers, broken rules.

use std::io::Write;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConnection, Connection};
use rustls_pki_types::ServerName;
use understudy_types::id::{ClusterId, Epoch};
use understudy_types::message::{BODY_BYTES_MAX, Channel, Decoder, Hello, Message, PROTOCOL_MAX, RefusedCode};

use super::certificate::node_dns_name;
use super::conformance::{World, node, silent_peer};
use super::handshake::{DownReason, Own};
use super::link::{Link, LinkEvent};
use super::queue::LinkQueue;
use super::tls::TlsMaterial;
use super::{Identity, LinkId, TransportLimits};
use crate::clock::MonoNs;

const CLUSTER: ClusterId = ClusterId(77);
const NOW: MonoNs = MonoNs(1_000_000_000);
const CREDIT: u64 = 5000;

type Wanted<'a> = &'a dyn Fn(&DownReason) -> bool;

/// The side under test: node 2, dialled by whoever. Certificates are made once, because keys take time.
struct Bench {
    node1: TlsMaterial,
    node2: TlsMaterial,
}

impl Bench {
    fn new() -> Self {
        let world = World::new();
        let load = |raw| TlsMaterial::load(&world.tls(raw)).expect("certificates that were just made");
        Self { node1: load(1), node2: load(2) }
    }

    fn accept(&self) -> (Link, LinkQueue) {
        let identity = Identity { cluster: CLUSTER, node: node(2) };
        let own = Own {
            identity,
            incarnation: 2,
            software: "test".to_owned(),
            peers: vec![silent_peer(1)],
            credit_bytes: CREDIT,
        };
        let link = Link::accept(Arc::new(own), TransportLimits::default(), &self.node2, NOW).expect("a link");
        (link, LinkQueue::new(LinkId(1), None, 1 << 20))
    }

    /// A client with a good certificate of node 1, which says what a test wants.
    fn client(&self) -> Connection {
        let name = ServerName::try_from(node_dns_name(CLUSTER, node(2))).expect("a name");
        ClientConnection::new(self.node1.client.clone(), name).expect("a client").into()
    }
}

fn hello() -> Message {
    Message::Hello(Hello {
        protocol_min: 1,
        protocol_max: PROTOCOL_MAX,
        node: node(1),
        channel: Channel::Data,
        cluster: CLUSTER,
        incarnation: 1,
        capabilities: 0,
        software: "test".to_owned(),
    })
}

fn bytes(message: &Message) -> Vec<u8> {
    message.encode().expect("a message within limits")
}

/// What the client has for the link, as it would go over the wire.
fn flight(client: &mut Connection) -> Vec<u8> {
    let mut out = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut out).expect("memory takes everything");
    }
    out
}

/// Brings TLS through on both sides.
fn secure(client: &mut Connection, link: &mut Link, queue: &LinkQueue) {
    for _ in 0..4 {
        link.received(&flight(client), queue, NOW, &mut Vec::new()).expect("a good handshake");
        let mut back = &link.output(queue, NOW).expect("a good handshake")[..];
        while !back.is_empty() {
            client.read_tls(&mut back).expect("memory");
            client.process_new_packets().expect("a good handshake");
        }
    }
    assert!(!client.is_handshaking());
}

fn say(
    client: &mut Connection,
    link: &mut Link,
    queue: &LinkQueue,
    plain: &[u8],
) -> (Result<(), DownReason>, Vec<LinkEvent>) {
    let mut events = Vec::new();
    for piece in plain.chunks(8192) {
        client.writer().write_all(piece).expect("room");
        let result = link.received(&flight(client), queue, NOW, &mut events);
        if result.is_err() {
            return (result, events);
        }
    }
    (Ok(()), events)
}

/// A link that node 1 has got through, with the node's answer given.
fn up(bench: &Bench) -> (Connection, Link, LinkQueue) {
    let mut client = bench.client();
    let (mut link, queue) = bench.accept();
    secure(&mut client, &mut link, &queue);
    let (result, events) = say(&mut client, &mut link, &queue, &bytes(&hello()));
    assert!(result.is_ok() && matches!(events[..], [LinkEvent::Greeted(_)]), "{result:?} {events:?}");
    queue.answer(Ok(Vec::new())).expect("a link that waits");
    link.output(&queue, NOW).expect("a HelloAck");
    (client, link, queue)
}

#[test]
fn every_one_bit_damage_of_a_hello_is_refused_with_a_reason() {
    let bench = Bench::new();
    let good = bytes(&hello());
    for bit in 0..good.len() * 8 {
        let mut client = bench.client();
        let (mut link, queue) = bench.accept();
        secure(&mut client, &mut link, &queue);
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let (result, events) = say(&mut client, &mut link, &queue, &bad);
        assert!(
            matches!(result, Err(DownReason::Rejected { code: RefusedCode::Malformed, .. })),
            "bit {bit}: {result:?}"
        );
        assert!(events.is_empty(), "bit {bit}");
        // The peer is told: what goes out now is a Refused that it can read.
        link.close(result.expect_err("checked above"));
        let mut back = &link.output(&queue, NOW).expect("a Refused")[..];
        let mut decoder = Decoder::new(BODY_BYTES_MAX);
        while !back.is_empty() {
            client.read_tls(&mut back).expect("memory");
            let state = client.process_new_packets().expect("good records");
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            std::io::Read::read_exact(&mut client.reader(), &mut plain).expect("what is there");
            decoder.push(&plain);
        }
        assert!(
            matches!(decoder.next(), Ok(Some((Message::Refused { code: RefusedCode::Malformed, .. }, _)))),
            "bit {bit}"
        );
    }
}

#[test]
fn damage_in_the_tls_handshake_never_lets_anybody_in() {
    let bench = Bench::new();
    let mut client = bench.client();
    let first = flight(&mut client);
    // Every bit of the first flight; what is left of it after damage fails, or fails with the second flight.
    for bit in 0..first.len() * 8 {
        let (mut link, queue) = bench.accept();
        let mut bad = first.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut events = Vec::new();
        let _ = link.received(&bad, &queue, NOW, &mut events);
        let _ = link.output(&queue, NOW);
        assert!(events.is_empty(), "bit {bit}");
    }
    // The second flight holds certificate and Hello; all of it is under the first one's keys.
    for step in 0..200 {
        let mut client = bench.client();
        let (mut link, queue) = bench.accept();
        link.received(&flight(&mut client), &queue, NOW, &mut Vec::new()).expect("a good first flight");
        let mut back = &link.output(&queue, NOW).expect("the server's flight")[..];
        while !back.is_empty() {
            client.read_tls(&mut back).expect("memory");
            client.process_new_packets().expect("a good handshake");
        }
        client.writer().write_all(&bytes(&hello())).expect("room");
        let mut second = flight(&mut client);
        let bit = step * second.len() * 8 / 200 + step % 8;
        let bit = bit.min(second.len() * 8 - 1);
        if carries_nothing(&second, bit / 8) {
            continue;
        }
        second[bit / 8] ^= 1 << (bit % 8);
        let mut events = Vec::new();
        let result = link.received(&second, &queue, NOW, &mut events);
        assert!(events.is_empty(), "bit {bit}: {events:?}");
        // A record that grew longer waits for its end; everything else is an error at once.
        assert!(result.is_err() || !link.is_closing(), "bit {bit}");
    }
}

/// The version in a record's head is fixed in TLS 1.3 and has to be ignored (RFC 8446, 5.1): damage there changes
/// nothing, and who is let in is who would have been.
fn carries_nothing(records: &[u8], at: usize) -> bool {
    let mut start = 0;
    while let Some(head) = records.get(start..start + 5) {
        if (start + 1..start + 3).contains(&at) {
            return true;
        }
        start += 5 + usize::from(u16::from_be_bytes([head[3], head[4]]));
    }
    false
}

#[test]
fn what_is_not_allowed_ends_the_connection_with_its_reason() {
    let bench = Bench::new();
    let refused =
        |code| move |reason: &DownReason| matches!(reason, DownReason::Rejected { code: c, .. } if *c == code);
    let before: [(Message, Wanted<'_>); 4] = [
        (Message::Goodbye, &refused(RefusedCode::Malformed)),
        (Message::Ping { token: 1 }, &refused(RefusedCode::Malformed)),
        (change(|hello| hello.cluster = ClusterId(1)), &refused(RefusedCode::Cluster)),
        (change(|hello| hello.node = node(3)), &refused(RefusedCode::Identity)),
    ];
    for (message, wanted) in before {
        let mut client = bench.client();
        let (mut link, queue) = bench.accept();
        secure(&mut client, &mut link, &queue);
        let (result, events) = say(&mut client, &mut link, &queue, &bytes(&message));
        assert!(result.as_ref().is_err_and(wanted) && events.is_empty(), "{message:?}: {result:?}");
    }
    let too_new = change(|hello| (hello.protocol_min, hello.protocol_max) = (PROTOCOL_MAX + 1, PROTOCOL_MAX + 9));
    let mut client = bench.client();
    let (mut link, queue) = bench.accept();
    secure(&mut client, &mut link, &queue);
    let (result, _) = say(&mut client, &mut link, &queue, &bytes(&too_new));
    assert!(result.as_ref().is_err_and(refused(RefusedCode::Version)), "{result:?}");

    // Let in, but not yet answered: nothing may come.
    let mut client = bench.client();
    let (mut link, queue) = bench.accept();
    secure(&mut client, &mut link, &queue);
    let eager = [bytes(&hello()), bytes(&Message::Ping { token: 1 })].concat();
    let (result, _) = say(&mut client, &mut link, &queue, &eager);
    assert!(matches!(result, Err(DownReason::Protocol(_))), "{result:?}");

    // Up.
    let frame = Message::Frame { writer_epoch: Epoch(1), bytes: vec![0; 4000] };
    for (said, good) in [(vec![hello()], 0), (vec![frame.clone(), frame], 1), (vec![Message::Goodbye], 0)] {
        let (mut client, mut link, queue) = up(&bench);
        let plain: Vec<u8> = said.iter().flat_map(bytes).collect();
        let (result, events) = say(&mut client, &mut link, &queue, &plain);
        assert!(matches!(result, Err(DownReason::Protocol(_) | DownReason::Goodbye)), "{result:?}");
        assert_eq!(events.len(), good, "a frame within its credit arrives, one beyond it does not");
    }
}

fn change(change: impl FnOnce(&mut Hello)) -> Message {
    let Message::Hello(mut hello) = hello() else { unreachable!("it is a Hello") };
    change(&mut hello);
    Message::Hello(hello)
}

#[test]
fn a_message_of_a_newer_version_is_counted_and_skipped() {
    let (mut client, mut link, queue) = up(&Bench::new());
    let mut newer = bytes(&Message::Goodbye);
    newer[4..6].copy_from_slice(&900u16.to_le_bytes());
    let checksum = crc32c::crc32c(&newer[..8]);
    newer[8..12].copy_from_slice(&checksum.to_le_bytes());
    newer.extend_from_slice(&bytes(&Message::Credit { bytes: 4 }));
    let (result, events) = say(&mut client, &mut link, &queue, &newer);
    assert_eq!(result, Ok(()));
    assert!(matches!(events[..], [LinkEvent::Message { message: Message::Credit { bytes: 4 }, .. }]));
    assert_eq!(queue.status().unknown_messages, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_bytes_from_a_stranger_never_panic(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 1..8),
    ) {
        thread_local!(static BENCH: Bench = Bench::new());
        BENCH.with(|bench| {
            let (mut link, queue) = bench.accept();
            for piece in &pieces {
                let mut events = Vec::new();
                let done = link.received(piece, &queue, NOW, &mut events).is_err();
                let _ = link.output(&queue, NOW);
                assert!(events.is_empty());
                if done {
                    break;
                }
            }
        });
    }

    #[test]
    fn random_bytes_from_a_certified_peer_never_panic(plain in proptest::collection::vec(any::<u8>(), 0..6000)) {
        thread_local!(static BENCH: Bench = Bench::new());
        BENCH.with(|bench| {
            let (mut client, mut link, queue) = up(bench);
            let (result, _) = say(&mut client, &mut link, &queue, &plain);
            assert!(result.is_err() || plain.len() < 16, "{result:?}");
        });
    }
}
