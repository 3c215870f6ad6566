//! Calls that are dropped at any point. An answered change is complete, an unanswered one is complete
//! or absent, and no connection with an unfinished statement is used again.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::fence::{Position, RegistrationId};
use keyward_core::key::KeyId;
use keyward_store::{CommittedChange, NewInstance, Store};
use keyward_testkit::{PATIENCE, eventually, polled};

use super::{STALENESS, fresh};
use crate::world::{World, actor, disabled, kill, kill_all, replace};

/// More polls than any call needs.
const MAX_POLLS: usize = 200;

/// Drops a call after one poll, after two, and so on until it completes, each time with another key.
/// `visible` reads over a new connection whether the change was made.
async fn dropped_everywhere<T>(
    world: &World,
    call: impl AsyncFn(Arc<dyn Store>, KeyId, usize) -> Option<T>,
    visible: impl AsyncFn(KeyId, usize) -> bool,
) {
    for times in 1..MAX_POLLS {
        let key = world.plain(&format!("{times}")).await;
        let answer = call(world.store.clone(), key.id, times).await;
        let done = visible(key.id, times).await;
        assert!(
            answer.is_none() || done,
            "answered after {times} polls, but the change is missing"
        );
        let open = "pg_stat_activity WHERE state LIKE 'idle in transaction%'
                    AND datname = current_database()";
        eventually("no transaction stays open", PATIENCE, async || {
            world.count(open).await == 0
        })
        .await;
        // The next calls get clean connections.
        world.update(key.id, disabled(true)).await;
        let again = world.plain(&format!("again {times}")).await;
        world.revoke(kill(again.id)).await;
        if answer.is_some() {
            return;
        }
    }
    panic!("the call never completes");
}

async fn assert_whole_log(world: &World) {
    let page = world.tail(0).await;
    assert!(page.rows.iter().map(|row| row.revision).eq(1..=page.head));
}

#[tokio::test]
async fn a_dropped_issue_leaves_a_complete_key_or_none() {
    let world = World::new(fresh().await).await;
    let slot = |times: usize| format!("slot-{times}");
    dropped_everywhere(
        &world,
        async |store, _, times| {
            let new = world.plain_key("42", &slot(times));
            polled(times, store.issue(new, &actor()))
                .await
                .map(Result::unwrap)
        },
        async |_, times| {
            let of = format!(
                "api_keys WHERE account_id = '42' AND name = '{}'",
                slot(times)
            );
            world.count(&of).await == 1
        },
    )
    .await;
    let lines = "audit WHERE action = 'issue' AND account_id = '42'";
    assert_eq!(
        world.count(lines).await,
        world.count("api_keys WHERE account_id = '42'").await
    );
    assert_whole_log(&world).await;
}

#[tokio::test]
async fn a_dropped_replace_is_complete_or_absent() {
    let world = World::new(fresh().await).await;
    for times in 1..MAX_POLLS {
        let key = world.plain(&format!("{times}")).await;
        let call = replace(key.id, world.successor(), Duration::ZERO);
        let answer = polled(times, world.store.revoke(call, &actor())).await;
        if answer.is_some() {
            assert!(world.record(key.id).await.revoke_time.is_some());
            break;
        }
        // The writer completes the dropped call, so the repeated call returns the same successor.
        let call = replace(key.id, world.successor(), Duration::ZERO);
        let again = world.revoke(call).await;
        let of = format!("api_keys WHERE account_id = '{times}'");
        assert_eq!(world.count(&of).await, 2, "one successor");
        assert!(again.successor.is_some());
    }
    assert_whole_log(&world).await;
}

#[tokio::test]
async fn a_dropped_update_is_complete_or_absent() {
    let world = World::new(fresh().await).await;
    dropped_everywhere(
        &world,
        async |store, id, times| polled(times, store.update(id, disabled(true), &actor())).await,
        async |id, _| world.record(id).await.disabled,
    )
    .await;
    assert_whole_log(&world).await;
}

#[tokio::test]
async fn a_dropped_revoke_of_an_account_is_complete_or_absent() {
    let world = World::new(fresh().await).await;
    for times in 1..MAX_POLLS {
        let account = format!("account {times}");
        for name in ["a", "b", "c"] {
            world.issue(world.plain_key(&account, name)).await;
        }
        let answer = polled(times, world.store.revoke(kill_all(&account), &actor())).await;
        let live = format!("api_keys WHERE account_id = '{account}' AND revoke_time IS NULL");
        let left = world.count(&live).await;
        assert!([0, 3].contains(&left), "{left}");
        assert!(answer.is_none() || left == 0);
        world.revoke(kill_all(&account)).await;
        assert_eq!(world.count(&live).await, 0);
        if answer.is_some() {
            break;
        }
    }
    assert_whole_log(&world).await;
}

#[tokio::test]
async fn calls_of_the_cluster_may_be_dropped_anywhere() {
    let world = World::new(fresh().await).await;
    let cluster = world.cluster();
    for times in 1..MAX_POLLS {
        let registration = RegistrationId::from_bytes([u8::try_from(times).unwrap(); 16]);
        let instance = NewInstance {
            registration,
            name: String::new(),
            max_staleness: STALENESS,
            loaded: Vec::new(),
        };
        let origin = Position {
            revision: 0,
            mark: world.tail(0).await.head_mark,
        };
        let registered = polled(times, cluster.register(&instance)).await;
        let heartbeat = polled(times, cluster.heartbeat(registration, origin, 0)).await;
        let confirmed = polled(
            times,
            cluster.confirm(registration, &[CommittedChange::NOTHING], 0),
        )
        .await;
        let listed = polled(times, cluster.membership()).await;
        // The next calls get clean connections.
        world.store.tail(0).await.unwrap();
        cluster.membership().await.unwrap();
        if let Some(Ok(())) = registered {
            let row = cluster.heartbeat(registration, origin, 0).await.unwrap();
            assert!(
                row.is_some(),
                "registered after {times} polls, but the row is missing"
            );
        }
        let all = [heartbeat.is_some(), confirmed.is_some(), listed.is_some()];
        if registered.is_some() && all.iter().all(|done| *done) {
            return;
        }
    }
    panic!("the calls never complete");
}
