//! Every row of the table, resume, window, credit, lag, and a peer that says what cannot be.

use super::*;

const G: GroupId = GroupId(1);
const LINK: LinkId = LinkId(10);
const BYTES: u64 = 1000;

fn node(raw: u16) -> NodeId {
    NodeId::new(raw).expect("a node id in range")
}

fn peer() -> NodeId {
    node(2)
}

fn hash(last: u64) -> [u8; 32] {
    let mut out = [7; 32];
    out[..8].copy_from_slice(&last.to_le_bytes());
    out
}

/// Frames hold ten operations each: 1 to 10, 11 to 20, and so on.
fn meta(number: u64) -> FrameMeta {
    let last = number * 10;
    FrameMeta {
        first: Sequence(last - 9),
        last: Sequence(last),
        bytes: BYTES,
        captured_first_wall_ns: number * 1_000_000,
        hash: hash(last),
    }
}

fn position(journaled: u64) -> Position {
    let hash = if journaled == 0 { [0; 32] } else { hash(journaled) };
    Position { group: G, epoch: Epoch(2), journaled: Sequence(journaled), applied: Sequence(journaled), hash }
}

/// Active for `G` at epoch 2, with frames up to number `frames` journaled since the start.
fn shipper(frames: u64) -> Shipper {
    let mut shipper = Shipper::new(ShipLimits { window_bytes: 5000, read_bytes: 3000, frames_max: 100 });
    let opened = ShipEvent::Opened {
        group: G,
        epoch: Epoch(2),
        first: Sequence(0),
        tail: Tail::default(),
        replicas: vec![peer()],
    };
    assert!(shipper.apply(opened).is_empty());
    for number in 1..=frames {
        assert!(shipper.apply(ShipEvent::Journaled { group: G, frame: meta(number) }).is_empty());
    }
    shipper
}

/// As after a restart: the journal holds `first` to `journaled`, of which only the end is in memory.
fn restarted(first: u64, journaled: u64) -> Shipper {
    let mut shipper = Shipper::new(ShipLimits::default());
    let tail = Tail { sequence: Sequence(journaled), epoch: Epoch(2), hash: hash(journaled) };
    let opened = ShipEvent::Opened { group: G, epoch: Epoch(2), first: Sequence(first), tail, replicas: vec![peer()] };
    assert!(shipper.apply(opened).is_empty());
    shipper
}

fn connect(shipper: &mut Shipper, position: Position) -> Vec<ShipAction> {
    shipper.apply(ShipEvent::Connected { peer: peer(), link: LINK, credit_bytes: 1 << 20, positions: vec![position] })
}

fn shipped(shipper: &mut Shipper, numbers: std::ops::RangeInclusive<u64>, outcome: ShipOutcome) -> Vec<ShipAction> {
    let frames = numbers.map(meta).collect();
    shipper.apply(ShipEvent::Shipped { peer: peer(), link: LINK, group: G, frames, outcome })
}

fn acked(shipper: &mut Shipper, journaled: u64) -> Vec<ShipAction> {
    let at = Sequence(journaled);
    let ack = GroupAck { group: G, epoch: Epoch(2), received: at, journaled: at, applied: at };
    shipper.apply(ShipEvent::Ack { peer: peer(), link: LINK, acks: vec![ack] })
}

fn ship(from: u64, bytes_max: u64) -> ShipAction {
    ShipAction::Ship { peer: peer(), link: LINK, group: G, writer_epoch: Epoch(2), from: Sequence(from), bytes_max }
}

/// What a position that fits says: it is an acknowledgement.
fn counts(acked: u64) -> ShipAction {
    ShipAction::Acked { peer: peer(), group: G, acked: Sequence(acked) }
}

fn resync(reason: ResyncReason) -> Vec<ShipAction> {
    vec![ShipAction::ResyncNeeded { peer: peer(), link: LINK, group: G, epoch: Epoch(2), reason }]
}

#[test]
fn row_a_higher_epoch_fences() {
    let theirs = Position { epoch: Epoch(3), ..position(10) };
    let actions = connect(&mut shipper(2), theirs);
    assert_eq!(actions, [ShipAction::Fenced { peer: peer(), group: G, ours: Epoch(2), theirs: Epoch(3) }]);
}

