//! The node as the control threads see it.
//!
//! Owns: the way from a request of an administrator to the event loop and back. What can hurt: an event loop that is
//! busy; every question has a time-out.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use understudy_types::id::{GroupId, NodeId};

use super::council::Ask;
use super::holds::Holds;
use super::merging;
use super::query::Query;
use super::verify::Verifier;
use crate::capture::view::SharedView;
use crate::clock;
use crate::config::model::CoordinatorKind;
use crate::config::{self, Loaded};
use crate::control::Admin;
use crate::control::model::{
    Availability, AvailabilityRow, Done, Explained, MergeFinding, MergeRow, OrderRequest, Placement, Rule, RuleHold,
    RuleRow, Status, Target, VerifyResult,
};
use crate::control::orders::{
    HoldDone, HoldRequest, HoldRow, PauseDone, PauseRequest, PauseRow, QuarantineRequest, QuarantineRow, ResumeRequest,
    UndoReport,
};
use crate::failover::{Order, plan};
use crate::ledger::figures::{self, Figures};
use crate::ledger::file::Keeper as LedgerKeeper;
use crate::ledger::{DAY_MS, Subject};
use crate::limits::QUERY_MS_MAX;
use crate::merge::Merger;
use crate::pause::{Keeper, Pauses};
use crate::rules::Rules;

/// The node's side of the admin socket.
pub(crate) struct NodeAdmin {
    pub queries: Sender<Query>,
    pub merger: Arc<Merger>,
    pub ledger: LedgerKeeper,
    /// What a takeover is taken to last, in milliseconds.
    pub takeover_ms: u64,
    /// `None`: no coordinator is configured, and nobody decides.
    pub asks: Option<Sender<Ask>>,
    pub verifier: Verifier,
    pub view: SharedView,
    pub loaded: Arc<Loaded>,
    pub holds: Holds,
    pub pauses: Pauses,
    /// Where pauses are kept that are not this node's own.
    pub keeper: Arc<dyn Keeper>,
}

impl NodeAdmin {
    fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Query) -> Option<T> {
        let (reply, answer) = bounded(1);
        self.queries.send(question(reply)).ok()?;
        answer.recv_timeout(Duration::from_millis(QUERY_MS_MAX)).ok()
    }
}

impl NodeAdmin {
    fn council<T>(&self, question: impl FnOnce(Sender<T>) -> Ask) -> Result<T, String> {
        let asks = self.asks.as_ref().ok_or(
            "no coordinator is configured (`coordinator.kind`): placement is what the configuration says, and nothing fails over",
        )?;
        let (reply, answer) = bounded(1);
        let silent = || "the decider of failover does not answer".to_owned();
        asks.send(question(reply)).map_err(|_| silent())?;
        answer.recv_timeout(Duration::from_millis(QUERY_MS_MAX)).map_err(|_| silent())
    }

    pub(super) fn node(&self, name: &str) -> Result<NodeId, String> {
        let nodes = self.loaded.config.nodes();
        let found = nodes.iter().find(|(id, known)| *known == name || id.to_string() == name);
        found.map(|(id, _)| *id).ok_or_else(|| {
            let names: Vec<&str> = nodes.iter().map(|(_, name)| *name).collect();
            format!("there is no node `{name}`; there are: {}", names.join(", "))
        })
    }

    fn groups(&self, target: &Target) -> Result<Vec<GroupId>, String> {
        let view = self.view.read();
        match target {
            Target::Group(id) => match view.placement.group(GroupId(*id)) {
                Some(group) => Ok(vec![group.id]),
                None => Err(format!("there is no group {id}; groups go to {}", view.placement.groups().len())),
            },
            Target::Account(account) => Ok(vec![view.placement.group_of(account)]),
            Target::Node(name) => {
                let node = self.node(name)?;
                let of = view.placement.groups().iter().filter(|group| group.active == node);
                Ok(of.map(|group| group.id).collect())
            }
        }
    }

