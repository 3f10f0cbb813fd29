//! The independent checker: what users were told, what disks synced, who wrote, and whether it all fits.
//!
//! Owns: the verdict. What can hurt: a checker that asks the product whether the product is right; so it reads synced
//! bytes, users' answers and stores' dumps, and has a model of its own. It stops a world at the first thing that is
//! wrong, because what follows is only its consequence. Refuses: knowing how the product came to a state.

pub mod log;
pub mod mail;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};

use understudy_ring::AckLevel;
use understudy_types::id::{BlobId, Epoch, GroupId, NodeId, Sequence};

use crate::bodies::Central;
use crate::plan::Plan;
use log::{Held, Log, RingAt};
use mail::{Account, Fact};

/// A change that a store committed.
#[derive(Clone, Debug)]
pub struct Change {
    pub account: usize,
    pub group: GroupId,
    pub node: NodeId,
    pub level: AckLevel,
    pub peers: u8,
    pub facts: Vec<Fact>,
    pub blob: Option<BlobId>,
    pub at_ns: u64,
    pub acked: bool,
    /// It must be there at the end.
    pub for_good: bool,
}

/// When changes of an epoch that were acknowledged for good were committed.
#[derive(Clone, Copy, Debug)]
struct Span {
    first_ns: u64,
    last_ns: u64,
    node: NodeId,
}

/// See the module.
#[derive(Debug)]
pub struct Checker {
    pub log: Log,
    accounts: Vec<Account>,
    names: Vec<String>,
    changes: Vec<Change>,
    spans: BTreeMap<(GroupId, Epoch), Span>,
    passed_over: BTreeSet<RingAt>,
    central: Central,
    wrong: Option<String>,
    pub acked_total: u64,
}

impl Checker {
    /// Nothing has happened.
    #[must_use]
    pub fn new(plan: &Plan, central: &Central) -> Self {
        Self {
            log: Log::default(),
            accounts: plan.accounts.iter().map(|_| Account::default()).collect(),
            names: plan.accounts.iter().map(|account| account.name.clone()).collect(),
            changes: Vec::new(),
            spans: BTreeMap::new(),
            passed_over: BTreeSet::new(),
            central: central.clone(),
            wrong: None,
            acked_total: 0,
        }
    }

    /// The first thing that was wrong.
    #[must_use]
    pub fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    /// Something is wrong.
    pub fn fail(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    fn note(&mut self, result: Result<(), String>) {
        if let Err(what) = result {
            self.fail(what);
        }
    }

    /// A store committed a change; gives its number.
    pub fn committed(&mut self, change: Change) -> u64 {
        let number = self.changes.len() as u64;
        for fact in &change.facts {
            let tried = self.accounts[change.account].tried(number, fact);
            self.note(tried);
        }
        self.changes.push(change);
        number
    }

    /// A change, by its number.
    #[must_use]
    pub fn change(&self, number: u64) -> Option<&Change> {
        self.changes.get(usize::try_from(number).ok()?)
    }

    /// How many changes there were.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.changes.len()
    }

    /// An agent gave an operation its place in a group's stream.
    pub fn pushed(&mut self, node: NodeId, group: GroupId, seq: u64, held: Held) {
        self.log.pushed(node, group, Sequence(seq), held);
    }

    /// An agent sealed a frame.
    pub fn sealed(&mut self, node: NodeId, header: &understudy_types::frame::FrameHeader, hash: [u8; 32]) {
        let sealed = self.log.sealed(node, header, hash);
        self.note(sealed);
    }

    /// A disk synced bytes.
    pub fn synced(&mut self, node: NodeId, bytes: &[u8]) {
        let synced = self.log.synced(node, bytes);
        self.note(synced);
    }

    /// An agent does not journal a record, because the account is active elsewhere.
    pub fn passed_over(&mut self, ring: RingAt) {
        self.passed_over.insert(ring);
    }

    /// An agent released records that it took.
    pub fn released(&mut self, ring: RingAt, number: u64) {
        if !self.log.is_home(ring) && !self.passed_over.contains(&ring) && !self.log.is_tainted(ring.0) {
            let account = self.change(number).map_or(0, |change| change.account);
            self.fail(format!("record {} of node {} ({account}) was released and is not durable", ring.2, ring.0));
        }
    }

