//! `cargo xtask chaos`: a mesh of three nodes under load while one thing after the other goes wrong, and the verdict.
//!
//! Owns: the order of things: load, events, healing, the verdict over what users were told. What can hurt: whatever it
//! does; the mesh is taken away on every way out, its logs stay. Refuses: judging how long an outage was; it is
//! measured and shown. `docs/chaos.md` has the words.

mod act;
mod event;
mod judge;
mod report;

use crate::{build, clock, host, mesh, run, stop};
use anyhow::{Context, Result, bail};
use event::{Event, Kind, Schedule};
use report::{Happened, Outages, Report};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use understudy_tests::mesh::Mesh;
use understudy_tests::outage::{Prober, Record, Setup};
use understudy_tests::promises::{Keeper, Ledger};

/// A promise is broken.
const EXIT_VIOLATION: u8 = 3;
const NODES: usize = 3;
/// Past these something never comes back. They judge no speed.
const WHOLE_WAIT: Duration = Duration::from_secs(90);
const QUIET_WAIT: Duration = Duration::from_secs(120);
/// Between an event that is over and the next one.
const CALM: Duration = Duration::from_secs(3);
/// Between two operations of a user who keeps an account of them.
const PAUSE: Duration = Duration::from_millis(150);

/// Arguments of `chaos`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Minutes of events; the last one ends later
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// What is done follows from it (default: a new one, which is printed)
    #[arg(long)]
    seed: Option<u64>,
    /// These events instead, once each: `KIND`, `KIND:NODE`, `cut-one:NODE:OTHER`; may be given several times
    #[arg(long = "event", value_name = "EVENT")]
    events: Vec<String>,
    /// Accounts, spread over the nodes
    #[arg(long, default_value_t = 6)]
    accounts: usize,
    /// Print the report as one line of JSON, and progress to standard error
    #[arg(long)]
    json: bool,
    /// Without disks that can fail
    #[arg(long)]
    no_disks: bool,
    /// Install and build nothing; use what is there
    #[arg(long)]
    no_build: bool,
}

