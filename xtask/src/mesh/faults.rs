//! `mesh partition`, `mesh heal`, and the cut of a machine that is off: rules of nftables on the mesh's bridge.
//!
//! Owns: `mesh.faults`, which says who is cut off from whom, and the table of the kernel that makes it so; both are
//! written whole, under a lock. What can hurt: a cut that outlives its mesh; the table has the mesh's name, and `mesh
//! down` removes it even when the file is lost. Refuses: touching traffic of any interface but the mesh's.

use super::plan::{Plan, Seat};
use super::{At, contract, node_named};
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Arguments of `mesh partition`.
#[derive(clap::Args)]
pub(crate) struct Partition {
    #[command(flatten)]
    at: At,
    /// The node, by number (from 1) or name
    #[arg(long)]
    node: String,
    /// Cut it off only from this one: a node, `proxy`, `etcd`, `etcd1` and so on, or `host`; may be given several times
    #[arg(long, value_name = "WHOM", conflicts_with = "all")]
    from: Vec<String>,
    /// Cut it off from everybody, the host too (the default)
    #[arg(long)]
    all: bool,
    /// Lose only what it sends (`out`, the default), or only what it is sent (`in`)
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "out", value_name = "WAY")]
    one_way: Option<Way>,
}

/// Arguments of `mesh heal`.
#[derive(clap::Args)]
pub(crate) struct Heal {
    #[command(flatten)]
    at: At,
    /// Only what was cut by naming this node (default: all)
    #[arg(long)]
    node: Option<String>,
}

/// Which packets of a cut node are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// What it sends
    Out,
    /// What it is sent
    In,
}

/// One node cut off from somebody, one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Cut {
    node: String,
    /// A seat or the host; `None` is everybody.
    from: Option<String>,
    way: Way,
}

/// Who is cut off from whom now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Faults {
    /// Seats whose machine is off: nothing comes from them or reaches them.
    off: BTreeSet<String>,
    cuts: BTreeSet<Cut>,
}

const HOST: &str = "host";

/// `mesh partition`.
///
/// # Errors
/// When there is no such mesh or node, or the kernel refuses.
pub(crate) fn partition(args: &Partition) -> Result<bool> {
    let dir = super::absolute(&args.at.dir)?;
    let plan = contract::State::load(&dir)?.plan(&dir);
    let node = node_named(&plan, &args.node)?;
    let mut froms = Vec::new();
    for whom in &args.from {
        let found = seats_named(&plan, whom)?;
        ensure!(!found.contains(&node), "`{node}` cannot be cut off from itself");
        froms.extend(found.into_iter().map(Some));
    }
    if args.all || froms.is_empty() {
        froms.push(None);
    }
    let ways = args.one_way.map_or(vec![Way::Out, Way::In], |way| vec![way]);
    change(&plan, |faults| {
        for from in froms {
            faults.cuts.extend(ways.iter().map(|way| Cut { node: node.clone(), from: from.clone(), way: *way }));
        }
    })?;
    Ok(true)
}

/// `mesh heal`.
///
/// # Errors
/// As [`partition`].
pub(crate) fn heal(args: &Heal) -> Result<bool> {
    let dir = super::absolute(&args.at.dir)?;
    let plan = contract::State::load(&dir)?.plan(&dir);
    let node = args.node.as_ref().map(|node| node_named(&plan, node)).transpose()?;
    change(&plan, |faults| faults.cuts.retain(|cut| node.as_ref().is_some_and(|node| cut.node != *node)))?;
    Ok(true)
}

/// Takes a machine off the network, or puts it back, beside whatever `mesh partition` did.
///
/// # Errors
/// As [`partition`].
pub(super) fn set_off(plan: &Plan, seat: &str, off: bool) -> Result<()> {
    change(plan, |faults| {
        if off {
            faults.off.insert(seat.to_owned());
        } else {
            faults.off.remove(seat);
        }
    })
}

/// Names of the seats that `whom` means.
fn seats_named(plan: &Plan, whom: &str) -> Result<Vec<String>> {
    if whom == HOST {
        return Ok(vec![HOST.to_owned()]);
    }
    if whom == "etcd" && !plan.etcd.is_empty() {
        return Ok(plan.etcd.iter().map(|seat| seat.name.clone()).collect());
    }
    let name = if whom.parse::<usize>().is_ok() { format!("node{whom}") } else { whom.to_owned() };
    let names: Vec<&str> = plan.seats().map(|seat| seat.name.as_str()).collect();
    ensure!(names.contains(&name.as_str()), "no `{whom}` in this mesh; there are: host, {}", names.join(", "));
    Ok(vec![name])
}

/// Changes what is cut, in the file and in the kernel.
fn change(plan: &Plan, what: impl FnOnce(&mut Faults)) -> Result<()> {
    let file = plan.dir.join("mesh.faults");
    let open = std::fs::OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&file);
    let lock =
        Flock::lock(open.with_context(|| format!("cannot write `{}`", file.display()))?, FlockArg::LockExclusive);
    let Ok(_lock) = lock else { bail!("cannot lock `{}`", file.display()) };
    let text = std::fs::read_to_string(&file)?;
    let mut faults: Faults = if text.is_empty() { Faults::default() } else { serde_json::from_str(&text)? };
    what(&mut faults);
    apply(&rules(plan, &faults))?;
    std::fs::write(&file, serde_json::to_vec(&faults)?).with_context(|| format!("cannot write `{}`", file.display()))
}

/// Removes all rules of the mesh; there may be none.
pub(super) fn clear(plan: &Plan) {
    let _ = apply(&rules(plan, &Faults::default()));
}

