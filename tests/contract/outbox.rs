//! The events for webhooks: in which order they are claimed, and what becomes of them.

use keyward_store::webhooks::{FORGOTTEN_AFTER, KEPT, TRIM_STEP};
use keyward_store::{
    AttemptOutcome, ClaimedEvent, EventKind, EventPlace, Replay, Replayed, WebhookStatus,
};

use crate::webhooks::{LEASE, MINUTE, claim, claim_one, deliver, drain, name, note, status, told};
use crate::world::{DAY, HOUR, World, end, kill, kill_all};

pub(crate) async fn replay(world: &World, events: Replayed) -> usize {
    replay_after(world, events, EventPlace::default())
        .await
        .len()
}

/// Replays events behind `after`, and returns their places.
async fn replay_after(world: &World, events: Replayed, after: EventPlace) -> Vec<EventPlace> {
    let replay = Replay {
        webhook: "a".to_owned(),
        events,
        until: world.now().await,
        after,
    };
    world.store.replay_events(&replay).await.unwrap()
}

pub(crate) async fn an_event_waits_for_the_one_before_it(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let key = world.plain("42").await;
    world.revoke(end(key.id, HOUR)).await;
    world.revoke(kill(key.id)).await;
    let other = world.plain("43").await;
    let claimed = claim(&world, "a").await;
    let keys: Vec<_> = claimed.iter().map(|event| event.key).collect();
    assert_eq!(keys, [key.id, other.id]);
    assert_eq!(claim(&world, "a").await, [], "both are leased");
    deliver(&world, &claimed[1]).await;
    note(&world, &claimed[0], AttemptOutcome::Failed(MINUTE)).await;
    assert_eq!(claim(&world, "a").await, [], "the first one has a pause");
    world.clock.pass(MINUTE);
    let again = claim_one(&world).await;
    assert_eq!(
        (again.id, again.message),
        (claimed[0].id, claimed[0].message)
    );
    assert_eq!((again.failures, again.claims), (1, 2));
    deliver(&world, &again).await;
    let second = claim_one(&world).await;
    assert_eq!(second.kind, EventKind::Revoked);
    note(&world, &second, AttemptOutcome::Dead).await;
    let third = claim_one(&world).await;
    assert!(third.at < second.at, "a dead event blocks nothing");
    deliver(&world, &third).await;
    assert_eq!(claim(&world, "a").await, []);
}

/// Many events that wait for others do not hide those that are free.
pub(crate) async fn events_that_wait_hide_no_others(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    for number in 0..300 {
        let key = world.plain_key("42", &number.to_string());
        world.issue(key).await;
    }
    let mut stuck = Vec::new();
    while stuck.len() < 300 {
        stuck.extend(claim(&world, "a").await);
    }
    world.revoke(kill_all("42")).await;
    let free = world.plain("43").await;
    let mut found = Vec::new();
    for _ in 0..10 {
        found.extend(claim(&world, "a").await);
    }
    assert_eq!(told(&found), [(EventKind::Issued, free.id, None)]);
    for event in &stuck {
        deliver(&world, event).await;
    }
    assert_eq!(drain(&world, "a").await.len(), 300, "none waits for long");
}

pub(crate) async fn concurrent_claims_take_different_events(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    for number in 0..60 {
        let key = world.plain_key("42", &number.to_string());
        world.issue(key).await;
    }
    let mut stores = vec![world.store.clone()];
    if world.store.cluster().is_some() {
        stores.extend([world.another().await, world.another().await]);
    }
    let mut ids = Vec::new();
    while ids.len() < 60 {
        let calls = stores.iter().cycle().take(9);
        let claims = calls.map(|store| store.claim_events("a", 4, LEASE));
        let before = ids.len();
        for claimed in futures_util::future::join_all(claims).await {
            let claimed = claimed.unwrap();
            assert!(claimed.len() <= 4);
            ids.extend(claimed.iter().map(|event| event.id));
        }
        assert!(ids.len() > before);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 60);
}

