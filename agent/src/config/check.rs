//! Checks between keys, and of the host where asked.
//!
//! Owns: what cannot work although each value is valid on its own, each with its remedy. What can hurt: an agent
//! that starts and then stands still; what would stop it later is an error here. Refuses: changing anything.

use std::path::{Path, PathBuf};

use understudy_types::segment::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

use super::address::Service;
use super::model::{BlobKind, Config, CoordinatorKind};
use super::placement::Placement;
use super::{Problem, Severity};
use crate::rules::Rules;

/// Looks at the configuration alone: no file, no socket.
#[must_use]
pub fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    peers(config, &mut problems);
    sizes(config, &mut problems);
    blobs(config, &mut problems);
    routing(config, &mut problems);
    detection(config, &mut problems);
    failover(config, &mut problems);
    coordinator(config, &mut problems);
    if let Err(found) = Placement::build(config) {
        problems.extend(found);
    }
    problems.extend(Rules::check(config));
    problems
}

fn peers(config: &Config, problems: &mut Vec<Problem>) {
    for (index, peer) in config.peers.iter().enumerate() {
        let at = |name: &str| format!("peers[{index}].{name}");
        if peer.id == config.node.id {
            problems.push(Problem::error(at("id"), format!("{} is this node", peer.id), "list only the other nodes"));
        }
        if peer.name == config.node.name {
            problems.push(Problem::error(
                at("name"),
                format!("`{}` is this node", peer.name),
                "give each node a name of its own",
            ));
        }
        let before = &config.peers[..index];
        if before.iter().any(|other| other.id == peer.id) {
            problems.push(Problem::error(
                at("id"),
                format!("{} is named twice", peer.id),
                "give each node an id of its own",
            ));
        }
        if before.iter().any(|other| other.name == peer.name) {
            problems.push(Problem::error(
                at("name"),
                format!("`{}` is named twice", peer.name),
                "give each node a name of its own",
            ));
        }
    }
    if config.transport.listen.is_empty() && !config.peers.is_empty() {
        problems.push(Problem::error(
            "transport.listen",
            "is empty although there are peers",
            "name an address that they can reach",
        ));
    }
}

fn sizes(config: &Config, problems: &mut Vec<Problem>) {
    for (key, value) in [("ring.bytes", config.ring.bytes), ("ring.slots", config.ring.slots)] {
        if !value.is_power_of_two() {
            let near = value.checked_next_power_of_two().unwrap_or(1 << 31);
            problems.push(Problem::error(
                key,
                format!("{value} is no power of two"),
                format!("take {near} or {}", near / 2),
            ));
        }
    }
    let journal = &config.journal;
    let fits = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&journal.segment_bytes);
    if !fits || !journal.segment_bytes.is_multiple_of(4096) {
        problems.push(Problem::error(
            "journal.segment_bytes",
            format!("{} is out of range", journal.segment_bytes),
            format!("give a multiple of 4096 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"),
        ));
    }
    if journal.bytes_max / 4 < journal.segment_bytes {
        problems.push(Problem::error(
            "journal.bytes_max",
            format!("{} bytes hold fewer than four segments of {}", journal.bytes_max, journal.segment_bytes),
            "raise it or lower `journal.segment_bytes`",
        ));
    }
    if config.tuning.batch_linger_us / 1000
        >= config.rules.iter().map(|rule| u64::from(rule.wait_timeout_ms)).min().unwrap_or(u64::MAX)
    {
        problems.push(Problem::error(
            "tuning.batch_linger_us",
            "an operation waits longer for company than a client waits for its OK",
            "lower it, or raise the rule's `wait_timeout_ms`",
        ));
    }
}

