//! The pages of `[routing]`: nginx's `auth_http`, and health for balancers.
//!
//! Owns: their paths, status codes and JSON. What can hurt: an answer that blocks; each comes from memory, but for one
//! attempt to connect to a store of which nothing is heard. Refuses: changing anything.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::address::Seat;
use super::auth::{self, AuthError};
use super::name::Names;
use super::reach::Reach;
use super::{Answer, Health, Standing, Where};
use crate::config::address::Service;
use crate::limits::{ROUTING_HOLD_MS_MAX, ROUTING_HOLD_PAUSE_MS};

/// What all connections share.
pub(super) struct Shared {
    pub node: Arc<dyn Where>,
    pub names: Names,
    pub reach: Reach,
}

impl Shared {
    /// The seat of an account, if the service can be used there.
    ///
    /// # Errors
    /// Why it cannot be used now.
    pub(super) async fn seat(&self, account: &str, service: Service) -> Result<Seat, String> {
        // Postfix asks for one recipient after the other, and holds mail back by itself: it is told at once.
        let answer = if service == Service::Lmtp { self.node.account(account) } else { self.settled(account).await };
        match answer {
            Answer::Nobody(why) | Answer::Soon(why) => Err(why),
            Answer::At(seat) if !seat.is_doubtful || self.reach.is_there(seat.addresses.of(service)).await => Ok(seat),
            Answer::At(seat) => Err(format!("node `{}` cannot be reached", seat.node)),
        }
    }
}

impl Shared {
    /// Where the account is, waiting a moment while it changes nodes: what a user notices of that is one slow login.
    async fn settled(&self, account: &str) -> Answer {
        for _ in 0..ROUTING_HOLD_MS_MAX / ROUTING_HOLD_PAUSE_MS {
            match self.node.account(account) {
                Answer::Soon(_) => tokio::time::sleep(Duration::from_millis(ROUTING_HOLD_PAUSE_MS)).await,
                settled => return settled,
            }
        }
        self.node.account(account)
    }
}

type Handle = State<Arc<Shared>>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/auth", get(auth))
        .route("/active", get(active))
        .route("/replica", get(replica))
        .route("/readiness", get(readiness))
        .route("/account/{name}/where", get(account))
        .with_state(shared)
}

async fn auth(State(shared): Handle, request: HeaderMap) -> HeaderMap {
    let found = match auth::parse(&request, &shared.names) {
        Ok(login) => shared
            .seat(&login.account, login.service)
            .await
            .map(|seat| seat.addresses.of(login.service))
            .map_err(AuthError::Later),
        Err(error) => Err(error),
    };
    match found {
        Ok(address) => auth::accept(address),
        Err(error) => {
            tracing::info!(%error, "a login was sent to no store");
            auth::refuse(&request, &error)
        }
    }
}

/// The JSON of the three pages about this node.
fn page(is_so: bool, health: &Health) -> Response {
    let (standing, reason) = match &health.standing {
        Standing::Serving { .. } => ("serving", None),
        Standing::Draining => ("draining", None),
        Standing::Maintenance => ("maintenance", None),
        Standing::Down(why) => ("down", Some(why)),
    };
    let body = json!({
        "node": health.node,
        "standing": standing,
        "reason": reason,
        "active_groups": health.active_groups,
        "replica_groups": health.replica_groups,
        "lag_seconds": health.lag_s,
        "parked_accounts": health.parked_accounts,
    });
    (code(is_so), Json(body)).into_response()
}

fn code(is_so: bool) -> StatusCode {
    if is_so { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn is_up(health: &Health) -> bool {
    !matches!(health.standing, Standing::Down(_))
}

async fn active(State(shared): Handle) -> Response {
    let health = shared.node.health();
    page(is_up(&health) && health.active_groups > 0, &health)
}

#[derive(Deserialize)]
struct ReplicaQuery {
    lag: Option<f64>,
}

async fn replica(State(shared): Handle, Query(query): Query<ReplicaQuery>) -> Response {
    let health = shared.node.health();
    let near = query.lag.is_none_or(|most| health.lag_s.is_some_and(|lag| lag <= most));
    page(is_up(&health) && health.replica_groups > 0 && near, &health)
}

async fn readiness(State(shared): Handle) -> Response {
    let health = shared.node.health();
    page(matches!(health.standing, Standing::Serving { .. } | Standing::Draining), &health)
}

async fn account(State(shared): Handle, Path(name): Path<String>) -> Response {
    let account = match shared.names.login(name.as_bytes()) {
        Ok(account) => account,
        Err(error) => {
            return (StatusCode::NOT_FOUND, Json(json!({ "error": error.to_string() }))).into_response();
        }
    };
    let (is_so, body) = match shared.node.account(&account) {
        Answer::Nobody(why) | Answer::Soon(why) => (false, json!({ "account": account, "node": null, "reason": why })),
        Answer::At(seat) => {
            let is_there = !seat.is_doubtful || shared.reach.is_there(seat.addresses.of(Service::Imap)).await;
            let at = |service| seat.addresses.of(service).to_string();
            let body = json!({
                "account": account,
                "node": seat.node,
                "reason": (!is_there).then(|| format!("node `{}` cannot be reached", seat.node)),
                "imap": at(Service::Imap),
                "pop3": at(Service::Pop3),
                "submission": at(Service::Submission),
                "lmtp": at(Service::Lmtp),
            });
            (is_there, body)
        }
    };
    (code(is_so), Json(body)).into_response()
}
