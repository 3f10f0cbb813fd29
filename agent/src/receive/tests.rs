//! Every row of the table, acknowledgements, credit.

use understudy_types::frame::Codec;
use understudy_types::id::ClusterId;

use super::*;

const G: GroupId = GroupId(4);
const LINK: LinkId = LinkId(1);
const NOW: MonoNs = MonoNs(1_000_000_000);

fn node(raw: u16) -> NodeId {
    NodeId::new(raw).expect("a node id in range")
}

/// Hash of the frame that ends at `last`, in tests.
fn hash(last: u64) -> [u8; 32] {
    let mut out = [7; 32];
    out[..8].copy_from_slice(&last.to_le_bytes());
    if last == 0 { [0; 32] } else { out }
}

fn header(first: u64, count: u32, epoch: u64) -> FrameHeader {
    FrameHeader {
        body_checksum: [0; 16],
        body_len: 10,
        uncompressed_len: 10,
        count,
        codec: Codec::Raw,
        cluster: ClusterId(1),
        group: G,
        origin: node(1),
        epoch: Epoch(epoch),
        first_sequence: Sequence(first),
        previous_hash: hash(first - 1),
        ring_generation: 0,
        ring_index_first: 0,
        ring_index_last: 0,
        captured_first_wall_ns: 0,
        captured_last_wall_ns: 0,
    }
}

fn send_from(receiver: &mut Receiver, peer: u16, writer: u64, header: &FrameHeader) -> Decision {
    let hash = hash(header.last_sequence().0);
    let arrived = Arrived {
        peer: node(peer),
        link: LinkId(u64::from(peer)),
        writer_epoch: Epoch(writer),
        header,
        hash,
        wire_bytes: 1000,
    };
    receiver.frame(&arrived, NOW)
}

fn send(receiver: &mut Receiver, first: u64, count: u32) -> Decision {
    send_from(receiver, 1, 3, &header(first, count, 3))
}

const ACCEPT: Decision = Decision::Accept { raise_fence: None };

/// A replica of `G`, active is node 1 at epoch 3, which is connected and has sent 1 to 10.
fn receiver() -> Receiver {
    let mut receiver = Receiver::new();
    receiver.open(G, node(1), Epoch(3), Tail::default(), Sequence(0));
    assert_eq!(receiver.greeted(node(1), LINK).len(), 1);
    assert_eq!(send(&mut receiver, 1, 10), ACCEPT);
    receiver
}

fn ack(receiver: &mut Receiver, now: MonoNs) -> Option<GroupAck> {
    let out = receiver.take(now);
    out.iter().find_map(|out| match &out.message {
        Message::Ack(acks) => acks.first().copied(),
        _ => None,
    })
}

#[test]
fn frames_in_order_are_accepted_and_acknowledged_when_durable() {
    let mut receiver = receiver();
    assert_eq!(receiver.due(), None, "nothing is durable yet");
    assert_eq!(send(&mut receiver, 11, 5), ACCEPT);
    receiver.journaled(G, Sequence(10), NOW);
    assert_eq!(receiver.due(), Some(NOW));
    let got = ack(&mut receiver, NOW).expect("an ack");
    assert_eq!((got.received.0, got.journaled.0, got.applied.0), (15, 10, 0));
    assert_eq!(receiver.due(), None);
    receiver.journaled(G, Sequence(15), NOW);
    assert_eq!(ack(&mut receiver, NOW).map(|ack| ack.journaled.0), Some(15));
}

#[test]
fn an_applied_position_waits_for_company() {
    let mut receiver = receiver();
    receiver.journaled(G, Sequence(10), NOW);
    receiver.take(NOW);
    receiver.applied(G, Sequence(4), NOW);
    let later = MonoNs(NOW.0 + ACK_APPLIED_MS * 1_000_000);
    assert_eq!(receiver.due(), Some(later));
    assert!(receiver.take(NOW).is_empty());
    receiver.applied(G, Sequence(6), NOW);
    assert_eq!(ack(&mut receiver, later).map(|ack| ack.applied.0), Some(6));
}

#[test]
fn appliers_may_be_ahead_of_the_news_that_a_frame_is_durable() {
    let mut receiver = receiver();
    receiver.applied(G, Sequence(10), NOW);
    assert_eq!(receiver.positions(G).map(|p| p.applied.0), Some(0));
    receiver.journaled(G, Sequence(10), NOW);
    assert_eq!(receiver.positions(G).map(|p| p.applied.0), Some(10));
}

#[test]
fn a_duplicate_is_acknowledged_again() {
    let mut receiver = receiver();
    receiver.journaled(G, Sequence(10), NOW);
    receiver.take(NOW);
    assert_eq!(send(&mut receiver, 1, 10), Decision::Duplicate { raise_fence: None });
    assert_eq!(ack(&mut receiver, NOW).map(|ack| ack.journaled.0), Some(10));
}

#[test]
fn a_gap_is_named() {
    assert_eq!(send(&mut receiver(), 12, 1), Decision::Gap { expected: Sequence(11) });
}

#[test]
fn a_group_of_others_is_not_taken() {
    let mut receiver = receiver();
    let other = FrameHeader { group: GroupId(5), ..header(11, 1, 3) };
    assert_eq!(send_from(&mut receiver, 1, 3, &other), Decision::NotReplica);
}

