//! Retention through the running journal: what goes, what stays known, files used again.

use super::*;

#[test]
fn segments_go_and_their_positions_stay() {
    on_both("segments_go_and_their_positions_stay", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), backend);
        let (journal, _) = open(&config);
        let mut quiet = Stream::new(2);
        let first = quiet.frame(1, 50);
        assert!(is_durable(&append(&journal, first)));
        let mut stream = Stream::new(1);
        let mut last_kept = Vec::new();
        for _ in 0..12 {
            let frame = stream.frame(10, 190_000);
            assert!(is_durable(&append(&journal, frame.clone())));
            last_kept.push(frame);
        }
        let before = journal.stats();
        assert!(before.segments >= 6);
        let done = Sequence(stream.tail.sequence.0 - 10);
        let need = Need { group: GroupId(1), peer: node(2), done };
        journal.retain(vec![need], Token(8)).unwrap();
        let JournalEvent::Retired { retired, token: Token(8) } = event(&journal) else { panic!() };
        assert!(retired.segments.len() >= 5 && retired.resync.is_empty(), "{retired:?}");
        let after = journal.stats();
        assert_eq!(after.segments, before.segments - retired.segments.len() as u64);
        let reader = journal.reader();
        let last = last_kept.last().unwrap();
        assert_eq!(reader.read(GroupId(1), last.header().first_sequence, 1), Ok(vec![last.clone()]));
        assert!(matches!(reader.read(GroupId(1), Sequence(1), 1), Err(ReadError::Retired { .. })));
        assert!(matches!(reader.read(GroupId(2), Sequence(1), 1), Err(ReadError::Retired { .. })));
        drop(journal);
        let (journal, recovered) = open(&config);
        // Nothing of group 2 is left but where it stands.
        assert_eq!(recovered.groups[&GroupId(2)].tail, quiet.tail);
        assert_eq!(recovered.groups[&GroupId(2)].ring, [(7, 10)]);
        assert_eq!(recovered.groups[&GroupId(1)].tail, stream.tail);
        assert_eq!((recovered.damage.len(), recovered.torn_bytes), (0, 0));
        // Files are used again: what stands in them from before is not taken for a write. Two frames fill a segment;
        // behind
        // the first in it stands a whole write of the file's earlier use, or the middle of one.
        let mut journal = journal;
        for _ in 0..9 {
            assert!(is_durable(&append(&journal, quiet.frame(10, 190_000))));
            drop(journal);
            let (again, recovered) = open(&config);
            assert_eq!(recovered.groups[&GroupId(2)].tail, quiet.tail);
            assert_eq!((recovered.damage.len(), recovered.torn_bytes), (0, 0));
            journal = again;
        }
    });
}

#[test]
fn a_peer_that_stays_away_does_not_fill_the_disk() {
    on_both("a_peer_that_stays_away_does_not_fill_the_disk", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let config = JournalConfig { journal_bytes_max: SEGMENT_BYTES_MIN * 3, ..config(directory.path(), backend) };
        let (journal, _) = open(&config);
        let need = Need { group: GroupId(1), peer: node(2), done: Sequence(0) };
        journal.retain(vec![need], Token(8)).unwrap();
        assert!(matches!(event(&journal), JournalEvent::Retired { .. }));
        let mut stream = Stream::new(1);
        let mut resync = 0;
        for _ in 0..16 {
            journal.append(stream.frame(10, 190_000), Token(1)).unwrap();
            loop {
                match event(&journal) {
                    JournalEvent::Durable { .. } => break,
                    JournalEvent::Retired { retired, token: Token(0) } => {
                        assert_eq!(retired.resync, [(GroupId(1), node(2))]);
                        resync += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            // The bound, the segment that was just begun, and the spares.
            assert!(journal.stats().segment_bytes <= SEGMENT_BYTES_MIN * 6);
        }
        assert!(resync > 2);
        let files = std::fs::read_dir(directory.path()).unwrap().count();
        assert!(files <= 8, "{files} files");
    });
}
