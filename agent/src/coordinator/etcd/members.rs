//! The members of etcd: a warm connection to each, and which one is asked.
//!
//! Owns: one task for each endpoint, which connects, looks now and then how the member is, and connects anew when it is
//! not well; and the choice of the member that is asked: the one that answered last, until it fails. What can hurt: a
//! member that is frozen, or cut off from the others. The first does not answer its health check, the second knows of
//! no leader; both are then asked last. Refuses: to spread requests; one that is slow would be met again and again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::connection::{Connection, Endpoint, TlsFiles};
use super::messages::{StatusRequest, StatusResponse};
use crate::limits::{
    COORDINATOR_RETRY_MS_MAX, COORDINATOR_RETRY_MS_MIN, ETCD_CONNECT_MS_MAX, ETCD_HEALTH_MS, ETCD_HEALTH_MS_MAX,
};

const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// All members.
pub(super) struct Members {
    slots: Vec<Slot>,
    preferred: Mutex<usize>,
    /// Counts changes of any slot.
    changed: watch::Sender<u64>,
    tls: TlsFiles,
}

struct Slot {
    endpoint: Endpoint,
    state: Mutex<State>,
    /// Asks the slot's task to connect anew.
    anew: Notify,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Rises with each connection.
    serial: u64,
    /// Connected, but not to be asked first.
    ailing: bool,
    /// What is wrong, for people.
    why: String,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, and whose it is.
#[derive(Clone)]
pub(super) struct Chosen {
    pub(super) connection: Connection,
    index: usize,
    serial: u64,
}

impl Members {
    /// Begins a task for each endpoint. Inside a runtime.
    pub(super) fn start(endpoints: Vec<Endpoint>, tls: TlsFiles) -> Arc<Self> {
        let slot = |endpoint| Slot { endpoint, state: Mutex::default(), anew: Notify::new() };
        let slots: Vec<_> = endpoints.into_iter().map(slot).collect();
        let this = Arc::new(Self { slots, preferred: Mutex::new(0), changed: watch::channel(0).0, tls });
        for index in 0..this.slots.len() {
            let this = this.clone();
            tokio::spawn(async move { this.tend(index).await });
        }
        this
    }

    /// The member to ask. Waits until there is one; the caller bounds the time.
    pub(super) async fn choose(&self) -> Chosen {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(chosen) = self.now() {
                return chosen;
            }
            // The sender is in `self`.
            let _ = changed.changed().await;
        }
    }

    fn now(&self) -> Option<Chosen> {
        let first = *self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.slots.len();
        let of = |ailing: bool| {
            (0..count).map(|n| (first + n) % count).find_map(|index| {
                let state = self.slots[index].state();
                let connection = state.connection.clone().filter(|c| state.ailing == ailing && !c.is_closed())?;
                Some(Chosen { connection, index, serial: state.serial })
            })
        };
        let chosen = of(false).or_else(|| of(true))?;
        *self.preferred.lock().unwrap_or_else(PoisonError::into_inner) = chosen.index;
        Some(chosen)
    }

    /// A request to it failed: others are asked first, and it is connected to anew.
    pub(super) fn failed(&self, chosen: &Chosen, why: &str) {
        let slot = &self.slots[chosen.index];
        {
            let mut state = slot.state();
            if state.serial != chosen.serial || state.connection.is_none() {
                return;
            }
            state.connection = None;
            why.clone_into(&mut state.why);
        }
        let mut preferred = self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        if *preferred == chosen.index {
            *preferred = (chosen.index + 1) % self.slots.len();
        }
        drop(preferred);
        slot.anew.notify_one();
    }

    /// Who it is, for people.
    pub(super) fn name(&self, chosen: &Chosen) -> &str {
        self.slots[chosen.index].endpoint.authority.as_str()
    }

    /// What is wrong with each, for people.
    pub(super) fn why(&self) -> String {
        let told = self.slots.iter().map(|slot| {
            let state = slot.state();
            let why = if state.why.is_empty() { "not connected yet" } else { &state.why };
            format!("{}: {why}", slot.endpoint.authority)
        });
        told.collect::<Vec<_>>().join("; ")
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// The life of one slot.
    async fn tend(&self, index: usize) {
        let slot = &self.slots[index];
        let mut wait_ms = COORDINATOR_RETRY_MS_MIN;
        loop {
            let opening = Connection::open(&slot.endpoint, &self.tls);
            let opened = timeout(Duration::from_millis(ETCD_CONNECT_MS_MAX), opening).await;
            match opened.unwrap_or_else(|_| Err(format!("no connection within {ETCD_CONNECT_MS_MAX} ms"))) {
                Err(why) => slot.state().why = why,
                Ok(connection) => {
                    {
                        let mut state = slot.state();
                        state.connection = Some(connection.clone());
                        state.serial += 1;
                    }
                    self.tell();
                    let looks = self.look_after(slot, connection).await;
                    slot.state().connection = None;
                    if looks > 0 {
                        wait_ms = COORDINATOR_RETRY_MS_MIN;
                    }
                }
            }
            sleep(Duration::from_millis(wait_ms)).await;
            wait_ms = (2 * wait_ms).min(COORDINATOR_RETRY_MS_MAX);
        }
    }

    /// Returns when the connection is no good any more, with the number of health checks that were answered.
    async fn look_after(&self, slot: &Slot, connection: Connection) -> u32 {
        let mut closing = connection.clone();
        let mut looks = 0;
        loop {
            let look = async {
                sleep(Duration::from_millis(if looks == 0 { 0 } else { ETCD_HEALTH_MS })).await;
                let ask = connection.call::<_, StatusResponse>(STATUS, StatusRequest {}, None);
                timeout(Duration::from_millis(ETCD_HEALTH_MS_MAX), ask).await
            };
            let looked = tokio::select! {
                () = slot.anew.notified() => return looks,
                () = closing.closed() => {
                    slot.state().why = "it closed the connection".to_owned();
                    return looks;
                }
                looked = look => looked,
            };
            let why = match looked {
                Err(_) => {
                    let mut state = slot.state();
                    state.ailing = true;
                    state.why = format!("no answer to a health check within {ETCD_HEALTH_MS_MAX} ms");
                    return looks;
                }
                Ok(Ok(status)) if status.leader != 0 => String::new(),
                Ok(Ok(_)) => "it knows of no leader".to_owned(),
                // With users switched on, who is not logged in is not told; but it answered.
                Ok(Err(status)) if super::calls::is_login(&status) => String::new(),
                Ok(Err(status)) => status.message().to_owned(),
            };
            looks += 1;
            let told = {
                let mut state = slot.state();
                let ailing = !why.is_empty();
                state.why = why;
                std::mem::replace(&mut state.ailing, ailing) != ailing
            };
            if told {
                self.tell();
            }
        }
    }
}
