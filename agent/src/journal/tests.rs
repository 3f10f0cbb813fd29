//! The journal's conformance suite: every test runs on io_uring and on plain system calls.

use std::path::Path;
use std::time::Duration;

use understudy_types::frame::RingPosition;

use super::*;
use crate::clock;
use crate::frame::{FrameBuilder, FrameCodec, Level, Seal};

mod chain;
mod failure;
mod killed;
mod refused;
mod retention;

pub(super) const CLUSTER: ClusterId = ClusterId(0xc1);

pub(super) fn node(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(super) fn config(directory: &Path, io_backend: IoBackend) -> JournalConfig {
    JournalConfig {
        io_backend,
        segment_bytes: SEGMENT_BYTES_MIN,
        journal_bytes_max: 1 << 40,
        free_bytes_min: 0,
        cache_bytes_max: 64 << 10,
        ..JournalConfig::new(directory.to_owned(), CLUSTER, node(1))
    }
}

/// Runs a test on both backends.
pub(super) fn on_both(name: &str, test: impl Fn(IoBackend)) {
    match io_uring_available() {
        Ok(()) => test(IoBackend::IoUring),
        Err(refusal) => println!("SKIPPED {name} (on io_uring): {refusal}"),
    }
    test(IoBackend::Plain);
}

/// A group's stream of frames, made one after the other.
pub(super) struct Stream {
    pub(super) group: GroupId,
    pub(super) origin: NodeId,
    pub(super) epoch: Epoch,
    pub(super) tail: Tail,
    codec: FrameCodec,
    builder: FrameBuilder,
}

impl Stream {
    pub(super) fn new(group: u32) -> Self {
        Self {
            group: GroupId(group),
            origin: node(1),
            epoch: Epoch(1),
            tail: Tail::default(),
            codec: FrameCodec::new(),
            builder: FrameBuilder::new(),
        }
    }

    /// Epoch 1, going on from where a journal stands.
    pub(super) fn from(group: u32, tail: Tail) -> Self {
        Self { tail, ..Self::new(group) }
    }

    /// The next frame: `count` operations of `bytes` bytes that do not compress.
    pub(super) fn frame(&mut self, count: u64, bytes: usize) -> Frame {
        for index in 1..=count {
            let sequence = self.tail.sequence.0 + index;
            let mut op: Vec<u8> = blake3::Hasher::new_derive_key("understudy journal test")
                .update(&sequence.to_le_bytes())
                .update(&self.group.0.to_le_bytes())
                .update(&self.epoch.0.to_le_bytes())
                .finalize()
                .as_bytes()
                .to_vec();
            while op.len() < bytes {
                let more = blake3::hash(&op[op.len() - 32..]);
                op.extend_from_slice(more.as_bytes());
            }
            op.truncate(bytes.max(8));
            let ring = Some(RingPosition { generation: 7, index: sequence * 10 });
            self.builder.push("u0001@example.test", sequence, &op, ring).unwrap();
        }
        let seal = Seal {
            cluster: CLUSTER,
            origin: self.origin,
            group: self.group,
            epoch: self.epoch,
            first_sequence: self.tail.sequence.next(),
            previous_hash: self.tail.hash,
            level: Level::Fast,
        };
        let frame = self.builder.seal(&seal, &mut self.codec).unwrap();
        self.tail = Tail { sequence: frame.last_sequence(), epoch: self.epoch, hash: frame.hash() };
        frame
    }
}

pub(super) fn open(config: &JournalConfig) -> (Journal, Recovered) {
    Journal::open(config.clone(), clock::mono()).unwrap()
}

pub(super) fn event(journal: &Journal) -> JournalEvent {
    journal.events().recv_timeout(Duration::from_secs(60)).expect("the journal answers")
}

/// Appends as an own frame and waits for the answer.
pub(super) fn append(journal: &Journal, frame: Frame) -> JournalEvent {
    journal.append(frame, Token(1)).unwrap();
    event(journal)
}

pub(super) fn is_durable(event: &JournalEvent) -> bool {
    matches!(event, JournalEvent::Durable { already: false, .. })
}

#[test]
fn what_was_acknowledged_is_there_after_reopening() {
    on_both("what_was_acknowledged_is_there_after_reopening", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), backend);
        let mut streams: Vec<Stream> = (0..5).map(Stream::new).collect();
        let mut sent: Vec<Frame> = Vec::new();
        for round in 0..4 {
            let (journal, recovered) = open(&config);
            assert_eq!(recovered.damage, []);
            assert_eq!(recovered.torn_bytes, 0);
            for stream in &streams {
                let state = recovered.groups.get(&stream.group).cloned().unwrap_or_default();
                assert_eq!(state.tail, stream.tail);
                assert!(!state.tail_suspect && state.gaps.is_empty());
                let index = stream.tail.sequence.0 * 10;
                assert_eq!(state.ring, if round == 0 { vec![] } else { vec![(7, index)] });
            }
            let from = sent.len();
            // 60 frames at once, up to 190 kB each: several segments, and several frames to a write.
            for n in 0..60_u64 {
                let frame = streams[usize::try_from(n % 5).unwrap()]
                    .frame(1 + n % 7, 8 + usize::try_from(n * 997 % 27_000).unwrap());
                journal.append(frame.clone(), Token(n)).unwrap();
                sent.push(frame);
            }
            for (n, frame) in sent[from..].iter().enumerate() {
                match event(&journal) {
                    JournalEvent::Durable { group, first, last, token, already: false, .. } => {
                        assert_eq!(token, Token(n as u64));
                        let header = frame.header();
                        assert_eq!((group, first, last), (header.group, header.first_sequence, frame.last_sequence()));
                    }
                    other => panic!("{other:?}"),
                }
            }
            let stats = journal.stats();
            assert_eq!((stats.frames, stats.failed), (60, None));
            assert!(stats.writes <= 60 && stats.sync_p50_ns > 0 && stats.sync_p50_ns <= stats.sync_p99_ns);
            assert_eq!(stats.backend, if backend == IoBackend::Plain { "plain" } else { "io_uring" });
        }
        let (journal, _) = open(&config);
        assert!(journal.stats().segments > 1, "the test must cross segments");
        let reader = journal.reader();
        for stream in &streams {
            let frames: Vec<&Frame> = sent.iter().filter(|frame| frame.header().group == stream.group).collect();
            let all = reader.read(stream.group, Sequence(1), usize::MAX).unwrap();
            assert_eq!(all.iter().collect::<Vec<_>>(), frames);
            let one = reader.read(stream.group, frames[1].header().first_sequence, 1).unwrap();
            assert_eq!(one.iter().collect::<Vec<_>>(), [frames[1]]);
            assert_eq!(reader.read(stream.group, stream.tail.sequence.next(), 1), Ok(vec![]));
            let inside = frames.iter().find(|frame| frame.header().count > 1).unwrap().header().first_sequence;
            let error = ReadError::Inside { group: stream.group, from: inside.next(), first: inside };
            assert_eq!(reader.read(stream.group, inside.next(), 1), Err(error));
        }
    });
}

