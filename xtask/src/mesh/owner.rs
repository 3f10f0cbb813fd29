//! The process that `mesh up` is: starts nodes, knows their process numbers, answers at `mesh.sock`, until its end.
//!
//! Owns: `mesh.json`. Nobody else writes it. What can hurt: a node that dies on its way up; its log's last lines are
//! shown. Refuses: starting again what was killed; a trial wants it dead until `mesh start`.

use super::contract::{Mesh, State};
use super::delay::{Delays, Length};
use super::kill::{AGENT, store_processes};
use super::plan::{Plan, Seat};
use super::process::{self, Place};
use super::services::{self, Service, greeting};
use super::store::Store;
use super::{Part, agent, status};
use crate::{clock, run};
use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A node that does not serve by then does not come up.
const READY_WAIT: Duration = Duration::from_secs(60);

/// Between two looks at something that is to come.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A service that has no process after so long has ended.
const SERVICE_START_WAIT: Duration = Duration::from_secs(2);

/// Why the owner ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to, or its folder is gone: the mesh goes with it.
    Told,
    /// Another mesh was made in the same folder after somebody emptied it: what is there now is not ours to take away.
    NotOurs,
}

/// See the module.
pub(crate) struct Owner<'a> {
    plan: &'a Plan,
    state: State,
    with_plugin: bool,
    with_agent: bool,
    listener: UnixListener,
    delays: Delays,
}

fn socket(plan: &Plan) -> PathBuf {
    plan.home.join("mesh.sock")
}

