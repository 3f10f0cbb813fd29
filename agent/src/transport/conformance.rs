//! One suite for both backends: whatever holds on plain system calls must hold on io_uring.
//!
//! Real sockets on loopback, real certificates. A relay between two nodes plays the network: it can stall and cut.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use tempfile::TempDir;
use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};
use understudy_types::message::{Channel, GroupAck, Message, Position, RefusedCode, status};

use super::certificate::{CertifiedPem, NodeCertificate, issue_authority, issue_node};
use super::relay::Relay;
use super::*;
use crate::clock;

const CLUSTER: ClusterId = ClusterId(77);
const HOUR: Duration = Duration::from_secs(3600);
/// Far beyond what anything here takes; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn node(raw: u16) -> NodeId {
    NodeId::new(raw).expect("a node id in range")
}

/// An authority and a directory for the files of its nodes.
pub(super) struct World {
    pub(super) directory: TempDir,
    pub(super) authority: CertifiedPem,
}

impl World {
    pub(super) fn new() -> Self {
        let authority = issue_authority("test", 24 * HOUR, clock::wall_ns()).expect("an authority");
        Self { directory: tempfile::tempdir().expect("a temporary directory"), authority }
    }

    pub(super) fn issue(&self, authority: &CertifiedPem, cluster: ClusterId, raw: u16, now_wall_ns: u64) -> TlsPaths {
        let what = NodeCertificate {
            cluster,
            node: node(raw),
            name: format!("node{raw}"),
            addresses: Vec::new(),
            valid: HOUR,
        };
        let pem = issue_node(authority, &what, now_wall_ns).expect("a certificate");
        write(self.directory.path(), &format!("{raw}"), &self.authority, &pem)
    }

    pub(super) fn tls(&self, raw: u16) -> TlsPaths {
        self.issue(&self.authority, CLUSTER, raw, clock::wall_ns())
    }
}

fn write(directory: &Path, name: &str, authority: &CertifiedPem, pem: &CertifiedPem) -> TlsPaths {
    use std::os::unix::fs::PermissionsExt;
    let path = |kind: &str| directory.join(format!("{name}.{kind}"));
    let put = |kind: &str, text: &str| {
        std::fs::write(path(kind), text).expect("a file in the temporary directory");
        std::fs::set_permissions(path(kind), std::fs::Permissions::from_mode(0o600)).expect("permissions");
        path(kind)
    };
    TlsPaths {
        authority: put("ca", &authority.certificate),
        certificate: put("crt", &pem.certificate),
        key: put("key", &pem.key),
    }
}

/// A running transport with its events.
pub(super) struct Node {
    pub(super) handle: TransportHandle,
    events: Receiver<TransportEvent>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

pub(super) fn config(backend: IoBackend, raw: u16, tls: TlsPaths, peers: Vec<PeerConfig>) -> TransportConfig {
    let limits = TransportLimits {
        keepalive: Duration::from_millis(50),
        silence_max: Duration::from_secs(20),
        redial_min: Duration::from_millis(10),
        redial_max: Duration::from_millis(100),
        ..TransportLimits::default()
    };
    let software = "test 1".to_owned();
    TransportConfig {
        node: node(raw),
        cluster: CLUSTER,
        incarnation: u64::from(raw),
        software,
        listen: ([127, 0, 0, 1], 0).into(),
        peers,
        tls,
        limits,
        backend,
    }
}

pub(super) fn peer(raw: u16, address: SocketAddr) -> PeerConfig {
    PeerConfig { node: node(raw), address, dial: true, bytes_per_second_max: 0 }
}

/// A peer that is let in and never dialled for data. Nobody listens at its address.
pub(super) fn silent_peer(raw: u16) -> PeerConfig {
    PeerConfig { dial: false, ..peer(raw, ([127, 0, 0, 1], 1).into()) }
}

impl Node {
    pub(super) fn start(config: TransportConfig) -> Self {
        let (sender, events) = bounded(1024);
        Self { handle: Transport::start(config, sender).expect("a transport"), events }
    }

