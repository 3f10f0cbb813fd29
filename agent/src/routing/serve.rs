//! The listeners of `[routing]`, on a thread and runtime of their own.
//!
//! Owns: opening them, and what one connection of each does. What can hurt: a client that sends nothing or too much;
//! heads, requests and waits are bounded, and the connection is closed past them. Refuses: TLS; these doors belong on a
//! network of one's own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::http::{Shared, router};
use super::name::Names;
use super::reach::Reach;
use super::socketmap::{self, Reply};
use super::{Where, agent_check, listen};
use crate::config::address::Service;
use crate::config::model::Routing as RoutingConfig;
use crate::limits::{
    AGENT_CHECK_MS_MAX, ROUTING_HEAD_BYTES_MAX, ROUTING_HEAD_MS_MAX, ROUTING_HEADERS_MAX, SOCKETMAP_IDLE_MS_MAX,
    SOCKETMAP_REQUEST_BYTES_MAX,
};

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    #[error("cannot listen on `{address}` (`routing.{key}`): {source}; name a free address, or an empty text for none")]
    Listen { key: &'static str, address: String, source: std::io::Error },
    #[error("cannot start the routing thread: {0}")]
    Thread(std::io::Error),
}

/// The open listeners. Dropping it closes them and waits for the thread.
pub struct Routing {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    /// Where each really is, when port 0 was asked for.
    pub http: Option<SocketAddr>,
    pub socketmap: Option<SocketAddr>,
    pub agent_check: Option<SocketAddr>,
}

impl Drop for Routing {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Listener = Option<(std::net::TcpListener, SocketAddr)>;

fn open(key: &'static str, address: Option<&String>) -> Result<Listener, RoutingError> {
    let Some(address) = address.filter(|address| !address.is_empty()) else { return Ok(None) };
    let opened = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let at = listener.local_addr()?;
        Ok(Some((listener, at)))
    });
    opened.map_err(|source| RoutingError::Listen { key, address: address.clone(), source })
}

/// Opens what the configuration asks for; `None` when it asks for nothing.
///
/// # Errors
///
/// The address that could not be listened on.
pub fn serve(config: &RoutingConfig, node: Arc<dyn Where>) -> Result<Option<Routing>, RoutingError> {
    let http = open("http_listen", config.http_listen.as_ref())?;
    let socketmap = open("socketmap_listen", config.socketmap_listen.as_ref())?;
    let agent_check = open("agent_check_listen", config.agent_check_listen.as_ref())?;
    if http.is_none() && socketmap.is_none() && agent_check.is_none() {
        return Ok(None);
    }
    let names = Names::new(&config.domains, &config.recipient_delimiter);
    let shared = Arc::new(Shared { node, names, reach: Reach::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RoutingError::Thread)?;
    let (stop, mut stopped) = watch::channel(false);
    let at = |listener: &Listener| listener.as_ref().map(|(_, at)| *at);
    let addresses = (at(&http), at(&socketmap), at(&agent_check));
    let thread = std::thread::Builder::new()
        .name("routing".into())
        .spawn(move || {
            runtime.block_on(async move {
                let all = async {
                    tokio::join!(
                        run(http, |stream| answer_http(stream, shared.clone())),
                        run(socketmap, |stream| answer_socketmap(stream, shared.clone())),
                        run(agent_check, |stream| answer_agent_check(stream, shared.clone())),
                    )
                };
                tokio::select! {
                    _ = all => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            });
        })
        .map_err(RoutingError::Thread)?;
    Ok(Some(Routing {
        stop,
        thread: Some(thread),
        http: addresses.0,
        socketmap: addresses.1,
        agent_check: addresses.2,
    }))
}

async fn run<F>(listener: Listener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some((listener, at)) = listener else { return };
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listen::accept(listener, |stream, _| serve(stream)).await,
        Err(error) => tracing::error!(%at, %error, "a listener of routing cannot be used"),
    }
}

async fn answer_http(stream: TcpStream, shared: Arc<Shared>) {
    let done = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(ROUTING_HEAD_MS_MAX))
        .max_buf_size(ROUTING_HEAD_BYTES_MAX)
        .max_headers(ROUTING_HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router(shared)))
        .await;
    if let Err(error) = done {
        tracing::debug!(%error, "a connection to `routing.http_listen` ended");
    }
}

async fn answer_socketmap(mut stream: TcpStream, shared: Arc<Shared>) {
    // A request, its length and the two marks around it; more is read when this is dealt with.
    let mut buffer = Vec::with_capacity(SOCKETMAP_REQUEST_BYTES_MAX + 8);
    loop {
        let reply = match socketmap::take(&buffer) {
            Ok(Some((request, taken))) => {
                let reply = look_up(request, &shared).await;
                buffer.drain(..taken);
                reply
            }
            Ok(None) => {
                let room = (SOCKETMAP_REQUEST_BYTES_MAX + 8).saturating_sub(buffer.len()) as u64;
                let mut more = (&mut stream).take(room);
                let read = more.read_buf(&mut buffer);
                match tokio::time::timeout(Duration::from_millis(SOCKETMAP_IDLE_MS_MAX), read).await {
                    Ok(Ok(n)) if n > 0 => continue,
                    _ => return,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a request to the socketmap is malformed; the connection is closed");
                // The client may be gone; there is nobody else to tell.
                let _ = stream.write_all(&Reply::Never(error.to_string()).encode()).await;
                return;
            }
        };
        let answer = reply.encode();
        let write = stream.write_all(&answer);
        if !matches!(tokio::time::timeout(Duration::from_millis(ROUTING_HEAD_MS_MAX), write).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn look_up(request: &[u8], shared: &Shared) -> Reply {
    match socketmap::account(request, &shared.names) {
        Ok(account) => match shared.seat(&account, Service::Lmtp).await {
            Ok(seat) => Reply::Lmtp(seat.addresses.of(Service::Lmtp)),
            Err(why) => Reply::Later(why),
        },
        Err(error) => Reply::refusal(error),
    }
}

async fn answer_agent_check(mut stream: TcpStream, shared: Arc<Shared>) {
    let line = agent_check::line(&shared.node.health());
    let talk = async {
        stream.write_all(line.as_bytes()).await?;
        stream.shutdown().await?;
        // What HAProxy sends must be read: closing over unread bytes resets the connection, and the line with it.
        let mut rest = (&mut stream).take(4096);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // A balancer that went away, or stays for ever, has its line or does not want it.
    let _ = tokio::time::timeout(Duration::from_millis(AGENT_CHECK_MS_MAX), talk).await;
}
