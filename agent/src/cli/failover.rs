//! `understudy switchover`, `drain`, `undrain`, `promote`, `explain`: who is active, changed and explained.
//!
//! Owns: flags, waiting for the end of what was begun, and printing. What can hurt: a command that says "done" when it
//! was only begun; each waits until the record says so, or says what holds it back. Refuses: deciding; the agents do.

use std::time::Duration;

use super::client::Client;
use super::{Context, Exit, Failure, output};
use crate::control::model::{Done, ExplainRequest, Explained, OrderRequest, Rule, Target};

/// How often the state is asked for while a command waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a command is about: a group's number, an account, or with `--node` all that is active on a node.
#[derive(Clone, Debug, clap::Args)]
pub struct Of {
    /// Group number or account
    #[arg(value_name = "GROUP|ACCOUNT", required_unless_present = "node", conflicts_with = "node")]
    pub of: Option<String>,
    /// All groups that are active on this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
}

impl Of {
    fn target(&self) -> Target {
        match (&self.node, &self.of) {
            (Some(node), _) => Target::Node(node.clone()),
            (None, Some(of)) => of.parse().map_or_else(|_| Target::Account(of.clone()), Target::Group),
            (None, None) => Target::Account(String::new()),
        }
    }
}

/// Flags of `switchover`.
#[derive(Debug, clap::Args)]
pub struct SwitchoverArgs {
    #[command(flatten)]
    pub of: Of,
    /// Node that is to be active [default: the best replica]
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// When: RFC 3339, for example 2026-01-31T02:30:00+01:00 [default: now]
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Take back a switchover that was not made yet
    #[arg(long, conflicts_with_all = ["to", "at"])]
    pub cancel: bool,
    /// Only say what would be done, and what would hold it back
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the end, in seconds; 0: do not wait
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub wait_s: u64,
}

/// Flags of `drain`.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// Node on which no group is to be active
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Why, for the next administrator
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Who [default: the calling user]
    #[arg(long, env = "SUDO_USER", default_value = "root")]
    pub owner: String,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait until the node is empty, in seconds; 0: do not wait
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub wait_s: u64,
}

/// Flags of `undrain`.
#[derive(Debug, clap::Args)]
pub struct UndrainArgs {
    /// Node that may have active groups again
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `promote`.
#[derive(Debug, clap::Args)]
pub struct PromoteArgs {
    /// Group number or account
    #[arg(value_name = "GROUP|ACCOUNT")]
    pub of: String,
    /// Promote this node's replica although it cannot prove that it has everything
    #[arg(long)]
    pub force: bool,
}

/// Flags of `explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub of: Of,
}

/// A group as the overview has it.
#[derive(Clone, Debug)]
struct Seen {
    group: u32,
    active: u64,
    epoch: u64,
    move_to: Option<u64>,
    replicas: Vec<u64>,
    in_sync: Vec<u64>,
}

fn overview(client: &Client) -> Result<(serde_json::Value, Vec<Seen>), Failure> {
    let whole: serde_json::Value = client.get("/v1/failover")?;
    let numbers = |value: &serde_json::Value| -> Vec<u64> {
        value.as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect()
    };
    let groups = whole["groups"].as_object().into_iter().flatten().filter_map(|(id, group)| {
        let record = &group["record"];
        Some(Seen {
            group: id.parse().ok()?,
            active: record["active"].as_u64()?,
            epoch: record["epoch"].as_u64()?,
            move_to: record["move_to"].as_u64(),
            replicas: numbers(&record["replicas"]),
            in_sync: numbers(&record["in_sync"]),
        })
    });
    let mut groups: Vec<Seen> = groups.collect();
    groups.sort_by_key(|seen| seen.group);
    Ok((whole, groups))
}

fn of_target(context: &Context, client: &Client, target: &Target) -> Result<Vec<u32>, Failure> {
    let _ = context;
    let explained: Vec<Explained> = client.post("/v1/explain", &ExplainRequest { of: target.clone() })?;
    Ok(explained.into_iter().map(|one| one.group).collect())
}

fn print(context: &Context, done: &Done) -> Result<(), Failure> {
    if context.global.json { context.print_json(done) } else { output::text(&format!("{}\n", done.done)) }
}

