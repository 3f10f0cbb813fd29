//! `understudy status`: the state of the node as tables.
//!
//! Owns: the choice of what an administrator sees first. Refuses: judging; `healthy` and `reasons` are the agent's.

use std::fmt::Write;

use super::{Context, Exit, Failure, output};
use crate::control::model::{AccountStatus, LeaseStatus, ReplicaState, Role, Status};

/// Flags of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List every account, not only those that are behind or set aside
    #[arg(long)]
    pub accounts: bool,
    /// List every group
    #[arg(long)]
    pub groups: bool,
}

/// Asks the agent and prints.
///
/// # Errors
///
/// No agent answers, or it refuses.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let status: Status = context.client()?.get("/v1/status?accounts=true")?;
    if context.global.json {
        context.print_json(&status)?;
    } else {
        output::text(&render(&status, args))?;
    }
    Ok(if status.healthy { Exit::Fine } else { Exit::Bad })
}

/// The tables.
#[must_use]
pub fn render(status: &Status, args: &Args) -> String {
    let mut out = String::new();
    let node = &status.node;
    let up = |up: bool| if up { "up" } else { "down" };
    let _ = writeln!(
        out,
        "node {} ({}), version {}, up {}",
        node.name,
        node.id,
        node.version,
        output::seconds(node.uptime_seconds)
    );
    let _ = writeln!(out, "{}", if status.healthy { "healthy" } else { "NOT HEALTHY" });
    for reason in &status.reasons {
        let _ = writeln!(out, "  - {reason}");
    }
    if let Some(lease) = &node.lease {
        let _ = writeln!(out, "{}", lease_line(lease));
    }
    let store = &status.store;
    let pid = store.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let _ = writeln!(
        out,
        "store    {} {}, pid {pid}, {}",
        store.kind,
        up(store.up),
        store.version.as_deref().unwrap_or("replay service does not answer")
    );
    let ring = &status.ring;
    let _ = writeln!(
        out,
        "ring     {} of {}, {} changes open, {} records, {} dropped, {} gaps",
        output::bytes(ring.fill_bytes),
        output::bytes(ring.capacity_bytes),
        ring.changes_open,
        ring.records_total,
        ring.dropped_total,
        ring.gaps
    );
    let journal = &status.journal;
    let why = journal.io_fallback.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
    let _ = writeln!(
        out,
        "journal  {} of {}, {} segments, {}{why}",
        output::bytes(journal.bytes),
        output::bytes(journal.bytes_max),
        journal.segments,
        journal.io_backend
    );
    let blobs = &status.blobs;
    let _ = writeln!(
        out,
        "blobs    {}, {} to upload, {} missing, {} damaged",
        blobs.kind, blobs.uploads_pending, blobs.missing, blobs.damaged
    );
    let count = |role| status.groups.iter().filter(|group| group.role == role).count();
    let _ = writeln!(out, "groups   active for {}, replica for {}", count(Role::Active), count(Role::Replica));
    let holds = &status.holds;
    if holds.operations > 0 || holds.braked > 0 {
        let _ = writeln!(
            out,
            "held     {} operations of {} accounts, {} accounts braked",
            holds.operations, holds.accounts, holds.braked
        );
    }
    for pause in &status.pauses {
        let left = pause.left_seconds.map_or_else(|| "until resumed".to_owned(), output::seconds);
        let _ = writeln!(
            out,
            "paused   {} of {} by {}: {} (left: {left}, id {})",
            pause.what, pause.scope, pause.owner, pause.reason, pause.id
        );
    }
    for blind in &status.blind {
        let _ = writeln!(out, "blind    {blind}");
    }
    if !status.peers.is_empty() {
        let rows: Vec<_> = status
            .peers
            .iter()
            .map(|peer| {
                let state = if peer.connected { "connected" } else { "not connected" };
                vec![
                    peer.name.clone(),
                    peer.address.clone(),
                    peer.last_error
                        .as_ref()
                        .filter(|_| !peer.connected)
                        .map_or_else(|| state.to_owned(), |error| format!("{state}: {error}")),
                    peer.lag.operations.to_string(),
                    output::bytes(peer.lag.bytes),
                    output::seconds(peer.lag.seconds),
                    peer.beat_age_seconds.map_or_else(|| "-".to_owned(), output::seconds),
                ]
            })
            .collect();
        let _ = write!(
            out,
            "\n{}",
            output::table(&["PEER", "ADDRESS", "STATE", "LAG OPS", "LAG BYTES", "LAG", "BEAT AGE"], &rows)
        );
    }
    if args.groups {
        let _ = write!(out, "\n{}", groups(status));
    }
    let shown: Vec<_> = status
        .accounts
        .iter()
        .filter(|account| {
            args.accounts
                || account.quarantined.is_some()
                || account.braked
                || account.paused.is_some()
                || account.replicas.iter().any(|replica| replica.state != ReplicaState::Equal)
        })
        .collect();
    let rows: Vec<_> = shown
        .iter()
        .map(|account| {
            let replicas: Vec<String> = account
                .replicas
                .iter()
                .map(|replica| match replica.state {
                    ReplicaState::Behind => format!(
                        "{} behind by {} ({})",
                        replica.node,
                        replica.lag.operations,
                        output::seconds(replica.lag.seconds)
                    ),
                    state => format!("{} {}", replica.node, state_name(state)),
                })
                .collect();
            vec![
                account.name.clone(),
                account.group.to_string(),
                account.active.clone(),
                replicas.join(", "),
                note(account),
            ]
        })
        .collect();
    if rows.is_empty() {
        let _ = writeln!(out, "\n{} accounts, none behind", status.accounts.len());
    } else {
        let _ = write!(out, "\n{}", output::table(&["ACCOUNT", "GROUP", "ACTIVE", "REPLICAS", ""], &rows));
        if rows.len() < status.accounts.len() {
            let _ = writeln!(out, "({} of {} accounts; the others are equal)", rows.len(), status.accounts.len());
        }
    }
    out
}

