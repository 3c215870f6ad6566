//! The floor of the store's time: it never falls by itself, and nobody waits for it.

use std::time::Duration;

use super::fresh;
use crate::world::{DAY, HOUR, World, end, kill};

#[tokio::test(flavor = "multi_thread")]
async fn the_time_does_not_fall_with_the_clock_of_the_server() {
    let world = World::new(fresh().await).await;
    world.clock.pass(HOUR);
    assert_eq!(world.raise_time_floor().await, Duration::ZERO);
    let before = world.now().await;
    world.clock.set_back(HOUR);
    assert_eq!(world.now().await, before);
    assert_eq!(world.raise_time_floor().await, HOUR);
    assert_eq!(world.plain("42").await.create_time, before);
    world.clock.pass(2 * HOUR);
    assert_eq!(world.now().await, before.plus(HOUR));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_floor_is_not_waited_for() {
    let world = World::new(fresh().await).await;
    world.raise_time_floor().await;
    let mut hand = world.connect().await;
    hand.run("BEGIN; SELECT FROM log_state FOR UPDATE")
        .await
        .unwrap();
    world.clock.pass(HOUR);
    let before = world.read("SELECT time_floor::text FROM log_state").await;
    assert_eq!(world.raise_time_floor().await, Duration::ZERO);
    assert_eq!(
        world.read("SELECT time_floor::text FROM log_state").await,
        before
    );
    hand.run("COMMIT").await.unwrap();
    world.raise_time_floor().await;
    assert_ne!(
        world.read("SELECT time_floor::text FROM log_state").await,
        before
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_floor_is_lowered_on_purpose_alone_and_not_while_a_grace_runs() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    world.revoke(end(key.id, DAY)).await;
    let lower = "UPDATE log_state SET time_floor = time_floor - interval '1 second'";
    let lowered = format!("{lower}, time_lowered = time_lowered + 1");
    world.refused(lower, "log_state only rises").await;
    world.refused(&lowered, "only when no grace runs").await;
    world.revoke(kill(key.id)).await;
    world.refused(lower, "log_state only rises").await;
    assert_eq!(world.by_hand(&lowered).await, 1);
}
