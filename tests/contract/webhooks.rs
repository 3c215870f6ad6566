//! The events for webhooks: which are written.

use std::time::Duration;

use keyward_core::key::{KeyId, KeyUse, Timestamp};
use keyward_store::webhooks::{EXPIRING_LOOKED_AT, EXPIRING_STEP, FIRST_PLACE};
use keyward_store::{
    AttemptOutcome, ClaimedEvent, EventKind, Expiry, ExpiryPlace, ExpiryStep, KeyChanges, NewKey,
    Webhook, WebhookStatus,
};

use crate::import::import;
use crate::world::{
    DAY, HOUR, World, account, actor, close, disabled, end, kill, kill_all, replace,
};

pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Names a webhook.
pub(crate) async fn name(world: &World, name: &str, events: &[EventKind]) {
    let webhook = Webhook {
        name: name.to_owned(),
        events: events.to_vec(),
    };
    world.store.name_webhooks(&[webhook]).await.unwrap();
}

pub(crate) async fn claim(world: &World, webhook: &str) -> Vec<ClaimedEvent> {
    let claimed = world.store.claim_events(webhook, 1_000, LEASE).await;
    let mut claimed = claimed.unwrap();
    claimed.sort_by_key(|event| event.id);
    claimed
}

/// Claims the only event that can be claimed.
pub(crate) async fn claim_one(world: &World) -> ClaimedEvent {
    let mut claimed = claim(world, "a").await;
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    claimed.remove(0)
}

pub(crate) async fn note(world: &World, event: &ClaimedEvent, outcome: AttemptOutcome) {
    let attempt = event.ended(outcome);
    world.store.note_attempts(&[attempt]).await.unwrap();
}

pub(crate) async fn deliver(world: &World, event: &ClaimedEvent) {
    note(world, event, AttemptOutcome::Delivered).await;
}

/// Claims and delivers all events, and returns them in the order of their delivery.
pub(crate) async fn drain(world: &World, webhook: &str) -> Vec<ClaimedEvent> {
    let mut all = Vec::new();
    loop {
        let claimed = claim(world, webhook).await;
        if claimed.is_empty() {
            return all;
        }
        for event in &claimed {
            deliver(world, event).await;
        }
        all.extend(claimed);
    }
}

/// What events tell.
pub(crate) fn told(events: &[ClaimedEvent]) -> Vec<(EventKind, KeyId, Option<Timestamp>)> {
    let told = events.iter().map(|event| (event.kind, event.key, event.at));
    told.collect()
}

pub(crate) async fn status(world: &World) -> Vec<WebhookStatus> {
    world.store.webhook_status().await.unwrap()
}

pub(crate) async fn nothing_is_written_without_a_webhook(world: World) {
    let key = world.plain("42").await;
    world.revoke(kill(key.id)).await;
    assert_eq!(status(&world).await, []);
    name(&world, "a", &EventKind::ALL).await;
    assert_eq!(claim(&world, "a").await, []);
    assert_eq!(status(&world).await[0].waiting, 0);
}

pub(crate) async fn each_webhook_gets_the_events_that_it_wants(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    name(&world, "b", &[EventKind::Revoked]).await;
    let first = world.plain("42").await;
    let successor = world.successor();
    let second = successor.id;
    world.revoke(replace(first.id, successor, HOUR)).await;
    let grace = world.record(first.id).await.revoke_time;
    world.update(second, disabled(true)).await;
    let expected = [
        (EventKind::Issued, first.id, None),
        (EventKind::Issued, second, None),
        (EventKind::Revoked, first.id, grace),
    ];
    let events = drain(&world, "a").await;
    assert_eq!(told(&events), expected);
    assert!(
        events
            .iter()
            .all(|event| event.time <= first.create_time.plus(MINUTE))
    );
    assert_eq!(told(&drain(&world, "b").await), expected[2..]);
    let ids: std::collections::BTreeSet<_> = events.iter().map(|event| event.message).collect();
    assert_eq!(ids.len(), 3, "each has an id of its own");
}

pub(crate) async fn each_new_end_of_a_key_is_told_once(world: World) {
    name(&world, "a", &[EventKind::Revoked]).await;
    let key = world.plain("42").await;
    world.revoke(end(key.id, 2 * HOUR)).await;
    let later = world.record(key.id).await.revoke_time;
    world.revoke(end(key.id, 2 * HOUR)).await;
    world.revoke(end(key.id, HOUR)).await;
    let sooner = world.record(key.id).await.revoke_time;
    assert!(sooner < later);
    world.clock.pass(HOUR + MINUTE);
    world.end_graces().await;
    assert!(world.record(key.id).await.revoked);
    world.revoke(kill(key.id)).await;
    let expected = [later, sooner].map(|at| (EventKind::Revoked, key.id, at));
    assert_eq!(told(&drain(&world, "a").await), expected);
}

