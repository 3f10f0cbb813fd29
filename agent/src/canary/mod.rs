//! Canaries: this node does at each peer what a user would do, and says how it went.
//!
//! Owns: one thread for each peer, which connects to the peer's IMAP service, logs in, reads a message that it knows
//! and at times writes one ([`round`]); and this node's words on its peers ([`word`]). What can hurt: a peer that
//! hangs; each round has its own end, and a late one counts as failing before that. Refuses: verdicts. The words of
//! several healthy observers are needed before a node loses its lease.

pub mod imap;
pub mod round;
pub mod word;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use understudy_types::id::NodeId;

use self::round::Canary;
pub use self::round::Login;
pub use self::word::{Track, Word, Words};
use crate::clock::{self, MonoNs};
use crate::config::address::Service;
use crate::config::model::Config;
use crate::limits::CANARY_PASSWORD_BYTES_MAX;

/// Whom to watch, and how.
#[derive(Clone, Debug)]
pub struct CanaryConfig {
    pub node: NodeId,
    /// Peers and their IMAP services.
    pub peers: Vec<(NodeId, String)>,
    /// Time between two rounds.
    pub every: Duration,
    /// Account, and the file with its password: read anew for each round. Without it, a greeting is enough.
    pub account: Option<(String, PathBuf)>,
}

impl CanaryConfig {
    /// As configured; `None` when switched off or when there is nobody to watch.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let failover = &config.failover;
        let address = |node| Some((node, config.store_address(node, Service::Imap)?));
        let peers: Vec<_> = config.peers.iter().filter_map(|peer| address(peer.node_id())).collect();
        let account = failover.canary_account.clone().zip(failover.canary_password_file.clone());
        let every = Duration::from_millis(failover.canary_ms);
        (!every.is_zero() && !peers.is_empty()).then(|| Self { node: config.node_id(), peers, every, account })
    }
}

/// Running canaries. Dropping it ends them, each at the end of its round.
#[derive(Debug)]
pub struct Canaries {
    tracks: Vec<(NodeId, Arc<Mutex<Track>>)>,
    _stop: Sender<()>,
}

impl Canaries {
    /// Starts one thread for each peer.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(config: &CanaryConfig) -> std::io::Result<Self> {
        // Nothing is ever sent on it: the threads end when its sender is dropped.
        let (stop, stopped) = bounded::<()>(0);
        let mut tracks = Vec::new();
        for (peer, address) in &config.peers {
            let track = Arc::new(Mutex::new(Track::default()));
            let (kept, stopped) = (Arc::clone(&track), stopped.clone());
            let (every, account) = (config.every, config.account.clone());
            let mut canary = Canary::new(config.node, address.clone());
            let run = move || {
                let mut number = 0;
                loop {
                    let begun = clock::mono();
                    kept.lock().unwrap_or_else(PoisonError::into_inner).on_begin(begun);
                    number = clock::wall_ns().max(number + 1);
                    let result = login(account.as_ref())
                        .and_then(|login| canary.round(login.as_ref(), number).map_err(|error| error.to_string()));
                    let now = clock::mono();
                    kept.lock().unwrap_or_else(PoisonError::into_inner).on_end(result, now);
                    let left = Duration::from_nanos(begun.after(every).since_ns(now));
                    if stopped.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            };
            std::thread::Builder::new().name(format!("canary {peer}")).spawn(run)?;
            tracks.push((*peer, track));
        }
        Ok(Self { tracks, _stop: stop })
    }

    /// What this node says of its peers now. `is_healthy`: it is neither late nor starved (`Suspicions::is_healthy`).
    #[must_use]
    pub fn words(&self, is_healthy: bool, now: MonoNs) -> Words {
        let tracks = self.tracks();
        Words::of(tracks.iter().map(|(peer, track)| (*peer, track)), is_healthy, now)
    }

    /// How the canary of each peer stands.
    #[must_use]
    pub fn tracks(&self) -> Vec<(NodeId, Track)> {
        let copy = |(peer, track): &(NodeId, Arc<Mutex<Track>>)| {
            (*peer, track.lock().unwrap_or_else(PoisonError::into_inner).clone())
        };
        self.tracks.iter().map(copy).collect()
    }
}

fn login(account: Option<&(String, PathBuf)>) -> Result<Option<Login>, String> {
    let Some((account, file)) = account else { return Ok(None) };
    let read = std::fs::read(file).map_err(|error| format!("cannot read `{}`: {error}", file.display()))?;
    let text = String::from_utf8_lossy(&read[..read.len().min(CANARY_PASSWORD_BYTES_MAX)]).into_owned();
    let password = text.lines().next().unwrap_or_default().trim_end().to_owned();
    Ok(Some(Login { account: account.clone(), password }))
}
