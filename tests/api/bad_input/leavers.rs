//! Clients that disconnect during a call: acknowledged changes hold, the others are complete or
//! absent.

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_proto::v1::{State, Verdict};
use keyward_testkit::sqlite;
use sqlx::Row;
use tokio::task::JoinSet;

use super::*;

/// Asserts that the log holds every revision up to its head, and every change.
async fn assert_whole(directory: &Path) {
    let mut store = sqlite(&directory.join("keyward.db")).await;
    let counted = sqlx::query(
        "SELECT (SELECT count(*) FROM key_changes) AS rows,
                (SELECT revision FROM log_head) AS head,
                (SELECT count(*) FROM api_keys WHERE revoke_time IS NOT NULL AND NOT EXISTS
                   (SELECT 1 FROM key_changes AS log WHERE log.key_id = api_keys.key_id
                       AND log.revision = api_keys.revision AND log.kind = 'revoke')) AS unlogged,
                (SELECT count(*) FROM api_keys WHERE replaced_by IS NOT NULL AND NOT EXISTS
                   (SELECT 1 FROM api_keys AS next WHERE next.key_id = api_keys.replaced_by))
                   AS orphans",
    );
    let row = counted.fetch_one(&mut store).await.unwrap();
    let count = |name: &str| row.get::<i64, _>(name);
    assert_eq!(count("rows"), count("head") + 1, "the log has no gap");
    assert_eq!((count("unlogged"), count("orphans")), (0, 0));
}

/// Asserts that every key is consistently live or consistently revoked.
async fn assert_consistent(client: &Client, keys: &BTreeMap<String, String>) {
    for (id, key) in keys {
        let expected = match client.get(id).await.unwrap().state() {
            State::Active => Verdict::Valid,
            State::Revoked => Verdict::Revoked,
            other => panic!("{id} is {other:?}"),
        };
        assert_eq!(client.verify_strongly(key).await.unwrap(), expected);
        assert_eq!(client.verify(key).await.unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_loses_no_acknowledged_revoke() {
    let (local, client) = start().await;
    let mut keys = BTreeMap::new();
    for n in 0..200 {
        let (id, key) = client.issue("42", &format!("slot-{n}")).await.unwrap();
        keys.insert(id, key);
    }
    let leaver = local.client().await;
    let mut calls = JoinSet::new();
    for id in keys.keys().cloned() {
        let leaver = leaver.clone();
        calls.spawn(async move { leaver.revoke(&id).await.map(|_| id) });
    }
    drop(leaver);
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 50 {
        acknowledged.push(calls.join_next().await.unwrap().unwrap().unwrap());
    }
    calls.abort_all();
    while let Some(ended) = calls.join_next().await {
        // A call that was answered before its abort counts as well.
        acknowledged.extend(ended.ok().map(Result::unwrap));
    }
    for id in &acknowledged {
        assert_eq!(client.verify(&keys[id]).await.unwrap(), Verdict::Revoked);
        assert_eq!(
            client.verify_strongly(&keys[id]).await.unwrap(),
            Verdict::Revoked
        );
        assert_eq!(client.get(id).await.unwrap().state(), State::Revoked);
    }

    let local = local.restart().await;
    let client = local.client().await;
    for id in &acknowledged {
        assert_eq!(client.verify(&keys[id]).await.unwrap(), Verdict::Revoked);
    }
    assert_consistent(&client, &keys).await;
    assert_whole(local.directory.path()).await;
    local.app.stop().await;
}

/// Drops a call after a growing delay, so that the drop falls between any two of its steps.
async fn dropped_after<T>(step: u32, call: impl Future<Output = T>) -> Option<T> {
    let while_ = Duration::from_micros(40 * u64::from(step));
    tokio::time::timeout(while_, call).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_dropped_at_any_point_is_done_or_not_and_spoils_no_other() {
    let (local, client) = start().await;
    let mut keys = BTreeMap::new();
    let mut revoked = Vec::new();
    for step in 0..150 {
        let slot = format!("slot-{step}");
        let issued = dropped_after(step, client.issue("issued", &slot)).await;
        if let Some(issued) = issued {
            let (id, key) = issued.unwrap();
            keys.insert(id, key);
        }
        let (id, key) = client.issue("revoked", &slot).await.unwrap();
        let outcome = dropped_after(step, client.send(replacing(&id))).await;
        if let Some(outcome) = outcome {
            let reply = outcome.unwrap();
            let successor = reply.replacement.unwrap().key_id;
            keys.insert(successor, reply.api_key);
            revoked.push(key.clone());
        }
        keys.insert(id, key);
        // A dropped call neither swallows nor undoes the next ones.
        let (id, key) = client.issue("next", &slot).await.unwrap();
        client.revoke(&id).await.unwrap();
        revoked.push(key.clone());
        keys.insert(id, key);
    }
    let local = local.restart().await;
    let client = local.client().await;
    for key in &revoked {
        assert_eq!(client.verify(key).await.unwrap(), Verdict::Revoked);
    }
    assert_consistent(&client, &keys).await;
    assert_whole(local.directory.path()).await;
    local.app.stop().await;
}