impl<'a> Owner<'a> {
    /// Takes up its place; nothing is started yet.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn new(plan: &'a Plan, state: State, with_plugin: bool, with_agent: bool) -> Result<Self> {
        let listener = UnixListener::bind(socket(plan)).context("cannot make `mesh.sock`")?;
        listener.set_nonblocking(true)?;
        Ok(Self { plan, state, with_plugin, with_agent, listener, delays: Delays::default() })
    }

    /// The mesh as it stands.
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.state.mesh
    }

    /// Writes `mesh.json`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn save(&self) -> Result<()> {
        self.state.save(&self.plan.dir)
    }

    /// Writes all configurations and starts all nodes, and etcd before them.
    ///
    /// # Errors
    /// When something cannot be written or started.
    pub(crate) fn start_all(&mut self, level: &str) -> Result<()> {
        for seat in &self.plan.etcd {
            services::start(self.plan, &self.state.subnet, Service::Etcd, seat)?;
        }
        let nodes = self.state.mesh.nodes.clone();
        let ips: Vec<&str> = nodes.iter().map(|n| n.ip.as_str()).collect();
        if self.with_plugin {
            agent::write(self.plan, &ips, level, &self.state.mesh.coordinator)?;
        }
        if self.with_agent {
            agent::certificates(self.plan, &ips)?;
        }
        let accounts: Vec<String> = self.state.mesh.accounts.iter().map(|a| a.name.clone()).collect();
        for at in 0..self.plan.nodes.len() {
            self.store(at, &accounts).write()?;
        }
        for at in 0..self.plan.nodes.len() {
            self.start(at, Part::All)?;
        }
        self.save()
    }

    fn store<'b>(&'b self, at: usize, accounts: &'b [String]) -> Store<'b> {
        let (node, shown) = (&self.plan.nodes[at], &self.state.mesh.nodes[at]);
        Store {
            home: &node.home,
            name: &node.name,
            ip: &shown.ip,
            format: self.plan.format,
            accounts,
            plugin: self.with_plugin.then(|| run::target_dir().join("dovecot")),
        }
    }

    /// Starts what of `what` does not run on node `at` (from 0). The agent first: it makes the ring.
    fn start(&mut self, at: usize, what: Part) -> Result<()> {
        let node = &self.plan.nodes[at];
        let cgroup = self.state.cgroups.get(&node.name).cloned();
        let log = node.home.join("log");
        if what.agent() && self.with_agent && self.agent_pid(at).is_none() {
            let log = log.join("agent.log");
            let place = Place { netns: &node.netns, cgroup: None, mark: AGENT, log: &log };
            let config = agent::config(&node.home);
            let args = [std::ffi::OsStr::new("agent"), "--config".as_ref(), config.as_os_str()];
            let pid = process::spawn(&place, &agent::program(), &args)?;
            self.state.mesh.nodes[at].agent_pid = Some(pid);
        }
        if what.store() && self.store_pid(at).is_none() {
            // What an earlier master left: children of its own that have not noticed its end, and its number.
            process::end_all(|| self.store_processes(at));
            let _ = std::fs::remove_file(node.home.join("run/master.pid"));
            let log = log.join("dovecot.out");
            let place = Place { netns: &node.netns, cgroup: cgroup.as_deref(), mark: "store", log: &log };
            let (program, args) = self.store(at, &[]).command();
            let pid = process::spawn(&place, &program, &args)?;
            self.state.mesh.nodes[at].store_pid = Some(pid);
        }
        Ok(())
    }

    fn agent_pid(&self, at: usize) -> Option<i32> {
        let node = &self.state.mesh.nodes[at];
        node.agent_pid.filter(|pid| process::alive(*pid, &node.netns))
    }

    fn store_pid(&self, at: usize) -> Option<i32> {
        let node = &self.state.mesh.nodes[at];
        node.store_pid.filter(|pid| process::alive(*pid, &node.netns))
    }

    fn store_processes(&self, at: usize) -> Vec<i32> {
        store_processes(&self.state, &self.state.mesh.nodes[at])
    }

    /// Waits until every node serves, and starts what stands before them.
    ///
    /// # Errors
    /// When a node ends instead, takes too long, or a signal asks us to end.
    pub(crate) fn wait_until_ready(&mut self, signals: &SignalFd) -> Result<()> {
        let started = clock::now();
        for seat in &self.plan.etcd {
            self.wait_for_service(Service::Etcd, seat, Some(signals))?;
        }
        for at in 0..self.plan.nodes.len() {
            loop {
                process::reap();
                let waiting_for = match self.serves(at) {
                    Ok(()) => break,
                    Err(error) => format!("{error:#}"),
                };
                let dead = self.store_pid(at).is_none() || self.with_agent && self.agent_pid(at).is_none();
                if dead || started.elapsed() > READY_WAIT {
                    let how = if dead { "ended" } else { "does not serve" };
                    bail!("{} {how}: {waiting_for}\n{}", self.plan.nodes[at].name, self.last_lines(at));
                }
                ensure!(signals.read_signal()?.is_none(), "told to end");
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        if let Some(proxy) = &self.plan.proxy {
            for service in Service::PROXIES {
                services::start(self.plan, &self.state.subnet, service, proxy)?;
            }
            for service in Service::PROXIES {
                self.wait_for_service(service, proxy, Some(signals))?;
            }
            while let Err(error) = self.routes() {
                ensure!(started.elapsed() < READY_WAIT, "the nodes serve, but not all accounts: {error:#}");
                ensure!(signals.read_signal()?.is_none(), "told to end");
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        if self.with_agent {
            status::place_now(&mut self.state.mesh);
        }
        Ok(())
    }

    fn wait_for_service(&self, service: Service, seat: &Seat, signals: Option<&SignalFd>) -> Result<()> {
        let started = clock::now();
        while let Err(error) = services::serves(&self.state.subnet, service, seat) {
            process::reap();
            let ended = service.processes(seat).is_empty() && started.elapsed() > SERVICE_START_WAIT;
            if ended || started.elapsed() > READY_WAIT {
                let logs: String = services::logs(seat).iter().map(|log| tail(log)).collect();
                bail!("{} does not serve: {error:#}\n{logs}", service.name());
            }
            ensure!(signals.map_or(Ok(None), SignalFd::read_signal)?.is_none(), "told to end");
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Does every agent route every account? One account of each group is asked for.
    fn routes(&self) -> Result<()> {
        if !self.with_agent {
            return Ok(());
        }
        let mut groups = std::collections::BTreeSet::new();
        let accounts: Vec<_> = self.state.mesh.accounts.iter().filter(|a| groups.insert(a.group)).collect();
        for node in &self.state.mesh.nodes {
            for account in &accounts {
                services::http(&node.ip, agent::ROUTING_PORT, &format!("/account/{}/where", account.name))?;
            }
        }
        Ok(())
    }

    fn serves(&self, at: usize) -> Result<()> {
        let node = &self.state.mesh.nodes[at];
        for (service, endpoint) in [("IMAP", &node.imap), ("LMTP", &node.lmtp)] {
            greeting(&endpoint.host, endpoint.port).with_context(|| format!("no {service} yet"))?;
        }
        if self.with_agent {
            agent::get(&node.admin_socket, "/v1/status").context("no agent yet")?;
        }
        Ok(())
    }

    fn last_lines(&self, at: usize) -> String {
        let log = self.plan.nodes[at].home.join("log");
        ["agent.log", "dovecot.out", "dovecot.log"].map(|name| tail(&log.join(name))).concat()
    }

    /// Shows the mesh to people.
    pub(crate) fn print(&self) {
        super::status::print(&self.state.mesh);
        println!("\nStays until Ctrl-C, SIGTERM or `cargo xtask mesh down --dir {}`.", self.plan.dir.display());
    }

    /// Answers at `mesh.sock` until a signal asks us to end, or, with `follow_parent`, who started us is gone.
    ///
    /// # Errors
    /// When waiting itself fails.
    pub(crate) fn serve(&mut self, signals: &SignalFd, follow_parent: bool) -> Result<End> {
        let parent = nix::unistd::getppid();
        loop {
            if follow_parent && nix::unistd::getppid() != parent {
                return Ok(End::Told);
            }
            let mut fds = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::from(200u16)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => bail!("cannot wait: {error}"),
            }
            process::reap();
            if signals.read_signal()?.is_some() {
                return Ok(End::Told);
            }
            match State::load(&self.plan.dir) {
                Ok(state) if state.owner_pid != self.state.owner_pid => return Ok(End::NotOurs),
                Err(_) if !self.plan.dir.join("mesh.json").exists() => return Ok(End::Told), // removed under us
                _ => {}
            }
            self.notice_deaths()?;
            while let Ok((stream, _)) = self.listener.accept() {
                let answer = match self.answer(&stream) {
                    Ok(()) => "ok\n".to_owned(),
                    Err(error) => format!("error: {error:#}\n"),
                };
                let _ = (&stream).write_all(answer.as_bytes());
            }
        }
    }

    fn notice_deaths(&mut self) -> Result<()> {
        let mut changed = false;
        for at in 0..self.plan.nodes.len() {
            let (agent, store) = (self.agent_pid(at), self.store_pid(at));
            let node = &mut self.state.mesh.nodes[at];
            changed |= node.agent_pid != agent || node.store_pid != store;
            (node.agent_pid, node.store_pid) = (agent, store);
        }
        if changed { self.save() } else { Ok(()) }
    }

    /// One line: `start NODE PART`, `service NAME SEAT …`, or `delay NODE MS LOSS`.
    fn answer(&mut self, stream: &UnixStream) -> Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = String::new();
        BufReader::new(stream.take(1024)).read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, part) = match words[..] {
            ["start", name, part] => (name, part),
            ["service", name, ref seats @ ..] => return self.start_service(name, seats),
            ["delay", name, ms, loss] => {
                let node =
                    self.plan.nodes.iter().find(|n| n.name == name).with_context(|| format!("no node `{name}`"))?;
                return self.delays.set(self.plan, node, Length { ms: ms.parse()?, loss: loss.parse()? });
            }
            _ => bail!("`{}` is not understood", line.trim()),
        };
        let at = self.plan.nodes.iter().position(|n| n.name == name).with_context(|| format!("no node `{name}`"))?;
        let part = clap::ValueEnum::from_str(part, true).map_err(anyhow::Error::msg)?;
        self.start(at, part)?;
        self.save()?;
        let started = clock::now();
        while let Err(error) = self.part_serves(at, part) {
            process::reap();
            ensure!(started.elapsed() < READY_WAIT, "{name} does not serve: {error:#}\n{}", self.last_lines(at));
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn start_service(&self, name: &str, seats: &[&str]) -> Result<()> {
        let all = [Service::Etcd].into_iter().chain(Service::PROXIES);
        let service = all.into_iter().find(|service| service.name() == name).context("no such service")?;
        let seats = service.seats(self.plan).into_iter().filter(|seat| seats.contains(&seat.name.as_str()));
        let seats: Vec<&Seat> = seats.collect();
        // All of them before any is waited for: one member of etcd alone elects nobody.
        for seat in seats.iter().filter(|seat| service.processes(seat).is_empty()) {
            services::start(self.plan, &self.state.subnet, service, seat)?;
        }
        seats.into_iter().try_for_each(|seat| self.wait_for_service(service, seat, None))
    }

    fn part_serves(&self, at: usize, part: Part) -> Result<()> {
        let node = &self.state.mesh.nodes[at];
        if part.store() {
            ensure!(self.store_pid(at).is_some(), "Dovecot ended");
            greeting(&node.imap.host, node.imap.port)?;
            greeting(&node.lmtp.host, node.lmtp.port)?;
        }
        if part.agent() && self.with_agent {
            agent::get(&node.admin_socket, "/v1/status")?;
        }
        Ok(())
    }
}

/// The last lines of a log, for people.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let name = log.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].iter().map(|line| format!("  {name}: {line}\n")).collect()
}

/// Leaves only the process numbers that are really there now.
pub(crate) fn refresh(mesh: &mut Mesh) {
    for node in &mut mesh.nodes {
        node.agent_pid = node.agent_pid.filter(|pid| process::alive(*pid, &node.netns));
        node.store_pid = node.store_pid.filter(|pid| process::alive(*pid, &node.netns));
    }
}

/// Asks the owner of the mesh in `dir` to do `what`.
///
/// # Errors
/// When there is no owner, or it could not.
pub(crate) fn ask(dir: &Path, what: &str) -> Result<bool> {
    let plan = Plan::new(dir, 0, 0, super::Format::Maildir);
    let mut stream = UnixStream::connect(socket(&plan))
        .context("the process of `mesh up` is gone; take the mesh away with `cargo xtask mesh down`")?;
    writeln!(stream, "{what}")?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    ensure!(answer.trim() == "ok", "{}", answer.trim().trim_start_matches("error: "));
    Ok(true)
}