#[test]
fn a_lower_epoch_is_fenced_for_ever_and_told_so_on_its_own_link() {
    let mut receiver = receiver();
    assert_eq!(send_from(&mut receiver, 2, 4, &header(11, 1, 4)), Decision::Accept { raise_fence: Some(Epoch(4)) });
    assert_eq!(send(&mut receiver, 12, 1), Decision::Fenced { known: Epoch(4) });
    let out = receiver.take(NOW);
    let Some(Outgoing { link: LINK, message: Message::Ack(acks) }) = out.first() else {
        panic!("no ack to the fenced writer: {out:?}")
    };
    assert_eq!(acks[0].epoch, Epoch(4));
    // Acknowledgements still go to the one that is active.
    receiver.journaled(G, Sequence(11), NOW);
    assert!(receiver.take(NOW).iter().all(|out| out.link == LinkId(2)));
    assert_eq!(receiver.follow(G, node(1), Epoch(3), None), None);
    assert_eq!(
        send(&mut receiver, 12, 1),
        Decision::Fenced { known: Epoch(4) },
        "old news of placement lifts no fence"
    );
}

#[test]
fn a_node_that_takes_over_fences_the_one_before_and_waits_for_its_own_disk() {
    let mut receiver = receiver();
    assert_eq!(send(&mut receiver, 11, 3), Decision::Accept { raise_fence: None });
    assert!(!receiver.take_over(G, node(9), Epoch(4)), "a frame is on its way to disk");
    assert_eq!(send(&mut receiver, 12, 3), Decision::Fenced { known: Epoch(4) });
    receiver.journaled(G, Sequence(13), NOW);
    assert!(receiver.take_over(G, node(9), Epoch(4)));
}

#[test]
fn one_writer_per_epoch() {
    assert_eq!(send_from(&mut receiver(), 2, 3, &header(11, 1, 3)), Decision::Fenced { known: Epoch(3) });
}

#[test]
fn old_frames_come_again_from_a_new_writer() {
    let mut receiver = receiver();
    // Node 2 took over in epoch 5 and still has to bring frames of epoch 3: its own epoch counts, not theirs.
    assert_eq!(send_from(&mut receiver, 2, 5, &header(11, 1, 3)), Decision::Accept { raise_fence: Some(Epoch(5)) });
    assert_eq!(send_from(&mut receiver, 2, 5, &header(12, 1, 5)), ACCEPT);
}

#[test]
fn every_kind_of_divergence_is_found_and_stops_the_group() {
    let diverged = Decision::Diverged { at: Sequence(11) };
    let wrong_chain = FrameHeader { previous_hash: [1; 32], ..header(11, 1, 3) };
    let falling_epoch = header(11, 1, 2);
    let epoch_above_writer = header(11, 1, 9);
    for bad in [wrong_chain, falling_epoch, epoch_above_writer] {
        let mut receiver = receiver();
        assert_eq!(send_from(&mut receiver, 1, 3, &bad), diverged, "{bad:?}");
        assert!(matches!(send(&mut receiver, 11, 1), Decision::Diverged { .. }), "nothing more is taken");
        assert!(receiver.resync_needed(G).is_some());
        let tail = Tail { sequence: Sequence(20), epoch: Epoch(3), hash: [0; 32] };
        receiver.rebased(G, tail, Sequence(20), NOW);
        assert_eq!(send(&mut receiver, 21, 1), ACCEPT, "after a rebase it goes on");
    }
    assert_eq!(send(&mut receiver(), 10, 5), Decision::Diverged { at: Sequence(10) }, "frames overlap");
    let mut other_tail = receiver();
    let arrived = Arrived {
        peer: node(1),
        link: LINK,
        writer_epoch: Epoch(3),
        header: &header(1, 10, 3),
        hash: [9; 32],
        wire_bytes: 1,
    };
    assert_eq!(other_tail.frame(&arrived, NOW), Decision::Diverged { at: Sequence(1) }, "same end, other frame");
}

#[test]
fn a_frame_that_the_journal_refused_is_expected_again() {
    let mut receiver = receiver();
    assert_eq!(send(&mut receiver, 11, 1), ACCEPT);
    receiver.journaled(G, Sequence(10), NOW);
    assert_eq!(receiver.refused(G), Some(LINK));
    assert_eq!(send(&mut receiver, 11, 1), ACCEPT);
}

#[test]
fn credit_goes_back_when_a_frame_is_durable_and_not_before() {
    let mut receiver = receiver();
    let credit = |out: Vec<Outgoing>| {
        out.iter().find_map(|out| if let Message::Credit { bytes } = out.message { Some(bytes) } else { None })
    };
    assert_eq!(credit(receiver.take(NOW)), None);
    receiver.journaled(G, Sequence(10), NOW);
    assert_eq!(credit(receiver.take(NOW)), Some(1000));
    assert_eq!(send(&mut receiver, 1, 10), Decision::Duplicate { raise_fence: None });
    assert_eq!(credit(receiver.take(NOW)), Some(1000), "a duplicate gives its credit back, too");
    // Bounded by what a link could owe: a link that is gone is owed nothing.
    assert_eq!(send(&mut receiver, 11, 1), ACCEPT);
    receiver.disconnected(LINK);
    assert!(receiver.take(MonoNs(u64::MAX)).is_empty());
}

#[test]
fn positions_say_what_is_durable() {
    let mut receiver = receiver();
    assert_eq!(send(&mut receiver, 11, 5), ACCEPT);
    receiver.journaled(G, Sequence(10), NOW);
    let positions = receiver.greeted(node(1), LinkId(8));
    assert_eq!(positions.len(), 1);
    assert_eq!((positions[0].journaled, positions[0].hash, positions[0].epoch), (Sequence(10), hash(10), Epoch(3)));
    assert!(receiver.greeted(node(2), LinkId(9)).is_empty(), "node 2 is not active for any group");
}
