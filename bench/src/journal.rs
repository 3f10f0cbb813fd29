//! The journal beside the disk itself: how long until a frame is durable, and how many a second.
//!
//! Owns: figures of the journal on io_uring and on plain system calls, and of a bare `pwrite` and `fdatasync` of one
//! page in the same directory, in the same run. Refuses: judging them.

use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use understudy_agent::clock;
use understudy_agent::frame::traffic::Traffic;
use understudy_agent::frame::{Frame, FrameBuilder, FrameCodec, Level, Seal};
use understudy_agent::journal::{IoBackend, Journal, JournalConfig, JournalEvent, Token};
use understudy_types::id::{ClusterId, Epoch, GroupId, NodeId, Sequence};

/// Figures of one way.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct JournalFigures {
    /// `fdatasync`, `io_uring` or `plain`.
    pub(crate) name: String,
    /// One at a time: from the append to the answer.
    pub(crate) one_p50_ns: u64,
    pub(crate) one_p99_ns: u64,
    /// With 256 frames waiting at any time.
    pub(crate) frames_per_second: f64,
    pub(crate) operations_per_second: f64,
    pub(crate) bytes_per_second: f64,
    /// Frames that shared one fsync, on average.
    pub(crate) frames_per_write: f64,
}

/// Operations in a frame of the measurement: what a batch holds at moderate load.
const OPERATIONS: u64 = 16;
const WAITING: usize = 256;

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn percentile(sorted: &[Duration], percent: usize) -> u64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0, |took| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
}

/// A stream of frames of one group.
struct Stream {
    traffic: Traffic,
    builder: FrameBuilder,
    codec: FrameCodec,
    seal: Seal,
}

impl Stream {
    fn next(&mut self) -> anyhow::Result<Frame> {
        for _ in 0..OPERATIONS {
            let (account, captured, op) = self.traffic.entry();
            self.builder.push(&account, captured, &op, None)?;
        }
        let frame = self.builder.seal(&self.seal, &mut self.codec)?;
        self.seal.first_sequence = frame.last_sequence().next();
        self.seal.previous_hash = frame.hash();
        Ok(frame)
    }
}

/// Bare page writes past the page cache where that is possible, each with its fdatasync, into a file that is allocated
/// and written: the least that any log has to pay here.
fn bare(directory: &Path, rounds: usize) -> anyhow::Result<JournalFigures> {
    let path = directory.join("bare");
    std::fs::write(&path, vec![0; 4096 * rounds])?;
    std::fs::File::open(&path)?.sync_all()?;
    let mut open = std::fs::OpenOptions::new();
    let direct = open.write(true).custom_flags(libc::O_DIRECT).open(&path);
    let file = direct.or_else(|_| open.custom_flags(0).open(&path))?;
    let memory = vec![1; 2 * 4096];
    let page = &memory[memory.as_ptr().align_offset(4096)..][..4096];
    let mut took = Vec::with_capacity(rounds);
    let begun = now();
    for round in 0..rounds {
        let start = now();
        file.write_all_at(page, 4096 * round as u64)?;
        file.sync_data()?;
        took.push(start.elapsed());
    }
    let seconds = begun.elapsed().as_secs_f64();
    took.sort_unstable();
    std::fs::remove_file(&path)?;
    Ok(JournalFigures {
        name: "fdatasync".into(),
        one_p50_ns: percentile(&took, 50),
        one_p99_ns: percentile(&took, 99),
        frames_per_second: rounds as f64 / seconds,
        operations_per_second: 0.0,
        bytes_per_second: rounds as f64 * 4096.0 / seconds,
        frames_per_write: 1.0,
    })
}

fn answered(journal: &Journal) -> anyhow::Result<()> {
    match journal.events().recv_timeout(Duration::from_secs(60)).context("the journal does not answer")? {
        JournalEvent::Durable { .. } => Ok(()),
        other => bail!("unexpected answer {other:?}"),
    }
}

/// One backend of the journal.
fn journal(directory: &Path, io_backend: IoBackend, rounds: usize) -> anyhow::Result<JournalFigures> {
    let node = NodeId::new(1).context("node 1")?;
    let cluster = ClusterId(1);
    let path = directory.join("journal");
    let config = JournalConfig { io_backend, free_bytes_min: 0, ..JournalConfig::new(path.clone(), cluster, node) };
    let (journal, _) = Journal::open(config, clock::mono())?;
    let seal = Seal {
        cluster,
        origin: node,
        group: GroupId(1),
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        previous_hash: [0; 32],
        level: Level::Normal,
    };
    let (traffic, builder, codec) = (Traffic::new(5), FrameBuilder::new(), FrameCodec::new());
    let mut stream = Stream { traffic, builder, codec, seal };
    let mut took = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let frame = stream.next()?;
        let start = now();
        journal.append(frame, Token(0))?;
        answered(&journal)?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    let many = (0..rounds * 32).map(|_| stream.next()).collect::<anyhow::Result<Vec<Frame>>>()?;
    let bytes: usize = many.iter().map(|frame| frame.bytes().len()).sum();
    let (count, before) = (many.len(), journal.stats());
    let begun = now();
    for (n, frame) in many.into_iter().enumerate() {
        journal.append(frame, Token(0))?;
        if n >= WAITING {
            answered(&journal)?;
        }
    }
    for _ in 0..WAITING.min(count) {
        answered(&journal)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = journal.stats();
    drop(journal);
    std::fs::remove_dir_all(&path)?;
    Ok(JournalFigures {
        name: after.backend.to_owned(),
        one_p50_ns: percentile(&took, 50),
        one_p99_ns: percentile(&took, 99),
        frames_per_second: count as f64 / seconds,
        operations_per_second: count as f64 * OPERATIONS as f64 / seconds,
        bytes_per_second: bytes as f64 / seconds,
        frames_per_write: count as f64 / (after.writes - before.writes).max(1) as f64,
    })
}

/// Measures in `directory`, which decides which disk it is. `quick` is what tests run. io_uring is left out where it
/// is refused; the reason is the second value.
///
/// # Errors
/// The disk's.
pub(crate) fn measure(directory: &Path, quick: bool) -> anyhow::Result<(Vec<JournalFigures>, Option<String>)> {
    let rounds = if quick { 50 } else { 1000 };
    let mut figures = vec![bare(directory, rounds)?];
    let refusal = match understudy_agent::journal::io_uring_available() {
        Ok(()) => {
            figures.push(journal(directory, IoBackend::IoUring, rounds)?);
            None
        }
        Err(refusal) => Some(refusal.to_string()),
    };
    figures.push(journal(directory, IoBackend::Plain, rounds)?);
    Ok((figures, refusal))
}

#[cfg(test)]
mod tests {
    #[test]
    fn quick_mode_measures_every_way() {
        let directory = tempfile::tempdir().unwrap();
        let (figures, refusal) = super::measure(directory.path(), true).unwrap();
        if let Some(refusal) = &refusal {
            println!("SKIPPED quick_mode_measures_every_way (on io_uring): {refusal}");
        }
        assert_eq!(figures.len(), if refusal.is_some() { 2 } else { 3 });
        for figure in &figures {
            println!("{figure:?}");
            assert!(figure.one_p50_ns > 0 && figure.one_p50_ns <= figure.one_p99_ns && figure.frames_per_second > 0.0);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
