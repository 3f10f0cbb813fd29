//! The transport's thread: listens, dials, redials, and starts a connection's tasks on either backend.
//!
//! Owns: one thread, `us-transport`, and which backend it runs on. What can hurt: strangers that connect and say
//! nothing (bounded), a peer that is gone for long (backoff with jitter, tries never end), certificate files that
//! change. Refuses: bytes (`link` and `connection` have them) and decisions.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Sender, TrySendError};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use understudy_types::id::NodeId;
use understudy_types::message::{Channel, VERSION_TEXT_BYTES_MAX};

use super::backoff::redial_delay;
use super::connection::{Connection, Ended};
use super::handshake::{DownReason, Own};
use super::link::Link;
use super::plain::PlainNet;
use super::queue::LinkQueue;
use super::shared::Shared;
use super::tls::TlsMaterial;
use super::uring::{self, UringNet};
use super::{
    Backend, Identity, PeerConfig, TlsPaths, TransportConfig, TransportError, TransportEvent, TransportLimits,
};
use crate::clock;
use crate::journal::IoBackend;
use crate::limits::{CERTIFICATE_CHECK_S, LINK_FLUSH_MS_MAX, LINKS_UNKNOWN_MAX};

/// What a backend must offer. Buffers are moved in and come back: the kernel may be writing to them.
pub(super) trait Net: 'static {
    type Listener: 'static;
    type Stream: NetStream;

    /// Runs the thread's tasks until `future` ends.
    fn block_on(future: impl Future<Output = ()>) -> io::Result<()>;
    fn listener(bound: std::net::TcpListener) -> io::Result<Self::Listener>;
    async fn accept(listener: &Self::Listener) -> io::Result<(Self::Stream, SocketAddr)>;
    async fn connect(address: SocketAddr) -> io::Result<Self::Stream>;
}

/// A connected socket.
pub(super) trait NetStream: 'static {
    /// Reads at most the buffer's capacity, from its start. 0 bytes = the other side closed.
    async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>);
    async fn write_all(&self, bytes: Vec<u8>) -> io::Result<()>;
    /// Nothing more is written; the other side reads to the end.
    fn finish(&self);
    /// Ends reads and writes that are under way.
    fn close(&self);
}

/// What every task of the thread needs.
pub(super) struct Context {
    pub(super) own: Arc<Own>,
    pub(super) limits: TransportLimits,
    pub(super) shared: Arc<Shared>,
    events: Sender<TransportEvent>,
    tls: RefCell<Arc<TlsMaterial>>,
    paths: TlsPaths,
    /// Accepted connections that have not said whose they are.
    unknown: Cell<usize>,
    /// Wakes the dialling of a peer that has just shown itself.
    redial: HashMap<NodeId, Vec<Rc<Notify>>>,
}