#[test]
fn row_a_position_beyond_ours_has_diverged() {
    assert_eq!(connect(&mut shipper(2), position(30)), resync(ResyncReason::Diverged));
}

#[test]
fn row_an_empty_peer_gets_everything_while_everything_is_kept() {
    assert_eq!(connect(&mut shipper(2), position(0)), [ship(1, 3000)]);
    assert_eq!(connect(&mut restarted(11, 30), position(0)), resync(ResyncReason::BelowJournal));
}

#[test]
fn row_a_position_before_the_oldest_frame_needs_a_resync() {
    assert_eq!(connect(&mut restarted(41, 90), position(30)), resync(ResyncReason::BelowJournal));
}

#[test]
fn row_just_before_the_oldest_frame_the_peer_checks_the_chain() {
    let read = limits::SHIP_READ_BYTES;
    assert_eq!(connect(&mut restarted(41, 90), position(40)), [ship(41, read)]);
    let rebased = Position { hash: [0; 32], ..position(60) };
    assert_eq!(connect(&mut restarted(41, 90), rebased), [counts(60), ship(61, read)]);
}

#[test]
fn row_an_equal_hash_goes_on_and_another_has_diverged() {
    assert_eq!(connect(&mut shipper(3), position(20)), [counts(20), ship(21, 3000)]);
    assert_eq!(connect(&mut shipper(3), position(30)), [counts(30)], "nothing is missing");
    assert_eq!(connect(&mut shipper(3), Position { hash: [1; 32], ..position(20) }), resync(ResyncReason::Diverged));
    assert_eq!(connect(&mut shipper(3), Position { hash: [1; 32], ..position(30) }), resync(ResyncReason::Diverged));
    assert_eq!(connect(&mut shipper(3), position(15)), resync(ResyncReason::Diverged), "no frame of ours ends there");
}

#[test]
fn row_what_is_not_in_memory_is_asked_of_the_journal() {
    let asked = |shipper: &mut Shipper| {
        let actions = connect(shipper, position(60));
        assert_eq!(actions, [ShipAction::LookUpHash { peer: peer(), link: LINK, group: G, at: Sequence(60) }]);
    };
    let answer = |shipper: &mut Shipper, hash| {
        shipper.apply(ShipEvent::HashKnown { peer: peer(), link: LINK, group: G, at: Sequence(60), hash })
    };
    let mut equal = restarted(41, 90);
    asked(&mut equal);
    assert_eq!(answer(&mut equal, Some(hash(60))), [counts(60), ship(61, limits::SHIP_READ_BYTES)]);
    let mut different = restarted(41, 90);
    asked(&mut different);
    assert_eq!(answer(&mut different, Some([1; 32])), resync(ResyncReason::Diverged));
    let mut inside = restarted(41, 90);
    asked(&mut inside);
    assert_eq!(answer(&mut inside, None), resync(ResyncReason::Diverged));
    let mut retired = restarted(41, 90);
    asked(&mut retired);
    retired.apply(ShipEvent::Retired { group: G, first: Sequence(81) });
    assert_eq!(answer(&mut retired, None), resync(ResyncReason::BelowJournal));
}

#[test]
fn the_window_bounds_what_is_under_way_and_acks_open_it() {
    let mut shipper = shipper(9);
    assert_eq!(connect(&mut shipper, position(0)), [ship(1, 3000)]);
    assert_eq!(shipper.apply(ShipEvent::Tick), [], "one read at a time");
    // 2 frames of 1024 bytes on the wire are in flight, 2952 of the window are left.
    assert_eq!(shipped(&mut shipper, 1..=2, ShipOutcome::Sent), [ship(21, 5000 - 2 * 1024)]);
    assert_eq!(shipped(&mut shipper, 3..=5, ShipOutcome::Sent), [], "the window is full");
    let actions = acked(&mut shipper, 20);
    assert_eq!(actions, [ShipAction::Acked { peer: peer(), group: G, acked: Sequence(20) }, ship(51, 5000 - 3 * 1024)]);
}

