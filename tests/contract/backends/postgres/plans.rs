//! Plans on Postgres: what runs again and again reads what it needs, by an index. A session plans a
//! statement once.

use keyward_core::key::{KeyId, KeyState, KeyUse, SlotName};
use keyward_store::audit::AuditQuery;
use keyward_store::webhooks::{FIRST_PLACE, KEPT};
use keyward_store::{AttemptOutcome, EventKind, ListKeys, Replay, Replayed};
use keyward_testkit::{PATIENCE, eventually};

use super::{SERVICE, fresh};
use crate::erase::erase;
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

/// The number of keys and events of the audit that were read by indexes. A session counts what it has read at
/// its end at the latest.
async fn rows_read(world: &World) -> usize {
    let read = "SELECT sum(idx_tup_read + idx_tup_fetch)::text FROM pg_stat_user_indexes
                 WHERE relname IN ('api_keys', 'audit')";
    world.read(read).await[0].parse().unwrap()
}

/// Closes the store, and waits until all that its sessions have read is counted.
async fn close(world: &World) {
    world.store.close().await;
    let sessions =
        format!("pg_stat_activity WHERE datname = current_database() AND usename = '{SERVICE}'");
    eventually("the store's sessions have ended", PATIENCE, async || {
        world.count(&sessions).await == 0
    })
    .await;
}

/// Adds so many keys of the account `many`, each a copy of `of`. The ids are their numbers, digit by digit.
async fn add(world: &World, of: KeyId, count: usize) {
    let more = format!(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                metadata, allowed_cidrs, recoverable, sealed, create_time)
         SELECT lpad(n::text, 32, '0')::uuid, sha256(n::text::bytea), generation, 'many', 'slot-' || n,
                hint, scopes, metadata, allowed_cidrs, true, '\\x0000000201', create_time
           FROM api_keys, generate_series(1, {count}) AS n WHERE key_id = {}",
        world.id(of)
    );
    world.by_hand(&more).await;
}

/// Changes one key in each way, erases an account, lists one, and reads its audit.
async fn change(world: &World) {
    let mut keys = Vec::new();
    for account in ["a", "b", "c", "d", "e"] {
        keys.push(world.plain(account).await.id);
    }
    world.revoke(kill(keys[0])).await;
    world.replace(keys[1]).await;
    world.revoke(end(keys[2], HOUR)).await;
    world.clock.pass(HOUR);
    assert_eq!(world.end_graces().await, 1);
    world.revoke(kill_all("d")).await;
    assert!(erase(world, "d", "erased").await.is_complete);
    assert_eq!(world.listed(list("e", false)).await.len(), 1);
    let query = AuditQuery {
        account: Some("e".to_owned()),
        limit: 10,
        ..AuditQuery::default()
    };
    let events = world.store.list_events(&query).await.unwrap().events;
    assert!(!events.is_empty());
    let used = KeyUse {
        last_use: Some(world.now().await),
        ..KeyUse::default()
    };
    world.store.note_uses(&[(keys[4], used)]).await.unwrap();
    world.revoke(kill(keys[4])).await;
    world.revoke(kill_all("b")).await;
}

#[tokio::test]
async fn a_change_of_one_key_reads_few_others() {
    const KEYS: usize = 500;
    let world = World::new(fresh().await).await;
    let first = world.plain("first").await.id;
    add(&world, first, KEYS).await;
    let events = format!(
        "INSERT INTO audit (actor, action, account_id)
         SELECT 'somebody', 'issue', 'many' FROM generate_series(1, {KEYS})"
    );
    world.by_hand(&events).await;
    world.by_hand("ANALYZE api_keys, audit").await;
    let before = rows_read(&world).await;
    change(&world).await;
    // The last copy but one.
    let after = KeyId::from_bytes(0x499_u128.to_be_bytes());
    let copies = world.store.sealed_under(2, Some(after), 10);
    assert_eq!(copies.await.unwrap().len(), 1);
    close(&world).await;
    let read = rows_read(&world).await - before;
    assert!(read > 0 && read < KEYS / 2, "{read} rows");
}

#[tokio::test]
async fn a_list_of_one_account_reads_its_keys_alone() {
    const KEYS: usize = 20_000;
    let world = World::new(fresh().await).await;
    let first = world.plain("few").await.id;
    add(&world, first, KEYS).await;
    // Of the many keys, so many are in each state that a page could end with them.
    let change = "UPDATE api_keys SET disabled = (key_id::text LIKE '%1'),
            expire_time = CASE WHEN key_id::text LIKE '%2' THEN create_time + interval '1 second' END,
            revoke_time = CASE WHEN key_id::text LIKE '%3' THEN create_time END
          WHERE account_id = 'many'";
    world.by_hand(change).await;
    world.by_hand("ANALYZE api_keys").await;
    let before = rows_read(&world).await;
    let states = [
        KeyState::Active,
        KeyState::Disabled,
        KeyState::Expired,
        KeyState::Revoked,
    ];
    for state in states.map(Some).into_iter().chain([None]) {
        for prefix in [None, Some("slot"), Some("main")] {
            let query = ListKeys {
                state,
                name_prefix: prefix.map(|text| SlotName::new("name", text.to_owned()).unwrap()),
                unused_for: Some(HOUR),
                ..list("few", true)
            };
            assert_eq!(
                world.store.list_keys(query).await.unwrap().examined_to,
                None
            );
        }
    }
    close(&world).await;
    let read = rows_read(&world).await - before;
    assert!(read > 0 && read < 100, "{read} rows");
}
