//! Return and merge as the event loop and its threads see it: what is begun, what is answered, what is told.
//!
//! Owns: when a merge of `merge` begins and ends on the node that came back, and the checks of the node that is active
//! now. What can hurt: merging into a node that is not active any more, or into an account whose counters are not
//! raised yet; the epoch stands in the request, and an account that is not served is refused. What was merged is in
//! the store and in no stream; so a snapshot is wanted before the answer. Refuses: comparing and planning.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;
use understudy_types::id::{Epoch, GroupId, NodeId};
use understudy_types::op::Op;

use super::core::Core;
use super::query::{self, Query, kind};
use super::verify::{Verifier, dump};
use crate::blob::BlobStore;
use crate::blob::spool::Spool;
use crate::control::model::{MergeFinding, MergeRow, MergeWaiting};
use crate::limits::{MERGES_NAMED_MAX, QUERY_MS_MAX};
use crate::merge::forks::ForksError;
use crate::merge::wire::{self, Merged};
use crate::merge::{Ask, MergeEvent, Merger, Order, Tools, report, target};
use crate::store::Store;
use crate::store::dovecot::{DovecotConfig, DovecotStore};

/// What the event loop knows of merges.
pub(crate) struct Merging {
    pub merger: Arc<Merger>,
    under_way: BTreeMap<GroupId, UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    epoch: Epoch,
    merged: u32,
    waiting: BTreeMap<String, String>,
}

impl Merging {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the folder of merges cannot be used, or a thread cannot be made.
    pub(super) fn start(
        verifier: &Verifier,
        store: DovecotConfig,
        storage: &Arc<dyn BlobStore>,
        spool: &Spool,
        data_dir: &Path,
    ) -> Result<Self, ForksError> {
        let (view, queries) = (verifier.view.clone(), verifier.queries.clone());
        let tools = Tools {
            connect: Arc::new(move || -> Box<dyn Store> { Box::new(DovecotStore::new(store.clone())) }),
            peers: Arc::new(verifier.clone()),
            storage: storage.clone(),
            spool: spool.clone(),
            directory: data_dir.join("merge"),
            group_of: Arc::new(move |account| {
                let view = view.read();
                view.rules.resolve(account).replicate.then(|| view.placement.group_of(account))
            }),
        };
        // The loop is gone only at shutdown.
        let merger = Merger::start(tools, move |event| drop(queries.send(Query::Merge(event))))?;
        Ok(Self { merger: Arc::new(merger), under_way: BTreeMap::new() })
    }
}

impl Ask for Verifier {
    fn ask(&self, peer: NodeId, kind: u16, body: Vec<u8>) -> Result<Vec<u8>, String> {
        Verifier::ask(self, peer, kind, body)
    }
}

impl Core {
    /// Begins the merge of a group that this node was active for, once for each epoch.
    pub(super) fn begin_merge(&mut self, group: GroupId) {
        let Some(record) = self.roles.groups.get(&group).map(|standing| &standing.desired.record) else { return };
        let (epoch, Some(active)) = (record.epoch(), record.active()) else { return };
        if self.merging.under_way.get(&group).is_some_and(|under_way| under_way.epoch == epoch) {
            return;
        }
        let Some(was) = self.roles.stood.get(group).map(crate::coordinator::record::GroupRecord::epoch) else { return };
        let peers = self.config.peers.iter().map(crate::config::model::Peer::node_id);
        let peers = peers.filter(|peer| *peer != active).collect();
        let accounts = self.names_of(group);
        self.merging.under_way.insert(group, UnderWay { epoch, ..UnderWay::default() });
        self.merging.merger.begin(Order { group, was, epoch, active, peers, accounts });
    }

    /// The group is not being merged any more.
    pub(super) fn end_merge(&mut self, group: GroupId) {
        if self.merging.under_way.remove(&group).is_some() {
            self.merging.merger.cancel(group);
        }
    }

    /// Takes what a merge tells.
    pub(super) fn merge_event(&mut self, event: MergeEvent) {
        let (MergeEvent::Account { group, .. } | MergeEvent::Waiting { group, .. } | MergeEvent::Done { group, .. }) =
            &event;
        let Some(under_way) = self.merging.under_way.get_mut(group) else { return };
        match event {
            MergeEvent::Account { account, brought, conflicts, .. } => {
                under_way.merged += 1;
                under_way.waiting.remove(&account);
                // The store could be asked for its accounts.
                under_way.waiting.remove("");
                self.metrics.merge_messages.inc_by(u64::from(brought));
                self.metrics.merge_conflicts.inc_by(u64::from(conflicts));
            }
            MergeEvent::Waiting { account, why, .. } => {
                under_way.waiting.insert(account, why);
            }
            MergeEvent::Done { group, epoch, .. } if under_way.epoch == epoch => {
                self.merging.under_way.remove(&group);
                self.roles.merged.insert(group, epoch);
                self.start_moving(group);
            }
            MergeEvent::Done { .. } => {}
        }
    }

    /// What an administrator is told while merges are under way.
    pub(super) fn merge_reasons(&self) -> Vec<String> {
        let reason = |(group, under_way): (&GroupId, &UnderWay)| {
            let name = report::name(*group, under_way.epoch);
            let mut reason = format!("what this node alone had of group {group} goes to its active node first (merge ");
            reason.push_str(&format!("{name}): {} accounts are done", under_way.merged));
            if let Some((account, why)) = under_way.waiting.first_key_value() {
                let of = if account.is_empty() { String::new() } else { format!("account `{account}`: ") };
                reason.push_str(&format!(", {} wait; {of}{why}", under_way.waiting.len()));
            }
            reason
        };
        self.merging.under_way.iter().map(reason).take(MERGES_NAMED_MAX).collect()
    }
}