#[test]
fn credit_bounds_all_groups_together() {
    let mut shipper = shipper(9);
    let tail = Tail { sequence: Sequence(50), epoch: Epoch(2), hash: hash(50) };
    let other =
        ShipEvent::Opened { group: GroupId(2), epoch: Epoch(2), first: Sequence(1), tail, replicas: vec![peer()] };
    shipper.apply(other);
    let positions = vec![position(0), Position { group: GroupId(2), ..position(0) }];
    let actions = shipper.apply(ShipEvent::Connected { peer: peer(), link: LINK, credit_bytes: 4000, positions });
    let wants: Vec<_> = actions
        .iter()
        .filter_map(|action| {
            if let ShipAction::Ship { group, bytes_max, .. } = action { Some((group.0, *bytes_max)) } else { None }
        })
        .collect();
    assert_eq!(wants, [(1, 3000), (2, 1000)], "together no more than the credit");
    assert_eq!(shipped(&mut shipper, 1..=3, ShipOutcome::Sent), [], "72 bytes are not taken: one group holds the rest");
    let more = shipper.apply(ShipEvent::Credit { peer: peer(), link: LINK, bytes: 5000 });
    assert_eq!(more, [ship(31, 5000 - 3 * 1024)]);
}

#[test]
fn a_read_may_be_ahead_of_the_news_that_a_frame_is_durable() {
    let mut shipper = shipper(1);
    connect(&mut shipper, position(0));
    assert_eq!(shipped(&mut shipper, 1..=2, ShipOutcome::Sent), []);
    assert_eq!(shipper.lag(G, peer(), 0).map(|lag| lag.journaled), Some(Sequence(20)));
    assert_eq!(shipper.apply(ShipEvent::Journaled { group: G, frame: meta(2) }), [], "told twice is not shipped twice");
    assert_eq!(shipper.apply(ShipEvent::Journaled { group: G, frame: meta(3) }), [ship(21, 5000 - 2 * 1024)]);
}

#[test]
fn a_full_queue_is_tried_again_at_a_tick() {
    let mut shipper = shipper(5);
    connect(&mut shipper, position(0));
    assert_eq!(shipped(&mut shipper, 1..=1, ShipOutcome::Full), []);
    assert_eq!(shipper.apply(ShipEvent::Tick), [ship(11, 3000)]);
}

#[test]
fn after_a_disconnect_it_resumes_where_the_peer_stands() {
    let mut shipper = shipper(5);
    connect(&mut shipper, position(0));
    shipped(&mut shipper, 1..=4, ShipOutcome::Sent);
    acked(&mut shipper, 10);
    shipper.apply(ShipEvent::Disconnected { peer: peer(), link: LINK });
    assert_eq!(shipped(&mut shipper, 5..=5, ShipOutcome::Sent), [], "an answer of the old link is nothing");
    // Two frames more than were acknowledged had become durable there.
    assert_eq!(connect(&mut shipper, position(30)), [counts(30), ship(31, 3000)]);
    shipper.apply(ShipEvent::Disconnected { peer: peer(), link: LINK });
    let actions = connect(&mut shipper, position(10));
    assert_eq!(actions[0], ShipAction::WentBack { peer: peer(), group: G, acked: Sequence(30), now: Sequence(10) });
    assert_eq!(actions[1..], [counts(10), ship(11, 3000)]);
}

#[test]
fn an_ack_of_what_was_never_shipped_drops_the_link() {
    let mut shipper = shipper(5);
    connect(&mut shipper, position(0));
    shipped(&mut shipper, 1..=1, ShipOutcome::Full);
    assert!(matches!(acked(&mut shipper, 20)[..], [ShipAction::Drop { .. }]));
}

