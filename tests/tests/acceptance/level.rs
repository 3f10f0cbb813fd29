//! What level `peer` promises: at the instant of the OK the operation is in the peer's journal.
//!
//! Owns: the proof by death. What can hurt: a slow test machine, where the wait ends before the peer answers and the
//! rule lets the client go on; here the rule refuses instead, so an OK means what it says. Refuses: starting the killed
//! node again before the peer was read.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use understudy_tests::imap::Imap;
use understudy_tests::lmtp::Lmtp;
use understudy_tests::mesh::CLIENT_WAIT;

use crate::trial::{Trial, is_long, now, skip_if_lacking, subjects};

/// By then the replica has applied what its journal held when the active died.
const APPLY_WAIT: Duration = Duration::from_secs(60);

#[test]
fn an_ok_at_level_peer_survives_the_death_of_the_active() {
    skip_if_lacking!("an_ok_at_level_peer_survives_the_death_of_the_active");
    // Nobody is told OK without the peer: it refuses when the peer is slow.
    let refuse = [("UNDERSTUDY_RULES__0__ON_TIMEOUT", "refuse"), ("UNDERSTUDY_RULES__0__WAIT_TIMEOUT_MS", "20000")];
    let trial = Trial::up("level_peer", 2, &["--level", "peer"], &refuse).expect("comes up");
    let rounds = if is_long() { 30 } else { 6 };
    let result = trial.settle().and_then(|()| (0..rounds).try_for_each(|round| one_death(&trial, round)));
    trial.end(result);
}

fn one_death(trial: &Trial, round: usize) -> Result<()> {
    let account = trial.active_on("node1").into_iter().next().context("an account")?;
    let target = trial.state().target(&account, "node1")?;
    let (host, port) = &target.imap;
    let mut imap = Imap::login(host, *port, &account.name, &account.password, CLIENT_WAIT)?;
    imap.command("SELECT INBOX")?;
    let token = format!("level-{round}");
    let text = format!("Subject: {token}\r\n\r\nround {round}\r\n").into_bytes();
    // What is acknowledged last in this round, by turns.
    let kind = ["append", "deliver", "flags", "create", "copy", "expunge"][round % 6];
    match kind {
        "append" => drop(imap.append("INBOX", "(\\Flagged)", &text)?),
        "deliver" => {
            let mut lmtp = Lmtp::connect(&target.lmtp.0, target.lmtp.1, CLIENT_WAIT)?;
            lmtp.deliver_one("sender@example.test", &account.name, &text)?;
        }
        "flags" => drop(imap.command(&format!("STORE 1 FLAGS ($round{round})"))?),
        "create" => drop(imap.command(&format!("CREATE made-{round}"))?),
        "copy" => drop(imap.command("COPY 1 made-3")?),
        _ => {
            imap.command("STORE 1 +FLAGS (\\Deleted)")?;
            imap.command("EXPUNGE").map(drop)?;
        }
    }
    trial.mesh.kill("node1", "all", "KILL")?;
    let started = now();
    loop {
        let there = trial.state().read(&account, "node2")?;
        let inbox = there.mailboxes.get("INBOX").and_then(Option::as_ref).context("INBOX")?;
        let first = inbox.messages.first();
        let is_there = match kind {
            "append" | "deliver" => subjects(&there).get(&token) == Some(&1),
            "flags" => first.is_some_and(|message| message.flags.contains(&format!("$round{round}"))),
            "create" => there.mailboxes.contains_key(&format!("made-{round}")),
            "copy" => there.mailboxes.get("made-3").and_then(Option::as_ref).is_some_and(|m| !m.messages.is_empty()),
            _ => first.is_none_or(|message| message.uid > 1),
        };
        if is_there {
            break;
        }
        ensure!(started.elapsed() < APPLY_WAIT, "round {round}: `{kind}` was acknowledged and is not on the peer");
        std::thread::sleep(Duration::from_millis(50));
    }
    trial.mesh.start("node1", "all")?;
    trial.settle()?;
    trial.compare(&crate::worker::Tally::default())
}