pub(crate) async fn a_claim_without_an_end_is_taken_over(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let key = world.plain("42").await;
    world.revoke(kill(key.id)).await;
    let lost = claim_one(&world).await;
    world.clock.pass(LEASE);
    let taken = claim_one(&world).await;
    assert_eq!((taken.id, taken.message), (lost.id, lost.message));
    assert_eq!((taken.claims, taken.failures), (2, 0));
    note(&world, &lost, AttemptOutcome::Failed(HOUR)).await;
    note(&world, &lost, AttemptOutcome::Dead).await;
    note(&world, &taken, AttemptOutcome::Failed(MINUTE)).await;
    world.clock.pass(MINUTE);
    let third = claim_one(&world).await;
    assert_eq!(
        third.failures, 1,
        "a failure after the lease does not count"
    );
    deliver(&world, &lost).await;
    assert_eq!(
        claim_one(&world).await.kind,
        EventKind::Revoked,
        "a success does"
    );
    note(&world, &third, AttemptOutcome::Failed(MINUTE)).await;
    world.clock.pass(MINUTE);
    assert_eq!(claim_one(&world).await.kind, EventKind::Revoked);
}

pub(crate) async fn waiting_events_survive_a_reopening(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let key = world.plain("42").await;
    let lost = claim_one(&world).await;
    world.revoke(kill(key.id)).await;
    let world = world.abandoned_and_reopened().await;
    assert_eq!(claim(&world, "a").await, []);
    world.clock.pass(LEASE);
    assert_eq!(claim(&world, "a").await[0].message, lost.message);
    deliver(&world, &lost).await;
    assert_eq!(claim_one(&world).await.kind, EventKind::Revoked);
}

pub(crate) async fn the_status_tells_what_waits(world: World) {
    name(&world, "b", &[EventKind::Revoked]).await;
    name(&world, "a", &[EventKind::Issued]).await;
    let (first, second) = (world.plain("42").await, world.plain("43").await);
    world.clock.pass(HOUR);
    world.plain("44").await;
    let claimed = claim(&world, "a").await;
    note(&world, &claimed[0], AttemptOutcome::Dead).await;
    let of = |events: &[WebhookStatus]| {
        let of = events.iter().map(|status| {
            let name = status.webhook.name.clone();
            (name, status.waiting, status.dead, status.oldest)
        });
        of.collect::<Vec<_>>()
    };
    assert!(first.create_time <= second.create_time);
    let expected = [
        ("a".to_owned(), 2, 1, Some(claimed[1].time)),
        ("b".to_owned(), 0, 0, None),
    ];
    assert_eq!(of(&status(&world).await), expected);
    name(&world, "b", &[EventKind::Refused, EventKind::Issued]).await;
    let named = status(&world).await[1].webhook.events.clone();
    assert_eq!(named, [EventKind::Refused, EventKind::Issued]);
}

pub(crate) async fn dead_events_are_replayed(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let keys = [
        world.plain("1").await,
        world.plain("2").await,
        world.plain("3").await,
    ];
    let claimed = claim(&world, "a").await;
    note(&world, &claimed[0], AttemptOutcome::Dead).await;
    note(&world, &claimed[1], AttemptOutcome::Failed(HOUR)).await;
    deliver(&world, &claimed[2]).await;
    assert_eq!(replay(&world, Replayed::Dead).await, 1);
    assert_eq!(replay(&world, Replayed::Failing).await, 1);
    let again = claim(&world, "a").await;
    let ids: Vec<_> = again
        .iter()
        .map(|event| (event.message, event.failures))
        .collect();
    assert_eq!(ids, [(claimed[0].message, 0), (claimed[1].message, 0)]);
    for event in &again {
        deliver(&world, event).await;
    }
    assert_eq!(replay(&world, Replayed::Dead).await, 0);
    assert_eq!(replay(&world, Replayed::Failing).await, 0);
    assert_eq!(
        replay(&world, Replayed::Message(claimed[1].message)).await,
        1
    );
    assert_eq!(claim_one(&world).await.key, keys[1].id);
    world.clock.pass(HOUR);
    let start = world.now().await;
    assert_eq!(replay(&world, Replayed::Since(start)).await, 0);
    world.plain("4").await;
    drain(&world, "a").await;
    assert_eq!(replay(&world, Replayed::Since(start)).await, 1);
    assert_eq!(replay(&world, Replayed::Message([7; 16])).await, 0);
}

