//! The journal's thread: takes commands, writes batches, answers.
//!
//! Owns: group commit. While one batch is on its way to the disk the next is put together in the other buffer; a batch
//! is only submitted after the one before it is durable, which is what lets recovery tell a torn end from damage. What
//! can hurt: answering before the fsync (rule 2), a write after a failed one; any failure ends the thread, and only
//! opening the journal anew, which reads back what is there, begins another. Refuses: looking into frames.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use understudy_types::id::{Epoch, GroupId, NodeId, Sequence};
use understudy_types::segment::{SEGMENT_PAGE_BYTES, SegmentHeader, WRITE_BYTES_MAX, WRITE_HEADER_BYTES, WriteHeader};

use super::chain::{Held, Known, Verdict, check};
use super::control::{Control, GROUPS_MAX, GroupControl};
use super::disk::{LogDisk, OpenSegment};
use super::event::{ChainError, Failure, JournalEvent, Tail, Token};
use super::index::{GroupIndex, Place, SegmentEntry};
use super::io::{Buffer, IoFailure, LogIo, WriteOp};
use super::reader::Shared;
use super::retain::{self, Bounds, Extent, Need, Retired};
use super::{JournalConfig, QueuedBytes};
use crate::clock;
use crate::clock::MonoNs;
use crate::frame::Frame;

/// What the journal is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Append { frame: Frame, authority: Epoch, own: bool, token: Token },
    Fence { group: GroupId, epoch: Epoch, token: Token },
    Rebase { group: GroupId, tail: Tail, token: Token },
    Retain { needs: Vec<Need>, token: Token },
}

/// A frame that was taken and is not durable yet.
struct Waiting {
    frame: Frame,
    held: Held,
    hash: [u8; 32],
    token: Token,
    /// In the buffer.
    at: usize,
}

/// A batch that is being put together or written.
struct Batch {
    buffer: Buffer,
    used: usize,
    waiting: Vec<Waiting>,
    /// Answers about frames that are in this batch or the one before it.
    echoes: Vec<JournalEvent>,
}

impl Batch {
    fn new(buffer: Buffer) -> Self {
        Self { buffer, used: WRITE_HEADER_BYTES, waiting: Vec::new(), echoes: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.echoes.is_empty()
    }
}

/// What was written, without its buffer.
struct InFlight {
    waiting: Vec<Waiting>,
    echoes: Vec<JournalEvent>,
    at: u64,
    len: usize,
    checksum: u32,
    begun: MonoNs,
}

/// What a journal does, to be done by whoever has it: the journal's thread, or the simulator one turn at a time.
pub struct Turns(pub(super) Writer);

impl Turns {
    /// Runs until the journal is dropped or fails.
    pub(super) fn run(mut self) {
        let failure = self.0.serve().err().unwrap_or(Failure::ShutDown);
        self.0.ended(failure);
    }

    /// Takes what waits, and begins to write it if nothing is being written. False when the journal has ended.
    pub fn begin(&mut self) -> bool {
        let done = self.0.begin();
        self.goes_on(done)
    }

    /// What is being written is done: answers, and begins with what waits. False when the journal has ended.
    pub fn finish(&mut self) -> bool {
        let done = self.0.finish();
        self.goes_on(done)
    }

    /// Whether something is on its way to the disk.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.0.state.in_flight.is_some()
    }

    fn goes_on(&mut self, done: Result<bool, Failure>) -> bool {
        match done {
            Ok(open) => open,
            Err(failure) => {
                self.0.ended(failure);
                false
            }
        }
    }
}

/// A group as far as frames were taken: ahead of the index by what is not durable yet.
#[derive(Default)]
struct Taken {
    known: Known,
    queued: VecDeque<Held>,
}

/// The segment that is being written.
pub(super) struct Current {
    pub(super) segment: u64,
    pub(super) open: OpenSegment,
    pub(super) at: u64,
}

/// See the module.
pub(super) struct Writer {
    pub(super) config: JournalConfig,
    pub(super) journal: [u8; 16],
    pub(super) shared: Arc<Shared>,
    pub(super) queued_bytes: Arc<QueuedBytes>,
    pub(super) commands: Receiver<Command>,
    pub(super) events: Sender<JournalEvent>,
    pub(super) io: Box<dyn LogIo>,
    pub(super) disk: Box<dyn LogDisk>,
    pub(super) current: Current,
    pub(super) next_write: u64,
    pub(super) previous_write: u32,
    state: State,
}

