//! `mesh status`: the mesh as it stands now: who is active for each account, and the lag of its replicas.
//!
//! Owns: putting the agents' answers into the contract. What can hurt: an agent that does not answer; its accounts' lag
//! is then `null`, not 0; and one that was cut off and still believes to be active: the highest epoch counts.
//! Refuses: computing a lag of its own; the active node's agent knows it.

use super::contract::{AccountLag, Endpoint, Lag, Mesh, Node, State};
use super::{At, agent, owner};
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// A frozen agent keeps `mesh status` waiting so long.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

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
    let answers = answers(&mesh);
    place(&mut mesh, &answers);
    for account in &mut mesh.accounts {
        let known = answers.get(&account.active).map(|answer| lags_of(answer, &account.name)).unwrap_or_default();
        let lag_of = |replica: &String| {
            let lag = known.get(replica).cloned();
            (replica.clone(), lag.unwrap_or(Lag { operations: None, seconds: None }))
        };
        account.lag = Some(worst(account.replicas.iter().map(lag_of).collect()));
    }
    Ok(mesh)
}

/// Who is active as the agents say it; where none answers it stays as it was.
pub(super) fn place_now(mesh: &mut Mesh) {
    let answers = answers(mesh);
    place(mesh, &answers);
}

/// What the agents say, by the names of their nodes; all are asked at the same time.
fn answers(mesh: &Mesh) -> BTreeMap<String, Value> {
    let asked = mesh.nodes.iter().filter(|node| node.agent_pid.is_some());
    std::thread::scope(|scope| {
        let ask = |node: &'_ Node| agent::get_within(&node.admin_socket, "/v1/status", ANSWER_WAIT).ok();
        let threads: Vec<_> = asked.map(|node| (node, scope.spawn(move || ask(node)))).collect();
        threads.into_iter().filter_map(|(node, thread)| Some((node.name.clone(), thread.join().ok()??))).collect()
    })
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// What an agent says of who has a group or an account; compared in the order of the fields.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// 0 where it is not said.
    epoch: u64,
    /// The agent says so of itself.
    own: bool,
    active: String,
    replicas: Vec<String>,
}

impl Claim {
    fn of(value: &Value, node: &str) -> Option<Self> {
        // A replica of an account is told with its lag, one of a group by its name alone.
        let name = |replica: &Value| replica.as_str().or_else(|| replica["node"].as_str()).map(str::to_owned);
        let active = value["active"].as_str().filter(|name| !name.is_empty())?.to_owned();
        Some(Self {
            epoch: value["epoch"].as_u64().unwrap_or(0),
            own: value["role"] == "active" && active == node,
            active,
            replicas: array(value, "replicas").iter().filter_map(name).collect(),
        })
    }
}

fn place(mesh: &mut Mesh, answers: &BTreeMap<String, Value>) {
    let mut groups: BTreeMap<u64, Claim> = BTreeMap::new();
    let mut accounts: BTreeMap<&str, Claim> = BTreeMap::new();
    for (node, answer) in answers {
        for group in array(answer, "groups") {
            if let (Some(id), Some(claim)) = (group["id"].as_u64(), Claim::of(group, node)) {
                groups.entry(id).and_modify(|best| *best = claim.clone().max(best.clone())).or_insert(claim);
            }
        }
        for account in array(answer, "accounts") {
            if let (Some(name), Some(claim)) = (account["name"].as_str(), Claim::of(account, node)) {
                accounts.entry(name).and_modify(|best| *best = claim.clone().max(best.clone())).or_insert(claim);
            }
        }
    }
    for account in &mut mesh.accounts {
        let group = groups.get(&u64::from(account.group));
        let Some(claim) = group.or_else(|| accounts.get(account.name.as_str())) else { continue };
        account.active.clone_from(&claim.active);
        account.replicas.clone_from(&claim.replicas);
        account.epoch = account.epoch.max(claim.epoch);
    }
}

fn worst(replicas: BTreeMap<String, Lag>) -> AccountLag {
    let operations = replicas.values().map(|l| l.operations).try_fold(0, |max, o| Some(o?.max(max)));
    let seconds = replicas.values().map(|l| l.seconds).try_fold(0.0, |max: f64, s| Some(s?.max(max)));
    AccountLag { operations, seconds, replicas }
}

