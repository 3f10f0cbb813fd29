//! The transport's bytes by io_uring: the only place that names tokio-uring, which has few maintainers.
//!
//! What can hurt: buffers that the kernel still writes to; each is moved into its operation and comes back with its
//! result. A read that is given up keeps its buffer until the kernel lets go of it.

use std::io;
use std::net::{Shutdown, SocketAddr};

use tokio_uring::net::{TcpListener, TcpStream};

use super::driver::{Net, NetStream};

/// Entries of the submission queue: two operations for each of about a hundred connections; more only costs a call.
const RING_ENTRIES: u32 = 256;

pub(super) struct UringNet;

pub(super) struct UringStream(TcpStream);

/// Why io_uring cannot be used, with its remedy; `None` when it can.
pub(super) fn refusal() -> Option<String> {
    let error = io_uring::IoUring::new(RING_ENTRIES).err()?;
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    Some(explain(&error, disabled.trim()))
}

fn explain(error: &io::Error, io_uring_disabled: &str) -> String {
    match (error.raw_os_error(), io_uring_disabled) {
        (Some(libc::EPERM | libc::EACCES), "1" | "2") => {
            format!(
                "{error}: `sysctl kernel.io_uring_disabled` is `{io_uring_disabled}`; set it to 0, or 1 with the agent's group in `kernel.io_uring_group`"
            )
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            format!("{error}: a seccomp filter or SELinux refuses io_uring_setup; allow it for the agent")
        }
        (Some(libc::ENOSYS), _) => {
            format!("{error}: this kernel has no io_uring, or a seccomp filter hides it; Linux 5.10 or later has it")
        }
        (Some(libc::ENOMEM), _) => format!("{error}: the locked-memory limit is too low; raise `LimitMEMLOCK`"),
        _ => error.to_string(),
    }
}

impl Net for UringNet {
    type Listener = TcpListener;
    type Stream = UringStream;

    fn block_on(future: impl Future<Output = ()>) -> io::Result<()> {
        let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES))?;
        runtime.block_on(future);
        Ok(())
    }

    fn listener(bound: std::net::TcpListener) -> io::Result<TcpListener> {
        Ok(TcpListener::from_std(bound))
    }

    async fn accept(listener: &TcpListener) -> io::Result<(UringStream, SocketAddr)> {
        let (stream, from) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((UringStream(stream), from))
    }

    async fn connect(address: SocketAddr) -> io::Result<UringStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(UringStream(stream))
    }
}

impl NetStream for UringStream {
    async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        buffer.clear();
        self.0.read(buffer).await
    }

    async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.0.write_all(bytes).await.0
    }

    fn finish(&self) {
        // As below.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    fn close(&self) {
        // Already closed by the other side is as good.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_named_with_its_remedy() {
        let said = |errno, disabled| explain(&io::Error::from_raw_os_error(errno), disabled);
        assert!(said(libc::EPERM, "2").contains("kernel.io_uring_disabled"));
        assert!(said(libc::EPERM, "0").contains("seccomp"));
        assert!(said(libc::ENOSYS, "").contains("kernel"));
        assert!(said(libc::ENOMEM, "0").contains("LimitMEMLOCK"));
    }
}
