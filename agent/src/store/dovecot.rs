//! Dovecot, through its replay service: a blocking client over the service's UNIX socket.
//!
//! Owns: one connection and the account it is set to; it is opened when needed, dropped at the first thing that is not
//! as the protocol says, and opened again at the next call. What can hurt: a service that hangs (every read and write
//! has a time-out, without progress), one that was restarted since the last call (the request is sent once more: all
//! of them can be repeated), and replies of any length and content (bounded, checked, then used). Refuses: trusting
//! that the service keeps order; every reply carries its request's number.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use understudy_types::op::Op;

use super::{ApplyItem, DumpOptions, MailboxMark, Outcome, RaiseGap, Status, Store, StoreError};
use crate::limits::{
    STORE_ANSWER_MS_MAX, STORE_DUMP_MS_MAX, STORE_REQUEST_BYTES, STORE_REQUEST_OPS_MAX, STORE_TIMEOUT_MS,
};

mod takeover;
mod wire;

use wire::{Connection, Reply, command};

/// How to reach a replay service.
#[derive(Clone, Debug)]
pub struct DovecotConfig {
    /// The service's socket, `<base_dir>/understudy-replay`.
    pub socket: PathBuf,
    /// Folder that bodies of a dump go to; needed for [`DumpOptions::bodies`] only.
    pub spool: Option<PathBuf>,
    /// Longest time without a byte of progress.
    pub timeout: Duration,
    /// As `timeout`, for a dump: without bodies, and with.
    pub timeout_dump: [Duration; 2],
}

impl DovecotConfig {
    /// With the usual time-outs.
    #[must_use]
    pub fn new(socket: PathBuf, spool: Option<PathBuf>) -> Self {
        let timeout_dump = [STORE_DUMP_MS_MAX, STORE_TIMEOUT_MS].map(Duration::from_millis);
        Self { socket, spool, timeout: Duration::from_millis(STORE_ANSWER_MS_MAX), timeout_dump }
    }
}

/// One worker's way to Dovecot.
#[derive(Debug)]
pub struct DovecotStore {
    config: DovecotConfig,
    connection: Option<Connection>,
    /// The account that the connection is set to.
    account: Option<String>,
    spool_told: bool,
}

impl DovecotStore {
    /// Does not connect yet.
    #[must_use]
    pub fn new(config: DovecotConfig) -> Self {
        Self { config, connection: None, account: None, spool_told: false }
    }

    /// Runs `work`, once more on a new connection when an old one turns out to be dead at its first request.
    fn with<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let reused = self.connection.is_some();
        let mut result = work(self);
        let retry = matches!(&result, Err(StoreError::Broken(_))) && reused;
        if matches!(&result, Err(error) if !matches!(error, StoreError::Failed { .. } | StoreError::UnknownAccount(_)))
        {
            self.drop_connection();
        }
        if retry {
            result = work(self);
            if matches!(&result, Err(StoreError::Broken(_) | StoreError::Protocol(_) | StoreError::TimedOut { .. })) {
                self.drop_connection();
            }
        }
        result
    }

    /// Runs `work` that is not to be repeated by itself. It is the first request of a connection that finds out whether
    /// it is dead, so that one is sent before.
    fn once<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.with(|store| store.connected()?.hello())?;
        let result = work(self);
        if matches!(&result, Err(error) if !matches!(error, StoreError::Failed { .. } | StoreError::UnknownAccount(_)))
        {
            self.drop_connection();
        }
        result
    }

    fn drop_connection(&mut self) {
        self.connection = None;
        self.account = None;
        self.spool_told = false;
    }

    fn connected(&mut self) -> Result<&mut Connection, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.account = None;
                self.spool_told = false;
                Connection::open(&self.config.socket, self.config.timeout)?
            }
        };
        Ok(self.connection.insert(connection))
    }

    fn request(&mut self, number: u16, body: &[u8]) -> Result<Reply, StoreError> {
        self.connected()?.request(number, body)
    }

    /// One more reply to the last request. Never on a new connection: that one was asked nothing.
    fn more(&mut self, number: u16) -> Result<Reply, StoreError> {
        match &mut self.connection {
            Some(connection) => connection.reply(number),
            None => Err(StoreError::Broken(io::Error::from(io::ErrorKind::NotConnected))),
        }
    }

    /// Sets the connection to the account. `Some` is the reply that refused it.
    fn select(&mut self, account: &str) -> Result<Option<Reply>, StoreError> {
        self.connected()?;
        if self.account.as_deref() == Some(account) {
            return Ok(None);
        }
        self.account = None;
        let reply = self.request(command::USER, account.as_bytes())?;
        if reply.status > 1 {
            return Ok(Some(reply));
        }
        self.account = Some(account.to_owned());
        Ok(None)
    }

    fn apply_some(&mut self, account: &str, items: &[Vec<u8>]) -> Result<Vec<Outcome>, StoreError> {
        self.with(|store| {
            if let Some(refused) = store.select(account)? {
                return Ok(first_of(items.len(), &refused));
            }
            let reply = store.request(command::APPLY, &wire::list(items.iter().map(Vec::as_slice)))?;
            if reply.status != 0 {
                return Ok(first_of(items.len(), &reply));
            }
            wire::outcomes(&reply.body, items.len())
        })
    }

    fn dump_all(&mut self, account: &str, options: DumpOptions, sink: &mut dyn FnMut(Op)) -> Result<(), StoreError> {
        let refuse = |detail: String| Err(StoreError::Failed { account: account.to_owned(), detail });
        self.select_or_fail(account)?;
        if options.bodies && !self.spool_told {
            let Some(spool) = self.config.spool.as_ref().and_then(|spool| spool.to_str()).map(str::to_owned) else {
                return refuse("no spool folder is configured, or its path is not UTF-8".into());
            };
            let reply = self.request(command::SPOOL, spool.as_bytes())?;
            if reply.status > 1 {
                return refuse(reply.text());
            }
            self.spool_told = true;
        }
        let flags = u32::from(options.messages || options.bodies) | u32::from(options.bodies) << 1;
        let mut body = flags.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 16]);
        let patience = self.config.timeout_dump[usize::from(options.bodies)];
        self.connected()?.set_timeout(patience)?;
        let mut reply = self.request(command::DUMP, &body)?;
        while reply.status == 0 && !reply.body.is_empty() {
            for raw in wire::runs(&reply.body) {
                let op = Op::decode(raw?).map_err(|error| StoreError::Protocol(error.to_string()))?;
                sink(op);
            }
            reply = self.more(command::DUMP)?;
        }
        let patience = self.config.timeout;
        self.connected()?.set_timeout(patience)?;
        if reply.status == 0 { Ok(()) } else { refuse(reply.text()) }
    }
}