    /// The first event that `pick` wants; others are passed over.
    pub(super) fn wait<T>(&self, what: &str, mut pick: impl FnMut(TransportEvent) -> Option<T>) -> T {
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) => {
                    if let Some(found) = pick(event) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("nothing came while waiting for {what}"),
                Err(RecvTimeoutError::Disconnected) => panic!("transport ended while waiting for {what}"),
            }
        }
    }

    fn welcome(&self, positions: &[Position]) -> LinkId {
        let link = self.wait("a peer that asks", |event| {
            if let TransportEvent::Asked { link, .. } = event { Some(link) } else { None }
        });
        self.handle.welcome(link, positions.to_vec()).expect("the link is there");
        link
    }

    fn connected(&self, channel: Channel) -> (LinkId, Vec<Position>, u64) {
        self.wait("a connection", |event| match event {
            TransportEvent::Connected { link, positions, credit_bytes, channel: c, .. } if c == channel => {
                Some((link, positions, credit_bytes))
            }
            _ => None,
        })
    }

    fn message(&self) -> (LinkId, Message, usize) {
        self.wait("a message", |event| match event {
            TransportEvent::Message { link, message, wire_bytes, .. } => Some((link, message, wire_bytes)),
            TransportEvent::Disconnected { reason, .. } => panic!("disconnected: {reason}"),
            _ => None,
        })
    }

    fn disconnected(&self, channel: Channel) -> DownReason {
        self.wait("the end of a connection", |event| match event {
            TransportEvent::Disconnected { reason, channel: c, .. } if c == channel => Some(reason),
            _ => None,
        })
    }

    pub(super) fn dial_failed(&self) -> DownReason {
        self.wait("a failed dial", |event| {
            if let TransportEvent::DialFailed { reason, channel: Channel::Data, .. } = event {
                Some(reason)
            } else {
                None
            }
        })
    }

    pub(super) fn rejected(&self) -> DownReason {
        self.wait(
            "a rejection",
            |event| if let TransportEvent::Rejected { reason, .. } = event { Some(reason) } else { None },
        )
    }
}

fn frame(number: u64, bytes: usize) -> Message {
    let mut body = vec![0x5c; bytes];
    body[..8].copy_from_slice(&number.to_le_bytes());
    Message::Frame { writer_epoch: Epoch(1), bytes: body }
}

