//! The agent stands still (SIGSTOP): users go on as their rule says, and after SIGCONT nothing is missing.
//!
//! Owns: the store's answers while nobody answers it, and the repair of what a full ring could not hold. What can hurt:
//! a test that ends with a stopped agent; the mesh is taken away by SIGKILL. Refuses: a promise about how fast; only
//! that a wait which the rule bounds ends, and that a refused operation is said to be refused.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use understudy_tests::imap::Imap;
use understudy_tests::lmtp::Lmtp;
use understudy_tests::mesh::{Account, CLIENT_WAIT};
use understudy_tests::wire::Error;

use crate::trial::{Trial, skip_if_lacking};
use crate::worker::{Tally, Worker};

const TIMEOUT: (&str, &str) = ("UNDERSTUDY_RULES__0__WAIT_TIMEOUT_MS", "300");

fn login(trial: &Trial, account: &Account) -> Result<Imap> {
    let target = trial.state().target(account, &account.active)?;
    Ok(Imap::login(&target.imap.0, target.imap.1, &account.name, &account.password, CLIENT_WAIT)?)
}

/// With the agent of node1 stopped, `during` happens; afterwards both nodes are equal and hold what was promised.
fn stopped(
    name: &str,
    args: &[&str],
    environment: &[(&str, &str)],
    during: impl Fn(&Trial, &Account) -> Result<Tally>,
) {
    let trial = Trial::up(name, 2, args, environment).expect("comes up");
    let run = || -> Result<()> {
        let account = trial.active_on("node1").into_iter().next().context("an account")?;
        // A first sign of life, so that the first copy is not what makes the two equal.
        login(&trial, &account)?.append("INBOX", "", b"Subject: first\r\n\r\ntext\r\n")?;
        trial.settle()?;
        trial.mesh.kill("node1", "agent", "STOP")?;
        let during = during(&trial, &account);
        trial.mesh.kill("node1", "agent", "CONT")?;
        let mut tally = during?;
        tally.promised.push((account.name.clone(), "first".to_owned()));
        trial.settle()?;
        trial.compare(&tally)
    };
    let result = run();
    trial.end(result);
}

/// A user who is never refused because of the agent.
fn goes_on(trial: &Trial, account: &Account) -> Result<Tally> {
    let target = trial.state().target(account, &account.active)?;
    let mut worker = Worker::new(target, vec![account.name.clone()], trial.seed, Duration::ZERO);
    (0..60).for_each(|_| worker.step());
    let tally = worker.run(&std::sync::atomic::AtomicBool::new(true));
    ensure!(tally.total() > 10 && tally.unknown + tally.unreachable == 0, "the user does not go on: {tally:?}");
    Ok(tally)
}

#[test]
fn a_stopped_agent_does_not_stop_users_of_level_none() {
    skip_if_lacking!("a_stopped_agent_does_not_stop_users_of_level_none");
    stopped("stopped_none", &["--level", "none"], &[], goes_on);
}

#[test]
fn a_stopped_agent_delays_users_of_level_peer_by_the_configured_time() {
    skip_if_lacking!("a_stopped_agent_delays_users_of_level_peer_by_the_configured_time");
    stopped("stopped_peer", &["--level", "peer"], &[TIMEOUT], goes_on);
}

#[test]
fn a_stopped_agent_refuses_where_the_rule_says_so() {
    skip_if_lacking!("a_stopped_agent_refuses_where_the_rule_says_so");
    let refuse = [TIMEOUT, ("UNDERSTUDY_RULES__0__ON_TIMEOUT", "refuse")];
    stopped("stopped_refuse", &["--level", "peer"], &refuse, |trial, account| {
        let mut imap = login(trial, account)?;
        match imap.append("INBOX", "", b"Subject: refused\r\n\r\ntext\r\n") {
            Err(Error::Refused(_)) => {}
            other => bail!("an APPEND that did not reach the peer was answered {other:?}"),
        }
        let target = trial.state().target(account, &account.active)?;
        let mut lmtp = Lmtp::connect(&target.lmtp.0, target.lmtp.1, CLIENT_WAIT)?;
        match lmtp.deliver_one("sender@example.test", &account.name, b"Subject: deferred\r\n\r\ntext\r\n") {
            Err(Error::Refused(why)) if why.starts_with('4') => {}
            other => bail!("a delivery that did not reach the peer was answered {other:?}"),
        }
        imap.command("NOOP").context("the session lives on")?;
        Ok(Tally::default())
    });
}

#[test]
fn what_a_full_ring_could_not_hold_is_copied_afterwards() {
    skip_if_lacking!("what_a_full_ring_could_not_hold_is_copied_afterwards");
    let small = [("UNDERSTUDY_RING__BYTES", "16 KiB"), ("UNDERSTUDY_RING__SLOTS", "64")];
    stopped("stopped_full", &["--level", "none"], &small, |trial, account| {
        let mut tally = goes_on(trial, account)?;
        let mut imap = login(trial, account)?;
        for n in 0..100 {
            let text = format!("Subject: over-{n}\r\n\r\ntext\r\n").into_bytes();
            imap.append("INBOX", "", &text).context("a full ring stops the user")?;
            tally.promised.push((account.name.clone(), format!("over-{n}")));
        }
        Ok(tally)
    });
}
