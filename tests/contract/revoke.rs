//! Revoke: permanent, once, with at most one successor.

use std::time::Duration;

use keyward_core::key::KeyId;
use keyward_store::{
    CommittedChange, KeyTarget, NewKey, Revocation, RevokeAnswer, Revoked, Successor,
};

use crate::world::{
    DAY, HOUR, World, actor, at_once, close, disabled, done, end, kill, kill_all, reason, replace,
    sealed,
};

pub(crate) async fn an_unknown_key_is_not_found(world: World) {
    for target in [
        KeyTarget::Id(world.successor().id),
        KeyTarget::Digests(vec![world.digest()]),
    ] {
        let grace = Duration::ZERO;
        let unknown = Revocation::Key {
            target,
            successor: None,
            grace,
            reason: None,
        };
        let answer = world.try_revoke(unknown).await;
        assert!(matches!(answer, RevokeAnswer::NotFound { .. }));
    }
    assert_eq!(world.head().await, 0);
}

pub(crate) async fn a_key_is_revoked_by_its_id(world: World) {
    let key = world.plain("42").await;
    let revoked = world.revoke(kill(key.id)).await;
    assert_eq!(revoked.keys, [world.record(key.id).await]);
    assert_eq!(revoked.count, 1);
    assert_eq!(revoked.revoke_time, Some(world.now().await));
    assert_eq!(revoked.keys[0].revoke_time, revoked.revoke_time);
    assert_eq!(revoked.committed.revision, 1);
    assert!(revoked.successor.is_none() && !revoked.created);
}

pub(crate) async fn a_key_is_revoked_by_its_digest(world: World) {
    let new = world.plain_key("42", "default");
    let other = world.issue(world.plain_key("42", "other")).await;
    let key = world.issue(new.clone()).await;
    let revoked = world
        .revoke(Revocation::Key {
            target: KeyTarget::Digests(vec![new.digest]),
            successor: None,
            grace: Duration::ZERO,
            reason: reason("leaked"),
        })
        .await;
    assert_eq!(revoked.keys[0].id, key.id);
    assert_eq!(revoked.keys[0].revoke_reason, reason("leaked"));
    assert_eq!(world.record(other.id).await, other);
}

pub(crate) async fn a_revoked_key_does_not_change(world: World) {
    let key = world.plain("42").await;
    let first = world.revoke(kill(key.id)).await;
    world.clock.pass(HOUR);
    for again in [kill(key.id), end(key.id, DAY)] {
        let again = world.revoke(again).await;
        assert_eq!(again.keys, first.keys);
        assert_eq!((again.count, again.revoke_time), (1, first.revoke_time));
        assert_eq!(
            again.committed, first.committed,
            "the caller still waits for the first change"
        );
    }
    assert_eq!(world.head().await, 1);
}

pub(crate) async fn a_successor_inherits_everything_but_the_secret(world: World) {
    let new = world.full_key("42", "trading").await;
    let key = world.issue(new.clone()).await;
    let (key, _) = world.update(key.id, disabled(true)).await;
    world.clock.pass(HOUR);
    let successor = Successor {
        generation: 2,
        sealed: Some(sealed(9)),
        ..world.successor()
    };
    let revoked = world
        .revoke(replace(key.id, successor.clone(), Duration::ZERO))
        .await;
    assert!(revoked.created);
    assert_eq!(revoked.keys[0].replaced_by, Some(successor.id));
    let made = revoked.successor.unwrap();
    assert_eq!(made.sealed, successor.sealed);
    assert_ne!(made.record.create_time, key.create_time);
    let expected = keyward_core::key::KeyRecord {
        id: successor.id,
        hint: successor.hint.clone(),
        create_time: made.record.create_time,
        revision: 0,
        ..key
    };
    assert!(expected.disabled, "a replacement must not switch a key on");
    assert_eq!(made.record, expected);
    let found = world.find(&successor.digest).await;
    assert_eq!(found.record, Some(expected));
}

