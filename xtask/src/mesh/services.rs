//! What stands beside the nodes: etcd, nginx, HAProxy and Postfix, each in a network namespace of the mesh.
//!
//! Owns: their configurations (the proxies' are the examples of `packaging/examples`), starting them, and finding their
//! processes by namespace and program. What can hurt: the same servers of this host; none of their paths, ports or
//! processes is used. Refuses: starting again what was killed.

use super::plan::{Plan, Seat, addresses};
use super::process;
use crate::host::Lack;
use crate::run;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;
use understudy_tests::proxies::{self, HAPROXY, HaproxyAt, NGINX, NginxAt, POSTFIX_MASTER, PostfixAt, Prepared};

/// IMAP before all nodes.
pub(crate) const IMAP_PORT: u16 = 143;
/// POP3 before all nodes.
pub(crate) const POP3_PORT: u16 = 110;
/// SMTP before all nodes.
pub(crate) const SMTP_PORT: u16 = 25;
const SUBMISSION_PORT: u16 = 587;
const ETCD: &str = "/usr/bin/etcd";
const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
/// Where HAProxy has the socketmap, in the proxies' namespace.
const MAP: &str = "127.0.0.1:8475";
/// One that does not answer for so long does not serve.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A service beside the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Etcd,
    Nginx,
    Haproxy,
    Postfix,
}

impl Service {
    /// In the order in which they are started.
    pub(crate) const PROXIES: [Self; 3] = [Self::Haproxy, Self::Nginx, Self::Postfix];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Postfix => "postfix",
        }
    }

    /// Where it is; etcd may be at several.
    pub(crate) fn seats(self, plan: &Plan) -> Vec<&Seat> {
        match self {
            Self::Etcd => plan.etcd.iter().collect(),
            _ => plan.proxy.iter().collect(),
        }
    }

    fn is_program(self, program: &Path) -> bool {
        match self {
            Self::Etcd => program == Path::new(ETCD),
            Self::Nginx => program == Path::new(NGINX),
            Self::Haproxy => program == Path::new(HAPROXY),
            Self::Postfix => Path::new(POSTFIX_MASTER).parent().is_some_and(|folder| program.starts_with(folder)),
        }
    }

    /// Its processes at `seat`.
    pub(crate) fn processes(self, seat: &Seat) -> Vec<i32> {
        let ours = |pid: &i32| self.is_program(&process::program_of(*pid));
        process::in_netns(&seat.netns).into_iter().filter(ours).collect()
    }
}

/// What of them is not installed, of those that are wanted.
pub(crate) fn installed(proxies: bool, etcd: bool) -> Result<(), Lack> {
    let lack = |package: &str| {
        Lack::new(
            format!("no {package}"),
            "`cargo xtask bootstrap --group proxies`, or `--no-proxies --coordinator none`",
        )
    };
    if let Some(package) = proxies::lacking().filter(|_| proxies) {
        return Err(lack(package));
    }
    if etcd && !Path::new(ETCD).exists() {
        return Err(lack("etcd-server"));
    }
    Ok(())
}

/// Where clients reach etcd's members.
pub(crate) fn endpoints(plan: &Plan, subnet: &str) -> Vec<String> {
    addresses(subnet, &plan.etcd).iter().map(|ip| format!("http://{ip}:{ETCD_PORT}")).collect()
}

/// Writes what `service` at `seat` needs, and starts it.
///
/// # Errors
/// When a folder cannot be written, or the program is not there.
pub(crate) fn start(plan: &Plan, subnet: &str, service: Service, seat: &Seat) -> Result<()> {
    // What an earlier one left: children that have not noticed its end.
    process::end_all(|| service.processes(seat));
    let home = seat.home.join(service.name());
    std::fs::create_dir_all(&home).with_context(|| format!("cannot make `{}`", home.display()))?;
    let prepared = match service {
        Service::Etcd => etcd(plan, subnet, seat, &home),
        _ => proxy(plan, subnet, service, &home)?,
    };
    let log = home.join("out.log");
    let place = process::Place { netns: &seat.netns, cgroup: None, mark: service.name(), log: &log };
    process::spawn(&place, &prepared.program, &prepared.args).map(|_| ())
}

