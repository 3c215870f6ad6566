//! The keyring: check values, the active keys, retirement, and the moves of sealed copies.

use std::time::Duration;

use keyward_core::key::KeyRecord;
use keyward_crypto::{CheckValue, KeyKind, KeyName, Sealed};
use keyward_store::keyring::{Needs, active};
use keyward_store::{
    Activation, Expiry, KnownState, NewKey, NewToken, Retirement, SealMove, StoreError, Successor,
};

use crate::world::{DAY, World, actor, assert_damaged, end, kill, replace, sealed};

/// The sealing key of `sealed(1)`.
const SEAL: KeyName = name(KeyKind::Seal, 0x0101_0101);
const SECOND_SEAL: KeyName = name(KeyKind::Seal, 0x0202_0202);

const fn name(kind: KeyKind, number: u32) -> KeyName {
    KeyName { kind, number }
}

const fn generation(number: u32) -> KeyName {
    name(KeyKind::Generation, number)
}

fn check(name: KeyName, byte: u8) -> CheckValue {
    CheckValue {
        kind: name.kind,
        number: name.number,
        value: [byte; 16],
    }
}

async fn stored(world: &World) -> Vec<(CheckValue, KnownState)> {
    let known = world.store.known_keys().await.unwrap();
    let mut values: Vec<_> = known.iter().map(|key| (key.check, key.state)).collect();
    values.sort_unstable_by_key(|(check, _)| (check.kind.name(), check.number));
    values
}

/// The state of a key.
async fn state(world: &World, name: KeyName) -> Option<KnownState> {
    let known = stored(world).await.into_iter();
    let mut found = known.filter(|(check, _)| check.name() == name);
    found.next().map(|(_, state)| state)
}

async fn note(world: &World, names: &[KeyName]) {
    let checks: Vec<_> = names.iter().map(|name| check(*name, 1)).collect();
    world.store.note_loaded(&checks).await.unwrap();
}

async fn activate(world: &World, name: KeyName) -> Activation {
    world.store.activate(name, &actor()).await.unwrap()
}

async fn retire(world: &World, name: KeyName) -> Retirement {
    world.store.retire(name, &actor()).await.unwrap()
}

/// Generations 1 and 2 of which the second is active, and two sealing keys of which the second is.
async fn rotated(world: &World) {
    note(world, &[generation(1), generation(2), SEAL, SECOND_SEAL]).await;
    for name in [generation(1), SEAL, generation(2), SECOND_SEAL] {
        assert_eq!(activate(world, name).await, Activation::Done);
    }
}

pub(crate) async fn check_values_are_returned(world: World) {
    assert!(stored(&world).await.is_empty());
    let names = [
        name(KeyKind::Foreign, 1),
        generation(1),
        generation(u32::MAX),
        name(KeyKind::Import, 7),
        name(KeyKind::Seal, 1),
    ];
    let all = names.map(|name| check(name, 1));
    for added in [&all[..2], &all[2..], &[]] {
        world.store.add_check_values(added).await.unwrap();
    }
    assert_eq!(
        stored(&world).await,
        all.map(|check| (check, KnownState::Required))
    );
}

pub(crate) async fn a_check_value_is_never_replaced(world: World) {
    let first = check(generation(1), 1);
    world.store.add_check_values(&[first]).await.unwrap();
    let foreign = [check(generation(2), 9), check(generation(1), 9)];
    let refused = world.store.add_check_values(&foreign).await;
    assert_damaged(&refused);
    let expected = [(first, KnownState::Required)];
    assert_eq!(stored(&world).await, expected, "all or none are added");
    world.store.note_loaded(&foreign).await.unwrap();
    let noted = (foreign[0], KnownState::Loaded);
    assert_eq!(stored(&world).await, [expected[0], noted]);
}