fn note(account: &AccountStatus) -> String {
    match (&account.quarantined, &account.paused) {
        (Some(why), _) => format!("QUARANTINED: {why}"),
        (None, Some(why)) => why.clone(),
        (None, None) if account.braked => format!("BRAKED: {} destructive operations held", account.held),
        (None, None) if account.held > 0 => format!("{} destructive operations held", account.held),
        (None, None) => String::new(),
    }
}

fn lease_line(lease: &LeaseStatus) -> String {
    let state = if lease.held { format!("held for {} ms", lease.left_ms) } else { format!("NOT HELD: {}", lease.why) };
    let heard = if lease.coordinator_heard { "heard" } else { "NOT HEARD" };
    let more = [(lease.failsafe, ", peers are asked to confirm"), (lease.drained, ", drained")];
    let more: String = more.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect();
    format!("lease    {state}, coordinator {heard} (p99 {:.1} ms){more}", lease.coordinator_p99_ms)
}

fn groups(status: &Status) -> String {
    let rows: Vec<_> = status
        .groups
        .iter()
        .map(|group| {
            let positions = match group.role {
                Role::Active => {
                    let peers: Vec<_> = group
                        .peers
                        .iter()
                        .map(|peer| format!("{}: {}/{}/{}", peer.name, peer.shipped, peer.acked, peer.applied))
                        .collect();
                    format!("captured {} journaled {} {}", group.captured, group.journaled, peers.join(" "))
                }
                _ => format!("received {} journaled {} applied {}", group.received, group.journaled, group.applied),
            };
            let mark = |name: &String| if group.in_sync.contains(name) { format!("{name}*") } else { name.clone() };
            let replicas: Vec<String> = group.replicas.iter().map(mark).collect();
            vec![
                group.id.to_string(),
                role_name(group.role).to_owned(),
                group.active.clone(),
                replicas.join(","),
                group.state.clone(),
                group.epoch.to_string(),
                positions,
            ]
        })
        .collect();
    output::table(
        &["GROUP", "ROLE", "ACTIVE", "REPLICAS (* in sync)", "STATE", "EPOCH", "POSITIONS (shipped/acked/applied)"],
        &rows,
    )
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Active => "active",
        Role::Replica => "replica",
        Role::None => "-",
    }
}

fn state_name(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Equal => "equal",
        ReplicaState::Behind => "behind",
        ReplicaState::Resyncing => "being copied",
        ReplicaState::ResyncNeeded => "RESYNC NEEDED",
        ReplicaState::Quarantined => "QUARANTINED",
        ReplicaState::Unknown => "not known",
    }
}