/// The command. Ends with 3 when a promise is broken.
pub(crate) fn main(args: &Args) -> ExitCode {
    match chaos(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_VIOLATION),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chaos(args: &Args) -> Result<bool> {
    // Standard output belongs to the JSON; what is installed is named elsewhere.
    let json = args.json.then(run::take_stdout).transpose()?;
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    if !args.no_build {
        let mut show = |part: &str, line: &str| {
            if line.is_empty() {
                eprintln!("building {part} ...");
            }
        };
        build::for_mesh(true, &mut show, &mut |what| eprintln!("{what}"))?;
    }
    if let Err(lack) = host::namespaces() {
        bail!("chaos needs a mesh, which cannot run here: {lack}");
    }
    let disks = if args.no_disks { Err("not wanted (`--no-disks`)".to_owned()) } else { mesh::disks_available() };
    let disk_kinds = [Kind::DiskHang, Kind::DiskFull, Kind::DiskReadonly, Kind::DiskEio];
    let without = if disks.is_ok() { Vec::new() } else { disk_kinds.to_vec() };
    let mut left_out: Vec<String> = disks.as_ref().err().map(|why| format!("bad disks: {why}")).into_iter().collect();
    // Seen in `time_namespaces(7)`: offsets of two clocks, set before the first process; no rate, and not wall time.
    left_out.push("clocks that drift: a time namespace has an offset for its whole life, and no rate".to_owned());
    let mut schedule = Schedule::new(seed, NODES, without);
    let mut events = Vec::new();
    for text in &args.events {
        events.push(Event::parse(text, &mut schedule)?);
    }
    eprintln!("seed {seed}; starting {NODES} nodes with etcd, nginx and Postfix");
    mesh::take_away_stale();
    let mut flags = vec!["--level", "peer"];
    flags.extend(disks.is_ok().then_some("--disks"));
    let mesh = Mesh::up(&std::env::current_exe()?, NODES, args.accounts, &flags)?;
    let left = judge::wait(WHOLE_WAIT, || judge::not_whole(&mesh));
    if !left.is_empty() {
        let logs = keep_logs(&mesh, seed);
        bail!(
            "the mesh was not whole before anything was done to it: {} (logs: `{}`)",
            left.join("; "),
            logs.display()
        );
    }
    let mut report = Report {
        seed,
        nodes: NODES,
        accounts: args.accounts,
        seconds: 0,
        events: Vec::new(),
        operations: BTreeMap::new(),
        refused: 0,
        unknown: 0,
        not_found: Vec::new(),
        merges: BTreeMap::new(),
        excused: Vec::new(),
        violations: Vec::new(),
        left_out,
        logs: String::new(),
    };
    let begun = clock::now();
    let due = Duration::from_secs(args.minutes * 60);
    let mut more = || {
        if args.events.is_empty() {
            (begun.elapsed() < due).then(|| schedule.next())
        } else {
            (!events.is_empty()).then(|| events.remove(0))
        }
    };
    let loaded = under_load(&mesh, seed, &mut more, &mut report);
    if loaded.is_err() {
        keep_logs(&mesh, seed);
    }
    let (record, ledgers) = loaded?;
    report.seconds = begun.elapsed().as_secs();
    verdict(&mesh, disks.is_ok(), &record, &ledgers, &mut report);
    report.measure(&record);
    let logs = keep_logs(&mesh, seed);
    report.logs = logs.display().to_string();
    let _ = std::fs::write(logs.join("record.json"), serde_json::to_vec(&record)?);
    let _ = std::fs::write(logs.join("ledgers.json"), serde_json::to_vec(&ledgers)?);
    let _ = std::fs::write(logs.join("report.json"), serde_json::to_vec(&report)?);
    mesh.down()?;
    match json {
        Some(mut json) => writeln!(json, "{}", serde_json::to_string(&report)?)?,
        None => report.print(),
    }
    Ok(report.violations.is_empty())
}

/// Users at work while the events happen.
fn under_load(
    mesh: &Mesh,
    seed: u64,
    more: &mut dyn FnMut() -> Option<Event>,
    report: &mut Report,
) -> Result<(Record, Vec<Ledger>)> {
    let imap = mesh.state().proxy.clone().context("this mesh has no proxies")?.imap;
    let mut setup = Setup::of(mesh.state())?;
    (setup.interval, setup.step_timeout, setup.workers) = (Duration::from_millis(300), Duration::from_secs(3), 8);
    let stopping = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let keepers: Vec<_> = (1..)
            .zip(&mesh.state().accounts)
            .map(|(nth, account)| {
                let run = format!("c{seed:x}");
                let keeper = Keeper::new(imap.clone(), &account.name, &account.password, &run, seed ^ nth, PAUSE);
                scope.spawn(|| keeper.run(&stopping))
            })
            .collect();
        let prober = Prober::start(setup);
        let mut happened = Ok(());
        std::thread::sleep(CALM);
        while let Some(event) = more() {
            happened = happen(mesh, &prober, event, report);
            if happened.is_err() {
                break;
            }
        }
        stopping.store(true, Ordering::Relaxed);
        let record = prober.stop();
        let ledgers: Vec<Ledger> = keepers.into_iter().filter_map(|keeper| keeper.join().ok()).collect();
        happened.map(|()| (record, ledgers))
    })
}