pub(crate) async fn a_replay_begins_after_an_event(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let start = world.now().await;
    for account in ["1", "2", "3"] {
        world.plain(account).await;
    }
    let events = drain(&world, "a").await;
    let since = Replayed::Since(start);
    let places = events.iter().map(|event| (event.time, event.id));
    let places: Vec<_> = places.collect();
    let mut replayed = replay_after(&world, since, places[0]).await;
    replayed.sort_unstable();
    assert_eq!(replayed, places[1..]);
}

pub(crate) async fn a_replay_makes_earlier_claims_void(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    world.plain("42").await;
    let old = claim_one(&world).await;
    let message = Replayed::Message(old.message);
    assert_eq!(replay(&world, message).await, 1);
    note(&world, &old, AttemptOutcome::Dead).await;
    note(&world, &old, AttemptOutcome::Gone).await;
    assert!(!status(&world).await[0].is_gone);
    let new = claim_one(&world).await;
    assert_eq!((new.id, new.failures), (old.id, 0));
}

/// Behind a replayed event that is delivered, the next one about its key is due at once. One that is being sent
/// meanwhile stays claimed.
pub(crate) async fn replayed_events_wait_only_for_each_other(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let start = world.now().await;
    let key = world.plain("42").await;
    world.revoke(kill(key.id)).await;
    let sent = drain(&world, "a").await;
    assert_eq!(told(&sent).len(), 2);
    let follows = async |first: &ClaimedEvent| {
        assert_eq!(first.id, sent[0].id);
        assert_eq!(claim(&world, "a").await, [], "the other one waits");
        deliver(&world, first).await;
        let second = claim_one(&world).await;
        assert_eq!(second.id, sent[1].id);
        deliver(&world, &second).await;
    };
    assert_eq!(replay(&world, Replayed::Since(start)).await, 2);
    follows(&claim_one(&world).await).await;

    // The first one fails, and is replayed while the second one waits for it.
    assert_eq!(replay(&world, Replayed::Since(start)).await, 2);
    note(
        &world,
        &claim_one(&world).await,
        AttemptOutcome::Failed(HOUR),
    )
    .await;
    assert_eq!(claim(&world, "a").await, [], "the other one waits");
    assert_eq!(replay(&world, Replayed::Failing).await, 1);
    follows(&claim_one(&world).await).await;

    // The second one is being sent when the first one is replayed.
    assert_eq!(replay(&world, Replayed::Message(sent[1].message)).await, 1);
    let second = claim_one(&world).await;
    assert_eq!(replay(&world, Replayed::Message(sent[0].message)).await, 1);
    deliver(&world, &claim_one(&world).await).await;
    assert_eq!(claim(&world, "a").await, [], "it is still claimed");
    deliver(&world, &second).await;
}

pub(crate) async fn an_attempt_that_is_noted_twice_counts_once(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    world.plain("42").await;
    let event = claim_one(&world).await;
    note(&world, &event, AttemptOutcome::Failed(MINUTE)).await;
    note(&world, &event, AttemptOutcome::Failed(MINUTE)).await;
    world.clock.pass(MINUTE);
    assert_eq!(claim_one(&world).await.failures, 1);
}

