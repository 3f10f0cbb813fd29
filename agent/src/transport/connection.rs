//! One connection's tasks: a reader, a writer and a watch around one [`Link`].
//!
//! What can hurt: a write that never ends (the watch ends the socket under it), an event loop that is behind (the
//! reader waits, and the peer is not blamed for the silence). Refuses: protocol; that is the link's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};
use understudy_types::id::NodeId;
use understudy_types::message::Channel;

use super::driver::{Context, NetStream};
use super::handshake::DownReason;
use super::link::{Link, LinkEvent};
use super::queue::LinkQueue;
use super::{LinkId, TransportEvent};
use crate::clock;
use crate::limits::{LINK_FLUSH_MS_MAX, LINK_READ_BYTES};

const FLUSH_MAX: Duration = Duration::from_millis(LINK_FLUSH_MS_MAX);
/// After a failed write: time for what the peer said last to be read first, because that says why it closed.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How a connection ended. `announced`: the node was told that it was there, and was told that it ended.
pub(super) struct Ended {
    pub(super) reason: DownReason,
    pub(super) announced: Option<(NodeId, Channel)>,
}

pub(super) struct Connection<S> {
    context: Rc<Context>,
    stream: S,
    link: RefCell<Link>,
    queue: Arc<LinkQueue>,
    id: LinkId,
    /// The reader waits for the node's event loop.
    held_up: Cell<bool>,
    announced: Cell<Option<(NodeId, Channel)>>,
}

impl<S: NetStream> Connection<S> {
    pub(super) fn new(context: Rc<Context>, stream: S, link: Link, queue: Arc<LinkQueue>, id: LinkId) -> Rc<Self> {
        context.shared.add(id, queue.clone());
        Rc::new(Self {
            context,
            stream,
            link: RefCell::new(link),
            queue,
            id,
            held_up: Cell::new(false),
            announced: Cell::new(None),
        })
    }

    /// Runs the connection to its end.
    pub(super) async fn run(self: Rc<Self>) -> Ended {
        let writer = spawn_local(self.clone().write_all());
        let reason = tokio::select! {
            reason = self.read_all() => reason,
            reason = self.watch() => reason,
        };
        self.queue.close(reason.clone());
        self.link.borrow_mut().close(reason.clone());
        self.queue.wake.notify_one();
        self.part(writer, &reason).await;
        self.context.shared.remove(self.id);
        let announced = self.announced.get();
        if let Some((peer, channel)) = announced {
            let down = TransportEvent::Disconnected { peer, link: self.id, channel, reason: reason.clone() };
            self.context.emit(down).await;
        }
        Ended { reason, announced }
    }

    /// Lets last words out where there are any, and sees to it that the peer can read them: closing a socket that
    /// holds unread bytes resets it, and the reset overtakes what was written.
    async fn part(&self, writer: JoinHandle<()>, reason: &DownReason) {
        let dead = matches!(
            reason,
            DownReason::Silent(_) | DownReason::Io(_) | DownReason::Gone { .. } | DownReason::Replaced
        );
        if !dead && timeout(FLUSH_MAX, writer).await.is_ok() {
            self.stream.finish();
            let drained = async {
                let mut buffer = Vec::with_capacity(LINK_READ_BYTES);
                loop {
                    let (result, back) = self.stream.read(buffer).await;
                    buffer = back;
                    if !matches!(result, Ok(1..)) {
                        return;
                    }
                }
            };
            // What still comes is not looked at; whoever goes on sending is cut off.
            let _ = timeout(FLUSH_MAX, drained).await;
        }
        self.stream.close();
    }

    async fn read_all(&self) -> DownReason {
        let mut buffer = Vec::with_capacity(LINK_READ_BYTES);
        let mut events = Vec::new();
        loop {
            let (result, back) = self.stream.read(buffer).await;
            buffer = back;
            let bytes = match result {
                Ok(0) => return DownReason::Gone { pending_bytes: self.link.borrow().pending_bytes() },
                Ok(bytes) => buffer.get(..bytes).unwrap_or_default(),
                Err(error) => return DownReason::Io(error.to_string()),
            };
            let result = self.link.borrow_mut().received(bytes, &self.queue, clock::mono(), &mut events);
            self.queue.wake.notify_one();
            for event in events.drain(..) {
                if !self.emit(event).await {
                    return DownReason::Stopped;
                }
            }
            if let Err(reason) = result {
                return reason;
            }
        }
    }