pub(crate) async fn an_expired_key_that_is_replaced_is_told(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let expired = world.expired("42").await;
    let issued = world.plain("42").await;
    let events = drain(&world, "a").await;
    let kinds: Vec<_> = events.iter().map(|event| (event.key, event.kind)).collect();
    assert_eq!(events[0].at, expired.expire_time);
    assert!(kinds.contains(&(expired.id, EventKind::Revoked)));
    assert!(kinds.contains(&(issued.id, EventKind::Issued)));
}

pub(crate) async fn an_account_has_an_event_for_each_key(world: World) {
    name(&world, "a", &[EventKind::Revoked]).await;
    let mut ids = Vec::new();
    for number in 0..700 {
        let key = world.plain_key("42", &number.to_string());
        ids.push(world.issue(key).await.id);
    }
    world.plain("43").await;
    world.revoke(kill_all("42")).await;
    let mut told: Vec<_> = drain(&world, "a")
        .await
        .iter()
        .map(|event| event.key)
        .collect();
    told.sort_unstable();
    ids.sort_unstable();
    assert_eq!(told, ids);
}

pub(crate) async fn an_import_writes_no_event(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let key = world.imported_key("42", "default");
    import(&world, 1, std::slice::from_ref(&key)).await;
    assert_eq!(claim(&world, "a").await, []);
    world.revoke(kill(key.id)).await;
    assert_eq!(claim_one(&world).await.kind, EventKind::Revoked);
}

pub(crate) async fn a_change_by_hand_writes_an_event(world: World) {
    name(&world, "a", &[EventKind::Revoked]).await;
    let key = world.plain("42").await;
    let now = world.time(world.now().await.as_micros());
    let revoke = format!("UPDATE api_keys SET revoke_time = {now}");
    assert_eq!(world.by_hand(&revoke).await, 1);
    let event = claim_one(&world).await;
    assert_eq!((event.kind, event.key), (EventKind::Revoked, key.id));
}

pub(crate) async fn a_failed_change_writes_no_event(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let new = world.plain_key("42", "default");
    let twice = NewKey {
        digest: new.digest,
        ..world.plain_key("43", "default")
    };
    world.issue(new).await;
    world.store.issue(twice, &actor()).await.unwrap_err();
    assert_eq!(drain(&world, "a").await.len(), 1);
}

pub(crate) async fn a_refused_key_is_told_once_a_day(world: World) {
    name(&world, "a", &[EventKind::Refused]).await;
    let (key, other) = (world.plain("42").await, world.plain("43").await);
    let used = KeyUse {
        last_use: Some(world.now().await),
        ..KeyUse::default()
    };
    let refuse = async |id: KeyId| {
        let now = world.now().await;
        let refused = KeyUse {
            last_use: None,
            refused: 1,
            last_refused: Some(now),
        };
        world.store.note_uses(&[(id, refused)]).await.unwrap();
        now
    };
    world.store.note_uses(&[(key.id, used)]).await.unwrap();
    assert_eq!(claim(&world, "a").await, []);
    let first = refuse(key.id).await;
    refuse(key.id).await;
    refuse(other.id).await;
    world.store.note_uses(&[(key.id, used)]).await.unwrap();
    let events = drain(&world, "a").await;
    let keys: Vec<_> = events.iter().map(|event| event.key).collect();
    assert_eq!(keys, [key.id, other.id]);
    assert_eq!(events[0].at, Some(first));
    world.clock.pass(DAY);
    refuse(key.id).await;
    refuse(key.id).await;
    assert_eq!(claim_one(&world).await.key, key.id);
}

async fn note_expiring(world: &World, place: ExpiryPlace) -> ExpiryStep {
    world.store.note_expiring(7 * DAY, place).await.unwrap()
}

