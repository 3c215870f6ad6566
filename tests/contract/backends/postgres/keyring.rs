//! The keyring of several instances: activations, registrations and retirements exclude what would leave
//! an instance without a key that it needs.

use keyward_core::fence::RegistrationId;
use keyward_crypto::{CheckValue, KeyKind, KeyName};
use keyward_store::keyring::Needs;
use keyward_store::{Activation, NewInstance, Retirement, StoreError};
use keyward_testkit::{PATIENCE, eventually};

use super::{STALENESS, fresh};
use crate::world::{World, actor};

const fn generation(number: u32) -> KeyName {
    let kind = KeyKind::Generation;
    KeyName { kind, number }
}

fn instance(number: u8, loaded: &[KeyName]) -> NewInstance {
    NewInstance {
        registration: RegistrationId::from_bytes([number; 16]),
        name: format!("test {number}"),
        max_staleness: STALENESS,
        loaded: loaded.to_vec(),
    }
}

/// A store with generation 1, which is active, and generation 2.
async fn world() -> World {
    let world = World::new(fresh().await).await;
    let checks = [1, 2].map(|number| CheckValue {
        kind: KeyKind::Generation,
        number,
        value: [7; 16],
    });
    world.store.note_loaded(&checks).await.unwrap();
    assert_eq!(activate(&world, 1).await, Activation::Done);
    world
}

async fn activate(world: &World, number: u32) -> Activation {
    let name = generation(number);
    world.store.activate(name, &actor()).await.unwrap()
}

async fn retire(world: &World, number: u32) -> Retirement {
    let name = generation(number);
    world.store.retire(name, &actor()).await.unwrap()
}

/// Waits until a call waits for an advisory lock.
async fn waits(world: &World) {
    eventually("a call waits for the lock", PATIENCE, || async {
        world
            .count("pg_locks WHERE locktype = 'advisory' AND NOT granted")
            .await
            > 0
    })
    .await;
}

#[tokio::test]
async fn a_key_is_activated_when_every_instance_has_loaded_it() {
    let world = world().await;
    let (cluster, both) = (world.cluster(), [generation(1), generation(2)]);
    cluster.register(&instance(1, &both)).await.unwrap();
    let behind = instance(2, &both[..1]);
    cluster.register(&behind).await.unwrap();
    let refused = Activation::NotLoaded(vec!["test 2".to_owned()]);
    assert_eq!(activate(&world, 2).await, refused);
    cluster
        .report_keyring(behind.registration, &both)
        .await
        .unwrap();
    assert_eq!(activate(&world, 2).await, Activation::Done);

    // An instance makes new keys with the first of its keys.
    let using = Retirement::UsedBy(vec!["test 1".to_owned(), "test 2".to_owned()]);
    assert_eq!(retire(&world, 1).await, using);
    let newest_first = [generation(2), generation(1)];
    for number in [1, 2] {
        let id = instance(number, &[]).registration;
        cluster.report_keyring(id, &newest_first).await.unwrap();
    }
    assert_eq!(retire(&world, 1).await, Retirement::Done);
    let found = world.store.keyring_use().await.unwrap().instances;
    assert!(found.iter().all(|instance| instance.loaded == newest_first));
    assert_eq!(found.len(), 2);
}

#[tokio::test]
async fn an_instance_without_a_required_key_does_not_register() {
    let world = world().await;
    let cluster = world.cluster();
    let refused = cluster.register(&instance(1, &[generation(2)])).await;
    let Err(StoreError::Unavailable(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("lacks generation-1"), "{why}");
    // One that is only loaded elsewhere is not required.
    cluster
        .register(&instance(1, &[generation(1)]))
        .await
        .unwrap();
    assert_eq!(world.count("instances").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_waits_for_a_registration_that_has_begun() {
    let world = world().await;
    let mut hand = world.connect().await;
    hand.run("BEGIN").await.unwrap();
    hand.run(
        "INSERT INTO instances (boot_id, name, max_staleness, loaded_keys)
         VALUES (gen_random_uuid(), 'joins', 2000, '{generation-1}')",
    )
    .await
    .unwrap();
    let store = world.store.clone();
    let activating = tokio::spawn(async move { store.activate(generation(2), &actor()).await });
    waits(&world).await;
    hand.run("COMMIT").await.unwrap();
    let refused = Activation::NotLoaded(vec!["joins".to_owned()]);
    assert_eq!(activating.await.unwrap().unwrap(), refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_waits_for_a_key_that_is_being_stored() {
    let world = world().await;
    assert_eq!(activate(&world, 2).await, Activation::Done);
    let mut hand = world.connect().await;
    hand.run("BEGIN").await.unwrap();
    hand.run(
        "INSERT INTO caller_tokens (token_id, digest, generation, name, roles, create_time)
         VALUES (gen_random_uuid(), sha256('x'), 1, 'late', 'admin', now())",
    )
    .await
    .unwrap();
    let store = world.store.clone();
    let retiring = tokio::spawn(async move { store.retire(generation(1), &actor()).await });
    waits(&world).await;
    hand.run("COMMIT").await.unwrap();
    let needed = Retirement::Needed(Needs {
        tokens: 1,
        ..Needs::default()
    });
    assert_eq!(retiring.await.unwrap().unwrap(), needed);
}
