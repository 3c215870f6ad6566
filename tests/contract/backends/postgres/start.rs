//! The row of the log at which an instance starts.

use keyward_core::fence::START_BEHIND;

use super::fresh;
use crate::world::{DAY, World, disabled};

#[tokio::test]
async fn a_start_is_at_the_first_row_of_a_short_log() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    world.update(key.id, disabled(true)).await;
    let start = world.start().await;
    assert_eq!((start.floor, start.applied), (0, 0));
    assert_eq!(world.tail(0).await.mark_at_applied, Some(start.mark));
    world.clock.pass(2 * DAY);
    world.update(key.id, disabled(false)).await;
    world.trim().await;
    let start = world.start().await;
    assert_eq!((start.floor, start.applied), (2, 2));
    assert_eq!(start.epoch, world.tail(2).await.epoch);
    assert!(start.epoch.system != 0 && start.epoch.timeline == 1);
}

/// So that an instance reads the rest of a long log in some pages, and does not jump.
#[tokio::test]
async fn a_start_is_not_further_before_the_head_than_pages_are_read() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    world.update(key.id, disabled(true)).await;
    let append = format!(
        "BEGIN;
         ALTER TABLE log_head DISABLE TRIGGER ALL; ALTER TABLE key_changes DISABLE TRIGGER ALL;
         INSERT INTO key_changes (revision, mark, key_id, kind, time)
         SELECT n, log_mark(), '{}', 'update', store_time() FROM generate_series(2, {}) AS n;
         COMMIT",
        key.id,
        START_BEHIND + 5
    );
    world.by_hand(&append).await;
    let start = world.start().await;
    assert_eq!((start.floor, start.applied), (5, 5));
    assert_eq!(world.tail(5).await.mark_at_applied, Some(start.mark));
}
