//! The own lease: taken, renewed, lost, given back.
//!
//! Owns: until when this node may count on its lease ([`Own::until`]). What can hurt: to count on a lease that somebody
//! took away. Two rules prevent it. Time is counted from before a put was sent, others count from when they saw it. And
//! a lease counts only as a *chain*: its first put when it is seen through the watch, so that everything that changed
//! before it has been seen too; each further put expects the one before, and since whoever takes a group of this node's
//! takes the lease's key away as well, a renewal that is done proves that nothing was taken. A broken chain begins
//! anew. Refuses: renewing without a fresh sign of life of the store.

use std::collections::VecDeque;

use super::decide::Decider;
use super::observe::MS;
use super::txn::{End, Purpose};
use super::{Action, Answer, Record};
use crate::clock::BootNs;
use crate::coordinator::record::{LeaseRecord, Name};
use crate::limits::{
    FAILOVER_PATIENCE_MS_MIN, FAILOVER_PUTS_MAX, FAILOVER_REREAD_MS, FAILOVER_RTTS_MAX, FAILOVER_STOP_MS_MAX,
    FAILOVER_TTL_MS_MIN,
};

/// One put of the own lease's key.
#[derive(Clone, Copy, Debug)]
struct Put {
    id: u64,
    /// It takes the lease; else it renews it.
    takes: bool,
    chain: u64,
    count: u64,
    expect: u64,
    at: BootNs,
    /// Not answered yet.
    open: bool,
    /// Nobody knows whether it was done.
    unknown: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Out,
    /// A put that takes the lease was sent; it counts when it is seen.
    Asked,
    Held,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    phase: Phase,
    /// Number of the present chain of puts; an answer to a put of another one proves nothing.
    chain: u64,
    /// Revision of the own key, as far as this chain knows.
    pub(super) revision: u64,
    count: u64,
    valid_until: BootNs,
    puts: VecDeque<Put>,
    next_at: BootNs,
    /// When giving it back may be tried (again).
    release_at: BootNs,
    not_before: BootNs,
    /// A put of this chain was refused while another one's fate is open.
    doubt: bool,
    /// The expectation with which taking the lease was refused last, and when.
    refused: Option<(u64, BootNs)>,
    /// A chain was seen to begin since this agent started: what an earlier run of it sent can happen no more.
    pub(super) ever: bool,
    rtts: VecDeque<u64>,
    /// The coordinator does not answer as it should.
    pub(super) trouble: bool,
    pub(super) store_good_at: Option<BootNs>,
    pub(super) store_why: String,
    stopping: Option<BootNs>,
    stopped: bool,
}

impl Own {
    pub(super) fn held(&self) -> bool {
        self.phase == Phase::Held
    }

    /// Until when the lease counts.
    pub(super) fn until(&self) -> BootNs {
        if self.held() { self.valid_until } else { BootNs(0) }
    }

    /// No put is on its way that would change the key's revision.
    pub(super) fn settled(&self) -> bool {
        self.held() && !self.doubt && !self.puts.iter().any(|put| put.open && put.chain == self.chain)
    }

    fn open(&self) -> impl Iterator<Item = &Put> {
        self.puts.iter().filter(|put| put.open)
    }

    /// How long an answer of the coordinator may take before the replicas are asked for their promise: four times what
    /// it takes in the worst of a hundred cases.
    pub(super) fn patience_ns(&self, lease_ns: u64) -> u64 {
        let longest = lease_ns / 4;
        let mut sorted: Vec<u64> = self.rtts.iter().copied().collect();
        sorted.sort_unstable();
        let at = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        sorted.get(at).map_or(longest, |p99| p99.saturating_mul(4).max(FAILOVER_PATIENCE_MS_MIN * MS).min(longest))
    }
}

impl Decider {
    /// Whether the store was seen to make progress, or to have nothing to do, a short time ago.
    pub(super) fn store_fresh(&self) -> bool {
        self.own.store_good_at.is_some_and(|at| self.now.since_ns(at) <= self.set.store_stall_ns)
    }

