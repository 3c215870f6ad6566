//! What no seed shows, because another safeguard prevents it.

use std::time::Duration;

use crate::hunt::heartbeat;
use crate::run::simulated;
use crate::world::World;

/// The rows of an instance that may be fresh are never deleted, except by hand.
#[test]
fn an_instance_whose_row_was_deleted_by_hand_is_not_fresh() {
    simulated(async {
        let world = World::new(1, false).await;
        world.boot(0).await;
        let instance = world.instance().unwrap();
        heartbeat(&instance).await;
        world.server.alter(|database| database.forget_instances());
        heartbeat(&instance).await;
        // It cannot register again.
        instance.link.change(|weather| weather.is_cut = true);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!instance.is_fresh(&world));
    });
}
