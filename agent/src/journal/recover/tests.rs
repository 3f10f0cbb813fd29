//! Recovery: every row of both tables, torn writes at every sector, random damage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use understudy_types::id::{Epoch, Sequence};
use understudy_types::segment::{SEGMENT_BYTES_MIN, WRITE_MAGIC};

use super::table::TABLE;
use super::*;
use crate::clock;
use crate::frame::Frame;
use crate::journal::files::SegmentFiles;
use crate::journal::tests::{CLUSTER, Stream, append, config, is_durable, node, open};
use crate::journal::{IoBackend, Journal, Tail};

const JOURNAL: [u8; 16] = [0x5a; 16];
const PAGE: u64 = SEGMENT_PAGE_BYTES as u64;

/// A write to be put into a file by hand.
struct Craft {
    header: WriteHeader,
    frames: Vec<u8>,
}

impl Craft {
    fn new(write: u64, previous_write: u32, frame: &Frame) -> Self {
        let frames = frame.bytes().to_vec();
        let header = WriteHeader {
            journal: JOURNAL,
            segment: 1,
            write,
            payload_len: u32::try_from(frames.len()).unwrap(),
            frames: 1,
            payload_checksum: crc32c::crc32c(&frames),
            previous_write,
        };
        Self { header, frames }
    }

    fn bytes(&self) -> (Vec<u8>, u32) {
        let (header, checksum) = self.header.encode();
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(&self.frames);
        bytes.resize(self.header.padded_len(), 0);
        (bytes, checksum)
    }
}

/// A journal whose only segment holds `writes` one behind the other.
fn journal_of(directory: &Path, writes: &[Vec<u8>]) {
    let control = Control { journal: JOURNAL, cluster: CLUSTER, node: node(1), groups: BTreeMap::new() };
    let (mut disk, _) = SegmentFiles::list(directory, SEGMENT_BYTES_MIN).unwrap();
    control.save(&mut disk).unwrap();
    let header = SegmentHeader {
        journal: JOURNAL,
        segment: 1,
        first_write: 1,
        previous_write: 0,
        segment_bytes: SEGMENT_BYTES_MIN,
        cluster: CLUSTER.0,
        node: 1,
    };
    let mut file = header.encode().to_vec();
    file.resize(SEGMENT_PAGE_BYTES, 0);
    writes.iter().for_each(|write| file.extend_from_slice(write));
    file.resize(usize::try_from(SEGMENT_BYTES_MIN).unwrap(), 0);
    std::fs::write(segment(directory, 1), file).unwrap();
}

fn segment(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("segment-{number:016}.ujl"))
}

/// What the row's case leads to: damage, the tail's frame (1 to 3), whether frame 2 is a gap, torn.
fn expected(found: Found, later: bool) -> (Vec<Damage>, usize, bool, bool) {
    let (segment, at) = (1, 2 * PAGE);
    let hole = Damage::Hole { segment, at, to: at + PAGE, expected: 2, next: 3 };
    match (found, later) {
        (Found::Expected, false) => (vec![], 2, false, false),
        (Found::Expected, true) => (vec![], 3, false, false),
        (Found::Empty, false) => (vec![], 1, false, false),
        (Found::Broken, false) => (vec![], 1, false, true),
        (Found::Empty | Found::Broken, true) => (vec![hole], 3, true, false),
        (Found::Unchained, later) => {
            (vec![Damage::Unchained { segment, at, write: 2 }], if later { 3 } else { 2 }, false, false)
        }
        (Found::Later, later) => {
            let hole = Damage::Hole { segment, at, to: at, expected: 2, next: 7 };
            (vec![hole], if later { 3 } else { 2 }, false, false)
        }
        (Found::Earlier, later) => {
            (vec![Damage::Earlier { segment, at, write: 1 }], if later { 3 } else { 1 }, later, false)
        }
        (Found::ForeignJournal, later) => {
            (vec![Damage::ForeignJournal { segment, at }], if later { 3 } else { 1 }, later, false)
        }
        (Found::ForeignSegment, later) => {
            (vec![Damage::ForeignSegment { segment, at, says: 9 }], if later { 3 } else { 1 }, later, false)
        }
        (Found::Newer, _) => unreachable!("does not open"),
    }
}