    pub(super) fn stopping(&self) -> bool {
        self.own.stopping.is_some()
    }

    fn own_record(&self, count: u64, released: bool) -> LeaseRecord {
        LeaseRecord {
            incarnation: self.set.incarnation,
            count,
            duration_ms: self.set.lease_ns.div_ceil(MS),
            released,
            site: self.set.site.clone(),
            priority: self.set.priority,
            no_failover: self.set.no_failover,
            capacity_groups: self.set.capacity_groups,
        }
    }

    fn own_ttl_ms(&self) -> u64 {
        FAILOVER_TTL_MS_MIN.max(self.set.lease_ns.div_ceil(MS).saturating_mul(10))
    }

    /// Whatever is due for the own lease.
    pub(super) fn lease_due(&mut self) {
        if self.own.stopping.is_some() || !self.store_fresh() {
            self.give_back();
            return;
        }
        match self.own.phase {
            Phase::Out => self.take(),
            Phase::Asked => {
                let sent = self.own.puts.iter().rev().find(|put| put.takes && put.chain == self.own.chain);
                if self.view.heard && sent.is_none_or(|put| self.now.since_ns(put.at) >= FAILOVER_REREAD_MS * MS) {
                    self.reread();
                }
            }
            Phase::Held => self.renew(),
        }
    }

    fn take(&mut self) {
        let expect = self.view.revision_of(&Name::Lease(self.set.node));
        let since = |at: BootNs| self.now.since_ns(at);
        let refused = self.own.refused.is_some_and(|(e, at)| e == expect && since(at) < FAILOVER_REREAD_MS * MS);
        let ready = self.view.heard && self.now >= self.own.not_before && !refused && !self.txns.is(Purpose::Release);
        if !ready || self.own.open().count() >= 2 {
            return;
        }
        self.own.chain += 1;
        self.own.phase = Phase::Asked;
        let seen = self.view.lease(self.set.node).map_or(0, |record| record.count);
        self.own.count = self.own.count.max(seen);
        self.put(true, expect);
    }

    fn renew(&mut self) {
        let patience = self.own.patience_ns(self.set.lease_ns);
        let open: Vec<BootNs> = self.own.open().filter(|put| put.chain == self.own.chain).map(|put| put.at).collect();
        let waits = open.last().is_some_and(|at| self.now.since_ns(*at) <= patience);
        if open.iter().any(|at| self.now.since_ns(*at) > patience) {
            self.own.trouble = true;
        }
        let left_ns = self.own.valid_until.since_ns(self.now);
        let others = self.txns.wanted || self.txns.bound_open(self.set.node);
        let postponed = others && open.is_empty() && left_ns > self.set.lease_ns / 2;
        if self.now < self.own.next_at || open.len() >= 2 || waits || postponed {
            return;
        }
        let expect = self.own.revision;
        self.put(false, expect);
    }

    fn put(&mut self, takes: bool, expect: u64) {
        self.own.count += 1;
        let (id, count, chain) = (self.txns.next_id(), self.own.count, self.own.chain);
        self.own.puts.push_back(Put { id, takes, chain, count, expect, at: self.now, open: true, unknown: false });
        if self.own.puts.len() > FAILOVER_PUTS_MAX {
            self.own.puts.pop_front();
        }
        self.own.next_at = self.now.after_ns(self.set.renew_ns);
        let name = Name::Lease(self.set.node);
        let record = Record::Lease(self.own_record(count, false));
        let write = vec![(name.clone(), Some(record), Some(self.own_ttl_ms()))];
        self.out.push(Action::Transact { id, expect: vec![(name, expect)], write });
    }