    /// The decider's order for a request.
    fn order_of(&self, request: &OrderRequest) -> Result<Order, String> {
        let wish = request.clone();
        Ok(match wish {
            OrderRequest::Switchover { of, to, at_wall_ns } => {
                let groups = self.groups(&of)?;
                if groups.is_empty() {
                    return Err("no group is active there".to_owned());
                }
                Order::Move { groups, to: to.map(|to| self.node(&to)).transpose()?, at_wall_ns }
            }
            OrderRequest::Cancel { of } => Order::CancelMove { groups: self.groups(&of)? },
            OrderRequest::Drain { node, reason, owner } => {
                Order::Drain { node: self.node(&node)?, drained: true, reason, owner }
            }
            OrderRequest::Undrain { node } => {
                Order::Drain { node: self.node(&node)?, drained: false, reason: String::new(), owner: String::new() }
            }
            OrderRequest::Promote { of } => match self.groups(&of)?.as_slice() {
                [group] => Order::Force { group: *group },
                _ => return Err("name one group".to_owned()),
            },
            OrderRequest::Replicas { group, replicas } => Order::Replicas {
                group: GroupId(group),
                replicas: replicas.iter().map(|name| self.node(name)).collect::<Result<_, _>>()?,
            },
        })
    }
}

impl Admin for NodeAdmin {
    fn availability(&self, days: u64) -> Result<Availability, String> {
        let ledger = self.ledger.copy();
        let now_ms = clock::wall_ns() / 1_000_000;
        let since_ms = now_ms.saturating_sub(days.saturating_mul(DAY_MS));
        let figures = |of| Figures::of(&ledger, of, since_ms);
        let seconds = |ms: u64| super::gauges::seconds(ms.saturating_mul(1_000_000));
        let view = self.view.read();
        let rows = ledger.subjects().into_iter().map(|of| {
            let (kind, name, predicted) = match of {
                Subject::Node(node) => ("node", self.loaded.config.node_name(node), None),
                Subject::Group(id) => {
                    let copies = view.placement.group(id).map(|group| {
                        let nodes = std::iter::once(group.active).chain(group.replicas.iter().copied());
                        nodes.map(|node| figures(Subject::Node(node))).collect::<Vec<_>>()
                    });
                    ("group", id.0.to_string(), copies.and_then(|copies| figures::chain(&copies, self.takeover_ms)))
                }
            };
            let sum = figures(of);
            AvailabilityRow {
                kind: kind.to_owned(),
                name,
                now: ledger.now(of, now_ms).map_or("unknown", |is_up| if is_up { "up" } else { "down" }).to_owned(),
                observed_seconds: seconds(sum.up_ms + sum.down_ms),
                down_seconds: seconds(sum.down_ms),
                failures: sum.failures,
                between_seconds: sum.between_ms().map(|ms| ms / 1000.0),
                repair_seconds: sum.repair_ms().map(|ms| ms / 1000.0),
                longest_seconds: seconds(sum.longest_ms),
                availability: sum.availability(),
                nines: sum.availability().and_then(figures::nines),
                user_minutes_lost: seconds(sum.user_ms) / 60.0,
                predicted,
            }
        });
        Ok(Availability {
            observer: self.loaded.config.node.name.clone(),
            days,
            takeover_seconds: seconds(self.takeover_ms),
            rows: rows.collect(),
        })
    }

    fn merges(&self) -> Result<Vec<MergeRow>, String> {
        merging::rows(&self.merger, |node| self.loaded.config.node_name(node))
    }

    fn merge_report(&self, name: &str) -> Result<Vec<MergeFinding>, String> {
        merging::findings(&self.merger, name)
    }

    fn failover(&self) -> Result<serde_json::Value, String> {
        self.council(|reply| Ask::Overview { reply })
    }

    fn explain(&self, of: &Target) -> Result<Vec<Explained>, String> {
        let mut explained = Vec::new();
        for group in self.groups(of)? {
            let rules = self.council(|reply| Ask::Explain { group, reply })?;
            let words = self.ask(|reply| Query::Words { group, reply }).unwrap_or_default();
            explained.push(Explained { group: group.0, rules: rules.into_iter().map(Rule::from).collect(), words });
        }
        Ok(explained)
    }

    fn placement(&self, replicas: Option<usize>) -> Result<Placement, String> {
        let facts = self.council(|reply| Ask::Placement { reply })?;
        let names = self.loaded.config.nodes();
        let replicas = replicas.unwrap_or(facts.replicas);
        Ok(Placement {
            names: names.iter().map(|(id, name)| (id.get(), (*name).to_owned())).collect(),
            replicas,
            overview: self.failover()?,
            plan: plan::plan(&facts, replicas),
        })
    }

    fn order(&self, request: &OrderRequest) -> Result<Done, String> {
        let order = self.order_of(request)?;
        let done = self
            .ask(|reply| Query::Order { order, reply })
            .unwrap_or_else(|| Err("the decider of failover does not answer".to_owned()))?;
        Ok(Done { done })
    }

