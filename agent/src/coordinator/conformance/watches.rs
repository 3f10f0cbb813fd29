//! Cases of watches, history, and keys that go away by themselves.
//!
//! Owns: that no change is missed in silence. Refuses: faults other than a restart.

use std::time::Duration;

use understudy_types::id::ClusterId;

use super::{PATIENT, Watching, World, at, delete, done, put, snapshot, state, until_done, watch};
use crate::clock;
use crate::coordinator::{WatchEvent, Write};
use crate::limits::COORDINATOR_TXN_MAX;

pub(super) fn watch_in_order(world: &mut dyn World, cluster: ClusterId) {
    let of = &mut *world.open(cluster, PATIENT);
    let other = &mut *world.open(ClusterId(cluster.0 + 1000), PATIENT);
    let before = done(of, Vec::new(), vec![put("a", "0")]);
    let early = watch(of, before);
    let mut written = Vec::new();
    for n in 1..=30_u32 {
        done(other, Vec::new(), vec![put("a", "not ours")]);
        let revision = done(of, Vec::new(), vec![put("a", n.to_string()), put("b", n.to_string())]);
        written.push((revision, n));
    }
    let gone = done(of, Vec::new(), vec![delete("a"), put("c", "x")]);
    let check = |watching: &Watching| {
        let changes = watching.changes(62);
        for (pair, (revision, n)) in changes.chunks(2).zip(&written) {
            let mut keys: Vec<_> = pair.iter().map(|c| c.key.as_str()).collect();
            keys.sort_unstable();
            assert_eq!(keys, ["a", "b"], "{changes:?}");
            let value = Some(n.to_string().into_bytes());
            assert!(pair.iter().all(|c| c.value == value && c.revision == *revision), "{changes:?}");
        }
        let mut last: Vec<_> = changes[60..].iter().map(|c| (c.key.as_str(), c.value.is_some(), c.revision)).collect();
        last.sort_unstable();
        assert_eq!(last, [("a", false, gone), ("c", true, gone)]);
    };
    check(&early);
    check(&watch(of, before));
    let late = watch(of, gone);
    let last = done(of, Vec::new(), vec![put("d", "x")]);
    assert_eq!(late.changes(1)[0].revision, last, "nothing of what was before");
    // One transaction comes as one.
    let many = (0..COORDINATOR_TXN_MAX).map(|n| put(&format!("many/{n}"), vec![b'x'; 20_000])).collect();
    done(of, Vec::new(), many);
    assert!(matches!(late.next(), WatchEvent::Changed(changes) if changes.len() == COORDINATOR_TXN_MAX));
}

pub(super) fn snapshot_and_watch_without_a_gap(world: &mut dyn World, cluster: ClusterId) {
    const COUNT: u64 = 150;
    let mut writer = world.open(cluster, PATIENT);
    let of = &mut *world.open(cluster, PATIENT);
    let write = || {
        for n in 1..=COUNT {
            done(
                writer.as_mut(),
                Vec::new(),
                vec![put("n", n.to_string()), put(&format!("key/{}", n % 7), n.to_string())],
            );
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(write);
        for _ in 0..5 {
            let from = snapshot(of);
            let number = |value: &[u8]| String::from_utf8_lossy(value).parse::<u64>().expect("a number");
            let mut n = from.keys.iter().find(|kv| kv.key == "n").map_or(0, |kv| number(&kv.value));
            let watching = watch(of, from.revision);
            while n < COUNT.min(n + 20) {
                let WatchEvent::Changed(changes) = watching.next() else { panic!("lost") };
                for change in changes.iter().filter(|change| change.key == "n") {
                    n += 1;
                    assert_eq!(number(change.value.as_deref().unwrap_or(b"0")), n, "each once, in order");
                }
                if n >= COUNT {
                    break;
                }
            }
        }
    });
}

