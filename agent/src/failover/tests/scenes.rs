//! Scenes: one thing at a time, step by step.

use super::MS;
use super::world::World;

#[test]
fn a_cluster_starts_and_is_in_sync() {
    let mut world = World::new(1, 3, 6, |_| {});
    world.run_for(5_000 * MS);
    assert_eq!(world.broken, None);
    for group in 0..6 {
        let record = world.record(group).expect("created");
        assert_eq!((record.epoch, record.in_sync.len()), (1, 2), "{record:?}");
        assert_eq!(world.servers(group), vec![record.active]);
    }
}
