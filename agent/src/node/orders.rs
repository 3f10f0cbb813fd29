//! Administrators' orders on their way to the decider of failover, and what it said for people.
//!
//! Owns: which order waits for which answer, the last word on every rule, and the hook that fences another node. What
//! can hurt: an order that is never answered; whoever asked has a time-out of its own, and the number of waiting ones
//! is bounded. Refuses: deciding.

use std::collections::{BTreeMap, VecDeque};

use crossbeam::channel::Sender;
use understudy_types::id::{GroupId, NodeId};

use super::core::Core;
use super::query::Query;
use crate::clock;
use crate::control::model::Rule;
use crate::failover::{Input, Order, Said};
use crate::fence::hook::{FenceHook, Target};
use crate::limits::{ORDERS_WAITING_MAX, SAID_MAX};

/// Answer to an order: what was done, or why not.
pub(super) type Reply = Sender<Result<String, String>>;

/// Waiting orders, and words.
#[derive(Default)]
pub(super) struct Orders {
    next: u64,
    waiting: BTreeMap<u64, Reply>,
    /// The last word on each rule, and its wall time.
    pub words: BTreeMap<(String, Option<GroupId>), (u64, Said)>,
    /// What was said, newest last.
    pub log: VecDeque<(u64, Said)>,
}

impl Orders {
    /// What was said of a group, or of all, newest last.
    pub(super) fn of(&self, group: GroupId) -> Vec<Rule> {
        let said = self.log.iter().filter(|(_, said)| said.group.is_none_or(|of| of == group));
        said.map(|(wall_ns, said)| Rule { wall_ns: *wall_ns, ..Rule::from(said.clone()) }).collect()
    }
}

impl From<Said> for Rule {
    fn from(said: Said) -> Self {
        Self { rule: said.rule, holds: said.holds, text: said.text, left_ms: said.left_ns / 1_000_000, wall_ns: 0 }
    }
}

impl Core {
    /// An administrator orders something.
    pub(super) fn order(&mut self, order: Order, reply: Reply) {
        if !self.roles.is_shared() {
            let why = "no coordinator is configured (`coordinator.kind`): placement is what the configuration says";
            let _ = reply.send(Err(why.to_owned()));
            return;
        }
        if self.orders.waiting.len() >= ORDERS_WAITING_MAX {
            // The oldest one's asker has given up long ago.
            self.orders.waiting.pop_first();
        }
        self.orders.next += 1;
        let id = self.orders.next;
        self.orders.waiting.insert(id, reply);
        self.council.tell(Input::Order { id, order, wall_ns: clock::wall_ns() });
    }

    /// The decider's answer.
    pub(super) fn ordered(&mut self, id: u64, result: Result<String, String>) {
        if let Some(reply) = self.orders.waiting.remove(&id) {
            let _ = reply.send(result);
        }
    }

    /// What the decider said for people.
    pub(super) fn said(&mut self, said: Said) {
        let wall_ns = clock::wall_ns();
        self.orders.words.insert((said.rule.clone(), said.group), (wall_ns, said.clone()));
        self.orders.log.push_back((wall_ns, said));
        if self.orders.log.len() > SAID_MAX {
            self.orders.log.pop_front();
        }
    }

    /// Runs the fence hook against a node, in a thread of its own and for a time that is limited.
    pub(super) fn run_fence(&mut self, node: NodeId) {
        let Some(program) = self.config.failover.fence_hook.clone() else {
            self.council.tell(Input::FenceDone { node, ok: true });
            return;
        };
        let site = |node| {
            let seen = self.posture.as_ref().and_then(|posture| posture.overview.nodes.get(&NodeId::get(node)));
            seen.map(|seen| seen.site.clone()).unwrap_or_default()
        };
        let own = Target { node: self.node, name: self.config.node.name.clone(), site: self.config.node.site.clone() };
        let target = Target { node, name: self.config.node_name(node), site: site(node) };
        let hook = FenceHook::new(program, format!("{:016x}", self.cluster.0), own);
        let queries = self.queries.clone();
        // The loop is gone only when the agent stops.
        let started = hook.start(target, move |node, ok| drop(queries.send(Query::Fenced { node, ok })));
        if let Err(error) = started {
            tracing::error!(%error, "no thread for the fence hook");
            self.fenced(node, false);
        }
    }

    /// The fence hook has ended.
    pub(super) fn fenced(&mut self, node: NodeId, ok: bool) {
        let outcome = crate::metrics::Outcome::new(if ok { "done" } else { "failed" });
        self.metrics.failover.fence_hooks.get_or_create(&outcome).inc();
        self.council.tell(Input::FenceDone { node, ok });
    }
}
