//! The HTTP server behind both doors, on a thread and runtime of its own.
//!
//! Owns: routes, limits, and the join at the end. What can hurt: a blocked answer; each runs on a blocking thread,
//! at most [`REQUESTS_AT_ONCE`] at a time, so that the accept loop and `/healthz`'s neighbours go on.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::watch;

use super::model::{ErrorBody, ExplainRequest, OrderRequest, ResyncRequest, VerifyRequest};
use super::orders::{HoldRequest, PauseRequest, QuarantineRequest, ResumeRequest};
use super::{Admin, REQUEST_ACCOUNTS_MAX, REQUEST_BYTES_MAX, REQUESTS_AT_ONCE, socket};
use crate::config::Config;
use crate::metrics::Metrics;

/// Why the doors could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot listen on `{path}` (`agent.admin_socket`): {source}")]
    AdminSocket { path: PathBuf, source: std::io::Error },
    #[error(
        "cannot listen on `{address}` (`agent.metrics_listen`): {source}; name a free address, or an empty text for none"
    )]
    Metrics { address: String, source: std::io::Error },
    #[error("cannot start the control thread: {0}")]
    Thread(std::io::Error),
}

/// The open doors. Dropping it closes them and waits for the thread.
pub struct Control {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    admin_socket: PathBuf,
    /// Where `/metrics` really is, when port 0 was asked for.
    metrics_address: Option<std::net::SocketAddr>,
}

impl Control {
    /// Where `/metrics` is served.
    #[must_use]
    pub fn metrics_address(&self) -> Option<std::net::SocketAddr> {
        self.metrics_address
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.admin_socket);
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Shared {
    admin: Arc<dyn Admin>,
    metrics: Arc<Metrics>,
}

type Handle = State<Arc<Shared>>;

/// Opens both doors.
///
/// # Errors
///
/// The address that could not be listened on.
pub fn serve(config: &Config, admin: Arc<dyn Admin>, metrics: Arc<Metrics>) -> Result<Control, ControlError> {
    let path = config.agent.admin_socket.clone();
    let unix = socket::listen(&path)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| ControlError::AdminSocket { path: path.clone(), source })?;
    let address = config.agent.metrics_listen.clone();
    let tcp = if address.is_empty() {
        None
    } else {
        let listener = std::net::TcpListener::bind(&address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| ControlError::Metrics { address, source })?;
        Some(listener)
    };
    let metrics_address = tcp.as_ref().and_then(|listener| listener.local_addr().ok());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(REQUESTS_AT_ONCE)
        .build()
        .map_err(ControlError::Thread)?;
    let (stop, stopped) = watch::channel(false);
    let shared = Arc::new(Shared { admin, metrics });
    let thread = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            let done = runtime.block_on(run(unix, tcp, shared, stopped));
            if let Err(error) = done {
                tracing::error!(%error, "the control server ended");
            }
            // A verify may still run; it must not keep the agent from stopping.
            runtime.shutdown_background();
        })
        .map_err(ControlError::Thread)?;
    Ok(Control { stop, thread: Some(thread), admin_socket: path, metrics_address })
}

async fn run(
    unix: std::os::unix::net::UnixListener,
    tcp: Option<std::net::TcpListener>,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let admin = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/top", get(top))
        .route("/v1/verify", post(verify))
        .route("/v1/resync", post(resync))
        .route("/v1/reload", post(reload))
        .route("/v1/rules", get(rules))
        .route("/v1/failover", get(failover))
        .route("/v1/placement", get(placement))
        .route("/v1/availability", get(availability))
        .route("/v1/merges", get(merges))
        .route("/v1/merge", get(merge_report))
        .route("/v1/explain", post(explain))
        .route("/v1/order", post(order))
        .route("/v1/hold", get(holds))
        .route("/v1/hold/release", post(hold_release))
        .route("/v1/hold/undo", post(hold_undo))
        .route("/v1/pauses", get(pauses))
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
        .route("/v1/quarantine", get(quarantine))
        .route("/v1/quarantine/retry", post(quarantine_retry))
        .route("/v1/quarantine/skip", post(quarantine_skip))
        .route("/metrics", get(metrics))
        .fallback(nowhere)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(Arc::clone(&shared));
    let unix = axum::serve(tokio::net::UnixListener::from_std(unix)?, admin);
    let public = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .fallback(nowhere)
        .with_state(shared);
    match tcp {
        Some(tcp) => {
            let tcp = axum::serve(tokio::net::TcpListener::from_std(tcp)?, public);
            tokio::select! {
                done = async { unix.await } => done,
                done = async { tcp.await } => done,
                () = wait(stopped) => Ok(()),
            }
        }
        None => tokio::select! {
            done = async { unix.await } => done,
            () = wait(stopped) => Ok(()),
        },
    }
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn failure(code: StatusCode, error: impl Into<String>) -> Response {
    (code, Json(ErrorBody { error: error.into() })).into_response()
}

/// Runs a call of the node where it may block.
async fn ask<T: Send + 'static>(
    shared: Arc<Shared>,
    call: impl FnOnce(&dyn Admin) -> T + Send + 'static,
) -> Result<T, Response> {
    tokio::task::spawn_blocking(move || call(&*shared.admin)).await.map_err(|error| {
        failure(StatusCode::INTERNAL_SERVER_ERROR, format!("the request failed inside the agent: {error}"))
    })
}

fn answer<T: serde::Serialize>(result: Result<T, Response>) -> Response {
    result.map_or_else(|failed| failed, |value| Json(value).into_response())
}

async fn nowhere() -> Response {
    failure(StatusCode::NOT_FOUND, "no such page; command line and agent may be of different versions")
}