impl Store for DovecotStore {
    fn apply(&mut self, account: &str, items: &[ApplyItem]) -> Result<Vec<Outcome>, StoreError> {
        let encoded: Vec<Vec<u8>> = items.iter().map(wire::encode).collect();
        let mut outcomes = Vec::with_capacity(items.len());
        let mut rest = encoded.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(fitting(rest));
            outcomes.extend(self.apply_some(account, now)?);
            rest = later;
            let stopped = outcomes.iter().any(|o: &Outcome| !matches!(o.status, Status::Applied | Status::AlreadySo));
            if stopped {
                outcomes.resize(items.len(), Outcome { status: Status::NotTried, detail: String::new() });
                break;
            }
        }
        Ok(outcomes)
    }

    fn dump(&mut self, account: &str, options: DumpOptions, sink: &mut dyn FnMut(Op)) -> Result<(), StoreError> {
        // The caller's sink may have seen a part.
        self.once(|store| store.dump_all(account, options, sink))
    }

    fn raise(&mut self, account: &str, gap: RaiseGap) -> Result<Vec<MailboxMark>, StoreError> {
        // Some may be raised already, and their marks lost.
        self.once(|store| store.raise_all(account, gap))
    }

    fn accounts(&mut self, sink: &mut dyn FnMut(String)) -> Result<(), StoreError> {
        self.with(|store| {
            let mut first = store.request(command::USERS, &[])?;
            loop {
                if first.status != 0 {
                    return Err(StoreError::Failed { account: String::new(), detail: first.text() });
                }
                if first.body.is_empty() {
                    return Ok(());
                }
                for raw in wire::runs(&first.body) {
                    let name = String::from_utf8(raw?.to_vec());
                    sink(name.map_err(|_| StoreError::Protocol("account name is not UTF-8".into()))?);
                }
                first = store.more(command::USERS)?;
            }
        })
    }

    fn kick(&mut self, accounts: &[String]) -> Result<u64, StoreError> {
        let mut sessions = 0;
        let mut rest = accounts;
        loop {
            let (now, later) = rest.split_at(rest.len().min(STORE_REQUEST_OPS_MAX));
            sessions += self.kick_some(now)?;
            if later.is_empty() {
                return Ok(sessions);
            }
            rest = later;
        }
    }

    fn version(&mut self) -> Result<String, StoreError> {
        self.with(|store| store.connected()?.hello())
    }
}

/// How many of the operations go into one request; at least one.
fn fitting(items: &[Vec<u8>]) -> usize {
    let mut bytes = 0;
    let fit = items.iter().take(STORE_REQUEST_OPS_MAX).take_while(|item| {
        bytes += item.len() + 4;
        bytes <= STORE_REQUEST_BYTES
    });
    fit.count().max(1)
}

/// A refusal of the whole request, as the first operation's.
fn first_of(count: usize, reply: &Reply) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome { status: Status::NotTried, detail: String::new() }; count];
    if let Some(first) = outcomes.first_mut() {
        *first = Outcome { status: Status::from_number(reply.status), detail: reply.text() };
    }
    outcomes
}

#[cfg(test)]
mod tests;