impl Context {
    /// Hands an event on, waiting while the receiver is behind. `false`: nobody listens any more.
    pub(super) async fn emit(&self, mut event: TransportEvent) -> bool {
        loop {
            match self.events.try_send(event) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if !self.shared.is_stopped() => event = back,
                Err(_) => return false,
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// An accepted connection said whose it is, or ended before it did.
    pub(super) fn known(&self, peer: Option<NodeId>) {
        self.unknown.set(self.unknown.get().saturating_sub(1));
        for notify in peer.and_then(|peer| self.redial.get(&peer)).into_iter().flatten() {
            notify.notify_one();
        }
    }
}

/// Everything that moves to the thread.
#[derive(Clone)]
struct Setup {
    config: TransportConfig,
    tls: Arc<TlsMaterial>,
    events: Sender<TransportEvent>,
    shared: Arc<Shared>,
}

pub(super) fn start(config: TransportConfig, events: Sender<TransportEvent>) -> Result<Arc<Shared>, TransportError> {
    if config.software.len() > VERSION_TEXT_BYTES_MAX || config.software.chars().any(char::is_control) {
        return Err(TransportError::Software(config.software.len()));
    }
    let tls = Arc::new(TlsMaterial::load(&config.tls)?);
    let wanted = Identity { cluster: config.cluster, node: config.node };
    if tls.identity != wanted {
        let path = config.tls.certificate.display().to_string();
        return Err(TransportError::Identity { path, found: tls.identity, wanted });
    }
    let listen_error = |error| TransportError::Listen { address: config.listen, error };
    let listener = std::net::TcpListener::bind(config.listen).map_err(listen_error)?;
    let local_address = listener.local_addr().map_err(listen_error)?;

    let mut refusal = None;
    if config.io_backend_wants_uring() {
        match uring::refusal() {
            None => {
                let shared = Arc::new(Shared::new(local_address, Backend::IoUring));
                let setup = Setup { config: config.clone(), tls: tls.clone(), events: events.clone(), shared };
                match spawn::<UringNet>(setup, listener.try_clone().map_err(listen_error)?) {
                    Ok(shared) => return Ok(shared),
                    Err(error) => refusal = Some(error.to_string()),
                }
            }
            Some(reason) => refusal = Some(reason),
        }
        if config.backend == IoBackend::IoUring {
            return Err(TransportError::IoUring(refusal.unwrap_or_default()));
        }
    }
    let shared = Arc::new(Shared::new(local_address, Backend::Plain { refusal }));
    spawn::<PlainNet>(Setup { config, tls, events, shared }, listener).map_err(TransportError::Thread)
}

impl TransportConfig {
    fn io_backend_wants_uring(&self) -> bool {
        self.backend != IoBackend::Plain
    }
}

/// Starts the thread and waits until it serves, so that a backend that fails at once is known here.
fn spawn<N: Net>(setup: Setup, listener: std::net::TcpListener) -> io::Result<Arc<Shared>> {
    let shared = setup.shared.clone();
    let (ready, is_ready) = crossbeam::channel::bounded(2);
    let thread = std::thread::Builder::new().name("us-transport".to_owned()).spawn(move || {
        let serving = ready.clone();
        let served = N::block_on(async move {
            let listener = N::listener(listener);
            let _ = serving
                .send(listener.as_ref().map(|_| ()).map_err(|error| io::Error::new(error.kind(), error.to_string())));
            if let Ok(listener) = listener {
                serve::<N>(setup, listener).await;
            }
        });
        if let Err(error) = served {
            let _ = ready.send(Err(error));
        }
    })?;
    shared.set_thread(thread);
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("it ended at once")))?;
    Ok(shared)
}