#[test]
fn an_unreadable_frame_and_a_peers_own_word_lead_to_a_resync_and_a_rebase_ends_it() {
    let mut shipper = shipper(5);
    connect(&mut shipper, position(0));
    assert_eq!(
        shipped(&mut shipper, 1..=1, ShipOutcome::Unreadable(ResyncReason::Damaged)),
        resync(ResyncReason::Damaged)
    );
    assert_eq!(shipper.apply(ShipEvent::Journaled { group: G, frame: meta(6) }), [], "no frames while it is marked");
    assert_eq!(shipper.needed_from(G, peer()), None, "the journal need not keep anything for it");
    let said = ShipEvent::PeerNeedsResync { peer: peer(), link: LINK, group: G, reason: ResyncReason::Diverged };
    assert_eq!(shipper.apply(said), [], "said once");
    assert_eq!(shipper.apply(ShipEvent::Rebased { peer: peer(), group: G, at: Sequence(60) }), []);
    assert_eq!(shipper.apply(ShipEvent::Journaled { group: G, frame: meta(7) }), [ship(61, 3000)]);
}

#[test]
fn a_stale_answer_after_a_rebase_moves_nothing() {
    let mut shipper = shipper(5);
    connect(&mut shipper, position(0));
    let said = ShipEvent::PeerNeedsResync { peer: peer(), link: LINK, group: G, reason: ResyncReason::Diverged };
    shipper.apply(said);
    shipper.apply(ShipEvent::Rebased { peer: peer(), group: G, at: Sequence(40) });
    assert_eq!(shipped(&mut shipper, 1..=3, ShipOutcome::Sent), [ship(41, 3000)]);
}

#[test]
fn lag_is_told_in_operations_bytes_and_age_and_is_zero_when_equal() {
    let mut shipper = shipper(5);
    connect(&mut shipper, position(0));
    shipped(&mut shipper, 1..=5, ShipOutcome::Sent);
    acked(&mut shipper, 30);
    let now = 10_000_000;
    let lag = shipper.lag(G, peer(), now).expect("a replica");
    assert_eq!((lag.operations, lag.bytes, lag.age_ns), (20, 2 * BYTES, now - 4_000_000));
    assert!(lag.exact);
    acked(&mut shipper, 50);
    let lag = shipper.lag(G, peer(), now).expect("a replica");
    assert_eq!((lag.operations, lag.bytes, lag.age_ns, lag.apply_operations, lag.apply_age_ns), (0, 0, 0, 0, 0));
    assert!(shipper.lag(G, node(9), now).is_none());
    let lag = restarted(1, 50).lag(G, peer(), now).expect("a replica");
    assert_eq!((lag.operations, lag.exact), (50, false));
}

#[test]
fn a_peer_that_is_away_past_the_journals_bound_is_told_to_need_a_resync() {
    let mut shipper = shipper(9);
    connect(&mut shipper, position(30));
    shipper.apply(ShipEvent::Disconnected { peer: peer(), link: LINK });
    shipper.apply(ShipEvent::Retired { group: G, first: Sequence(31) });
    assert!(!shipper.lag(G, peer(), 0).expect("a replica").below_journal, "it goes on where it stopped");
    shipper.apply(ShipEvent::Retired { group: G, first: Sequence(41) });
    assert!(shipper.lag(G, peer(), 0).expect("a replica").below_journal);
    assert!(!restarted(41, 90).lag(G, peer(), 0).expect("a replica").below_journal, "nobody knows where it stopped");
}

#[test]
fn a_group_that_opens_while_the_peer_is_connected_waits_for_its_position() {
    let mut shipper = shipper(0);
    connect(&mut shipper, position(0));
    let opened = ShipEvent::Opened {
        group: GroupId(7),
        epoch: Epoch(1),
        first: Sequence(0),
        tail: Tail::default(),
        replicas: vec![peer()],
    };
    let group = GroupId(7);
    assert_eq!(shipper.apply(opened), []);
    let frame =
        FrameMeta { first: Sequence(1), last: Sequence(1), bytes: 10, captured_first_wall_ns: 0, hash: [5; 32] };
    assert_eq!(shipper.apply(ShipEvent::Journaled { group, frame }), [], "nobody knows what the peer has");
    let position = Position { group, epoch: Epoch(1), journaled: Sequence(0), applied: Sequence(0), hash: [0; 32] };
    let told = ShipEvent::Positions { peer: peer(), link: LINK, positions: vec![position] };
    assert!(matches!(shipper.apply(told.clone())[..], [ShipAction::Ship { from: Sequence(1), .. }]));
    assert_eq!(shipper.apply(told), [], "told twice is not served twice");
}