pub(crate) async fn a_successor_with_a_lifetime_begins_a_life_of_its_own(world: World) {
    let full = world.full_key("42", "full").await;
    let plain = world.plain_key("42", "plain");
    for new in [full, plain] {
        let key = world.issue(new).await;
        world.clock.pass(HOUR);
        let successor = Successor {
            lifetime: Some(DAY),
            ..world.successor()
        };
        let revoked = world
            .revoke(replace(key.id, successor, Duration::ZERO))
            .await;
        let made = revoked.successor.unwrap().record;
        assert_eq!(made.expire_time, Some(made.create_time.plus(DAY)));
    }
}

pub(crate) async fn a_repeated_replace_returns_the_same_successor(world: World) {
    let key = world.plain("42").await;
    let first = world.replace(key.id).await;
    let again = world.replace(key.id).await;
    assert!(first.created && !again.created);
    assert_eq!(again.keys, first.keys);
    assert_eq!(again.committed, first.committed);
    assert_eq!(
        again.successor.unwrap().record,
        first.successor.unwrap().record
    );
    assert_eq!(world.count("api_keys").await, 2);
}

pub(crate) async fn a_key_revoked_without_successor_never_gets_one(world: World) {
    let dead = world.plain("dead").await;
    let ending = world.plain("ending").await;
    world.revoke(kill(dead.id)).await;
    world.revoke(end(ending.id, DAY)).await;
    for key in [dead, ending] {
        let revoked = world.replace(key.id).await;
        assert!(revoked.successor.is_none() && !revoked.created);
        assert_eq!(revoked.keys[0].replaced_by, None);
    }
    assert_eq!(world.count("api_keys").await, 2);
}

pub(crate) async fn concurrent_replaces_of_one_key_give_one_successor(world: World) {
    let key = world.plain("42").await;
    let answers = at_once(50, |_| {
        let (store, call) = (
            world.store.clone(),
            replace(key.id, world.successor(), Duration::ZERO),
        );
        async move { done(store.revoke(call, &actor()).await.unwrap()) }
    })
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.created).count(), 1);
    let successor = |answer: &Revoked| answer.successor.as_ref().unwrap().record.clone();
    assert!(
        answers
            .iter()
            .all(|answer| successor(answer) == successor(&answers[0]))
    );
    assert!(
        answers
            .iter()
            .all(|answer| answer.committed == answers[0].committed)
    );
    assert_eq!(world.count("api_keys").await, 2);
    assert_eq!(world.head().await, 1);
}

pub(crate) async fn an_expired_key_is_not_replaced(world: World) {
    let key = world.expired("42").await;
    let answer = world
        .try_revoke(replace(key.id, world.successor(), Duration::ZERO))
        .await;
    assert!(matches!(answer, RevokeAnswer::Expired));
    assert_eq!(world.record(key.id).await, key);
    assert_eq!(world.count("api_keys").await, 1);
    assert_eq!(world.head().await, 0);
}

pub(crate) async fn an_expired_key_is_revoked(world: World) {
    let key = world.expired("42").await;
    let revoked = world.revoke(kill(key.id)).await;
    assert_eq!(revoked.keys[0].revoke_time, Some(world.now().await));
}

pub(crate) async fn the_slot_is_free_at_once_during_a_grace(world: World) {
    let replaced = world.plain("replaced").await;
    let made = world
        .revoke(replace(replaced.id, world.successor(), DAY))
        .await;
    assert_eq!(made.revoke_time, Some(world.now().await.plus(DAY)));
    let again = world
        .issue_or_get(world.plain_key("replaced", "default"))
        .await;
    assert_eq!(again.key.record, made.successor.unwrap().record);

    let ending = world.plain("ending").await;
    world.revoke(end(ending.id, DAY)).await;
    world.plain("ending").await;
}

pub(crate) async fn a_grace_is_shortened_and_never_lengthened(world: World) {
    let key = world.plain("42").await;
    let ends = async |grace| {
        world.revoke(end(key.id, grace)).await.keys[0]
            .revoke_time
            .unwrap()
    };
    let begun = world.now().await;
    assert_eq!(ends(10 * HOUR).await, begun.plus(10 * HOUR));
    assert_eq!(
        ends(20 * HOUR).await,
        begun.plus(10 * HOUR),
        "the grace is not lengthened"
    );
    assert_eq!(world.head().await, 1);
    world.clock.pass(HOUR);
    assert_eq!(
        ends(HOUR).await,
        begun.plus(2 * HOUR),
        "the grace is shortened"
    );
    assert_eq!(world.head().await, 2);
    assert_eq!(
        ends(Duration::ZERO).await,
        begun.plus(HOUR),
        "the key is dead"
    );
    world.clock.pass(HOUR);
    assert_eq!(
        ends(Duration::ZERO).await,
        begun.plus(HOUR),
        "the key stays dead"
    );
    assert_eq!(world.head().await, 3);
}

