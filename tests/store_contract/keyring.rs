//! The check values of the keyring.

use keyward::crypto::{CheckValue, KeyKind};
use keyward::store::StoreError;

use crate::world::World;

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

pub(crate) async fn check_values_are_given_back(world: World) {
    assert!(stored(&world).await.is_empty());
    let first = [check(KeyKind::Generation, 1, 1), check(KeyKind::Seal, 1, 2)];
    world.store.add_check_values(&first).await.unwrap();
    let next = check(KeyKind::Generation, u32::MAX, 3);
    world
        .store
        .add_check_values(std::slice::from_ref(&next))
        .await
        .unwrap();
    world.store.add_check_values(&[]).await.unwrap();
    let [generation, seal] = first;
    assert_eq!(stored(&world).await, [generation, next, seal]);
}

pub(crate) async fn a_check_value_is_never_replaced(world: World) {
    let first = [check(KeyKind::Generation, 1, 1)];
    world.store.add_check_values(&first).await.unwrap();
    let foreign = [
        check(KeyKind::Generation, 2, 9),
        check(KeyKind::Generation, 1, 9),
    ];
    let refused = world.store.add_check_values(&foreign).await;
    assert!(
        matches!(refused, Err(StoreError::Damaged(_))),
        "{refused:?}"
    );
    assert_eq!(stored(&world).await, first, "all of them, or none");
}