#[derive(Deserialize)]
struct StatusQuery {
    accounts: Option<bool>,
}

async fn status(State(shared): Handle, Query(query): Query<StatusQuery>) -> Response {
    let with_accounts = query.accounts.unwrap_or(true);
    answer(ask(shared, move |admin| admin.status(with_accounts)).await)
}

async fn top(State(shared): Handle) -> Response {
    answer(ask(shared, |admin| admin.top()).await)
}

async fn verify(State(shared): Handle, Json(request): Json<VerifyRequest>) -> Response {
    if request.accounts.len() > REQUEST_ACCOUNTS_MAX {
        return failure(StatusCode::BAD_REQUEST, format!("at most {REQUEST_ACCOUNTS_MAX} accounts in one request"));
    }
    answer(ask(shared, move |admin| admin.verify(&request.accounts)).await)
}

async fn resync(State(shared): Handle, Json(request): Json<ResyncRequest>) -> Response {
    judged(ask(shared, move |admin| admin.resync(&request.account)).await)
}

async fn reload(State(shared): Handle) -> Response {
    judged(ask(shared, |admin| admin.reload()).await)
}

/// An answer of the node, or why it has none.
fn judged<T: serde::Serialize>(result: Result<Result<T, String>, Response>) -> Response {
    match result {
        Ok(Ok(value)) => Json(value).into_response(),
        Ok(Err(why)) => failure(StatusCode::CONFLICT, why),
        Err(failed) => failed,
    }
}

async fn failover(State(shared): Handle) -> Response {
    judged(ask(shared, |admin| admin.failover()).await)
}

#[derive(Deserialize)]
struct PlacementQuery {
    replicas: Option<usize>,
}

async fn placement(State(shared): Handle, Query(query): Query<PlacementQuery>) -> Response {
    judged(ask(shared, move |admin| admin.placement(query.replicas)).await)
}

async fn explain(State(shared): Handle, Json(request): Json<ExplainRequest>) -> Response {
    judged(ask(shared, move |admin| admin.explain(&request.of)).await)
}

async fn order(State(shared): Handle, Json(request): Json<OrderRequest>) -> Response {
    judged(ask(shared, move |admin| admin.order(&request)).await)
}

#[derive(Deserialize)]
struct AvailabilityQuery {
    days: u64,
}

async fn availability(State(shared): Handle, Query(query): Query<AvailabilityQuery>) -> Response {
    judged(ask(shared, move |admin| admin.availability(query.days)).await)
}

#[derive(Deserialize)]
struct AccountQuery {
    account: Option<String>,
}

async fn holds(State(shared): Handle, Query(query): Query<AccountQuery>) -> Response {
    judged(ask(shared, move |admin| admin.holds(query.account.as_deref())).await)
}

async fn hold_release(State(shared): Handle, Json(request): Json<HoldRequest>) -> Response {
    judged(ask(shared, move |admin| admin.hold_release(&request)).await)
}

async fn hold_undo(State(shared): Handle, Json(request): Json<HoldRequest>) -> Response {
    judged(ask(shared, move |admin| admin.hold_undo(&request)).await)
}

async fn pauses(State(shared): Handle) -> Response {
    answer(ask(shared, |admin| admin.pauses()).await)
}

async fn pause(State(shared): Handle, Json(request): Json<PauseRequest>) -> Response {
    judged(ask(shared, move |admin| admin.pause(&request)).await)
}

async fn resume(State(shared): Handle, Json(request): Json<ResumeRequest>) -> Response {
    judged(ask(shared, move |admin| admin.resume(&request)).await)
}

async fn quarantine(State(shared): Handle) -> Response {
    answer(ask(shared, |admin| admin.quarantine()).await)
}

async fn quarantine_retry(State(shared): Handle, Json(request): Json<QuarantineRequest>) -> Response {
    judged(ask(shared, move |admin| admin.quarantine_retry(&request)).await)
}

async fn quarantine_skip(State(shared): Handle, Json(request): Json<QuarantineRequest>) -> Response {
    judged(ask(shared, move |admin| admin.quarantine_skip(&request)).await)
}

async fn rules(State(shared): Handle, Query(query): Query<AccountQuery>) -> Response {
    let accounts: Vec<String> = query.account.into_iter().collect();
    answer(ask(shared, move |admin| admin.rules(&accounts)).await)
}

async fn merges(State(shared): Handle) -> Response {
    match ask(shared, |admin| admin.merges()).await {
        Ok(Ok(rows)) => Json(rows).into_response(),
        Ok(Err(why)) => failure(StatusCode::CONFLICT, why),
        Err(failed) => failed,
    }
}

#[derive(Deserialize)]
struct MergeQuery {
    name: String,
}

async fn merge_report(State(shared): Handle, Query(query): Query<MergeQuery>) -> Response {
    match ask(shared, move |admin| admin.merge_report(&query.name)).await {
        Ok(Ok(lines)) => Json(lines).into_response(),
        Ok(Err(why)) => failure(StatusCode::NOT_FOUND, why),
        Err(failed) => failed,
    }
}

async fn metrics(State(shared): Handle) -> Response {
    let metrics = Arc::clone(&shared.metrics);
    let text = ask(shared, move |admin| {
        admin.refresh_metrics();
        metrics.encode()
    })
    .await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response(),
        Err(failed) => failed,
    }
}

async fn healthz(State(shared): Handle) -> Response {
    match ask(shared, |admin| admin.status(false)).await {
        Ok(status) if status.healthy => (StatusCode::OK, "fine\n").into_response(),
        Ok(status) => (StatusCode::SERVICE_UNAVAILABLE, status.reasons.join("\n") + "\n").into_response(),
        Err(failed) => failed,
    }
}
