//! `mesh status`: the mesh as it stands now, with the lag of each account's replicas.
//!
//! Owns: putting the agents' answers into the contract. What can hurt: an agent that does not answer; its accounts' lag
//! is then `null`, not 0. Refuses: computing a lag of its own; the active node's agent knows it.

use super::contract::{AccountLag, Lag, Mesh, State};
use super::{At, agent, owner};
use anyhow::Result;
use std::collections::BTreeMap;

/// Arguments of `mesh status`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    at: At,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// The command.
///
/// # Errors
/// When there is no mesh.
pub(crate) fn main(args: &Args) -> Result<bool> {
    let mesh = now(&super::absolute(&args.at.dir)?)?;
    if args.json {
        println!("{}", serde_json::to_string(&mesh)?);
    } else {
        print(&mesh);
    }
    Ok(true)
}

/// The mesh in `dir` as it stands now.
///
/// # Errors
/// When there is no mesh.
pub(crate) fn now(dir: &std::path::Path) -> Result<Mesh> {
    let mut mesh = State::load(dir)?.mesh;
    owner::refresh(&mut mesh);
    let mut lags: BTreeMap<String, BTreeMap<String, Lag>> = BTreeMap::new();
    for node in mesh.nodes.iter().filter(|n| n.agent_pid.is_some()) {
        if let Ok(answer) = agent::get(&node.admin_socket, "/v1/status") {
            read_lags(&answer, &mut lags);
        }
    }
    for account in &mut mesh.accounts {
        let known = lags.get(&account.name);
        let lag_of = |replica: &String| {
            let lag = known.and_then(|k| k.get(replica)).cloned();
            (replica.clone(), lag.unwrap_or(Lag { operations: None, seconds: None }))
        };
        let replicas: BTreeMap<String, Lag> = account.replicas.iter().map(lag_of).collect();
        account.lag = Some(worst(replicas));
    }
    Ok(mesh)
}

fn worst(replicas: BTreeMap<String, Lag>) -> AccountLag {
    let operations = replicas.values().map(|l| l.operations).try_fold(0, |max, o| Some(o?.max(max)));
    let seconds = replicas.values().map(|l| l.seconds).try_fold(0.0, |max: f64, s| Some(s?.max(max)));
    AccountLag { operations, seconds, replicas }
}

/// What the agent of an active node says of its accounts' replicas.
fn read_lags(answer: &serde_json::Value, lags: &mut BTreeMap<String, BTreeMap<String, Lag>>) {
    let array = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    for account in array(answer, "accounts").iter().filter(|a| a["role"] == "active") {
        let Some(name) = account["name"].as_str() else { continue };
        for replica in array(account, "replicas") {
            let (Some(node), lag) = (replica["node"].as_str(), &replica["lag"]) else { continue };
            let mut found = Lag { operations: lag["operations"].as_u64(), seconds: lag["seconds"].as_f64() };
            // A replica that is being copied or cannot be seen is not equal, whatever the positions say.
            if !matches!(replica["state"].as_str(), Some("equal" | "behind")) && found.operations == Some(0) {
                found = Lag { operations: None, seconds: None };
            }
            lags.entry(name.to_owned()).or_default().insert(node.to_owned(), found);
        }
    }
}

/// For people.
pub(crate) fn print(mesh: &Mesh) {
    for node in &mesh.nodes {
        let pid = |pid: Option<i32>| pid.map_or("down".to_owned(), |p| p.to_string());
        println!(
            "{:8} IMAP {}:{}  LMTP {}:{}  agent {}  store {}  {}",
            node.name,
            node.imap.host,
            node.imap.port,
            node.lmtp.host,
            node.lmtp.port,
            pid(node.agent_pid),
            pid(node.store_pid),
            node.netns
        );
    }
    if let (Some(first), Some(last)) = (mesh.accounts.first(), mesh.accounts.last()) {
        println!("{} accounts, {} to {}, password `{}`", mesh.accounts.len(), first.name, last.name, first.password);
    }
    let behind: Vec<_> =
        mesh.accounts.iter().filter(|a| a.lag.as_ref().is_some_and(|l| l.operations != Some(0))).collect();
    for account in behind.iter().take(20) {
        let lag = account.lag.as_ref().map(|l| (l.operations, l.seconds));
        let (operations, seconds) = lag.unwrap_or((None, None));
        let shown = |value: Option<String>| value.unwrap_or_else(|| "?".to_owned());
        println!(
            "{} on {}: behind by {} operations, {} s",
            account.name,
            account.active,
            shown(operations.map(|o| o.to_string())),
            shown(seconds.map(|s| format!("{s:.1}")))
        );
    }
    if behind.len() > 20 {
        println!("and {} more accounts", behind.len() - 20);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_are_read_from_active_nodes_and_only_equal_is_zero() {
        let replica = |state: &str| serde_json::json!({"node": "node2", "lag": {"operations": 0, "bytes": 0, "seconds": 0.0}, "state": state});
        let answer = serde_json::json!({"accounts": [
            {"name": "a", "role": "active", "replicas": [replica("equal")]},
            {"name": "b", "role": "active", "replicas": [replica("resyncing")]},
            {"name": "c", "role": "replica", "replicas": [replica("equal")]},
        ]});
        let mut lags = BTreeMap::new();
        read_lags(&answer, &mut lags);
        assert_eq!(lags["a"]["node2"].operations, Some(0));
        assert_eq!(lags["b"]["node2"].operations, None);
        assert!(!lags.contains_key("c"));
    }

    #[test]
    fn an_unknown_lag_is_not_zero() {
        let lag = |operations| Lag { operations, seconds: operations.map(|_| 1.5) };
        let all = worst(BTreeMap::from([("a".to_owned(), lag(Some(3))), ("b".to_owned(), lag(Some(0)))]));
        assert_eq!((all.operations, all.seconds), (Some(3), Some(1.5)));
        let all = worst(BTreeMap::from([("a".to_owned(), lag(Some(3))), ("b".to_owned(), lag(None))]));
        assert_eq!((all.operations, all.seconds), (None, None));
    }
}