#[test]
fn every_row_of_the_table() {
    for (found, later, action) in TABLE {
        let directory = tempfile::tempdir().unwrap();
        let mut stream = Stream::new(1);
        let frames: Vec<Frame> = (0..3).map(|_| stream.frame(2, 500)).collect();
        let tails: Vec<Tail> = frames
            .iter()
            .map(|frame| Tail { sequence: frame.last_sequence(), epoch: Epoch(1), hash: frame.hash() })
            .collect();
        let (first, checksum) = Craft::new(1, 0, &frames[0]).bytes();
        let mut craft = Craft::new(2, checksum, &frames[1]);
        let mut third = 3;
        match found {
            Found::Unchained => craft.header.previous_write ^= 1,
            Found::Later => (craft.header.write, third) = (7, 8),
            Found::Earlier => craft.header.write = 1,
            Found::ForeignJournal => craft.header.journal = [1; 16],
            Found::ForeignSegment => craft.header.segment = 9,
            _ => {}
        }
        let (mut second, checksum) = craft.bytes();
        match found {
            Found::Empty => second.fill(0),
            Found::Broken => second[700] ^= 1,
            Found::Newer => {
                // Another version with a checksum that fits.
                second[8] = 2;
                second[12..16].fill(0);
                let checksum = crc32c::crc32c(&second[..WRITE_HEADER_BYTES]);
                second[12..16].copy_from_slice(&checksum.to_le_bytes());
            }
            _ => {}
        }
        let mut writes = vec![first, second];
        if later {
            writes.push(Craft::new(third, checksum, &frames[2]).bytes().0);
        }
        journal_of(directory.path(), &writes);
        let config = config(directory.path(), IoBackend::Plain);
        let opened = Journal::open(config.clone(), clock::mono());
        if action == Action::Refuse {
            assert!(matches!(opened, Err(JournalError::NewerWrite { segment: 1, at: 8192 })), "{found:?}");
            continue;
        }
        let case = format!("{found:?}, later {later}");
        let (journal, recovered) = opened.unwrap();
        let (damage, tail, gap, torn) = expected(found, later);
        let state = &recovered.groups[&GroupId(1)];
        assert_eq!(recovered.damage, damage, "{case}");
        assert_eq!(state.tail, tails[tail - 1], "{case}");
        assert_eq!(recovered.torn_bytes, if torn { PAGE } else { 0 }, "{case}");
        let gaps = if gap { vec![(tails[0], frames[2].header().first_sequence)] } else { vec![] };
        assert_eq!(state.gaps, gaps, "{case}");
        // Damage behind the last frame that is known may have taken more.
        assert_eq!(state.tail_suspect, !damage.is_empty() && matches!(action, Action::ReportAndEnd), "{case}");
        let mut stream = Stream::from(1, state.tail);
        assert!(is_durable(&append(&journal, stream.frame(1, 100))), "{case}");
        drop(journal);
        let (journal, recovered) = open(&config);
        assert_eq!(recovered.groups[&GroupId(1)].tail, stream.tail, "{case}");
        assert_eq!(recovered.damage, damage, "{case}: damage stays reported");
        if gap {
            let error = crate::journal::ReadError::Gap {
                group: GroupId(1),
                from: tails[0].sequence.next(),
                next: frames[2].header().first_sequence,
            };
            assert_eq!(journal.reader().read(GroupId(1), tails[0].sequence.next(), 1), Err(error));
        }
    }
}

/// Three segments of one group's frames, two large ones in each; gives the frames.
fn three_segments(directory: &Path) -> Vec<Frame> {
    let (journal, _) = open(&config(directory, IoBackend::Plain));
    let mut stream = Stream::new(1);
    let frames: Vec<Frame> = (0..6).map(|_| stream.frame(10, 190_000)).collect();
    for frame in &frames {
        assert!(is_durable(&append(&journal, frame.clone())));
    }
    assert_eq!(journal.stats().segments, 3);
    frames
}