pub(super) fn watch_goes_on_after_a_restart(world: &mut dyn World, cluster: ClusterId) {
    let of = &mut *world.open(cluster, Duration::from_secs(2));
    let from = snapshot(of).revision;
    let watching = watch(of, from);
    let mut written: Vec<u64> = (0..5).map(|n| done(of, Vec::new(), vec![put("n", n.to_string())])).collect();
    let mut seen: Vec<u64> = watching.changes(5).iter().map(|c| c.revision).collect();
    world.stop();
    assert!(matches!(watching.next(), WatchEvent::Lost(_)), "a watch does not go on in silence");
    assert!(watching.events.recv().is_err(), "`Lost` is its last word");
    world.start();
    // The first may take some tries: it is a key of its own.
    until_done(of, &[put("again", "x")]);
    assert_eq!(state(of)["n"], (b"4".to_vec(), written[4]), "what was acknowledged is there");
    written.extend((5..10).map(|n| done(of, Vec::new(), vec![put("n", n.to_string())])));
    let watching = watch(of, seen[4]);
    while seen.len() < written.len() {
        let WatchEvent::Changed(changes) = watching.next() else { panic!("lost again") };
        seen.extend(changes.iter().filter(|c| c.key == "n").map(|c| c.revision));
    }
    assert_eq!(seen, written);
}

pub(super) fn compaction(world: &mut dyn World, cluster: ClusterId) {
    let of = &mut *world.open(cluster, PATIENT);
    let old = done(of, Vec::new(), vec![put("n", "0")]);
    for n in 1..5 {
        done(of, Vec::new(), vec![put("n", n.to_string())]);
    }
    let now = snapshot(of);
    let current = watch(of, now.revision);
    world.compact(cluster);
    assert!(matches!(watch(of, old).next(), WatchEvent::Lost(_)), "a change that is forgotten is not passed over");
    assert_eq!(snapshot(of), now, "what is there is not history");
    let next = done(of, vec![at("n", now.keys[0].revision)], vec![put("n", "5")]);
    assert_eq!(current.changes(1)[0].revision, next, "who is not behind loses nothing");
}

pub(super) fn keys_go_away(world: &mut dyn World, cluster: ClusterId) {
    let ttl = Duration::from_millis(1000);
    let of = &mut *world.open(cluster, PATIENT);
    let from = snapshot(of).revision;
    let watching = watch(of, from);
    let with = |key: &str, ttl_ms| Write::Put { key: key.to_owned(), value: b"x".to_vec(), ttl_ms };
    done(of, Vec::new(), vec![with("kept", Some(1000)), with("freed", Some(1000)), with("short", Some(1000))]);
    done(of, Vec::new(), vec![put("freed", "for good")]);
    // Longer than any of them lives without being written again.
    let mut last = clock::mono();
    let end = last.after(Duration::from_secs(6));
    let mut revision = 0;
    while clock::mono() < end {
        last = clock::mono();
        revision = done(of, Vec::new(), vec![with("kept", Some(1000))]);
        std::thread::sleep(Duration::from_millis(300));
    }
    let found = state(of);
    assert_eq!(found.get("kept").map(|kv| kv.1), Some(revision), "a key that is written again stays");
    assert!(found.contains_key("freed"), "a key that was written without a time to live stays");
    assert!(!found.contains_key("short"));
    let gone = loop {
        let WatchEvent::Changed(changes) = watching.next() else { panic!("lost") };
        if let Some(change) = changes.iter().find(|c| c.key == "kept" && c.value.is_none()) {
            break change.revision;
        }
    };
    assert!(clock::mono().since_ns(last) >= u64::try_from(ttl.as_nanos()).expect("small"), "not before its time");
    assert!(gone > revision && state(of).keys().eq(["freed"]));
    // A new life after the end of the old one.
    done(of, vec![at("kept", 0)], vec![with("kept", Some(60_000))]);
    assert!(state(of).contains_key("kept"));
}