fn blobs(config: &Config, problems: &mut Vec<Problem>) {
    let blobs = &config.blobs;
    if blobs.kind != BlobKind::S3 {
        if !config.peers.is_empty() && blobs.path.starts_with(&config.node.data_dir) {
            problems.push(Problem::warning(
                "blobs.path",
                format!("`{}` is inside this node's own data directory", blobs.path.display()),
                "every node must see the same directory: make sure that it is shared, or use `kind = \"s3\"`",
            ));
        }
        return;
    }
    for (key, value) in [("blobs.endpoint", &blobs.endpoint), ("blobs.bucket", &blobs.bucket)] {
        if value.is_none() {
            problems.push(Problem::error(key, "must be set for `kind = \"s3\"`", ""));
        }
    }
    for (name, text, file) in [
        ("blobs.access_key", &blobs.access_key, &blobs.access_key_file),
        ("blobs.secret_key", &blobs.secret_key, &blobs.secret_key_file),
    ] {
        match (text, file) {
            (None, None) => problems.push(Problem::error(
                name,
                "must be set for `kind = \"s3\"`",
                format!("set it, or `{name}_file`"),
            )),
            (Some(_), Some(_)) => {
                problems.push(Problem::error(name, format!("is set, and so is `{name}_file`"), "set one of them"))
            }
            _ => {}
        }
    }
    if blobs.endpoint.as_ref().is_some_and(|url| url.starts_with("http://")) && !blobs.allow_http {
        problems.push(Problem::error(
            "blobs.endpoint",
            "has no TLS",
            "use https, or set `blobs.allow_http = true` where the network is yours",
        ));
    }
}

fn routing(config: &Config, problems: &mut Vec<Problem>) {
    let listens = [&config.routing.http_listen, &config.routing.socketmap_listen, &config.routing.agent_check_listen];
    if listens.into_iter().flatten().all(String::is_empty) {
        return;
    }
    for service in Service::ALL {
        if config.store_address(config.node_id(), service).is_none() {
            problems.push(Problem::error(
                format!("store.{}", service.key()),
                "must be set where `[routing]` listens and `transport.listen` names no host",
                format!("for example `{} = \"192.0.2.1:{}\"` in `[store]`", service.key(), service.port()),
            ));
        }
    }
}

fn failover(config: &Config, problems: &mut Vec<Problem>) {
    let failover = &config.failover;
    if failover.renew_ms == 0 || failover.renew_ms > failover.lease_ms / 3 {
        problems.push(Problem::error(
            "failover.renew_ms",
            format!("{} is 0 or more than a third of `failover.lease_ms` = {}", failover.renew_ms, failover.lease_ms),
            "two renewals must be able to fail: lower it, or raise the lease",
        ));
    }
    if failover.rto_ms > 0 && config.coordinator.kind == CoordinatorKind::None {
        problems.push(Problem::error(
            "failover.rto_ms",
            "is declared, and without a coordinator nothing fails over",
            "set `coordinator.kind`, or unset this",
        ));
    }
}

/// What opening it would refuse, as far as the file alone says.
fn coordinator(config: &Config, problems: &mut Vec<Problem>) {
    let of = &config.coordinator;
    if of.kind != CoordinatorKind::Etcd {
        return;
    }
    if of.endpoints.is_empty() {
        problems.push(Problem::error(
            "coordinator.endpoints",
            "must be set for `kind = \"etcd\"`",
            "name every member, for example `[\"https://192.0.2.11:2379\"]`",
        ));
    }
    for (key, other, one, two) in [
        ("coordinator.cert", "coordinator.key", of.cert.is_some(), of.key.is_some()),
        ("coordinator.user", "coordinator.password_file", of.user.is_some(), of.password_file.is_some()),
    ] {
        if one != two {
            let (missing, set) = if one { (other, key) } else { (key, other) };
            problems.push(Problem::error(missing, format!("must be set where `{set}` is"), "set both, or neither"));
        }
    }
}

fn detection(config: &Config, problems: &mut Vec<Problem>) {
    let failover = &config.failover;
    match (&failover.canary_account, &failover.canary_password_file) {
        (Some(_), None) => problems.push(Problem::error(
            "failover.canary_password_file",
            "must be set where `failover.canary_account` is",
            "name a file with the password in its first line, or unset the account",
        )),
        (None, Some(_)) => problems.push(Problem::warning(
            "failover.canary_password_file",
            "is set and `failover.canary_account` is not: it is not read",
            "set the account, or unset this",
        )),
        _ => {}
    }
    if failover.watchdog.is_some() && failover.lease_ms < 1000 {
        problems.push(Problem::error(
            "failover.watchdog",
            format!("counts in seconds, and a lease of {} ms is shorter than one", failover.lease_ms),
            "raise `failover.lease_ms` to 1000 or more, or unset this",
        ));
    }
}

