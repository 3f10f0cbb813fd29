//! `verify`: are an account's replicas equal to its active, and if not, where do they differ first.
//!
//! Owns: the comparison at one position, from both sides; it runs in threads of its own. What can hurt: an account
//! that changes while it is read gives differences that are none; so the reading counts only when no operation came
//! in between, a difference must show again, and an account that never rests is answered as such, not as unequal.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use understudy_types::id::NodeId;
use understudy_types::op::Op;

use super::board::Board;
use super::query::{self, AccountPosition, Query, kind};
use crate::apply::cursor::Remember;
use crate::apply::hold::{Held, hide, hides};
use crate::apply::worker::Shared;
use crate::capture::view::SharedView;
use crate::clock;
use crate::control::model::VerifyResult;
use crate::digest::{AccountState, first_difference};
use crate::limits::{VERIFY_PAUSE_MS, VERIFY_TRIES, VERIFY_WAIT_MS};
use crate::merge::Forks;
use crate::store::{DumpOptions, Store, StoreError};

/// Makes a connection to the store.
pub(crate) type Connect = Arc<dyn Fn() -> Box<dyn Store> + Send + Sync>;

/// What a comparison needs.
#[derive(Clone)]
pub(crate) struct Verifier {
    pub connect: Connect,
    pub queries: Sender<Query>,
    pub board: Arc<Board>,
    pub view: SharedView,
    pub names: Arc<dyn Fn(NodeId) -> String + Send + Sync>,
    pub forks: Arc<Forks>,
    /// Bodies of central storage, for messages that another node brings.
    pub shared: Arc<Shared>,
}

impl Verifier {
    /// Compares accounts with all their replicas. Blocks; one result for each account and replica.
    #[must_use]
    pub(crate) fn verify(&self, accounts: &[String]) -> Vec<VerifyResult> {
        let mut store = (self.connect)();
        accounts.iter().flat_map(|account| self.one(account, store.as_mut())).collect()
    }

    fn one(&self, account: &str, store: &mut dyn Store) -> Vec<VerifyResult> {
        let failed = |error: String| {
            vec![VerifyResult { account: account.to_owned(), error: Some(error), ..VerifyResult::default() }]
        };
        let Some(position) = self.position(account) else { return failed("the account is not replicated".into()) };
        if !position.own {
            let asked = self.ask(position.active, kind::VERIFY, account.as_bytes().to_vec());
            return match asked.and_then(|json| serde_json::from_slice(&json).map_err(|error| error.to_string())) {
                Ok(results) => results,
                Err(error) => failed(format!("its active node {}: {error}", (self.names)(position.active))),
            };
        }
        if position.replicas.is_empty() {
            return failed("the account has no replica".into());
        }
        position.replicas.iter().map(|replica| self.with_replica(account, *replica, store)).collect()
    }

    fn with_replica(&self, account: &str, replica: NodeId, store: &mut dyn Store) -> VerifyResult {
        let mut result =
            VerifyResult { account: account.to_owned(), replica: (self.names)(replica), ..VerifyResult::default() };
        for attempt in 1..=VERIFY_TRIES {
            if attempt > 1 {
                std::thread::sleep(Duration::from_millis(VERIFY_PAUSE_MS));
            }
            match self.attempt(account, replica, store, &mut result) {
                Ok(true) => return result,
                Ok(false) => result.error = None,
                Err(error) => result.error = Some(error),
            }
        }
        result
    }

    /// `Ok(true)` when they are equal; `Ok(false)` leaves the difference in `result`.
    fn attempt(
        &self,
        account: &str,
        replica: NodeId,
        store: &mut dyn Store,
        result: &mut VerifyResult,
    ) -> Result<bool, String> {
        let before = self.position(account).ok_or("the account is no longer replicated")?;
        let here = dump(store, account).map_err(|error| format!("this node's store: {error}"))?;
        // What the store committed while it was read may still be on its way through the ring.
        std::thread::sleep(Duration::from_millis(VERIFY_PAUSE_MS / 4));
        let after = self.position(account).ok_or("the account is no longer replicated")?;
        if after.last_seq != before.last_seq || after.exporting {
            return Err("the account changes while it is compared; try again when it rests".into());
        }
        result.position = after.last_seq;
        let digest = here.digest();
        result.digest = hex::encode(digest);
        let there = self.ask(replica, kind::DIGEST, query::put_position(after.last_seq, account))?;
        if there == digest {
            result.equal = true;
            result.first_difference = None;
            return Ok(true);
        }
        let state = self.ask(replica, kind::STATE, query::put_position(after.last_seq, account))?;
        let there = AccountState::from_ops(query::take_ops(&state)?);
        // The replica may have applied what came after it was asked: seen as messages that are there and not here.
        if self.position(account).is_none_or(|now| now.last_seq != after.last_seq) {
            return Err("the account changes while it is compared; try again when it rests".into());
        }
        result.first_difference = first_difference(&here, &there).map(|difference| difference.to_string());
        result.equal = result.first_difference.is_none();
        Ok(result.equal)
    }

