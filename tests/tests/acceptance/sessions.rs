//! Sessions of one account that change the same messages at the same time.
//!
//! Owns: that both nodes agree on the outcome, whichever session won. What can hurt: records that reach the ring in
//! another order than the store committed them, which is what this makes happen. Refuses: pauses between operations.

use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use understudy_tests::imap::Imap;
use understudy_tests::mesh::CLIENT_WAIT;

use crate::trial::{Trial, is_long, now, skip_if_lacking, traffic_time};
use crate::worker::Tally;

const MESSAGES: usize = 5;
const FLAGS: [&str; 6] = ["\\Seen", "\\Flagged", "\\Answered", "\\Draft", "$one", "$two"];

fn same_messages(format: &str) {
    let args = ["--format", format, "--level", "local"];
    let trial = Trial::up(&format!("same_messages_{format}"), 2, &args, &[]).expect("comes up");
    let result = run(&trial);
    trial.end(result);
}

fn run(trial: &Trial) -> Result<()> {
    // Dovecot makes INBOX on the first login; sessions of an account that do so at the same time may lose one with
    // mdbox (it ends a process that meets a deadlock on the list's index, with the plugin and without any).
    trial.state().accounts.iter().try_for_each(|account| trial.state().read(account, &account.active).map(drop))?;
    let rounds = if is_long() { 10 } else { 2 };
    for round in 0..rounds {
        let time = traffic_time(5, 10);
        let changes = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (n, account) in (0_u64..).zip(&trial.state().accounts) {
                for session in 0..3 {
                    let seed = trial.seed.wrapping_add(round * 100 + n * 10 + session);
                    threads.push(scope.spawn(move || flags(trial, account, seed, time)));
                }
            }
            threads.into_iter().map(|t| t.join().expect("a session's thread")).sum::<Result<u64>>()
        })?;
        println!("round {round}: {changes} changes");
        trial.settle()?;
        trial.compare(&Tally::default())?;
    }
    println!("repaired by the background comparison: {:?}", trial.repaired());
    Ok(())
}

/// One session that changes flags of the same few messages as the others do.
fn flags(trial: &Trial, account: &understudy_tests::mesh::Account, seed: u64, time: Duration) -> Result<u64> {
    let target = trial.state().target(account, &account.active)?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut imap = Imap::login(&target.imap.0, target.imap.1, &account.name, &account.password, CLIENT_WAIT)?;
    for n in 0..MESSAGES {
        imap.append("INBOX", "", format!("Subject: {seed}-{n}\r\n\r\ntext\r\n").as_bytes())?;
    }
    imap.command("SELECT INBOX")?;
    let (mut count, started) = (0, now());
    while started.elapsed() < time {
        let sign = ["+", "-", ""][random.random_range(0..3)];
        let flag = FLAGS[random.random_range(0..FLAGS.len())];
        let uid = random.random_range(1..=MESSAGES); // whichever session made it
        imap.command(&format!("UID STORE {uid} {sign}FLAGS ({flag})"))?;
        count += 1;
    }
    imap.logout();
    Ok(count)
}

#[test]
fn sessions_on_the_same_messages_end_equal_maildir() {
    skip_if_lacking!("sessions_on_the_same_messages_end_equal_maildir");
    same_messages("maildir");
}

#[test]
fn sessions_on_the_same_messages_end_equal_sdbox() {
    skip_if_lacking!("sessions_on_the_same_messages_end_equal_sdbox");
    same_messages("sdbox");
}

#[test]
fn sessions_on_the_same_messages_end_equal_mdbox() {
    skip_if_lacking!("sessions_on_the_same_messages_end_equal_mdbox");
    same_messages("mdbox");
}