struct State {
    groups: HashMap<GroupId, Taken>,
    needs: Vec<Need>,
    batch: Option<Batch>,
    spare: Option<Buffer>,
    in_flight: Option<InFlight>,
}

/// What [`Writer::new`] needs beside the state of the disk.
pub(super) struct Channels {
    pub(super) queued_bytes: Arc<QueuedBytes>,
    pub(super) commands: Receiver<Command>,
    pub(super) events: Sender<JournalEvent>,
}

impl Writer {
    #[expect(clippy::too_many_arguments, reason = "the one place where all parts come together")]
    pub(super) fn new(
        config: JournalConfig,
        journal: [u8; 16],
        shared: Arc<Shared>,
        channels: Channels,
        io: Box<dyn LogIo>,
        buffers: Vec<Buffer>,
        disk: Box<dyn LogDisk>,
        current: Current,
        (next_write, previous_write): (u64, u32),
    ) -> Self {
        let mut buffers = buffers.into_iter();
        let batch = buffers.next().map(Batch::new);
        let known = |index: &GroupIndex| Taken { known: index.known, queued: VecDeque::new() };
        let groups = shared.index().groups.iter().map(|(group, index)| (*group, known(index))).collect();
        let state = State { groups, needs: Vec::new(), batch, spare: buffers.next(), in_flight: None };
        let Channels { queued_bytes, commands, events } = channels;
        Self {
            config,
            journal,
            shared,
            queued_bytes,
            commands,
            events,
            io,
            disk,
            current,
            next_write,
            previous_write,
            state,
        }
    }

    /// Notes why the journal goes on no more, and tells it unless it was shut down.
    fn ended(&self, failure: Failure) {
        *self.shared.failure() = Some(failure.clone());
        if failure != Failure::ShutDown {
            tracing::error!(%failure, "journal has failed");
            // Nobody may be listening any more.
            let _ = self.events.send(JournalEvent::Failed { failure });
        }
    }

    fn serve(&mut self) -> Result<(), Failure> {
        loop {
            let idle = self.state.in_flight.is_none() && self.state.batch.as_ref().is_none_or(Batch::is_empty);
            if idle {
                let Ok(command) = self.commands.recv() else { return Ok(()) };
                self.handle(command)?;
            }
            let open = if self.state.in_flight.is_some() {
                // The next batch is put together before this thread waits.
                self.take_what_waits()?;
                self.finish()?
            } else {
                self.begin()?
            };
            if !open {
                return self.drain();
            }
        }
    }

    /// Takes what waits and sends it on its way, unless something is. False when the journal was dropped.
    fn begin(&mut self) -> Result<bool, Failure> {
        let open = self.take_what_waits()?;
        // A batch that was full may have been sent while commands were taken; then the next one waits for it.
        if self.state.in_flight.is_none() {
            self.submit()?;
        }
        Ok(open)
    }

    /// Waits for what is on its way and answers; then as [`Self::begin`].
    fn finish(&mut self) -> Result<bool, Failure> {
        self.complete()?;
        self.begin()
    }

