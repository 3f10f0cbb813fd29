//! What failover asks of Dovecot: counters told and raised, sessions ended.
//!
//! Owns: these requests and their answers. What can hurt: raising is not repeated by itself, because a second time it
//! would tell another state than the one that was; so an answer may be lost on its way, and the caller reads first and
//! keeps what it read. Refuses: more mailboxes of an account than the limit.

use understudy_types::op::Op;

use super::wire::{self, command};
use super::{DovecotStore, Status};
use crate::limits::STORE_MAILBOXES_MAX;
use crate::store::{MailboxMark, RaiseGap, StoreError};

impl DovecotStore {
    /// Sets the connection to the account, or says why not.
    pub(super) fn select_or_fail(&mut self, account: &str) -> Result<(), StoreError> {
        let Some(refused) = self.select(account)? else { return Ok(()) };
        match Status::from_number(refused.status) {
            Status::UnknownUser => Err(StoreError::UnknownAccount(account.to_owned())),
            _ => Err(StoreError::Failed { account: account.to_owned(), detail: refused.text() }),
        }
    }

    pub(super) fn raise_all(&mut self, account: &str, gap: RaiseGap) -> Result<Vec<MailboxMark>, StoreError> {
        self.select_or_fail(account)?;
        let body = [&gap.uid.to_le_bytes()[..], &gap.modseq.to_le_bytes()].concat();
        let mut reply = self.request(command::RAISE, &body)?;
        let mut marks = Vec::new();
        while reply.status == 0 && !reply.body.is_empty() {
            for raw in wire::runs(&reply.body) {
                marks.push(mark(raw?)?);
                if marks.len() > STORE_MAILBOXES_MAX {
                    return Err(StoreError::Protocol(format!("more than `{STORE_MAILBOXES_MAX}` mailboxes")));
                }
            }
            reply = self.more(command::RAISE)?;
        }
        match reply.status {
            0 => Ok(marks),
            _ => Err(StoreError::Failed { account: account.to_owned(), detail: reply.text() }),
        }
    }

    /// Of one request: nobody named is everybody.
    pub(super) fn kick_some(&mut self, accounts: &[String]) -> Result<u64, StoreError> {
        self.with(|store| {
            let names = accounts.iter().map(|name| name.as_bytes());
            let reply = store.request(command::KICK, &wire::list(names))?;
            match (reply.status, <[u8; 8]>::try_from(reply.body.as_slice())) {
                (0, Ok(sessions)) => Ok(u64::from_le_bytes(sessions)),
                (0, Err(_)) => Err(StoreError::Protocol("the count of sessions is not a number".into())),
                _ => Err(StoreError::Failed { account: String::new(), detail: reply.text() }),
            }
        })
    }
}

fn mark(bytes: &[u8]) -> Result<MailboxMark, StoreError> {
    match Op::decode(bytes) {
        Ok(Op::MailboxUpdated { mailbox, .. }) => Ok(MailboxMark {
            guid: mailbox.guid,
            name: mailbox.name,
            uid_validity: mailbox.uid_validity,
            next_uid: mailbox.next_uid,
            highest_modseq: mailbox.highest_modseq,
        }),
        Ok(_) => Err(StoreError::Protocol("a row of counters is another operation".into())),
        Err(error) => Err(StoreError::Protocol(error.to_string())),
    }
}
