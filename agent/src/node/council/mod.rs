//! The council: the thread that runs the decider of failover, and carries out what it wants.
//!
//! Owns: the decider, the coordinator's client, the ring's time limit, and what is said to peers. What can hurt:
//! waiting for anything: a lease is lost by it. So the event loop, the coordinator, the peers and the store are only
//! ever told; kicks and hooks run in threads of their own. Refuses: deciding.

pub(super) mod kick;
mod posture;
mod translate;
mod word;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use understudy_ring::WriteLease;
use understudy_types::id::{GroupId, NodeId};

use super::query::Query;
use crate::clock;
use crate::coordinator::client::{CoordinatorClient, CoordinatorEvent};
use crate::coordinator::record::Name;
use crate::failover::decide::Decider;
use crate::failover::plan::Facts;
use crate::failover::{Action, Change, Input, Record, Said, Settings};
use crate::fence::watchdog::Watchdog;
use crate::limits::{COUNCIL_END_MS_MAX, COUNCIL_TICK_MS};
use crate::metrics::Metrics;
use crate::pause::Pauses;
use crate::transport::TransportHandle;
use posture::Chores;
pub(crate) use posture::Posture;
pub(crate) use word::Word;

/// The event loop's way to the council; deaf when nobody shares groups.
#[derive(Clone, Default)]
pub(crate) struct Council {
    inputs: Option<Sender<Input>>,
    asks: Option<Sender<Ask>>,
}

impl Council {
    /// With channels that the council's thread reads.
    pub(crate) fn new(inputs: Sender<Input>, asks: Sender<Ask>) -> Self {
        Self { inputs: Some(inputs), asks: Some(asks) }
    }

    /// Tells the decider something.
    pub(crate) fn tell(&self, input: Input) {
        if let Some(inputs) = &self.inputs {
            // It is gone only when the agent stops.
            let _ = inputs.send(input);
        }
    }

    /// The agent stops: waits for a moment until the watchdog is let go.
    pub(crate) fn end(&self) {
        let (reply, done) = bounded(1);
        if self.asks.as_ref().is_some_and(|asks| asks.send(Ask::End { reply }).is_ok()) {
            // A council that hangs does not keep the agent from stopping.
            let _ = done.recv_timeout(Duration::from_millis(COUNCIL_END_MS_MAX));
        }
    }

    /// A peer's words arrived.
    pub(crate) fn heard(&self, peer: NodeId, words: &[u8]) {
        match serde_json::from_slice::<Word>(words) {
            Ok(word) => word.inputs(peer).into_iter().for_each(|input| self.tell(input)),
            Err(error) => tracing::debug!(peer = peer.get(), %error, "words of a peer that are not understood"),
        }
    }
}

/// A question to the decider, from another thread.
pub(crate) enum Ask {
    /// Everything that it knows, as JSON.
    Overview { reply: Sender<serde_json::Value> },
    /// Every rule with its present outcome.
    Explain { group: GroupId, reply: Sender<Vec<Said>> },
    /// The agent stops.
    End { reply: Sender<()> },
    /// What a plan of placement is made of; the plan itself takes longer than a lease may wait.
    Placement { reply: Sender<Facts> },
}

/// What the thread works with.
pub(super) struct Parts {
    pub settings: Settings,
    pub coordinator: CoordinatorClient,
    pub events: Receiver<CoordinatorEvent>,
    pub inputs: Receiver<Input>,
    pub asks: Receiver<Ask>,
    pub transport: TransportHandle,
    pub lease: WriteLease,
    pub queries: Sender<Query>,
    pub pauses: Pauses,
    pub metrics: Arc<Metrics>,
}

/// Starts the thread.
///
/// # Errors
/// When it cannot be made.
pub(super) fn start(parts: Parts, watchdog: Option<Watchdog>) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("council".into()).spawn(move || run(&parts, Chores::new(watchdog)))
}

