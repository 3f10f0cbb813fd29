//! Random operations while processes die by SIGKILL all along: agents, stores and whole nodes.
//!
//! Owns: that nothing acknowledged is lost, nothing is there twice, and both nodes end equal. What can hurt: a test
//! that stops while something is dead; everything is started again before it looks. Refuses: mercy.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use understudy_tests::imap::Imap;
use understudy_tests::mesh::CLIENT_WAIT;

use crate::trial::{Trial, is_long, now, skip_if_lacking, traffic_time};
use crate::worker::{Tally, Worker};

fn random_kills(format: &str) {
    let accounts = if is_long() { 10 } else { 6 };
    let name = format!("random_kills_{format}");
    let trial = Trial::up(&name, accounts, &["--format", format, "--level", "peer"], &[]).expect("comes up");
    let result = run(&trial, format == "maildir");
    trial.end(result);
}

fn run(trial: &Trial, maildir: bool) -> Result<()> {
    let mut workers = trial.workers(Duration::from_millis(5))?;
    if maildir && !is_long() {
        // A renamed folder may take a lock file along; see `random`.
        workers = workers.into_iter().map(Worker::keeping_folders).collect();
    }
    let tally = trial.traffic(workers, || kill_at_random(trial, traffic_time(12, 180)))?;
    trial.settle()?;
    trial.compare(&tally)?;
    // Found by a comparison that waited until nothing was owed: a difference that `status` called equal. The
    // UIDVALIDITY of a Maildir that no session has opened is told by the first one that does; whether Dovecot lists an
    // empty folder that is no mailbox changes by itself; and the comparison may be the first to open a damaged mdbox.
    let rebuilt = trial.rebuilt();
    let is_known = |line: &String| {
        ["UIDVALIDITY is", "the directory is"].iter().any(|words| line.contains(words))
            || rebuilt.iter().any(|account| line.contains(account))
    };
    let repaired: Vec<String> = trial.repaired().into_iter().filter(|line| !is_known(line)).collect();
    ensure!(repaired.is_empty(), "only the background comparison found: {repaired:?}");
    Ok(())
}

fn kill_at_random(trial: &Trial, time: Duration) -> Result<()> {
    let mut random = StdRng::seed_from_u64(trial.seed);
    let started = now();
    let mut killed = Vec::new();
    while started.elapsed() < time {
        std::thread::sleep(Duration::from_millis(random.random_range(200..2500)));
        let node = ["node1", "node2"][random.random_range(0..2)];
        let what = ["agent", "agent", "store", "all"][random.random_range(0..4)];
        trial.mesh.kill(node, what, "KILL")?;
        killed.push(format!("{what} of {node}"));
        // Sometimes the other node loses something meanwhile.
        let other = random.random_bool(0.2).then(|| if node == "node1" { "node2" } else { "node1" });
        if let Some(other) = other {
            trial.mesh.kill(other, "agent", "KILL")?;
            killed.push(format!("agent of {other} too"));
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..2500)));
        for node in [Some(node), other].into_iter().flatten() {
            trial.mesh.start(node, "all")?;
        }
    }
    println!("{} kills: {}", killed.len(), killed.join(", "));
    Ok(())
}

/// What was captured before a kill is not told as applied by an agent that never saw it.
#[test]
fn an_agent_that_was_killed_calls_no_replica_equal_that_is_behind() {
    skip_if_lacking!("an_agent_that_was_killed_calls_no_replica_equal_that_is_behind");
    let trial = Trial::up("killed_behind", 2, &["--level", "peer"], &[]).expect("comes up");
    let result = killed_behind(&trial);
    trial.end(result);
}

fn killed_behind(trial: &Trial) -> Result<()> {
    let account = trial.active_on("node1").into_iter().next().context("an account")?;
    let target = trial.state().target(&account, "node1")?;
    let login = || Imap::login(&target.imap.0, target.imap.1, &account.name, &account.password, CLIENT_WAIT);
    login()?.append("INBOX", "", b"Subject: first\r\n\r\ntext\r\n")?;
    trial.settle()?;
    // The replica's agent takes what comes, and its store does not.
    trial.mesh.kill("node2", "store", "STOP")?;
    login()?.append("INBOX", "", b"Subject: second\r\n\r\ntext\r\n")?;
    trial.mesh.kill("node1", "agent", "KILL")?;
    trial.mesh.start("node1", "all")?;
    let started = now();
    let mut told = Vec::new();
    while started.elapsed() < Duration::from_secs(4) {
        let state = trial.mesh.status()?;
        let lag = state.accounts.iter().find(|a| a.name == account.name).and_then(|a| a.lag.as_ref());
        told.push(lag.and_then(|lag| lag.operations));
    }
    trial.mesh.kill("node2", "store", "CONT")?;
    ensure!(!told.contains(&Some(0)), "told to be equal: {told:?}");
    ensure!(told.last().is_some_and(Option::is_some), "the replica is connected, and its lag known: {told:?}");
    trial.settle()?;
    let promised = ["first", "second"].map(|token| (account.name.clone(), token.to_owned())).to_vec();
    trial.compare(&Tally { promised, ..Tally::default() })
}

#[test]
fn random_kills_lose_nothing_maildir() {
    skip_if_lacking!("random_kills_lose_nothing_maildir");
    random_kills("maildir");
}

#[test]
fn random_kills_lose_nothing_sdbox() {
    skip_if_lacking!("random_kills_lose_nothing_sdbox");
    random_kills("sdbox");
}

#[test]
fn random_kills_lose_nothing_mdbox() {
    skip_if_lacking!("random_kills_lose_nothing_mdbox");
    random_kills("mdbox");
}