/// Looks at the host: files that must be readable, directories that must exist, groups that must be known.
#[must_use]
pub fn check_host(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !config.peers.is_empty() {
        let tls = &config.transport.tls;
        for (key, path) in
            [("transport.tls.ca", &tls.ca), ("transport.tls.cert", &tls.cert), ("transport.tls.key", &tls.key)]
        {
            if let Err(error) = std::fs::File::open(path) {
                let remedy = if error.kind() == std::io::ErrorKind::PermissionDenied {
                    "make it readable for the agent's user"
                } else {
                    "make it with `understudy cert`"
                };
                problems.push(Problem::error(key, format!("cannot read `{}`: {error}", path.display()), remedy));
            }
        }
        problems.extend(private("transport.tls.key", &tls.key));
    }
    if let Some(group) = &config.ring.group
        && !matches!(nix::unistd::Group::from_name(group), Ok(Some(_)))
    {
        problems.push(Problem::error(
            "ring.group",
            format!("there is no group `{group}` on this host"),
            format!("`groupadd --system {group}`, or name the group of the mail processes"),
        ));
    }
    for (index, path) in config.store.mail_paths.iter().enumerate() {
        if !path.is_dir() {
            problems.push(Problem::warning(
                "store.mail_paths",
                format!("entry {index}, `{}`, is no directory", path.display()),
                "correct it, or make it before the store starts",
            ));
        }
    }
    let keyed: [(&str, &PathBuf); 4] = [
        ("node.data_dir", &config.node.data_dir),
        ("node.runtime_dir", &config.node.runtime_dir),
        ("journal.dir", &config.journal.dir),
        ("store.spool_dir", &config.store.spool_dir),
    ];
    for (key, path) in keyed {
        if let Some(problem) = creatable(key, path) {
            problems.push(problem);
        }
    }
    let (rules, found) = Rules::build(config);
    let failover = &config.failover;
    if let Some(account) = &failover.canary_account
        && rules.resolve(account).replicate
    {
        problems.push(Problem::warning(
            "failover.canary_account",
            format!("`{account}` is replicated, so that all nodes write into one account"),
            "put a rule with `replicate = false` for it before the others",
        ));
    }
    if let Some(path) = &failover.canary_password_file {
        if let Err(error) = std::fs::File::open(path) {
            let why = format!("cannot read `{}`: {error}", path.display());
            problems.push(Problem::error(
                "failover.canary_password_file",
                why,
                "make it readable for the agent's user",
            ));
        }
        problems.extend(private("failover.canary_password_file", path));
    }
    if let Some(path) = &failover.fence_hook {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map(|meta| meta.permissions().mode());
        if !mode.is_ok_and(|mode| mode & 0o111 != 0) {
            let why = format!("`{}` is no program, and without it nothing is promoted here", path.display());
            problems.push(Problem::error("failover.fence_hook", why, "make it executable, or unset this"));
        }
    }
    problems.extend(found.into_iter().filter(|problem| problem.severity == Severity::Error));
    problems
}

/// A secret that others can read.
fn private(key: &str, path: &Path) -> Option<Problem> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| {
        Problem::error(
            key,
            format!("`{}` can be read by everybody (mode {:04o})", path.display(), mode & 0o777),
            "`chmod 0640` it",
        )
    })
}

/// A directory that neither exists nor can be made because something else is in the way.
fn creatable(key: &str, path: &Path) -> Option<Problem> {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists())?;
    if nearest.is_dir() {
        return None;
    }
    Some(Problem::error(key, format!("`{}` is no directory", nearest.display()), "name another place, or remove it"))
}