impl Verifier {
    /// Answers a request of a node that merges. Blocks.
    pub(super) fn merge(&self, kind: u16, body: &[u8], store: &mut dyn Store) -> Result<Vec<u8>, String> {
        let malformed = "malformed request";
        match kind {
            kind::CONTENT => {
                let account = query::account_name(body).ok_or(malformed)?;
                self.serves(account, None)?;
                dump(store, account).map(|state| target::content(state).to_vec()).map_err(|error| error.to_string())
            }
            kind::FORK => {
                let (was, account) = wire::take_account(body).ok_or(malformed)?;
                let (own, group) = {
                    let view = self.view.read();
                    (view.own_group(account), view.placement.group_of(account))
                };
                if own.is_some() {
                    // Until then its counters may still be raised.
                    self.serves(account, None)?;
                }
                let fork = self.forks.after(group, account, Epoch(was)).map_err(|error| error.to_string())?;
                Ok(wire::put_fork(fork.as_ref()))
            }
            kind::MERGE => {
                let (epoch, account, ops) = wire::take_merge(body)?;
                self.serves(account, Some(epoch))?;
                let messages = ops.iter().any(|op| matches!(op, Op::MessageSaved { .. }));
                let merged = target::merge(store, &self.shared.bodies, account, ops)?;
                // What was merged after the lease was lost is this node's own to merge; whoever asks asks the next one.
                self.serves(account, Some(epoch))?;
                if merged.applied > 0 {
                    self.publish(account, messages)?;
                }
                serde_json::to_vec::<Merged>(&merged).map_err(|error| error.to_string())
            }
            _ => Err("unknown request".into()),
        }
    }

    /// Whether this node is active for the account, in this epoch if one is given, and serves it.
    fn serves(&self, account: &str, epoch: Option<Epoch>) -> Result<(), String> {
        let view = self.view.read();
        let group = view.own_group(account).ok_or("the account is not active here")?;
        let now = view.placement.group(group).map(|group| group.epoch).unwrap_or_default();
        if epoch.is_some_and(|epoch| epoch != now) {
            return Err(format!("group {group} is of epoch {now}"));
        }
        if view.serves(group, account) { Ok(()) } else { Err("the account is not served here yet".into()) }
    }

    /// Wants a snapshot of what was merged, durably.
    fn publish(&self, account: &str, bodies: bool) -> Result<(), String> {
        let (reply, answer) = bounded(1);
        let (account, why) = (account.to_owned(), "another node's changes were merged".to_owned());
        self.queries.send(Query::Resync { account, bodies, why, reply }).map_err(|_| "the agent is stopping")?;
        answer.recv_timeout(Duration::from_millis(QUERY_MS_MAX)).map_err(|_| "the event loop does not answer")?
    }
}

/// All merges, for an administrator, newest first.
pub(super) fn rows(merger: &Merger, name: impl Fn(NodeId) -> String) -> Result<Vec<MergeRow>, String> {
    let stands = merger.stands().map_err(|error| error.to_string())?;
    let row = |stand: crate::merge::run::Stand| {
        let order = &stand.kept.order;
        let waiting =
            stand.waiting.iter().map(|(account, why)| MergeWaiting { account: account.clone(), why: why.clone() });
        MergeRow {
            name: report::name(order.group, order.epoch),
            group: order.group.0,
            epoch: order.epoch.0,
            was_epoch: order.was.0,
            active: name(order.active),
            done: stand.kept.done_wall_ns != 0,
            accounts: u32::try_from(order.accounts.len()).unwrap_or(u32::MAX),
            merged: stand.merged,
            brought: stand.brought,
            conflicts: stand.conflicts,
            waiting: waiting.collect(),
            since_wall_ns: stand.kept.since_wall_ns,
            done_wall_ns: stand.kept.done_wall_ns,
        }
    };
    let mut rows: Vec<MergeRow> = stands.into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.since_wall_ns));
    Ok(rows)
}

/// The report of one merge.
pub(super) fn findings(merger: &Merger, name: &str) -> Result<Vec<MergeFinding>, String> {
    let none = || format!("there is no merge `{name}`; `understudy merge list` names them");
    let (group, epoch) = report::parse(name).ok_or_else(none)?;
    let known = merger.stands().map_err(|error| error.to_string())?;
    if !known.iter().any(|stand| (stand.kept.order.group, stand.kept.order.epoch) == (group, epoch)) {
        return Err(none());
    }
    let lines = merger.report(group, epoch).map_err(|error| format!("its report cannot be read: {error}"))?;
    let finding = |line: report::Line| MergeFinding {
        wall_ns: line.wall_ns,
        account: line.account,
        what: line.finding.what.name().to_owned(),
        conflict: line.finding.what.is_conflict(),
        mailbox: line.finding.mailbox,
        object: line.finding.object,
        uid: line.finding.uid,
        here: line.finding.here,
        there: line.finding.there,
        decision: line.finding.decision,
    };
    Ok(lines.into_iter().map(finding).collect())
}
