//! Drills: an event is made on a mesh that serves users, again and again, and what users saw of it is measured.
//!
//! Owns: the course of a run: event, served again, healed, replicas in sync, next node; and at the end the verdict over
//! everything that was acknowledged. What can hurt: a run that does not end well; the next one is still made, so that
//! one bad end does not hide the rest. Refuses: a pause that a user's own time-out made up where none may be seen.

mod agents;
mod apart;
mod events;
mod figures;

pub use agents::{groups, merges, out_of_sync, verify};
pub use events::What;
pub use figures::{Felt, Report, Run, Spread};

use crate::mesh::{Account, Mesh, State};
use crate::outage::{self, Prober, Setup};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Users are watched so long before each event, to know what is usual on this machine.
const BEFORE: Duration = Duration::from_secs(4);
/// Between two looks at users.
const LOOK: Duration = Duration::from_millis(20);
/// Between two questions to agents; each costs them something.
const ASK: Duration = Duration::from_millis(500);
/// Messages that still are on their way at the end are waited for.
const CHECK_WAIT: Duration = Duration::from_secs(60);
/// An attempt that is under way when all are served again is waited for this much longer than its step may take.
const LATE: Duration = Duration::from_millis(300);

/// Sessions of one account that may be under way at one time. More of them that hang, give up and come again, as a busy
/// machine makes them, cost a store more than it has: it then serves nobody for minutes (seen with 7, at a load of
/// 100).
const WORKERS: u32 = 3;

/// How a drill is run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub what: What,
    pub runs: usize,
    /// Between the beginnings of two attempts of one kind for one account.
    pub interval: Duration,
    /// A client's patience for one answer.
    pub step_timeout: Duration,
    /// The longest pause that users may see.
    pub bound_ms: u64,
    /// A run in which users are not served again, or replicas not in sync, by then has failed.
    pub give_up: Duration,
}

