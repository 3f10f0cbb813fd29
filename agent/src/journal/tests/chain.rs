//! Fencing, gaps, divergence, duplicates, rebase: through the running journal and over restarts.

use super::*;

fn received(journal: &Journal, frame: &Frame, authority: u64) -> JournalEvent {
    journal.append_received(frame.clone(), Epoch(authority), Token(2)).unwrap();
    event(journal)
}

#[test]
fn a_lower_epoch_is_refused_for_ever() {
    on_both("a_lower_epoch_is_refused_for_ever", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), backend);
        let mut stream = Stream { origin: node(2), ..Stream::new(1) };
        let old = [stream.frame(2, 100), stream.frame(2, 100), stream.frame(2, 100)];
        let (journal, _) = open(&config);
        assert!(is_durable(&received(&journal, &old[0], 1)));
        journal.fence(GroupId(1), Epoch(2), Token(5)).unwrap();
        let fenced = event(&journal);
        assert!(matches!(fenced, JournalEvent::Fenced { epoch: Epoch(2), token: Token(5), .. }), "{fenced:?}");
        drop(journal);
        let (journal, recovered) = open(&config);
        assert_eq!(recovered.groups[&GroupId(1)].fence, Epoch(2));
        for already_there_or_new in &old[..2] {
            let reason = ChainError::Fenced { group: GroupId(1), known: Epoch(2), got: Epoch(1) };
            match received(&journal, already_there_or_new, 1) {
                JournalEvent::Refused { reason: got, .. } => assert_eq!(got, reason),
                other => panic!("{other:?}"),
            }
        }
        // The new active node ships history of epoch 1; its word raises the fence, and that lasts.
        assert!(is_durable(&received(&journal, &old[1], 3)));
        drop(journal);
        let (journal, recovered) = open(&config);
        assert_eq!(recovered.groups[&GroupId(1)].fence, Epoch(3));
        let refused = received(&journal, &old[2], 2);
        assert!(matches!(refused, JournalEvent::Refused { reason: ChainError::Fenced { .. }, .. }), "{refused:?}");
        assert!(is_durable(&received(&journal, &old[2], 3)));
    });
}

#[test]
fn gaps_and_other_streams_are_refused_and_duplicates_are_not() {
    on_both("gaps_and_other_streams_are_refused_and_duplicates_are_not", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), backend);
        let (journal, _) = open(&config);
        let mut stream = Stream { origin: node(2), ..Stream::new(1) };
        let frames: Vec<Frame> = (0..4).map(|_| stream.frame(3, 50)).collect();
        let mut other = Stream { origin: node(3), epoch: Epoch(2), ..Stream::new(1) };
        let others: Vec<Frame> = (0..4).map(|_| other.frame(3, 50)).collect();
        let refused = |frame: &Frame, authority| match received(&journal, frame, authority) {
            JournalEvent::Refused { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let gap = ChainError::Gap { group: GroupId(1), expected: Sequence(1), got: Sequence(4) };
        assert_eq!(refused(&frames[1], 1), gap);
        // The first, and the same three times more, before any of them can be durable.
        for _ in 0..4 {
            journal.append_received(frames[0].clone(), Epoch(1), Token(9)).unwrap();
        }
        assert!(is_durable(&event(&journal)));
        for _ in 0..3 {
            assert!(matches!(event(&journal), JournalEvent::Durable { already: true, token: Token(9), .. }));
        }
        assert_eq!(journal.stats().frames, 1);
        let diverged = |at, known, got| ChainError::Diverged {
            group: GroupId(1),
            at: Sequence(at),
            known: Epoch(known),
            got: Epoch(got),
        };
        assert_eq!(refused(&others[0], 2), diverged(1, 1, 2));
        assert_eq!(refused(&others[1], 2), diverged(4, 1, 2));
        assert!(is_durable(&received(&journal, &frames[1], 2)));
        let own = journal.append(frames[2].clone(), Token(3));
        own.unwrap();
        assert!(matches!(event(&journal), JournalEvent::Refused { reason: ChainError::Origin { .. }, .. }));
    });
}

#[test]
fn rebase_drops_a_tail_that_nobody_else_saw_also_after_a_restart() {
    on_both("rebase_drops_a_tail_that_nobody_else_saw_also_after_a_restart", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), backend);
        let (journal, _) = open(&config);
        let mut stream = Stream::new(1);
        let shared = stream.frame(3, 50);
        let common = stream.tail;
        let lost = stream.frame(3, 50);
        let mut neighbour = Stream::new(2);
        let kept = neighbour.frame(1, 10);
        for frame in [&shared, &lost, &kept] {
            assert!(is_durable(&append(&journal, frame.clone())));
        }
        // Frames that wait are part of what is dropped.
        let waiting = stream.frame(1, 50);
        journal.append(waiting, Token(1)).unwrap();
        journal.rebase(GroupId(1), common, Token(4)).unwrap();
        assert!(is_durable(&event(&journal)));
        assert!(matches!(event(&journal), JournalEvent::Rebased { tail, token: Token(4), .. } if tail == common));
        let mut new = Stream { origin: node(2), epoch: Epoch(2), tail: common, ..Stream::new(1) };
        let ours = new.frame(2, 60);
        drop(journal);
        let (journal, recovered) = open(&config);
        assert_eq!(recovered.groups[&GroupId(1)].tail, common);
        assert_eq!(recovered.damage, []);
        assert!(is_durable(&received(&journal, &ours, 2)));
        drop(journal);
        let (journal, recovered) = open(&config);
        assert_eq!(recovered.groups[&GroupId(1)].tail, new.tail);
        assert_eq!(recovered.groups[&GroupId(2)].tail, neighbour.tail);
        let reader = journal.reader();
        assert_eq!(reader.read(GroupId(1), Sequence(4), usize::MAX), Ok(vec![ours]));
        let retired = ReadError::Retired { group: GroupId(1), oldest: Sequence(4) };
        assert_eq!(reader.read(GroupId(1), Sequence(1), usize::MAX), Err(retired));
        assert_eq!(reader.read(GroupId(2), Sequence(1), usize::MAX), Ok(vec![kept]));
    });
}