pub(crate) async fn the_key_activated_last_is_active(world: World) {
    note(&world, &[generation(1), generation(2), SEAL]).await;
    let now = async || active(&world.store.known_keys().await.unwrap());
    assert_eq!((now().await.generation, now().await.seal), (None, None));
    assert_eq!(activate(&world, SEAL).await, Activation::Done);
    for number in [1, 2, 2, 1] {
        assert_eq!(activate(&world, generation(number)).await, Activation::Done);
        let (generation, seal) = (now().await.generation, now().await.seal);
        assert_eq!((generation, seal), (Some(number), Some(SEAL.number)));
    }
    let earlier = state(&world, generation(2)).await;
    assert_eq!(earlier, Some(KnownState::Required));
    let lines = [
        "seal-16843009",
        "generation-1",
        "generation-2",
        "generation-1",
    ];
    let lines = lines.map(|name| format!("keyring_activate bot {name}"));
    assert_eq!(world.audit().await, lines);
    for kind in [KeyKind::Foreign, KeyKind::Import] {
        let name = name(kind, 1);
        note(&world, &[name]).await;
        assert_eq!(activate(&world, name).await, Activation::Done);
        assert_eq!(state(&world, name).await, Some(KnownState::Required));
    }
}

pub(crate) async fn an_unknown_or_retired_key_is_not_activated(world: World) {
    rotated(&world).await;
    assert_eq!(activate(&world, generation(7)).await, Activation::Unknown);
    assert_eq!(retire(&world, generation(1)).await, Retirement::Done);
    assert_eq!(activate(&world, generation(1)).await, Activation::Retired);
    let active = state(&world, generation(2)).await;
    assert_eq!(active, Some(KnownState::Active));
}

pub(crate) async fn a_key_that_nothing_needs_is_retired(world: World) {
    rotated(&world).await;
    note(&world, &[generation(3)]).await;
    assert_eq!(retire(&world, generation(7)).await, Retirement::Unknown);
    assert_eq!(retire(&world, generation(2)).await, Retirement::Active);
    assert_eq!(retire(&world, SECOND_SEAL).await, Retirement::Active);
    for name in [generation(1), generation(1), SEAL, generation(3)] {
        assert_eq!(retire(&world, name).await, Retirement::Done);
    }
    for name in [generation(1), SEAL] {
        assert_eq!(state(&world, name).await, Some(KnownState::Retired));
    }
    // Nothing was ever made with it, so another key can have its number.
    assert_eq!(state(&world, generation(3)).await, None);
    let lines = ["generation-1", "seal-16843009", "generation-3"];
    let lines = lines.map(|name| format!("keyring_retire bot {name}"));
    assert_eq!(world.audit().await[4..], lines);
}

pub(crate) async fn a_needed_key_is_not_retired(world: World) {
    note(&world, &[generation(1), generation(2), SEAL, SECOND_SEAL]).await;
    activate(&world, generation(1)).await;
    activate(&world, SEAL).await;
    let new = |name: &str| world.plain_key("42", name);
    let issue = async |name: &str| world.issue(new(name)).await.id;
    let (live, ending) = (issue("live").await, issue("ending").await);
    let dead = issue("dead").await;
    world.revoke(kill(dead)).await;
    world.revoke(end(ending, DAY)).await;
    // The expiry of this one is final: Update refuses it.
    world.expired("expired").await;
    let copied = NewKey {
        sealed: Some(sealed(1)),
        generation: 2,
        ..new("copied")
    };
    let copied = world.issue(copied).await.id;
    let (token, other) = (world.token("one").await, world.token("two").await);
    world.revoke_token(other.id).await;
    activate(&world, generation(2)).await;
    activate(&world, SECOND_SEAL).await;

    let needs = |keys, tokens, copies| Needs {
        keys,
        tokens,
        copies,
        seals: 0,
    };
    let expected = [
        (generation(1), needs(2, 1, 0)),
        (generation(2), needs(1, 0, 0)),
        (SEAL, needs(0, 0, 1)),
    ];
    let found = world.store.keyring_use().await.unwrap();
    assert_eq!(found.needs, expected.into());
    let needed = |needs| Retirement::Needed(needs);
    assert_eq!(retire(&world, SEAL).await, needed(needs(0, 0, 1)));
    world.revoke(kill(copied)).await;
    assert_eq!(retire(&world, SEAL).await, Retirement::Done);
    assert_eq!(retire(&world, generation(1)).await, needed(needs(2, 1, 0)));
    world.revoke(kill(live)).await;
    world.revoke_token(token.id).await;
    assert_eq!(retire(&world, generation(1)).await, needed(needs(1, 0, 0)));
    world.revoke(kill(ending)).await;
    assert_eq!(retire(&world, generation(1)).await, Retirement::Done);
    assert_eq!(
        state(&world, generation(1)).await,
        Some(KnownState::Retired)
    );
}