fn table(plan: &Plan) -> String {
    format!("us{}", plan.tag)
}

/// The whole table as it is to be, in one transaction: without faults there is none.
fn rules(plan: &Plan, faults: &Faults) -> String {
    let table = table(plan);
    // Made first, so that there is one to remove.
    let mut text = format!("add table bridge {table}\ndelete table bridge {table}\n");
    let mut lines: [BTreeSet<String>; 3] = Default::default();
    let [forward, input, output] = &mut lines;
    let seat = |name: &str| plan.seats().find(|seat| seat.name == name);
    for off in faults.off.iter().filter_map(|name| seat(name)) {
        lose_all(off, Way::Out, forward, input, output);
        lose_all(off, Way::In, forward, input, output);
    }
    for cut in &faults.cuts {
        let Some(node) = seat(&cut.node) else { continue };
        match (cut.from.as_deref(), cut.way) {
            (None, way) => lose_all(node, way, forward, input, output),
            (Some(HOST), Way::Out) => _ = input.insert(from(node)),
            (Some(HOST), Way::In) => _ = output.insert(to(node)),
            (Some(name), way) => {
                let Some(other) = seat(name) else { continue };
                let (one, two) = if way == Way::Out { (node, other) } else { (other, node) };
                forward.insert(format!("{} {}", from(one), to(two)));
            }
        }
    }
    if lines.iter().all(BTreeSet::is_empty) {
        return text;
    }
    let _ = writeln!(text, "table bridge {table} {{");
    for (hook, lines) in ["forward", "input", "output"].into_iter().zip(&lines) {
        let _ = writeln!(text, "  chain {hook} {{\n    type filter hook {hook} priority 0; policy accept;");
        for line in lines {
            let _ = writeln!(text, "    {line} drop");
        }
        text.push_str("  }\n");
    }
    text + "}\n"
}

type Lines = BTreeSet<String>;

fn lose_all(seat: &Seat, way: Way, forward: &mut Lines, input: &mut Lines, output: &mut Lines) {
    if way == Way::Out {
        forward.insert(from(seat));
        input.insert(from(seat));
    } else {
        forward.insert(to(seat));
        output.insert(to(seat));
    }
}

/// What comes out of its cable; while the cable is long, out of what it is put behind.
fn from(seat: &Seat) -> String {
    format!("iifname {{ \"{}\", \"{}\" }}", seat.cable, seat.tap)
}

fn to(seat: &Seat) -> String {
    format!("oifname {{ \"{}\", \"{}\" }}", seat.cable, seat.tap)
}

fn apply(text: &str) -> Result<()> {
    let mut nft = Command::new("nft");
    let nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = nft.spawn().context("cannot start `nft` (package nftables)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "nft: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::contract::Format;
    use super::*;

    fn plan() -> Plan {
        Plan::new(std::path::Path::new("/tmp/x"), 3, 1, Format::Maildir).with(true, 1)
    }

    fn cut(node: &str, from: Option<&str>, way: Way) -> Cut {
        Cut { node: node.to_owned(), from: from.map(str::to_owned), way }
    }

    fn drops(faults: &Faults) -> usize {
        rules(&plan(), faults).matches(" drop\n").count()
    }

    #[test]
    fn without_faults_there_is_no_table() {
        let text = rules(&plan(), &Faults::default());
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| line.ends_with(&format!(" table bridge {}", table(&plan())))));
    }

    #[test]
    fn a_cut_from_all_is_one_from_the_host_too() {
        let faults =
            Faults { off: BTreeSet::new(), cuts: [cut("node2", None, Way::Out), cut("node2", None, Way::In)].into() };
        let text = rules(&plan(), &faults);
        let (forward, rest) = text.split_once("chain input").expect("a chain");
        assert_eq!((forward.matches(" drop").count(), rest.matches(" drop").count()), (2, 2), "{text}");
        // A machine that is off is cut in the same way; both together add nothing.
        let off = Faults { off: ["node2".to_owned()].into(), ..faults.clone() };
        assert_eq!(rules(&plan(), &off), text);
        assert_eq!(drops(&Faults { off: BTreeSet::new(), cuts: [cut("node2", None, Way::In)].into() }), 2);
    }

    #[test]
    fn a_cut_between_two_concerns_only_them() {
        let (plan, name) = (plan(), |n: usize| format!("us{}n{n}\"", plan().tag));
        let one_way = Faults { off: BTreeSet::new(), cuts: [cut("node1", Some("proxy"), Way::Out)].into() };
        let text = rules(&plan, &one_way);
        let line = text.lines().find(|line| line.contains(" drop")).expect("a rule");
        let (iif, oif) = line.split_once(" oifname ").expect("both ends");
        assert!(iif.contains(&name(1)) && oif.contains(&name(200)) && drops(&one_way) == 1, "{text}");
        let host = [cut("node1", Some(HOST), Way::Out), cut("node1", Some(HOST), Way::In)];
        assert_eq!(drops(&Faults { off: BTreeSet::new(), cuts: host.into() }), 2);
    }

    #[test]
    fn whom_one_is_cut_off_from_is_named_as_people_do() {
        assert_eq!(seats_named(&plan(), "3").expect("known"), ["node3"]);
        assert_eq!(seats_named(&plan(), "etcd").expect("known"), ["etcd1"]);
        let error = seats_named(&plan(), "node9").expect_err("unknown").to_string();
        assert!(error.contains("proxy") && error.contains("host"), "{error}");
    }
}
