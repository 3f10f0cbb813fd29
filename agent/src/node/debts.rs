//! Debts: accounts of which something may have been missed, until a snapshot of them is durable in their stream.
//!
//! Owns: that a debt outlives the agent before what it repairs is let go of, and that nobody is called equal who owes
//! one or of whom the ring holds something unread. What can hurt: a snapshot that began before the debt was made does
//! not settle it; so it is settled only when no other snapshot of the account is wanted. Refuses: making snapshots.

use std::collections::BTreeSet;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use understudy_types::id::{GroupId, NodeId};

use super::core::Core;
use super::query::{self, kind};
use crate::capture::bucket_of;
use crate::clock::MonoNs;
use crate::control::model::Status;
use crate::limits::STATUS_WAIT_MS;

/// What the ring holds and the event loop has not taken, and who waits to be told.
#[derive(Default)]
pub(super) struct Unread {
    /// Where the capture thread was when it had nothing more; `None` = not since this agent started.
    idle_at: Option<u64>,
    /// [`bucket_of`] the accounts with an open intent.
    open: BTreeSet<u16>,
    /// Questions that are answered when what was in the ring then is taken.
    waiting: Vec<(u64, MonoNs, bool, Sender<Status>)>,
}

/// An account that was changed here although it is active elsewhere: its active is asked until it answers.
pub(super) type Asked = Option<Receiver<Result<Vec<u8>, String>>>;

impl Core {
    pub(crate) fn want_export(&mut self, account: &str, bodies: bool, why: &str) {
        let _ = self.want_exports(std::iter::once(account), bodies, why);
    }