fn number(message: &Message) -> u64 {
    let Message::Frame { bytes, .. } = message else { panic!("not a frame: {message:?}") };
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

fn position(journaled: u64) -> Position {
    Position { group: GroupId(3), epoch: Epoch(1), journaled: Sequence(journaled), applied: Sequence(0), hash: [4; 32] }
}

/// Node 2 listens, node 1 dials it; both are connected. Node 2's positions and limits can be set.
fn pair(
    world: &World,
    backend: IoBackend,
    change: impl FnOnce(&mut TransportConfig, &mut TransportConfig),
) -> (Node, LinkId, Node, LinkId) {
    let mut second = config(backend, 2, world.tls(2), vec![silent_peer(1)]);
    let mut first = config(backend, 1, world.tls(1), Vec::new());
    first.peers = vec![peer(2, ([127, 0, 0, 1], 1).into())];
    change(&mut first, &mut second);
    let second = Node::start(second);
    first.peers[0].address = second.handle.local_address();
    let first = Node::start(first);
    let theirs = second.welcome(&[position(9)]);
    let (ours, positions, _) = first.connected(Channel::Data);
    assert_eq!(positions, [position(9)]);
    (first, ours, second, theirs)
}

fn connects_and_speaks_both_ways(backend: IoBackend) {
    let (first, ours, second, theirs) = pair(&World::new(), backend, |_, _| {});
    for i in 0..200 {
        first.handle.send_on(ours, &frame(i, 1000)).expect("room in the queue");
    }
    for i in 0..200 {
        let (link, message, wire_bytes) = second.message();
        assert_eq!((link, number(&message)), (theirs, i), "frames arrive in order");
        assert_eq!(wire_bytes as u64, Message::frame_cost_bytes(1000));
    }
    let ack = Message::Ack(vec![GroupAck {
        group: GroupId(3),
        epoch: Epoch(1),
        received: Sequence(2),
        journaled: Sequence(2),
        applied: Sequence(1),
    }]);
    second.handle.send_on(theirs, &ack).expect("room in the queue");
    assert_eq!(first.message().1, ack);
    // Requests may go either way, by peer.
    let request = Message::Request { id: 5, kind: 1, body: b"u0001".to_vec() };
    second.handle.send(node(1), &request).expect("connected");
    assert_eq!(first.message().1, request);
    let reply = Message::Reply { id: 5, status: status::OK, more: false, body: vec![1; 100_000] };
    first.handle.send(node(2), &reply).expect("connected");
    assert_eq!(second.message().1, reply);
    assert_eq!(second.handle.send_on(theirs, &frame(1, 10)), Err(SendError::Direction));
    assert_eq!(first.handle.send(node(3), &request), Err(SendError::NotConnected));
}

fn beats_have_a_connection_of_their_own(backend: IoBackend) {
    let (first, _, second, _) = pair(&World::new(), backend, |_, _| {});
    while first.handle.send_beat(node(2), b"I am well") == Err(SendError::NotConnected) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(second.message().1, Message::Beat(b"I am well".to_vec()));
    second.handle.send_beat(node(1), b"so am I").expect("connected");
    assert_eq!(first.message().1, Message::Beat(b"so am I".to_vec()));
    assert!(first.handle.send_beat(node(2), &[0; 513]).is_err());
}

fn the_largest_message_passes(backend: IoBackend) {
    let (first, ours, second, _) = pair(&World::new(), backend, |_, _| {});
    let large = frame(1, understudy_types::frame::FRAME_BYTES_MAX);
    first.handle.send_on(ours, &large).expect("room in the queue");
    assert_eq!(second.message().1, large);
    let reply =
        Message::Reply { id: 1, status: 0, more: true, body: vec![7; understudy_types::message::PAYLOAD_BYTES_MAX] };
    second.handle.send(node(1), &reply).expect("connected");
    assert_eq!(first.message().1, reply);
}

fn credit_holds_frames_back_and_nothing_else(backend: IoBackend) {
    let cost = Message::frame_cost_bytes(1000);
    let (first, ours, second, theirs) = pair(&World::new(), backend, |_, second| second.limits.credit_bytes = 3 * cost);
    for i in 0..5 {
        first.handle.send_on(ours, &frame(i, 1000)).expect("room in the queue");
    }
    let ping = Message::Request { id: 1, kind: 1, body: Vec::new() };
    first.handle.send_on(ours, &ping).expect("room in the queue");
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(second.message().1);
    }
    // All the credit is used up; another request passes the frames that wait.
    first.handle.send_on(ours, &ping).expect("room in the queue");
    seen.push(second.message().1);
    assert_eq!(seen.last(), Some(&ping));
    let frames: Vec<_> = seen.iter().filter(|message| matches!(message, Message::Frame { .. })).map(number).collect();
    assert_eq!(frames, [0, 1, 2]);
    let status = first.handle.links().into_iter().find(|status| status.link == ours).expect("the link");
    assert_eq!((status.queued_messages, status.credit_bytes), (2, 0));
    second.handle.send_on(theirs, &Message::Credit { bytes: cost }).expect("room in the queue");
    loop {
        if let (_, message @ Message::Frame { .. }, _) = second.message() {
            assert_eq!(number(&message), 3);
            break;
        }
    }
}