    fn status(&self, with_accounts: bool) -> Status {
        self.ask(|reply| Query::Status { with_accounts, reply }).unwrap_or_else(|| Status {
            reasons: vec!["the agent's event loop does not answer".into()],
            ..Status::default()
        })
    }

    fn top(&self) -> serde_json::Value {
        self.ask(|reply| Query::Top { reply }).unwrap_or_default()
    }

    fn verify(&self, accounts: &[String]) -> Vec<VerifyResult> {
        self.verifier.verify(accounts)
    }

    fn resync(&self, account: &str) -> Result<Done, String> {
        let why = "an administrator asked for it".to_owned();
        let account_name = account.to_owned();
        self.ask(|reply| Query::Resync { account: account_name, bodies: true, why, reply })
            .unwrap_or_else(|| Err("the agent's event loop does not answer".into()))?;
        Ok(Done { done: format!("a snapshot of account `{account}` is on its way to its replicas") })
    }

    fn holds(&self, account: Option<&str>) -> Result<Vec<HoldRow>, String> {
        self.holds.list(account)
    }

    fn hold_release(&self, request: &HoldRequest) -> Result<HoldDone, String> {
        self.holds.release(request)
    }

    fn hold_undo(&self, request: &HoldRequest) -> Result<UndoReport, String> {
        self.holds.undo(request)
    }

    fn pauses(&self) -> Vec<PauseRow> {
        self.pause_rows()
    }

    fn pause(&self, request: &PauseRequest) -> Result<PauseDone, String> {
        self.begin_pause(request)
    }

    fn resume(&self, request: &ResumeRequest) -> Result<Done, String> {
        self.end_pause(request)
    }

    fn quarantine(&self) -> Vec<QuarantineRow> {
        self.quarantine_rows()
    }

    fn quarantine_retry(&self, request: &QuarantineRequest) -> Result<Done, String> {
        self.quarantine_order(request, false)
    }

    fn quarantine_skip(&self, request: &QuarantineRequest) -> Result<Done, String> {
        self.quarantine_order(request, true)
    }

    fn rules(&self, accounts: &[String]) -> Vec<RuleRow> {
        let named;
        let accounts = if accounts.is_empty() {
            named = self.ask(|reply| Query::Names { reply }).unwrap_or_default();
            &named
        } else {
            accounts
        };
        let view = self.view.read();
        accounts
            .iter()
            .filter_map(|account| {
                let resolved = view.rules.resolve(account);
                let group = view.placement.group(view.placement.group_of(account))?;
                Some(RuleRow {
                    account: account.clone(),
                    group: group.id.0,
                    active: self.loaded.config.node_name(group.active),
                    replicas: group.replicas.iter().map(|node| self.loaded.config.node_name(*node)).collect(),
                    replicate: resolved.replicate,
                    level: resolved.level.to_string(),
                    kinds: resolved.kinds.names().into_iter().map(str::to_owned).collect(),
                    on_timeout: text(&resolved.on_timeout),
                    on_full: text(&resolved.on_full),
                    wait_timeout_ms: resolved.wait_timeout_ms,
                    hold: RuleHold::of(&resolved.hold),
                    rule: resolved.rule_name.clone(),
                })
            })
            .collect()
    }

    fn reload(&self) -> Result<Done, String> {
        let fresh = config::load(&self.loaded.sources).map_err(|error| error.to_string())?;
        let (rules, problems) = Rules::build(&fresh.config);
        if let Some(problem) = problems.first() {
            return Err(format!("{}: {}; {}", problem.key, problem.problem, problem.remedy));
        }
        let placement = config::Placement::build(&fresh.config).map_err(|problems| {
            problems.first().map_or_else(String::new, |p| format!("{}: {}; {}", p.key, p.problem, p.remedy))
        })?;
        let shared = fresh.config.coordinator.kind != CoordinatorKind::None;
        let before = self.view.read().placement.groups().to_vec();
        if shared && before.len() != placement.groups().len() {
            return Err("the number of groups cannot change: accounts would be of other groups".into());
        }
        if !shared && before != placement.groups() {
            return Err("groups cannot change their nodes while the agent runs; restart it".into());
        }
        self.view.change(|view| {
            // Who is active is the coordinator's word, where there is one.
            let mut placement = placement;
            if shared {
                before.into_iter().for_each(|group| placement.put_group(group));
            }
            view.rules = rules;
            view.placement = placement;
        });
        // The loop is gone only at shutdown.
        let _ = self.queries.send(Query::Reloaded);
        Ok(Done { done: "rules and placed accounts were read again".into() })
    }
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
