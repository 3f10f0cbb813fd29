//! Driving a mesh from outside, by the documented contract alone (`docs/mesh.md`).
//!
//! Owns: starting `cargo xtask mesh up`, reading its JSON, and taking the mesh away on every way out. What can hurt: a
//! test that panics; dropping [`Mesh`] takes the mesh away. Refuses: knowing anything that is not in the contract.

use crate::imap::{Account as ImapAccount, Imap};
use crate::traffic::Target;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Every wait of a client ends after this: longer than Dovecot waits for the lock file of a Maildir that a killed
/// process left behind (two minutes).
pub const CLIENT_WAIT: Duration = Duration::from_secs(150);

/// A trial's folder is named so, then by the process that started it and a number; what killed runs left is found by
/// it.
pub const TRIAL_PREFIX: &str = "understudy-trial-";

/// What the contract says of a mesh.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct State {
    pub nodes: Vec<Node>,
    pub accounts: Vec<Account>,
    pub blob_dir: PathBuf,
    /// Where users are served; `None` in a mesh without proxies.
    pub proxy: Option<Proxy>,
    pub coordinator: Coordinator,
}

/// Where users are served, whichever node is active for them.
#[derive(Clone, Debug, Deserialize)]
pub struct Proxy {
    pub imap: Endpoint,
    pub pop3: Endpoint,
    pub smtp: Endpoint,
}

/// Where leases and epochs live.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Coordinator {
    /// `none`, `embedded` or `etcd`.
    pub kind: String,
    pub endpoints: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    pub name: String,
    pub ip: String,
    pub netns: String,
    pub dir: PathBuf,
    /// Where its own file system is mounted, with `--disks`.
    pub disk: Option<PathBuf>,
    pub imap: Endpoint,
    pub lmtp: Endpoint,
    pub metrics: String,
    pub admin_socket: PathBuf,
    pub agent_pid: Option<i32>,
    pub store_pid: Option<i32>,
}

/// Where a service listens.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

/// One account.
#[derive(Clone, Debug, Deserialize)]
pub struct Account {
    pub name: String,
    pub password: String,
    pub active: String,
    pub replicas: Vec<String>,
    pub group: u32,
    pub epoch: u64,
    pub lag: Option<AccountLag>,
}

/// How far an account's replicas are behind.
#[derive(Clone, Debug, Deserialize)]
pub struct AccountLag {
    pub operations: Option<u64>,
    pub seconds: Option<f64>,
    pub replicas: BTreeMap<String, Lag>,
}

/// How far one replica is behind.
#[derive(Clone, Debug, Deserialize)]
pub struct Lag {
    pub operations: Option<u64>,
    pub seconds: Option<f64>,
}

impl State {
    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|n| n.name == name).with_context(|| format!("no node `{name}`"))
    }

    /// Where `account` is reached on `node`.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn target(&self, account: &Account, node: &str) -> Result<Target> {
        let node = self.node(node)?;
        Ok(Target {
            imap: (node.imap.host.clone(), node.imap.port),
            lmtp: (node.lmtp.host.clone(), node.lmtp.port),
            account: account.name.clone(),
            password: account.password.clone(),
        })
    }

    /// Reads the whole of `account` on `node`, as its user sees it.
    ///
    /// # Errors
    /// When the node does not serve.
    pub fn read(&self, account: &Account, node: &str) -> Result<ImapAccount> {
        let Target { imap: (host, port), account, password, .. } = self.target(account, node)?;
        let mut imap = Imap::login(&host, port, &account, &password, CLIENT_WAIT)
            .with_context(|| format!("cannot log in to {node} as `{account}`"))?;
        let state = imap.account().with_context(|| format!("cannot read `{account}` at {node}"))?;
        imap.logout();
        Ok(state)
    }

    /// Accounts of which a replica is behind, or not known to be equal.
    #[must_use]
    pub fn behind(&self) -> usize {
        self.accounts.iter().filter(|a| a.lag.as_ref().is_none_or(|lag| lag.operations != Some(0))).count()
    }
}

/// A mesh that goes when this goes.
#[derive(Debug)]
pub struct Mesh {
    program: PathBuf,
    dir: PathBuf,
    owner: Child,
    up: State,
}

impl Mesh {
    /// Starts a mesh with `program` (xtask); `args` are further arguments of `mesh up`.
    ///
    /// # Errors
    /// When it does not come up; the reason is on standard error.
    pub fn up(program: &Path, nodes: usize, accounts: usize, args: &[&str]) -> Result<Self> {
        Self::up_with(program, nodes, accounts, args, &[])
    }

