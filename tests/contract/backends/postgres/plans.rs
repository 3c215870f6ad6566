//! The events for webhooks on Postgres: the plans of what runs again and again.

use keyward_store::webhooks::{FIRST_PLACE, KEPT};
use keyward_store::{AttemptOutcome, EventKind, Replay, Replayed};

use super::fresh;
use crate::webhooks::{MINUTE, claim, name, note, status};
use crate::world::{DAY, HOUR, World, end, kill};

/// How often a table was read as a whole, and by an index.
async fn scans(world: &World, table: &str) -> (u64, u64) {
    let read = format!(
        "SELECT seq_scan::text || ' ' || idx_scan FROM pg_stat_user_tables WHERE relname = '{table}'"
    );
    let read = world.read(&read).await;
    let (all, index) = read[0].split_once(' ').unwrap();
    (all.parse().unwrap(), index.parse().unwrap())
}

#[tokio::test]
async fn no_table_of_webhooks_is_read_as_a_whole() {
    let world = World::new(fresh().await).await;
    let tables = ["webhook_events", "expiry_notices"];
    let mut before = Vec::new();
    for table in tables {
        before.push(scans(&world, table).await);
    }
    name(&world, "a", &EventKind::ALL).await;
    let key = world.plain("42").await;
    world.revoke(end(key.id, HOUR)).await;
    world.revoke(kill(key.id)).await;
    for outcome in [AttemptOutcome::Failed(MINUTE), AttemptOutcome::Dead] {
        let event = claim(&world, "a").await.remove(0);
        note(&world, &event, outcome).await;
        world.clock.pass(MINUTE);
    }
    for events in [Replayed::Dead, Replayed::Since(key.create_time)] {
        let replay = Replay {
            webhook: "a".to_owned(),
            events,
            until: world.now().await,
            after: 0,
        };
        world.store.replay_events(&replay).await.unwrap();
    }
    status(&world).await;
    let noted = world.store.note_expiring(7 * DAY, FIRST_PLACE).await;
    noted.unwrap();
    world.clock.pass(KEPT + HOUR);
    name(&world, "a", &EventKind::ALL).await;
    world.store.trim_outbox().await.unwrap();
    // A session reports what it has read at its end at the latest.
    world.store.close().await;
    for (table, (all, index)) in tables.into_iter().zip(before) {
        keyward_testkit::eventually(
            "the scans are counted",
            keyward_testkit::PATIENCE,
            async || scans(&world, table).await.1 > index,
        )
        .await;
        assert_eq!(scans(&world, table).await.0, all, "{table}");
    }
}
