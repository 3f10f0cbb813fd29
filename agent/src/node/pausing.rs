//! Orders of administrators about what replay leaves aside: pauses, and accounts that wait.
//!
//! Owns: from a request to a pause that is kept, or to an order for the apply worker. What can hurt: a request with a
//! name that nobody has; it is refused with what there is. Refuses: deciding; whoever would act asks the pauses.

use std::time::Duration;

use crossbeam::channel::{Sender, bounded};

use super::admin::NodeAdmin;
use super::gauges::seconds;
use super::query::Query;
use crate::apply::orders::Order;
use crate::apply::park::{Parked, Reason};
use crate::clock;
use crate::control::model::Done;
use crate::control::orders::{PauseDone, PauseRequest, PauseRow, QuarantineRequest, QuarantineRow, ResumeRequest};
use crate::coordinator::record::{PauseRecord, Paused, Scope};
use crate::failover;
use crate::limits::{ASK_MS_MAX, PAUSE_TEXT_BYTES_MAX};
use crate::pause::{Keeper, describe};

/// Pauses of all nodes: the decider of failover writes them into the coordinator.
pub(super) struct CoordinatorKeeper {
    pub queries: Sender<Query>,
}

impl CoordinatorKeeper {
    fn order(&self, order: failover::Order) -> Result<String, String> {
        let (reply, answer) = bounded(1);
        self.queries.send(Query::Order { order, reply }).map_err(|_| "the agent is stopping")?;
        let silent = || Err("the coordinator does not answer; nothing may have changed".to_owned());
        answer.recv_timeout(Duration::from_millis(ASK_MS_MAX)).unwrap_or_else(|_| silent())
    }
}

impl Keeper for CoordinatorKeeper {
    fn keep(&self, id: &str, pause: &PauseRecord) -> Result<(), String> {
        self.order(failover::Order::Pause { id: id.to_owned(), pause: pause.clone() }).map(drop)
    }

    fn end(&self, id: &str) -> Result<bool, String> {
        self.order(failover::Order::Resume { id: id.to_owned() }).map(|_| true)
    }
}

/// A pause as people are shown it.
pub(super) fn row(id: String, pause: &PauseRecord, local: bool, now_wall_ns: u64) -> PauseRow {
    PauseRow {
        id,
        what: what_name(pause.what).to_owned(),
        scope: match &pause.scope {
            Scope::Cluster => "cluster".to_owned(),
            Scope::Node(node) => format!("node {node}"),
            Scope::Group(group) => format!("group {group}"),
            Scope::Account(account) => format!("account {account}"),
            Scope::Peer(peer) => format!("peer {peer}"),
        },
        reason: pause.reason.clone(),
        owner: pause.owner.clone(),
        since_wall_ns: pause.since_wall_ns,
        left_seconds: (pause.until_wall_ns > 0).then(|| seconds(pause.until_wall_ns.saturating_sub(now_wall_ns))),
        local,
    }
}

fn what_name(what: Paused) -> &'static str {
    match what {
        Paused::Replication => "replication",
        Paused::Failover => "failover",
    }
}

/// Why an account waits, in a word.
fn reason_name(parked: &Parked) -> &'static str {
    match parked.reason {
        Reason::Body { .. } => "body",
        Reason::Store { .. } => "store",
        Reason::NeedsSnapshot { .. } => "needs-snapshot",
        Reason::Snapshot { .. } => "snapshot",
        Reason::Paused => "paused",
        Reason::Poison => "poison",
    }
}

impl NodeAdmin {
    /// Every pause that holds.
    pub(super) fn pause_rows(&self) -> Vec<PauseRow> {
        let now = clock::wall_ns();
        let is_local =
            |own: bool, pause: &PauseRecord| own && (self.is_alone() || matches!(pause.scope, Scope::Peer(_)));
        let all = self.pauses.all(now).into_iter();
        all.map(|(id, pause, own)| row(id, &pause, is_local(own, &pause), now)).collect()
    }

    /// Whether pauses are kept on this node alone.
    fn is_alone(&self) -> bool {
        self.loaded.config.coordinator.kind == crate::config::model::CoordinatorKind::None
    }

    fn scope(&self, request: &PauseRequest) -> Result<Scope, String> {
        let mut scopes = Vec::new();
        if request.cluster {
            scopes.push(Scope::Cluster);
        }
        if let Some(account) = &request.account {
            scopes.push(Scope::Account(account.clone()));
        }
        if let Some(group) = request.group {
            let view = self.view.read();
            view.placement.group(understudy_types::id::GroupId(group)).ok_or(format!("there is no group {group}"))?;
            scopes.push(Scope::Group(group));
        }
        if let Some(node) = &request.node {
            scopes.push(Scope::Node(self.node(node)?.get()));
        }
        if let Some(peer) = &request.peer {
            let peer = self.node(peer)?;
            if peer == self.loaded.config.node_id() {
                return Err("this node is no peer of its own".into());
            }
            scopes.push(Scope::Peer(peer.get()));
        }
        match <[Scope; 1]>::try_from(scopes) {
            Ok([scope]) => Ok(scope),
            Err(_) => Err("name one of account, group, node, peer, cluster".into()),
        }
    }