    /// As [`Self::up`], with variables for the environment: all processes of the mesh inherit them, so that
    /// `UNDERSTUDY_RING__BYTES` and its like reach the agents.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn up_with(
        program: &Path,
        nodes: usize,
        accounts: usize,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("{TRIAL_PREFIX}{}-{nth}", std::process::id()));
        let mut owner = Command::new(program)
            .args(["mesh", "up", "--no-build", "--follow-parent", "--json"])
            .args(["--nodes", &nodes.to_string(), "--accounts", &accounts.to_string(), "--dir"])
            .arg(&dir)
            .args(args)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", program.display()))?;
        let mut line = String::new();
        let read = owner.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        if line.is_empty() {
            let _ = owner.wait();
            anyhow::bail!("the mesh did not come up ({read:?}); the reason is on standard error");
        }
        let up = serde_json::from_str(&line);
        let mut mesh = Self { program: program.to_path_buf(), dir, owner, up: State::default() };
        mesh.up = up.with_context(|| format!("not the documented JSON: {line}"))?;
        Ok(mesh)
    }

    /// As it was when it came up. Process numbers and lags of now are in [`Self::status`].
    #[must_use]
    pub fn state(&self) -> &State {
        &self.up
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The program `understudy`, which is built beside the mesh's own.
    #[must_use]
    pub fn agent_program(&self) -> PathBuf {
        self.program.with_file_name("understudy")
    }

    /// As it stands now.
    ///
    /// # Errors
    /// When `mesh status` fails.
    pub fn status(&self) -> Result<State> {
        let text = self.run(&["status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("not the documented JSON: {text}"))
    }

    /// Sends `signal` to `what` (`agent`, `store`, `all`, `machine`) of `node`.
    ///
    /// # Errors
    /// When nothing of it runs.
    pub fn kill(&self, node: &str, what: &str, signal: &str) -> Result<()> {
        self.run(&["kill", "--node", node, "--what", what, "--signal", signal]).map(|_| ())
    }

    /// Starts `what` of `node`, and returns when it serves.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&self, node: &str, what: &str) -> Result<()> {
        self.run(&["start", "--node", node, "--what", what]).map(|_| ())
    }

    /// Sends `signal` to `etcd`, `nginx`, `haproxy` or `postfix`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_service(&self, what: &str, signal: &str) -> Result<()> {
        self.run(&["kill", "--what", what, "--signal", signal]).map(|_| ())
    }

    /// Starts `etcd`, `nginx`, `haproxy` or `postfix`, and returns when it serves.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_service(&self, what: &str) -> Result<()> {
        self.run(&["start", "--what", what]).map(|_| ())
    }

    /// Cuts `node` off; `args` are further arguments of `mesh partition`, none for a cut from everybody.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn partition(&self, node: &str, args: &[&str]) -> Result<()> {
        self.run(&[&["partition", "--node", node], args].concat()).map(|_| ())
    }

    /// Makes every round trip of `node` longer by `ms`, and loses so many percent of its frames; 0 and 0 end it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delay(&self, node: &str, ms: u32, loss: f64) -> Result<()> {
        self.run(&["delay", "--node", node, "--ms", &ms.to_string(), "--loss", &loss.to_string()]).map(|_| ())
    }

    /// Lets `node`'s disk be `full`, `readonly`, or `hang`, or every access an error (`eio`).
    ///
    /// # Errors
    /// When the mesh has no disks of its own.
    pub fn fault(&self, node: &str, what: &str) -> Result<()> {
        self.run(&["fault", "--node", node, "--what", what]).map(|_| ())
    }

    /// Mends all disks.
    ///
    /// # Errors
    /// As [`Self::fault`].
    pub fn mend(&self) -> Result<()> {
        self.run(&["fault", "--clear"]).map(|_| ())
    }

    /// Undoes all that [`Self::partition`] did.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn heal(&self) -> Result<()> {
        self.run(&["heal"]).map(|_| ())
    }

    /// Takes it away.
    ///
    /// # Errors
    /// When something is left behind.
    pub fn down(mut self) -> Result<()> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<()> {
        let done = self.run(&["down"]);
        let _ = self.owner.wait();
        done.map(|_| ())
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        let (verb, rest) = args.split_first().context("no command")?;
        let done = Command::new(&self.program).args(["mesh", verb, "--dir"]).arg(&self.dir).args(rest).output()?;
        ensure!(done.status.success(), "`mesh {}`: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.owner.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.take_away();
        }
    }
}
