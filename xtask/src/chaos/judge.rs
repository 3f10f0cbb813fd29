//! When all is healed and quiet: is everything as users were told, and as the agents say?
//!
//! Owns: the questions, and violations in words. What can hurt: a mesh that needs time to become whole; every question
//! is asked again until it is answered well or patience is over. Refuses: the agents' word about what users were told.

use crate::clock;
use crate::mesh::agent_program;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use understudy_tests::imap::{Imap, Reply, Value as Wire, quoted};
use understudy_tests::mesh::{Mesh, State};
use understudy_tests::outage::{self, Record};
use understudy_tests::promises::Ledger;

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What is not whole in the coordinator's records: replicas that are not in sync, moves under way.
pub(super) fn records_not_whole(state: &State) -> Result<Vec<String>> {
    let endpoint = state.coordinator.endpoints.first().context("this mesh has no etcd")?;
    let mut client = Command::new("etcdctl");
    let client = client.env("ETCDCTL_API", "3").args(["--command-timeout", "2s", "--endpoints", endpoint]);
    let done = client.args(["get", "--prefix", "/understudy/"]).output().context("cannot start `etcdctl`")?;
    ensure!(done.status.success(), "etcdctl: {}", String::from_utf8_lossy(&done.stderr).trim());
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    // A key, then its value, each on a line of its own.
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for pair in lines.chunks(2) {
        let [key, value] = pair else { continue };
        let Some((_, group)) = key.split_once("/group/") else { continue };
        let record: Value = serde_json::from_str(value).with_context(|| format!("`{key}`"))?;
        let numbers = |name: &str| -> BTreeSet<u64> {
            record[name].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
        };
        seen.insert(group.to_owned());
        let (replicas, in_sync) = (numbers("replicas"), numbers("in_sync"));
        if replicas != in_sync {
            problems.push(format!("group {group}: replicas {replicas:?}, in sync {in_sync:?}"));
        }
        if replicas.len() + 1 != state.nodes.len() || replicas.contains(&record["active"].as_u64().unwrap_or(0)) {
            problems.push(format!("group {group}: active {}, replicas {replicas:?}", record["active"]));
        }
    }
    if seen.is_empty() {
        problems.push("no group has a record".to_owned());
    }
    Ok(problems)
}

/// Each group has one node that says it is active, and it is the one of the highest epoch.
fn claims_not_whole(state: &State) -> Result<Vec<String>> {
    let mut claims: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for node in &state.nodes {
        let status = understudy_tests::agent::status(&node.admin_socket).with_context(|| node.name.clone())?;
        for group in status["groups"].as_array().into_iter().flatten() {
            let of = claims.entry(group["id"].as_u64().unwrap_or(u64::MAX)).or_default();
            if group["role"] == "active" {
                of.push(node.name.clone());
            }
        }
    }
    let bad = claims.into_iter().filter(|(_, nodes)| nodes.len() != 1);
    Ok(bad.map(|(group, nodes)| format!("group {group}: active on {nodes:?}")).collect())
}

/// What is not whole now: agents, stores, records, replicas behind.
pub(super) fn not_whole(mesh: &Mesh) -> Vec<String> {
    let look = || -> Result<Vec<String>> {
        let state = mesh.status()?;
        let mut problems = Vec::new();
        for node in &state.nodes {
            if node.agent_pid.is_none() || node.store_pid.is_none() {
                problems.push(format!("{} does not run whole", node.name));
            }
        }
        problems.extend(records_not_whole(&state)?);
        problems.extend(claims_not_whole(&state)?);
        Ok(problems)
    };
    look().unwrap_or_else(|error| vec![format!("{error:#}")])
}