async fn serve<N: Net>(setup: Setup, listener: N::Listener) {
    let Setup { config, tls, events, shared } = setup;
    let own = Own {
        identity: tls.identity,
        incarnation: config.incarnation,
        software: config.software,
        peers: config.peers,
        credit_bytes: config.limits.credit_bytes,
    };
    let mut dials = Vec::new();
    let mut redial: HashMap<NodeId, Vec<Rc<Notify>>> = HashMap::new();
    for peer in &own.peers {
        let beat = own.identity.node < peer.node;
        for channel in [peer.dial.then_some(Channel::Data), beat.then_some(Channel::Beat)].into_iter().flatten() {
            let notify = Rc::new(Notify::new());
            redial.entry(peer.node).or_default().push(notify.clone());
            dials.push((peer.clone(), channel, notify));
        }
    }
    let context = Rc::new(Context {
        own: Arc::new(own),
        limits: config.limits,
        shared,
        events,
        tls: RefCell::new(tls),
        paths: config.tls,
        unknown: Cell::new(0),
        redial,
    });
    spawn_local(accept_all::<N>(context.clone(), listener));
    for (peer, channel, notify) in dials {
        spawn_local(dial_for_ever::<N>(context.clone(), peer, channel, notify));
    }
    spawn_local(watch_certificates(context.clone()));

    context.shared.stop.notified().await;
    context.shared.close_all();
    for _ in 0..LINK_FLUSH_MS_MAX / 5 {
        if context.shared.count() == 0 {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn accept_all<N: Net>(context: Rc<Context>, listener: N::Listener) {
    loop {
        match N::accept(&listener).await {
            Ok((stream, from)) if context.unknown.get() >= LINKS_UNKNOWN_MAX => {
                stream.close();
                drop(stream);
                context.emit(TransportEvent::Rejected { from, reason: DownReason::Crowded }).await;
            }
            Ok((stream, from)) => {
                context.unknown.set(context.unknown.get() + 1);
                spawn_local(accepted(context.clone(), stream, from));
            }
            // Out of descriptors, or a connection that was gone before it was taken: neither ends the listener.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
        if context.shared.is_stopped() {
            return;
        }
    }
}

async fn accepted<S: NetStream>(context: Rc<Context>, stream: S, from: SocketAddr) {
    let tls = context.tls.borrow().clone();
    let ended = match Link::accept(context.own.clone(), context.limits.clone(), &tls, clock::mono()) {
        Ok(link) => {
            let id = context.shared.next_link();
            let queue = Arc::new(LinkQueue::new(id, None, context.limits.queue_bytes_max));
            Connection::new(context.clone(), stream, link, queue, id).run().await
        }
        Err(reason) => Ended { reason, announced: None },
    };
    if ended.announced.is_none() {
        context.known(None);
        context.emit(TransportEvent::Rejected { from, reason: ended.reason }).await;
    }
}

async fn dial_for_ever<N: Net>(context: Rc<Context>, peer: PeerConfig, channel: Channel, shown: Rc<Notify>) {
    let mut attempt = 0;
    while !context.shared.is_stopped() {
        let started_at = clock::mono();
        let ended = dial::<N>(&context, &peer, channel).await;
        let lasted_ns = clock::mono().since_ns(started_at);
        if ended.announced.is_some() && u128::from(lasted_ns) > context.limits.redial_max.as_nanos() {
            attempt = 0;
        }
        let retry_after = redial_delay(attempt, rand::random(), context.limits.redial_min, context.limits.redial_max);
        attempt += 1;
        if ended.announced.is_none() && !context.shared.is_stopped() {
            let failed =
                TransportEvent::DialFailed { peer: peer.node, channel, attempt, reason: ended.reason, retry_after };
            context.emit(failed).await;
        }
        // A peer that has just dialled this node is there: no need to wait out a long backoff.
        if timeout(retry_after, shown.notified()).await.is_ok() {
            sleep(context.limits.redial_min).await;
            attempt = 0;
        }
    }
}

async fn dial<N: Net>(context: &Rc<Context>, peer: &PeerConfig, channel: Channel) -> Ended {
    let failed = |reason| Ended { reason, announced: None };
    let stream = match timeout(context.limits.handshake_max, N::connect(peer.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed(DownReason::Io(format!("`{}`: {error}", peer.address))),
        Err(_) => {
            return failed(DownReason::HandshakeTimeout(
                u64::try_from(context.limits.handshake_max.as_millis()).unwrap_or(u64::MAX),
            ));
        }
    };
    let tls = context.tls.borrow().clone();
    match Link::dial(context.own.clone(), context.limits.clone(), &tls, peer.node, channel, clock::mono()) {
        Ok(link) => {
            let id = context.shared.next_link();
            let queue = Arc::new(LinkQueue::new(id, Some((peer.node, channel)), context.limits.queue_bytes_max));
            Connection::new(context.clone(), stream, link, queue, id).run().await
        }
        Err(reason) => failed(reason),
    }
}

/// Reads the certificate files again when they have changed. New connections use what was read last; those that
/// are up stay as they are.
async fn watch_certificates(context: Rc<Context>) {
    loop {
        let asked = timeout(Duration::from_secs(CERTIFICATE_CHECK_S), context.shared.reload.notified()).await.is_ok();
        let changed = context.tls.borrow().changed(&context.paths);
        if !asked && !changed {
            continue;
        }
        let result = match TlsMaterial::load(&context.paths) {
            Ok(new) if new.identity == context.own.identity => {
                *context.tls.borrow_mut() = Arc::new(new);
                Ok(())
            }
            Ok(new) => Err(format!("new certificate is for {}, this agent is {}", new.identity, context.own.identity)),
            Err(error) => Err(error.to_string()),
        };
        context.emit(TransportEvent::Certificates { result }).await;
    }
}
