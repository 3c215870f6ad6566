//! The store's time, which decides when a key ends and never falls.

use std::time::Duration;

use keyward_core::fence::{state_at, token_lives};
use keyward_core::key::{KeyState, Timestamp};
use keyward_store::webhooks::FORGOTTEN_AFTER;
use keyward_store::{
    AttemptOutcome, EventKind, Expiry, ListKeys, NewKey, RevokeAnswer, UpdateAnswer,
};

use crate::webhooks;
use crate::world::{DAY, HOUR, World, account, disabled, end, kill, kill_all, replace};

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
        world.raise_time_floor().await;
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
    world.raise_time_floor().await;
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
        account: Some(account("42")),
        limit: 10,
        ..ListKeys::default()
    };
    world.listed(query).await.len()
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
    world.raise_time_floor().await;
    assert_eq!(listed(&world).await, 0);
    world.clock.set_back(HOUR);
    assert_eq!(listed(&world).await, 0, "the key stays dead");
}

/// An instance that starts after the clock was corrected knows nothing of the time before.
pub(crate) async fn a_revocation_outlives_the_clock_that_it_was_made_by(world: World) {
    let before = world.start().await.database_time;
    world.clock.pass(10 * MINUTE);
    let (killed, replaced) = (world.plain("killed").await, world.plain("replaced").await);
    let (of_account, in_grace) = (world.plain("42").await, world.plain("grace").await);
    let expired = world.expired("expired").await;
    let token = world.token("bot").await;
    // Only the time says that this grace has ended, until the key is revoked again.
    let ended = world.plain("ended").await;
    world.revoke(end(ended.id, MINUTE)).await;
    world.clock.pass(MINUTE);
    world.revoke(kill(ended.id)).await;
    world.revoke(kill(killed.id)).await;
    world.replace(replaced.id).await;
    world.revoke(kill_all("42")).await;
    world.revoke(end(in_grace.id, HOUR)).await;
    world.revoke(kill(in_grace.id)).await;
    assert!(
        world
            .issue_or_get(world.plain_key("expired", "default"))
            .await
            .created
    );
    world.revoke_token(token.id).await;
    world.clock.set_back(11 * MINUTE);
    for key in [killed, replaced, of_account, in_grace, ended, expired] {
        let record = world.record(key.id).await;
        assert_eq!(state_at(&record, before), KeyState::Revoked, "{record:?}");
    }
    for token in world.tokens().await {
        assert!(!token_lives(&token, before), "{token:?}");
    }
}

/// What the time says becomes a fact, as a logged change, in bounded steps.
pub(crate) async fn an_ended_grace_becomes_a_revocation(world: World) {
    for number in 0..501 {
        let key = world
            .issue(world.plain_key("42", &number.to_string()))
            .await;
        assert_eq!(key.revision, 0);
    }
    let token = world.token("bot").await;
    let later = world.time(world.now().await.plus(HOUR).as_micros());
    for table in ["api_keys", "caller_tokens"] {
        world
            .by_hand(&format!("UPDATE {table} SET revoke_time = {later}"))
            .await;
    }
    let running = world.plain("43").await;
    world.revoke(end(running.id, HOUR + MINUTE)).await;
    let (before, head) = (world.now().await, world.head().await);
    assert_eq!(world.end_graces().await, 0);
    world.clock.pass(HOUR);
    for (ended, left) in [(501, 1), (1, 0), (0, 0)] {
        assert_eq!(world.end_graces().await, ended);
        assert_eq!(
            world
                .count("api_keys WHERE account_id = '42' AND NOT revoked")
                .await,
            left
        );
    }
    let page = world.tail(head).await;
    assert_eq!((page.head, page.rows.len()), (head + 502, 502));
    assert!(page.rows.iter().any(|row| row.id == token.id));
    let actors = world
        .read("SELECT DISTINCT actor FROM key_changes WHERE kind = 'revoke' AND actor <> 'bot'")
        .await;
    assert_eq!(actors, ["keyward"]);
    for token in world.tokens().await {
        assert!(!token_lives(&token, before), "{token:?}");
        assert_eq!(token.revoke_time, Some(before.plus(HOUR)));
    }
    let record = world.record(running.id).await;
    assert!(!record.revoked);
    assert_eq!(state_at(&record, before), KeyState::Active);
}

/// Events that were written by a clock that was ahead are due at once.
pub(crate) async fn a_lowered_time_keeps_no_event_back(world: World) {
    let hooked = async |world: &World| webhooks::name(world, "a", &[EventKind::Revoked]).await;
    hooked(&world).await;
    let expiry = Expiry::At(world.now().await.plus(HOUR));
    let new = world.plain_key("1", "default");
    let expires = world.issue(NewKey { expiry, ..new }).await;
    let (ends, later) = (world.plain("2").await, world.plain("3").await);
    world.revoke(end(ends.id, 3 * DAY)).await;
    let first = webhooks::claim_one(&world).await;
    let failed = AttemptOutcome::Failed(HOUR);
    webhooks::note(&world, &first, failed).await;
    world.clock.pass(DAY);
    world.raise_time_floor().await;
    hooked(&world).await;
    world.revoke(end(later.id, 3 * DAY)).await;
    webhooks::deliver(&world, &webhooks::claim(&world, "a").await[1]).await;
    world.clock.set_back(DAY);
    let world = world.lowered().await;
    let now = world.now().await;
    assert!(now <= first.time.plus(HOUR), "it is lowered");
    let mut told: Vec<_> = webhooks::drain(&world, "a").await;
    assert!(told.iter().all(|event| event.time <= now), "{told:?}");
    told.retain(|event| event.id != first.id);
    let mut keys: Vec<_> = told.iter().map(|event| event.key).collect();
    keys.sort_unstable();
    let mut expected = vec![expires.id, ends.id, later.id];
    expected.sort_unstable();
    assert_eq!(keys, expected, "each revocation is told at once");
    world.clock.pass(FORGOTTEN_AFTER + HOUR);
    world.store.trim_outbox().await.unwrap();
    assert_eq!(
        webhooks::status(&world).await,
        [],
        "it is forgotten in time"
    );
}
