//! A network for tests: passes bytes on between a dialler and a node, and can stall or cut them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

const WHOLE: i64 = i64::MAX;

struct State {
    stalled: AtomicBool,
    /// Bytes that still pass towards the node before everything is cut.
    left: AtomicI64,
    ended: AtomicBool,
}

pub(super) struct Relay {
    address: SocketAddr,
    state: Arc<State>,
}

impl Relay {
    pub(super) fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            stalled: AtomicBool::new(false),
            left: AtomicI64::new(WHOLE),
            ended: AtomicBool::new(false),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(near), false) = (stream, shared.ended.load(Ordering::SeqCst)) else { return };
                let Ok(far) = TcpStream::connect(to) else { continue };
                let (near2, far2) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
                let (up, down) = (shared.clone(), shared.clone());
                std::thread::spawn(move || pass(near, far, &up, true));
                std::thread::spawn(move || pass(far2, near2, &down, false));
            }
        });
        Self { address, state }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// While stalled nothing passes and nothing ends, as when a switch drops every packet.
    pub(super) fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Every connection is cut once so many bytes more have passed towards the node.
    pub(super) fn cut_after(&self, bytes: i64) {
        self.state.left.store(bytes, Ordering::SeqCst);
    }

    pub(super) fn mend(&self) {
        self.state.left.store(WHOLE, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.state.stalled.store(false, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State, counted: bool) {
    let mut buffer = [0; 16 << 10];
    while !state.ended.load(Ordering::SeqCst) {
        let Ok(mut bytes @ 1..) = from.read(&mut buffer) else { break };
        while state.stalled.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut cut = state.left.load(Ordering::SeqCst) <= 0;
        if counted && state.left.load(Ordering::SeqCst) != WHOLE {
            let left = state.left.fetch_sub(bytes as i64, Ordering::SeqCst);
            cut = left <= bytes as i64;
            bytes = bytes.min(usize::try_from(left).unwrap_or(0));
        }
        if to.write_all(&buffer[..bytes]).is_err() || cut {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