    /// A batch fits into an empty segment.
    fn write_bytes_max(&self) -> usize {
        let room = self.config.segment_bytes.saturating_sub(SEGMENT_PAGE_BYTES as u64);
        WRITE_BYTES_MAX.min(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Takes commands without waiting, until the queue or the batch's room is at its end. False when the journal was
    /// dropped.
    fn take_what_waits(&mut self) -> Result<bool, Failure> {
        // As many as can wait at once: then it is time to write, even if more come all the time.
        for _ in 0..crate::limits::JOURNAL_QUEUE_FRAMES_MAX {
            match self.commands.try_recv() {
                Ok(command) => self.handle(command)?,
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn handle(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Append { frame, authority, own, token } => {
                self.queued_bytes.sub(frame.bytes().len());
                self.append(frame, authority, own, token)
            }
            Command::Fence { group, epoch, token } => {
                if self.too_many(group) {
                    self.answer(JournalEvent::Refused { group, token, reason: ChainError::TooManyGroups { group } });
                    return Ok(());
                }
                self.fence(group, epoch)?;
                let epoch = self.taken(group).known.fence;
                self.answer(JournalEvent::Fenced { group, epoch, token });
                Ok(())
            }
            Command::Rebase { group, tail, token } => {
                if self.too_many(group) {
                    self.answer(JournalEvent::Refused { group, token, reason: ChainError::TooManyGroups { group } });
                    return Ok(());
                }
                self.rebase(group, tail, token)
            }
            Command::Retain { needs, token } => {
                self.state.needs = needs;
                let retired = self.retire(Extent::Unneeded)?;
                self.answer(JournalEvent::Retired { retired, token });
                Ok(())
            }
        }
    }

    fn too_many(&self, group: GroupId) -> bool {
        !self.state.groups.contains_key(&group) && self.state.groups.len() >= GROUPS_MAX
    }

    fn taken(&mut self, group: GroupId) -> &mut Taken {
        self.state.groups.entry(group).or_default()
    }

    /// A receiver that is gone has no more use for answers; the frames are durable all the same.
    fn answer(&self, event: JournalEvent) {
        let _ = self.events.send(event);
    }

    fn append(&mut self, frame: Frame, authority: Epoch, own: bool, token: Token) -> Result<(), Failure> {
        let group = frame.header().group;
        let hash = frame.hash();
        match self.judge(&frame, &hash, authority, own) {
            Err(reason) => {
                self.answer(JournalEvent::Refused { group, token, reason });
                return Ok(());
            }
            Ok(Verdict::Already) => {
                let (first, last) = (frame.header().first_sequence, frame.last_sequence());
                let epoch = frame.header().epoch;
                let event = JournalEvent::Durable { group, first, last, epoch, token, already: true };
                let durable = self.shared.index().groups.get(&group).is_some_and(|i| i.known.tail.sequence >= last);
                match &mut self.state.batch {
                    Some(batch) if !durable => batch.echoes.push(event),
                    _ => self.answer(event),
                }
                return Ok(());
            }
            Ok(Verdict::Next) => {}
        }
        if authority > frame.header().epoch && authority > self.taken(group).known.fence {
            // The frame itself will not say after a restart that a higher epoch was seen.
            self.fence(group, authority)?;
        }
        let len = frame.bytes().len();
        let write_bytes_max = self.write_bytes_max();
        let room = self.state.batch.as_ref().is_some_and(|batch| batch.used + len <= write_bytes_max);
        if !room {
            self.turn()?;
        }
        let Some(batch) = &mut self.state.batch else { return Err(Failure::ShutDown) };
        let at = batch.used;
        batch.buffer.map[at..at + len].copy_from_slice(frame.bytes());
        batch.used += len;
        let held = Held::of(frame.header(), &hash);
        let (last, epoch) = (frame.last_sequence(), frame.header().epoch);
        batch.waiting.push(Waiting { frame, held, hash, token, at });
        let taken = self.taken(group);
        assert!(last > taken.known.tail.sequence, "rule 1: the taken position of a group rises");
        taken.known.tail = Tail { sequence: last, epoch, hash };
        taken.known.fence = taken.known.fence.max(epoch);
        taken.queued.push_back(held);
        Ok(())
    }

    fn judge(&mut self, frame: &Frame, hash: &[u8; 32], authority: Epoch, own: bool) -> Result<Verdict, ChainError> {
        let header = frame.header();
        let group = header.group;
        if header.cluster != self.config.cluster {
            return Err(ChainError::Cluster { known: self.config.cluster, got: header.cluster });
        }
        if own && header.origin != self.config.node {
            return Err(ChainError::Origin { group, got: header.origin });
        }
        if self.too_many(group) {
            return Err(ChainError::TooManyGroups { group });
        }
        let first = header.first_sequence;
        let taken = self.state.groups.entry(group).or_default();
        let known = taken.known;
        let queued = || taken.queued.iter().find(|held| held.first == first).copied();
        let durable = || self.shared.index().groups.get(&group)?.holding(first).map(|place| place.held);
        // Only a frame that was here before is looked for; the usual one is next.
        let held = if first <= known.tail.sequence { queued().or_else(durable) } else { None };
        check(&known, authority, header, &Held::of(header, hash), held)
    }

    fn fence(&mut self, group: GroupId, epoch: Epoch) -> Result<(), Failure> {
        let known = &mut self.taken(group).known;
        if epoch <= known.fence {
            return Ok(());
        }
        known.fence = epoch;
        self.shared.index_mut().fence(group, epoch);
        self.save_control()
    }

    fn rebase(&mut self, group: GroupId, tail: Tail, token: Token) -> Result<(), Failure> {
        // Frames that were taken before stand in earlier writes, or not at all.
        self.drain()?;
        let write = self.next_write;
        self.shared.index_mut().groups.entry(group).or_default().rebase(tail, write);
        self.shared.cache().forget(group);
        let known = self.shared.index().groups.get(&group).map_or(Known::default(), |index| index.known);
        let taken = self.taken(group);
        taken.known = Known { fence: known.fence.max(taken.known.fence), ..known };
        taken.queued.clear();
        self.save_control()?;
        self.answer(JournalEvent::Rebased { group, tail, token });
        Ok(())
    }

    /// Lets segments go by what was last said to be needed, and by the bounds.
    fn retire(&mut self, extent: Extent) -> Result<Retired, Failure> {
        let facts = self.shared.index().facts(self.current.segment);
        let used_bytes = facts.iter().map(|segment| segment.bytes).sum::<u64>() + self.current.open.bytes;
        let bounds = Bounds {
            used_bytes,
            bytes_max: self.config.journal_bytes_max,
            free_bytes: self.disk.free_bytes(),
            free_bytes_min: self.config.free_bytes_min,
        };
        let short_of_space = bounds.free_bytes < bounds.free_bytes_min;
        let retired = retain::decide(&facts, &self.state.needs, bounds, extent);
        if retired.segments.is_empty() {
            return Ok(retired);
        }
        let mut gone = Vec::new();
        for segment in &retired.segments {
            gone.extend(self.shared.index_mut().retire(*segment).map(|entry| (*segment, entry.bytes)));
        }
        let bases: Vec<(GroupId, Tail)> =
            self.shared.index().groups.iter().map(|(group, index)| (*group, index.known.base)).collect();
        for (group, base) in bases {
            self.taken(group).known.base = base;
        }
        // First what the frames said must be kept elsewhere, then the frames may go.
        self.save_control()?;
        for (segment, bytes) in gone {
            let done = self.disk.retire(segment, bytes, !short_of_space);
            done.map_err(|error| Failure::Segment { segment, error: error.to_string() })?;
        }
        self.shared.figures().spare_bytes = self.disk.spare_bytes();
        Ok(retired)
    }

    fn save_control(&mut self) -> Result<(), Failure> {
        let kept = |index: &GroupIndex| GroupControl {
            fence: index.known.fence,
            base: index.known.base,
            from_write: index.from_write,
            ring: index.ring.clone(),
        };
        let groups = self.shared.index().groups.iter().map(|(group, index)| (*group, kept(index))).collect();
        let control = Control { journal: self.journal, cluster: self.config.cluster, node: self.config.node, groups };
        control.save(self.disk.as_mut()).map_err(|error| Failure::Control { error: error.to_string() })
    }

    /// Waits for what is on its way, then sends the batch on its way.
    fn turn(&mut self) -> Result<(), Failure> {
        self.complete()?;
        self.submit()
    }

    /// Until everything that was taken is durable and answered.
    fn drain(&mut self) -> Result<(), Failure> {
        self.turn()?;
        self.complete()
    }

    /// Sends the batch on its way. Nothing else is.
    fn submit(&mut self) -> Result<(), Failure> {
        let Some(mut batch) = self.state.batch.take_if(|batch| !batch.is_empty()) else { return Ok(()) };
        assert!(self.state.in_flight.is_none(), "a write only begins after the one before it is durable");
        if batch.waiting.is_empty() {
            batch.echoes.drain(..).for_each(|event| self.answer(event));
            self.state.batch = Some(batch);
            return Ok(());
        }
        let len = batch.used.next_multiple_of(SEGMENT_PAGE_BYTES);
        if self.current.at + len as u64 > self.current.open.bytes {
            self.roll()?;
        }
        let payload = &batch.buffer.map[WRITE_HEADER_BYTES..batch.used];
        let header = WriteHeader {
            journal: self.journal,
            segment: self.current.segment,
            write: self.next_write,
            payload_len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            frames: u32::try_from(batch.waiting.len()).unwrap_or(u32::MAX),
            payload_checksum: crc32c::crc32c(payload),
            previous_write: self.previous_write,
        };
        let (bytes, checksum) = header.encode();
        batch.buffer.map[..WRITE_HEADER_BYTES].copy_from_slice(&bytes);
        batch.buffer.map[batch.used..len].fill(0);
        let Batch { buffer, waiting, echoes, .. } = batch;
        let at = self.current.at;
        self.state.in_flight = Some(InFlight { waiting, echoes, at, len, checksum, begun: clock::mono() });
        self.state.batch = self.state.spare.take().map(Batch::new);
        self.io.submit(WriteOp { buffer, len, at }).map_err(|(failure, _)| self.failed(failure, at, len))
    }

    fn failed(&self, failure: IoFailure, at: u64, bytes: usize) -> Failure {
        let segment = self.current.segment;
        match failure {
            IoFailure::Write(error) => Failure::Write { segment, at, bytes, error: error.to_string() },
            IoFailure::Sync(error) => Failure::Sync { segment, error: error.to_string() },
        }
    }

    /// Waits for the write that is on its way, puts its frames into the index, answers.
    fn complete(&mut self) -> Result<(), Failure> {
        let Some(in_flight) = self.state.in_flight.take() else { return Ok(()) };
        let InFlight { waiting, echoes, at, len, checksum, begun } = in_flight;
        let Some((write, result)) = self.io.complete() else { return Err(Failure::ShutDown) };
        result.map_err(|failure| self.failed(failure, at, len))?;
        let took_ns = clock::mono().since_ns(begun);
        self.previous_write = checksum;
        self.next_write += 1;
        self.current.at += len as u64;
        match self.state.batch {
            Some(_) => self.state.spare = Some(write.buffer),
            None => self.state.batch = Some(Batch::new(write.buffer)),
        }
        self.durable(&waiting, at);
        {
            let mut figures = self.shared.figures();
            figures.frames += waiting.len() as u64;
            figures.frame_bytes += waiting.iter().map(|frame| frame.frame.bytes().len() as u64).sum::<u64>();
            figures.writes += 1;
            figures.write_bytes += len as u64;
            figures.sync.note(took_ns);
        }
        for Waiting { frame, token, .. } in waiting {
            let header = frame.header();
            let (group, epoch, first, last) =
                (header.group, header.epoch, header.first_sequence, frame.last_sequence());
            self.shared.cache().insert(frame, self.config.cache_bytes_max);
            self.answer(JournalEvent::Durable { group, first, last, epoch, token, already: false });
        }
        echoes.into_iter().for_each(|event| self.answer(event));
        Ok(())
    }

    /// Moves the durable positions.
    fn durable(&mut self, waiting: &[Waiting], at: u64) {
        let node: NodeId = self.config.node;
        let mut index = self.shared.index_mut();
        for frame in waiting {
            let header = frame.frame.header();
            let place = Place {
                held: frame.held,
                segment: self.current.segment,
                at: u32::try_from(at + frame.at as u64).unwrap_or(u32::MAX),
                len: u32::try_from(frame.frame.bytes().len()).unwrap_or(u32::MAX),
            };
            index.push(header.group, place, frame.hash);
            if let Some(group) = index.groups.get_mut(&header.group) {
                if header.origin == node {
                    group.ring.note(header.ring_generation, header.ring_index_last);
                }
                let taken = self.state.groups.entry(header.group).or_default();
                let (durable, taken_to): (Sequence, Sequence) = (group.known.tail.sequence, taken.known.tail.sequence);
                assert!(durable <= taken_to, "rule 1: journaled <= received");
                taken.queued.pop_front();
            }
        }
    }

    /// Begins the next segment. Nothing is on its way.
    fn roll(&mut self) -> Result<(), Failure> {
        let retired = self.retire(Extent::PastBounds)?;
        if !retired.segments.is_empty() {
            self.answer(JournalEvent::Retired { retired, token: Token::default() });
        }
        let segment = self.current.segment + 1;
        let header = segment_header(&self.config, self.journal, segment, self.next_write, self.previous_write);
        let failed = |error: std::io::Error| Failure::Segment { segment, error: error.to_string() };
        let open = self.disk.begin(&header).map_err(failed)?;
        self.io.install(&open.direct).map_err(failed)?;
        let entry = SegmentEntry { file: open.readable.clone(), bytes: open.bytes, last: HashMap::new() };
        self.shared.index_mut().segments.insert(segment, entry);
        self.shared.figures().spare_bytes = self.disk.spare_bytes();
        self.current = Current { segment, open, at: SEGMENT_PAGE_BYTES as u64 };
        Ok(())
    }
}

/// Header of a new segment.
pub(super) fn segment_header(
    config: &JournalConfig,
    journal: [u8; 16],
    segment: u64,
    first_write: u64,
    previous_write: u32,
) -> SegmentHeader {
    SegmentHeader {
        journal,
        segment,
        first_write,
        previous_write,
        segment_bytes: config.segment_bytes,
        cluster: config.cluster.0,
        node: config.node.get(),
    }
}