pub(crate) async fn an_event_that_waits_for_too_long_is_dead(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    let key = world.plain("42").await;
    let event = claim_one(&world).await;
    note(&world, &event, AttemptOutcome::Failed(KEPT + DAY)).await;
    world.clock.pass(DAY);
    name(&world, "a", &EventKind::ALL).await;
    world.revoke(kill(key.id)).await;
    assert_eq!(claim(&world, "a").await, []);
    world.clock.pass(KEPT - DAY);
    name(&world, "a", &EventKind::ALL).await;
    assert_eq!(world.store.trim_outbox().await.unwrap(), 0);
    world.clock.pass(MINUTE);
    assert_eq!(world.store.trim_outbox().await.unwrap(), 1);
    let left = &status(&world).await[0];
    assert_eq!((left.waiting, left.dead), (1, 1));
    assert_eq!(claim_one(&world).await.kind, EventKind::Revoked);
    world.clock.pass(KEPT - HOUR);
    name(&world, "a", &EventKind::ALL).await;
    world.store.trim_outbox().await.unwrap();
    assert_eq!(status(&world).await[0].dead, 2, "it is kept like others");
}

pub(crate) async fn old_notices_are_trimmed_in_steps(world: World) {
    let old = world.time(world.now().await.as_micros());
    let (id, _) = world.random_bytes();
    let insert = format!(
        "INSERT INTO expiry_notices (key_id, expire_time)
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 25000)
         SELECT {id}, {old} FROM n"
    );
    world.by_hand(&insert).await;
    world.clock.pass(KEPT + MINUTE);
    let step = TRIM_STEP.unsigned_abs();
    for trimmed in [step, step, 25_000 - 2 * step, 0] {
        assert_eq!(world.store.trim_outbox().await.unwrap(), trimmed);
    }
}

pub(crate) async fn a_gone_receiver_gets_nothing_until_a_replay(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    world.plain("42").await;
    let event = claim_one(&world).await;
    note(&world, &event, AttemptOutcome::Postponed(MINUTE)).await;
    assert_eq!(claim(&world, "a").await, []);
    world.clock.pass(MINUTE);
    let event = claim_one(&world).await;
    assert_eq!((event.claims, event.failures), (2, 0), "nothing was tried");
    note(&world, &event, AttemptOutcome::Gone).await;
    world.plain("43").await;
    name(&world, "a", &EventKind::ALL).await;
    assert_eq!(claim(&world, "a").await, []);
    let gone = &status(&world).await[0];
    assert_eq!((gone.is_gone, gone.waiting), (true, 2), "events still wait");
    replay(&world, Replayed::Dead).await;
    assert!(!status(&world).await[0].is_gone);
    assert_eq!(claim(&world, "a").await.len(), 2);
}

pub(crate) async fn old_events_are_trimmed(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    for account in ["1", "2", "3"] {
        world.plain(account).await;
    }
    let claimed = claim(&world, "a").await;
    deliver(&world, &claimed[0]).await;
    note(&world, &claimed[1], AttemptOutcome::Dead).await;
    world.clock.pass(KEPT - HOUR);
    name(&world, "a", &EventKind::ALL).await;
    assert_eq!(world.store.trim_outbox().await.unwrap(), 0);
    world.clock.pass(HOUR + MINUTE);
    name(&world, "a", &EventKind::ALL).await;
    assert_eq!(world.store.trim_outbox().await.unwrap(), 3);
    assert_eq!(world.store.trim_outbox().await.unwrap(), 0);
    let left = &status(&world).await[0];
    assert_eq!((left.waiting, left.dead), (0, 1), "what has waited is dead");
}

pub(crate) async fn a_webhook_that_nobody_names_is_forgotten(world: World) {
    name(&world, "a", &EventKind::ALL).await;
    name(&world, "b", &EventKind::ALL).await;
    world.plain("42").await;
    world.clock.pass(FORGOTTEN_AFTER + MINUTE);
    name(&world, "b", &EventKind::ALL).await;
    world.store.trim_outbox().await.unwrap();
    world.plain("43").await;
    let known: Vec<_> = status(&world)
        .await
        .into_iter()
        .map(|of| of.webhook.name)
        .collect();
    assert_eq!(known, ["b"]);
    name(&world, "a", &EventKind::ALL).await;
    assert_eq!(
        status(&world).await[0].waiting,
        1,
        "what was written stays for a while"
    );
}
