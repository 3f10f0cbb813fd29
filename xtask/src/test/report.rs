//! The account of a test run: progress while it goes on, names of failures and skips, and the closing line.
//!
//! Owns: what is printed. Refuses: a green end when nothing ran.

use super::libtest::Libtest;
use crate::clock;
use crate::host::Lack;
use crate::run::Ran;
use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Passes, failures and skips so far.
pub(super) struct Report {
    suites: usize,
    nth: usize,
    suite: &'static str,
    started: Instant,
    terminal: bool,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
    drawn: bool,
}

impl Report {
    pub(super) fn new(suites: usize) -> Self {
        Self {
            suites,
            nth: 0,
            suite: "",
            started: clock::now(),
            terminal: std::io::stdout().is_terminal(),
            passed: 0,
            failed: Vec::new(),
            skipped: Vec::new(),
            drawn: false,
        }
    }

    /// A suite begins.
    pub(super) fn begin(&mut self, suite: &'static str) {
        self.nth += 1;
        self.suite = suite;
        self.progress("");
    }

    /// Shows where the run is: one line that is drawn over on a terminal, nothing elsewhere.
    pub(super) fn progress(&mut self, what: &str) {
        if self.terminal {
            let head = self.head();
            let what: String = what.chars().take(70).collect();
            print!("\r\x1b[2K{head} {} passed  {what}", self.passed);
            let _ = std::io::stdout().flush();
            self.drawn = true;
        }
    }

    /// A step without named tests ended: it counts as one.
    pub(super) fn step(&mut self, name: &str, ran: &Ran) {
        if ran.ok {
            self.passed += 1;
            self.say(&format!("{name}: ok, {} s", ran.seconds));
        } else {
            ran.tail.iter().for_each(|line| self.say_plain(line));
            self.say(&format!("{name}: FAILED ({}), log {}", ran.why, ran.log.display()));
            self.failed.push(format!("{name} ({})", ran.why));
        }
    }

    /// A check without a program ended: `problems` are its findings.
    pub(super) fn check(&mut self, name: &str, problems: &[String]) {
        if problems.is_empty() {
            self.passed += 1;
            return;
        }
        problems.iter().for_each(|p| self.say_plain(p));
        self.say(&format!("{name}: FAILED, {} findings", problems.len()));
        self.failed.push(format!("{name} ({} findings)", problems.len()));
    }

    /// A step of named tests ended. One that ran nothing has failed, unless a filter was asked for.
    pub(super) fn tests(&mut self, name: &str, ran: &Ran, mut found: Libtest, filtered: bool) {
        found.end(ran.ok, &ran.why);
        if found.total() == 0 && !filtered {
            found.failed.push("ran no test".to_owned());
        }
        if !found.failed.is_empty() {
            let shown = if found.shown.is_empty() { &ran.tail } else { &found.shown };
            shown.iter().for_each(|line| self.say_plain(line));
        }
        let verdict = if found.failed.is_empty() { "ok" } else { "FAILED" };
        let (passed, failed, skipped) = (found.passed, found.failed.len(), found.skipped.len());
        let log = if failed > 0 { format!(", log {}", ran.log.display()) } else { String::new() };
        self.say(&format!(
            "{name}: {verdict}, {passed} passed, {failed} failed, {skipped} skipped, {} s{log}",
            ran.seconds
        ));
        self.passed += found.passed;
        self.failed.extend(found.failed.into_iter().map(|f| format!("{name}: {f}")));
        self.skipped.extend(found.skipped);
    }

    /// A step that this machine cannot run.
    pub(super) fn skip(&mut self, name: &str, lack: &Lack) {
        self.say(&format!("{name}: skipped, {lack}"));
        self.skipped.push((name.to_owned(), lack.to_string()));
    }

    /// Prints the account and the closing line; true if all is well.
    pub(super) fn finish(mut self) -> bool {
        self.clear();
        if !self.skipped.is_empty() {
            println!("\nskipped:");
            self.skipped.iter().for_each(|(name, reason)| println!("  {name}: {reason}"));
        }
        if self.passed + self.failed.len() == 0 {
            self.failed.push("nothing ran".to_owned());
        }
        if !self.failed.is_empty() {
            println!("\nfailed:");
            self.failed.iter().for_each(|name| println!("  {name}"));
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len());
        self.failed.is_empty()
    }

    fn say(&mut self, text: &str) {
        self.clear();
        println!("{} {text}", self.head());
        let _ = std::io::stdout().flush();
    }

    fn say_plain(&mut self, text: &str) {
        self.clear();
        println!("    {text}");
    }

    fn head(&self) -> String {
        let time = clock::minutes(self.started.elapsed().as_secs());
        format!("[{}/{} {time}] {}", self.nth, self.suites, self.suite)
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            print!("\r\x1b[2K");
        }
    }
}
