//! Writes under contention: grouped, in the order of ids, tried again after a deadlock; and calls
//! that are dropped at any point.

use std::collections::HashSet;
use std::time::Duration;

use keyward::store::RevokeAnswer;

use super::fresh;
use crate::world::{World, actor, at_once, disabled, done, kill, kill_all, replace};

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
    assert_eq!(revisions.len(), KEYS, "each has a change of its own");
    for (revoked, id) in revoked.iter().zip(&ids) {
        assert_eq!(revoked.keys[0].id, *id, "and an answer of its own");
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

/// Whole accounts, single keys and changes by hand lock the same rows and the same counter.
#[tokio::test(flavor = "multi_thread")]
async fn writers_of_the_same_keys_all_come_to_their_end() {
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

/// A deadlock that a session by hand takes part in is broken by the server, and tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_tried_again() {
    let world = World::new(fresh().await).await;
    let (one, two) = (world.plain("1").await, world.plain("2").await);
    let mut hand = world.connect().await;
    hand.run("SET deadlock_timeout = '10s'").await.unwrap();
    hand.run("BEGIN").await.unwrap();
    // The hand holds the log's counter and wants a row; the store holds the row and wants the counter.
    let sql = |id| {
        format!(
            "UPDATE api_keys SET disabled = true WHERE key_id = {}",
            world.id(id)
        )
    };
    hand.run(&sql(one.id)).await.unwrap();
    let store = world.store.clone();
    let revoking = tokio::spawn(async move { store.revoke(kill(two.id), &actor()).await });
    let waiting = "pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database
                   WHERE datname = current_database())";
    let patience = Duration::from_secs(5);
    keyward_testkit::eventually("the revocation waits", patience, || async {
        world
            .count(
                "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
            )
            .await
            > 0
            || world.count(waiting).await > 0
    })
    .await;
    hand.run(&sql(two.id)).await.unwrap();
    hand.run("COMMIT").await.unwrap();
    let answer = revoking.await.unwrap().unwrap();
    assert!(matches!(answer, RevokeAnswer::Done(_)), "{answer:?}");
    assert!(world.record(two.id).await.revoke_time.is_some());
}