pub(crate) async fn a_later_revoke_ends_a_grace_and_keeps_the_successor(world: World) {
    let key = world.plain("42").await;
    let first = world.revoke(replace(key.id, world.successor(), DAY)).await;
    let now = world.now().await;
    for later in [replace(key.id, world.successor(), HOUR), kill(key.id)] {
        let later = world.revoke(later).await;
        assert!(!later.created);
        assert_eq!(
            later.successor.unwrap().record,
            first.successor.as_ref().unwrap().record
        );
        assert_eq!(later.committed.revision, world.head().await);
    }
    assert_eq!(world.record(key.id).await.revoke_time, Some(now));
    assert_eq!(world.count("api_keys").await, 2);
}

pub(crate) async fn the_first_reason_is_kept(world: World) {
    let (one, all) = (world.plain("one").await.id, world.plain("all").await.id);
    let because = |id, grace, text| Revocation::Key {
        target: KeyTarget::Id(id),
        successor: None,
        grace,
        reason: reason(text),
    };
    world.revoke(because(one, DAY, "leaked")).await;
    world.revoke(because(one, HOUR, "tidied up")).await;
    world.revoke(because(one, Duration::ZERO, "late")).await;
    world.revoke(because(all, DAY, "leaked")).await;
    world.revoke(close("all", reason("closed"))).await;
    assert_eq!(world.head().await, 5);
    for id in [one, all] {
        assert_eq!(world.record(id).await.revoke_reason, reason("leaked"));
    }
}

pub(crate) async fn the_sealed_copy_is_wiped(world: World) {
    let recoverable = |account| NewKey {
        sealed: Some(sealed(1)),
        ..world.plain_key(account, "default")
    };
    let killed = world.issue(recoverable("killed")).await;
    let ending = world.issue(recoverable("ending")).await;
    let account = world.issue(recoverable("account")).await;
    let other = world.issue(recoverable("other")).await;
    world.revoke(kill(killed.id)).await;
    world.revoke(end(ending.id, DAY)).await;
    world.revoke(kill_all("account")).await;
    for key in [killed, ending, account] {
        let now = world.get(key.id).await;
        assert!(now.sealed.is_none() && now.record.recoverable);
    }
    assert_eq!(world.count("api_keys WHERE sealed IS NOT NULL").await, 1);
    assert_eq!(world.get(other.id).await.sealed, Some(sealed(1)));
}

pub(crate) async fn an_account_is_revoked_at_once(world: World) {
    let mut ids: Vec<KeyId> = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(world.issue(world.plain_key("42", name)).await.id);
    }
    let before = world.revoke(kill(ids[1])).await;
    let other = world.plain("421").await;
    world.clock.pass(HOUR);
    let revoked = world.revoke(close("42", reason("closed"))).await;
    assert_eq!(
        revoked.keys.iter().map(|key| key.id).collect::<Vec<_>>(),
        [ids[0], ids[2]]
    );
    assert_eq!(revoked.count, 2);
    assert_eq!(revoked.revoke_time, Some(world.now().await));
    assert!(
        revoked
            .keys
            .iter()
            .all(|key| key.revoke_time == revoked.revoke_time)
    );
    assert!(
        revoked
            .keys
            .iter()
            .all(|key| key.revoke_reason == reason("closed"))
    );
    assert_eq!(revoked.committed.revision, 3);
    assert_eq!(revoked.committed.mark, Some(world.tail(0).await.head_mark));
    assert_eq!(world.record(ids[1]).await, before.keys[0], "revoked before");
    assert_eq!(world.record(other.id).await, other);
}

