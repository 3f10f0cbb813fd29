//! Plans of placement, on every small cluster and on random larger ones.
//!
//! Owns: a second, plain way to play the loss of a node through. What can hurt: the planner's own word for what a plan
//! does; so records are changed as the orders would change them, and judged here. Refuses: looking into the planner.

use std::collections::BTreeMap;

use super::super::plan::{Facts, Needs, NodeFacts, Plan, plan};
use super::super::*;
use super::id;
use super::world::Rng;
use crate::coordinator::record::Cause;

fn node(n: u16) -> NodeFacts {
    NodeFacts {
        node: id(n),
        site: String::new(),
        priority: 100,
        capacity: 0,
        drained: false,
        no_failover: false,
        alive: true,
    }
}

fn record(active: u16, replicas: &[u16]) -> GroupRecord {
    GroupRecord {
        epoch: 1,
        active,
        replicas: replicas.to_vec(),
        in_sync: replicas.iter().copied().collect(),
        before: None,
        base: None,
        cause: Cause::Placement,
        move_to: None,
        move_at_wall_ns: 0,
        replicas_wanted: None,
        since_wall_ns: 0,
    }
}

fn facts(nodes: Vec<NodeFacts>, groups: &[(u16, &[u16])]) -> Facts {
    let groups = groups.iter().enumerate();
    let groups = groups.map(|(n, (active, list))| (GroupId(u32::try_from(n).expect("small")), record(*active, list)));
    Facts { nodes, groups: groups.collect(), cross_site: true, replicas: 2 }
}

/// As the orders of a plan change the records, when everything gets in sync.
fn apply(facts: &mut Facts, plan: &Plan) {
    for (group, record) in &mut facts.groups {
        if let Some(listed) = plan.replicas.iter().find(|listed| listed.group == *group) {
            record.replicas = listed.replicas.iter().map(|node| node.get()).collect();
            record.in_sync = record.replicas.iter().copied().collect();
        }
        let ready = |m: &&super::super::plan::Move| m.group == *group && m.needs == Needs::Nothing;
        if let Some(step) = plan.moves.iter().find(ready) {
            assert!(record.in_sync.contains(&step.to.get()) && record.active == step.from.get(), "{step:?}");
            record.replicas.retain(|node| *node != step.to.get());
            record.replicas.push(record.active);
            record.active = step.to.get();
            record.in_sync = record.replicas.iter().copied().collect();
        }
    }
}

fn applied(mut facts: Facts, replicas: usize) -> Facts {
    let first = facts.clone();
    for _ in 0..4 {
        let next = plan(&facts, replicas);
        assert_eq!(next, plan(&facts, replicas), "the same plan from the same facts");
        if next.is_empty() {
            return facts;
        }
        apply(&mut facts, &next);
    }
    panic!("it never ends: {:?} from {first:?}, at {facts:?}", plan(&facts, replicas));
}

fn counts(facts: &Facts) -> BTreeMap<u16, u32> {
    let mut counts: BTreeMap<u16, u32> = facts.nodes.iter().map(|node| (node.node.get(), 0)).collect();
    facts.groups.iter().for_each(|(_, record)| *counts.entry(record.active).or_default() += 1);
    counts
}

/// Loads after the loss of a node, and the groups that nobody took.
fn lose(facts: &Facts, lost: u16) -> (BTreeMap<u16, u32>, Vec<u32>) {
    let mut loads = counts(facts);
    let mut nobody = Vec::new();
    let of = |raw: u16| facts.nodes.iter().find(|node| node.node == id(raw)).expect("a node");
    for (group, record) in facts.groups.iter().filter(|(_, record)| record.active == lost) {
        let mut list: Vec<(usize, u16)> = record.replicas.iter().copied().enumerate().collect();
        list.retain(|(_, raw)| {
            let node = of(*raw);
            let home = &of(lost).site;
            let site = facts.cross_site || home.is_empty() || *home == node.site;
            let room = node.capacity == 0 || loads[raw] < node.capacity;
            node.alive && !node.drained && !node.no_failover && site && room
        });
        let home = &of(lost).site;
        list.sort_by_key(|(at, raw)| {
            (!home.is_empty() && of(*raw).site != *home, std::cmp::Reverse(of(*raw).priority), *at)
        });
        match list.first() {
            Some((_, raw)) => *loads.entry(*raw).or_default() += 1,
            None => nobody.push(group.0),
        }
    }
    loads.remove(&lost);
    (loads, nobody)
}