    /// Takes an answer to a put of the own lease; `false` when it is none.
    pub(super) fn put_answered(&mut self, id: u64, answer: &Answer, rtt_ns: u64) -> bool {
        let Some(index) = self.own.puts.iter().position(|put| put.id == id) else { return false };
        let put = self.own.puts[index];
        let current = put.chain == self.own.chain;
        self.own.puts[index].open = false;
        match answer {
            Answer::Done { revision } => {
                self.own.rtts.push_back(rtt_ns);
                if self.own.rtts.len() > FAILOVER_RTTS_MAX {
                    self.own.rtts.pop_front();
                }
                self.own.trouble = !self.view.heard;
                // One that takes the lease counts when it is seen.
                if self.own.held() && current && !put.takes {
                    self.confirmed(put.at, *revision);
                }
            }
            Answer::Refused => {
                self.own.puts.remove(index);
                self.own.trouble = !self.view.heard;
                if current && put.takes && self.own.phase == Phase::Asked {
                    self.own.phase = Phase::Out;
                    self.own.refused = Some((put.expect, self.now));
                } else if current && self.own.held() && put.expect == self.own.revision {
                    self.renewal_refused(put.expect);
                }
            }
            Answer::Unreachable => {
                self.own.puts.remove(index);
                self.own.trouble = true;
                if current && self.own.phase == Phase::Asked {
                    self.own.phase = Phase::Out;
                    self.own.not_before = self.own.not_before.max(self.own.next_at);
                }
            }
            Answer::Unknown => {
                self.own.puts[index].unknown = true;
                self.own.trouble = true;
            }
        }
        true
    }

    fn confirmed(&mut self, sent_at: BootNs, revision: u64) {
        self.own.revision = self.own.revision.max(revision);
        self.own.valid_until = self.own.valid_until.max(sent_at.after_ns(self.set.lease_ns));
        self.own.doubt = false;
    }

    /// Either a put of ours of which nobody knows was done meanwhile, or the key was taken away.
    fn renewal_refused(&mut self, expect: u64) {
        let chain = self.own.chain;
        let mine = |put: &Put| put.chain == chain && put.expect == expect && (put.open || put.unknown);
        if self.own.puts.iter().any(mine) {
            self.own.doubt = true;
            self.reread();
        } else {
            self.lost("its renewal was refused: somebody took the lease away");
            self.own.refused = Some((expect, self.now));
            self.reread();
        }
    }

    /// The own key changed in the view, in the view's order.
    pub(super) fn own_seen(&mut self, record: Option<&LeaseRecord>, revision: u64, first: bool) {
        let mine = record.filter(|record| record.incarnation == self.set.incarnation);
        let put = mine.filter(|record| !record.released);
        let put = put.and_then(|record| self.own.puts.iter().find(|put| put.count == record.count).copied());
        match put {
            Some(put) if self.own.held() && put.chain == self.own.chain => {
                if revision >= self.own.revision {
                    self.confirmed(put.at, revision);
                }
            }
            // Older than what the chain knows from an answer: an echo.
            _ if self.own.held() && mine.is_some_and(|record| !record.released) && revision <= self.own.revision => {}
            Some(put) if put.takes => {
                if self.own.held() {
                    self.lost("another of its own puts stands in its place");
                }
                self.own.chain += 1;
                for other in &mut self.own.puts {
                    if other.id == put.id {
                        other.chain = self.own.chain;
                    }
                }
                self.own.phase = Phase::Held;
                self.own.ever = true;
                self.own.revision = revision;
                self.own.valid_until = put.at.after_ns(self.set.lease_ns);
                self.own.next_at = put.at.after_ns(self.set.renew_ns);
                self.own.doubt = false;
                self.say("own-lease", None, "held", true, "the lease is held".to_owned(), 0);
            }
            _ => {
                if self.own.held() {
                    self.lost("its key was taken away, or written by somebody else");
                }
            }
        }
        let stranger = record.filter(|record| record.incarnation != self.set.incarnation && !record.released);
        if let (Some(stranger), false) = (stranger, first) {
            let wait_ns = self.wait_ns(stranger.duration_ms.saturating_mul(MS));
            self.own.not_before = self.own.not_before.max(self.now.after_ns(wait_ns));
            let text = format!("another agent runs as node {}: two agents have the same `node.id`", self.set.node);
            self.say("own-lease", None, "stranger", false, text, wait_ns);
        }
    }

