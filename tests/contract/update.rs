//! Update: the fields that may change.

use keyward_core::key::KeyRecord;
use keyward_store::{CommittedChange, Expiry, KeyChanges, NewKey, UpdateAnswer};

use crate::world::{DAY, World, disabled, end, kill, metadata, networks, scopes, sealed};

/// The record after `changes`.
fn after(record: &KeyRecord, changes: &KeyChanges, revision: u64) -> KeyRecord {
    let KeyChanges {
        scopes,
        metadata,
        networks,
        expire_time,
        disabled,
    } = changes.clone();
    let old = record.clone();
    KeyRecord {
        scopes: scopes.unwrap_or(old.scopes),
        metadata: metadata.unwrap_or(old.metadata),
        networks: networks.unwrap_or(old.networks),
        expire_time: expire_time.unwrap_or(old.expire_time),
        disabled: disabled.unwrap_or(old.disabled),
        revision,
        ..old
    }
}

pub(crate) async fn each_field_is_changed_alone(world: World) {
    let mut expected = world.issue(world.full_key("42", "default").await).await;
    let later = world.now().await.plus(90 * DAY);
    let nothing = KeyChanges::default;
    let changes = [
        KeyChanges {
            scopes: Some(scopes(&["new"])),
            ..nothing()
        },
        KeyChanges {
            metadata: Some(metadata(&[("a", "b")])),
            ..nothing()
        },
        KeyChanges {
            networks: Some(networks(&[])),
            ..nothing()
        },
        KeyChanges {
            expire_time: Some(Some(later)),
            ..nothing()
        },
        disabled(true),
    ];
    for (revision, changes) in (1..).zip(changes) {
        expected = after(&expected, &changes, revision);
        let (record, committed) = world.update(expected.id, changes).await;
        assert_eq!((&record, committed.revision), (&expected, revision));
        assert_eq!(world.record(expected.id).await, expected);
    }
    assert_eq!(
        world.get(expected.id).await.sealed,
        Some(sealed(7)),
        "the sealed copy stays"
    );
    assert_eq!(world.head().await, 5);
}

pub(crate) async fn an_expiry_is_set_and_removed(world: World) {
    let key = world.plain("42").await;
    for expire_time in [Some(world.now().await.plus(DAY)), None] {
        let changes = KeyChanges {
            expire_time: Some(expire_time),
            ..KeyChanges::default()
        };
        assert_eq!(
            world.update(key.id, changes).await.0.expire_time,
            expire_time
        );
    }
}

pub(crate) async fn an_update_without_effect_returns_the_last_change(world: World) {
    let key = world.plain("42").await;
    let nothing = CommittedChange::NOTHING;
    assert_eq!(
        world.update(key.id, disabled(false)).await,
        (key.clone(), nothing)
    );
    let changed = world.update(key.id, disabled(true)).await;
    world.plain("other").await;
    world.revoke(crate::world::kill_all("other")).await;
    assert_eq!(world.update(key.id, disabled(true)).await, changed);
    assert_eq!(world.update(key.id, KeyChanges::default()).await, changed);
    assert_eq!(world.head().await, 2);
}

pub(crate) async fn an_unknown_key_is_not_found(world: World) {
    let answer = world.try_update(world.successor().id, disabled(true)).await;
    assert!(matches!(answer, UpdateAnswer::NotFound));
}

pub(crate) async fn a_revoked_key_is_refused_also_in_its_grace(world: World) {
    let dead = world.plain("dead").await;
    let ending = world.plain("ending").await;
    world.revoke(kill(dead.id)).await;
    world.revoke(end(ending.id, DAY)).await;
    for id in [dead.id, ending.id] {
        let before = world.record(id).await;
        let answer = world.try_update(id, disabled(true)).await;
        assert!(matches!(answer, UpdateAnswer::Revoked));
        assert_eq!(world.record(id).await, before);
    }
}

pub(crate) async fn an_expired_key_is_refused(world: World) {
    let expiry = Expiry::At(world.now().await);
    let key = world
        .issue(NewKey {
            expiry,
            ..world.plain_key("42", "default")
        })
        .await;
    let revival = KeyChanges {
        expire_time: Some(None),
        ..KeyChanges::default()
    };
    let answer = world.try_update(key.id, revival).await;
    assert!(matches!(answer, UpdateAnswer::Expired));
    assert_eq!(world.record(key.id).await, key);
}