fn holds(facts: &Facts, replicas: usize) {
    let counts = counts(facts);
    let (most, least) = (counts.values().max().expect("nodes"), counts.values().min().expect("nodes"));
    assert!(most - least <= 1, "uneven: {counts:?} in {facts:?}");
    for (_, record) in &facts.groups {
        assert_eq!(record.replicas.len(), replicas, "{record:?}");
    }
    for lost in &facts.nodes {
        let (loads, nobody) = lose(facts, lost.node.get());
        assert!(nobody.is_empty(), "the loss of {} leaves {nobody:?} in {facts:?}", lost.node);
        for (raw, load) in loads {
            let capacity = facts.nodes[usize::from(raw) - 1].capacity;
            assert!(capacity == 0 || load <= capacity, "{raw} has {load} of {capacity} in {facts:?}");
        }
    }
}

/// Every cluster of three or four nodes with up to five or four groups, wherever they are active, with just the
/// capacity that one loss needs.
#[test]
fn no_single_loss_goes_past_capacity_in_any_small_cluster() {
    let mut seen = 0;
    for nodes in 3..=4_u16 {
        for groups in 1..=(8 - u32::from(nodes)) {
            let capacity = groups.div_ceil(u32::from(nodes) - 1).max(2);
            for code in 0..u32::from(nodes).pow(groups) {
                let mut left = code;
                let mut all = Vec::new();
                for group in 0..groups {
                    let active = u16::try_from(left % u32::from(nodes)).expect("small") + 1;
                    left /= u32::from(nodes);
                    let replicas = 1 + usize::try_from((code + group) % (u32::from(nodes) - 1)).expect("small");
                    let list: Vec<u16> = (0..nodes - 1).map(|n| (active + n) % nodes + 1).take(replicas).collect();
                    all.push((GroupId(group), record(active, &list)));
                }
                let mut list: Vec<NodeFacts> = (1..=nodes).map(node).collect();
                list.iter_mut().for_each(|node| node.capacity = capacity);
                let facts = Facts { nodes: list, groups: all, cross_site: true, replicas: 1 };
                for replicas in 1..usize::from(nodes) {
                    holds(&applied(facts.clone(), replicas), replicas);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 1_700, "{seen}");
}

#[test]
fn random_clusters_settle_and_respect_what_nodes_are() {
    let mut moves = 0;
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let mut small = |n: u64| u16::try_from(rng.below(n)).expect("small");
        let count = 2 + small(6);
        let mut nodes: Vec<NodeFacts> = (1..=count).map(node).collect();
        for node in &mut nodes {
            node.site = ["", "a", "b", "c"][usize::from(small(4))].to_owned();
            node.priority = [50, 100][usize::from(small(2))];
            node.capacity = [0, 0, 4, 9][usize::from(small(4))];
            node.drained = small(6) == 0;
            node.no_failover = small(6) == 0;
            node.alive = small(6) != 0;
        }
        let mut groups = Vec::new();
        for group in 0..u32::from(small(20)) {
            let active = 1 + small(u64::from(count));
            let length = small(u64::from(count));
            let list: Vec<u16> = (0..length).map(|n| (active + n) % count + 1).filter(|n| *n != active).collect();
            groups.push((GroupId(group), record(active, &list)));
        }
        let facts = Facts { nodes, groups, cross_site: small(3) > 0, replicas: 1 };
        let replicas = usize::from(small(4));
        let first = plan(&facts, replicas);
        moves += first.moves.len();
        let of = |node: NodeId| facts.nodes.iter().find(|facts| facts.node == node).expect("a node");
        for step in &first.moves {
            let (from, to) = (of(step.from), of(step.to));
            assert!(to.alive && !to.drained && !to.no_failover && from.alive, "seed {seed}: {step:?}");
        }
        for listed in &first.replicas {
            for new in listed.replicas.iter().filter(|node| !listed.before.contains(node)) {
                assert!(of(*new).alive, "seed {seed}: {listed:?}");
            }
            let dead = |node: &&NodeId| !of(**node).alive;
            assert!(listed.before.iter().filter(dead).all(|node| listed.replicas.contains(node)), "seed {seed}");
        }
        let settled = applied(facts.clone(), replicas);
        // What the plan says of losses is what happens.
        let last = plan(&settled, replicas);
        for (lost, loss) in &last.losses {
            let (loads, nobody) = lose(&settled, *lost);
            assert_eq!(
                loss.nobody.iter().map(|group| group.0).collect::<Vec<_>>(),
                nobody,
                "seed {seed}: loss of {lost}"
            );
            assert_eq!(loss.load_max, loads.values().copied().max().unwrap_or(0), "seed {seed}: loss of {lost}");
        }
        let drained = settled.nodes.iter().filter(|node| node.drained && node.alive);
        for node in drained {
            let left = counts(&settled)[&node.node.get()];
            assert!(left == 0 || last.notes.iter().any(|note| note.contains("drained")), "seed {seed}: {last:?}");
        }
    }
    assert!(moves > 100, "{moves}");
}

#[test]
fn a_move_gains_more_than_itself_and_an_even_cluster_is_left_alone() {
    let all = || (1..=3).map(node).collect::<Vec<_>>();
    let even: &[(u16, &[u16])] = &[(1, &[2]), (1, &[3]), (2, &[1]), (3, &[1]), (3, &[2])];
    assert_eq!(plan(&facts(all(), even), 1).moves, vec![]);
    assert!(plan(&facts(all(), even), 1).is_empty());
    let uneven: &[(u16, &[u16])] = &[(1, &[2]), (1, &[3]), (1, &[2]), (3, &[1]), (3, &[2])];
    let planned = plan(&facts(all(), uneven), 1);
    assert_eq!(planned.moves.len(), 1, "{planned:?}");
    let step = &planned.moves[0];
    assert_eq!((step.from, step.to, step.needs), (id(1), id(2), Needs::Nothing));
    assert_eq!((planned.before[&1], planned.after[&1], planned.after[&2]), (3, 2, 1));
}

#[test]
fn loads_follow_capacity() {
    let mut nodes: Vec<NodeFacts> = (1..=3).map(node).collect();
    (nodes[0].capacity, nodes[1].capacity, nodes[2].capacity) = (8, 4, 4);
    let groups: Vec<(u16, &[u16])> = (0..8).map(|_| (2, [1_u16, 3].as_slice())).collect();
    let settled = applied(facts(nodes, &groups), 2);
    assert_eq!(counts(&settled), BTreeMap::from([(1, 4), (2, 2), (3, 2)]));
}

#[test]
fn replicas_are_on_another_site_and_passive_nodes_come_last() {
    let mut nodes: Vec<NodeFacts> = (1..=4).map(node).collect();
    for (node, site) in nodes.iter_mut().zip(["a", "a", "b", "b"]) {
        node.site = site.to_owned();
    }
    nodes[3].no_failover = true;
    let settled = applied(facts(nodes, &[(1, &[2]), (2, &[4, 1]), (3, &[4])]), 2);
    for (_, record) in &settled.groups {
        let far = record.replicas.iter().any(|raw| (*raw > 2) != (record.active > 2));
        assert!(far, "{record:?}");
        let passive = record.replicas.iter().position(|raw| *raw == 4);
        assert!(passive.is_none_or(|at| at + 1 == record.replicas.len()), "{record:?}");
        assert!(record.replicas.len() == 2 && record.active != 4, "{record:?}");
    }
}

#[test]
fn a_target_without_a_copy_gets_one_first_and_moves_that_were_ordered_stay() {
    let mut nodes: Vec<NodeFacts> = (1..=3).map(node).collect();
    nodes[0].drained = true;
    nodes[1].alive = false;
    let mut given = facts(nodes, &[(1, &[2]), (1, &[2])]);
    given.groups[1].1.move_to = Some(2);
    let planned = plan(&given, 1);
    assert_eq!(planned.moves.len(), 1);
    assert_eq!((planned.moves[0].to, planned.moves[0].needs), (id(3), Needs::Copy));
    let copied = planned.replicas.iter().find(|listed| listed.group == GroupId(0)).expect("a copy");
    assert_eq!(copied.replicas, vec![id(2), id(3)], "the lost node stays listed");
}
