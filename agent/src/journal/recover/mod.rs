//! Recovery: reads back what is really on disk and makes the index from it.
//!
//! Owns: the walk over the segments by the decision table (`table`), the report of damage, and the repair of the end:
//! what stands there is written again, and what follows is cleared, before anything is acknowledged anew. What can
//! hurt: taking the torn end of a write for one that had been acknowledged, or the other way round. Refuses: guessing;
//! a newer version or a lost control file stops the agent instead.

use std::io;

use memmap2::MmapMut;
use understudy_types::frame::FrameHeader;
use understudy_types::id::{ClusterId, GroupId, NodeId};
use understudy_types::segment::{
    SEGMENT_PAGE_BYTES, SegmentHeader, SegmentInvalid, WRITE_BYTES_MAX, WRITE_HEADER_BYTES, WriteHeader,
};

use super::JournalError;
use super::chain::{Held, Known};
use super::control::Control;
use super::disk::{LogDisk, OpenSegment};
use super::index::{GroupIndex, Index, Place, SegmentEntry};
use crate::frame::header_hash;

mod damage;
mod table;
mod window;

#[cfg(test)]
mod tests;

pub use damage::Damage;
use table::{Action, Found, SegmentAction, SegmentFound};
use window::{Expect, Window};

/// Where the next write goes.
#[derive(Clone, Debug)]
pub(super) struct AppendPoint {
    pub(super) segment: u64,
    pub(super) open: OpenSegment,
    pub(super) at: u64,
}

/// What recovery hands to the journal.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) index: Index,
    pub(super) damage: Vec<Damage>,
    pub(super) torn_bytes: u64,
    /// `None`: begin a new segment.
    pub(super) append: Option<AppendPoint>,
    pub(super) last_segment: u64,
    pub(super) next_write: u64,
    pub(super) previous_write: u32,
}

/// Frames of a payload in order, each with its offset; `None` once for what is no frame, then the end. Bodies are not
/// looked at: the write's checksum covers them, and a reader judges each on its own.
pub(super) fn frames(payload: &[u8]) -> impl Iterator<Item = Option<(usize, FrameHeader, &[u8])>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= payload.len() {
            return None;
        }
        let start = at;
        let header = FrameHeader::decode(&payload[start..]).ok().filter(|h| start + h.frame_len() <= payload.len());
        let Some(header) = header else {
            at = payload.len();
            return Some(None);
        };
        at = start + header.frame_len();
        Some(Some((start, header, &payload[start..at])))
    })
}

struct Walk<'a> {
    control: &'a Control,
    out: Outcome,
    /// Headers of the segments after the one that is scanned, for "does a later write follow".
    headers: Vec<(u64, Result<SegmentHeader, SegmentInvalid>)>,
}

/// Reads all segments. `node` tells own frames from received ones.
pub(super) fn recover(
    disk: &dyn LogDisk,
    segments: &[u64],
    control: &Control,
    cluster: ClusterId,
    node: NodeId,
) -> Result<Outcome, JournalError> {
    let mut out = Outcome { next_write: 1, ..Outcome::default() };
    for (group, kept) in &control.groups {
        let known = Known { fence: kept.fence.max(kept.base.epoch), base: kept.base, tail: kept.base };
        out.index.groups.insert(*group, GroupIndex::new(known, kept.from_write, kept.ring.clone()));
    }
    let mut walk = Walk { control, out, headers: Vec::new() };
    let mut opened = Vec::new();
    for segment in segments {
        let open = disk.open(*segment).map_err(|error| JournalError::Segment { segment: *segment, error })?;
        let mut window = window(*segment, &open)?;
        let page = window.bytes(0, SEGMENT_PAGE_BYTES);
        let header = match page {
            Ok(Some(page)) => SegmentHeader::decode(page),
            Ok(None) | Err(_) => Err(SegmentInvalid::Damaged),
        };
        walk.headers.push((*segment, header));
        opened.push((*segment, open));
    }
    for (position, (segment, open)) in opened.into_iter().enumerate() {
        walk.segment(position, segment, &open, cluster, node)?;
    }
    Ok(walk.out)
}

fn window(segment: u64, open: &OpenSegment) -> Result<Window, JournalError> {
    Window::new(open.direct.clone(), open.bytes).map_err(|error| JournalError::Segment { segment, error })
}