pub(crate) async fn an_account_with_many_keys_lists_a_hundred_and_counts_all(world: World) {
    let mut ids = Vec::new();
    for number in 0..130 {
        ids.push(
            world
                .issue(world.plain_key("42", &format!("slot-{number}")))
                .await
                .id,
        );
    }
    let revoked = world.revoke(kill_all("42")).await;
    assert_eq!(revoked.count, 130);
    assert_eq!(
        revoked.keys.iter().map(|key| key.id).collect::<Vec<_>>(),
        ids[..Revoked::LISTED],
        "sorted by key_id"
    );
    assert_eq!(revoked.committed.revision, 130);
    assert_eq!(world.tail(0).await.rows.len(), 130);
    assert_eq!(world.count("api_keys WHERE revoke_time IS NULL").await, 0);
}

/// A step of an account's revocation delays other changes, but not the whole account.
pub(crate) async fn a_large_account_is_revoked_in_steps_between_which_others_write(world: World) {
    const MANY: u64 = 6_000;
    let first = world.issue(world.plain_key("42", "slot")).await;
    let id = world.id(first.id);
    let (new, digest) = world.random_bytes();
    let more = format!(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                metadata, allowed_cidrs, recoverable, create_time)
         WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < {MANY})
         SELECT {new}, {digest}, generation, account_id, 'slot-' || n, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time FROM api_keys, numbers WHERE key_id = {id}"
    );
    world.by_hand(&more).await;
    let store = world.store.clone();
    let all = tokio::spawn(async move { store.revoke(kill_all("42"), &actor()).await });
    let mut others = Vec::new();
    while !all.is_finished() {
        let other = world.plain("other").await;
        others.push(world.revoke(kill(other.id)).await.committed.revision);
        // A key of the account itself.
        world.issue_or_get(world.plain_key("42", "late")).await;
    }
    let revoked = done(all.await.unwrap().unwrap());
    assert!(revoked.count >= MANY, "{}", revoked.count);
    assert_eq!(revoked.keys.len(), Revoked::LISTED);
    let of_account = "key_id IN (SELECT key_id FROM api_keys WHERE account_id = '42')";
    let last = format!("SELECT CAST(max(revision) AS TEXT) FROM key_changes WHERE {of_account}");
    assert_eq!(
        world.read(&last).await,
        [revoked.committed.revision.to_string()]
    );
    let between = others.iter().any(|other| (2..MANY).contains(other));
    assert!(between, "{others:?}");
    let unlogged = "api_keys WHERE account_id = '42' AND revoke_time IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM audit WHERE subject_id = key_id AND action = 'revoke')";
    assert_eq!(world.count(unlogged).await, 0, "the audit names each key");
}

pub(crate) async fn an_account_without_keys_is_done(world: World) {
    world.plain("another").await;
    let revoked = world.revoke(kill_all("42")).await;
    assert!(revoked.keys.is_empty());
    assert_eq!((revoked.count, revoked.revoke_time), (0, None));
    assert_eq!(revoked.committed, CommittedChange::NOTHING);
}

pub(crate) async fn an_account_revoked_again_returns_its_latest_change(world: World) {
    let low = world.issue(world.plain_key("42", "low")).await;
    let high = world.issue(world.plain_key("42", "high")).await;
    world.revoke(kill(low.id)).await;
    let highest = world.revoke(kill(high.id)).await.committed;
    let other = world.plain("another").await;
    world.revoke(kill(other.id)).await;
    let again = world.revoke(kill_all("42")).await;
    assert_eq!((again.count, again.revoke_time), (0, None));
    assert_eq!(again.committed, highest);
    assert_eq!(world.head().await, 3);
}

pub(crate) async fn revoking_an_account_ends_graces(world: World) {
    let key = world.plain("42").await;
    world.revoke(replace(key.id, world.successor(), DAY)).await;
    let revoked = world.revoke(kill_all("42")).await;
    assert_eq!(revoked.count, 2, "the key in its grace and its successor");
    assert_eq!(
        world.record(key.id).await.revoke_time,
        Some(world.now().await)
    );
    assert_eq!(world.revoke(kill_all("42")).await.count, 0);
}

pub(crate) async fn a_successor_is_returned_in_its_current_state(world: World) {
    let key = world.plain("42").await;
    let second = world.successor();
    world
        .revoke(replace(key.id, second.clone(), Duration::ZERO))
        .await;
    world.replace(second.id).await;
    let again = world.revoke(kill(key.id)).await;
    let named = again.successor.unwrap();
    assert_eq!(named.record.id, second.id);
    assert!(named.record.revoke_time.is_some());
}
