//! Held operations as administrators handle them: list, release, and the requests of peers about them.
//!
//! Owns: which node is asked for what; it runs in threads of its own. What can hurt: a peer that is away; its held
//! operations are then named as such, and nothing is called done. Refuses: applying; the apply workers do.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;
use understudy_types::id::{GroupId, NodeId};
use understudy_types::op::Op;

use super::query::{Query, kind};
use super::verify::Verifier;
use crate::apply::cursor::Remember;
use crate::apply::hold::{Held, HeldKey};
use crate::apply::orders::{Order, Ordered, Which};
use crate::apply::worker::Shared;
use crate::blob::BlobStore;
use crate::clock;
use crate::control::orders::{HoldDone, HoldRequest, HoldRow};
use crate::digest::AccountState;
use crate::limits::{ASK_MS_MAX, UNDO_MS_MAX};
use crate::store::{DumpOptions, Store};

/// What handling of held operations needs.
#[derive(Clone)]
pub(crate) struct Holds {
    pub node: NodeId,
    pub verifier: Verifier,
    pub shared: Arc<Shared>,
    pub blobs: Arc<dyn BlobStore>,
}

impl Holds {
    /// Held operations of one account on all its nodes, or of all accounts on this node and its peers. Blocks.
    pub(crate) fn list(&self, account: Option<&str>) -> Result<Vec<HoldRow>, String> {
        let mut rows = Vec::new();
        let mut problems = Vec::new();
        for node in self.nodes(account)? {
            match self.rows_at(node, account) {
                Ok(more) => rows.extend(more),
                Err(error) => problems.push(error),
            }
        }
        match problems.is_empty() || !rows.is_empty() {
            true => Ok(rows),
            false => Err(problems.join("; ")),
        }
    }

    /// The nodes that may hold something.
    fn nodes(&self, account: Option<&str>) -> Result<Vec<NodeId>, String> {
        let view = self.verifier.view.read();
        let group = match account {
            Some(account) => {
                if !view.rules.resolve(account).replicate {
                    return Err(format!("account `{account}` is not replicated"));
                }
                view.placement.group(view.placement.group_of(account))
            }
            None => None,
        };
        let mut nodes: Vec<NodeId> = match (account, group) {
            (Some(account), None) => return Err(format!("account `{account}` is in no group")),
            (_, Some(group)) => group.replicas.iter().copied().chain([group.active]).collect(),
            (None, None) => {
                let all = view.placement.groups().iter().flat_map(|group| group.replicas.iter().chain([&group.active]));
                all.copied().collect()
            }
        };
        nodes.sort_unstable();
        nodes.dedup();
        Ok(nodes)
    }

    pub(super) fn rows_at(&self, node: NodeId, account: Option<&str>) -> Result<Vec<HoldRow>, String> {
        if node == self.node {
            return self.rows_here(account, (self.verifier.connect)().as_mut());
        }
        let request = HoldRequest { account: account.map(str::to_owned), ..HoldRequest::default() };
        self.ask(node, kind::HOLDS, &request)
    }