pub(crate) async fn a_key_that_expires_soon_is_told_once(world: World) {
    name(&world, "a", &[EventKind::Expiring]).await;
    name(&world, "b", &[EventKind::Issued]).await;
    let now = world.now().await;
    let with = async |account: &str, days: u32| {
        let expiry = Expiry::At(now.plus(days * DAY));
        let new = world.plain_key(account, "default");
        world.issue(NewKey { expiry, ..new }).await
    };
    let (soon, late, revoked) = (with("1", 3).await, with("2", 9).await, with("3", 3).await);
    world.plain("4").await;
    world.expired("5").await;
    world.revoke(kill(revoked.id)).await;
    let note = async || note_expiring(&world, FIRST_PLACE).await.noted;
    assert_eq!(note().await, 1);
    let concurrent = (0..8).map(|_| note_expiring(&world, FIRST_PLACE));
    for noted in futures_util::future::join_all(concurrent).await {
        assert_eq!(noted.noted, 0);
    }
    world.clock.pass(2 * DAY + MINUTE);
    name(&world, "a", &[EventKind::Expiring]).await;
    let concurrent = (0..8).map(|_| note_expiring(&world, FIRST_PLACE));
    let noted = futures_util::future::join_all(concurrent).await;
    assert_eq!(noted.into_iter().map(|step| step.noted).sum::<u64>(), 1);
    let expected = [&soon, &late].map(|key| (EventKind::Expiring, key.id, key.expire_time));
    assert_eq!(told(&drain(&world, "a").await), expected);
    let later = now.plus(5 * DAY);
    let changes = KeyChanges {
        expire_time: Some(Some(later)),
        ..KeyChanges::default()
    };
    world.update(soon.id, changes).await;
    assert_eq!(note().await, 1, "another expiry is another event");
    assert_eq!(claim_one(&world).await.at, Some(later));
    world.clock.pass(30 * DAY);
    world.store.trim_outbox().await.unwrap();
    assert_eq!(note().await, 0);
}

/// Another instance may have other events in its settings.
pub(crate) async fn an_expiry_waits_for_a_webhook_that_gets_it(world: World) {
    name(&world, "a", &[EventKind::Issued]).await;
    let expiry = Expiry::At(world.now().await.plus(DAY));
    let new = world.plain_key("42", "default");
    let key = world.issue(NewKey { expiry, ..new }).await;
    drain(&world, "a").await;
    assert_eq!(note_expiring(&world, FIRST_PLACE).await.noted, 0);
    name(&world, "a", &[EventKind::Expiring]).await;
    assert_eq!(note_expiring(&world, FIRST_PLACE).await.noted, 1);
    let event = claim_one(&world).await;
    assert_eq!((event.kind, event.key), (EventKind::Expiring, key.id));
}

/// Keys whose expiry was told do not make a step longer.
pub(crate) async fn a_step_looks_at_few_keys_that_expire(world: World) {
    name(&world, "a", &[EventKind::Expiring]).await;
    let now = world.now().await;
    let new = world.plain_key("42", "default");
    let expiry = Expiry::At(now.plus(DAY));
    world.issue(NewKey { expiry, ..new }).await;
    let (id, digest) = world.random_bytes();
    let more = format!(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time, expire_time)
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {EXPIRING_LOOKED_AT})
         SELECT {id}, {digest}, generation, account_id, 'more-' || n, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time, expire_time FROM api_keys, n"
    );
    world.by_hand(&more).await;
    let told =
        "INSERT INTO expiry_notices (key_id, expire_time) SELECT key_id, expire_time FROM api_keys";
    world.by_hand(told).await;
    let late = Expiry::At(now.plus(2 * DAY));
    for number in 0..EXPIRING_STEP + 1 {
        let new = world.plain_key("43", &number.to_string());
        world
            .issue(NewKey {
                expiry: late,
                ..new
            })
            .await;
    }
    let mut step = note_expiring(&world, FIRST_PLACE).await;
    assert_eq!(step.noted, 0, "it has seen told keys alone");
    assert_ne!(step.next, FIRST_PLACE);
    let mut noted = Vec::new();
    while step.next != FIRST_PLACE {
        step = note_expiring(&world, step.next).await;
        noted.push(step.noted);
    }
    assert_eq!(noted, [EXPIRING_STEP.unsigned_abs(), 1]);
}

/// The events name no account, so an erasure leaves none in them.
pub(crate) async fn an_erasure_leaves_no_account_in_events(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let key = world.plain("secret-account").await;
    world.revoke(close("secret-account", None)).await;
    let erasing = (account("secret-account"), account("erased-1"), actor());
    let done = world
        .store
        .erase_account(&erasing.0, &erasing.1, &erasing.2);
    assert!(done.await.unwrap().is_complete);
    let rows = "webhook_events WHERE webhook = 'a'";
    assert_eq!(world.count(rows).await, 2, "an erasure tells nothing");
    for column in ["webhook", "type", "state"] {
        for value in world.read(&format!("SELECT {column} FROM {rows}")).await {
            assert!(!value.contains("secret"));
        }
    }
    let event = claim_one(&world).await;
    assert_eq!(event.key, key.id);
    assert_eq!(world.record(event.key).await.account, erasing.1);
}