/// Waits until `problems` finds none; else what is left of them.
pub(super) fn wait(patience: Duration, mut problems: impl FnMut() -> Vec<String>) -> Vec<String> {
    let begun = clock::now();
    loop {
        let left = problems();
        if left.is_empty() || begun.elapsed() >= patience || crate::stop::check().is_err() {
            return left;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Replicas that are behind.
pub(super) fn behind(mesh: &Mesh) -> Vec<String> {
    let look = || -> Result<Vec<String>> {
        let state = mesh.status()?;
        let behind = state.accounts.iter().filter(|a| a.lag.as_ref().is_none_or(|lag| lag.operations != Some(0)));
        Ok(behind.map(|a| format!("{}: behind: {:?}", a.name, a.lag.as_ref().map(|lag| &lag.replicas))).collect())
    };
    look().unwrap_or_else(|error| vec![format!("{error:#}")])
}

/// What `understudy verify` does not call equal, of all accounts.
pub(super) fn not_equal(mesh: &Mesh) -> Vec<String> {
    let look = || -> Result<Vec<String>> {
        let state = mesh.status()?;
        let mut problems = Vec::new();
        for account in &state.accounts {
            let node = state.node(&account.active)?;
            let done = understudy(&node.dir, &["verify", &account.name, "--json"])?;
            let results = done.as_array().cloned().unwrap_or_default();
            if results.len() < account.replicas.len() {
                problems.push(format!(
                    "{}: {} of {} replicas compared",
                    account.name,
                    results.len(),
                    account.replicas.len()
                ));
            }
            for result in results.iter().filter(|r| r["equal"] != true || !r["error"].is_null()) {
                let what = result["error"].as_str().or_else(|| result["first_difference"].as_str());
                let what = what.unwrap_or("the digests differ");
                problems.push(format!("{} on {}: {what}", account.name, result["replica"].as_str().unwrap_or("?")));
            }
        }
        Ok(problems)
    };
    look().unwrap_or_else(|error| vec![format!("{error:#}")])
}

fn understudy(node: &Path, args: &[&str]) -> Result<Value> {
    let mut command = Command::new(agent_program());
    let done = command.args(args).arg("--config").arg(node.join("understudy.toml")).output()?;
    serde_json::from_slice(&done.stdout)
        .with_context(|| format!("`understudy {}`: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
}

/// What nodes that came back brought, as `understudy merge list` says it; accounts that still wait are violations.
pub(super) fn merges(state: &State) -> (BTreeMap<String, Value>, Vec<String>) {
    let (mut all, mut waiting) = (BTreeMap::new(), Vec::new());
    for node in &state.nodes {
        let rows = understudy(&node.dir, &["merge", "list", "--json"]).unwrap_or_default();
        for row in rows.as_array().into_iter().flatten().filter(|row| row["done"] != true) {
            waiting.push(format!("{}: merge {} is not done: {}", node.name, row["name"], row["waiting"]));
        }
        all.insert(node.name.clone(), rows);
    }
    (all, waiting)
}

/// Messages that the reports of merges name, by what stands in their findings.
pub(super) fn named_by_merges(mesh: &Mesh) -> String {
    let mut text = String::new();
    for node in &mesh.state().nodes {
        for folder in [node.dir.join("data/merge"), node.dir.join("disk/data/merge")] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                text.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
    }
    text
}

/// What is not as users were told; and of every message that is there its GUIDs, by the subject that names it.
pub(super) type Found = (Vec<String>, BTreeMap<String, Vec<String>>);

/// Holds what users were told against what they find through the proxy.
pub(super) fn promises(mesh: &Mesh, record: &Record, ledgers: &[Ledger], patience: Duration) -> Result<Found> {
    let state = mesh.state();
    let at = state.proxy.clone().context("no proxies")?.imap;
    let passwords: Vec<_> = state.accounts.iter().map(|a| (a.name.clone(), a.password.clone())).collect();
    let verdict = outage::check(record, &at, &passwords, patience)?;
    let mut broken: Vec<String> = verdict.missing.iter().map(|what| format!("{what} is missing")).collect();
    broken.extend(verdict.repeated.iter().map(|what| format!("{what} is there more than once")));
    let mut guids = BTreeMap::new();
    for ledger in ledgers {
        let account = state.accounts.iter().find(|a| a.name == ledger.account).context("an account")?;
        let mut imap = Imap::login(&at.host, at.port, &account.name, &account.password, Duration::from_secs(30))?;
        broken.extend(ledger.broken(&imap.account()?));
        for (mailbox, _) in imap.list()?.into_iter().filter(|(_, selectable)| *selectable) {
            imap.command(&format!("EXAMINE {}", quoted(&mailbox)))?;
            add_guids(&imap.command("UID FETCH 1:* (X-GUID BODY.PEEK[HEADER.FIELDS (SUBJECT)])")?, &mut guids);
        }
        imap.logout();
    }
    Ok((broken, guids))
}

fn add_guids(reply: &Reply, guids: &mut BTreeMap<String, Vec<String>>) {
    for parts in &reply.untagged {
        let [_, Wire::Atom(_), Wire::List(items)] = &parts[..] else { continue };
        let of = |name: &str| {
            let at = items.iter().position(|item| matches!(item, Wire::Atom(atom) if atom.starts_with(name)))?;
            items.get(at + 1)?.text()
        };
        let (Some(guid), Some(header)) = (of("X-GUID"), of("BODY[")) else { continue };
        let token = header.trim().strip_prefix("Subject: ").unwrap_or_default().to_owned();
        guids.entry(token).or_default().push(guid);
    }
}
