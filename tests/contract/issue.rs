//! Issue: get or create.

use keyward_store::{Expiry, Issued, NewKey};

use crate::world::{
    DAY, World, account, actor, assert_damaged, at_once, disabled, kill, scopes, sealed, slot,
};

pub(crate) async fn a_new_key_is_stored_completely(world: World) {
    let new = world.full_key("42", "trading").await;
    let issued = world.issue_or_get(new.clone()).await;
    assert!(issued.created);
    let record = issued.key.record;
    assert_eq!(
        (record.id, &record.account, &record.name),
        (new.id, &new.account, &new.name)
    );
    assert_eq!((&record.hint, &record.scopes), (&new.hint, &new.scopes));
    assert_eq!(
        (&record.metadata, &record.networks),
        (&new.metadata, &new.networks)
    );
    assert_eq!(record.expire_time.map(Expiry::At), Some(new.expiry));
    assert!(record.recoverable && !record.disabled);
    assert_eq!(
        (
            record.revoke_time,
            &record.revoke_reason,
            record.replaced_by
        ),
        (None, &None, None)
    );
    assert_eq!(record.revision, 0);
    assert_eq!(record.create_time, world.now().await);
    assert_eq!(issued.key.sealed, new.sealed);
    assert_eq!(world.record(new.id).await, record);
}

pub(crate) async fn the_key_of_a_slot_is_returned_again(world: World) {
    let first = world.full_key("42", "default").await;
    let record = world.issue(first.clone()).await;
    let second = NewKey {
        scopes: scopes(&["other"]),
        sealed: None,
        ..world.plain_key("42", "default")
    };
    let again = world.issue_or_get(second).await;
    assert!(!again.created);
    assert_eq!(again.key.record, record);
    assert_eq!(again.key.sealed, first.sealed);
    assert_eq!(world.count("api_keys").await, 1);
    assert_eq!(world.head().await, 0);
}

pub(crate) async fn a_disabled_key_is_returned_as_it_is(world: World) {
    let key = world.plain("42").await;
    let (record, _) = world.update(key.id, disabled(true)).await;
    let again = world.issue_or_get(world.plain_key("42", "default")).await;
    assert!(!again.created && again.key.record.disabled);
    assert_eq!(again.key.record, record);
}

pub(crate) async fn an_expired_key_is_revoked_and_replaced(world: World) {
    let expiry = Expiry::At(world.now().await);
    let old = world
        .issue(NewKey {
            expiry,
            sealed: Some(sealed(1)),
            ..world.plain_key("42", "default")
        })
        .await;
    let new = world.plain("42").await;
    let ended = world.get(old.id).await;
    assert_eq!(ended.record.replaced_by, Some(new.id));
    assert_eq!(ended.record.revoke_time, Some(world.now().await));
    assert_eq!(ended.record.revision, world.head().await);
    assert_eq!(ended.sealed, None);
    assert_eq!(
        new.expire_time, None,
        "the new key has the requested fields"
    );
    assert_eq!(
        world.audit().await,
        ["issue bot -", "revoke bot expired", "issue bot -"]
    );
}

pub(crate) async fn a_slot_is_free_again_after_a_revoke(world: World) {
    let old = world.plain("42").await;
    world.revoke(kill(old.id)).await;
    let new = world.plain("42").await;
    assert_ne!(new.id, old.id);
    assert_eq!(
        world.record(old.id).await.replaced_by,
        None,
        "Issue replaces no key"
    );
}

pub(crate) async fn slots_and_accounts_are_separate(world: World) {
    let mut ids = Vec::new();
    for (account, name) in [("1", "a"), ("1", "b"), ("2", "a"), ("2", "b"), ("2", "A")] {
        let record = world.issue(world.plain_key(account, name)).await;
        assert_eq!(record.account, self::account(account));
        assert_eq!(record.name, slot(name));
        ids.push(record.id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

/// One call created the key that all of them return.
fn assert_one_key(issued: &[Issued]) {
    assert_eq!(issued.iter().filter(|one| one.created).count(), 1);
    let first = &issued[0].key.record;
    assert!(issued.iter().all(|one| one.key.record == *first));
}

pub(crate) async fn concurrent_calls_for_one_slot_give_one_key(world: World) {
    let issued = at_once(200, |_| {
        let (store, new) = (world.store.clone(), world.plain_key("42", "default"));
        async move { store.issue(new, &actor()).await.unwrap() }
    })
    .await;
    assert_one_key(&issued);
    assert_eq!(world.count("api_keys").await, 1);
    assert_eq!(world.audit().await, ["issue bot -"]);
}

pub(crate) async fn concurrent_calls_for_an_expired_slot_give_one_successor(world: World) {
    let old = world.expired("42").await;
    let expiry = Expiry::At(world.now().await.plus(DAY));
    let issued = at_once(50, |_| {
        let new = NewKey {
            expiry,
            ..world.plain_key("42", "default")
        };
        let store = world.store.clone();
        async move { store.issue(new, &actor()).await.unwrap() }
    })
    .await;
    assert_one_key(&issued);
    assert_eq!(
        world.record(old.id).await.replaced_by,
        Some(issued[0].key.record.id)
    );
    assert_eq!(world.head().await, 1);
}

pub(crate) async fn ids_and_digests_are_unique(world: World) {
    let first = world.plain_key("42", "first");
    let record = world.issue(first.clone()).await;
    let other = world.plain_key("42", "other");
    for again in [
        NewKey {
            id: first.id,
            ..other.clone()
        },
        NewKey {
            digest: first.digest,
            ..other.clone()
        },
    ] {
        let refused = world.store.issue(again, &actor()).await;
        assert_damaged(&refused);
    }
    assert_eq!(world.record(first.id).await, record);
    assert_eq!(world.count("api_keys").await, 1);
    world.issue(other).await;
}
