//! Transactions under way: what each is for, and when its fate is known.
//!
//! Owns: the table of changes that were sent and not yet seen. What can hurt: a change of which nobody knows whether it
//! was done, or will yet be done by a request that is still on its way. Such a one keeps its groups busy until the view
//! shows that one of its expectations no longer holds: then it has been done before, or can never be. Every change that
//! rests on the own lease expects that lease's revision, so the next renewal that is seen settles it. Refuses: trying
//! again; the rules are judged anew.

use std::collections::BTreeMap;

use understudy_types::id::{GroupId, NodeId};

use super::decide::Decider;
use super::observe::MS;
use super::{Action, Answer, Record};
use crate::clock::BootNs;
use crate::coordinator::record::Name;
use crate::limits::{FAILOVER_ANSWER_MS_MAX, FAILOVER_REREAD_MS, FAILOVER_RETRY_MS};

/// One write of a transaction: key, value, time to live in milliseconds.
pub(super) type Write = (Name, Option<Record>, Option<u64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// First records, of groups that have none.
    Create,
    /// As active: in_sync, replicas, where the epoch began, a wish that is taken back.
    Amend,
    Promote {
        old: NodeId,
    },
    /// As active: another becomes it.
    Flip,
    /// A lease is taken away from a node that others see fail.
    Take {
        of: NodeId,
    },
    /// The own lease is given back.
    Release,
    Order {
        id: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nobody knows.
    Unknown(BootNs),
    /// Done at this revision, and not yet seen.
    Done(u64),
}

#[derive(Clone, Debug)]
struct Pending {
    purpose: Purpose,
    groups: Vec<GroupId>,
    expect: Vec<(Name, u64)>,
    at: BootNs,
    state: State,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Txns {
    table: BTreeMap<u64, Pending>,
    /// Groups whose last change was not done, with the view's revision and the time: not again at once with the same
    /// view.
    refused: BTreeMap<GroupId, (u64, BootNs)>,
    /// A change that rests on the lease waits for a renewal to be answered.
    pub(super) wanted: bool,
    reread_at: Option<BootNs>,
    last_id: u64,
}

impl Txns {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// A change of the group is under way.
    pub(super) fn busy(&self, group: GroupId) -> bool {
        self.table.values().any(|pending| pending.groups.contains(&group))
    }

    /// A promotion of the group by this node is under way: no promise can be given.
    pub(super) fn promoting(&self, group: GroupId) -> bool {
        let promotes = |pending: &Pending| matches!(pending.purpose, Purpose::Promote { .. } | Purpose::Create);
        self.table.values().any(|pending| promotes(pending) && pending.groups.contains(&group))
    }

    pub(super) fn promoting_count(&self) -> usize {
        let promotes = |pending: &&Pending| matches!(pending.purpose, Purpose::Promote { .. });
        self.table.values().filter(promotes).map(|pending| pending.groups.len()).sum()
    }

    /// A flip of the group is under way.
    pub(super) fn flipping(&self, group: GroupId) -> bool {
        self.table.values().any(|pending| pending.purpose == Purpose::Flip && pending.groups.contains(&group))
    }

    /// Something under way would end this node's lease.
    pub(super) fn taking_from(&self, node: NodeId) -> bool {
        self.table.values().any(|pending| match pending.purpose {
            Purpose::Promote { old } => old == node,
            Purpose::Take { of } => of == node,
            _ => false,
        })
    }

    pub(super) fn is(&self, purpose: Purpose) -> bool {
        self.table.values().any(|pending| pending.purpose == purpose)
    }

    /// A change that expects the own lease's revision waits for its answer: a renewal would make it fail.
    pub(super) fn bound_open(&self, me: NodeId) -> bool {
        let bound = |pending: &Pending| pending.expect.iter().any(|(name, _)| *name == Name::Lease(me));
        self.table.values().any(|pending| pending.state == State::Open && bound(pending))
    }

    /// A refused change of the group is not tried again at once.
    pub(super) fn cooling(&self, group: GroupId, view_revision: u64, now: BootNs) -> bool {
        let same =
            |(revision, at): &(u64, BootNs)| *revision == view_revision && now.since_ns(*at) < FAILOVER_RETRY_MS * MS;
        self.refused.get(&group).is_some_and(same)
    }
}

/// How a transaction ended that is no renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Done, and what it wrote has been seen.
    Done,
    Refused,
    Unreachable,
    /// One of its expectations is known to hold no more: it was done, or never will be. The view tells which.
    Settled,
}

impl Decider {
    /// Sends a change. Everything that it needs is expected; what it concerns is busy until its fate is known.
    pub(super) fn transact(
        &mut self,
        purpose: Purpose,
        groups: Vec<GroupId>,
        expect: Vec<(Name, u64)>,
        write: Vec<Write>,
    ) -> u64 {
        let id = self.txns.next_id();
        let pending = Pending { purpose, groups, expect: expect.clone(), at: self.now, state: State::Open };
        self.txns.table.insert(id, pending);
        self.out.push(Action::Transact { id, expect, write });
        id
    }

    /// Whether a change that rests on the own lease can go out now. One that must wait for a renewal's answer makes the
    /// next renewal wait for it in turn.
    pub(super) fn may_act(&mut self) -> bool {
        if !self.own.held() || self.now >= self.own.until() || self.stopping() {
            return false;
        }
        let free = self.own.settled();
        self.txns.wanted |= !free;
        free
    }

    /// The expectation that the own lease is still the same.
    pub(super) fn own_expect(&self) -> (Name, u64) {
        (Name::Lease(self.set.node), self.own.revision)
    }

    /// `false` while a change of the group is under way, or was refused and nothing new was heard.
    pub(super) fn free(&self, group: GroupId) -> bool {
        !self.txns.busy(group) && !self.txns.cooling(group, self.view.revision, self.now)
    }

    pub(super) fn txn_answered(&mut self, id: u64, answer: &Answer) {
        let Some(pending) = self.txns.table.get_mut(&id) else { return };
        match answer {
            Answer::Done { revision } => pending.state = State::Done(*revision),
            // These expect only what they change, and are judged anew by what is there: twice does no harm.
            Answer::Unknown if matches!(pending.purpose, Purpose::Release | Purpose::Order { .. }) => {
                self.end(id, End::Settled)
            }
            Answer::Unknown => pending.state = State::Unknown(self.now),
            Answer::Refused | Answer::Unreachable => {
                let seen = self.view.revision;
                let mut blind = false;
                for group in pending.groups.clone() {
                    let before = self.txns.refused.insert(group, (seen, self.now));
                    blind |= before.is_some_and(|(revision, _)| revision == seen);
                }
                let end = if *answer == Answer::Refused { End::Refused } else { End::Unreachable };
                self.end(id, end);
                // Refused twice, and nothing that explains it was heard in between.
                if blind && end == End::Refused {
                    self.reread();
                }
            }
        }
    }

    /// The coordinator went back to an older state: what was done may be undone, and will not be seen.
    pub(super) fn forget_done(&mut self) {
        let done = |pending: &&u64| matches!(self.txns.table[*pending].state, State::Done(_));
        let ids: Vec<u64> = self.txns.table.keys().filter(done).copied().collect();
        for id in ids {
            self.end(id, End::Settled);
        }
    }

    /// Ends what the view has decided.
    pub(super) fn settle(&mut self) {
        let now = self.now;
        self.txns.refused.retain(|_, (_, at)| now.since_ns(*at) < 4 * FAILOVER_RETRY_MS * MS);
        let mut ended = Vec::new();
        let mut reread = false;
        for (id, pending) in &mut self.txns.table {
            if pending.state == State::Open && now.since_ns(pending.at) > FAILOVER_ANSWER_MS_MAX * MS {
                pending.state = State::Unknown(now);
            }
            let moved = || pending.expect.iter().any(|(name, revision)| self.view.moved_on(name, *revision));
            match pending.state {
                State::Done(revision) if self.view.revision >= revision => ended.push((*id, End::Done)),
                State::Done(_) | State::Open => {}
                State::Unknown(_) if moved() => ended.push((*id, End::Settled)),
                State::Unknown(since) => reread |= now.since_ns(since) >= FAILOVER_REREAD_MS * MS,
            }
        }
        for (id, end) in ended {
            self.end(id, end);
        }
        if reread {
            self.reread();
        }
    }

    fn end(&mut self, id: u64, end: End) {
        let Some(pending) = self.txns.table.remove(&id) else { return };
        match pending.purpose {
            Purpose::Order { id } => self.order_ended(id, end),
            Purpose::Release => self.released(end),
            Purpose::Flip => self.flip_ended(&pending.groups, end),
            _ => {}
        }
    }

    /// Asks for everything anew, not more often than [`FAILOVER_REREAD_MS`].
    pub(super) fn reread(&mut self) {
        let since = self.txns.reread_at.map(|at| self.now.since_ns(at));
        if since.is_none_or(|since| since >= FAILOVER_REREAD_MS * MS) {
            self.txns.reread_at = Some(self.now);
            self.out.push(Action::Reread);
        }
    }
}