fn change(directory: &Path, number: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(segment(directory, number)).unwrap();
    change(&mut bytes);
    std::fs::write(segment(directory, number), bytes).unwrap();
}

fn reseal(page: &mut [u8]) {
    page[12..16].fill(0);
    let checksum = crc32c::crc32c(&page[..understudy_types::segment::SEGMENT_HEADER_BYTES]);
    page[12..16].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn every_row_of_the_segments_table() {
    type Case = (SegmentFound, u64, fn(&Path), fn(&Damage) -> bool, u64);
    // What is found, of which segment, how it is made, the damage, how many of the six frames are left.
    let cases: [Case; 6] = [
        (SegmentFound::Fine, 2, |_| {}, |_| false, 6),
        (
            SegmentFound::Missing,
            2,
            |directory| std::fs::remove_file(segment(directory, 2)).unwrap(),
            |damage| *damage == Damage::SegmentMissing { segment: 2 },
            4,
        ),
        (
            SegmentFound::HeaderDamaged,
            2,
            |directory| change(directory, 2, |bytes| bytes[20] ^= 1),
            |damage| *damage == Damage::SegmentHeader { segment: 2, error: SegmentInvalid::Damaged },
            6,
        ),
        (
            SegmentFound::ForeignJournal,
            2,
            |directory| {
                change(directory, 2, |bytes| {
                    bytes[16] ^= 1;
                    reseal(bytes);
                })
            },
            |damage| *damage == Damage::SegmentForeign { segment: 2 },
            4,
        ),
        (
            SegmentFound::ForeignNumber,
            2,
            |directory| {
                std::fs::copy(segment(directory, 1), segment(directory, 2)).unwrap();
            },
            |damage| *damage == Damage::SegmentNumber { segment: 2, says: 1 },
            4,
        ),
        (
            SegmentFound::Short,
            2,
            |directory| change(directory, 2, |bytes| bytes.truncate(2_000_000)),
            |damage| matches!(damage, Damage::SegmentShort { segment: 2, bytes: 2_000_000, .. }),
            5,
        ),
    ];
    for (found, _, make, damage, left) in cases {
        let directory = tempfile::tempdir().unwrap();
        let frames = three_segments(directory.path());
        make(directory.path());
        let config = config(directory.path(), IoBackend::Plain);
        let (journal, recovered) = open(&config);
        let fine = found == SegmentFound::Fine;
        assert_eq!(recovered.damage.iter().any(damage), !fine, "{found:?}: {:?}", recovered.damage);
        assert_eq!(recovered.damage.is_empty(), fine, "{found:?}");
        let state = &recovered.groups[&GroupId(1)];
        assert_eq!(state.tail.sequence, frames[5].last_sequence(), "{found:?}");
        assert_eq!(state.gaps.is_empty(), left == 6, "{found:?}");
        let reader = journal.reader();
        let readable = frames.iter().filter(|frame| {
            let first = frame.header().first_sequence;
            reader.read(GroupId(1), first, 1).is_ok_and(|read| read.first() == Some(frame))
        });
        assert_eq!(readable.count() as u64, left, "{found:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    three_segments(directory.path());
    change(directory.path(), 2, |bytes| {
        bytes[8] = 2;
        reseal(bytes);
    });
    let newer = Journal::open(config(directory.path(), IoBackend::Plain), clock::mono());
    assert!(matches!(newer, Err(JournalError::Newer { segment: 2, version: 2 })));
}

#[test]
fn writes_lost_at_the_end_of_a_full_segment_are_a_hole() {
    let directory = tempfile::tempdir().unwrap();
    let frames = three_segments(directory.path());
    let second = {
        let bytes = std::fs::read(segment(directory.path(), 1)).unwrap();
        let second = bytes.chunks(SEGMENT_PAGE_BYTES).rposition(|page| page.starts_with(&WRITE_MAGIC)).unwrap();
        second * SEGMENT_PAGE_BYTES
    };
    change(directory.path(), 1, |bytes| bytes[second..].fill(0));
    let (journal, recovered) = open(&config(directory.path(), IoBackend::Plain));
    let at = second as u64;
    let hole = Damage::Hole { segment: 1, at, to: SEGMENT_BYTES_MIN, expected: 2, next: 3 };
    assert_eq!(recovered.damage, [hole]);
    let state = &recovered.groups[&GroupId(1)];
    assert_eq!(state.gaps.len(), 1);
    assert_eq!(state.gaps[0].1, frames[2].header().first_sequence);
    // A rebase to before the gap lets a peer fill it again.
    let before = state.gaps[0].0;
    journal.rebase(GroupId(1), before, crate::journal::Token(1)).unwrap();
    let _ = crate::journal::tests::event(&journal);
    for frame in &frames[1..] {
        journal.append_received(frame.clone(), Epoch(1), crate::journal::Token(1)).unwrap();
        assert!(is_durable(&crate::journal::tests::event(&journal)));
    }
    drop(journal);
    let (journal, recovered) = open(&config(directory.path(), IoBackend::Plain));
    assert!(recovered.groups[&GroupId(1)].gaps.is_empty());
    assert_eq!(journal.reader().read(GroupId(1), Sequence(11), usize::MAX).unwrap(), &frames[1..]);
}

/// A journal with three acknowledged frames and one more write of several pages behind them.
fn with_a_last_write(directory: &Path) -> (Vec<Frame>, usize, usize, Vec<u8>) {
    let (journal, _) = open(&config(directory, IoBackend::Plain));
    let mut stream = Stream::new(1);
    let frames: Vec<Frame> = [300, 5000, 100, 9000].into_iter().map(|bytes| stream.frame(1, bytes)).collect();
    for frame in &frames {
        assert!(is_durable(&append(&journal, frame.clone())));
    }
    drop(journal);
    let bytes = std::fs::read(segment(directory, 1)).unwrap();
    let at = bytes.chunks(SEGMENT_PAGE_BYTES).rposition(|page| page.starts_with(&WRITE_MAGIC)).unwrap();
    let at = at * SEGMENT_PAGE_BYTES;
    let len = WriteHeader::decode(&bytes[at..]).unwrap().0.padded_len();
    (frames, at, len, bytes)
}

#[test]
fn torn_last_write_at_every_sector_loses_nothing_before_it() {
    const SECTOR: usize = 512;
    let directory = tempfile::tempdir().unwrap();
    let (frames, at, len, bytes) = with_a_last_write(directory.path());
    let config = config(directory.path(), IoBackend::Plain);
    type Tear = fn(&mut Vec<u8>, usize, usize);
    let tears: [(&str, Tear); 5] = [
        ("cut off", |bytes, from, _| bytes.truncate(from)),
        ("zero from there", |bytes, from, end| bytes[from..end].fill(0)),
        ("garbage from there", |bytes, from, end| bytes[from..end].iter_mut().for_each(|b| *b = !*b)),
        ("one sector zero", |bytes, from, _| bytes[from..from + SECTOR].fill(0)),
        ("one sector garbage", |bytes, from, _| bytes[from..from + SECTOR].iter_mut().for_each(|b| *b = !*b)),
    ];
    for (name, tear) in tears {
        for sector in 0..=len / SECTOR {
            let from = at + sector * SECTOR;
            if name.starts_with("one") && from == at + len {
                continue;
            }
            let mut torn = bytes.clone();
            tear(&mut torn, from, at + len);
            let same = torn.get(at..at + len) == Some(&bytes[at..at + len]);
            std::fs::write(segment(directory.path(), 1), &torn).unwrap();
            // A segment that a former round began.
            let _ = std::fs::remove_file(segment(directory.path(), 2));
            let (journal, recovered) = open(&config);
            let state = &recovered.groups[&GroupId(1)];
            let known = frames.iter().rfind(|frame| frame.hash() == state.tail.hash).unwrap();
            // Padding may be torn without loss.
            let payload_ends = at + WRITE_HEADER_BYTES + frames[3].bytes().len();
            let harmless = same || (name != "cut off" && from >= payload_ends);
            let expected = if harmless { &frames[3] } else { &frames[2] };
            assert_eq!(known.last_sequence(), expected.last_sequence(), "{name} at {sector}");
            assert!(state.gaps.is_empty());
            let read = journal.reader().read(GroupId(1), Sequence(1), usize::MAX).unwrap();
            assert_eq!(read[..3], frames[..3], "{name} at {sector}");
            // And goes on.
            let mut stream = Stream::from(1, state.tail);
            stream.epoch = Epoch(2);
            assert!(is_durable(&append(&journal, stream.frame(1, 10))), "{name} at {sector}");
            drop(journal);
            let (_, recovered) = open(&config);
            assert_eq!(recovered.groups[&GroupId(1)].tail, stream.tail, "{name} at {sector}");
            assert_eq!(recovered.torn_bytes, 0, "{name} at {sector}: the torn end was cleared");
        }
    }
}

#[test]
fn leftovers_of_a_torn_write_never_come_back() {
    // The torn write's first page is lost, a whole older-looking write stands in its later pages.
    let directory = tempfile::tempdir().unwrap();
    let mut stream = Stream::new(1);
    let frames: Vec<Frame> = (0..2).map(|_| stream.frame(1, 400)).collect();
    let (first, checksum) = Craft::new(1, 0, &frames[0]).bytes();
    let (second, _) = Craft::new(2, checksum, &frames[1]).bytes();
    journal_of(directory.path(), &[first, vec![0; SEGMENT_PAGE_BYTES]]);
    let config = config(directory.path(), IoBackend::Plain);
    let (journal, _) = open(&config);
    drop(journal);
    // Had the opening not cleared what follows, this is what a crash could have left there.
    let bytes = std::fs::read(segment(directory.path(), 1)).unwrap();
    assert!(bytes[2 * SEGMENT_PAGE_BYTES..].iter().all(|byte| *byte == 0));
    let mut dirty = bytes;
    dirty[3 * SEGMENT_PAGE_BYTES..4 * SEGMENT_PAGE_BYTES].copy_from_slice(&second);
    dirty[3 * SEGMENT_PAGE_BYTES + 500] ^= 1;
    std::fs::write(segment(directory.path(), 1), dirty).unwrap();
    let (journal, recovered) = open(&config);
    assert_eq!(recovered.damage, []);
    drop(journal);
    let bytes = std::fs::read(segment(directory.path(), 1)).unwrap();
    assert!(bytes[2 * SEGMENT_PAGE_BYTES..].iter().all(|byte| *byte == 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens to the bytes: no panic, every frame that is given is one that was written, and nothing in
    /// front of the first damaged byte is lost.
    #[test]
    fn random_damage_gives_nothing_that_was_not_written(
        spots in prop::collection::vec((0..60_000usize, 1..9000usize, any::<u8>()), 1..4),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut stream = Stream::new(1);
        let frames: Vec<Frame> = (0..9).map(|n| stream.frame(1, 100 + n * 900)).collect();
        let (mut writes, mut checksum) = (Vec::new(), 0);
        for (n, frame) in frames.iter().enumerate() {
            let (bytes, next) = Craft::new(n as u64 + 1, checksum, frame).bytes();
            checksum = next;
            writes.push(bytes);
        }
        journal_of(directory.path(), &writes);
        let first_damage = spots.iter().map(|spot| spot.0).min().unwrap();
        change(directory.path(), 1, |bytes| {
            for (at, len, value) in &spots {
                bytes[*at..at + len].fill(*value);
            }
        });
        let Ok((journal, recovered)) = Journal::open(config(directory.path(), IoBackend::Plain), clock::mono()) else {
            return Ok(());
        };
        let reader = journal.reader();
        let mut end = SEGMENT_PAGE_BYTES;
        for (frame, write) in frames.iter().zip(&writes) {
            end += write.len();
            let read = reader.read(GroupId(1), frame.header().first_sequence, 1);
            match read.as_deref() {
                Ok([]) | Err(_) => prop_assert!(end > first_damage, "lost in front of the damage: {recovered:?}"),
                Ok(read) => prop_assert_eq!(&read[0], frame),
            }
        }
    }
}