impl Walk<'_> {
    /// Judges the segment, then scans it.
    fn segment(
        &mut self,
        position: usize,
        segment: u64,
        open: &OpenSegment,
        cluster: ClusterId,
        node: NodeId,
    ) -> Result<(), JournalError> {
        let last_known = self.out.last_segment;
        // Retired ones are not missing: only a hole between two that are here is.
        for missing in (last_known + 1..segment).filter(|_| last_known != 0).take(100) {
            self.judged(SegmentFound::Missing, Damage::SegmentMissing { segment: missing })?;
        }
        self.out.last_segment = segment;
        let whole_before = self.out.damage.len();
        let header = self.headers[position].1;
        let (found, damage) = match header {
            Err(SegmentInvalid::Version(version)) => {
                return Err(JournalError::Newer { segment, version });
            }
            Err(error) => (SegmentFound::HeaderDamaged, Damage::SegmentHeader { segment, error }),
            Ok(header) if header.journal != self.control.journal || header.cluster != cluster.0 => {
                (SegmentFound::ForeignJournal, Damage::SegmentForeign { segment })
            }
            Ok(header) if header.segment != segment => {
                (SegmentFound::ForeignNumber, Damage::SegmentNumber { segment, says: header.segment })
            }
            Ok(header) if open.bytes < header.segment_bytes => {
                let expected = header.segment_bytes;
                (SegmentFound::Short, Damage::SegmentShort { segment, bytes: open.bytes, expected })
            }
            Ok(_) => (SegmentFound::Fine, Damage::SegmentMissing { segment }),
        };
        if self.judged(found, damage)? == SegmentAction::ReportAndSkip {
            self.out.append = None;
            return Ok(());
        }
        if self.out.next_write == 1 && last_known == 0 {
            // The first segment that is kept: writes before it were let go.
            if let Ok(header) = header {
                self.out.next_write = header.first_write;
                self.out.previous_write = header.previous_write;
            }
        }
        let entry =
            SegmentEntry { file: open.readable.clone(), bytes: open.bytes, last: std::collections::HashMap::new() };
        self.out.index.segments.insert(segment, entry);
        let mut window = window(segment, open)?;
        let (end, last_write) = self.scan(position, segment, &mut window, node)?;
        let is_last = position + 1 == self.headers.len();
        let undamaged = self.out.damage.len() == whole_before && header.is_ok();
        self.out.append = None;
        if is_last {
            // Also in a damaged segment: whoever made the last write may have died before its fdatasync.
            let clear_from = undamaged.then_some(end);
            repair(open, last_write, clear_from).map_err(|error| JournalError::Segment { segment, error })?;
        }
        if is_last && undamaged {
            self.out.append = Some(AppendPoint { segment, open: open.clone(), at: end });
        }
        Ok(())
    }

    fn judged(&mut self, found: SegmentFound, damage: Damage) -> Result<SegmentAction, JournalError> {
        let action = table::segment_action(found);
        if matches!(action, SegmentAction::ReportAndScan | SegmentAction::ReportAndSkip) {
            self.damaged(damage);
        }
        Ok(action)
    }

    /// Notes damage. Any group may have lost its last frames in it, until a later frame of it is found.
    fn damaged(&mut self, damage: Damage) {
        self.out.damage.push(damage);
        for group in self.out.index.groups.values_mut() {
            group.tail_suspect = true;
        }
    }

    /// Walks the writes of one segment. Gives the place behind the last one, and that one's place and length.
    fn scan(
        &mut self,
        position: usize,
        segment: u64,
        window: &mut Window,
        node: NodeId,
    ) -> Result<(u64, Option<(u64, usize)>), JournalError> {
        let mut at = SEGMENT_PAGE_BYTES as u64;
        let mut last = None;
        loop {
            let expect = Expect {
                journal: self.control.journal,
                segment,
                write: self.out.next_write,
                previous: self.out.previous_write,
            };
            let look = window.look(at, &expect);
            let next_here = match look.found {
                Found::Expected | Found::Newer => None,
                _ => window.next_write(at, &expect),
            };
            let later_segment = self.headers[position + 1..].iter().find_map(|(_, header)| header.ok());
            let lost_here = later_segment.is_some_and(|header| header.first_write > expect.write);
            let action = table::action(look.found, next_here.is_some() || lost_here);
            let to = next_here.unwrap_or(window.len());
            let report = self.report(look.found, &look.write, segment, at, to, &expect, window, later_segment);
            match (action, look.write) {
                (Action::Take | Action::TakeAndReport, Some((header, checksum))) => {
                    if action == Action::TakeAndReport {
                        self.damaged(report);
                    }
                    self.take(segment, at, &header, window, node);
                    self.out.next_write = header.write + 1;
                    self.out.previous_write = checksum;
                    last = Some((at, header.padded_len()));
                    at += header.padded_len() as u64;
                }
                (Action::End, _) => return Ok((at, last)),
                (Action::CutOff, _) => {
                    if position + 1 == self.headers.len() {
                        self.out.torn_bytes += torn_len(look.write, window.len() - at);
                    }
                    return Ok((at, last));
                }
                (Action::ReportAndEnd, _) => {
                    self.damaged(report);
                    return Ok((at, last));
                }
                (Action::ReportAndSkip, _) => {
                    self.damaged(report);
                    match next_here {
                        Some(next) => {
                            self.resume(window, next, &expect);
                            at = next;
                        }
                        None => {
                            // The hole reaches to the next segment, which is expected as it is from now on.
                            if let Some((_, Ok(header))) = self.headers.get(position + 1) {
                                self.out.next_write = header.first_write;
                                self.out.previous_write = header.previous_write;
                            }
                            return Ok((at, last));
                        }
                    }
                }
                (Action::Refuse | Action::Take | Action::TakeAndReport, _) => {
                    return Err(JournalError::NewerWrite { segment, at });
                }
            }
        }
    }

    /// Goes on behind a hole that is reported already: the write there is the expected one from now on.
    fn resume(&mut self, window: &mut Window, at: u64, expect: &Expect) {
        if let Some((header, _)) = window.look(at, expect).write {
            self.out.next_write = header.write;
            self.out.previous_write = header.previous_write;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one place names the damage, from all that is known of it")]
    fn report(
        &self,
        found: Found,
        write: &Option<(WriteHeader, u32)>,
        segment: u64,
        at: u64,
        to: u64,
        expect: &Expect,
        window: &mut Window,
        later_segment: Option<SegmentHeader>,
    ) -> Damage {
        let number = write.map_or(0, |(header, _)| header.write);
        match found {
            Found::Unchained => Damage::Unchained { segment, at, write: number },
            Found::Later => Damage::Hole { segment, at, to: at, expected: expect.write, next: number },
            Found::Earlier => Damage::Earlier { segment, at, write: number },
            Found::ForeignJournal => Damage::ForeignJournal { segment, at },
            Found::ForeignSegment => {
                Damage::ForeignSegment { segment, at, says: write.map_or(0, |(header, _)| header.segment) }
            }
            _ => {
                let here = if to < window.len() {
                    window.look(to, expect).write.map(|(header, _)| header.write)
                } else {
                    None
                };
                let next = here.or(later_segment.map(|header| header.first_write)).unwrap_or(expect.write);
                Damage::Hole { segment, at, to, expected: expect.write, next }
            }
        }
    }

    /// Puts the frames of a write into the index.
    fn take(&mut self, segment: u64, at: u64, write: &WriteHeader, window: &mut Window, node: NodeId) {
        // It was read and checked a moment ago; should the disk refuse now, the readers will say so.
        let Ok(Some(payload)) = window.payload(at, write) else { return };
        let mut damage = Vec::new();
        for (offset, header, bytes) in frames(payload).flatten() {
            let place_at = at + (WRITE_HEADER_BYTES + offset) as u64;
            let group = header.group;
            let index = self.out.index.groups.entry(group).or_default();
            if header.origin == node {
                index.ring.note(header.ring_generation, header.ring_index_last);
            }
            if write.write < index.from_write || header.last_sequence() <= index.known.base.sequence {
                continue;
            }
            let tail = index.known.tail;
            if header.first_sequence <= tail.sequence {
                let (first, expected) = (header.first_sequence, tail.sequence.next());
                damage.push(Damage::FrameRepeated { segment, at: place_at, group, first, expected });
                continue;
            }
            let follows = header.first_sequence == tail.sequence.next();
            if follows && tail.hash != [0; 32] && header.previous_hash != tail.hash {
                damage.push(Damage::FrameUnchained { segment, at: place_at, group });
            }
            let hash = header_hash(&bytes[..understudy_types::frame::FRAME_HEADER_BYTES]);
            let place = Place {
                held: Held::of(&header, &hash),
                segment,
                at: u32::try_from(place_at).unwrap_or(u32::MAX),
                len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            };
            self.out.index.push(group, place, hash);
        }
        damage.into_iter().for_each(|damage| self.out.damage.push(damage));
    }
}

/// How many bytes a write that was cut off had. Without its header it cannot be told from what stands in the middle of
/// a write of the file's earlier use, and counts as nothing.
fn torn_len(write: Option<(WriteHeader, u32)>, left: u64) -> u64 {
    write.map_or(0, |(header, _)| header.padded_len() as u64).min(left)
}

/// Makes the end of the journal sure before anything is built on it: the last write is written once more, byte for
/// byte, and what may be left of a torn write behind it is cleared (`clear_from`; `None` where a new segment is begun
/// instead), then fdatasync. After an fsync that failed the page
/// cache may show what the disk does not have; a write that is done again and synced is there, or an error says so.
fn repair(open: &OpenSegment, last: Option<(u64, usize)>, clear_from: Option<u64>) -> io::Result<()> {
    let mut buffer = MmapMut::map_anon(WRITE_BYTES_MAX)?;
    if let Some((at, len)) = last {
        open.direct.read_exact_at(&mut buffer[..len], at)?;
        open.direct.write_all_at(&buffer[..len], at)?;
        buffer[..len].fill(0);
    }
    if let Some(end) = clear_from {
        let clear = usize::try_from(open.bytes.saturating_sub(end)).unwrap_or(usize::MAX).min(WRITE_BYTES_MAX);
        let clear = clear - clear % SEGMENT_PAGE_BYTES;
        open.direct.write_all_at(&buffer[..clear], end)?;
    }
    open.direct.sync_data()
}

/// A group as the journal's user sees it.
pub(super) fn state(index: &GroupIndex) -> super::GroupState {
    super::GroupState {
        first: index.first(),
        tail: index.known.tail,
        fence: index.known.fence,
        ring: index.ring.as_slice().to_vec(),
        gaps: index.gaps.clone(),
        tail_suspect: index.tail_suspect,
    }
}

/// All groups, for the report of the opening.
pub(super) fn states(index: &Index) -> std::collections::BTreeMap<GroupId, super::GroupState> {
    index.groups.iter().map(|(group, index)| (*group, state(index))).collect()
}
