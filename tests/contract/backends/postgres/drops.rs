//! Calls that are dropped at any point: an answered change is there, any other is complete or
//! absent, and a connection that was in the middle of a call is not used again.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use keyward_core::fence::RegistrationId;
use keyward_core::key::KeyId;
use keyward_store::{CommittedChange, NewInstance, Store};
use keyward_testkit::eventually;

use super::{STALENESS, fresh};
use crate::world::{World, actor, disabled, kill, kill_all, replace};

/// More polls than any call needs.
const ENOUGH: usize = 200;

/// Polls `call` at most `times` times, drops it, and returns the answer if there is one.
async fn polled<T>(times: usize, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    let mut left = times;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match call.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops a call after one poll, after two, and so on until it completes, on a key of its own each
/// time; `visible` tells from a fresh connection whether the call has done its work.
async fn dropped_everywhere<T>(
    world: &World,
    call: impl AsyncFn(Arc<dyn Store>, KeyId, usize) -> Option<T>,
    visible: impl AsyncFn(KeyId, usize) -> bool,
) {
    for times in 1..ENOUGH {
        let key = world.plain(&format!("{times}")).await;
        let answer = call(world.store.clone(), key.id, times).await;
        let done = visible(key.id, times).await;
        assert!(
            answer.is_none() || done,
            "answered after {times} polls, and not there"
        );
        let open = "pg_stat_activity WHERE state LIKE 'idle in transaction%'
                    AND datname = current_database()";
        eventually(
            "no transaction stays open",
            Duration::from_secs(5),
            || async { world.count(open).await == 0 },
        )
        .await;
        // The next calls of all kinds meet clean connections.
        world.update(key.id, disabled(true)).await;
        let again = world.plain(&format!("again {times}")).await;
        world.revoke(kill(again.id)).await;
        if answer.is_some() {
            return;
        }
    }
    panic!("it never completes");
}

async fn whole_log(world: &World) {
    let page = world.tail(0).await;
    assert!(page.rows.iter().map(|row| row.revision).eq(1..=page.head));
}

#[tokio::test]
async fn an_issue_that_is_dropped_leaves_a_whole_key_or_none() {
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
    whole_log(&world).await;
}

#[tokio::test]
async fn a_replace_that_is_dropped_is_made_whole_or_not_at_all() {
    let world = World::new(fresh().await).await;
    for times in 1..ENOUGH {
        let key = world.plain(&format!("{times}")).await;
        let call = replace(key.id, world.successor(), Duration::ZERO);
        let answer = polled(times, world.store.revoke(call, &actor())).await;
        if answer.is_some() {
            assert!(world.record(key.id).await.revoke_time.is_some());
            break;
        }
        // The writer brings it to its end without the caller; the same call again names the same.
        let call = replace(key.id, world.successor(), Duration::ZERO);
        let again = world.revoke(call).await;
        let of = format!("api_keys WHERE account_id = '{times}'");
        assert_eq!(world.count(&of).await, 2, "one successor");
        assert!(again.successor.is_some());
    }
    whole_log(&world).await;
}

#[tokio::test]
async fn an_update_that_is_dropped_is_made_whole_or_not_at_all() {
    let world = World::new(fresh().await).await;
    dropped_everywhere(
        &world,
        async |store, id, times| polled(times, store.update(id, disabled(true), &actor())).await,
        async |id, _| world.record(id).await.disabled,
    )
    .await;
    whole_log(&world).await;
}

#[tokio::test]
async fn a_revoke_of_an_account_that_is_dropped_is_made_whole_or_not_at_all() {
    let world = World::new(fresh().await).await;
    for times in 1..ENOUGH {
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
    whole_log(&world).await;
}

#[tokio::test]
async fn what_an_instance_says_of_itself_may_be_dropped_anywhere() {
    let world = World::new(fresh().await).await;
    for times in 1..ENOUGH {
        let registration = RegistrationId::from_bytes([u8::try_from(times).unwrap(); 16]);
        let instance = NewInstance {
            registration,
            name: String::new(),
            max_staleness: STALENESS,
            generations: Vec::new(),
        };
        let registered = polled(times, world.store.register(&instance)).await;
        let beaten = polled(times, world.store.heartbeat(registration, 0)).await;
        let confirmed = polled(
            times,
            world
                .store
                .confirm(registration, &[CommittedChange::NOTHING]),
        )
        .await;
        let listed = polled(times, world.store.membership()).await;
        // Each finds a connection of its own, or a whole one.
        world.store.tail(0).await.unwrap();
        world.store.membership().await.unwrap();
        if let Some(Ok(())) = registered {
            let row = world.store.heartbeat(registration, 0).await.unwrap();
            assert!(
                row.is_some(),
                "registered after {times} polls, and not there"
            );
        }
        let all = [beaten.is_some(), confirmed.is_some(), listed.is_some()];
        if registered.is_some() && all.iter().all(|done| *done) {
            return;
        }
    }
    panic!("they never complete");
}
