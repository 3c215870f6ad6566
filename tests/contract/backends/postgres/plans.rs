//! Plans on Postgres: what runs again and again reads what it needs, by an index. A session plans a
//! statement once.

use keyward_core::key::{KeyId, KeyState, KeyUse, SlotName};
use keyward_store::audit::AuditQuery;
use keyward_store::webhooks::FIRST_PLACE;
use keyward_store::{AttemptOutcome, EventKind, Expiry, ListKeys, NewKey, Replayed};
use keyward_testkit::{PATIENCE, eventually};

use super::{SERVICE, fresh};
use crate::erase::erase;
use crate::lists::list;
use crate::outbox::replay;
use crate::webhooks::{LEASE, claim, drain, name, note, status};
use crate::world::{DAY, HOUR, World, end, kill, kill_all};

/// The number of rows and index entries of the tables of webhooks that were read, with the names of what was
/// read. A session counts what it has read at its end at the latest.
async fn webhook_rows_read(world: &World) -> (usize, Vec<String>) {
    let reads = "FROM (SELECT indexrelname AS name, idx_tup_read AS read FROM pg_stat_user_indexes
                        WHERE relname IN ('webhook_events', 'expiry_notices')
                        UNION ALL
                       SELECT relname, seq_tup_read FROM pg_stat_user_tables
                        WHERE relname IN ('webhook_events', 'expiry_notices')) AS reads";
    let sum = world.read(&format!("SELECT sum(read)::text {reads}")).await;
    let each = format!("SELECT name || ': ' || read {reads} ORDER BY read DESC");
    (sum[0].parse().unwrap(), world.read(&each).await)
}

/// Every statement about the events and the notices, for keys of `account`. So many other events wait.
async fn use_webhooks(world: &World, account: &str, others: usize) {
    name(world, "a", &EventKind::ALL).await;
    let start = world.now().await;
    let soon = NewKey {
        expiry: Expiry::After(DAY),
        ..world.plain_key(account, "soon")
    };
    world.issue(soon).await;
    let noted = world.store.note_expiring(7 * DAY, FIRST_PLACE).await;
    assert_eq!(noted.unwrap().noted, 1);
    let key = world.plain(account).await;
    world.revoke(end(key.id, HOUR)).await;
    world.revoke(kill(key.id)).await;
    // The first event of each key.
    let claimed = claim(world, "a").await;
    assert_eq!(claimed.len(), 2);
    note(world, &claimed[0], AttemptOutcome::Failed(HOUR)).await;
    note(world, &claimed[1], AttemptOutcome::Dead).await;
    assert_eq!(claim(world, "a").await.len(), 1, "of the other key");
    let counted = &status(world).await[0];
    assert_eq!((counted.waiting, counted.dead), (4 + others as u64, 1));
    assert_eq!(replay(world, Replayed::Dead).await, 1);
    assert_eq!(replay(world, Replayed::Failing).await, 1);
    world.clock.pass(LEASE);
    let sent = drain(world, "a").await;
    assert_eq!(sent.len(), 5);
    let message = Replayed::Message(sent[1].message);
    assert_eq!(replay(world, message).await, 1);
    assert_eq!(replay(world, Replayed::Since(start)).await, 4);
    assert_eq!(drain(world, "a").await.len(), 5);
    assert_eq!(world.store.trim_outbox().await.unwrap(), 0);
}

/// The statements are planned while their tables are small, or from statistics.
async fn reads_few_of_many(others_wait: bool, is_analyzed: bool) {
    const MANY: usize = 10_000;
    let world = World::new(fresh().await).await;
    use_webhooks(&world, "1", 0).await;
    let now = world.time(world.now().await.as_micros());
    let many = format!(
        "INSERT INTO webhook_events (webhook, key_id, type, time, due, queued, state, done_time)
         SELECT 'a', gen_random_uuid(), 'key.issued', {now} - interval '1 day', {now} + interval '1 day',
                waits, CASE WHEN waits THEN 'waiting' ELSE 'delivered' END, CASE WHEN NOT waits THEN {now} END
           FROM generate_series(1, {MANY}), (SELECT {others_wait} AS waits) AS others"
    );
    world.by_hand(&many).await;
    // Keys that expire at one time, as after an import.
    let notices = format!(
        "INSERT INTO expiry_notices (key_id, expire_time)
         SELECT gen_random_uuid(), {now} + interval '1 day' FROM generate_series(1, {MANY})"
    );
    world.by_hand(&notices).await;
    if is_analyzed {
        let mut hand = world.connect().await;
        let analyze = "ANALYZE webhook_events, expiry_notices";
        hand.run(analyze).await.unwrap();
    }
    let (before, _) = webhook_rows_read(&world).await;
    let others = if others_wait { MANY } else { 0 };
    use_webhooks(&world, "2", others).await;
    close(&world).await;
    let (after, each) = webhook_rows_read(&world).await;
    // The status counts those that wait.
    let read = after - before - others;
    let case = format!("others wait: {others_wait}, analyzed: {is_analyzed}");
    assert!(read > 0 && read < MANY / 4, "{case}, {read}: {each:?}");
}

#[tokio::test]
async fn webhooks_read_few_of_many_events() {
    for others_wait in [false, true] {
        for is_analyzed in [false, true] {
            reads_few_of_many(others_wait, is_analyzed).await;
        }
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
    sessions_end(world).await;
}

/// Waits until the sessions of the store have ended.
pub(super) async fn sessions_end(world: &World) {
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
