//! Plans on Postgres: what runs again and again reads what it needs, by an index. A session plans a
//! statement once.

use keyward_core::key::{KeyId, KeyUse};
use keyward_store::webhooks::{FIRST_PLACE, KEPT};
use keyward_store::{AttemptOutcome, EventKind, Replay, Replayed};
use keyward_testkit::{PATIENCE, eventually};

use super::{SERVICE, fresh};
use crate::lists::list;
use crate::webhooks::{MINUTE, claim, name, note, status};
use crate::world::{DAY, HOUR, World, end, kill, kill_all};

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
        eventually("the scans are counted", PATIENCE, async || {
            scans(&world, table).await.1 > index
        })
        .await;
        assert_eq!(scans(&world, table).await.0, all, "{table}");
    }
}

/// The number of entries read from the indexes of `api_keys`. A session counts what it has read at its end
/// at the latest.
async fn entries_read(world: &World) -> usize {
    let read =
        "SELECT sum(idx_tup_read)::text FROM pg_stat_user_indexes WHERE relname = 'api_keys'";
    world.read(read).await[0].parse().unwrap()
}

/// A plan for a small table must not read all of it: the session keeps the plan while the table grows.
#[tokio::test]
async fn a_change_of_one_key_reads_few_others() {
    const KEYS: usize = 500;
    let world = World::new(fresh().await).await;
    let mut keys = Vec::new();
    for account in ["a", "b", "c", "d", "e"] {
        keys.push(world.plain(account).await.id);
    }
    let more = format!(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                metadata, allowed_cidrs, recoverable, sealed, create_time)
         SELECT lpad(n::text, 32, '0')::uuid, sha256(n::text::bytea), generation, 'many', 'slot-' || n,
                hint, scopes, metadata, allowed_cidrs, true, '\\x0000000201', create_time
           FROM api_keys, generate_series(1, {KEYS}) AS n WHERE key_id = {}",
        world.id(keys[0])
    );
    world.by_hand(&more).await;
    let mut hand = world.connect().await;
    hand.run("ANALYZE api_keys").await.unwrap();
    let before = entries_read(&world).await;
    world.revoke(kill(keys[0])).await;
    world.replace(keys[1]).await;
    world.revoke(end(keys[2], HOUR)).await;
    world.clock.pass(HOUR);
    assert_eq!(world.end_graces().await, 1);
    world.revoke(kill_all("d")).await;
    assert_eq!(world.listed(list("e", false)).await.len(), 1);
    // The ids of the other keys are their numbers, digit by digit.
    let last_but_one = KeyId::from_bytes(0x499_u128.to_be_bytes());
    let copies = world.store.sealed_under(2, Some(last_but_one), 10);
    assert_eq!(copies.await.unwrap().len(), 1);
    let used = KeyUse {
        last_use: Some(world.now().await),
        ..KeyUse::default()
    };
    world.store.note_uses(&[(keys[4], used)]).await.unwrap();
    world.store.close().await;
    eventually("the store's sessions have ended", PATIENCE, async || {
        let sessions = format!(
            "pg_stat_activity WHERE datname = current_database() AND usename = '{SERVICE}'"
        );
        world.count(&sessions).await == 0
    })
    .await;
    let read = entries_read(&world).await - before;
    assert!(read > 0 && read < KEYS / 2, "{read} entries");
}
