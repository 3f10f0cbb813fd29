//! The transport's bytes by plain system calls (epoll), where io_uring is refused or not wanted.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use tokio::net::{TcpListener, TcpStream};

use super::driver::{Net, NetStream};

pub(super) struct PlainNet;

pub(super) struct PlainStream(TcpStream);

impl Net for PlainNet {
    type Listener = TcpListener;
    type Stream = PlainStream;

    fn block_on(future: impl Future<Output = ()>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::LocalSet::new().block_on(&runtime, future);
        Ok(())
    }

    fn listener(bound: std::net::TcpListener) -> io::Result<TcpListener> {
        bound.set_nonblocking(true)?;
        TcpListener::from_std(bound)
    }

    async fn accept(listener: &TcpListener) -> io::Result<(PlainStream, SocketAddr)> {
        let (stream, from) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((PlainStream(stream), from))
    }

    async fn connect(address: SocketAddr) -> io::Result<PlainStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(PlainStream(stream))
    }
}

impl NetStream for PlainStream {
    async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        buffer.clear();
        loop {
            if let Err(error) = self.0.readable().await {
                return (Err(error), buffer);
            }
            match self.0.try_read_buf(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return (result, buffer),
            }
        }
    }

    async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn finish(&self) {
        // As below.
        let _ = nix::sys::socket::shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Write);
    }

    fn close(&self) {
        // Already closed by the other side is as good.
        let _ = nix::sys::socket::shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}