pub(crate) async fn nothing_is_made_with_a_retired_key(world: World) {
    rotated(&world).await;
    let under = |generation, copy: Option<Sealed>, name: &str| NewKey {
        generation,
        sealed: copy,
        ..world.plain_key("42", name)
    };
    let key = world.issue(under(2, Some(sealed(2)), "old")).await;
    retire(&world, generation(1)).await;
    retire(&world, SEAL).await;
    let (store, actor) = (&world.store, actor());
    let refused = |outcome: Result<(), StoreError>| {
        assert!(
            matches!(outcome, Err(StoreError::Unavailable(_))),
            "{outcome:?}"
        );
    };
    for new in [under(1, None, "new"), under(2, Some(sealed(1)), "new")] {
        refused(store.issue(new.clone(), &actor).await.map(drop));
        let successor = Successor {
            generation: new.generation,
            sealed: new.sealed,
            ..world.successor()
        };
        let replace = replace(key.id, successor, Duration::ZERO);
        refused(store.revoke(replace, &actor).await.map(drop));
    }
    let token = NewToken {
        generation: Some(1),
        ..world.new_token("bot")
    };
    refused(store.create_token(token, &actor).await.map(drop));
    refused(store.move_seals(vec![moved(&key, 2, 1)]).await.map(drop));
    assert_eq!(world.get(key.id).await.sealed, Some(sealed(2)));
    assert_eq!(world.record(key.id).await, key);
    assert_eq!(world.head().await, 0);
}

fn moved(key: &KeyRecord, old: u8, new: u8) -> SealMove {
    SealMove {
        id: key.id,
        old: sealed(old),
        new: sealed(new),
    }
}

pub(crate) async fn sealed_copies_move_without_a_change_of_the_record(world: World) {
    let mut keys = Vec::new();
    for (n, copy) in [1, 2, 1, 1].into_iter().enumerate() {
        let new = NewKey {
            sealed: Some(sealed(copy)),
            ..world.plain_key("42", &format!("slot-{n}"))
        };
        keys.push(world.issue(new).await);
    }
    world.plain("plain").await;
    let under = async |after, limit| {
        let found = world.store.sealed_under(SEAL.number, after, limit).await;
        let found = found.unwrap().into_iter();
        found.map(|key| key.record.id).collect::<Vec<_>>()
    };
    assert_eq!(under(None, 2).await, [keys[0].id, keys[2].id]);
    assert_eq!(under(Some(keys[2].id), 2).await, [keys[3].id]);
    world.revoke(kill(keys[3].id)).await;
    let head = world.head().await;
    let moves = vec![
        moved(&keys[0], 1, 2),
        // Its copy has changed since it was read.
        moved(&keys[1], 1, 3),
        moved(&keys[3], 1, 2),
    ];
    assert_eq!(world.store.move_seals(moves).await.unwrap(), 1);
    let mut copies = Vec::new();
    for key in &keys {
        copies.push(world.get(key.id).await.sealed);
    }
    let kept = [2, 2, 1].map(|copy| Some(sealed(copy)));
    assert_eq!(copies[..3], kept);
    assert_eq!(copies[3], None, "a revoked key gets no copy");
    assert_eq!(world.head().await, head);
    assert_eq!(world.record(keys[0].id).await, keys[0]);
    let expiring = Expiry::At(world.now().await);
    let expired = NewKey {
        expiry: expiring,
        sealed: Some(sealed(1)),
        ..world.plain_key("43", "default")
    };
    let expired = world.issue(expired).await;
    let moves = vec![moved(&expired, 1, 2)];
    assert_eq!(world.store.move_seals(moves).await.unwrap(), 1);
}
