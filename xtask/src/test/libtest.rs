//! Reading what libtest (and TAP, for the C tests) prints, line by line.
//!
//! Owns: counts and names. What can hurt: output of other programs between the lines; the counts therefore come from
//! each program's own `test result:`, and a program that ends without one is a failure.
//! The convention of this project: a test that cannot run here prints `SKIPPED name: reason` and passes; it is counted
//! as skipped. So libtest must be asked for `--show-output`.

/// What a run of test programs came to.
#[derive(Debug, Default)]
pub(super) struct Libtest {
    pub(super) passed: usize,
    pub(super) failed: Vec<String>,
    /// Names and reasons.
    pub(super) skipped: Vec<(String, String)>,
    /// What failed tests printed, at most [`SHOWN_LINES`] lines.
    pub(super) shown: Vec<String>,
    /// The program whose tests run now.
    program: String,
    /// Between `running N tests` and `test result:`.
    open: bool,
    failed_here: usize,
    skipped_here: usize,
    /// The test whose output is printed now, and whether its skip was counted.
    block: Option<(String, bool)>,
    showing: bool,
    /// Tests that libtest last called slow: the suspects when the watchdog ends a run.
    pub(super) slow: Vec<String>,
}

/// Lines of failed tests' output that are shown; all of it is in the log.
const SHOWN_LINES: usize = 300;

impl Libtest {
    /// Takes one line.
    pub(super) fn line(&mut self, line: &str) {
        let text = line.trim();
        if let Some(program) = text.strip_prefix("Running ").or_else(|| text.strip_prefix("Doc-tests ")) {
            self.close();
            program.clone_into(&mut self.program);
        } else if is_start(text) {
            self.close();
            self.open = true;
            self.showing = false;
        } else if let Some(result) = text.strip_prefix("test result: ") {
            self.result(result);
        } else if let Some(rest) = text.strip_prefix("test ") {
            self.test(rest);
        } else if let Some(rest) = text.strip_prefix("SKIPPED ") {
            self.skip(rest);
        } else if let Some(name) = text.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            self.block = Some((name.to_owned(), false));
        } else if text == "failures:" {
            self.showing = !self.showing; // the second one heads the mere list of names
        } else {
            self.tap(text);
        }
        if self.showing && self.shown.len() < SHOWN_LINES {
            self.shown.push(line.to_owned());
        }
    }

    /// Takes the end of the run; `ok` is what the run itself said.
    pub(super) fn end(&mut self, ok: bool, why: &str) {
        self.close();
        if !ok && self.failed.is_empty() {
            let slow = if self.slow.is_empty() { String::new() } else { format!("; slow: {}", self.slow.join(", ")) };
            self.failed.push(format!("{why}{slow}"));
        }
    }

    /// All that ran or was skipped.
    pub(super) fn total(&self) -> usize {
        self.passed + self.failed.len() + self.skipped.len()
    }

    fn test(&mut self, rest: &str) {
        if let Some((name, _)) = rest.split_once(" has been running for over") {
            self.slow.push(name.to_owned());
            return;
        }
        let Some((name, status)) = rest.rsplit_once(" ... ") else { return };
        self.slow.retain(|slow| slow != name);
        if status.starts_with("FAILED") {
            self.failed_here += 1;
            self.failed.push(format!("{name} ({})", self.program));
        } else if let Some(reason) = status.strip_prefix("ignored") {
            let reason = reason.trim_start_matches(", ");
            let reason = if reason.is_empty() { "only with --long" } else { reason };
            self.skipped.push((name.to_owned(), reason.to_owned()));
        }
    }

    fn skip(&mut self, rest: &str) {
        let (name, reason) = rest.split_once(": ").unwrap_or((rest, "no reason given"));
        match &mut self.block {
            Some((_, true)) => return, // one test counts once, however much of it was skipped
            Some((_, counted)) => *counted = true,
            None => {}
        }
        self.skipped_here += 1;
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    fn result(&mut self, result: &str) {
        let number = |what: &str| {
            let words: Vec<&str> = result.split([' ', ';']).collect();
            let at = words.iter().position(|w| *w == what)?;
            words.get(at.checked_sub(1)?)?.parse::<usize>().ok()
        };
        let passed = number("passed").unwrap_or(0);
        let failed = number("failed").unwrap_or(0);
        self.passed += passed.saturating_sub(self.skipped_here);
        for nth in self.failed_here..failed {
            self.failed.push(format!("failure {} of {}", nth + 1, self.program));
        }
        (self.open, self.failed_here, self.skipped_here, self.block, self.showing) = (false, 0, 0, None, false);
        self.slow.clear();
    }

    fn tap(&mut self, text: &str) {
        let (bad, rest) = match (text.strip_prefix("not ok "), text.strip_prefix("ok ")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return,
        };
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches([' ', '-']);
        match rest.split_once("# SKIP") {
            _ if bad => self.failed.push(rest.to_owned()),
            Some((name, reason)) => self.skipped.push((name.trim().to_owned(), reason.trim().to_owned())),
            None => self.passed += 1,
        }
    }

    fn close(&mut self) {
        if self.open {
            self.failed.push(format!("{} ended without a result", self.program));
            (self.open, self.failed_here, self.skipped_here, self.block) = (false, 0, 0, None);
        }
    }
}

