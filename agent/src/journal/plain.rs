//! Plain system calls: `pwrite`, then `fdatasync`, at once. Where io_uring is refused.
//!
//! Owns: the same promise as `uring`, without overlap: the journal's thread waits in the calls. Refuses: retrying.

use std::io;
use std::sync::Arc;

use super::disk::LogFile;
use super::io::{IoFailure, LogIo, WriteOp};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PlainIo {
    file: Option<Arc<dyn LogFile>>,
    done: Option<(WriteOp, Result<(), IoFailure>)>,
}

impl LogIo for PlainIo {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn install(&mut self, file: &Arc<dyn LogFile>) -> io::Result<()> {
        self.file = Some(Arc::clone(file));
        Ok(())
    }

    fn submit(&mut self, write: WriteOp) -> Result<(), (IoFailure, WriteOp)> {
        let Some(file) = self.file.as_ref().filter(|_| self.done.is_none()) else {
            return Err((IoFailure::Write(io::ErrorKind::InvalidInput.into()), write));
        };
        let result = file.write_all_at(&write.buffer.map[..write.len], write.at).map_err(IoFailure::Write);
        let result = result.and_then(|()| file.sync_data().map_err(IoFailure::Sync));
        self.done = Some((write, result));
        Ok(())
    }

    fn complete(&mut self) -> Option<(WriteOp, Result<(), IoFailure>)> {
        self.done.take()
    }
}
