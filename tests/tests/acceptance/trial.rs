//! One mesh and what every test does with it: traffic, waiting until the replicas are level, comparing.
//!
//! Owns: when two nodes are looked at, and what must then be so. What can hurt: a mesh that never settles; the wait
//! ends, and the test fails with what the agents say. Refuses: reading twice until it fits.

use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use understudy_tests::imap::Account as ImapAccount;
use understudy_tests::mesh::{Account, Mesh, State};

use crate::worker::{Tally, Worker};

/// A mesh that is not level after so long without traffic has failed. Generous: a killed process may leave the lock
/// file of a Maildir behind, which Dovecot takes for stale after two minutes.
const SETTLE_WAIT: Duration = Duration::from_secs(240);
/// Lines of a node's logs that a failed test shows.
const LOG_LINES: usize = 60;

#[expect(clippy::disallowed_methods, reason = "a test waits by the clock of the host")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    number("UNDERSTUDY_TEST_SEED").unwrap_or_else(|| rand::random::<u32>().into())
}

/// Whether the long forms are wanted.
pub(crate) fn is_long() -> bool {
    number("UNDERSTUDY_TEST_LONG").is_some_and(|n| n != 0)
}

/// For how long there is traffic: `short` seconds by default, `long` ones in a long run.
pub(crate) fn traffic_time(short: u64, long: u64) -> Duration {
    let default = if is_long() { long } else { short };
    Duration::from_secs(number("UNDERSTUDY_TEST_SECONDS").unwrap_or(default))
}

/// Why a mesh cannot run on this host, if it cannot.
pub(crate) fn lacking() -> Option<String> {
    if let Some(why) = understudy_tests::dovecot::missing() {
        return Some(why.to_owned());
    }
    let namespaces = Command::new("unshare").args(["--net", "--mount", "true"]).status();
    (!namespaces.is_ok_and(|s| s.success())).then(|| "no network namespaces".to_owned())
}

/// Says that the test is skipped, if it has to be.
macro_rules! skip_if_lacking {
    ($name:literal) => {
        if let Some(why) = crate::trial::lacking() {
            println!("SKIPPED {}: {why}", $name);
            return;
        }
    };
}
pub(crate) use skip_if_lacking;