impl Plan {
    /// `runs` of `what`, as documented.
    #[must_use]
    pub fn new(what: What, runs: usize) -> Self {
        Self {
            what,
            runs,
            interval: Duration::from_millis(200),
            step_timeout: what.patience(),
            bound_ms: what.bound_ms(),
            give_up: Duration::from_secs(90),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "users measure by the clock")]
fn now() -> Instant {
    Instant::now()
}

/// Waits until `done`, or `limit` is over; then `false`.
fn wait(limit: Duration, every: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = now();
    loop {
        if done() {
            return true;
        }
        if begun.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(every);
    }
}

/// All groups have all their replicas in sync.
fn in_sync(mesh: &Mesh, limit: Duration) -> bool {
    let replicas = mesh.state().nodes.len() - 1;
    wait(limit, ASK, || {
        let state = mesh.status();
        state.is_ok_and(|state| agents::out_of_sync(&state, replicas).is_ok_and(|groups| groups.is_empty()))
    })
}

fn users(state: &State, plan: &Plan) -> Result<Setup> {
    let mut setup = Setup::of(state)?;
    setup.interval = plan.interval;
    setup.step_timeout = plan.step_timeout;
    setup.workers = WORKERS;
    setup.append_every = 2;
    Ok(setup)
}

/// Drills `mesh`; `say` is told what goes on, and an error of it ends the drill.
///
/// # Errors
/// When the mesh does not do what it is told, or `say` fails.
pub fn run(mesh: &Mesh, plan: &Plan, say: &mut dyn FnMut(&str) -> Result<()>) -> Result<Report> {
    let setup = users(mesh.state(), plan)?;
    let (accounts, imap) = (setup.accounts.clone(), setup.imap.clone().context("no IMAP")?);
    let load = load();
    say("waiting until all replicas are in sync")?;
    anyhow::ensure!(in_sync(mesh, plan.give_up), "the replicas are not in sync to begin with");
    let prober = Prober::start(setup);
    anyhow::ensure!(wait(plan.give_up, LOOK, || prober.served(0)), "not all accounts are served to begin with");
    let (mut runs, mut apart, mut last) = (Vec::new(), Vec::new(), None);
    for nth in 1..=plan.runs {
        let state = mesh.status()?;
        let node = next(&state, last);
        last = Some(node);
        let name = state.nodes[node].name.clone();
        say(&format!("run {nth} of {}: {} of {name}", plan.runs, plan.what.name()))?;
        let (run, written) = once(mesh, &state, &name, plan, &prober)?;
        say(&format!("run {nth}: {}", told(&run)))?;
        apart.extend(written);
        runs.push(run);
    }
    say("checking what was acknowledged")?;
    let mut record = prober.stop();
    for (account, id) in apart {
        let of = record.accounts.iter_mut().find(|a| a.name == account);
        of.context("no such account")?.acknowledged.insert(id, 0);
    }
    let verdict = outage::check(&record, &imap, &accounts, CHECK_WAIT)?;
    let state = mesh.status()?;
    let differ = agents::verify(mesh, &state, &state.accounts)?;
    let mut report = report(plan, runs, verdict, differ);
    (report.accounts, report.load) = (accounts.len(), load);
    Ok(report)
}

/// The next node in turn that is active for somebody.
fn next(state: &State, last: Option<usize>) -> usize {
    let begin = last.map_or(0, |last| last + 1);
    let busy = |node: &usize| state.accounts.iter().any(|account| account.active == state.nodes[*node].name);
    let turn = (0..state.nodes.len()).map(|nth| (begin + nth) % state.nodes.len());
    turn.into_iter().find(busy).unwrap_or(0)
}

type Written = Vec<(String, String)>;

fn once(mesh: &Mesh, state: &State, node: &str, plan: &Plan, prober: &Prober) -> Result<(Run, Written)> {
    std::thread::sleep(BEFORE);
    let epochs = agents::groups(state)?;
    let mut faults = Vec::new();
    let at_ms = prober.mark(&format!("{} of {node}", plan.what.name()));
    let made = plan.what.make(mesh, state, node);
    let mut written = Written::new();
    if let Err(error) = &made {
        faults.push(format!("{error:#}"));
    } else if plan.what == What::Partition {
        written = write_apart(state, node, at_ms)?;
        if written.is_empty() {
            faults.push("the node that was cut off acknowledged nothing; nothing was there to merge".to_owned());
        }
    }
    let done_ms = prober.now_ms();
    let served = wait(plan.give_up, LOOK, || prober.served(done_ms));
    let served_ms = prober.now_ms();
    // What was under way then has its own end.
    std::thread::sleep(if plan.what.unseen() { LATE } else { plan.step_timeout + LATE });
    if !served {
        faults.push(format!("not served again: {}", prober.unserved(done_ms).join(", ")));
    }
    if let Err(error) = plan.what.heal(mesh, node) {
        faults.push(format!("healing: {error:#}"));
    }
    let healed = now();
    let synced = in_sync(mesh, plan.give_up);
    let in_sync_ms = u64::try_from(healed.elapsed().as_millis()).unwrap_or(u64::MAX);
    let after = mesh.status()?;
    if !synced {
        let groups = agents::out_of_sync(&after, state.nodes.len() - 1).unwrap_or_default();
        faults.push(format!("not in sync again: groups {groups:?}"));
    }
    let now_epochs = agents::groups(&after)?;
    let epochs_changed = epochs.iter().filter(|(id, was)| now_epochs.get(id).is_some_and(|n| n.epoch != was.epoch));
    let epochs_changed = epochs_changed.count();
    if plan.what.harmless() && epochs_changed > 0 {
        faults.push(format!("{epochs_changed} groups changed their active node"));
    }
    let mut brought = 0;
    if plan.what == What::Partition {
        match agents::merges(&after, node) {
            Ok((messages, true)) => brought = messages,
            Ok((_, false)) => faults.push("a merge is not done".to_owned()),
            Err(error) => faults.push(format!("no report of merges: {error:#}")),
        }
    }
    let hit: Vec<String> = of_node(state, node).map(|account| account.name.clone()).collect();
    let to_ms = if plan.what.harmless() { prober.now_ms() } else { served_ms };
    let accounts = figures::felt(&prober.record(), at_ms, to_ms, &hit);
    if plan.what.unseen() {
        for felt in accounts.iter().filter(|felt| felt.sessions_failed + felt.deliveries_failed > 0) {
            faults.push(format!("{} saw failures: {:?}", felt.account, felt.errors));
        }
    }
    let run = Run {
        node: node.to_owned(),
        at_ms,
        served_ms: served.then_some(served_ms - done_ms),
        in_sync_ms: synced.then_some(in_sync_ms),
        epochs_changed,
        written_apart: written.len(),
        brought,
        accounts,
        faults,
    };
    Ok((run, written))
}

fn of_node<'a>(state: &'a State, node: &str) -> impl Iterator<Item = &'a Account> {
    let node = node.to_owned();
    state.accounts.iter().filter(move |account| account.active == node)
}

