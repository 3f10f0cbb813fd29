//! Calls to etcd: snapshot, transaction, login, and what each kind of failure means.
//!
//! Owns: the choice between "nothing happened" and "nobody knows". What can hurt: taking an error for "nothing
//! happened" that is not; so only errors that etcd gives before it looks at a request count as that, by name, and all
//! others are `Unknown`. A request that was not sent is tried at the next member until its time is over; one that was
//! sent is never sent again. Refuses: reading at a member that is behind (every read is linearizable).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::connection::{Token, not_sent};
use super::leases::Leases;
use super::members::{Chosen, Members};
use super::messages::{
    AuthenticateRequest, AuthenticateResponse, Compare, CompareWith, DeleteRangeRequest, EQUAL, MOD, PutRequest,
    RangeRequest, RangeResponse, Request, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use crate::coordinator::{CoordinatorError, KeyValue, Snapshot, Txn, TxnOutcome, Write};
use crate::limits::{
    COORDINATOR_BYTES_MAX, COORDINATOR_KEYS_MAX, COORDINATOR_RETRY_MS_MIN, ETCD_PAGE_KEYS, ETCD_PASSWORD_BYTES_MAX,
};

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// What all handles of one etcd share.
pub(super) struct Shared {
    pub(super) members: Arc<Members>,
    /// Of the cluster's keys.
    pub(super) prefix: String,
    pub(super) user: Option<(String, std::path::PathBuf)>,
    pub(super) timeout: Mutex<Duration>,
    pub(super) token: Mutex<Option<Token>>,
    pub(super) leases: Leases,
}

/// What a failed call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing happened: it was not sent, or the member cannot serve now. Another may.
    Elsewhere,
    /// Nothing happened: who we are is not known any more.
    Login,
    /// Nothing happened: a lease is over.
    Lease,
    /// Nothing happened, and it would not help to try again.
    Refused,
    /// What is asked for was compacted.
    Compacted,
    Unknown,
}

/// Whether the user has to log in again, or at all.
pub(super) fn is_login(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
        || status.message().contains("auth: revision in header is old")
        || status.message().contains("etcdserver: user name is empty")
}

/// Sorts by etcd's own words (`api/v3rpc/rpctypes/error.go`), which clients in all languages rest on.
pub(super) fn meaning(status: &Status) -> Meaning {
    let message = status.message();
    if not_sent(status) {
        return Meaning::Elsewhere;
    }
    if is_login(status) {
        return Meaning::Login;
    }
    if !message.starts_with("etcdserver: ") && !message.starts_with("auth: ") {
        return Meaning::Unknown;
    }
    match (status.code(), message) {
        (Code::NotFound, "etcdserver: requested lease not found") => Meaning::Lease,
        (Code::OutOfRange, m) if m.contains("compacted") => Meaning::Compacted,
        // Said before the request is looked at. Of `Unavailable`, no other: "request timed out" and "leader changed"
        // come when it may be under way.
        (Code::Unavailable, "etcdserver: no leader") | (Code::ResourceExhausted, _) => Meaning::Elsewhere,
        (
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::OutOfRange,
            _,
        ) => Meaning::Refused,
        _ => Meaning::Unknown,
    }
}

/// How far a call came, for the case that its time is over.
#[derive(Default)]
struct Progress {
    sent: Option<Chosen>,
    /// The last thing that went wrong.
    why: String,
}

impl Shared {
    pub(super) fn describe(&self) -> String {
        format!("etcd, {}", self.prefix)
    }

