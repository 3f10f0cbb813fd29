//! A disk that fails: nothing is retried as if nothing had happened, and reopening tells the truth.

use std::io;

use super::*;
use crate::journal::disk::LogFile;
use crate::journal::io::{Buffer, IoFailure, LogIo, WriteOp};
use crate::journal::plain::PlainIo;

/// Fails at the n-th write: before it, in the middle of it, or at its fsync.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Write,
    Torn,
    Sync,
}

struct FaultyIo {
    io: PlainIo,
    file: Option<Arc<dyn LogFile>>,
    left: u32,
    fault: Fault,
    failed: Option<(WriteOp, IoFailure)>,
}

impl LogIo for FaultyIo {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn install(&mut self, file: &Arc<dyn LogFile>) -> io::Result<()> {
        self.file = Some(file.clone());
        self.io.install(file)
    }

    fn submit(&mut self, write: WriteOp) -> Result<(), (IoFailure, WriteOp)> {
        if self.left > 0 {
            self.left -= 1;
            return self.io.submit(write);
        }
        let error = || io::Error::from_raw_os_error(libc::EIO);
        let failure = match self.fault {
            Fault::Write => IoFailure::Write(error()),
            Fault::Torn => {
                let file = self.file.as_ref().unwrap();
                file.write_all_at(&write.buffer.map[..SEGMENT_PAGE_BYTES], write.at).unwrap();
                IoFailure::Write(error())
            }
            Fault::Sync => {
                self.io.submit(write)?;
                let (write, _) = self.io.complete().unwrap();
                self.failed = Some((write, IoFailure::Sync(error())));
                return Ok(());
            }
        };
        self.failed = Some((write, failure));
        Ok(())
    }

    fn complete(&mut self) -> Option<(WriteOp, Result<(), IoFailure>)> {
        match self.failed.take() {
            Some((write, failure)) => Some((write, Err(failure))),
            None => self.io.complete(),
        }
    }
}

#[test]
fn after_a_failure_nothing_is_taken_until_the_disk_was_read_back() {
    for fault in [Fault::Write, Fault::Torn, Fault::Sync] {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), IoBackend::Plain);
        let io = FaultyIo { io: PlainIo::default(), file: None, left: 3, fault, failed: None };
        let buffers = vec![Buffer::new(0).unwrap(), Buffer::new(1).unwrap()];
        let (journal, _) = Journal::open_on(config.clone(), clock::mono(), (Box::new(io), buffers)).unwrap();
        let mut stream = Stream::new(1);
        for _ in 0..3 {
            assert!(is_durable(&append(&journal, stream.frame(2, 10_000))));
        }
        let acknowledged = stream.tail;
        let failed = append(&journal, stream.frame(2, 10_000));
        let JournalEvent::Failed { failure } = failed else { panic!("{failed:?}") };
        assert_eq!(matches!(failure, Failure::Sync { .. }), fault == Fault::Sync);
        let next = stream.frame(2, 10);
        // The thread says why before it goes; its queue may take a frame until it is gone.
        let refused = loop {
            match journal.append(next.clone(), Token(0)) {
                Err(AppendError::Stopped(frame, failure)) => break (frame, failure),
                _ => std::thread::yield_now(),
            }
        };
        assert_eq!(refused, (next, failure.clone()));
        assert_eq!(journal.stats().failed, Some(failure.to_string()));
        // What was acknowledged can still be read.
        assert_eq!(journal.reader().tail(GroupId(1)), acknowledged);
        assert_eq!(journal.reader().read(GroupId(1), Sequence(1), usize::MAX).unwrap().len(), 3);
        drop(journal);
        let (journal, recovered) = open(&config);
        let tail = recovered.groups[&GroupId(1)].tail;
        // What was written whole but not synced is there now and has been synced since; a torn write is not.
        let whole = fault == Fault::Sync;
        assert_eq!(tail.sequence, Sequence(acknowledged.sequence.0 + if whole { 2 } else { 0 }));
        assert_eq!(recovered.torn_bytes > 0, fault == Fault::Torn);
        assert_eq!(recovered.damage, []);
        let mut stream = Stream { tail, ..Stream::new(1) };
        assert!(is_durable(&append(&journal, stream.frame(1, 10))));
    }
}