#[test]
fn one_agent_one_journal() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), IoBackend::Plain);
    let (journal, _) = open(&config);
    let second = Journal::open(config.clone(), clock::mono());
    assert!(matches!(second, Err(JournalError::Locked { .. })));
    drop(journal);
    let other = JournalConfig { node: node(2), ..config.clone() };
    assert!(matches!(Journal::open(other, clock::mono()), Err(JournalError::Foreign { .. })));
    let small = JournalConfig { segment_bytes: 4096, ..config.clone() };
    assert!(matches!(Journal::open(small, clock::mono()), Err(JournalError::SegmentBytes(4096))));
    std::fs::remove_file(directory.path().join("control")).unwrap();
    assert!(matches!(Journal::open(config, clock::mono()), Err(JournalError::ControlMissing { .. })));
}

#[test]
fn largest_frames_and_many_small_ones_share_writes() {
    on_both("largest_frames_and_many_small_ones_share_writes", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), backend);
        let (journal, _) = open(&config);
        let mut stream = Stream::new(1);
        let mut frames = Vec::new();
        for round in 0..6 {
            frames.push(stream.frame(10, 190_000));
            frames.extend((0..100).map(|_| stream.frame(1, 100)));
            if round == 3 {
                frames.push(stream.frame(1, 8));
            }
        }
        for frame in &frames {
            while let Err(AppendError::Busy(_)) = journal.append(frame.clone(), Token(0)) {
                std::thread::yield_now();
            }
        }
        for _ in &frames {
            assert!(is_durable(&event(&journal)));
        }
        assert!(journal.stats().writes < frames.len() as u64 / 2, "group commit");
        drop(journal);
        let (journal, recovered) = open(&config);
        assert_eq!(recovered.groups[&GroupId(1)].tail, stream.tail);
        assert_eq!(journal.reader().read(GroupId(1), Sequence(1), usize::MAX).unwrap(), frames);
    });
}

#[test]
fn dropping_the_journal_writes_what_was_queued() {
    on_both("dropping_the_journal_writes_what_was_queued", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), backend);
        let (journal, _) = open(&config);
        let mut stream = Stream::new(1);
        for n in 0..50 {
            journal.append(stream.frame(1, 20_000), Token(n)).unwrap();
        }
        drop(journal);
        let (_, recovered) = open(&config);
        assert_eq!(recovered.groups[&GroupId(1)].tail, stream.tail);
    });
}

#[test]
fn a_reader_follows_while_segments_come_and_go() {
    on_both("a_reader_follows_while_segments_come_and_go", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), backend);
        let (journal, _) = open(&config);
        let reader = journal.reader();
        let following = std::thread::spawn(move || {
            let (mut from, mut hash, mut read, mut skipped) = (Sequence(1), [0; 32], 0, 0);
            while from.0 <= 400 {
                match reader.read(GroupId(1), from, 300_000) {
                    Ok(frames) => {
                        for frame in frames {
                            assert_eq!(frame.header().first_sequence, from);
                            assert!(hash == [0; 32] || frame.header().previous_hash == hash);
                            (from, hash, read) = (frame.last_sequence().next(), frame.hash(), read + 1);
                        }
                    }
                    Err(ReadError::Retired { oldest, .. }) => (from, hash, skipped) = (oldest, [0; 32], skipped + 1),
                    Err(other) => panic!("{other}"),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            (read, skipped)
        });
        let mut stream = Stream::new(1);
        for _ in 0..200 {
            assert!(is_durable(&append(&journal, stream.frame(2, 100_000))));
            // Everything but the last two frames may go: the reader is often too late.
            let done = Sequence(stream.tail.sequence.0.saturating_sub(4));
            journal.retain(vec![Need { group: GroupId(1), peer: node(2), done }], Token(0)).unwrap();
            assert!(matches!(event(&journal), JournalEvent::Retired { .. }));
        }
        let (read, skipped) = following.join().unwrap();
        println!("{read} frames read, {skipped} times too late");
        assert!(read > 10);
    });
}