    async fn emit(&self, event: LinkEvent) -> bool {
        let (link, dialled) = (self.id, self.queue.status());
        let event = match event {
            LinkEvent::Welcomed { ack, rtt_ns } => {
                let Some((peer, channel)) = dialled.peer.zip(dialled.channel) else { return false };
                self.announce(peer, channel, true);
                TransportEvent::Connected {
                    peer,
                    link,
                    channel,
                    incarnation: ack.incarnation,
                    capabilities: ack.capabilities,
                    software: ack.software,
                    positions: ack.positions,
                    credit_bytes: ack.credit_bytes,
                    rtt_ns,
                }
            }
            LinkEvent::Greeted(hello) => {
                self.announce(hello.node, hello.channel, false);
                self.context.known(Some(hello.node));
                let (peer, incarnation, capabilities, software) =
                    (hello.node, hello.incarnation, hello.capabilities, hello.software);
                match hello.channel {
                    Channel::Data => TransportEvent::Asked { peer, link, incarnation, capabilities, software },
                    Channel::Beat => TransportEvent::Connected {
                        peer,
                        link,
                        channel: Channel::Beat,
                        incarnation,
                        capabilities,
                        software,
                        positions: Vec::new(),
                        credit_bytes: 0,
                        rtt_ns: 0,
                    },
                }
            }
            LinkEvent::Message { message, wire_bytes } => {
                let Some((peer, channel)) = self.announced.get() else { return false };
                TransportEvent::Message { peer, link, channel, message, wire_bytes }
            }
        };
        self.held_up.set(true);
        let taken = self.context.emit(event).await;
        self.held_up.set(false);
        taken
    }

    fn announce(&self, peer: NodeId, channel: Channel, dialled: bool) {
        self.announced.set(Some((peer, channel)));
        self.queue.update(|status| {
            status.peer = Some(peer);
            status.channel = Some(channel);
        });
        self.context.shared.in_use(self.id, peer, channel, dialled);
    }

    async fn write_all(self: Rc<Self>) {
        loop {
            let now = clock::mono();
            let output = self.link.borrow_mut().output(&self.queue, now);
            let bytes = match output {
                Ok(bytes) => bytes,
                Err(reason) => {
                    self.queue.close(reason.clone());
                    self.link.borrow_mut().close(reason);
                    continue;
                }
            };
            if !bytes.is_empty() {
                if let Err(error) = self.stream.write_all(bytes).await {
                    sleep(LAST_WORDS).await;
                    self.queue.close(DownReason::Io(error.to_string()));
                    return;
                }
                continue;
            }
            let (done, paced) = {
                let link = self.link.borrow();
                (link.is_closing() && link.is_drained(), link.paced_until())
            };
            if done {
                return;
            }
            match paced {
                // At least a millisecond: the timer is no finer.
                Some(at) => {
                    let wait = Duration::from_nanos(at.since_ns(now)).max(Duration::from_millis(1));
                    let _ = timeout(wait, self.queue.wake.notified()).await;
                }
                None => self.queue.wake.notified().await,
            }
        }
    }

    async fn watch(&self) -> DownReason {
        let step = (self.context.limits.keepalive / 4).clamp(Duration::from_millis(5), Duration::from_millis(250));
        loop {
            if let Some(reason) = self.queue.close_reason() {
                return reason;
            }
            if timeout(step, self.queue.closing.notified()).await.is_ok() {
                continue;
            }
            let now = clock::mono();
            let mut link = self.link.borrow_mut();
            if self.held_up.get() {
                link.excuse(now);
            }
            if let Err(reason) = link.tick(now) {
                return reason;
            }
            self.queue.wake.notify_one();
        }
    }
}
