//! What the transport's thread and the handles share: which link is which peer's.
//!
//! What can hurt: locks held while waiting; none is. Refuses: anything about bytes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::Notify;
use understudy_types::id::NodeId;
use understudy_types::message::Channel;

use super::handshake::DownReason;
use super::queue::{LinkQueue, LinkStatus};
use super::{Backend, LinkId};

pub(super) struct Shared {
    pub(super) local_address: SocketAddr,
    pub(super) backend: Backend,
    pub(super) reload: Notify,
    pub(super) stop: Notify,
    stopped: AtomicBool,
    links: Mutex<Links>,
    next_link: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Links {
    by_id: HashMap<LinkId, Arc<LinkQueue>>,
    /// The link in use, by peer, channel and whether this node dialled it.
    in_use: HashMap<(NodeId, Channel, bool), LinkId>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(local_address: SocketAddr, backend: Backend) -> Self {
        Self {
            local_address,
            backend,
            reload: Notify::new(),
            stop: Notify::new(),
            stopped: AtomicBool::new(false),
            links: Mutex::default(),
            next_link: AtomicU64::new(1),
            thread: Mutex::new(None),
        }
    }

    pub(super) fn set_thread(&self, thread: JoinHandle<()>) {
        *lock(&self.thread) = Some(thread);
    }

    pub(super) fn next_link(&self) -> LinkId {
        LinkId(self.next_link.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn add(&self, id: LinkId, queue: Arc<LinkQueue>) {
        lock(&self.links).by_id.insert(id, queue);
    }

    /// Puts a link in use for its peer. The one in use before, if there is one, is closed: its peer has given it up.
    pub(super) fn in_use(&self, id: LinkId, peer: NodeId, channel: Channel, dialled: bool) {
        let before = {
            let mut links = lock(&self.links);
            let before = links.in_use.insert((peer, channel, dialled), id);
            before.filter(|old| *old != id).and_then(|old| links.by_id.get(&old).cloned())
        };
        if let Some(queue) = before {
            queue.close(DownReason::Replaced);
        }
    }

    pub(super) fn remove(&self, id: LinkId) {
        let mut links = lock(&self.links);
        links.by_id.remove(&id);
        links.in_use.retain(|_, link| *link != id);
    }

    pub(super) fn link(&self, id: LinkId) -> Option<Arc<LinkQueue>> {
        lock(&self.links).by_id.get(&id).cloned()
    }

    pub(super) fn data_link(&self, peer: NodeId) -> Option<Arc<LinkQueue>> {
        self.find(peer, Channel::Data)
    }

    pub(super) fn beat_link(&self, peer: NodeId) -> Option<Arc<LinkQueue>> {
        self.find(peer, Channel::Beat)
    }

    fn find(&self, peer: NodeId, channel: Channel) -> Option<Arc<LinkQueue>> {
        let links = lock(&self.links);
        let id = links.in_use.get(&(peer, channel, true)).or_else(|| links.in_use.get(&(peer, channel, false)))?;
        links.by_id.get(id).cloned()
    }

    pub(super) fn statuses(&self) -> Vec<LinkStatus> {
        let mut all: Vec<_> = lock(&self.links).by_id.values().map(|queue| queue.status()).collect();
        all.sort_by_key(|status| status.link);
        all
    }

    pub(super) fn close_all(&self) {
        let queues: Vec<_> = lock(&self.links).by_id.values().cloned().collect();
        for queue in queues {
            queue.close(DownReason::Stopped);
        }
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.links).by_id.len()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Ends the thread and waits for it. From the thread itself it only asks.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.stop.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the thread was reported by its own hook.
            let _ = thread.join();
        }
    }
}
