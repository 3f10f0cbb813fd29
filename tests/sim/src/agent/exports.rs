//! Snapshots, debts and bodies, as `agent/src/node/exports.rs` and `debts.rs` have them, and the threads behind them:
//! exporters (`resync/export.rs`) and uploaders (`blob/upload.rs`).
//!
//! Owns: the begin and the end of a snapshot in the group's stream. What can hurt: a store that is read in one instant
//! is kinder than a real one; so a dump of several mailboxes may be read in two parts, with changes between them.
//! Refuses: making plans.

use std::collections::BTreeSet;

use understudy_agent::limits::{UPLOAD_RETRY_MS_MAX, UPLOAD_RETRY_MS_MIN};
use understudy_agent::resync::{Job, numbered};
use understudy_agent::store::{DumpOptions, Store};
use understudy_types::id::{BlobId, GroupId, MailboxGuid, NodeId};
use understudy_types::op::Op;

use super::{Agent, Exported, Out};
use crate::bodies::Upload;
use crate::event::Wake;
use crate::host::Host;

impl Agent {
    /// The account's group, if placement says that it is active here.
    pub(super) fn own_group(&self, account: &str) -> Option<GroupId> {
        self.accounts.get(account).copied().filter(|group| self.active_of(*group) == Some(self.me))
    }

    /// A sign of life of an account: it gets its first copy if it had none.
    pub(super) fn seen(&mut self, account: &str) {
        let Some(own) = self.own_group(account).and_then(|group| self.own.get(&group)) else { return };
        let copied = self.copied.get(account).cloned().unwrap_or_default();
        let copied = own.replicas.iter().all(|node| copied.contains(node));
        if !copied && !self.exports.contains(account) && !self.is_ending(account) {
            self.exports.want(account, true, "first copy");
        }
    }

