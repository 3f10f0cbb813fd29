//! The node: one event loop that sees both paths, and the threads around it.
//!
//! Owns: what is started in which order, what is waited for in one place (`run_loop`), and that nothing goes on when
//! the journal has failed. What can hurt: an order in which an operation could be acknowledged before its journal is
//! open; so the ring is attached last. Refuses: everything that a stage can do by itself.

mod accounts;
pub mod acks;
mod admin;
mod availability;
mod board;
mod census;
mod compare;
mod convene;
mod core;
mod council;
mod debts;
mod exports;
mod gauges;
mod merging;
mod opening;
mod held;
mod holds;
mod orders;
mod pausing;
mod parked;
mod peers;
mod posture;
mod query;
mod raise;
mod remote;
mod roles;
mod routing;
mod senses;
mod stands;
mod start;
mod status;
mod stood;
mod undo;
mod verify;
mod watch;

use std::time::Duration;

use crossbeam::channel::{Receiver, select};

use self::core::Core;
use self::query::Query;
use crate::apply::ApplyEvent;
use crate::blob::upload::UploadEvent;
use crate::capture::Captured;
use crate::clock::{self, MonoNs};
use crate::config::Loaded;
use crate::control::systemd;
use crate::journal::Need;
use crate::limits::{RETAIN_MS, TURN_EVENTS_MAX, TURN_MS_MAX};
use crate::resync::ExportEvent;
use crate::ship::ShipEvent;
use crate::transport::TransportEvent;

/// Everything the event loop waits for.
struct Inbox {
    captured: Receiver<Captured>,
    journal: Receiver<crate::journal::JournalEvent>,
    transport: Receiver<TransportEvent>,
    applied: Receiver<ApplyEvent>,
    uploads: Receiver<UploadEvent>,
    exports: Receiver<ExportEvent>,
    queries: Receiver<Query>,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// Whatever keeps the node from running.
pub fn run(loaded: Loaded) -> anyhow::Result<()> {
    let started = start::start(loaded)?;
    systemd::ready("serving");
    let mut core = started.core;
    run_loop(&mut core, &started.inbox);
    core.council.end();
    drop(started.routing);
    drop(started.control);
    // Threads that wait for an answer of the loop have none to wait for.
    drop(started.inbox);
    core.transport.stop();
    match core.failure.take() {
        Some(failure) => Err(anyhow::anyhow!(failure)),
        None => Ok(()),
    }
}

fn run_loop(core: &mut Core, inbox: &Inbox) {
    let mut next_second = core.now;
    let mut next_retain = core.now.after(Duration::from_millis(RETAIN_MS));
    let mut next_watchdog = core.now;
    while !core.stopping && core.failure.is_none() {
        wait(core, inbox);
        core.now = clock::mono();
        core.watch_turn();
        drain(core, inbox);
        core.end_of_turn(inbox.captured.is_empty() && inbox.exports.is_empty());
        if core.now >= next_second {
            next_second = core.now.after(Duration::from_secs(1));
            core.sense();
            core.see_availability();
            core.say();
            core.asks.tick(core.now);
            core.tell_parked();
            core.tell_lost();
            core.ask_actives();
            core.ship(ShipEvent::Tick);
        }
        if core.now >= next_retain {
            next_retain = core.now.after(Duration::from_millis(RETAIN_MS));
            retain(core);
        }
        if let Some(period) = systemd::watchdog_period()
            && core.now >= next_watchdog
        {
            next_watchdog = core.now.after(period);
            systemd::watchdog();
        }
    }
}

/// Sleeps until something happens, and takes that one thing.
fn wait(core: &mut Core, inbox: &Inbox) {
    let pause = Duration::from_millis(pause_ms(core, clock::mono()));
    select! {
        recv(inbox.captured) -> event => match event {
            Ok(event) => core.captured(event),
            Err(_) => ended(core, "capture"),
        },
        recv(inbox.journal) -> event => match event {
            Ok(event) => core.journal_event(event),
            Err(_) => ended(core, "journal"),
        },
        recv(inbox.transport) -> event => match event {
            Ok(event) => core.transport_event(event),
            Err(_) => ended(core, "transport"),
        },
        recv(inbox.applied) -> event => match event {
            Ok(event) => core.apply_event(event),
            Err(_) => ended(core, "apply"),
        },
        recv(inbox.uploads) -> event => match event {
            Ok(event) => core.upload_event(event),
            Err(_) => ended(core, "upload"),
        },
        recv(inbox.exports) -> event => match event {
            Ok(event) => core.export_event(event),
            Err(_) => ended(core, "export"),
        },
        recv(inbox.queries) -> event => match event {
            Ok(event) => core.query(event),
            Err(_) => ended(core, "control"),
        },
        default(pause) => {}
    }
}

/// A thread that this loop cannot go on without has ended: the service manager starts the agent anew.
fn ended(core: &mut Core, thread: &str) {
    core.failure.get_or_insert_with(|| format!("the {thread} thread has ended; its last words are in the log"));
}

fn pause_ms(core: &Core, now: MonoNs) -> u64 {
    let due = core.receiver.due().map_or(TURN_MS_MAX, |due| due.since_ns(now) / 1_000_000);
    let batches = core.own.values().any(|own| !own.batch.is_empty());
    if batches { due.min(1) } else { due.min(TURN_MS_MAX) }
}

/// Takes what else is there, a bounded number of each kind, so that a batch holds what came together.
fn drain(core: &mut Core, inbox: &Inbox) {
    inbox.journal.try_iter().take(TURN_EVENTS_MAX).for_each(|event| core.journal_event(event));
    inbox.captured.try_iter().take(TURN_EVENTS_MAX).for_each(|event| core.captured(event));
    inbox.transport.try_iter().take(TURN_EVENTS_MAX).for_each(|event| core.transport_event(event));
    inbox.applied.try_iter().take(TURN_EVENTS_MAX).for_each(|event| core.apply_event(event));
    inbox.uploads.try_iter().take(TURN_EVENTS_MAX).for_each(|event| core.upload_event(event));
    inbox.exports.try_iter().take(TURN_EVENTS_MAX).for_each(|event| core.export_event(event));
    inbox.queries.try_iter().take(TURN_EVENTS_MAX).for_each(|event| core.query(event));
}

/// Tells the journal what is still needed.
fn retain(core: &mut Core) {
    let mut needs = Vec::new();
    for (group, own) in &core.own {
        for peer in &own.replicas {
            let from = core.shipper.needed_from(*group, *peer);
            let done = from.map_or(own.journaled, |from| from.0.saturating_sub(1));
            needs.push(Need { group: *group, peer: *peer, done: understudy_types::id::Sequence(done) });
        }
    }
    let board = core.board.lock();
    for group in core.view.read().placement.groups() {
        if group.replicas.contains(&core.node) {
            let done = understudy_types::id::Sequence(board.applied_by_all(group.id));
            needs.push(Need { group: group.id, peer: core.node, done });
        }
    }
    drop(board);
    // Busy: it is asked again in some seconds.
    let _ = core.journal.retain(needs, crate::journal::Token(0));
}
