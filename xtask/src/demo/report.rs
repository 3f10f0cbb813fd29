//! What the demo saw, for people and for programs, and the line that moves while it goes on.
//!
//! Owns: the words. Refuses: a good end when something promised is missing or two nodes differ.

use crate::clock;
use crate::mesh::Format;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Instant;
use understudy_tests::mesh::State;

/// What the demo saw.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) nodes: usize,
    pub(super) accounts: usize,
    pub(super) format: &'static str,
    pub(super) traffic_seconds: u64,
    /// Acknowledged operations by name.
    pub(super) operations: BTreeMap<String, u64>,
    pub(super) refused: u64,
    /// The connection ended before the answer.
    pub(super) unknown: u64,
    pub(super) unreachable: u64,
    /// Processes killed, in their order.
    pub(super) kills: Vec<String>,
    /// From the end of the traffic until no replica was behind; `null` when that did not come.
    pub(super) caught_up_seconds: Option<u64>,
    /// Messages acknowledged into INBOX.
    pub(super) promised: usize,
    /// Of these, not found on the active node, and not on the replica.
    pub(super) missing_on_active: Vec<String>,
    pub(super) missing_on_replica: Vec<String>,
    pub(super) mailboxes: usize,
    pub(super) messages: usize,
    /// Accounts whose two nodes show the same to an IMAP client.
    pub(super) equal: usize,
    /// First difference of each other account.
    pub(super) differences: BTreeMap<String, String>,
    /// Accounts that `understudy verify` calls equal.
    pub(super) verified: usize,
    /// What it says of the others.
    pub(super) not_verified: BTreeMap<String, String>,
    pub(super) total_seconds: u64,
}

impl Report {
    pub(super) fn new(mesh: &State, format: Format) -> Self {
        Self {
            nodes: mesh.nodes.len(),
            accounts: mesh.accounts.len(),
            format: format.name(),
            traffic_seconds: 0,
            operations: BTreeMap::new(),
            refused: 0,
            unknown: 0,
            unreachable: 0,
            kills: Vec::new(),
            caught_up_seconds: None,
            promised: 0,
            missing_on_active: Vec::new(),
            missing_on_replica: Vec::new(),
            mailboxes: 0,
            messages: 0,
            equal: 0,
            differences: BTreeMap::new(),
            verified: 0,
            not_verified: BTreeMap::new(),
            total_seconds: 0,
        }
    }

    /// True when nothing that was promised is missing, and the nodes are equal by both judgements.
    pub(super) fn good(&self) -> bool {
        self.missing_on_active.is_empty()
            && self.missing_on_replica.is_empty()
            && self.promised > 0
            && self.equal == self.accounts
            && self.verified == self.accounts
    }

    /// For people.
    pub(super) fn print(&self) {
        let total: u64 = self.operations.values().sum();
        let operations: Vec<String> = self.operations.iter().map(|(name, count)| format!("{name} {count}")).collect();
        println!(
            "{} nodes, {} accounts in {} format, {} s of traffic",
            self.nodes, self.accounts, self.format, self.traffic_seconds
        );
        println!("  acknowledged    {total} operations: {}", operations.join(", "));
        println!(
            "  not carried out {} refused, {} with unknown fate, {} times nobody answered",
            self.refused, self.unknown, self.unreachable
        );
        println!("  killed (-9)     {}", self.kills.join(", "));
        match self.caught_up_seconds {
            Some(seconds) => println!("  caught up       {seconds} s after the last operation"),
            None => println!("  caught up       NO: replicas are still behind"),
        }
        println!(
            "  promised        {} messages: {} missing on the active node, {} missing on the replica",
            self.promised,
            self.missing_on_active.len(),
            self.missing_on_replica.len()
        );
        println!(
            "  by IMAP         {} of {} accounts equal on both nodes ({} mailboxes, {} messages)",
            self.equal, self.accounts, self.mailboxes, self.messages
        );
        self.differences.iter().for_each(|(account, what)| println!("    {account}: {what}"));
        println!("  by verify       {} of {} accounts equal", self.verified, self.accounts);
        self.not_verified.iter().for_each(|(account, what)| println!("    {account}: {what}"));
        println!("{} ({} s)", if self.good() { "nothing was lost" } else { "NOT as it should be" }, self.total_seconds);
    }
}

/// One line that says what goes on; drawn over on a terminal.
pub(super) struct Progress {
    terminal: bool,
    started: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), started: clock::now() }
    }

    /// A new thing goes on.
    pub(super) fn say(&self, what: &str) {
        self.draw(what, true);
    }

    /// The same thing goes on.
    pub(super) fn tick(&self, what: &str) {
        self.draw(what, false);
    }

    /// Something that stays on the screen.
    pub(super) fn note(&self, what: &str) {
        self.clear();
        eprintln!("{what}");
    }

    fn draw(&self, what: &str, new: bool) {
        let line = format!("[{}] {what}", clock::minutes(self.started.elapsed().as_secs()));
        if self.terminal {
            eprint!("\r\x1b[2K{}", line.chars().take(110).collect::<String>());
            let _ = std::io::stderr().flush();
        } else if new {
            eprintln!("{line}");
        }
    }

    pub(super) fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[2K");
            let _ = std::io::stderr().flush();
        }
    }
}