    /// Makes a debt of each of these accounts that is active here. `false` = an agent after this one may not know.
    pub(super) fn want_exports<'a>(
        &mut self,
        accounts: impl Iterator<Item = &'a str>,
        bodies: bool,
        host: &Host,
    ) -> bool {
        let own: Vec<&str> = accounts.filter(|account| self.own_group(account).is_some()).collect();
        let kept = host.memory.owe(own.iter().copied(), bodies);
        for account in own {
            *self.owed.entry(account.to_owned()).or_default() |= bodies;
            self.exports.want(account, bodies, "wanted");
        }
        kept
    }

    /// Takes up what the agent before this one owed.
    pub(super) fn resume_debts(&mut self, host: &Host) {
        for (account, bodies) in self.owed.clone() {
            if self.own_group(&account).is_some() {
                self.exports.want(&account, bodies, "owed");
            } else {
                self.ask_active(&account, host);
            }
        }
        let names: Vec<String> = self.accounts.keys().cloned().collect();
        names.iter().for_each(|account| self.seen(account));
    }

    /// What accounts of a group owe, now that it is active here.
    pub(super) fn take_up_debts(&mut self, group: GroupId) {
        for (account, bodies) in self.owed.clone() {
            if self.accounts.get(&account) == Some(&group) {
                self.foreign_asked.remove(&account);
                self.exports.want(&account, bodies, "owed");
            }
        }
    }

    /// A ring that is not the one of the last run took records along that no journal has.
    pub(super) fn new_ring(&mut self, host: &Host) {
        let before = host.memory.ring_generation();
        if before == host.ring.generation {
            return;
        }
        if before != 0 {
            let names: Vec<String> = self.accounts.keys().cloned().collect();
            if !self.want_exports(names.iter().map(String::as_str), false, host) {
                return;
            }
        }
        host.memory.set_ring_generation(host.ring.generation);
    }

    /// A change of an account that is active elsewhere was made here: its active is asked until it says that it will.
    pub(super) fn ask_active(&mut self, account: &str, host: &Host) {
        // What could not be noted is asked for all the same.
        let _ = host.memory.owe(std::iter::once(account), true);
        self.owed.insert(account.to_owned(), true);
        self.foreign_asked.insert(account.to_owned());
    }

    pub(super) fn is_ending(&self, account: &str) -> bool {
        self.snapshot_ends.iter().any(|(_, _, ending)| ending == account)
    }

    pub(super) fn snapshots_durable(&mut self, group: GroupId, journaled: u64, host: &mut Host) {
        let done = |(of, seq, _): &(GroupId, u64, String)| *of == group && *seq <= journaled;
        let ended = self.snapshot_ends.iter().filter(|end| done(end)).map(|(_, _, account)| account.clone());
        let ended: Vec<String> = ended.collect();
        self.snapshot_ends.retain(|end| !done(end));
        for account in ended {
            let replicas: BTreeSet<NodeId> =
                self.own.get(&group).map(|own| own.replicas.iter().copied().collect()).unwrap_or_default();
            host.memory.copied(&account, &replicas);
            self.copied.insert(account.clone(), replicas);
            self.settle(&account, host);
        }
    }

    /// A snapshot's end is durable.
    fn settle(&mut self, account: &str, host: &Host) {
        // One that began before the last debt was made does not count, and another is then wanted.
        if self.exports.contains(account) || self.is_ending(account) {
            return;
        }
        self.owed.remove(account);
        host.memory.settled(account);
    }

    /// An exporter's thread takes up a job.
    pub(super) fn start_export(&mut self, job: Job, out: &mut Out) {
        self.exported.push_back(Exported::Begin { account: job.account, bodies: job.bodies });
        self.poke(out);
    }

    /// Takes what an export hands over.
    pub(super) fn export_event(&mut self, event: Exported, host: &mut Host, out: &mut Out) {
        match event {
            Exported::Begin { account, bodies } => {
                let Some(group) = self.own_group(&account) else {
                    // The real exporter waits for a number that never comes; here it ends at once.
                    self.exported.push_back(Exported::End { account, result: Err("not active here".into()) });
                    return;
                };
                self.last_snapshot = out.wall_ns().max(self.last_snapshot + 1);
                let snapshot = self.last_snapshot;
                let begin = Op::ResyncBegin { snapshot };
                out.say(format_args!("n{} snapshot {snapshot} of {account} begins", self.me));
                if self.push(group, &account, &begin.encode(), None, host, out).is_some() {
                    let (low, high) = out.plan.export_ns;
                    let delay = out.random.within(low, high);
                    self.wake_after(delay, Wake::Export { account, snapshot, bodies }, out);
                }
            }
            Exported::Op { account, op } => {
                let Some(group) = self.own_group(&account) else { return };
                let blob = op.blob();
                // Bodies of a snapshot hold back no acknowledgement: nobody waits for mail that was there before.
                if let (Some(_), Some(blob)) = (self.push(group, &account, &op.encode(), None, host, out), blob) {
                    self.want(blob, out);
                }
            }
            Exported::End { account, result } => self.export_end(&account, result, host, out),
        }
    }

    fn export_end(&mut self, account: &str, result: Result<u64, String>, host: &mut Host, out: &mut Out) {
        let done = match (result, self.own_group(account)) {
            (Ok(snapshot), Some(group)) => {
                let end = Op::ResyncEnd { snapshot };
                match self.push(group, account, &end.encode(), None, host, out) {
                    Some(seq) => {
                        out.say(format_args!("n{} snapshot {snapshot} of {account} ends at {seq}", self.me));
                        self.snapshot_ends.push((group, seq, account.to_owned()));
                        for ((of, _), resync) in &mut self.peer_resync {
                            let counts = *of == group && snapshot > resync.after_snapshot;
                            if counts && resync.accounts.remove(account) {
                                resync.until_seq = resync.until_seq.max(seq);
                            }
                        }
                        true
                    }
                    None => false,
                }
            }
            (Err(error), Some(_)) => {
                out.say(format_args!("n{} snapshot of {account} fails: {error}", self.me));
                false
            }
            (_, None) => true,
        };
        self.exports.ended(account, done, self.now);
    }

    /// An exporter reads the store: all of it, or the first mailboxes now and the others a moment later.
    pub(super) fn export_reads(&mut self, account: &str, snapshot: u64, bodies: bool, out: &mut Out) {
        let first_part = self.export_parts.remove(account);
        let mut ops = Vec::new();
        let options = DumpOptions { messages: true, bodies };
        if let Err(error) = self.door.dump(account, options, &mut |op| ops.push(op)) {
            let result = Err(error.to_string());
            self.exported.push_back(Exported::End { account: account.to_owned(), result });
            self.poke(out);
            return;
        }
        let mailboxes: BTreeSet<MailboxGuid> = ops.iter().filter_map(Op::mailbox).collect();
        // Of those that the first part did not read; what belongs to no mailbox comes with the last part.
        let now: BTreeSet<MailboxGuid> = match &first_part {
            Some(read) => mailboxes.difference(read).copied().collect(),
            None if mailboxes.len() > 1 && out.random.chance(300) => {
                mailboxes.iter().copied().take(mailboxes.len() / 2).collect()
            }
            None => mailboxes.clone(),
        };
        let is_last = first_part.is_some() || now.len() == mailboxes.len();
        for op in ops {
            let wanted = op.mailbox().map_or(is_last, |guid| now.contains(&guid));
            if wanted {
                let op = numbered(op, snapshot);
                self.exported.push_back(Exported::Op { account: account.to_owned(), op });
            }
        }
        if is_last {
            self.exported.push_back(Exported::End { account: account.to_owned(), result: Ok(snapshot) });
        } else {
            self.export_parts.insert(account.to_owned(), now);
            let delay = out.random.within(1_000, 20_000_000);
            self.wake_after(delay, Wake::Export { account: account.to_owned(), snapshot, bodies }, out);
        }
        self.poke(out);
    }

    /// A body is to be in central storage.
    pub(super) fn want(&mut self, blob: BlobId, out: &mut Out) {
        if self.wanted.insert(blob, 0).is_none() {
            let (low, high) = out.plan.upload_ns;
            let delay = out.random.within(low, high);
            self.wake_after(delay, Wake::Upload(blob), out);
        }
    }

    /// An uploader's turn.
    pub(super) fn upload(&mut self, blob: BlobId, out: &mut Out) {
        if !self.fuse.burn() {
            return;
        }
        match out.central.upload(self.me.get(), blob) {
            Upload::Durable => {
                self.wanted.remove(&blob);
                self.stored.push_back(blob);
                self.poke(out);
            }
            Upload::Lost => {
                self.wanted.remove(&blob);
                self.body_lost.push_back(blob);
                self.poke(out);
            }
            Upload::Failing => {
                let attempt = self.wanted.entry(blob).or_default();
                *attempt += 1;
                let wait = (UPLOAD_RETRY_MS_MIN << (*attempt).min(8)).min(UPLOAD_RETRY_MS_MAX);
                self.wake_after(wait * 1_000_000, Wake::Upload(blob), out);
            }
        }
    }

    pub(super) fn body_durable(&mut self, blob: BlobId) {
        for (group, own) in &mut self.own {
            if own.acks.needs_body(blob) {
                own.acks.body_durable(blob);
                self.dirty.insert(*group);
            }
        }
    }

    pub(super) fn body_is_lost(&mut self, blob: BlobId, host: &Host) {
        let accounts: Vec<String> = self.own.values().flat_map(|own| own.acks.accounts_of_body(blob)).collect();
        self.want_exports(accounts.iter().map(String::as_str), true, host);
    }
}