    fn position(&self, account: &str) -> Option<AccountPosition> {
        let (reply, answer) = bounded(1);
        self.queries.send(Query::Account { account: account.to_owned(), reply }).ok()?;
        answer.recv_timeout(Duration::from_millis(VERIFY_WAIT_MS)).ok().flatten()
    }

    pub(super) fn ask(&self, peer: NodeId, kind: u16, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let (reply, answer) = bounded(1);
        self.queries.send(Query::Ask { peer, kind, body, reply }).map_err(|_| "the agent is stopping")?;
        answer
            .recv_timeout(Duration::from_millis(3 * VERIFY_WAIT_MS))
            .unwrap_or_else(|_| Err("no answer in time".into()))
            .map_err(|error| format!("peer {}: {error}", (self.names)(peer)))
    }

    /// Answers a request of a peer. Blocks.
    ///
    /// # Errors
    /// A text for the peer's administrator.
    pub(crate) fn answer(&self, kind: u16, body: &[u8], store: &mut dyn Store) -> Result<Vec<u8>, String> {
        match kind {
            kind::DIGEST | kind::STATE => {
                let (position, account) = query::take_position(body).ok_or("malformed request")?;
                self.wait_applied(account, position)?;
                let held = self.held(account)?;
                if kind == kind::DIGEST {
                    let mut state = dump(store, account).map_err(|error| error.to_string())?;
                    hide(&held, &mut state);
                    return Ok(state.digest().to_vec());
                }
                let mut row = Vec::new();
                let options = DumpOptions { messages: true, bodies: false };
                let mut put = |op: Op| {
                    if !held.iter().any(|held| hides(held, &op)) {
                        query::put_op(&mut row, &op);
                    }
                };
                store.dump(account, options, &mut put).map_err(|error| error.to_string())?;
                Ok(row)
            }
            kind::VERIFY => {
                let account = query::account_name(body).ok_or("malformed request")?;
                let results = self.one(account, store);
                serde_json::to_vec(&results).map_err(|error| error.to_string())
            }
            kind::CONTENT | kind::FORK | kind::MERGE => self.merge(kind, body, store),
            _ => Err("unknown request".into()),
        }
    }

    /// What is held of the account here: it is not what this node answers for.
    fn held(&self, account: &str) -> Result<Vec<Held>, String> {
        if !self.board.lock().holding.contains_key(account) {
            return Ok(Vec::new());
        }
        let group = self.view.read().placement.group_of(account);
        let holds = self.shared.cursors.holds(group).map_err(|error| error.to_string())?;
        Ok(holds.held.into_iter().map(|(_, held)| held).filter(|held| held.account == account).collect())
    }

    fn wait_applied(&self, account: &str, position: u64) -> Result<(), String> {
        let group = {
            let view = self.view.read();
            view.placement.group_of(account)
        };
        let deadline = clock::mono().after(Duration::from_millis(VERIFY_WAIT_MS));
        loop {
            let (applied, parked) = {
                let board = self.board.lock();
                let parked = board.parked.get(account).map(|(_, parked)| parked.detail.clone());
                (board.applied.get(&group).copied().unwrap_or(0), parked)
            };
            if applied >= position && parked.is_none() {
                return Ok(());
            }
            if clock::mono() >= deadline {
                let why = parked.map_or_else(String::new, |detail| format!("; the account is parked: {detail}"));
                return Err(format!("applied up to {applied}, asked for {position}{why}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub(super) fn dump(store: &mut dyn Store, account: &str) -> Result<AccountState, StoreError> {
    let mut state = AccountState::default();
    store.dump(account, DumpOptions { messages: true, bodies: false }, &mut |op| state.add(op))?;
    Ok(state)
}