/// What the agent of an account's active node says of its replicas.
fn lags_of(answer: &Value, account: &str) -> BTreeMap<String, Lag> {
    let ours = |a: &&Value| a["role"] == "active" && a["name"] == account;
    let replicas = array(answer, "accounts").iter().filter(ours).flat_map(|account| array(account, "replicas"));
    let lag_of = |replica: &Value| {
        let lag = &replica["lag"];
        let mut found = Lag { operations: lag["operations"].as_u64(), seconds: lag["seconds"].as_f64() };
        // A replica that is being copied or cannot be seen is not equal, whatever the positions say.
        if !matches!(replica["state"].as_str(), Some("equal" | "behind")) && found.operations == Some(0) {
            found = Lag { operations: None, seconds: None };
        }
        Some((replica["node"].as_str()?.to_owned(), found))
    };
    replicas.filter_map(lag_of).collect()
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
    if let Some(proxy) = &mesh.proxy {
        let at = |endpoint: &Endpoint| format!("{}:{}", endpoint.host, endpoint.port);
        println!("proxies  IMAP {}  POP3 {}  SMTP {}", at(&proxy.imap), at(&proxy.pop3), at(&proxy.smtp));
    }
    if !mesh.coordinator.endpoints.is_empty() {
        println!("etcd     {}", mesh.coordinator.endpoints.join(" "));
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
    use super::super::contract::{Account, Coordinator, CoordinatorKind};
    use super::*;

    #[test]
    fn lags_are_read_from_active_nodes_and_only_equal_is_zero() {
        let replica = |state: &str| serde_json::json!({"node": "node2", "lag": {"operations": 0, "bytes": 0, "seconds": 0.0}, "state": state});
        let answer = serde_json::json!({"accounts": [
            {"name": "a", "role": "active", "replicas": [replica("equal")]},
            {"name": "b", "role": "active", "replicas": [replica("resyncing")]},
            {"name": "c", "role": "replica", "replicas": [replica("equal")]},
        ]});
        assert_eq!(lags_of(&answer, "a")["node2"].operations, Some(0));
        assert_eq!(lags_of(&answer, "b")["node2"].operations, None);
        assert!(lags_of(&answer, "c").is_empty());
    }

    fn active_of(answers: &[(&str, Value)]) -> (String, Vec<String>, u64) {
        let account = Account {
            name: "a".to_owned(),
            password: String::new(),
            active: "node1".to_owned(),
            replicas: vec!["node2".to_owned()],
            group: 7,
            epoch: 1,
            lag: None,
        };
        let coordinator = Coordinator { kind: CoordinatorKind::None, endpoints: vec![] };
        let mut mesh = Mesh { nodes: vec![], accounts: vec![account], blob_dir: "/b".into(), proxy: None, coordinator };
        place(&mut mesh, &answers.iter().map(|(node, answer)| ((*node).to_owned(), answer.clone())).collect());
        let account = mesh.accounts.remove(0);
        (account.active, account.replicas, account.epoch)
    }

    #[test]
    fn of_two_that_believe_to_be_active_the_higher_epoch_is() {
        let group = |role: &str, active: &str, replicas: &[&str], epoch: u64| serde_json::json!({"groups": [{"id": 7, "role": role, "active": active, "replicas": replicas, "epoch": epoch}]});
        let cut_off = ("node1", group("active", "node1", &["node2"], 1));
        let now = ("node2", group("active", "node2", &["node1"], 2));
        let after = ("node2".to_owned(), vec!["node1".to_owned()], 2);
        assert_eq!(active_of(&[cut_off.clone(), now.clone()]), after);
        assert_eq!(active_of(&[now, cut_off.clone()]), after);
        // A replica that knows already counts too.
        assert_eq!(active_of(&[cut_off, ("node2", group("replica", "node2", &["node1"], 2))]), after);
    }

    #[test]
    fn a_group_that_is_not_listed_is_known_by_its_accounts_and_silence_leaves_the_plan() {
        let account = |role: &str, active: &str| {
            serde_json::json!({"groups": [], "accounts": [
                {"name": "a", "group": 7, "role": role, "active": active, "replicas": [{"node": "node3"}]}
            ]})
        };
        let (active, replicas, epoch) =
            active_of(&[("node3", account("replica", "node1")), ("node2", account("active", "node2"))]);
        assert_eq!((active.as_str(), replicas.join(" ").as_str(), epoch), ("node2", "node3", 1));
        assert_eq!(active_of(&[]), ("node1".to_owned(), vec!["node2".to_owned()], 1));
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
