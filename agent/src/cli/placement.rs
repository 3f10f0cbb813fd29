//! `understudy placement`: where groups are active and copied, where they should be, and the orders that bring them
//! there.
//!
//! Owns: flags, printing, and the orders of a plan. What can hurt: a plan that is applied as a whole while only half of
//! it can be done: a group moves only to a replica in sync, so `apply` orders what can be done now, says what must
//! wait, and ends with 3 until there is nothing left. Refuses: planning; the agent does, from what its decider knows.

use std::collections::BTreeMap;

use clap::Subcommand;
use understudy_types::id::NodeId;

use super::client::Client;
use super::{Context, Exit, Failure, output};
use crate::control::model::{Done, OrderRequest, Placement, Target};
use crate::failover::plan::{Needs, Plan};

/// Flags of `placement`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What is wanted of the placement; nothing named: `show`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print groups and nodes, and what the loss of each node would do
    Show,
    /// Print the moves and lists of replicas that would even the load
    Plan(PlanArgs),
    /// Order what the plan says, as far as it can be done now
    Apply(ApplyArgs),
}

/// Flags of `placement plan`.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// Replicas of each group [default: as many as the configuration placed]
    #[arg(long, value_name = "N")]
    pub replicas: Option<usize>,
}

/// Flags of `placement apply`.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Only print the plan
    #[arg(long)]
    pub dry_run: bool,
}

/// Asks the agent, prints, and orders.
///
/// # Errors
///
/// No agent answers, or no coordinator is configured.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    match args.command.as_ref().unwrap_or(&Command::Show) {
        Command::Show => {
            let placement = ask(&client, None)?;
            if context.global.json {
                context.print_json(&placement)?;
            } else {
                output::text(&render_show(&placement))?;
            }
            Ok(Exit::Fine)
        }
        Command::Plan(args) => print_plan(context, &ask(&client, args.replicas)?),
        Command::Apply(args) if args.dry_run => print_plan(context, &ask(&client, args.plan.replicas)?),
        Command::Apply(args) => apply(context, &client, &ask(&client, args.plan.replicas)?),
    }
}

fn ask(client: &Client, replicas: Option<usize>) -> Result<Placement, Failure> {
    match replicas {
        Some(replicas) => client.get(&format!("/v1/placement?replicas={replicas}")),
        None => client.get("/v1/placement"),
    }
}

fn print_plan(context: &Context, placement: &Placement) -> Result<Exit, Failure> {
    if context.global.json {
        context.print_json(&placement.plan)?;
    } else {
        output::text(&render_plan(placement))?;
    }
    Ok(if placement.plan.is_empty() { Exit::Fine } else { Exit::Bad })
}

/// What an order was for, and what came of it.
#[derive(Debug, serde::Serialize)]
struct Ordered {
    group: u32,
    order: String,
    done: bool,
    text: String,
}

fn apply(context: &Context, client: &Client, placement: &Placement) -> Result<Exit, Failure> {
    let name = |node: NodeId| placement.names.get(&node.get()).cloned().unwrap_or_else(|| node.to_string());
    let mut results = Vec::new();
    let mut order = |group: u32, text: String, request: &OrderRequest| -> Result<(), Failure> {
        let (done, said) = match client.post::<_, Done>("/v1/order", request) {
            Ok(done) => (true, done.done),
            Err(Failure::Agent(why)) => (false, why),
            Err(other) => return Err(other),
        };
        results.push(Ordered { group, order: text, done, text: said });
        Ok(())
    };
    let plan = &placement.plan;
    for listed in &plan.replicas {
        let replicas: Vec<String> = listed.replicas.iter().map(|node| name(*node)).collect();
        let text = format!("replicas {}", replicas.join(", "));
        order(listed.group.0, text, &OrderRequest::Replicas { group: listed.group.0, replicas })?;
    }
    for step in plan.moves.iter().filter(|step| step.needs == Needs::Nothing) {
        let (of, to) = (Target::Group(step.group.0), Some(name(step.to)));
        let text = format!("move to {}", name(step.to));
        order(step.group.0, text, &OrderRequest::Switchover { of, to, at_wall_ns: 0 })?;
    }
    let waiting = plan.moves.iter().filter(|step| step.needs != Needs::Nothing);
    let waiting: Vec<u32> = waiting.map(|step| step.group.0).collect();
    let failed = results.iter().any(|result| !result.done);
    if context.global.json {
        context.print_json(&serde_json::json!({"orders": results, "waiting": waiting}))?;
    } else {
        let row = |result: &Ordered| {
            let state = if result.done { "ordered" } else { "refused" };
            vec![result.group.to_string(), result.order.clone(), state.to_owned(), result.text.clone()]
        };
        let rows: Vec<Vec<String>> = results.iter().map(row).collect();
        let mut text = if rows.is_empty() { String::new() } else { output::table(&["GROUP", "ORDER", "", ""], &rows) };
        if !waiting.is_empty() {
            text.push_str(&format!("groups {waiting:?} move when their targets are in sync: apply again then\n"));
        } else if rows.is_empty() {
            text.push_str("nothing is to be changed\n");
        } else {
            text.push_str("apply again until nothing is to be changed: a list is looked at once its group has moved\n");
        }
        output::text(&text)?;
    }
    Ok(if failed || !waiting.is_empty() { Exit::Bad } else { Exit::Fine })
}