    pub(super) fn timeout(&self) -> Duration {
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unreachable(&self, why: &str) -> CoordinatorError {
        let reason = if why.is_empty() { self.members.why() } else { why.to_owned() };
        CoordinatorError::Unreachable { of: self.describe(), reason }
    }

    /// The token in force; logs in if there is a user and none.
    pub(super) async fn token(&self, chosen: &Chosen) -> Result<Option<Token>, Status> {
        let Some((name, file)) = &self.user else { return Ok(None) };
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_some() {
            return Ok(known);
        }
        let password = super::read_small(file, ETCD_PASSWORD_BYTES_MAX).map_err(Status::unauthenticated)?;
        let password = String::from_utf8_lossy(&password).lines().next().unwrap_or("").to_owned();
        let ask = AuthenticateRequest { name: name.clone(), password };
        let answer: AuthenticateResponse = chosen.connection.call(AUTHENTICATE, ask, None).await?;
        let token = Token::try_from(answer.token).map_err(|_| Status::unauthenticated("a token that is no text"))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(Some(token))
    }

    pub(super) fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A transaction, within the time-out.
    pub(super) async fn transact(self: &Arc<Self>, txn: &Txn) -> Result<TxnOutcome, CoordinatorError> {
        let of = self.describe();
        txn.check().map_err(|reason| CoordinatorError::Refused { of: of.clone(), reason })?;
        let limit = self.timeout();
        let mut progress = Progress::default();
        let result = timeout(limit, self.try_transact(txn, &mut progress)).await;
        match (result, progress.sent) {
            (Ok(result), _) => result,
            (Err(_), Some(chosen)) => {
                let reason = format!("no answer from {} within {} ms", self.members.name(&chosen), limit.as_millis());
                self.members.failed(&chosen, &reason);
                Err(CoordinatorError::Unknown { of, reason })
            }
            (Err(_), None) => Err(self.unreachable(&progress.why)),
        }
    }

    async fn try_transact(
        self: &Arc<Self>,
        txn: &Txn,
        progress: &mut Progress,
    ) -> Result<TxnOutcome, CoordinatorError> {
        let (mut logins, mut granted) = (0, 0);
        loop {
            let chosen = self.members.choose().await;
            // Nothing that comes before the transaction itself changes anything that matters.
            let before = async {
                let token = self.token(&chosen).await?;
                let request = self.request(txn, &chosen, token.as_ref()).await?;
                Ok::<_, Status>((token, request))
            };
            let result = match before.await {
                Err(status) if meaning(&status) == Meaning::Unknown => Err((Meaning::Elsewhere, status)),
                Err(status) => Err((meaning(&status), status)),
                Ok((token, request)) => {
                    progress.sent = Some(chosen.clone());
                    let answer = chosen.connection.call::<_, TxnResponse>(TXN, request, token.as_ref()).await;
                    answer.map_err(|status| (meaning(&status), status))
                }
            };
            let (meaning, status) = match result {
                Ok(TxnResponse { succeeded: false, .. }) => return Ok(TxnOutcome::Refused),
                Ok(answer) => return Ok(TxnOutcome::Done { revision: revision(answer.header.as_ref()) }),
                Err(failed) => failed,
            };
            let why = format!("{}: {}", self.members.name(&chosen), status.message());
            match meaning {
                Meaning::Unknown => {
                    self.members.failed(&chosen, &why);
                    return Err(CoordinatorError::Unknown { of: self.describe(), reason: why });
                }
                Meaning::Login if logins == 0 && self.user.is_some() => {
                    logins += 1;
                    self.forget_token();
                }
                Meaning::Lease if granted == 0 => {
                    granted += 1;
                    self.leases.forget(txn);
                }
                Meaning::Elsewhere | Meaning::Lease => {
                    self.members.failed(&chosen, &why);
                    sleep(Duration::from_millis(COORDINATOR_RETRY_MS_MIN)).await;
                }
                Meaning::Login => return Err(CoordinatorError::Config(why)),
                Meaning::Refused | Meaning::Compacted => {
                    return Err(CoordinatorError::Refused { of: self.describe(), reason: why });
                }
            }
            progress.sent = None;
            progress.why = why;
        }
    }

    async fn request(
        self: &Arc<Self>,
        txn: &Txn,
        chosen: &Chosen,
        token: Option<&Token>,
    ) -> Result<TxnRequest, Status> {
        let compare = txn.conditions.iter().map(|condition| {
            let (key, revision) = condition.key_and_revision();
            // A key that is not there compares as 0.
            let with = Some(CompareWith::ModRevision(i64::try_from(revision).unwrap_or(i64::MAX)));
            Compare { result: EQUAL, target: MOD, key: self.key(key), with }
        });
        let mut success = Vec::new();
        for write in &txn.writes {
            let request = match write {
                Write::Put { key, value, ttl_ms } => {
                    let lease = match ttl_ms {
                        Some(ttl_ms) => self.lease(key, *ttl_ms, chosen, token).await?,
                        None => 0,
                    };
                    Request::Put(PutRequest { key: self.key(key), value: value.clone(), lease })
                }
                Write::Delete { key } => Request::DeleteRange(DeleteRangeRequest { key: self.key(key) }),
            };
            success.push(RequestOp { request: Some(request) });
        }
        Ok(TxnRequest { compare: compare.collect(), success })
    }

    fn key(&self, key: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }

    /// The end of the range of all keys: the prefix with its last byte one higher.
    pub(super) fn range_end(&self) -> Vec<u8> {
        let mut end = self.prefix.clone().into_bytes();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }

    /// Everything, within the time-out.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, CoordinatorError> {
        let limit = self.timeout();
        let mut progress = Progress::default();
        match timeout(limit, self.try_snapshot(&mut progress)).await {
            Ok(result) => result,
            Err(_) => {
                if let Some(chosen) = &progress.sent {
                    progress.why =
                        format!("no answer from {} within {} ms", self.members.name(chosen), limit.as_millis());
                    self.members.failed(chosen, &progress.why);
                }
                Err(self.unreachable(&progress.why))
            }
        }
    }