    /// After everything was read anew: a put that takes the lease and is not there was not done, or is still on its
    /// way.
    pub(super) fn own_reread(&mut self) {
        self.own.refused = None;
        if self.own.phase == Phase::Asked {
            let chain = self.own.chain;
            if !self.own.puts.iter().any(|put| put.chain == chain && put.open) {
                self.own.phase = Phase::Out;
            }
        }
    }

    fn lost(&mut self, why: &str) {
        let early_ns = self.own.valid_until.since_ns(self.now);
        self.own.phase = Phase::Out;
        self.own.chain += 1;
        self.own.doubt = false;
        self.own.valid_until = BootNs(0);
        if early_ns > 0 {
            // Nobody who waits for a lease to end takes it before that: observers did, or an administrator. The others
            // now wait for its end; they would wait anew if it were taken again before they had their chance.
            let rest_ns = self.wait_ns(self.set.lease_ns).saturating_mul(2);
            self.own.not_before = self.own.not_before.max(self.now.after_ns(rest_ns));
            self.promises_forgotten();
        }
        self.say("own-lease", None, "lost", false, format!("the lease is lost: {why}"), 0);
    }

    /// Fences all groups of this node (by giving up what lets them be served), then writes that the lease is free.
    fn give_back(&mut self) {
        let stop = self.own.stopping.is_some();
        if self.own.held() || self.own.phase == Phase::Asked {
            self.own.phase = Phase::Out;
            self.own.chain += 1;
            let why = if stop { "the agent stops".to_owned() } else { self.store_trouble() };
            self.say("own-lease", None, "given-back", false, format!("the lease is given back: {why}"), 0);
        }
        self.promises_forgotten();
        let name = Name::Lease(self.set.node);
        let seen = self.view.lease(self.set.node);
        let mine = seen.is_some_and(|record| record.incarnation == self.set.incarnation && !record.released);
        if mine && !self.txns.is(Purpose::Release) && self.now >= self.own.release_at {
            self.own.count += 1;
            self.own.release_at = self.now.after_ns(self.set.renew_ns);
            let expect = self.view.revision_of(&name).max(self.own.revision);
            let record = Record::Lease(self.own_record(self.own.count, true));
            let write = vec![(name.clone(), Some(record), Some(self.own_ttl_ms()))];
            self.transact(Purpose::Release, Vec::new(), vec![(name, expect)], write);
        }
        let Some(since) = self.own.stopping else { return };
        let late = self.now.since_ns(since) >= FAILOVER_STOP_MS_MAX * MS;
        if !self.own.stopped && (late || (!mine && !self.txns.is(Purpose::Release))) {
            self.own.stopped = true;
            self.out.push(Action::Stopped);
        }
    }

    /// How giving the lease back ended.
    pub(super) fn released(&mut self, end: End) {
        // Refused: a renewal was on its way, and is now the last; the view shows it.
        if end != End::Done {
            self.own.revision = 0;
            self.reread();
        }
    }

    pub(super) fn stop(&mut self) {
        if self.own.stopping.is_none() {
            self.own.stopping = Some(self.now);
            self.own.release_at = self.now;
        }
    }

    pub(super) fn store_seen(&mut self, good_at: Option<BootNs>, why: String) {
        if good_at.is_some_and(|at| at <= self.now) {
            self.own.store_good_at = self.own.store_good_at.max(good_at);
        }
        self.own.store_why = why;
    }

    /// What is missing of the store.
    pub(super) fn store_trouble(&self) -> String {
        let why = if self.own.store_why.is_empty() { "nothing was heard of it" } else { self.own.store_why.as_str() };
        match self.own.store_good_at {
            Some(at) => format!("the store made no progress for {} ms: {why}", self.now.since_ns(at) / MS),
            None => format!("the store was not seen to make progress yet: {why}"),
        }
    }
}
