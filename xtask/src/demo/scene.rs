//! The demo's parts: a mesh of its own, users at work while processes die, catching up, comparing.
//!
//! Owns: the schedule of deaths. What can hurt: a mesh that outlives us; dropping [`Mesh`] takes it away.
//! Refuses: the agents' word where a client can look.

use super::report::{Progress, Report};
use crate::clock;
use crate::mesh::{self, Format};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use understudy_tests::imap::{Account, Imap};
use understudy_tests::traffic::{Tally, Target, User};

/// Between a kill and the start that follows it.
const DEAD_TIME: Duration = Duration::from_secs(3);
/// Between two operations of one user.
const PAUSE: Duration = Duration::from_millis(40);
/// Every wait of the comparing client ends after this.
const CLIENT_WAIT: Duration = Duration::from_secs(30);
/// Who dies, in this order, spread over the traffic.
const DEATHS: [(&str, &str); 4] = [("node1", "agent"), ("node2", "store"), ("node2", "agent"), ("node1", "store")];

/// A mesh that goes when this goes.
pub(super) struct Mesh {
    dir: PathBuf,
    owner: Child,
}

impl Mesh {
    /// Starts one of two nodes.
    pub(super) fn up(accounts: usize, format: Format) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("understudy-demo-{}", std::process::id()));
        let mut owner = Command::new(std::env::current_exe()?)
            .args(["mesh", "up", "--no-build", "--json", "--nodes", "2", "--accounts", &accounts.to_string()])
            .args(["--format", format.name(), "--level", "peer", "--dir"])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `mesh up`")?;
        let out = owner.stdout.take().context("`mesh up` without output")?;
        let mesh = Self { dir, owner };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the mesh did not come up; the reason is above");
        Ok(mesh)
    }

    /// As it stands.
    pub(super) fn now(&self) -> Result<mesh::Mesh> {
        mesh::now(&self.dir)
    }

    fn act(&self, verb: &str, node: &str, what: &str) -> Result<()> {
        let done = Command::new(std::env::current_exe()?)
            .args(["mesh", verb, "--node", node, "--what", what, "--dir"])
            .arg(&self.dir)
            .output()?;
        ensure!(done.status.success(), "{verb} {node} {what}: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }

    /// Takes it away.
    pub(super) fn down(mut self) -> Result<()> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<()> {
        let done = Command::new(std::env::current_exe()?).args(["mesh", "down", "--dir"]).arg(&self.dir).output()?;
        let _ = self.owner.wait();
        ensure!(done.status.success(), "`mesh down`: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.owner.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.take_away();
        }
    }
}

fn target(mesh: &mesh::Mesh, account: &mesh::Account, node: &str) -> Result<Target> {
    let node = mesh.nodes.iter().find(|n| n.name == node).with_context(|| format!("no node `{node}`"))?;
    Ok(Target {
        imap: (node.imap.host.clone(), node.imap.port),
        lmtp: (node.lmtp.host.clone(), node.lmtp.port),
        account: account.name.clone(),
        password: account.password.clone(),
    })
}

/// Users at work on all accounts for `seconds`, while each process dies once and is started again.
pub(super) fn traffic(mesh: &Mesh, seconds: u64, progress: &Progress, report: &mut Report) -> Result<()> {
    let now = mesh.now()?;
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = clock::now();
    let mut users = Vec::new();
    for (seed, account) in (1..).zip(&now.accounts) {
        users.push(User::new(target(&now, account, &account.active)?, seed, PAUSE));
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
                mesh.act("start", node, what)?;
                dead = None;
            }
            None if next < DEATHS.len() && started.elapsed().as_secs() >= due => {
                let (node, what) = DEATHS[next];
                mesh.act("kill", node, what)?;
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
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Waits until no replica is behind; after how many seconds, or `None`.
pub(super) fn wait_for_replicas(mesh: &Mesh, limit: Duration, progress: &Progress) -> Result<Option<u64>> {
    let started = clock::now();
    progress.say("waiting for the replicas");
    while started.elapsed() < limit {
        let now = mesh.now()?;
        let behind = now.accounts.iter().filter(|a| a.lag.as_ref().is_none_or(|l| l.operations != Some(0))).count();
        if behind == 0 {
            return Ok(Some(started.elapsed().as_secs()));
        }
        progress.tick(&format!("waiting for the replicas: {behind} accounts are behind"));
        std::thread::sleep(Duration::from_millis(250));
    }
    Ok(None)
}

/// Reads every account on all its nodes as its user would, and asks the agents too.
pub(super) fn compare(mesh: &Mesh, report: &mut Report) -> Result<()> {
    let now = mesh.now()?;
    let (mut on_active, mut on_replica) = (BTreeSet::new(), BTreeSet::new());
    for account in &now.accounts {
        let active = read(&target(&now, account, &account.active)?)?;
        report.mailboxes += active.mailboxes.len();
        report.messages += active.messages();
        on_active.extend(tokens(&active));
        let mut difference = None;
        for replica in &account.replicas {
            let there = read(&target(&now, account, replica)?)?;
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

fn read(target: &Target) -> Result<Account> {
    let (host, port) = &target.imap;
    let mut imap = Imap::login(host, *port, &target.account, &target.password, CLIENT_WAIT)
        .with_context(|| format!("cannot log in to `{host}` as `{}`", target.account))?;
    let account = imap.account().with_context(|| format!("cannot read `{}` at `{host}`", target.account))?;
    imap.logout();
    Ok(account)
}

fn tokens(account: &Account) -> Vec<String> {
    let inbox = account.mailboxes.get("INBOX").into_iter().flatten();
    let bodies = inbox.flat_map(|m| &m.messages).map(|m| String::from_utf8_lossy(&m.body).into_owned());
    bodies.filter_map(|b| Some(b.lines().find_map(|l| l.strip_prefix("Subject: "))?.to_owned())).collect()
}

/// `understudy verify` by the active node's agent.
fn verify(mesh: &mesh::Mesh, account: &mesh::Account) -> Result<()> {
    let node = mesh.nodes.iter().find(|n| n.name == account.active).context("no active node")?;
    let done = Command::new(mesh::agent_program())
        .args(["verify", &account.name, "--json", "--config"])
        .arg(node.dir.join("understudy.toml"))
        .output()
        .context("cannot start `understudy verify`")?;
    if !done.status.success() {
        let said = if done.stderr.is_empty() { &done.stdout } else { &done.stderr };
        bail!("{}", String::from_utf8_lossy(said).trim());
    }
    Ok(())
}
