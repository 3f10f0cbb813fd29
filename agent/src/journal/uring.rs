//! io_uring: one linked pair, write then fdatasync, with registered buffers and a registered file.
//!
//! Owns: the ring, which knows two opcodes and two buffers and nothing else: it is created disabled, probed,
//! restricted to `WRITE_FIXED`, `FSYNC` and the update of its one file slot, then enabled, so that a bug or an attack
//! in this process cannot use it for anything else. What can hurt: a buffer that goes away while the kernel reads it;
//! it is kept in `in_flight` until its completions are here, and its pages are pinned by their registration anyway.
//! Refuses: retrying; a short write is a failed write (the kernel breaks the link and cancels the fdatasync).

#![expect(unsafe_code, reason = "pushing a submission and registering buffers hand raw pointers to the kernel")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::register::{Probe, Restriction};
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, types};

use super::disk::LogFile;
use super::io::{Buffer, IoFailure, IoRefusal, LogIo, WriteOp, explain, sysctl};

const WRITE: u64 = 1;
const SYNC: u64 = 2;
/// IORING_REGISTER_FILES_UPDATE of <linux/io_uring.h>: the one registration that is used after the start.
const REGISTER_FILES_UPDATE: u8 = 6;

/// See the module. Order of fields: the ring is dropped first, so that the kernel lets go before the buffer does.
pub(super) struct UringIo {
    ring: IoUring,
    in_flight: Option<WriteOp>,
    file: Option<Arc<dyn LogFile>>,
}

impl UringIo {
    /// Makes, probes and restricts the ring. `buffers` must be the ones that later come with the writes.
    pub(super) fn new(buffers: &[Buffer]) -> Result<Self, IoRefusal> {
        let refused = |step| move |error: io::Error| explain(step, &error, sysctl());
        let ring = IoUring::builder().setup_r_disabled().build(4).map_err(refused("io_uring_setup"))?;
        let submitter = ring.submitter();
        let mut probe = Probe::new();
        submitter.register_probe(&mut probe).map_err(refused("register probe"))?;
        for (code, name) in [(opcode::WriteFixed::CODE, "WRITE_FIXED"), (opcode::Fsync::CODE, "FSYNC")] {
            if !probe.is_supported(code) {
                return Err(IoRefusal::Opcode(name));
            }
        }
        let vectors = buffers
            .iter()
            .map(|buffer| libc::iovec { iov_base: buffer.map.as_ptr().cast_mut().cast(), iov_len: buffer.map.len() });
        let vectors: Vec<libc::iovec> = vectors.collect();
        // SAFETY: every vector describes a whole live anonymous mapping. The kernel pins its pages for as long as the
        // ring lives, so they stay valid for it even after the mapping is gone; it only ever reads them, because the
        // ring is restricted to writes to files.
        unsafe { submitter.register_buffers(&vectors) }.map_err(refused("register buffers"))?;
        submitter.register_files(&[-1]).map_err(refused("register files"))?;
        let mut restrictions = [
            Restriction::sqe_op(opcode::WriteFixed::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_flags_allowed((Flags::IO_LINK | Flags::FIXED_FILE).bits()),
            Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
            Restriction::register_op(REGISTER_FILES_UPDATE),
        ];
        submitter.register_restrictions(&mut restrictions).map_err(refused("register restrictions"))?;
        submitter.register_enable_rings().map_err(refused("enable"))?;
        Ok(Self { ring, in_flight: None, file: None })
    }

    /// Waits for one completion. A signal interrupts the wait, not the operation.
    fn wait(&mut self) -> io::Result<(u64, i32)> {
        loop {
            if let Some(entry) = self.ring.completion().next() {
                return Ok((entry.user_data(), entry.result()));
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl LogIo for UringIo {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn install(&mut self, file: &Arc<dyn LogFile>) -> io::Result<()> {
        let known = file.as_file().ok_or(io::ErrorKind::Unsupported)?;
        self.ring.submitter().register_files_update(0, &[known.as_raw_fd()])?;
        self.file = Some(Arc::clone(file));
        Ok(())
    }

    fn submit(&mut self, write: WriteOp) -> Result<(), (IoFailure, WriteOp)> {
        let len = u32::try_from(write.len).ok().filter(|len| *len as usize <= write.buffer.map.len());
        let (Some(len), true, None) = (len, self.file.is_some(), &self.in_flight) else {
            return Err((IoFailure::Write(io::ErrorKind::InvalidInput.into()), write));
        };
        let file = types::Fixed(0);
        let entry = opcode::WriteFixed::new(file, write.buffer.map.as_ptr(), len, write.buffer.index);
        let entry = entry.offset(write.at).build().flags(Flags::IO_LINK).user_data(WRITE);
        let sync = opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build().user_data(SYNC);
        // SAFETY: `entry` points into a registered buffer, `len` bytes of which exist (checked above). The buffer is
        // moved into `in_flight` and cannot be changed or freed until both completions have been taken; should this
        // struct be dropped before, the registration keeps the pages. `sync` has no pointers.
        let pushed = unsafe { self.ring.submission().push_multiple(&[entry, sync]) };
        if pushed.is_err() {
            return Err((IoFailure::Write(io::ErrorKind::WouldBlock.into()), write));
        }
        self.in_flight = Some(write);
        // What could not be submitted now is submitted by the wait, which also reports why not.
        let _ = self.ring.submit();
        Ok(())
    }

    fn complete(&mut self) -> Option<(WriteOp, Result<(), IoFailure>)> {
        let len = self.in_flight.as_ref()?.len;
        let mut result = Ok(());
        for _ in 0..2 {
            let step = match self.wait() {
                Ok((WRITE, done)) if usize::try_from(done) == Ok(len) => Ok(()),
                Ok((WRITE, done @ ..0)) => Err(IoFailure::Write(io::Error::from_raw_os_error(-done))),
                Ok((WRITE, short)) => {
                    Err(IoFailure::Write(io::Error::other(format!("only {short} of {len} bytes were written"))))
                }
                Ok((_, done @ ..0)) => Err(IoFailure::Sync(io::Error::from_raw_os_error(-done))),
                Ok(_) => Ok(()),
                // The ring itself is broken: nothing more will come from it.
                Err(error) => {
                    result = Err(IoFailure::Sync(error));
                    break;
                }
            };
            // The first failure is the cause; the fdatasync behind a failed write is only cancelled.
            if result.is_ok() {
                result = step;
            }
        }
        self.in_flight.take().map(|write| (write, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_refuses_what_it_was_not_made_for() {
        let buffers = [Buffer::new(0).unwrap()];
        let mut io = match UringIo::new(&buffers) {
            Ok(io) => io,
            Err(refusal) => {
                println!("SKIPPED ring_refuses_what_it_was_not_made_for: {refusal}");
                return;
            }
        };
        let file: Arc<dyn LogFile> = Arc::new(tempfile::tempfile().unwrap());
        io.install(&file).unwrap();
        let nop = opcode::Nop::new().build().flags(Flags::FIXED_FILE).user_data(9);
        // SAFETY: a no-operation has no pointers.
        unsafe { io.ring.submission().push(&nop) }.unwrap();
        let (of, result) = io.wait().unwrap();
        assert_eq!((of, result), (9, -libc::EACCES));
        assert!(io.ring.submitter().register_eventfd(0).is_err());
    }
}
