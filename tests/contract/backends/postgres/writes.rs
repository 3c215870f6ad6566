//! Writes under contention: batched, locked in the order of ids, retried after a deadlock.

use std::collections::HashSet;
use std::time::Duration;

use keyward_store::{RevokeAnswer, StoreError};
use keyward_testkit::{PATIENCE, eventually};
use tokio::task::JoinHandle;

use super::fresh;
use super::locks::has_skipped;
use super::plans::sessions_end;
use crate::world::{
    DAY, HOUR, World, actor, at_once, disabled, done, end, kill, kill_all, replace,
};

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_revocations_share_transactions() {
    const KEYS: usize = 128;
    let world = World::new(fresh().await).await;
    let mut ids = Vec::new();
    for number in 0..KEYS {
        ids.push(world.plain(&number.to_string()).await.id);
    }
    let revoked = at_once(KEYS, |n| {
        let (store, id) = (world.store.clone(), ids[n]);
        async move { done(store.revoke(kill(id), &actor()).await.unwrap()) }
    })
    .await;
    let revisions: HashSet<u64> = revoked.iter().map(|r| r.committed.revision).collect();
    assert_eq!(revisions.len(), KEYS, "each key has its own change");
    for (revoked, id) in revoked.iter().zip(&ids) {
        assert_eq!(
            revoked.keys[0].id, *id,
            "each call gets the answer for its key"
        );
        assert_eq!(revoked.committed.id, Some(*id));
    }
    let transactions = world
        .read("SELECT DISTINCT xmin::text FROM key_changes WHERE revision > 0")
        .await;
    assert!(transactions.len() < KEYS / 4, "{}", transactions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_revocation_that_cannot_be_written_fails_alone() {
    let world = World::new(fresh().await).await;
    let taken = world.plain("taken").await;
    let mut ids = Vec::new();
    for number in 0..16 {
        ids.push(world.plain(&number.to_string()).await.id);
    }
    let answers = at_once(16, |n| {
        let (store, id) = (world.store.clone(), ids[n]);
        let mut successor = world.successor();
        if n == 7 {
            successor.id = taken.id;
        }
        async move {
            let call = replace(id, successor, Duration::ZERO);
            store.revoke(call, &actor()).await.is_ok()
        }
    })
    .await;
    for (n, answered) in answers.into_iter().enumerate() {
        assert_eq!(answered, n != 7, "{n}");
        let dead = world.record(ids[n]).await.revoke_time.is_some();
        assert_eq!(dead, n != 7, "{n}");
    }
}

/// Revocations of accounts and of single keys and updates lock the same rows and the same counter.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_of_the_same_keys_all_finish() {
    let world = World::new(fresh().await).await;
    let mut ids = Vec::new();
    for number in 0..24 {
        let slot = format!("slot-{number}");
        ids.push(world.issue(world.plain_key("42", &slot)).await.id);
    }
    let answers = at_once(72, |n| {
        let (store, id) = (world.store.clone(), ids[n % 24]);
        async move {
            match n % 3 {
                0 => store
                    .update(id, disabled(n % 2 == 0), &actor())
                    .await
                    .is_ok(),
                1 => store.revoke(kill(id), &actor()).await.is_ok(),
                _ => store.revoke(kill_all("42"), &actor()).await.is_ok(),
            }
        }
    })
    .await;
    assert!(answers.into_iter().all(|answered| answered));
    let page = world.tail(0).await;
    assert!(page.rows.iter().map(|row| row.revision).eq(1..=page.head));
    assert_eq!(world.count("api_keys WHERE revoke_time IS NULL").await, 0);
}

/// Waits until a statement of the store waits for a lock.
async fn waits_for_a_lock(world: &World) {
    let waiting = "pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()";
    eventually("a call waits", PATIENCE, || async {
        world.count(waiting).await > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_changed_meanwhile_is_planned_again() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    let mut hand = world.connect().await;
    // The call reads the key, and then waits for the audit.
    hand.run("BEGIN").await.unwrap();
    hand.run("LOCK TABLE audit IN EXCLUSIVE MODE")
        .await
        .unwrap();
    let store = world.store.clone();
    let call = end(key.id, DAY);
    let revoking = tokio::spawn(async move { store.revoke(call, &actor()).await });
    waits_for_a_lock(&world).await;
    // Earlier than the grace of the call, which must not lengthen it.
    let earlier = format!(
        "UPDATE api_keys SET revoke_time = create_time + interval '1 hour' WHERE key_id = {}",
        world.id(key.id)
    );
    world.by_hand(&earlier).await;
    hand.run("COMMIT").await.unwrap();
    let revoked = done(revoking.await.unwrap().unwrap());
    assert_eq!(revoked.revoke_time, Some(key.create_time.plus(HOUR)));
    assert_eq!(revoked.committed.revision, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_created_meanwhile_is_revoked_with_its_account() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    let (id, new) = (world.id(key.id), world.bytes(&[5; 16]));
    let digest = world.bytes(&[5; 32]);
    let mut hand = world.connect().await;
    for sql in [
        "BEGIN".to_owned(),
        format!(
            "UPDATE api_keys SET revoke_time = create_time, replaced_by = {new} WHERE key_id = {id}"
        ),
        format!(
            "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                    metadata, allowed_cidrs, recoverable, create_time)
             SELECT {new}, {digest}, generation, account_id, name, hint, scopes, metadata,
                    allowed_cidrs, recoverable, create_time FROM api_keys WHERE key_id = {id}"
        ),
    ] {
        hand.run(&sql).await.unwrap();
    }
    let store = world.store.clone();
    let revoking = tokio::spawn(async move { store.revoke(kill_all("42"), &actor()).await });
    has_skipped(&world).await;
    hand.run("COMMIT").await.unwrap();
    let revoked = done(revoking.await.unwrap().unwrap());
    assert_eq!(revoked.count, 1, "the successor");
    assert_eq!(world.count("api_keys WHERE revoke_time IS NULL").await, 0);
    assert_eq!(revoked.committed.revision, 2);
}

/// A key that another transaction has locked delays neither the rest of its account nor other calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_account_is_revoked_in_steps_that_skip_locked_keys() {
    let world = World::new(fresh().await).await;
    let (key, other) = (world.plain("42").await, world.plain("other").await);
    let id = world.id(key.id);
    let more = format!(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                metadata, allowed_cidrs, recoverable, create_time)
         SELECT gen_random_uuid(), sha256(n::text::bytea), generation, account_id, 'slot-' || n,
                hint, scopes, metadata, allowed_cidrs, recoverable, create_time
           FROM api_keys, generate_series(1, 1200) AS n WHERE key_id = {id}"
    );
    assert_eq!(world.by_hand(&more).await, 1_200);
    let mut hand = world.connect().await;
    hand.run("BEGIN").await.unwrap();
    let lock = format!("SELECT FROM api_keys WHERE key_id = {id} FOR UPDATE");
    hand.run(&lock).await.unwrap();
    let store = world.store.clone();
    let revoking = tokio::spawn(async move { store.revoke(kill_all("42"), &actor()).await });
    has_skipped(&world).await;
    let live = "api_keys WHERE revoke_time IS NULL AND account_id = '42'";
    eventually("the other keys are dead", PATIENCE, || async {
        world.count(live).await == 1
    })
    .await;
    assert!(!revoking.is_finished());
    assert_eq!(world.revoke(kill(other.id)).await.count, 1);
    hand.run("COMMIT").await.unwrap();
    let revoked = done(revoking.await.unwrap().unwrap());
    assert_eq!((revoked.count, revoked.keys.len()), (1_201, 100));
    assert_eq!(world.count(live).await, 0);
    assert_eq!(revoked.committed.id, Some(key.id), "the last change");
    let transactions = world
        .read("SELECT DISTINCT xmin::text FROM key_changes WHERE revision > 0")
        .await;
    assert_eq!(
        transactions.len(),
        3 + 1 + 1,
        "steps, the other key, the locked key"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_retried() {
    let world = World::new(fresh().await).await;
    let (one, two) = (world.plain("1").await, world.plain("2").await);
    let mut hand = world.connect().await;
    hand.run("SET deadlock_timeout = '10s'").await.unwrap();
    hand.run("BEGIN").await.unwrap();
    // The manual session locks the log's counter and waits for a row. The store locks that row and
    // waits for the counter.
    let sql = |id| {
        format!(
            "UPDATE api_keys SET disabled = true WHERE key_id = {}",
            world.id(id)
        )
    };
    hand.run(&sql(one.id)).await.unwrap();
    let store = world.store.clone();
    let revoking = tokio::spawn(async move { store.revoke(kill(two.id), &actor()).await });
    waits_for_a_lock(&world).await;
    hand.run(&sql(two.id)).await.unwrap();
    hand.run("COMMIT").await.unwrap();
    let answer = revoking.await.unwrap().unwrap();
    assert!(matches!(answer, RevokeAnswer::Done(_)), "{answer:?}");
    assert!(world.record(two.id).await.revoke_time.is_some());
}

/// A task that the store needs is missed when it ends: without it, calls would fail for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_panics_is_missed() {
    let backend = fresh().await;
    let tasks = backend.tasks.clone();
    let world = World::new(backend).await;
    let key = world.plain("42").await;
    // It runs in the writer, after the commit.
    let cluster = world.cluster();
    cluster.set_on_commit(Box::new(|| panic!("planted\nsecond line")));
    let answer = world.store.revoke(kill(key.id), &actor()).await;
    assert!(
        matches!(answer, Err(StoreError::OutcomeUnknown(_))),
        "{answer:?}"
    );
    let ended = tokio::time::timeout(PATIENCE, tasks.ended()).await.unwrap();
    let expected = "the task 'writer of revocations' panicked: planted";
    assert_eq!(ended.to_string(), expected);
    assert!(world.record(key.id).await.revoke_time.is_some());
}

/// Revokes a key in a call that hangs for some seconds, and returns when it hangs.
async fn hanging(world: &World) -> JoinHandle<Result<RevokeAnswer, StoreError>> {
    let key = world.plain("slow").await.id;
    let function = "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(6); RETURN NEW; END'";
    world.by_hand(function).await;
    let trigger = format!(
        "CREATE TRIGGER hang BEFORE UPDATE ON api_keys FOR EACH ROW
             WHEN (OLD.key_id = '{key}') EXECUTE FUNCTION hang()"
    );
    world.by_hand(&trigger).await;
    let store = world.store.clone();
    let hanging = tokio::spawn(async move { store.revoke(kill(key), &actor()).await });
    let hangs = "pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually("the call hangs", PATIENCE, || async {
        world.count(hangs).await > 0
    })
    .await;
    hanging
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_hangs_does_not_hold_up_others_for_long() {
    let world = World::new(fresh().await).await;
    let key = world.plain("other").await;
    let hanging = hanging(&world).await;
    done(world.store.revoke(kill(key.id), &actor()).await.unwrap());
    assert!(!hanging.is_finished(), "the second waited for the first");
    done(hanging.await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ends_after_the_close_leaves_no_session() {
    let world = World::new(fresh().await).await;
    let hanging = hanging(&world).await;
    world.store.close().await;
    // What it reads after its commit may need another connection.
    let _ = hanging.await.unwrap();
    sessions_end(&world).await;
}

/// The server refuses notices while their queue is full, too.
#[tokio::test]
async fn a_revocation_is_answered_although_its_notice_is_refused() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    world
        .by_hand("REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC")
        .await;
    let revoked = world.revoke(kill(key.id)).await;
    assert_eq!(revoked.committed.revision, 1);
    assert!(revoked.keys[0].revoke_time.is_some());
}