    async fn try_snapshot(&self, progress: &mut Progress) -> Result<Snapshot, CoordinatorError> {
        let mut logins = 0;
        loop {
            let chosen = self.members.choose().await;
            progress.sent = Some(chosen.clone());
            let status = match self.pages(&chosen).await {
                Ok(snapshot) => return snapshot,
                Err(status) => status,
            };
            let why = format!("{}: {}", self.members.name(&chosen), status.message());
            match meaning(&status) {
                Meaning::Login if logins == 0 && self.user.is_some() => {
                    logins += 1;
                    self.forget_token();
                }
                // Compacted between two pages: begin anew.
                Meaning::Compacted => {}
                Meaning::Elsewhere | Meaning::Unknown | Meaning::Lease => {
                    self.members.failed(&chosen, &why);
                    sleep(Duration::from_millis(COORDINATOR_RETRY_MS_MIN)).await;
                }
                Meaning::Login => return Err(CoordinatorError::Config(why)),
                Meaning::Refused => return Err(CoordinatorError::Refused { of: self.describe(), reason: why }),
            }
            progress.sent = None;
            progress.why = why;
        }
    }

    async fn pages(&self, chosen: &Chosen) -> Result<Result<Snapshot, CoordinatorError>, Status> {
        let token = self.token(chosen).await?;
        let mut snapshot = Snapshot::default();
        let mut bytes = 0;
        let (mut key, range_end) = (self.prefix.clone().into_bytes(), self.range_end());
        loop {
            let at = i64::try_from(snapshot.revision).unwrap_or(0);
            let ask = RangeRequest { key, range_end: range_end.clone(), limit: ETCD_PAGE_KEYS, revision: at };
            let answer: RangeResponse = chosen.connection.call(RANGE, ask, token.as_ref()).await?;
            if at == 0 {
                snapshot.revision = revision(answer.header.as_ref());
            }
            let mut last = None;
            for kv in answer.kvs {
                bytes += kv.key.len() + kv.value.len();
                if let Some(key) = self.name(&kv.key) {
                    snapshot.keys.push(KeyValue { key, value: kv.value, revision: positive(kv.mod_revision) });
                }
                last = Some(kv.key);
            }
            if snapshot.keys.len() > COORDINATOR_KEYS_MAX || bytes > COORDINATOR_BYTES_MAX {
                let reason =
                    format!("more than {COORDINATOR_KEYS_MAX} keys or {COORDINATOR_BYTES_MAX} bytes under the prefix");
                return Ok(Err(CoordinatorError::Refused { of: self.describe(), reason }));
            }
            match last {
                Some(mut last) if answer.more => {
                    last.push(0);
                    key = last;
                }
                _ => return Ok(Ok(snapshot)),
            }
        }
    }

    /// A key without the prefix. Not every stranger's key is text; such a key is left alone.
    pub(super) fn name(&self, key: &[u8]) -> Option<String> {
        let key = key.strip_prefix(self.prefix.as_bytes())?;
        std::str::from_utf8(key).ok().filter(|key| !key.is_empty()).map(str::to_owned)
    }
}

pub(super) fn revision(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| positive(header.revision))
}

pub(super) fn positive(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_etcd_says_before_it_looks_counts_as_nothing_happened() {
        let of = |code, message: &str| meaning(&Status::new(code, message));
        for (code, message, expected) in [
            (Code::Unavailable, "etcdserver: request timed out", Meaning::Unknown),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost", Meaning::Unknown),
            (Code::Unavailable, "etcdserver: leader changed", Meaning::Unknown),
            (Code::Unavailable, "etcdserver: server stopped", Meaning::Unknown),
            (Code::Unavailable, "etcdserver: no leader", Meaning::Elsewhere),
            (Code::ResourceExhausted, "etcdserver: too many requests", Meaning::Elsewhere),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Meaning::Elsewhere),
            // Not etcd's word, but of a library on the way.
            (Code::ResourceExhausted, "h2 protocol error", Meaning::Unknown),
            (Code::InvalidArgument, "malformed", Meaning::Unknown),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Meaning::Login),
            (Code::InvalidArgument, "etcdserver: user name is empty", Meaning::Login),
            (Code::PermissionDenied, "etcdserver: permission denied", Meaning::Refused),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request", Meaning::Refused),
            (Code::NotFound, "etcdserver: requested lease not found", Meaning::Lease),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Meaning::Compacted),
            (Code::Unknown, "raft proposal dropped", Meaning::Unknown),
            (Code::Internal, "connection reset", Meaning::Unknown),
        ] {
            assert_eq!(of(code, message), expected, "{message}");
        }
    }
}
