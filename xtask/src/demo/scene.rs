//! The demo's parts: a mesh of its own, users at work while processes die, catching up, comparing.
//!
//! Owns: the schedule of deaths. What can hurt: a user's thread that fails; the others still end, and the demo fails.
//! Refuses: the agents' word where a client can look.

use super::report::{Progress, Report};
use crate::mesh::{Format, agent_program};
use crate::{clock, stop};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use understudy_tests::imap::Account;
use understudy_tests::mesh::{Mesh, State};
use understudy_tests::traffic::{Tally, User};

/// Between a kill and the start that follows it.
const DEAD_TIME: Duration = Duration::from_secs(3);
/// Between two operations of one user.
const PAUSE: Duration = Duration::from_millis(40);
/// How often an account that moves while it is compared is compared again.
const VERIFY_ATTEMPTS: u32 = 5;
/// Who dies, in this order, spread over the traffic.
const DEATHS: [(&str, &str); 4] = [("node1", "agent"), ("node2", "store"), ("node2", "agent"), ("node1", "store")];

/// Starts a mesh of two nodes.
pub(super) fn mesh_up(accounts: usize, format: Format) -> Result<Mesh> {
    let program = std::env::current_exe()?;
    Mesh::up(&program, 2, accounts, &["--format", format.name(), "--level", "peer"])
}

/// Users at work on all accounts for `seconds`, while each process dies once and is started again.
pub(super) fn traffic(mesh: &Mesh, seconds: u64, progress: &Progress, report: &mut Report) -> Result<()> {
    let now = mesh.status()?;
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = clock::now();
    let mut users = Vec::new();
    for (seed, account) in (1..).zip(&now.accounts) {
        users.push(User::new(now.target(account, &account.active)?, seed, PAUSE));
    }
    let tallies: Result<Vec<Tally>> = std::thread::scope(|scope| {
        let threads: Vec<_> = users.into_iter().map(|user| scope.spawn(|| user.run(&stop, &count))).collect();
        let killed = deaths(mesh, seconds, progress, &count, &mut report.kills);
        stop.store(true, Ordering::Relaxed);
        let tallies = threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a user of the demo failed")));
        let tallies: Result<Vec<Tally>> = tallies.collect();
        killed.and(tallies)
    });
    let mut all = Tally::default();
    tallies?.iter().for_each(|tally| all.add(tally));
    report.traffic_seconds = started.elapsed().as_secs();
    report.operations = all.done.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    (report.refused, report.unknown, report.unreachable) = (all.refused, all.unknown, all.unreachable);
    report.promised = all.promised.len();
    // Found again by `compare`, which takes off what it finds.
    report.missing_on_active.clone_from(&all.promised);
    report.missing_on_replica = all.promised;
    Ok(())
}

fn deaths(mesh: &Mesh, seconds: u64, progress: &Progress, count: &AtomicU64, kills: &mut Vec<String>) -> Result<()> {
    let started = clock::now();
    let mut next = 0;
    let mut dead: Option<(&str, &str, std::time::Instant)> = None;
    while started.elapsed().as_secs() < seconds || dead.is_some() {
        let due = seconds * (u64::try_from(next).unwrap_or(0) + 1) / (u64::try_from(DEATHS.len()).unwrap_or(1) + 1);
        match dead {
            Some((node, what, since)) if since.elapsed() > DEAD_TIME => {
                mesh.start(node, what)?;
                dead = None;
            }
            None if next < DEATHS.len() && started.elapsed().as_secs() >= due => {
                let (node, what) = DEATHS[next];
                mesh.kill(node, what, "KILL")?;
                kills.push(format!("{what} of {node}"));
                dead = Some((node, what, clock::now()));
                next += 1;
            }
            _ => {}
        }
        let state = dead.map_or("all processes up".to_owned(), |(node, what, _)| format!("{what} of {node} is dead"));
        progress.tick(&format!(
            "traffic {} of {seconds} s, {} operations acknowledged, {state}",
            started.elapsed().as_secs(),
            count.load(Ordering::Relaxed)
        ));
        stop::check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Waits until no replica is behind; after how many seconds, or `None`.
pub(super) fn wait_for_replicas(mesh: &Mesh, limit: Duration, progress: &Progress) -> Result<Option<u64>> {
    let started = clock::now();
    progress.say("waiting for the replicas");
    while started.elapsed() < limit {
        let now = mesh.status()?;
        let behind = now.behind();
        if behind == 0 {
            return Ok(Some(started.elapsed().as_secs()));
        }
        progress.tick(&format!("waiting for the replicas: {behind} accounts are behind"));
        stop::check()?;
        std::thread::sleep(Duration::from_millis(250));
    }
    Ok(None)
}

/// Reads every account on all its nodes as its user would, and asks the agents too.
pub(super) fn compare(mesh: &Mesh, report: &mut Report) -> Result<()> {
    let now = mesh.status()?;
    let (mut on_active, mut on_replica) = (BTreeSet::new(), BTreeSet::new());
    for account in &now.accounts {
        stop::check()?;
        let active = now.read(account, &account.active)?;
        report.mailboxes += active.mailboxes.len();
        report.messages += active.messages();
        on_active.extend(tokens(&active));
        let mut difference = None;
        for replica in &account.replicas {
            let there = now.read(account, replica)?;
            on_replica.extend(tokens(&there));
            difference = difference.or_else(|| active.difference(&there));
        }
        match difference {
            None => report.equal += 1,
            Some(what) => _ = report.differences.insert(account.name.clone(), what),
        }
        match verify(&now, account) {
            Ok(()) => report.verified += 1,
            Err(error) => _ = report.not_verified.insert(account.name.clone(), format!("{error:#}")),
        }
    }
    report.missing_on_active.retain(|token| !on_active.contains(token));
    report.missing_on_replica.retain(|token| !on_replica.contains(token));
    Ok(())
}

fn tokens(account: &Account) -> Vec<String> {
    let inbox = account.mailboxes.get("INBOX").into_iter().flatten();
    let bodies = inbox.flat_map(|m| &m.messages).map(|m| String::from_utf8_lossy(&m.body).into_owned());
    bodies.filter_map(|b| Some(b.lines().find_map(|l| l.strip_prefix("Subject: "))?.to_owned())).collect()
}

/// `understudy verify` by the active node's agent. An account that still moves is asked about again.
fn verify(mesh: &State, account: &understudy_tests::mesh::Account) -> Result<()> {
    let node = mesh.node(&account.active)?;
    let mut said = String::new();
    for _ in 0..VERIFY_ATTEMPTS {
        let done = Command::new(agent_program())
            .args(["verify", &account.name, "--json", "--config"])
            .arg(node.dir.join("understudy.toml"))
            .output()
            .context("cannot start `understudy verify`")?;
        if done.status.success() {
            return Ok(());
        }
        let results: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        let bad = results.as_array().and_then(|all| all.iter().find(|r| r["equal"] != true || !r["error"].is_null()));
        said = match bad.map(|r| (r["error"].as_str(), r["first_difference"].as_str())) {
            Some((Some(error), _)) => format!("not compared: {error}"),
            Some((None, difference)) => bail!("{}", difference.unwrap_or("the digests differ")),
            None => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        };
        std::thread::sleep(Duration::from_secs(1));
    }
    bail!("{said}")
}