fn is_start(text: &str) -> bool {
    text.strip_prefix("running ")
        .and_then(|t| t.strip_suffix(" tests").or_else(|| t.strip_suffix(" test")))
        .is_some_and(|n| n.parse::<usize>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, ok: bool) -> Libtest {
        let mut libtest = Libtest::default();
        text.lines().for_each(|line| libtest.line(line));
        libtest.end(ok, "exit status: 101");
        libtest
    }

    #[test]
    fn passes_skips_and_ignored_are_told_apart() {
        let text = "     Running unittests src/lib.rs (target/debug/deps/a-1)\n\nrunning 4 tests\n\
            test one ... ok\ntest two ... ok\ntest three ... ignored, takes an hour\n\
            test four - should panic ... ok\n\n\
            successes:\n\n---- two stdout ----\nSKIPPED two: no BTF\nSKIPPED two: and no root\n\n\n\
            successes:\n    one\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let got = read(text, true);
        assert_eq!((got.passed, got.failed.len()), (2, 0));
        let skipped: Vec<_> = got.skipped.iter().map(|(n, r)| (n.as_str(), r.as_str())).collect();
        assert_eq!(skipped, [("three", "takes an hour"), ("two", "no BTF")]);
        assert_eq!(got.total(), 4);
    }

    #[test]
    fn failures_are_named_and_shown() {
        let text = "running 2 tests\ntest bad ... FAILED\ntest good ... ok\n\nfailures:\n\n---- bad stdout ----\n\
            left is not right\n\nfailures:\n    bad\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        let got = read(text, false);
        assert_eq!((got.passed, got.failed.len()), (1, 1));
        assert!(got.failed[0].starts_with("bad"));
        assert!(got.shown.iter().any(|l| l == "left is not right"));
        assert!(!got.shown.iter().any(|l| l == "    bad"));
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let died = "     Running tests/x.rs (target/x)\nrunning 2 tests\ntest one ... ok\n";
        let got = read(
            &format!("{died}     Running tests/y.rs\nrunning 0 tests\ntest result: ok. 0 passed; 0 failed"),
            false,
        );
        assert_eq!(got.failed, ["tests/x.rs (target/x) ended without a result"]);
        assert_eq!(read("error: could not compile\n", false).failed, ["exit status: 101"]);
    }

    #[test]
    fn a_hang_names_the_slow_test() {
        let got = read("test stuck has been running for over 60 seconds\n", false);
        assert_eq!(got.failed, ["exit status: 101; slow: stuck"]);
    }

    #[test]
    fn tap_lines_count() {
        let got = read("ok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no dovecot\n1..3\n", false);
        assert_eq!((got.passed, got.failed.len(), got.skipped.len()), (1, 1, 1));
        assert_eq!(got.skipped[0], ("c".to_owned(), "no dovecot".to_owned()));
    }
}