/// One event: it happens, is healed, and the mesh becomes whole again before the next one.
fn happen(mesh: &Mesh, prober: &Prober, event: Event, report: &mut Report) -> Result<()> {
    stop::check()?;
    let name = event.text();
    eprintln!("[{}] {name}", clock::minutes(prober.now_ms() / 1000));
    let at_ms = prober.mark(&name);
    let part = Duration::from_millis(event.hold_ms / if event.with.is_some() { 3 } else { 1 });
    act::hurt(mesh, &event).with_context(|| name.clone())?;
    std::thread::sleep(part);
    if let Some(service) = event.with {
        act::hurt_service(mesh, service).with_context(|| name.clone())?;
        std::thread::sleep(part);
        act::heal_service(mesh, service).with_context(|| name.clone())?;
        std::thread::sleep(part);
    }
    let healed_ms = prober.mark(&format!("{name} is healed"));
    if let Err(error) = act::heal(mesh, &event) {
        report.violations.push(format!("{name}: cannot be healed: {error:#}"));
    }
    let left = judge::wait(WHOLE_WAIT, || judge::not_whole(mesh));
    let whole_after_ms = left.is_empty().then(|| prober.now_ms().saturating_sub(healed_ms));
    if !left.is_empty() {
        report.violations.push(format!("after {name}: not whole again: {}", left.join("; ")));
    }
    report.events.push(Happened {
        event,
        name,
        at_ms,
        healed_ms,
        whole_after_ms,
        imap: Outages::default(),
        smtp: Outages::default(),
    });
    std::thread::sleep(CALM);
    Ok(())
}

/// Everything healed, quiet, then the questions.
fn verdict(mesh: &Mesh, disks: bool, record: &Record, ledgers: &[Ledger], report: &mut Report) {
    eprintln!("healing everything, and asking");
    act::heal_all(mesh, disks);
    let mut add = |what: &str, left: Vec<String>| report.violations.extend(left.iter().map(|l| format!("{what}: {l}")));
    add("records", judge::wait(QUIET_WAIT, || judge::not_whole(mesh)));
    add("replicas", judge::wait(QUIET_WAIT, || judge::behind(mesh)));
    add("verify", judge::wait(QUIET_WAIT, || judge::not_equal(mesh)));
    let (merges, waiting) = judge::merges(mesh.state());
    add("merge", waiting);
    let broken = judge::promises(mesh, record, ledgers, QUIET_WAIT);
    let named = judge::named_by_merges(mesh);
    match broken {
        Ok((broken, guids)) => {
            // A finding of a merge excuses a second copy or one that came back, never one that is missing.
            let is_named = |line: &String| {
                let copies = line.split([' ', ':']).find_map(|word| guids.get(word));
                copies.is_some_and(|copies| {
                    let of_merges = copies.iter().filter(|guid| named.contains(guid.as_str())).count();
                    !line.contains("missing") && of_merges > 0 && copies.len() - of_merges <= 1
                })
            };
            let (excused, broken): (Vec<String>, Vec<String>) = broken.into_iter().partition(is_named);
            report.excused = excused;
            report.violations.extend(broken);
        }
        Err(error) => report.violations.push(format!("accounts cannot be read: {error:#}")),
    }
    report.merges = merges;
    for ledger in ledgers {
        for (name, count) in &ledger.done {
            *report.operations.entry((*name).to_owned()).or_default() += count;
        }
        report.refused += ledger.refused;
        report.unknown += ledger.unknown;
        report.not_found.extend(ledger.not_found.iter().cloned());
    }
    for account in &record.accounts {
        *report.operations.entry("session and delivery".to_owned()).or_default() += account.acknowledged.len() as u64;
        report.unknown += account.unknown.len() as u64;
    }
}

/// Copies what the nodes logged, and their merges' reports.
fn keep_logs(mesh: &Mesh, seed: u64) -> PathBuf {
    let kept = run::target_dir().join("test-logs").join(format!("chaos-{seed}"));
    let _ = std::fs::remove_dir_all(&kept);
    for node in &mesh.state().nodes {
        for folder in ["log", "data/merge"] {
            copy(&node.dir.join(folder), &kept.join(&node.name));
        }
    }
    let _ = std::fs::create_dir_all(&kept);
    kept
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::create_dir_all(to);
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
    }
}
