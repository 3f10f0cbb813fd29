//! Cases of transactions and snapshots.
//!
//! Owns: what compare-and-swap must mean, alone and in a race. Refuses: faults; they have cases of their own.

use std::collections::BTreeMap;

use crossbeam::channel::unbounded;
use understudy_types::id::ClusterId;

use super::{HANG, PATIENT, SHORT, World, at, delete, done, put, refused, snapshot, state, txn};
use crate::coordinator::{Condition, Coordinator, CoordinatorError, TxnOutcome};
use crate::limits::{COORDINATOR_TXN_MAX, COORDINATOR_VALUE_BYTES_MAX, ETCD_PAGE_KEYS};

pub(super) fn compare_and_swap(world: &mut dyn World, cluster: ClusterId) {
    let of = &mut *world.open(cluster, PATIENT);
    assert_eq!(snapshot(of).keys, []);
    let absent = || Condition::Absent { key: "group/1".to_owned() };
    let first = done(of, vec![absent()], vec![put("group/1", "one")]);
    assert!(first > 0);
    refused(of, vec![absent()], vec![put("group/1", "two")]);
    refused(of, vec![at("group/1", 0)], vec![put("group/1", "two")]);
    refused(of, vec![at("group/1", first - 1)], vec![put("group/1", "two")]);
    refused(of, vec![at("group/1", first + 1)], vec![put("group/1", "two")]);
    let second = done(of, vec![at("group/1", first)], vec![put("group/1", b"\0\xff two\n")]);
    assert!(second > first, "revisions rise");
    refused(of, vec![at("group/1", first)], vec![delete("group/1")]);
    assert_eq!(state(of), BTreeMap::from([("group/1".to_owned(), (b"\0\xff two\n".to_vec(), second))]));
    // Only conditions, as somebody asks who wants to be sure.
    let third = done(of, vec![at("group/1", second)], Vec::new());
    assert!(third >= second);
    done(of, vec![at("group/1", second)], vec![delete("group/1")]);
    assert!(state(of).is_empty());
    refused(of, vec![at("group/1", second)], vec![put("group/1", "three")]);
    done(of, vec![at("group/1", 0)], vec![put("group/1", "")]);
    assert_eq!(state(of)["group/1"].0, b"", "an empty value is a value");
    done(of, Vec::new(), vec![delete("never/there")]);
    let other = &mut *world.open(ClusterId(cluster.0 + 1000), PATIENT);
    assert_eq!(snapshot(other).keys, [], "another cluster's keys are not ours");
}

pub(super) fn all_or_nothing(world: &mut dyn World, cluster: ClusterId) {
    let of = &mut *world.open(cluster, PATIENT);
    let lease = done(of, Vec::new(), vec![put("lease/1", "old"), put("lease/2", "mine")]);
    let group = done(of, Vec::new(), vec![put("group/1", "epoch 1")]);
    // A promotion: the group and both leases are as they were judged, or nothing is written.
    let promote = || vec![put("group/1", "epoch 2"), delete("lease/1")];
    for bad in [
        vec![at("group/1", group), at("lease/1", lease + 1), at("lease/2", lease)],
        vec![at("group/1", group), at("lease/1", lease), at("lease/2", 0)],
        vec![at("group/1", lease), at("lease/1", lease), at("lease/2", lease)],
    ] {
        refused(of, bad, promote());
        assert_eq!(state(of)["group/1"], (b"epoch 1".to_vec(), group));
        assert_eq!(state(of)["lease/1"].1, lease);
    }
    let both = done(of, vec![at("group/1", group), at("lease/1", lease), at("lease/2", lease)], promote());
    let state = state(of);
    assert_eq!(state["group/1"], (b"epoch 2".to_vec(), both));
    assert!(!state.contains_key("lease/1"));
}

