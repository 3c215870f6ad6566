//! Rows that another session has locked: only the calls that need them wait.

use std::time::Duration;

use keyward_store::StoreError;
use keyward_testkit::{PATIENCE, eventually};
use tokio::task::JoinHandle;

use super::fresh;
use crate::world::{World, actor, at_once, disabled, kill, kill_all, replace};

/// Starts a call beside the test. The result says whether it succeeded.
macro_rules! beside {
    ($world:ident, $store:ident => $call:expr) => {{
        let $store = $world.store.clone();
        tokio::spawn(async move { $call.await.map(drop) }) as JoinHandle<Result<(), StoreError>>
    }};
}

/// Waits until the store has skipped a locked row.
pub(super) async fn has_skipped(world: &World) {
    // The revocation of an account then looks for live keys in a transaction of its own.
    let skipped = "pg_stat_activity WHERE state <> 'active' AND datname = current_database()
                   AND (query LIKE '%SKIP LOCKED%' OR query = 'ROLLBACK')";
    eventually("a call skips a locked row", PATIENCE, || async {
        world.count(skipped).await > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_delays_only_the_calls_that_change_it() {
    const OTHERS: usize = 40;
    let world = World::new(fresh().await).await;
    let mut locked = Vec::new();
    for n in 0..3 {
        locked.push(world.plain(&format!("locked-{n}")).await.id);
    }
    let (expired, token) = (world.expired("expired").await, world.token("locked").await);
    let graced = world.token("graced").await;
    let (mut others, mut tokens) = (Vec::new(), Vec::new());
    for n in 0..OTHERS {
        others.push(world.plain(&format!("other-{n}")).await.id);
        tokens.push(world.token(&format!("other-{n}")).await.id);
    }
    let mut hand = world.connect().await;
    let later = "UPDATE caller_tokens SET revoke_time = store_time() + interval '1 hour' WHERE name = 'graced'";
    hand.run(later).await.unwrap();
    hand.run("BEGIN").await.unwrap();
    for id in locked.iter().chain([&expired.id]) {
        let lock = format!(
            "SELECT FROM api_keys WHERE key_id = {} FOR UPDATE",
            world.id(*id)
        );
        hand.run(&lock).await.unwrap();
    }
    let lock = "SELECT FROM caller_tokens WHERE name IN ('locked', 'graced') FOR UPDATE";
    hand.run(lock).await.unwrap();
    // A slot that an open transaction fills.
    let insert = format!(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time)
         SELECT gen_random_uuid(), sha256('x'), generation, 'filled', name, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time FROM api_keys WHERE key_id = {}",
        world.id(expired.id)
    );
    hand.run(&insert).await.unwrap();

    let mut waiting = Vec::new();
    for id in locked {
        let successor = world.successor();
        waiting.push(beside!(world, store => store.update(id, disabled(true), &actor())));
        waiting.push(beside!(world, store => store.revoke(kill(id), &actor())));
        let call = replace(id, successor, Duration::ZERO);
        waiting.push(beside!(world, store => store.revoke(call, &actor())));
    }
    for account in ["expired", "filled"].into_iter().cycle().take(8) {
        let new = world.plain_key(account, "default");
        waiting.push(beside!(world, store => store.issue(new, &actor())));
    }
    for id in [token.id, graced.id] {
        waiting.push(beside!(world, store => store.revoke_token(id, &actor())));
    }
    has_skipped(&world).await;

    // All other changes are answered while the rows are locked.
    let answers = at_once(OTHERS, |n| {
        let (store, id, token) = (world.store.clone(), others[n], tokens[n]);
        let new = world.plain_key(&format!("new-{n}"), "default");
        async move {
            store.update(id, disabled(true), &actor()).await.map(drop)?;
            store.issue(new, &actor()).await.map(drop)?;
            store.revoke_token(token, &actor()).await.map(drop)?;
            store.revoke(kill(id), &actor()).await.map(drop)
        }
    })
    .await;
    for answer in answers {
        answer.unwrap();
    }
    assert_eq!(world.revoke(kill_all("new-1")).await.count, 1);
    assert!(waiting.iter().all(|call| !call.is_finished()));

    hand.run("COMMIT").await.unwrap();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    for account in ["expired", "filled"] {
        let live = format!("api_keys WHERE account_id = '{account}' AND revoke_time IS NULL");
        assert_eq!(world.count(&live).await, 1, "{account}");
    }
}

/// A counter that stays locked delays changes until `lock_timeout`, and no new keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_hand_that_stays_open_delays_no_new_key() {
    let world = World::new(fresh().await).await;
    let (key, other) = (world.plain("42").await, world.plain("other").await);
    let mut hand = world.connect().await;
    hand.run("BEGIN").await.unwrap();
    let change = format!(
        "UPDATE api_keys SET disabled = true WHERE key_id = {}",
        world.id(other.id)
    );
    hand.run(&change).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..12 {
        let id = world.plain(&format!("{n}")).await.id;
        waiting.push(beside!(world, store => store.update(id, disabled(true), &actor())));
    }
    waiting.push(beside!(world, store => store.revoke(kill(key.id), &actor())));
    let blocked =
        "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    eventually("changes wait for the counter", PATIENCE, || async {
        world.count(blocked).await > 2
    })
    .await;
    for n in 0..20 {
        world.plain(&format!("new-{n}")).await;
    }
    assert!(waiting.iter().all(|call| !call.is_finished()));
    for call in waiting {
        let error = call.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("lock"), "{error}");
    }
    hand.run("ROLLBACK").await.unwrap();
    assert_eq!(world.head().await, 0);
    assert_eq!(world.revoke(kill(key.id)).await.committed.revision, 1);
}