fn names_of<'a>(names: &'a BTreeMap<u16, String>) -> impl Fn(u64) -> String + 'a {
    |raw| u16::try_from(raw).ok().and_then(|raw| names.get(&raw).cloned()).unwrap_or_else(|| raw.to_string())
}

fn list(value: &serde_json::Value, name: &impl Fn(u64) -> String) -> String {
    let each = value.as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64);
    each.map(name).collect::<Vec<_>>().join(", ")
}

fn number(value: &serde_json::Value) -> String {
    value.as_u64().map_or_else(String::new, |number| number.to_string())
}

/// Who takes how many groups of a node when it is lost.
fn loss(plan: &Plan, raw: u16, name: &impl Fn(u64) -> String) -> String {
    let Some(loss) = plan.losses.get(&raw) else { return String::new() };
    let mut each: Vec<String> =
        loss.to.iter().map(|(to, groups)| format!("{} +{groups}", name(u64::from(*to)))).collect();
    if !loss.nobody.is_empty() {
        each.push(format!("nobody: {}", loss.nobody.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")));
    }
    each.join(", ")
}

fn render_show(placement: &Placement) -> String {
    let name = names_of(&placement.names);
    let view = &placement.overview;
    let mut groups: Vec<(u32, &serde_json::Value)> = Vec::new();
    for (id, group) in view["groups"].as_object().into_iter().flatten() {
        groups.extend(id.parse().ok().map(|id| (id, group)));
    }
    groups.sort_by_key(|(id, _)| *id);
    let row = |(id, group): &(u32, &serde_json::Value)| {
        let record = &group["record"];
        let moving = match record["move_to"].as_u64() {
            Some(0) => "to the best".to_owned(),
            Some(to) => format!("to {}", name(to)),
            None => String::new(),
        };
        let active = record["active"].as_u64().map_or_else(String::new, &name);
        let (in_sync, replicas) = (list(&record["in_sync"], &name), list(&record["replicas"], &name));
        vec![id.to_string(), active, number(&record["epoch"]), in_sync, replicas, moving]
    };
    let rows: Vec<Vec<String>> = groups.iter().map(row).collect();
    let mut text = output::table(&["GROUP", "ACTIVE", "EPOCH", "IN SYNC", "REPLICAS", "MOVING"], &rows);
    text.push('\n');
    let mut nodes: Vec<(u16, &serde_json::Value)> = Vec::new();
    for (id, node) in view["nodes"].as_object().into_iter().flatten() {
        nodes.extend(id.parse().ok().map(|id| (id, node)));
    }
    nodes.sort_by_key(|(id, _)| *id);
    let row = |(id, node): &(u16, &serde_json::Value)| {
        let left = node["lease_left_ms"].as_u64().unwrap_or(0);
        let lease = if left > 0 { format!("{left} ms") } else { "run out".to_owned() };
        let capacity = node["capacity_groups"].as_u64().filter(|most| *most > 0);
        let capacity = capacity.map_or_else(|| "-".to_owned(), |most| most.to_string());
        let flag =
            |key: &str, word: &str| if node[key].as_bool() == Some(true) { word.to_owned() } else { String::new() };
        let state = [flag("drained", "drained"), flag("no_failover", "no-failover")];
        let state: Vec<String> = state.into_iter().filter(|word| !word.is_empty()).collect();
        let site = node["site"].as_str().unwrap_or("").to_owned();
        let active = number(&node["active_groups"]);
        let lost = loss(&placement.plan, *id, &name);
        vec![name(u64::from(*id)), lease, active, capacity, site, state.join(", "), lost]
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    let head = ["NODE", "LEASE LEFT", "ACTIVE", "CAPACITY", "SITE", "", "IF LOST"];
    text.push_str(&output::table(&head, &rows));
    if !placement.plan.is_empty() {
        text.push_str("\nIF LOST is as after `understudy placement apply`, which has something to do\n");
    }
    text
}

fn render_plan(placement: &Placement) -> String {
    let plan = &placement.plan;
    let name = names_of(&placement.names);
    let of = |node: &NodeId| name(u64::from(node.get()));
    let all = |nodes: &[NodeId]| nodes.iter().map(of).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    if !plan.moves.is_empty() {
        let row = |step: &crate::failover::plan::Move| {
            let when = match step.needs {
                Needs::Nothing => "now",
                Needs::Sync => "when in sync",
                Needs::Copy => "when copied",
            };
            vec![step.group.to_string(), of(&step.from), of(&step.to), when.to_owned(), step.why.clone()]
        };
        let rows: Vec<Vec<String>> = plan.moves.iter().map(row).collect();
        text.push_str(&(output::table(&["GROUP", "FROM", "TO", "WHEN", "WHY"], &rows) + "\n"));
    }
    if !plan.replicas.is_empty() {
        let row = |listed: &crate::failover::plan::Listed| {
            vec![listed.group.to_string(), all(&listed.before), all(&listed.replicas), listed.why.clone()]
        };
        let rows: Vec<Vec<String>> = plan.replicas.iter().map(row).collect();
        text.push_str(&(output::table(&["GROUP", "REPLICAS NOW", "REPLICAS THEN", "WHY"], &rows) + "\n"));
    }
    if plan.is_empty() {
        text.push_str("nothing is to be changed\n\n");
    }
    let row = |(raw, after): (&u16, &u32)| {
        let before = plan.before.get(raw).copied().unwrap_or(0);
        let most = plan.losses.get(raw).map_or_else(String::new, |loss| loss.load_max.to_string());
        let lost = loss(plan, *raw, &name);
        vec![name(u64::from(*raw)), before.to_string(), after.to_string(), lost, most]
    };
    let rows: Vec<Vec<String>> = plan.after.iter().map(row).collect();
    text.push_str(&output::table(&["NODE", "ACTIVE NOW", "THEN", "IF LOST", "FULLEST THEN"], &rows));
    for note in &plan.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use understudy_types::id::GroupId;

    use super::*;
    use crate::failover::plan::{Loss, Move};

    #[test]
    fn names_stand_where_numbers_are_and_losses_are_told() {
        let node = |raw| NodeId::new(raw).expect("in range");
        let (from, to, why) = (node(1), node(2), "node 1 is drained".to_owned());
        let lost = Loss { to: BTreeMap::from([(2, 3)]), nobody: vec![GroupId(7)], load_max: 4 };
        let plan = Plan {
            moves: vec![Move { group: GroupId(0), from, to, needs: Needs::Copy, why }],
            before: BTreeMap::from([(1, 4), (2, 1)]),
            after: BTreeMap::from([(1, 3), (2, 2)]),
            losses: BTreeMap::from([(1, lost)]),
            ..Plan::default()
        };
        let overview = serde_json::json!({
            "groups": {"0": {"record": {"active": 1, "epoch": 5, "in_sync": [2], "replicas": [2, 9], "move_to": 0}}},
            "nodes": {"1": {"lease_left_ms": 900, "active_groups": 4, "capacity_groups": 0, "site": "a", "drained": true}},
        });
        let names = BTreeMap::from([(1, "mail1".to_owned()), (2, "mail2".to_owned())]);
        let placement = Placement { names, replicas: 1, overview, plan };
        let text = render_show(&placement);
        for wanted in ["mail1   5      mail2    mail2, 9  to the best", "900 ms", "drained", "mail2 +3, nobody: 7"] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
        let text = render_plan(&placement);
        for wanted in ["0      mail1  mail2  when copied  node 1 is drained", "mail1  4           3"] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
    }
}