/// Accounts of the node that is cut off get messages there, all at the same time.
fn write_apart(state: &State, node: &str, at_ms: u64) -> Result<Written> {
    std::thread::scope(|scope| {
        let one = |account: &Account| {
            let written = apart::write(state, node, account, &format!("apart-{at_ms}-{}", account.group))?;
            Ok(written.into_iter().map(|id| (account.name.clone(), id)).collect::<Written>())
        };
        let threads: Vec<_> = of_node(state, node).map(|account| scope.spawn(move || one(account))).collect();
        let joined = threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
        Ok(joined.collect::<Result<Vec<Written>>>()?.concat())
    })
}

fn report(plan: &Plan, runs: Vec<Run>, verdict: outage::Verdict, differ: Vec<String>) -> Report {
    let of = |affected: bool, figure: fn(&Felt) -> u64| {
        let felt = runs.iter().flat_map(|run| &run.accounts).filter(|felt| felt.affected == affected);
        Spread::of(felt.map(figure).collect())
    };
    let sum = |figure: fn(&Felt) -> u64| runs.iter().flat_map(|run| &run.accounts).map(figure).sum();
    Report {
        what: plan.what.name().to_owned(),
        level: plan.what.level().to_owned(),
        accounts: 0,
        interval_ms: u64::try_from(plan.interval.as_millis()).unwrap_or(u64::MAX),
        bound_ms: plan.bound_ms,
        load: String::new(),
        outage: of(true, |felt| felt.pause_ms),
        before: of(true, |felt| felt.pause_before_ms),
        others: of(false, |felt| felt.pause_ms),
        delivery: of(true, |felt| felt.delivery_max_ms),
        sessions_failed: sum(|felt| felt.sessions_failed),
        deliveries_failed: sum(|felt| felt.deliveries_failed),
        repeated_deliveries: verdict.repeated.iter().filter(|id| id.contains(outage::SMTP)).count(),
        verdict,
        differ,
        runs,
    }
}

/// A run in one line.
fn told(run: &Run) -> String {
    let hit = run.accounts.iter().filter(|felt| felt.affected);
    let pauses: Vec<String> = hit.map(|f| format!("{} ms (before {})", f.pause_ms, f.pause_before_ms)).collect();
    let or = |ms: Option<u64>| ms.map_or("never".to_owned(), |ms| format!("{ms} ms"));
    let faults = if run.faults.is_empty() { String::new() } else { format!("; {}", run.faults.join("; ")) };
    format!("pauses {}, in sync again after {}{faults}", pauses.join(", "), or(run.in_sync_ms))
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{} on {processors} processors", text.split(' ').next().unwrap_or("unknown"))
}