fn run(parts: &Parts, mut chores: Chores) {
    let mut decider = Decider::new(parts.settings.clone(), clock::boot());
    let mut next_tick = clock::boot();
    loop {
        let mut inputs = Vec::new();
        let pause = Duration::from_nanos(next_tick.since_ns(clock::boot()));
        crossbeam::channel::select! {
            recv(parts.inputs) -> input => match input {
                Ok(input) => inputs.push(input),
                Err(_) => return,
            },
            recv(parts.events) -> event => match event {
                Ok(event) => inputs.extend(heard(parts, event)),
                Err(_) => return,
            },
            recv(parts.asks) -> ask => match ask {
                Ok(Ask::End { reply }) => {
                    chores.end();
                    // Whoever asked may have given up.
                    let _ = reply.send(());
                    return;
                }
                Ok(ask) => answer(&decider, ask),
                Err(_) => {}
            },
            default(pause) => {}
        }
        inputs.extend(parts.events.try_iter().filter_map(|event| heard(parts, event)));
        inputs.extend(parts.inputs.try_iter());
        let now = clock::boot();
        if now >= next_tick {
            next_tick = now.after_ns(COUNCIL_TICK_MS * 1_000_000);
            inputs.push(Input::Tick { wall_ns: clock::wall_ns() });
        }
        for input in inputs {
            note_pauses(&parts.pauses, &input);
            for action in decider.on(input, clock::boot()) {
                if let Action::WriteUntil { until } = &action {
                    chores.until = *until;
                }
                if act(parts, action) {
                    chores.end();
                    return;
                }
            }
        }
        chores.turn(parts, &decider);
    }
}

/// Keeps what replay asks up to date.
fn note_pauses(pauses: &Pauses, input: &Input) {
    let of = |change: &Change| match (&change.name, &change.record) {
        (Name::Pause(id), Some(Record::Pause(pause))) => Some((id.clone(), Some(pause.clone()))),
        (Name::Pause(id), None) => Some((id.clone(), None)),
        _ => None,
    };
    match input {
        Input::Whole { changes, .. } => {
            pauses.set_cluster(changes.iter().filter_map(of).filter_map(|(id, pause)| Some((id, pause?))));
        }
        Input::Changed { changes } => {
            changes.iter().filter_map(of).for_each(|(id, pause)| pauses.change_cluster(&id, pause));
        }
        _ => {}
    }
}

/// What the decider is told of an event.
fn heard(parts: &Parts, event: CoordinatorEvent) -> Option<Input> {
    if let CoordinatorEvent::Answer { rtt_ns, .. } = &event {
        parts.metrics.failover.coordinator_request.observe(Duration::from_nanos(*rtt_ns).as_secs_f64());
    }
    translate::input(event)
}

fn answer(decider: &Decider, ask: Ask) {
    // Whoever asked may have given up.
    match ask {
        Ask::Overview { reply } => {
            let overview = serde_json::to_value(decider.overview(clock::boot())).unwrap_or_default();
            let _ = reply.send(overview);
        }
        Ask::End { .. } => {}
        Ask::Explain { group, reply } => drop(reply.send(decider.explain(group, clock::boot()))),
        Ask::Placement { reply } => drop(reply.send(decider.placement_facts(clock::boot()))),
    }
}

/// `true` when the council is over.
fn act(parts: &Parts, action: Action) -> bool {
    if let Some((peer, words)) = Word::of(&action) {
        for word in words {
            let sent = serde_json::to_vec(&word).map(|text| parts.transport.send_council(peer, text));
            // Asked again, or counted as not given.
            if let Ok(Err(error)) = sent {
                tracing::debug!(peer = peer.get(), %error, "a word did not go out");
            }
        }
        return false;
    }
    match action {
        Action::Transact { id, expect, write } => {
            parts.coordinator.submit(id, translate::transaction(expect, write));
        }
        Action::Reread => parts.coordinator.reread(),
        Action::WriteUntil { until } => parts.lease.set_until(until.0),
        Action::Desire(desired) => drop(parts.queries.send(Query::Desire(Box::new(desired)))),
        Action::Kick { groups } => drop(parts.queries.send(Query::Kick { groups })),
        Action::Fence { node } => {
            let _ = parts.queries.send(Query::Fence { node });
        }
        Action::Say(said) => {
            tracing::info!(
                rule = said.rule,
                group = said.group.map(|group| group.0),
                holds = said.holds,
                left_ms = said.left_ns / 1_000_000,
                "{}",
                said.text
            );
            let _ = parts.queries.send(Query::Said(said));
        }
        Action::Reply { id, result } => drop(parts.queries.send(Query::Ordered { id, result })),
        Action::Stopped => return true,
        Action::AskPromise { .. }
        | Action::Promise { .. }
        | Action::AskCandidate { .. }
        | Action::TellCandidate { .. } => {}
    }
    false
}
