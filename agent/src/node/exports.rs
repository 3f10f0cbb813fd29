//! The event loop's side of snapshots and bodies: what exporters hand over, what uploaders report.
//!
//! Owns: the begin and the end of a snapshot in the group's stream, and what follows when the end is durable. What can
//! hurt: an account that is marked as copied before its snapshot is on disk; the mark waits for the journal.

use std::collections::BTreeSet;

use understudy_types::id::GroupId;
use understudy_types::op::Op;

use super::core::Core;
use crate::blob::upload::UploadEvent;
use crate::clock;
use crate::resync::ExportEvent;

impl Core {
    pub(super) fn snapshots_durable(&mut self, group: GroupId, journaled: u64) {
        let done = |(of, seq, _): &(GroupId, u64, String)| *of == group && *seq <= journaled;
        let ended: Vec<String> =
            self.snapshot_ends.iter().filter(|end| done(end)).map(|(_, _, account)| account.clone()).collect();
        self.snapshot_ends.retain(|end| !done(end));
        for account in ended {
            let replicas = self.own.get(&group).map(|own| own.replicas.iter().copied().collect()).unwrap_or_default();
            if let Err(error) = self.accounts.copied([account.as_str()], &replicas) {
                tracing::warn!(account, %error, "cannot remember the first copy; it is made again after a restart");
            }
            self.settle(&account);
        }
    }

    /// Takes what an uploader reports.
    pub(crate) fn upload_event(&mut self, event: UploadEvent) {
        match event {
            UploadEvent::Durable { id, stored_bytes, took_ns } => {
                self.metrics.blob_put.observe(super::gauges::seconds(took_ns));
                let outcome = if stored_bytes == 0 { "already" } else { "stored" };
                self.metrics.blob_puts.get_or_create(&crate::metrics::Blob::new(outcome)).inc();
                for (group, own) in &mut self.own {
                    if own.acks.needs_body(id) {
                        own.acks.body_durable(id);
                        self.dirty.insert(*group);
                    }
                }
            }
            UploadEvent::Failing { id, reason } => {
                self.metrics.blob_puts.get_or_create(&crate::metrics::Blob::new("failed")).inc();
                tracing::warn!(blob = %id, reason, "a body cannot be put into central storage; it is tried again");
            }
            UploadEvent::Lost { id } => {
                let accounts: BTreeSet<String> =
                    self.own.values().flat_map(|own| own.acks.accounts_of_body(id)).collect();
                tracing::warn!(blob = %id, accounts = accounts.len(), "a body is not in the spool any more; it is exported again");
                accounts.iter().for_each(|account| self.want_export(account, true, "a body was lost from the spool"));
            }
        }
    }

    /// Takes what an export hands over.
    pub(crate) fn export_event(&mut self, event: ExportEvent) {
        match event {
            ExportEvent::Begin { account, number } => {
                let Some(group) = self.view.read().own_group(&account) else { return };
                self.last_snapshot = clock::wall_ns().max(self.last_snapshot + 1);
                let begin = Op::ResyncBegin { snapshot: self.last_snapshot };
                if self.push(group, &account, clock::wall_ns(), &begin.encode(), None).is_some() {
                    // The export waits for this number and is gone only at shutdown.
                    let _ = number.send(self.last_snapshot);
                }
            }
            ExportEvent::Op { account, op } => {
                let Some(group) = self.view.read().own_group(&account) else { return };
                let blob = op.blob();
                // Bodies of a snapshot hold back no acknowledgement: nobody waits for mail that was there before.
                if let (Some(_), Some(blob)) = (self.push(group, &account, clock::wall_ns(), &op.encode(), None), blob)
                {
                    self.uploader.want(blob);
                }
            }
            ExportEvent::End { account, result } => self.export_end(&account, result),
        }
    }

    fn export_end(&mut self, account: &str, result: Result<u64, String>) {
        let group = self.view.read().own_group(account);
        let done = match (result, group) {
            (Ok(snapshot), Some(group)) => {
                let end = Op::ResyncEnd { snapshot };
                match self.push(group, account, clock::wall_ns(), &end.encode(), None) {
                    Some(seq) => {
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
                tracing::warn!(account, error, "an account cannot be exported; it is tried again");
                false
            }
            (_, None) => true,
        };
        let outcome = crate::metrics::Outcome::new(if done { "done" } else { "failed" });
        self.metrics.resyncs.get_or_create(&outcome).inc();
        self.queue.ended(account, done, self.now);
    }
}
