//! The use of keys: what is noted adds up, and is no change of a key.

use std::time::Duration;

use keyward_core::key::{KeyId, KeyUse, Timestamp};

use crate::world::{HOUR, World, account, actor, kill, kill_all, replace};

fn used(at: Timestamp) -> KeyUse {
    KeyUse {
        last_use: Some(at),
        ..KeyUse::default()
    }
}

fn refused(times: u64, at: Timestamp) -> KeyUse {
    KeyUse {
        last_use: None,
        refused: times,
        last_refused: Some(at),
    }
}

async fn note(world: &World, id: KeyId, noted: KeyUse) {
    world.store.note_uses(&[(id, noted)]).await.unwrap();
}

/// The stored use of a key, if it has some.
async fn use_of(world: &World, id: KeyId) -> Option<KeyUse> {
    let found = world.store.uses_of(&[id]).await.unwrap();
    found.first().map(|(of, usage)| {
        assert_eq!((*of, found.len()), (id, 1));
        *usage
    })
}

pub(crate) async fn the_latest_times_and_the_sum_stay(world: World) {
    let (key, other) = (world.plain("42").await.id, world.plain("43").await.id);
    let now = world.now().await;
    let before = |by| Timestamp::from_micros(now.as_micros() - by);
    assert_eq!(use_of(&world, key).await, None);
    note(&world, key, refused(2, before(5))).await;
    assert_eq!(use_of(&world, key).await, Some(refused(2, before(5))));
    note(&world, key, used(before(3))).await;
    note(&world, key, used(before(4))).await;
    let all = [(key, refused(40, before(7))), (other, used(before(1)))];
    world.store.note_uses(&all).await.unwrap();
    let expected = KeyUse {
        last_use: Some(before(3)),
        refused: 42,
        last_refused: Some(before(5)),
    };
    assert_eq!(use_of(&world, key).await, Some(expected));
    assert_eq!(use_of(&world, other).await, Some(used(before(1))));
    let world = world.reopened().await;
    assert_eq!(use_of(&world, key).await, Some(expected));
    assert_eq!(world.store.uses_of(&[]).await.unwrap(), []);
    world.store.note_uses(&[]).await.unwrap();
}

pub(crate) async fn a_time_ahead_of_the_store_is_cut(world: World) {
    let key = world.plain("42").await.id;
    let ahead = world.now().await.plus(HOUR);
    note(&world, key, used(ahead)).await;
    note(&world, key, refused(1, ahead)).await;
    let usage = use_of(&world, key).await.unwrap();
    let now = world.now().await;
    assert!(usage.last_use <= Some(now) && usage.last_refused <= Some(now));
    world.clock.pass(2 * HOUR);
    note(&world, key, used(ahead)).await;
    assert_eq!(use_of(&world, key).await.unwrap().last_use, Some(ahead));
}

pub(crate) async fn the_use_of_an_unknown_key_is_ignored(world: World) {
    let key = world.plain("42").await.id;
    let (unknown, now) = (world.successor().id, world.now().await);
    let both = [(unknown, used(now)), (key, used(now))];
    world.store.note_uses(&both).await.unwrap();
    assert_eq!(use_of(&world, unknown).await, None);
    assert_eq!(use_of(&world, key).await, Some(used(now)));
}

pub(crate) async fn noting_use_changes_no_key_and_logs_nothing(world: World) {
    let key = world.plain("42").await;
    let (head, audit) = (world.head().await, world.audit().await);
    note(&world, key.id, used(world.now().await)).await;
    assert_eq!(world.record(key.id).await, key);
    assert_eq!((world.head().await, world.audit().await), (head, audit));
    assert_eq!(world.count("key_uses").await, 1);
}

pub(crate) async fn a_locked_key_can_be_used(world: World) {
    let key = world.plain("42").await;
    let mut hand = world.connect().await;
    for sql in [
        "BEGIN",
        "UPDATE api_keys SET disabled = TRUE",
        "UPDATE log_head SET revision = revision",
        "SELECT 1 FROM api_keys FOR UPDATE",
    ] {
        hand.run(sql).await.unwrap();
    }
    let now = world.now().await;
    let noting = note(&world, key.id, used(now));
    let limit = Duration::from_secs(2);
    tokio::time::timeout(limit, noting).await.unwrap();
    hand.run("ROLLBACK").await.unwrap();
    assert_eq!(use_of(&world, key.id).await, Some(used(now)));
}

pub(crate) async fn concurrent_notes_add_up(world: World) {
    let mut keys = Vec::new();
    for number in 0..20 {
        keys.push(world.plain(&number.to_string()).await.id);
    }
    let now = world.now().await;
    let noted: Vec<_> = keys.iter().map(|id| (*id, refused(1, now))).collect();
    let mut backwards = noted.clone();
    backwards.reverse();
    let calls = (0..40).map(|number| {
        let noted = if number % 2 == 0 { &noted } else { &backwards };
        world.store.note_uses(noted)
    });
    for outcome in futures_util::future::join_all(calls).await {
        outcome.unwrap();
    }
    for id in keys {
        assert_eq!(use_of(&world, id).await, Some(refused(40, now)));
    }
}

pub(crate) async fn an_erased_key_has_no_use(world: World) {
    let (erased, other) = (world.plain("42").await.id, world.plain("43").await.id);
    let now = world.now().await;
    for id in [erased, other] {
        note(&world, id, used(now)).await;
    }
    world.revoke(kill_all("42")).await;
    let (account, pseudonym, actor) = (account("42"), account("erased-1"), actor());
    let done = world.store.erase_account(&account, &pseudonym, &actor);
    assert!(done.await.unwrap().is_complete);
    assert_eq!(use_of(&world, erased).await, None);
    assert_eq!(use_of(&world, other).await, Some(used(now)));
}

pub(crate) async fn a_deleted_key_has_no_use(world: World) {
    let (deleted, other) = (world.plain("42").await.id, world.plain("43").await.id);
    for id in [deleted, other] {
        note(&world, id, used(world.now().await)).await;
    }
    let delete = "DELETE FROM api_keys WHERE account_id = '42'";
    assert_eq!(world.by_hand(delete).await, 1);
    assert_eq!(world.count("key_uses").await, 1);
    assert_eq!(use_of(&world, deleted).await, None);
}

pub(crate) async fn a_predecessor_is_found(world: World) {
    let first = world.plain("42").await;
    let predecessor = async |id| world.store.predecessor(id).await.unwrap();
    assert_eq!(predecessor(first.id).await, None);
    let successor = world.successor();
    let second = successor.id;
    world
        .revoke(replace(first.id, successor, Duration::ZERO))
        .await;
    assert_eq!(
        predecessor(second).await,
        Some(world.record(first.id).await)
    );
    world.revoke(kill(second)).await;
    let third = world.plain("42").await.id;
    assert_eq!(
        predecessor(third).await,
        None,
        "nothing replaced the second"
    );
}