    /// Makes a debt of each of these accounts that is active here. `false` = an agent after this one may not know.
    pub(super) fn want_exports<'a>(
        &mut self,
        accounts: impl Iterator<Item = &'a str>,
        bodies: bool,
        why: &str,
    ) -> bool {
        let own: Vec<&str> = {
            let view = self.view.read();
            accounts.filter(|account| view.own_group(account).is_some()).collect()
        };
        let kept = self.accounts.owe(own.iter().copied(), bodies);
        if let Err(error) = &kept {
            tracing::error!(%error, "cannot note which accounts are to be compared; an agent that dies now forgets them");
        }
        for account in own {
            tracing::info!(account, why, bodies, "a snapshot is wanted");
            self.queue.want(account, bodies, why);
        }
        kept.is_ok()
    }

    /// Something of this account may have been missed. `bucket`: the ring remembers it too.
    pub(super) fn compare(&mut self, account: &str, why: &str, bucket: Option<u16>) {
        self.gaps_total += 1;
        if self.want_exports(std::iter::once(account), false, why)
            && let Some(bucket) = bucket
        {
            self.capture.gaps_done(vec![bucket]);
        }
    }

    pub(super) fn compare_buckets(&mut self, buckets: Vec<u16>) {
        let hit: Vec<String> = self
            .accounts
            .iter()
            .filter(|(account, _)| buckets.contains(&bucket_of(account)))
            .map(|(account, _)| account.to_owned())
            .collect();
        self.gaps_total += hit.len() as u64;
        tracing::warn!(accounts = hit.len(), "changes were not captured; the accounts concerned are compared");
        let why = "the ring was full or a store process died";
        if self.want_exports(hit.iter().map(String::as_str), false, why) {
            self.capture.gaps_done(buckets);
        }
    }

    pub(super) fn compare_all(&mut self, why: &str) {
        let names: Vec<String> = self.accounts.iter().map(|(account, _)| account.to_owned()).collect();
        self.gaps_total += names.len() as u64;
        let _ = self.want_exports(names.iter().map(String::as_str), false, why);
    }

    /// Takes up what the agent before this one owed, and first copies that it did not finish.
    pub(super) fn resume_debts(&mut self) {
        let owed: Vec<(String, bool)> =
            self.accounts.owed().map(|(account, bodies)| (account.to_owned(), bodies)).collect();
        for (account, bodies) in owed {
            if self.view.read().own_group(&account).is_some() {
                self.queue.want(&account, bodies, "owed since before this agent started");
            } else {
                self.foreign_asked.insert(account, None);
            }
        }
        let names: Vec<String> = self.accounts.iter().map(|(account, _)| account.to_owned()).collect();
        names.iter().for_each(|account| self.seen(account));
    }

    /// A snapshot's end is durable.
    pub(super) fn settle(&mut self, account: &str) {
        // One that began before the last debt was made does not count, and another is then wanted.
        if self.queue.contains(account) || self.is_ending(account) {
            return;
        }
        if let Err(error) = self.accounts.settled(account) {
            tracing::warn!(account, %error, "cannot note that the account was compared; it is again after a restart");
        }
    }

    pub(super) fn is_ending(&self, account: &str) -> bool {
        self.snapshot_ends.iter().any(|(_, _, ending)| ending == account)
    }

    /// Whether this agent may not call a replica of the account equal, whatever the positions say.
    pub(super) fn owes(&self, account: &str, replicas: &[NodeId]) -> bool {
        let copied = self.accounts.get(account).is_some_and(|known| known.is_copied_for(replicas));
        !copied || self.accounts.owes(account) || self.queue.contains(account) || self.is_ending(account)
    }

    /// Last operation of the group that may be the account's. What an agent before this one captured counts for all
    /// accounts: whose it was is not kept.
    pub(super) fn last_seq(&self, account: &str, group: GroupId) -> u64 {
        let inherited = self.own.get(&group).map_or(0, |own| own.inherited);
        self.accounts.get(account).map_or(0, |known| known.last_seq).max(inherited)
    }

    /// A change of an account that is active elsewhere was made here: the active's state wins, and it is asked for it
    /// until it says that it will.
    pub(super) fn ask_active(&mut self, account: &str) {
        if let Err(error) = self.accounts.owe(std::iter::once(account), true) {
            tracing::error!(account, %error, "cannot note that the account is to be copied from its active");
        }
        self.foreign_asked.insert(account.to_owned(), None);
    }

    /// Once a second: asks for what [`Self::ask_active`] noted.
    pub(super) fn ask_actives(&mut self) {
        for (account, asked) in std::mem::take(&mut self.foreign_asked) {
            let answer = asked.as_ref().map(Receiver::try_recv);
            match answer {
                Some(Ok(Ok(_))) => {
                    if let Err(error) = self.accounts.settled(&account) {
                        tracing::warn!(account, %error, "cannot note that the account was asked for");
                    }
                    continue;
                }
                Some(Err(TryRecvError::Empty)) => {
                    self.foreign_asked.insert(account, asked);
                    continue;
                }
                Some(Ok(Err(_)) | Err(TryRecvError::Disconnected)) | None => {}
            }
            let active = {
                let view = self.view.read();
                view.placement.group(view.placement.group_of(&account)).map(|group| group.active)
            };
            let asked = active.filter(|active| *active != self.node && self.links.contains_key(active)).map(|active| {
                let (reply, answer) = bounded(1);
                self.ask(active, kind::RESYNC, query::put_resync(true, &account), Some(reply));
                answer
            });
            self.foreign_asked.insert(account, asked);
        }
    }

    /// The capture thread has nothing more.
    pub(super) fn ring_idle(&mut self, read_index: u64, open: Option<BTreeSet<u16>>) {
        self.ring_read = read_index;
        self.unread.idle_at = Some(read_index);
        if let Some(open) = open {
            self.unread.open = open;
        }
    }

    /// Whether the ring may hold an operation that no position counts yet.
    pub(super) fn is_ring_unread(&self) -> bool {
        self.unread.idle_at.is_none_or(|index| self.capture.unread(index) > 0)
    }

    /// Buckets of the accounts with a change under way.
    pub(super) fn open_buckets(&self) -> &BTreeSet<u16> {
        &self.unread.open
    }

    /// What accounts of a group owe, now that it is active here.
    pub(super) fn take_up_debts(&mut self, group: GroupId) {
        let view = self.view.clone();
        let owed: Vec<(String, bool)> =
            self.accounts.owed().map(|(account, bodies)| (account.to_owned(), bodies)).collect();
        for (account, bodies) in owed.into_iter().filter(|(of, _)| view.read().placement.group_of(of) == group) {
            self.foreign_asked.remove(&account);
            self.queue.want(&account, bodies, "owed since before the group was active here");
        }
    }

    /// Whether a change of the account may be in the store that no position counts yet. `unread`: of any account.
    pub(super) fn is_changing(&self, account: &str, unread: bool) -> bool {
        unread || self.unread.open.contains(&bucket_of(account))
    }

    /// A status is asked for. It is told when what the ring holds now has been taken, so that it counts.
    pub(super) fn status_asked(&mut self, with_accounts: bool, reply: Sender<Status>) {
        let target = self.unread.idle_at.map_or(u64::MAX, |index| index.wrapping_add(self.capture.unread(index)));
        let until = self.now.after(Duration::from_millis(STATUS_WAIT_MS));
        self.unread.waiting.push((target, until, with_accounts, reply));
        self.answer_statuses();
    }

    /// Answers those who waited long enough.
    pub(super) fn answer_statuses(&mut self) {
        if self.unread.waiting.is_empty() {
            return;
        }
        let (idle_at, now) = (self.unread.idle_at, self.now);
        let is_due = |(target, until, ..): &(u64, MonoNs, bool, Sender<Status>)| {
            *until <= now || idle_at.is_some_and(|index| *target != u64::MAX && index >= *target)
        };
        let (due, left) = std::mem::take(&mut self.unread.waiting).into_iter().partition(is_due);
        self.unread.waiting = left;
        let due: Vec<(u64, MonoNs, bool, Sender<Status>)> = due;
        for (target, _, with_accounts, reply) in due {
            let unread = idle_at.is_none_or(|index| index < target) && self.is_ring_unread();
            // Whoever asked may be gone.
            let _ = reply.send(self.status(with_accounts, unread));
        }
    }
}