/// The program that drives the mesh. What the mesh runs is taken as `cargo xtask build` left it, and built only when it
/// is not there.
fn program() -> Result<PathBuf> {
    static BUILT: std::sync::OnceLock<Result<PathBuf, String>> = std::sync::OnceLock::new();
    let built = || -> Result<PathBuf> {
        let exe = std::env::current_exe()?;
        let folder = exe.ancestors().nth(2).context("no target folder")?;
        let program = folder.join("xtask");
        if !program.exists() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            ensure!(
                Command::new(cargo).args(["build", "--package", "xtask"]).status()?.success(),
                "xtask does not build"
            );
        }
        if !folder.join("understudy").exists() {
            ensure!(Command::new(&program).arg("build").status()?.success(), "`cargo xtask build` fails");
        }
        Ok(program)
    };
    BUILT.get_or_init(|| built().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

/// A mesh of two nodes.
pub(crate) struct Trial {
    pub(crate) mesh: Mesh,
    pub(crate) seed: u64,
    name: String,
    done: bool,
}

impl Trial {
    /// Starts it; `environment` reaches the agents.
    pub(crate) fn up(name: &str, accounts: usize, args: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let seed = seed();
        println!("{name}: UNDERSTUDY_TEST_SEED={seed} {args:?} {environment:?}");
        let mesh = Mesh::up_with(&program()?, 2, accounts, args, environment)?;
        Ok(Self { mesh, seed, name: name.to_owned(), done: false })
    }

    pub(crate) fn state(&self) -> &State {
        self.mesh.state()
    }

    /// Accounts that are active on `node`.
    pub(crate) fn active_on(&self, node: &str) -> Vec<Account> {
        self.state().accounts.iter().filter(|account| account.active == node).cloned().collect()
    }

    /// One session for each account, and another for every third of them, with seeds that follow from the trial's.
    pub(crate) fn workers(&self, pause: Duration) -> Result<Vec<Worker>> {
        let mut workers = Vec::new();
        for (n, account) in (0_u64..).zip(&self.state().accounts) {
            let neighbours: Vec<String> =
                self.active_on(&account.active).into_iter().map(|neighbour| neighbour.name).collect();
            for session in 0..if n % 3 == 0 { 2 } else { 1 } {
                let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(n * 10 + session);
                let target = self.state().target(account, &account.active)?;
                workers.push(Worker::new(target, neighbours.clone(), seed, pause));
            }
        }
        Ok(workers)
    }

    /// Lets `workers` work while `meanwhile` runs.
    pub(crate) fn traffic(&self, workers: Vec<Worker>, meanwhile: impl FnOnce() -> Result<()>) -> Result<Tally> {
        let stop = AtomicBool::new(false);
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = workers.into_iter().map(|worker| scope.spawn(|| worker.run(&stop))).collect();
            let done = meanwhile();
            stop.store(true, Ordering::Relaxed);
            let mut all = Tally::default();
            for thread in threads {
                match thread.join() {
                    Ok(tally) => all.add(tally),
                    Err(_) => bail!("a session's thread failed"),
                }
            }
            done.map(|()| all)
        })?;
        println!(
            "{}: {} operations {:?}, {} refused, {} unknown, {} unreachable, {} messages promised",
            self.name,
            all.total(),
            all.done,
            all.refused,
            all.unknown,
            all.unreachable,
            all.promised.len()
        );
        ensure!(all.odd.is_empty(), "answers that no server should give: {:?}", all.odd);
        Ok(all)
    }

    /// Waits until every replica has everything.
    pub(crate) fn settle(&self) -> Result<()> {
        let started = now();
        let mut level = 0;
        loop {
            let state = self.mesh.status()?;
            level = if state.behind() == 0 { level + 1 } else { 0 };
            // Twice: an operation on its way out of the ring is in nobody's count yet.
            if level == 2 {
                println!("{}: level after {:.1} s", self.name, started.elapsed().as_secs_f64());
                return Ok(());
            }
            if started.elapsed() > SETTLE_WAIT {
                let behind: Vec<_> =
                    state.accounts.iter().filter(|a| a.lag.as_ref().is_none_or(|l| l.operations != Some(0))).collect();
                bail!("not level after {SETTLE_WAIT:?}: {behind:?}");
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Reads all accounts on both nodes: they must be equal, and every promised message there exactly once.
    pub(crate) fn compare(&self, tally: &Tally) -> Result<()> {
        // A Maildir that nobody has opened yet gets its UIDVALIDITY from the first reader, and tells the replica then.
        self.state().accounts.iter().try_for_each(|account| self.state().read(account, &account.active).map(drop))?;
        self.settle()?;
        let mut wrong = Vec::new();
        let mut messages = 0;
        let rebuilt = self.rebuilt();
        for account in &self.state().accounts {
            let active = self.state().read(account, &account.active)?;
            messages += active.messages();
            let promised = tally.promised.iter().filter(|(name, _)| *name == account.name).map(|(_, token)| token);
            let promised: Vec<&String> = promised.collect();
            for (node, state) in account
                .replicas
                .iter()
                .map(|node| Ok((node, self.state().read(account, node)?)))
                .collect::<Result<Vec<_>>>()?
            {
                if let Some(difference) = active.difference(&state) {
                    wrong.push(format!("{} on {node}: {difference}", account.name));
                }
                wrong.extend(missing(&state, &promised).map(|what| format!("{} on {node}: {what}", account.name)));
            }
            wrong.extend(missing(&active, &promised).map(|what| format!("{} on the active: {what}", account.name)));
            // An mdbox that Dovecot makes anew from its files after a kill gets back copies of what was moved away; the
            // replica is to have the same.
            if !rebuilt.contains(&account.name) {
                wrong.extend(twice(&active).map(|what| format!("{}: {what}", account.name)));
            }
        }
        println!("{}: {messages} messages compared, {} differences", self.name, wrong.len());
        ensure!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    }

    /// Differences that the agents' own comparison found and repaired: equal in the end, but not by replay.
    pub(crate) fn repaired(&self) -> Vec<String> {
        self.logs().into_iter().filter(|line| line.contains("a replica differs")).collect()
    }

    /// Accounts whose mdbox Dovecot made anew from its files, as it does after a kill when it is opened next.
    pub(crate) fn rebuilt(&self) -> Vec<String> {
        let lines: Vec<String> = self.logs().into_iter().filter(|line| line.contains("rebuilding indexes")).collect();
        let names = self.state().accounts.iter().map(|account| account.name.clone());
        names.filter(|name| lines.iter().any(|line| line.contains(name))).collect()
    }

    fn logs(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for node in &self.state().nodes {
            let Ok(files) = std::fs::read_dir(node.dir.join("log")) else { continue };
            for file in files.flatten().map(|entry| entry.path()) {
                let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
                lines.extend(text.lines().map(|line| format!("{} {}: {line}", node.name, file_name(&file))));
            }
        }
        lines
    }

    /// Ends the trial well.
    pub(crate) fn end(mut self, result: Result<()>) {
        if let Err(error) = result {
            panic!("{}: UNDERSTUDY_TEST_SEED={}: {error:#}", self.name, self.seed);
        }
        self.done = true;
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(keep) = std::env::var_os("UNDERSTUDY_TEST_KEEP") {
            let to = Path::new(&keep).join(format!("{}-{}", self.name, self.seed));
            let _ = std::fs::create_dir_all(&to);
            for node in &self.state().nodes {
                let _ = Command::new("cp").arg("-r").arg(&node.dir).arg(&to).status();
            }
            eprintln!("the nodes' folders are in `{}`", to.display());
        }
        let bad =
            |line: &&String| ["WARN", "ERROR", "panicked", "Panic:", "Fatal:"].iter().any(|word| line.contains(word));
        let lines = self.logs();
        let bad: Vec<&String> = lines.iter().filter(bad).collect();
        bad.iter().skip(bad.len().saturating_sub(LOG_LINES)).for_each(|line| eprintln!("{line}"));
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How often each subject stands in INBOX.
pub(crate) fn subjects(account: &ImapAccount) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for message in account.mailboxes.get("INBOX").into_iter().flatten().flat_map(|inbox| &inbox.messages) {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        if let Some(subject) = text.lines().find_map(|line| line.strip_prefix("Subject: ")) {
            *count.entry(subject.to_owned()).or_default() += 1;
        }
    }
    count
}

/// Promised messages that are not there.
fn missing(account: &ImapAccount, promised: &[&String]) -> Option<String> {
    let there = subjects(account);
    let lost: Vec<&str> = promised.iter().map(|t| t.as_str()).filter(|t| !there.contains_key(*t)).collect();
    (!lost.is_empty()).then(|| format!("acknowledged, and not there: {lost:?}"))
}

/// Messages that are there more than once.
fn twice(account: &ImapAccount) -> Option<String> {
    let twice: Vec<String> =
        subjects(account).into_iter().filter(|(_, count)| *count > 1).map(|(token, _)| token).collect();
    (!twice.is_empty()).then(|| format!("there more than once: {twice:?}"))
}
