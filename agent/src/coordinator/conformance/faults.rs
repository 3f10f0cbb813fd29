//! Cases of a coordinator that is away, or takes requests and does not answer.
//!
//! Owns: that each failure has the type that says what may have happened. Refuses: judging how long it took; what hangs
//! is noticed by whoever runs the test.

use understudy_types::id::ClusterId;

use super::{SHORT, World, at, done, put, refused, state, txn, until_done, watch};
use crate::coordinator::{CoordinatorError, WatchEvent};

pub(super) fn stopped(world: &mut dyn World, cluster: ClusterId) {
    let of = &mut *world.open(cluster, SHORT);
    let before = until_done(of, &[put("n", "0")]);
    world.stop();
    // The first may have been on its way when it noticed.
    let _ = of.transact(&txn(Vec::new(), vec![put("other", "x")]));
    for _ in 0..3 {
        let outcome = of.transact(&txn(vec![at("n", before)], vec![put("n", "1")]));
        assert!(matches!(outcome, Err(CoordinatorError::Unreachable { .. })), "{outcome:?}");
        assert!(matches!(of.snapshot(), Err(CoordinatorError::Unreachable { .. })));
        assert!(of.watch(before, Box::new(|_| {})).is_err() || !world.frozen_is_unknown());
    }
    world.start();
    until_done(of, &[put("other", "x")]);
    assert_eq!(state(of)["n"], (b"0".to_vec(), before), "what was unreachable has not happened");
}

pub(super) fn frozen(world: &mut dyn World, cluster: ClusterId) {
    let of = &mut *world.open(cluster, SHORT);
    let before = until_done(of, &[put("n", "0")]);
    let watching = watch(of, before);
    world.freeze();
    for n in 1..4 {
        let outcome = of.transact(&txn(vec![at("n", before)], vec![put("n", n.to_string())]));
        match outcome {
            Err(CoordinatorError::Unknown { .. }) => assert!(world.frozen_is_unknown()),
            Err(CoordinatorError::Unreachable { .. }) => assert!(!world.frozen_is_unknown()),
            other => panic!("{other:?}"),
        }
        assert!(matches!(of.snapshot(), Err(CoordinatorError::Unreachable { .. })), "a read changes nothing");
    }
    if world.frozen_is_unknown() {
        // Others may go on without it. Where nobody can write, there is nothing to be lost.
        assert!(matches!(watching.next(), WatchEvent::Lost(_)), "a watch that hears nothing is lost");
    }
    world.thaw();
    until_done(of, &[put("other", "x")]);
    let (value, revision) = state(of)["n"].clone();
    // Nobody knew whether; but all wanted the same revision, so one of them at most.
    assert!(value == b"0" || world.frozen_is_unknown() && revision > before, "{value:?} at {revision}");
    refused(of, vec![at("n", revision + 1)], vec![put("n", "9")]);
    done(of, vec![at("n", revision)], vec![put("n", "9")]);
}
