//! What a drill asks of agents, and has them do: groups in sync, a switchover, verification, reports of merges.
//!
//! Owns: questions over the admin socket and the program `understudy`. What can hurt: an agent that is dead or frozen;
//! every question has an end, and another node is asked. Refuses: knowing more of an answer than a drill needs.

use crate::mesh::{Account, Mesh, Node, State};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// An agent that does not answer for so long is taken as not answering.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How often an account that is still moving is compared again, and how long is waited between.
const VERIFY_ATTEMPTS: u32 = 20;
const VERIFY_AGAIN: Duration = Duration::from_secs(1);

/// A group as its record has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub epoch: u64,
    pub active: u64,
    pub in_sync: usize,
}

/// `GET path` of the agent behind `socket`.
fn get(socket: &Path, path: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("no answer at `{}`", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("no answer in time")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    ensure!(head.lines().next().is_some_and(|status| status.contains(" 200 ")), "`{path}`: {head}: {body}");
    serde_json::from_str(body).with_context(|| format!("`{path}`: no JSON"))
}

/// All groups' records, from the agent that knows the newest state of the coordinator.
///
/// # Errors
/// When no agent answers.
pub fn groups(state: &State) -> Result<BTreeMap<u64, Group>> {
    let asked = state.nodes.iter().filter(|node| node.agent_pid.is_some());
    let answers = asked.filter_map(|node| get(&node.admin_socket, "/v1/failover").ok());
    let newest = answers.max_by_key(|answer| answer["revision"].as_u64()).context("no agent answers")?;
    let of = |(id, group): (&String, &Value)| {
        let record = &group["record"];
        let group = Group {
            epoch: record["epoch"].as_u64()?,
            active: record["active"].as_u64()?,
            in_sync: record["in_sync"].as_array()?.len(),
        };
        Some((id.parse().ok()?, group))
    };
    Ok(newest["groups"].as_object().into_iter().flatten().filter_map(of).collect())
}

/// Groups that do not have `replicas` replicas in sync, or an active whose lease no agent sees.
///
/// # Errors
/// As [`groups`].
pub fn out_of_sync(state: &State, replicas: usize) -> Result<Vec<u64>> {
    Ok(groups(state)?.into_iter().filter(|(_, group)| group.in_sync < replicas).map(|(id, _)| id).collect())
}

/// Runs `understudy`, on the configuration of `node`.
fn understudy(mesh: &Mesh, node: &Node, args: &[&str]) -> Result<(bool, String, String)> {
    let done = Command::new(mesh.agent_program())
        .args(args)
        .arg("--config")
        .arg(node.dir.join("understudy.toml"))
        .output()
        .context("cannot start `understudy`")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok((done.status.success(), text(&done.stdout), text(&done.stderr)))
}

/// Has everything that is active on `node` move elsewhere, and returns when it has.
///
/// # Errors
/// When it does not get there; what holds it back.
pub(super) fn switch_over(mesh: &Mesh, state: &State, node: &str) -> Result<()> {
    let (good, out, err) = understudy(mesh, state.node(node)?, &["switchover", "--node", node])?;
    ensure!(good, "`switchover --node {node}`: {out} {err}");
    Ok(())
}

/// `understudy verify` of these accounts: `ACCOUNT: what differs`; empty = active and replicas are equal.
///
/// # Errors
/// When an agent cannot be asked.
pub fn verify(mesh: &Mesh, state: &State, accounts: &[Account]) -> Result<Vec<String>> {
    let mut differ = Vec::new();
    for account in accounts {
        let mut said = String::new();
        for _ in 0..VERIFY_ATTEMPTS {
            said = verify_once(mesh, state, account)?;
            if said.is_empty() {
                break;
            }
            std::thread::sleep(VERIFY_AGAIN);
        }
        if !said.is_empty() {
            differ.push(format!("{}: {said}", account.name));
        }
    }
    Ok(differ)
}

fn verify_once(mesh: &Mesh, state: &State, account: &Account) -> Result<String> {
    let node = state.node(&account.active)?;
    let (good, out, err) = understudy(mesh, node, &["verify", &account.name, "--json"])?;
    let results: Vec<Value> = serde_json::from_str(&out).unwrap_or_default();
    let compared: BTreeSet<&str> = results.iter().filter_map(|result| result["replica"].as_str()).collect();
    if good && compared.len() >= account.replicas.len() {
        return Ok(String::new());
    }
    let bad = results.iter().find(|result| result["equal"] != true || !result["error"].is_null());
    Ok(match bad {
        Some(bad) => {
            let why = bad["error"].as_str().or(bad["first_difference"].as_str()).unwrap_or("the digests differ");
            format!("{}: {why}", bad["replica"].as_str().unwrap_or(""))
        }
        None => format!("compared with {compared:?} only {err}"),
    })
}

/// Merges that `node` made when it came back: how many messages they brought, and whether all of them are done.
///
/// # Errors
/// When its agent does not answer.
pub fn merges(state: &State, node: &str) -> Result<(u64, bool)> {
    let rows = get(&state.node(node)?.admin_socket, "/v1/merges")?;
    let Some(rows) = rows.as_array() else { bail!("merges are no list") };
    let brought = rows.iter().filter_map(|row| row["brought"].as_u64()).sum();
    Ok((brought, rows.iter().all(|row| row["done"] == true)))
}