fn etcd(plan: &Plan, subnet: &str, seat: &Seat, home: &Path) -> Prepared {
    let ip = super::plan::address(subnet, seat.number);
    let (client, peer) = (format!("http://{ip}:{ETCD_PORT}"), format!("http://{ip}:{ETCD_PEER_PORT}"));
    let ips = addresses(subnet, &plan.etcd);
    let named = plan.etcd.iter().zip(&ips).map(|(seat, ip)| format!("{}=http://{ip}:{ETCD_PEER_PORT}", seat.name));
    let cluster = named.collect::<Vec<_>>().join(",");
    let token = format!("mesh-{}", plan.tag);
    let data = home.join("data").display().to_string();
    let args = [
        ("name", seat.name.as_str()),
        ("data-dir", &data),
        ("listen-client-urls", &client),
        ("advertise-client-urls", &client),
        ("listen-peer-urls", &peer),
        ("initial-advertise-peer-urls", &peer),
        ("initial-cluster", &cluster),
        ("initial-cluster-token", &token),
        ("logger", "zap"),
    ];
    let args = args.into_iter().map(|(name, value)| OsString::from(format!("--{name}={value}")));
    Prepared { program: ETCD.into(), args: args.collect() }
}

fn proxy(plan: &Plan, subnet: &str, service: Service, home: &Path) -> Result<Prepared> {
    let proxy = plan.proxy.as_ref().context("this mesh has no proxies")?;
    let ip = super::plan::address(subnet, proxy.number);
    let nodes = addresses(subnet, &plan.nodes);
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    match service {
        Service::Nginx => {
            let at = NginxAt {
                auth: "127.0.0.1:8474".to_owned(),
                imap: format!("{ip}:{IMAP_PORT}"),
                pop3: format!("{ip}:{POP3_PORT}"),
                submission: format!("{ip}:{SUBMISSION_PORT}"),
            };
            proxies::nginx(home, &nodes, &at)
        }
        Service::Haproxy => {
            let (map, socket) = (MAP.to_owned(), home.join("admin.sock"));
            proxies::haproxy(home, &nodes, &HaproxyAt { map, imap: format!("{ip}:1430"), socket })
        }
        _ => {
            let networks = format!("127.0.0.0/8 {subnet}.0/24");
            let (map, netns) = (MAP.to_owned(), Some(proxy.netns.clone()));
            proxies::postfix(home, &PostfixAt { ip, port: SMTP_PORT, map, networks, netns })
        }
    }
}

/// Does `service` at `seat` serve?
///
/// # Errors
/// When not: what is missing.
pub(crate) fn serves(subnet: &str, service: Service, seat: &Seat) -> Result<()> {
    ensure!(!service.processes(seat).is_empty(), "{} ended", service.name());
    let ip = super::plan::address(subnet, seat.number);
    match service {
        Service::Etcd => {
            let health = http(&ip, ETCD_PORT, "/health").context("no etcd yet")?;
            ensure!(health.contains("\"true\""), "etcd has no leader yet: {health}");
            Ok(())
        }
        Service::Nginx => greeting(&ip, IMAP_PORT).context("no nginx yet"),
        Service::Haproxy => connect(&ip, 1430).map(drop).context("no HAProxy yet"),
        Service::Postfix => greeting(&ip, SMTP_PORT).context("no Postfix yet"),
    }
}

/// The body of a page, when its status is 200.
///
/// # Errors
/// When nobody answers, or otherwise.
pub(crate) fn http(ip: &str, port: u16, path: &str) -> Result<String> {
    let mut stream = connect(ip, port)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {ip}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let status = head.lines().next().unwrap_or("");
    ensure!(status.contains(" 200 "), "`{path}`: {status}: {}", body.trim());
    Ok(body.to_owned())
}

/// Connects, and reads the first words that a mail server says.
///
/// # Errors
/// When it says nothing, or something else.
pub(crate) fn greeting(host: &str, port: u16) -> Result<()> {
    let mut stream = connect(host, port)?;
    let mut first = [0; 3];
    stream.read_exact(&mut first)?;
    ensure!(&first == b"* O" || &first == b"220", "greeted with {first:?}");
    Ok(())
}

fn connect(host: &str, port: u16) -> Result<TcpStream> {
    let address = (host, port).to_socket_addrs()?.next().context("no address")?;
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    Ok(stream)
}

/// What the services of a seat logged.
pub(crate) fn logs(seat: &Seat) -> Vec<PathBuf> {
    let named = |name: &str| seat.home.join(name);
    ["etcd/out.log", "nginx/out.log", "nginx/error.log", "haproxy/out.log", "postfix/out.log", "postfix/mail.log"]
        .into_iter()
        .map(named)
        .filter(|file| file.exists())
        .collect()
}

/// Where a mesh's programs leave logs when it did not come up.
pub(crate) fn kept_logs(tag: &str) -> PathBuf {
    run::target_dir().join("test-logs").join(format!("mesh-{tag}"))
}