pub(super) fn two_clients_race(world: &mut dyn World, cluster: ClusterId) {
    const COUNT: u64 = 200;
    let of = &mut *world.open(cluster, PATIENT);
    done(of, Vec::new(), vec![put("counter", "0")]);
    let racers: Vec<_> = (0..2).map(|_| world.open(cluster, PATIENT)).collect();
    let race = |mut of: Box<dyn Coordinator>| {
        let mut won = Vec::new();
        loop {
            let (value, revision) = state(of.as_mut())["counter"].clone();
            let value: u64 = String::from_utf8_lossy(&value).parse().expect("a number");
            if value == COUNT {
                return won;
            }
            let next = txn(vec![at("counter", revision)], vec![put("counter", (value + 1).to_string())]);
            if let TxnOutcome::Done { .. } = of.transact(&next).expect("an answer") {
                won.push(value + 1);
            }
        }
    };
    let mut won: Vec<u64> = std::thread::scope(|scope| {
        let racers: Vec<_> = racers.into_iter().map(|of| scope.spawn(|| race(of))).collect();
        racers.into_iter().flat_map(|racer| racer.join().expect("no panic")).collect()
    });
    won.sort_unstable();
    assert_eq!(won, (1..=COUNT).collect::<Vec<_>>(), "each increment has exactly one winner");
}

pub(super) fn limits(world: &mut dyn World, cluster: ClusterId) {
    let of = &mut *world.open(cluster, PATIENT);
    let large = vec![b'x'; COORDINATOR_VALUE_BYTES_MAX];
    done(of, Vec::new(), vec![put("large", &large)]);
    let larger = [large.as_slice(), b"x"].concat();
    let many = |count: usize| (0..count).map(|n| put(&format!("many/{n}"), "x")).collect::<Vec<_>>();
    for bad in [vec![put("larger", &larger), put("small", "x")], many(COORDINATOR_TXN_MAX + 1)] {
        let refused = of.transact(&txn(Vec::new(), bad));
        assert!(matches!(refused, Err(CoordinatorError::Refused { .. })), "{refused:?}");
    }
    assert_eq!(state(of).len(), 1, "nothing of it was written");
    let absent = (0..COORDINATOR_TXN_MAX).map(|n| at(&format!("many/{n}"), 0)).collect();
    done(of, absent, many(COORDINATOR_TXN_MAX));
    assert_eq!(state(of).len(), 1 + COORDINATOR_TXN_MAX);
    // The largest transaction that is not refused here must not be refused there.
    let heavy: Vec<_> = (0..16).map(|n| put(&format!("heavy/{n}"), &large)).collect();
    done(of, Vec::new(), heavy);
}

pub(super) fn many_keys(world: &mut dyn World, cluster: ClusterId) {
    let of = &mut *world.open(cluster, PATIENT);
    let count = 2 * usize::try_from(ETCD_PAGE_KEYS).expect("positive") + 50;
    let keys: Vec<String> = (0..count).map(|n| format!("group/{n:05}")).collect();
    for keys in keys.chunks(COORDINATOR_TXN_MAX) {
        done(of, Vec::new(), keys.iter().map(|key| put(key, key)).collect());
    }
    let found = snapshot(of);
    assert_eq!(found.keys.iter().map(|kv| &kv.key).collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
    assert!(found.keys.iter().all(|kv| kv.value == kv.key.as_bytes() && kv.revision <= found.revision));
    let mut again = world.open(cluster, PATIENT);
    assert_eq!(again.snapshot(), Ok(found), "another handle sees the same");
}

pub(super) fn several_under_way(world: &mut dyn World, cluster: ClusterId) {
    let mut of = world.open(cluster, SHORT);
    assert_eq!((of.timeout(), of.another().expect("a handle").timeout()), (SHORT, SHORT));
    let mut another = of.another().expect("a handle");
    of.set_timeout(PATIENT);
    assert_eq!(another.timeout(), PATIENT, "the time-out is in force for all handles");
    let (sender, answers) = unbounded();
    for n in 0..40 {
        let sender = sender.clone();
        let with = if n % 2 == 0 { &mut of } else { &mut another };
        let conditions = vec![at(&format!("key/{}", n / 2), 0)];
        let writes = vec![put(&format!("key/{}", n / 2), n.to_string())];
        with.submit(txn(conditions, writes), Box::new(move |outcome| _ = sender.send((n, outcome))));
    }
    let mut won = BTreeMap::new();
    for _ in 0..40 {
        let (n, outcome) = answers.recv_timeout(HANG).expect("an answer to each");
        if let TxnOutcome::Done { revision } = outcome.expect("it answers") {
            assert_eq!(won.insert(n / 2, (n, revision)), None, "one of two that want the same");
        }
    }
    for (key, (value, revision)) in state(of.as_mut()) {
        let (n, at) = won.remove(&key["key/".len()..].parse().expect("a number")).expect("somebody won");
        assert_eq!((value, revision), (n.to_string().into_bytes(), at));
    }
    assert!(won.is_empty());
}
