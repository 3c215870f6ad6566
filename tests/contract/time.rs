//! The store's time, which decides when a key ends and never falls.

use std::time::Duration;

use keyward_core::key::Timestamp;
use keyward_store::{Expiry, ListKeys, NewKey, RevokeAnswer, UpdateAnswer};

use crate::world::{HOUR, World, account, disabled, end, kill, replace};

const MINUTE: Duration = Duration::from_secs(60);

async fn expiring(world: &World, after: Duration) -> keyward_core::key::KeyRecord {
    let expiry = Expiry::At(world.now().await.plus(after));
    world
        .issue(NewKey {
            expiry,
            ..world.plain_key("42", "default")
        })
        .await
}

pub(crate) async fn stored_times_never_fall(world: World) {
    let mut world = world;
    let mut newest = Timestamp::default();
    let mut rises = |time: Timestamp| {
        assert!(time >= newest, "{time:?} < {newest:?}");
        newest = time;
    };
    for round in ["1", "2", "3"] {
        let key = world.plain(round).await;
        rises(key.create_time);
        rises(world.token(round).await.create_time);
        world.clock.set_back(HOUR);
        rises(world.plain(&format!("{round}, set back")).await.create_time);
        rises(world.token(round).await.create_time);
        rises(world.revoke(kill(key.id)).await.revoke_time.unwrap());
        rises(world.now().await);
        world = world.reopened().await;
        rises(world.now().await);
        rises(world.start().await.database_time);
    }
    for (table, number) in [("key_changes", "revision"), ("audit", "id")] {
        let falling = format!(
            "{table} AS earlier JOIN {table} AS later ON later.{number} = earlier.{number} + 1
             WHERE later.time < earlier.time"
        );
        assert_eq!(world.count(&falling).await, 0, "{table}");
    }
}

pub(crate) async fn time_runs_on_while_the_wall_clock_is_behind(world: World) {
    let key = expiring(&world, 10 * MINUTE).await;
    let begun = world.now().await;
    world.clock.set_back(HOUR);
    world.clock.pass(9 * MINUTE);
    world.update(key.id, disabled(true)).await;
    world.clock.pass(MINUTE);
    assert_eq!(world.now().await, begun.plus(10 * MINUTE));
    let answer = world.try_update(key.id, disabled(false)).await;
    assert!(matches!(answer, UpdateAnswer::Expired));
}

pub(crate) async fn time_runs_on_after_a_reopening_with_the_wall_clock_behind(world: World) {
    world.plain("42").await;
    let begun = world.now().await;
    world.clock.set_back(HOUR);
    let world = world.reopened().await;
    world.clock.pass(MINUTE);
    assert_eq!(world.now().await, begun.plus(MINUTE));
    assert_eq!(world.plain("43").await.create_time, begun.plus(MINUTE));
}

pub(crate) async fn a_key_found_expired_stays_expired(world: World) {
    let key = expiring(&world, HOUR).await;
    let is_expired = async || {
        let update = world.try_update(key.id, disabled(true)).await;
        let call = replace(key.id, world.successor(), Duration::ZERO);
        let revoke = world.try_revoke(call).await;
        matches!(
            (update, revoke),
            (UpdateAnswer::Expired, RevokeAnswer::Expired)
        )
    };
    world.clock.pass(HOUR);
    assert!(is_expired().await);
    world.clock.set_back(HOUR);
    assert!(is_expired().await);
    let issued = world.issue_or_get(world.plain_key("42", "default")).await;
    assert!(issued.created);
}

pub(crate) async fn a_key_expires_at_its_time(world: World) {
    let key = expiring(&world, HOUR).await;
    let issue = async || {
        let new = world.plain_key("42", "default");
        world.issue_or_get(new).await.key.record.id
    };
    let moment = Duration::from_micros(1);
    world.clock.pass(HOUR - moment);
    assert_eq!(issue().await, key.id);
    world.clock.pass(moment);
    assert_ne!(issue().await, key.id);
}

/// Counts the live keys of the account.
async fn listed(world: &World) -> usize {
    let query = ListKeys {
        account: account("42"),
        include_revoked: false,
        after: None,
        limit: 10,
    };
    world.store.list_keys(query).await.unwrap().len()
}

pub(crate) async fn a_grace_ends_at_its_time(world: World) {
    let key = world.plain("42").await;
    world.revoke(end(key.id, HOUR)).await;
    let moment = Duration::from_micros(1);
    world.clock.pass(HOUR - moment);
    assert_eq!(listed(&world).await, 1);
    world.clock.pass(moment);
    assert_eq!(listed(&world).await, 0);
}

pub(crate) async fn an_ended_grace_stays_ended(world: World) {
    let key = world.plain("42").await;
    world.revoke(end(key.id, HOUR)).await;
    world.clock.pass(HOUR);
    assert_eq!(listed(&world).await, 0);
    world.clock.set_back(HOUR);
    assert_eq!(listed(&world).await, 0, "the key stays dead");
}