    /// Asks a peer with JSON and takes JSON.
    pub(super) fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &self,
        node: NodeId,
        kind: u16,
        request: &Q,
    ) -> Result<A, String> {
        let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        let answer = self.ask_bytes(node, kind, body)?;
        serde_json::from_slice(&answer).map_err(|error| format!("{}: {error}", (self.verifier.names)(node)))
    }

    pub(super) fn ask_bytes(&self, node: NodeId, kind: u16, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let (reply, answer) = bounded(1);
        let patience_ms = if kind == kind::UNDO { UNDO_MS_MAX } else { 2 * ASK_MS_MAX };
        let query = Query::Ask { peer: node, kind, body, reply };
        self.verifier.queries.send(query).map_err(|_| "the agent is stopping")?;
        answer
            .recv_timeout(Duration::from_millis(patience_ms))
            .unwrap_or_else(|_| Err("no answer in time".into()))
            .map_err(|error| format!("{}: {error}", (self.verifier.names)(node)))
    }

    fn groups(&self, account: Option<&str>) -> Vec<GroupId> {
        let view = self.verifier.view.read();
        match account {
            Some(account) => vec![view.placement.group_of(account)],
            None => view.placement.groups().iter().map(|group| group.id).collect(),
        }
    }

    /// Held operations of this node, by group.
    pub(super) fn held_here(&self, account: Option<&str>) -> Result<Vec<(GroupId, HeldKey, Held)>, String> {
        let mut all = Vec::new();
        for group in self.groups(account) {
            let holds = self.shared.cursors.holds(group).map_err(|error| error.to_string())?;
            let wanted = |held: &Held| account.is_none_or(|account| held.account == account);
            all.extend(holds.held.into_iter().filter(|(_, held)| wanted(held)).map(|(key, held)| (group, key, held)));
        }
        Ok(all)
    }

    fn rows_here(&self, account: Option<&str>, store: &mut dyn Store) -> Result<Vec<HoldRow>, String> {
        let held = self.held_here(account)?;
        let mut names = AccountState::default();
        if let Some(account) = account.filter(|_| !held.is_empty()) {
            // For people only: without an answer, mailboxes are named by their GUIDs.
            let _ = store.dump(account, DumpOptions::default(), &mut |op| names.add(op));
        }
        let now = clock::wall_ns();
        let board = self.verifier.board.lock();
        let row = |(group, key, held): (GroupId, HeldKey, Held)| {
            let braked = board.holding.get(&held.account).is_some_and(|holding| holding.trip.is_some());
            let (guid, uid) = match &held.op {
                Op::MessageExpunged { mailbox, uid, .. } => (*mailbox, Some(*uid)),
                Op::MailboxDeleted { guid, .. } => (*guid, None),
                _ => Default::default(),
            };
            let named = || names.mailboxes.get(&guid).map_or_else(|| guid.to_string(), |mailbox| mailbox.name.clone());
            let mailbox = if held.name.is_empty() { named() } else { held.name.clone() };
            let left_ns = held.due_wall_ns.saturating_sub(now);
            HoldRow {
                id: key.id(group),
                node: (self.verifier.names)(self.node),
                group: group.0,
                class: held.class().name().to_owned(),
                mailbox,
                uid,
                captured_wall_ns: held.captured_wall_ns,
                held_wall_ns: held.held_wall_ns,
                left_seconds: (!braked).then(|| super::gauges::seconds(left_ns)),
                braked,
                in_store: held.is_in_store(),
                account: held.account,
            }
        };
        Ok(held.into_iter().map(row).collect())
    }

    /// Applies held operations now, on every node that holds them. Blocks.
    pub(crate) fn release(&self, request: &HoldRequest) -> Result<HoldDone, String> {
        let group = match (&request.account, request.ids.first()) {
            (Some(_), _) => None,
            (None, Some(id)) => Some(HeldKey::parse(id).ok_or_else(|| not_an_id(id))?.0),
            (None, None) => return Err("name an account, or ids of held operations".into()),
        };
        let nodes = match group {
            Some(group) => {
                let view = self.verifier.view.read();
                let group = view.placement.group(group).ok_or_else(|| format!("there is no group {group}"))?;
                group.replicas.iter().copied().chain([group.active]).collect()
            }
            None => self.nodes(request.account.as_deref())?,
        };
        let mut all = HoldDone { dry_run: request.dry_run, ..HoldDone::default() };
        for node in nodes {
            let done =
                if node == self.node { self.release_here(request) } else { self.ask(node, kind::RELEASE, request) };
            match done {
                Ok(done) => {
                    all.done += done.done;
                    all.left += done.left;
                    all.problems.extend(done.problems);
                }
                Err(error) => all.problems.push(error),
            }
        }
        Ok(all)
    }

    /// The held operations of this node that a request is about, by group.
    pub(super) fn chosen(&self, request: &HoldRequest) -> Result<Vec<(GroupId, HeldKey, Held)>, String> {
        let ids: Vec<(GroupId, HeldKey)> =
            request.ids.iter().map(|id| HeldKey::parse(id).ok_or_else(|| not_an_id(id))).collect::<Result<_, _>>()?;
        let mut held = self.held_here(request.account.as_deref())?;
        held.retain(|(group, key, held)| {
            (ids.is_empty() || ids.contains(&(*group, *key)))
                && request.since_wall_ns.is_none_or(|since| held.captured_wall_ns >= since)
        });
        Ok(held)
    }

    fn release_here(&self, request: &HoldRequest) -> Result<HoldDone, String> {
        let chosen = self.chosen(request)?;
        let mut done = HoldDone { dry_run: request.dry_run, ..HoldDone::default() };
        if request.dry_run {
            done.done = chosen.len() as u64;
            return Ok(done);
        }
        let everything = request.ids.is_empty() && request.since_wall_ns.is_none();
        let mut groups: Vec<GroupId> = chosen.iter().map(|(group, ..)| *group).collect();
        // A brake may be on although nothing is held any more.
        let is_braked = |account: &&String| self.verifier.board.lock().holding.contains_key(*account);
        let braked = request.account.iter().filter(|account| everything && is_braked(account));
        groups.extend(braked.flat_map(|account| self.groups(Some(account))));
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            let keys = chosen.iter().filter(|(of, ..)| *of == group).map(|(_, key, _)| *key).collect();
            let keys = if everything { None } else { Some(keys) };
            let which = Which { account: request.account.clone(), keys };
            let ordered = self.order(group, Order::Release { which, undone: request.undone })?;
            done.done += ordered.done;
            done.left += ordered.left;
            if let Some(why) = ordered.why {
                done.problems.push(format!("{}: {why}", (self.verifier.names)(self.node)));
            }
        }
        Ok(done)
    }

    /// Has an apply worker do something. Blocks.
    pub(crate) fn order(&self, group: GroupId, order: Order) -> Result<Ordered, String> {
        let (reply, answer) = bounded(1);
        let query = Query::Replay { group, order, reply };
        self.verifier.queries.send(query).map_err(|_| "the agent is stopping")?;
        answer
            .recv_timeout(Duration::from_millis(UNDO_MS_MAX))
            .unwrap_or_else(|_| Err("the apply worker does not answer".into()))
    }

    /// Answers a request of a peer; `None` for one that is about something else. Blocks.
    pub(crate) fn answer(&self, kind: u16, body: &[u8], store: &mut dyn Store) -> Option<Result<Vec<u8>, String>> {
        fn to_json<T: serde::Serialize>(answer: Result<T, String>) -> Result<Vec<u8>, String> {
            serde_json::to_vec(&answer?).map_err(|error| error.to_string())
        }
        let request = || serde_json::from_slice::<HoldRequest>(body).map_err(|error| format!("malformed: {error}"));
        Some(match kind {
            kind::HOLDS => to_json(request().and_then(|request| self.rows_here(request.account.as_deref(), store))),
            kind::RELEASE => to_json(request().and_then(|request| self.release_here(&request))),
            kind::UNDO => to_json(request().and_then(|request| self.undo_here(&request, store))),
            _ => return None,
        })
    }
}

fn not_an_id(id: &str) -> String {
    format!("`{id}` is no id of a held operation; `understudy hold list` shows them")
}
