//! What this node believes about accounts: rules and placement, in one place that threads share.
//!
//! Owns: the answer to "what holds for this account here". What can hurt: a half-changed view; it is replaced as a
//! whole. Refuses: files; `config` and `rules` have read them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use understudy_ring::{AckLevel, OnFull, OnTimeout, Policy};
use understudy_types::id::{GroupId, NodeId};
use understudy_types::ring::Role;

use crate::config::Placement;
use crate::rules::{self, Level, Resolved, Rules};

/// Rules and placement as they stand.
pub struct View {
    pub node: NodeId,
    pub rules: Rules,
    pub placement: Placement,
    /// How groups stand here; one that is not named is served where placement says.
    pub seats: HashMap<GroupId, Seat>,
}

/// How a group stands at this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Users work here.
    Serving,
    /// It was promoted here, and is served account by account as each is ready.
    Opening { ready: HashSet<String> },
    /// It is about to be served, here or elsewhere: who can wait a moment does.
    Moving,
    /// This node may not change it at the moment.
    Fenced(String),
    /// Another node is active; `ready` = it serves.
    Elsewhere { ready: bool },
}

impl View {
    /// What the store is told about an account. Where users of the account work on another node, a change here
    /// would be lost, and the store refuses it.
    #[must_use]
    pub fn decide(&self, account: &str) -> Policy {
        let resolved = self.rules.resolve(account);
        match self.placement.group(self.placement.group_of(account)) {
            Some(group) => {
                let elsewhere = !self.serves(group.id, account) && resolved.replicate;
                let role = if elsewhere { Role::Replica } else { Role::Active };
                Policy { role, ..policy(resolved, group.replicas.len()) }
            }
            None => Policy { replicated: false, ..Policy::default() },
        }
    }

    /// Whether users of the account may change their mail here now.
    #[must_use]
    pub fn serves(&self, group: GroupId, account: &str) -> bool {
        match self.seats.get(&group) {
            None => self.placement.group(group).is_some_and(|group| group.active == self.node),
            Some(Seat::Serving) => true,
            Some(Seat::Opening { ready }) => ready.contains(account),
            Some(Seat::Moving | Seat::Fenced(_) | Seat::Elsewhere { .. }) => false,
        }
    }

    /// Group of an account, if it is replicated and active here.
    #[must_use]
    pub fn own_group(&self, account: &str) -> Option<GroupId> {
        let group = self.placement.group(self.placement.group_of(account))?;
        let own = group.active == self.node && !group.replicas.is_empty() && self.rules.resolve(account).replicate;
        own.then_some(group.id)
    }
}

/// The ring's policy for what the rules say. An account without replicas is not captured: nobody would read it.
#[must_use]
pub fn policy(resolved: &Resolved, replicas: usize) -> Policy {
    let replicas = u8::try_from(replicas).unwrap_or(u8::MAX);
    let (level, peers) = match resolved.level {
        Level::None => (AckLevel::None, 0),
        Level::Local => (AckLevel::Local, 0),
        Level::Peer(count) => (AckLevel::Peer, count.min(replicas)),
    };
    Policy {
        replicated: resolved.replicate && replicas > 0,
        level,
        peers,
        on_timeout: match resolved.on_timeout {
            rules::OnTimeout::GoOn => OnTimeout::GoOn,
            rules::OnTimeout::Refuse => OnTimeout::Refuse,
        },
        on_full: match resolved.on_full {
            rules::OnFull::Wait => OnFull::Wait,
            rules::OnFull::Refuse => OnFull::Refuse,
            rules::OnFull::GoOn => OnFull::GoOnAndMarkGap,
        },
        intents: true,
        role: Role::Active,
        wait_timeout_ms: resolved.wait_timeout_ms,
        generation: 0,
        op_kinds: resolved.kinds.0,
    }
}

/// The view as threads share it.
#[derive(Clone)]
pub struct SharedView(Arc<RwLock<View>>);

impl SharedView {
    /// Shares a view.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self(Arc::new(RwLock::new(view)))
    }

    /// Reads it. Hold the guard for a moment only.
    pub fn read(&self) -> RwLockReadGuard<'_, View> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it. Nobody reads meanwhile.
    pub fn change<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}