fn a_full_queue_says_so(backend: IoBackend) {
    let (first, ours, second, theirs) = pair(&World::new(), backend, |first, second| {
        first.limits.queue_bytes_max = 10_000;
        second.limits.credit_bytes = 1;
    });
    let mut taken = 0;
    let full = loop {
        match first.handle.send_on(ours, &frame(taken, 1000)) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((full, taken), (SendError::Full, 10_000 / Message::frame_cost_bytes(1000)));
    second.handle.send_on(theirs, &Message::Credit { bytes: 1 << 20 }).expect("room in the queue");
    for i in 0..taken {
        assert_eq!(number(&second.message().1), i);
    }
}

fn a_wrong_cluster_is_refused_by_name(backend: IoBackend) {
    let world = World::new();
    let second = Node::start(config(backend, 2, world.tls(2), vec![silent_peer(1)]));
    // The same authority, but another cluster: TLS alone does not tell. Node 1 must dial by the name of node 2 in
    // its own cluster, so that it is node 1 that stops.
    let mut first = config(
        backend,
        1,
        world.issue(&world.authority, ClusterId(78), 1, clock::wall_ns()),
        vec![peer(2, second.handle.local_address())],
    );
    first.cluster = ClusterId(78);
    let first = Node::start(first);
    assert!(matches!(first.dial_failed(), DownReason::Tls(_)));
    assert!(matches!(second.rejected(), DownReason::Tls(_)));
}

fn a_wrong_certificate_is_refused(backend: IoBackend) {
    let world = World::new();
    let second = Node::start(config(backend, 2, world.tls(2), vec![silent_peer(1)]));
    let address = second.handle.local_address();
    // Of an authority that node 2 does not trust.
    let other = issue_authority("test", HOUR, clock::wall_ns()).expect("an authority");
    let stranger =
        Node::start(config(backend, 1, world.issue(&other, CLUSTER, 1, clock::wall_ns()), vec![peer(2, address)]));
    assert!(matches!(second.rejected(), DownReason::Tls(_)));
    assert!(matches!(stranger.dial_failed(), DownReason::Tls(_)));
    drop(stranger);
    // A good one of a node that is no peer.
    let third = Node::start(config(backend, 3, world.tls(3), vec![peer(2, address)]));
    assert!(matches!(third.dial_failed(), DownReason::Refused { code: RefusedCode::NotAPeer, .. }));
    drop(third);
    // Node 2 answers where node 4 is expected.
    let mistaken = Node::start(config(backend, 1, world.tls(1), vec![peer(4, address)]));
    assert!(matches!(mistaken.dial_failed(), DownReason::Tls(_)));
}

fn an_expired_certificate_is_refused_and_a_new_one_is_taken_up(backend: IoBackend) {
    let world = World::new();
    let second = Node::start(config(backend, 2, world.tls(2), vec![silent_peer(1)]));
    let long_ago = clock::wall_ns() - 48 * 3_600_000_000_000;
    let expired = world.issue(&world.authority, CLUSTER, 1, long_ago);
    let first = Node::start(config(backend, 1, expired, vec![peer(2, second.handle.local_address())]));
    let DownReason::Tls(text) = first.dial_failed() else { panic!("not refused by TLS") };
    assert!(text.to_lowercase().contains("expired"), "{text}");
    world.tls(1);
    first.handle.reload();
    first
        .wait(
            "new certificates",
            |event| if let TransportEvent::Certificates { result } = event { Some(result) } else { None },
        )
        .expect("good files");
    second.welcome(&[]);
    first.connected(Channel::Data);
}

fn a_refusal_of_the_node_reaches_the_peer(backend: IoBackend) {
    let world = World::new();
    let second = Node::start(config(backend, 2, world.tls(2), vec![silent_peer(1)]));
    let first = Node::start(config(backend, 1, world.tls(1), vec![peer(2, second.handle.local_address())]));
    let link =
        second.wait(
            "a peer that asks",
            |event| if let TransportEvent::Asked { link, .. } = event { Some(link) } else { None },
        );
    second.handle.refuse(link, RefusedCode::Busy, "starting".to_owned()).expect("the link is there");
    let DownReason::Refused { code, text } = first.dial_failed() else { panic!("not refused") };
    assert_eq!((code, text.as_str()), (RefusedCode::Busy, "starting"));
}

fn a_peer_that_dies_in_a_message_is_noticed_and_comes_back(backend: IoBackend) {
    let world = World::new();
    let second = Node::start(config(backend, 2, world.tls(2), vec![silent_peer(1)]));
    let relay = Relay::start(second.handle.local_address());
    let first = Node::start(config(backend, 1, world.tls(1), vec![peer(2, relay.address())]));
    second.welcome(&[position(0)]);
    let (ours, ..) = first.connected(Channel::Data);
    relay.cut_after(1_000_000);
    first.handle.send_on(ours, &frame(1, 2_000_000)).expect("room in the queue");
    let reason = second.disconnected(Channel::Data);
    assert!(
        matches!(reason, DownReason::Gone { pending_bytes } if pending_bytes > 0)
            || matches!(reason, DownReason::Io(_)),
        "{reason}"
    );
    first.disconnected(Channel::Data);
    assert_eq!(first.handle.send_on(ours, &frame(2, 10)), Err(SendError::NotConnected), "a link never comes back");
    relay.mend();
    let theirs = second.welcome(&[position(41)]);
    let (again, positions, _) = first.connected(Channel::Data);
    assert_eq!(positions, [position(41)], "the new connection tells where to go on");
    first.handle.send_on(again, &frame(42, 2_000_000)).expect("room in the queue");
    let (link, message, _) = second.message();
    assert_eq!((link, number(&message)), (theirs, 42));
}

fn a_half_open_connection_is_found_by_its_silence(backend: IoBackend) {
    let world = World::new();
    let quick = |mut config: TransportConfig| {
        config.limits.silence_max = Duration::from_millis(400);
        config
    };
    let second = Node::start(quick(config(backend, 2, world.tls(2), vec![silent_peer(1)])));
    let relay = Relay::start(second.handle.local_address());
    let first = Node::start(quick(config(backend, 1, world.tls(1), vec![peer(2, relay.address())])));
    second.welcome(&[]);
    let (ours, ..) = first.connected(Channel::Data);
    relay.stall(true);
    // With so much queued the writer hangs in the socket: it must not hide the silence.
    for i in 0..3 {
        first.handle.send_on(ours, &frame(i, 2_000_000)).expect("room in the queue");
    }
    assert!(matches!(first.disconnected(Channel::Data), DownReason::Silent(400)));
    assert!(matches!(second.disconnected(Channel::Data), DownReason::Silent(400)));
    relay.stall(false);
    relay.mend();
    second.welcome(&[]);
    first.connected(Channel::Data);
}

fn an_idle_connection_stays_up(backend: IoBackend) {
    let (first, ours, second, theirs) = pair(&World::new(), backend, |first, second| {
        first.limits.silence_max = Duration::from_secs(5);
        second.limits.silence_max = Duration::from_secs(5);
    });
    // Pings alone: their answers give the round trip.
    let rtt = |node: &Node, link| {
        node.handle.links().iter().find(|status| status.link == link).map_or(0, |status| status.rtt_ns)
    };
    while rtt(&first, ours) == 0 || rtt(&second, theirs) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    first.handle.send_on(ours, &frame(1, 100)).expect("still up");
    assert_eq!(number(&second.message().1), 1);
}

fn the_limit_of_bytes_per_second_is_held(backend: IoBackend) {
    let (first, ours, second, _) =
        pair(&World::new(), backend, |first, _| first.peers[0].bytes_per_second_max = 400_000);
    let started_at = clock::mono();
    for i in 0..4 {
        first.handle.send_on(ours, &frame(i, 100_000)).expect("room in the queue");
    }
    for i in 0..4 {
        assert_eq!(number(&second.message().1), i);
    }
    // 400 kB at 400 kB/s, of which a burst of 40 kB is free.
    let took = Duration::from_nanos(clock::mono().since_ns(started_at));
    assert!(took >= Duration::from_millis(890), "400 kB took {took:?}");
}

fn a_slow_event_loop_slows_the_peer_and_loses_nothing(backend: IoBackend) {
    let world = World::new();
    let (sender, events) = bounded(2);
    let mut second = config(backend, 2, world.tls(2), vec![silent_peer(1)]);
    second.limits.silence_max = Duration::from_millis(500);
    let second = Node { handle: Transport::start(second, sender).expect("a transport"), events };
    let mut first = config(backend, 1, world.tls(1), vec![peer(2, second.handle.local_address())]);
    first.limits.silence_max = Duration::from_millis(500);
    let first = Node::start(first);
    second.welcome(&[]);
    let (ours, ..) = first.connected(Channel::Data);
    for i in 0..500 {
        first.handle.send_on(ours, &frame(i, 1000)).expect("room in the queue");
    }
    // Longer than the silence that counts as death: the peer must not be blamed for it.
    std::thread::sleep(Duration::from_millis(1200));
    for i in 0..500 {
        assert_eq!(number(&second.message().1), i);
    }
}

fn a_stop_says_goodbye(backend: IoBackend) {
    let (first, _, second, _) = pair(&World::new(), backend, |_, _| {});
    first.handle.stop();
    assert_eq!(second.disconnected(Channel::Data), DownReason::Goodbye);
    assert_eq!(first.handle.links(), []);
}

fn a_restarted_peer_takes_the_place_of_its_old_connection(backend: IoBackend) {
    let world = World::new();
    let second = Node::start(config(backend, 2, world.tls(2), vec![silent_peer(1)]));
    let relay = Relay::start(second.handle.local_address());
    let first = Node::start(config(backend, 1, world.tls(1), vec![peer(2, relay.address())]));
    second.welcome(&[]);
    first.connected(Channel::Data);
    // The first is gone without a word: what it had open looks alive to node 2.
    relay.stall(true);
    let again = Node::start(config(backend, 1, world.tls(1), vec![peer(2, second.handle.local_address())]));
    second.welcome(&[position(7)]);
    again.connected(Channel::Data);
    assert_eq!(second.disconnected(Channel::Data), DownReason::Replaced);
    relay.stall(false);
}

macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        mod plain {
            $(#[test]
            fn $case() {
                super::$case(super::IoBackend::Plain);
            })*
        }
        mod io_uring {
            $(#[test]
            fn $case() {
                if let Some(reason) = super::super::uring::refusal() {
                    println!("SKIPPED {}: {reason}", concat!(module_path!(), "::", stringify!($case)));
                    return;
                }
                super::$case(super::IoBackend::IoUring);
            })*
        }
    };
}

suite!(
    connects_and_speaks_both_ways,
    beats_have_a_connection_of_their_own,
    the_largest_message_passes,
    credit_holds_frames_back_and_nothing_else,
    a_full_queue_says_so,
    a_wrong_cluster_is_refused_by_name,
    a_wrong_certificate_is_refused,
    an_expired_certificate_is_refused_and_a_new_one_is_taken_up,
    a_refusal_of_the_node_reaches_the_peer,
    a_peer_that_dies_in_a_message_is_noticed_and_comes_back,
    a_half_open_connection_is_found_by_its_silence,
    an_idle_connection_stays_up,
    the_limit_of_bytes_per_second_is_held,
    a_slow_event_loop_slows_the_peer_and_loses_nothing,
    a_stop_says_goodbye,
    a_restarted_peer_takes_the_place_of_its_old_connection,
);