    /// A session was told that its change is done.
    pub fn acked(&mut self, number: u64, replicated: bool) {
        let Some(change) = self.change(number).cloned() else { return };
        let (node, group) = (change.node, change.group);
        let holders = self.log.nodes_of(number, &self.names[change.account]);
        let here = holders.contains(&node) || self.log.is_tainted(node);
        let there = holders.iter().filter(|holder| **holder != node).count();
        let what = format!("change {number} of group {group} on node {node}");
        match change.level {
            AckLevel::None => {}
            AckLevel::Local if here => {}
            AckLevel::Local => self.fail(format!("{what} was acknowledged, and is not durable there")),
            AckLevel::Peer => {
                if !replicated {
                    self.fail(format!("{what} asks for level peer and was answered by less"));
                } else if !here || there < usize::from(change.peers.max(1)) {
                    self.fail(format!("{what} was acknowledged and is durable on {holders:?} only"));
                } else if let Some(blob) = change.blob.filter(|blob| !self.central.had(*blob)) {
                    self.fail(format!("{what} was acknowledged before its body {blob} was in central storage"));
                }
            }
        }
        self.acked_total += 1;
        if let Some(change) = self.changes.get_mut(usize::try_from(number).unwrap_or(usize::MAX)) {
            change.acked = true;
        }
        if change.level == AckLevel::Peer {
            self.for_good(number);
            self.span(group, number, &change);
        }
    }

    /// The change must be there at the end.
    fn for_good(&mut self, number: u64) {
        let Some(change) = self.changes.get_mut(usize::try_from(number).unwrap_or(usize::MAX)) else { return };
        change.for_good = true;
        for fact in &change.facts {
            self.accounts[change.account].acked(number, fact);
        }
    }

    /// Of two epochs, all that was acknowledged in the later one was committed after all of the earlier one.
    fn span(&mut self, group: GroupId, number: u64, change: &Change) {
        let Some(epoch) = self.log.epoch_of(number) else { return };
        let fresh = Span { first_ns: change.at_ns, last_ns: change.at_ns, node: change.node };
        let span = self.spans.entry((group, epoch)).or_insert(fresh);
        span.first_ns = span.first_ns.min(change.at_ns);
        span.last_ns = span.last_ns.max(change.at_ns);
        let span = *span;
        let before = self.spans.range(..(group, epoch)).next_back().filter(|((of, _), _)| *of == group);
        let after = self.spans.range((group, Epoch(epoch.0 + 1))..).next().filter(|((of, _), _)| *of == group);
        let overlaps = before.is_some_and(|(_, other)| other.node != span.node && other.last_ns >= span.first_ns)
            || after.is_some_and(|(_, other)| other.node != span.node && other.first_ns <= span.last_ns);
        if overlaps {
            self.fail(format!("two nodes took changes of group {group} at one time, and both were acknowledged"));
        }
    }

    /// Whether a node's disk holds all that was acknowledged for good in a group.
    #[must_use]
    pub fn holds_all(&self, node: NodeId, group: GroupId) -> bool {
        let mut of = self.changes.iter().enumerate().filter(|(_, change)| change.group == group && change.for_good);
        of.all(|(number, change)| self.log.nodes_of(number as u64, &self.names[change.account]).contains(&node))
    }

    /// The group stays where it is for good: what was acknowledged at level local counts too.
    pub fn settle_local(&mut self, group: GroupId) {
        let local: Vec<u64> = self
            .changes
            .iter()
            .enumerate()
            .filter(|(_, change)| change.group == group && change.acked && change.level == AckLevel::Local)
            .map(|(number, _)| number as u64)
            .collect();
        local.into_iter().for_each(|number| self.for_good(number));
    }

    /// Compares an account with what its user was told.
    pub fn account(&self, account: usize, view: &view::AccountView) -> Result<(), String> {
        self.accounts[account].check(view)
    }

    /// Holds a store's state against the identities that were given away.
    pub fn identities(&self, account: usize, view: &view::AccountView) -> Result<(), String> {
        self.accounts[account].check_identities(view)
    }
}
