//! The check values of the keyring.

use keyward_crypto::{CheckValue, KeyKind};

use crate::world::{World, assert_damaged};

fn check(kind: KeyKind, number: u32, byte: u8) -> CheckValue {
    CheckValue {
        kind,
        number,
        value: [byte; 16],
    }
}

async fn stored(world: &World) -> Vec<CheckValue> {
    let mut values = world.store.check_values().await.unwrap();
    values.sort_unstable_by_key(|check| (check.kind.name(), check.number));
    values
}

pub(crate) async fn check_values_are_returned(world: World) {
    assert!(stored(&world).await.is_empty());
    let first = [
        check(KeyKind::Generation, 1, 1),
        check(KeyKind::Seal, 1, 2),
        check(KeyKind::Foreign, 1, 4),
        check(KeyKind::Import, 7, 5),
    ];
    world.store.add_check_values(&first).await.unwrap();
    let next = check(KeyKind::Generation, u32::MAX, 3);
    world
        .store
        .add_check_values(std::slice::from_ref(&next))
        .await
        .unwrap();
    world.store.add_check_values(&[]).await.unwrap();
    let [generation, seal, pepper, import] = first;
    let all = [pepper, generation, next, import, seal];
    assert_eq!(stored(&world).await, all);
}

pub(crate) async fn a_check_value_is_never_replaced(world: World) {
    let first = [check(KeyKind::Generation, 1, 1)];
    world.store.add_check_values(&first).await.unwrap();
    let foreign = [
        check(KeyKind::Generation, 2, 9),
        check(KeyKind::Generation, 1, 9),
    ];
    let refused = world.store.add_check_values(&foreign).await;
    assert_damaged(&refused);
    assert_eq!(stored(&world).await, first, "all or none are added");
}

pub(crate) async fn the_generation_activated_last_is_active(world: World) {
    assert_eq!(world.store.active_generation().await.unwrap(), None);
    let values = [
        check(KeyKind::Generation, 1, 1),
        check(KeyKind::Generation, 2, 2),
        check(KeyKind::Seal, 1, 3),
    ];
    world.store.add_check_values(&values).await.unwrap();
    assert_eq!(world.store.active_generation().await.unwrap(), None);
    for number in [1, 2, 2, 1] {
        world.store.activate_generation(number).await.unwrap();
        let active = world.store.active_generation().await.unwrap();
        assert_eq!(active, Some(number));
        assert_eq!(world.count("keyring_checks WHERE active = TRUE").await, 1);
    }
    assert_eq!(stored(&world).await, values);
}

pub(crate) async fn a_generation_without_check_value_is_not_activated(world: World) {
    let values = [check(KeyKind::Generation, 1, 1), check(KeyKind::Seal, 2, 2)];
    world.store.add_check_values(&values).await.unwrap();
    for active in [None, Some(1)] {
        if let Some(number) = active {
            world.store.activate_generation(number).await.unwrap();
        }
        for absent in [2, 7] {
            let refused = world.store.activate_generation(absent).await;
            assert_damaged(&refused);
            assert_eq!(world.store.active_generation().await.unwrap(), active);
        }
    }
}