/// Waits until `is_done` holds, and gives the groups as they are then; `false` = the time is over.
fn wait_for(
    client: &Client,
    wait_s: u64,
    mut is_done: impl FnMut(&[Seen]) -> bool,
) -> Result<(bool, Vec<Seen>), Failure> {
    let until = crate::clock::instant() + Duration::from_secs(wait_s);
    loop {
        let (_, groups) = overview(client)?;
        if is_done(&groups) {
            return Ok((true, groups));
        }
        if crate::clock::instant() >= until {
            return Ok((false, groups));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// `switchover`.
///
/// # Errors
/// No agent answers, or it refuses.
pub fn switchover(context: &Context, args: &SwitchoverArgs) -> Result<Exit, Failure> {
    let client = context.client()?;
    let target = args.of.target();
    if args.cancel {
        print(context, &client.post("/v1/order", &OrderRequest::Cancel { of: target })?)?;
        return Ok(Exit::Fine);
    }
    let at_wall_ns = args.at.as_deref().map(wall_ns).transpose()?.unwrap_or(0);
    let groups = of_target(context, &client, &target)?;
    let (_, before) = overview(&client)?;
    let concerned: Vec<Seen> = before.into_iter().filter(|seen| groups.contains(&seen.group)).collect();
    if args.dry_run {
        return dry_run(context, &client, &target, &concerned);
    }
    let done: Done =
        client.post("/v1/order", &OrderRequest::Switchover { of: target, to: args.to.clone(), at_wall_ns })?;
    if args.wait_s == 0 || at_wall_ns > crate::clock::wall_ns() {
        print(context, &done)?;
        return Ok(Exit::Fine);
    }
    let moved = |now: &[Seen], seen: &Seen| now.iter().any(|n| n.group == seen.group && n.epoch > seen.epoch);
    let given_up = |now: &[Seen], seen: &Seen| {
        now.iter().any(|n| n.group == seen.group && n.epoch == seen.epoch && n.move_to.is_none())
    };
    let mut written = false;
    let (_, after) = wait_for(&client, args.wait_s, |now| {
        written |= concerned.iter().all(|seen| now.iter().any(|n| n.group == seen.group && n.move_to.is_some()))
            || concerned.iter().any(|seen| moved(now, seen));
        concerned.iter().all(|seen| moved(now, seen) || (written && given_up(now, seen)))
    })?;
    let left: Vec<u32> = concerned.iter().filter(|seen| !moved(&after, seen)).map(|seen| seen.group).collect();
    let count = concerned.len() - left.len();
    let text = if left.is_empty() {
        format!("{count} groups were moved; nothing was left behind")
    } else {
        format!("{count} groups were moved, {} were not: {left:?}; `understudy explain GROUP` says why", left.len())
    };
    print(context, &Done { done: text })?;
    Ok(if left.is_empty() { Exit::Fine } else { Exit::Bad })
}

fn dry_run(context: &Context, client: &Client, target: &Target, concerned: &[Seen]) -> Result<Exit, Failure> {
    let explained: Vec<Explained> = client.post("/v1/explain", &ExplainRequest { of: target.clone() })?;
    if context.global.json {
        context.print_json(&explained)?;
    } else {
        let rows: Vec<Vec<String>> = concerned
            .iter()
            .map(|seen| {
                vec![
                    seen.group.to_string(),
                    seen.active.to_string(),
                    seen.epoch.to_string(),
                    format!("{:?}", seen.replicas),
                    format!("{:?}", seen.in_sync),
                ]
            })
            .collect();
        output::text(&output::table(&["GROUP", "ACTIVE", "EPOCH", "REPLICAS", "IN SYNC"], &rows))?;
        output::text("nothing was changed; a group moves to a replica that is in sync\n")?;
    }
    let able = concerned.iter().all(|seen| !seen.in_sync.is_empty());
    Ok(if able { Exit::Fine } else { Exit::Bad })
}

/// `drain`.
///
/// # Errors
/// No agent answers, or it refuses.
pub fn drain(context: &Context, args: &DrainArgs) -> Result<Exit, Failure> {
    let client = context.client()?;
    if args.dry_run {
        let target = Target::Node(args.node.clone());
        let groups = of_target(context, &client, &target)?;
        let concerned: Vec<Seen> =
            overview(&client)?.1.into_iter().filter(|seen| groups.contains(&seen.group)).collect();
        return dry_run(context, &client, &target, &concerned);
    }
    let (node, reason, owner) = (args.node.clone(), args.reason.clone(), args.owner.clone());
    let done: Done = client.post("/v1/order", &OrderRequest::Drain { node, reason, owner })?;
    print(context, &done)?;
    if args.wait_s == 0 {
        return Ok(Exit::Fine);
    }
    let until = crate::clock::instant() + Duration::from_secs(args.wait_s);
    loop {
        let left = of_target(context, &client, &Target::Node(args.node.clone()))?;
        if left.is_empty() {
            print(context, &Done { done: format!("no group is active on `{}` any more", args.node) })?;
            return Ok(Exit::Fine);
        }
        if crate::clock::instant() >= until {
            let text =
                format!("groups {left:?} are still active on `{}`; `understudy explain GROUP` says why", args.node);
            print(context, &Done { done: text })?;
            return Ok(Exit::Bad);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// `undrain`.
///
/// # Errors
/// No agent answers, or it refuses.
pub fn undrain(context: &Context, args: &UndrainArgs) -> Result<Exit, Failure> {
    if args.dry_run {
        print(context, &Done { done: format!("`{}` would be allowed to have active groups again", args.node) })?;
        return Ok(Exit::Fine);
    }
    print(context, &context.client()?.post("/v1/order", &OrderRequest::Undrain { node: args.node.clone() })?)?;
    Ok(Exit::Fine)
}

/// `promote`.
///
/// # Errors
/// No agent answers, or it refuses.
pub fn promote(context: &Context, args: &PromoteArgs) -> Result<Exit, Failure> {
    let client = context.client()?;
    let of = Of { of: Some(args.of.clone()), node: None }.target();
    if !args.force {
        let explained: Vec<Explained> = client.post("/v1/explain", &ExplainRequest { of })?;
        print_explained(context, &explained)?;
        output::text("nothing was changed; `--force` promotes this node and loses what only others have\n")?;
        return Ok(Exit::Bad);
    }
    print(context, &client.post("/v1/order", &OrderRequest::Promote { of })?)?;
    Ok(Exit::Fine)
}

/// `explain`.
///
/// # Errors
/// No agent answers, or it knows no such group, account or node.
pub fn explain(context: &Context, args: &ExplainArgs) -> Result<Exit, Failure> {
    let explained: Vec<Explained> = context.client()?.post("/v1/explain", &ExplainRequest { of: args.of.target() })?;
    print_explained(context, &explained)?;
    Ok(Exit::Fine)
}

fn print_explained(context: &Context, explained: &[Explained]) -> Result<(), Failure> {
    if context.global.json {
        return context.print_json(&explained);
    }
    for one in explained {
        output::text(&format!("group {}\n", one.group))?;
        let row = |rule: &Rule| {
            let left = if rule.left_ms > 0 { format!("{} ms left", rule.left_ms) } else { String::new() };
            let state = if rule.holds { "ok" } else { "holds back" };
            vec![rule.rule.clone(), state.to_owned(), left, rule.text.clone()]
        };
        let rows: Vec<Vec<String>> = one.rules.iter().map(row).collect();
        output::text(&output::table(&["RULE", "", "LEFT", "WHY"], &rows))?;
        if !one.words.is_empty() {
            let rows: Vec<Vec<String>> = one
                .words
                .iter()
                .map(|word| vec![time_of(word.wall_ns), word.rule.clone(), word.text.clone()])
                .collect();
            output::text(&output::table(&["WHEN", "RULE", "WHAT WAS SAID"], &rows))?;
        }
    }
    Ok(())
}

fn time_of(wall_ns: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(wall_ns)).ok();
    let format =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]Z");
    at.and_then(|at| at.format(&format).ok()).unwrap_or_default()
}

fn wall_ns(text: &str) -> Result<u64, Failure> {
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map_err(|error| Failure::Usage(format!("`--at {text}`: {error}; for example 2026-01-31T02:30:00+01:00")))?;
    u64::try_from(at.unix_timestamp_nanos()).map_err(|_| Failure::Usage(format!("`--at {text}` is too early")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_times_are_read() {
        let of = |text: &str| Of { of: Some(text.into()), node: None }.target();
        assert_eq!(of("7"), Target::Group(7));
        assert_eq!(of("u@example.test"), Target::Account("u@example.test".into()));
        assert_eq!(Of { of: None, node: Some("mail1".into()) }.target(), Target::Node("mail1".into()));
        assert_eq!(wall_ns("1970-01-01T00:00:01Z").expect("a time"), 1_000_000_000);
        assert!(wall_ns("tomorrow").is_err());
        assert_eq!(time_of(1_500_000_000), "1970-01-01 00:00:01.500Z");
    }
}
