//! One accept loop for all three protocols, with a bound on connections.
//!
//! Owns: how many connections there are at one time. What can hurt: a host without file descriptors; accepting then
//! pauses instead of turning in place. Refuses: knowing a protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::limits::{ROUTING_ACCEPT_PAUSE_MS, ROUTING_CONNECTIONS_MAX};

/// Serves every connection of `listener` with `serve`, at most [`ROUTING_CONNECTIONS_MAX`] at one time. Never ends.
pub(super) async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(ROUTING_CONNECTIONS_MAX));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let served = serve(stream, from);
                tokio::spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; tried again in a moment");
                tokio::time::sleep(Duration::from_millis(ROUTING_ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}
