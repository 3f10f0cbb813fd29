//! A private etcd for tests: one member or several, on given addresses, in a folder of the test.
//!
//! Owns: starting, waiting until it serves, and stopping, freezing and thawing by process id. What can hurt: leftovers
//! of a test that was killed; a member dies with its parent, and its data is in the test's folder. Refuses: being a
//! client; [`Member::ask`] speaks as much of etcd's JSON interface as tests need to set things up.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PROGRAM: &str = "/usr/bin/etcd";
/// What takes longer than this hangs.
const HANG: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// What this machine lacks for such a test; `None` when all is there.
#[must_use]
pub fn missing() -> Option<&'static str> {
    (!Path::new(PROGRAM).exists()).then_some("etcd is not installed (package etcd-server)")
}

/// Free loopback addresses, all different.
///
/// # Errors
/// When there is none.
pub fn addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let held: Result<Vec<_>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    Ok(held?.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}

/// One member; killed when dropped.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    /// Its data and log.
    pub dir: PathBuf,
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where it says how it is, without TLS.
    pub health: SocketAddr,
    /// Options beside those of names, folders and addresses.
    pub options: Vec<String>,
    tls: bool,
    peer: SocketAddr,
    cluster: String,
    child: Option<Child>,
}

impl Member {
    /// A cluster of one, in a folder that is made if need be; not started yet.
    ///
    /// # Errors
    /// When there is no address or no folder.
    pub fn single(dir: &Path) -> Result<Self> {
        Ok(Self::cluster(dir, 1)?.remove(0))
    }

    /// A cluster of `count`, in folders below `dir`; not started yet.
    ///
    /// # Errors
    /// When there is no address or no folder.
    pub fn cluster(dir: &Path, count: usize) -> Result<Vec<Self>> {
        let addresses = addresses(3 * count)?;
        let names: Vec<String> = (1..=count).map(|n| format!("etcd{n}")).collect();
        let peers = names.iter().zip(addresses.chunks(3)).map(|(name, at)| format!("{name}=http://{}", at[1]));
        let cluster = peers.collect::<Vec<_>>().join(",");
        let member = |(name, at): (String, &[SocketAddr])| {
            let dir = dir.join(&name);
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
            let cluster = cluster.clone();
            let (client, peer, health) = (at[0], at[1], at[2]);
            Ok(Self { name, dir, client, health, options: Vec::new(), tls: false, peer, cluster, child: None })
        };
        names.into_iter().zip(addresses.chunks(3)).map(member).collect()
    }

    /// Clients connect with TLS, and show a certificate of the same authority.
    pub fn set_tls(&mut self, authority: &Path, certificate: &Path, key: &Path) {
        self.tls = true;
        let file = |option: &str, path: &Path| format!("--{option}={}", path.display());
        self.options.extend([
            file("cert-file", certificate),
            file("key-file", key),
            file("trusted-ca-file", authority),
            "--client-cert-auth".to_owned(),
        ]);
    }

    /// For clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.client)
    }

    /// Starts it with the data that it has, and does not wait.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn spawn(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        // It ends with this process, also when that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", PROGRAM, "--name", &self.name, "--data-dir"]).arg(self.dir.join("data"));
        for (option, value) in [
            ("listen-client-urls", self.url()),
            ("advertise-client-urls", self.url()),
            ("listen-peer-urls", format!("http://{}", self.peer)),
            ("initial-advertise-peer-urls", format!("http://{}", self.peer)),
            ("initial-cluster", self.cluster.clone()),
            ("listen-metrics-urls", format!("http://{}", self.health)),
            ("logger", "zap".to_owned()),
        ] {
            command.arg(format!("--{option}={value}"));
        }
        command.args(&self.options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().context("cannot start etcd")?);
        Ok(())
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait()
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub fn wait(&mut self) -> Result<()> {
        let mut waited = Duration::ZERO;
        let pause = Duration::from_millis(50);
        while !http(self.health, "GET", "/health", "").is_ok_and(|answer| answer["health"] == "true") {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || waited > HANG {
                let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("etcd `{}` does not come up: {lines:?}", self.name);
            }
            std::thread::sleep(pause);
            waited += pause;
        }
        Ok(())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    /// Ends it at once, as by a power cut.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops its process where it is, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have ended by itself.
            let _ = kill(pid, signal);
        }
    }

    /// One request to etcd's JSON interface, such as `/v3/auth/enable`. Without TLS only.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub fn ask(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = http(self.client, "POST", path, &body.to_string())?;
        ensure!(answer.get("error").is_none(), "{path}: {answer}");
        Ok(answer)
    }

    /// Forgets the history up to now.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn compact(&self) -> Result<()> {
        let now = self.ask("/v3/kv/range", &serde_json::json!({ "key": "AA==" }))?;
        let revision = now["header"]["revision"].clone();
        // Of a revision that is compacted already etcd says so, and nothing is left to do.
        let done = self.ask("/v3/kv/compaction", &serde_json::json!({ "revision": revision, "physical": true }));
        done.map(drop).or_else(|error| if error.to_string().contains("compacted") { Ok(()) } else { Err(error) })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, HANG)?;
    stream.set_read_timeout(Some(HANG))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    // It may come in chunks, whose lengths stand around it.
    let json = body.find('{').zip(body.rfind('}')).and_then(|(from, to)| body.get(from..=to));
    serde_json::from_str(json.context("no JSON")?).with_context(|| format!("{path}: no JSON: {body}"))
}