    /// Begins a pause.
    pub(super) fn begin_pause(&self, request: &PauseRequest) -> Result<PauseDone, String> {
        let what = match request.what.as_str() {
            "replication" => Paused::Replication,
            "failover" => Paused::Failover,
            other => return Err(format!("`{other}` cannot be paused; `replication` and `failover` can")),
        };
        let scope = self.scope(request)?;
        if matches!(scope, Scope::Peer(_)) && what == Paused::Failover {
            return Err("failover is paused by group, node or cluster".into());
        }
        if let (Scope::Account(account), Paused::Failover) = (&scope, what) {
            let group = self.view.read().placement.group_of(account);
            return Err(format!("accounts move with their group: pause failover of group {group}"));
        }
        for (name, text) in [("reason", &request.reason), ("owner", &request.owner)] {
            if text.trim().is_empty() || text.len() > PAUSE_TEXT_BYTES_MAX || text.chars().any(char::is_control) {
                return Err(format!("say a {name}, in at most {PAUSE_TEXT_BYTES_MAX} bytes"));
            }
        }
        let now = clock::wall_ns();
        let until_wall_ns = request.for_seconds.map_or(0, |s| now.saturating_add(s.saturating_mul(1_000_000_000)));
        let local = self.is_alone() || matches!(scope, Scope::Peer(_));
        let pause = PauseRecord {
            what,
            scope,
            reason: request.reason.clone(),
            owner: request.owner.clone(),
            since_wall_ns: now,
            until_wall_ns,
        };
        let id = format!("{:x}", now / 1_000_000);
        let mut done = describe(&pause, now);
        if local {
            done.push_str("; it holds for this node only");
        }
        if !request.dry_run {
            if local {
                self.pauses.keep(&id, &pause)?
            } else {
                self.keeper.keep(&id, &pause)?
            }
            tracing::warn!(id, pause = done, "a pause begins");
        }
        Ok(PauseDone { dry_run: request.dry_run, pause: row(id, &pause, local, now), done })
    }

    /// Ends a pause.
    pub(super) fn end_pause(&self, request: &ResumeRequest) -> Result<Done, String> {
        let now = clock::wall_ns();
        let all = self.pauses.all(now);
        let (_, pause, own) = all
            .iter()
            .find(|(id, ..)| *id == request.id)
            .ok_or_else(|| format!("there is no pause `{}`; `understudy pause list` shows them", request.id))?;
        let done = format!("ended: {}", describe(pause, now));
        if !request.dry_run {
            let ended = if *own { self.pauses.end(&request.id)? } else { self.keeper.end(&request.id)? };
            if !ended {
                return Err(format!("pause `{}` has ended already", request.id));
            }
            tracing::warn!(id = request.id, pause = done, "a pause ends");
        }
        Ok(Done { done })
    }

    /// Accounts that wait on this node.
    pub(super) fn quarantine_rows(&self) -> Vec<QuarantineRow> {
        let board = self.verifier.board.lock();
        let row = |(account, (group, parked)): (&String, &(understudy_types::id::GroupId, Parked))| QuarantineRow {
            account: account.clone(),
            group: group.0,
            since_seq: parked.since_seq,
            reason: reason_name(parked).to_owned(),
            detail: parked.detail.clone(),
        };
        let mut rows: Vec<QuarantineRow> = board.parked.iter().map(row).collect();
        rows.sort_by(|a, b| a.account.cmp(&b.account));
        rows
    }

    /// Tries an account again, or passes over its operations.
    pub(super) fn quarantine_order(&self, request: &QuarantineRequest, skip: bool) -> Result<Done, String> {
        let account = &request.account;
        let parked = self.verifier.board.lock().parked.get(account).cloned();
        let (group, parked) = parked.ok_or_else(|| self.not_here(account))?;
        let what = format!("account `{account}`, which waits since operation {}: {}", parked.since_seq, parked.detail);
        if parked.reason == Reason::Paused {
            return Err(format!("account `{account}` is paused: `understudy resume` ends that"));
        }
        let done = match skip {
            true => format!("a snapshot is asked for instead of the operations of {what}"),
            false => format!("tried again: {what}"),
        };
        if request.dry_run {
            return Ok(Done { done });
        }
        let account = account.clone();
        let order = if skip { Order::Skip { account } } else { Order::Retry { account } };
        let ordered = self.holds.order(group, order)?;
        match ordered.done {
            0 => Err(format!("nothing is to be done: {what}")),
            _ => Ok(Done { done }),
        }
    }

    fn not_here(&self, account: &str) -> String {
        let view = self.view.read();
        let replicas = view.placement.group(view.placement.group_of(account)).map(|group| group.replicas.clone());
        let names: Vec<String> =
            replicas.unwrap_or_default().into_iter().map(|node| self.loaded.config.node_name(node)).collect();
        format!("account `{account}` does not wait on this node; its replicas are on {}", names.join(", "))
    }
}
