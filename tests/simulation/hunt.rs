//! Calls at the moments that matter: what one instance in trouble answers about a key that another one
//! revokes meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use keyward::cache::Consistency;
use keyward_store::{Actor, KeyTarget, Keys, Revocation};
use keyward_store_memory::{Direct, MemoryStore};
use tokio::time::{sleep, timeout};

use crate::calls::Client;
use crate::instance::Instance;
use crate::run::recent;
use crate::world::{Known, World};

/// Starts the hunt for one of the newest keys on `instance`, which is about to get into trouble: the
/// instance caches the key, another one revokes it within `delay` milliseconds, and then it is verified
/// again and again.
pub(crate) async fn hunt(world: &Arc<World>, instance: &Arc<Instance>, delay: u64) {
    let Some(other) = other(world, instance.index) else {
        return;
    };
    let Some(key) = cached(world, instance).await else {
        return;
    };
    world.count("a hunt for a key");
    let prey = client(world, instance);
    let (hunter, delay) = (client(world, &other), world.random.below(delay));
    if world.random.chance(30) {
        let delay = world.random.between(150, 380);
        other.link.delay_next("revoke", delay);
    }
    let hunted = Arc::clone(&key);
    tokio::spawn(async move {
        sleep(Duration::from_millis(delay)).await;
        hunter.revoke(&hunted, (false, Duration::ZERO), false).await;
    });
    tokio::spawn(follow(Arc::clone(world), prey, key));
}

/// One of the newest keys, which `instance` then has in its cache.
pub(crate) async fn cached(world: &Arc<World>, instance: &Arc<Instance>) -> Option<Arc<Known>> {
    let key = recent(world, &world.keys.lock())?;
    client(world, instance)
        .verify(&key, Consistency::Default)
        .await;
    Some(key)
}

/// Another instance revokes a key, and `instance` verifies it all the time.
pub(crate) async fn lurk(world: &Arc<World>, instance: &Arc<Instance>, key: &Arc<Known>) {
    let Some(other) = other(world, instance.index) else {
        return;
    };
    let (prey, hunter) = (client(world, instance), client(world, &other));
    let hunted = Arc::clone(key);
    let delay = world.random.below(300);
    tokio::spawn(async move {
        sleep(Duration::from_millis(delay)).await;
        hunter.revoke(&hunted, (false, Duration::ZERO), false).await;
    });
    for _ in 0..100 {
        sleep(Duration::from_millis(world.random.between(5, 20))).await;
        let (prey, key) = (prey.clone(), Arc::clone(key));
        tokio::spawn(async move { prey.verify(&key, Consistency::Default).await });
    }
}

/// The others look at the membership late: at heartbeats from after they began to look.
pub(crate) fn look_late(world: &World, index: usize) {
    for other in world.instances.lock().iter().flatten() {
        if other.index != index {
            let delay = world.random.between(650, 800);
            other.link.delay_next("roster", delay);
        }
    }
}

/// Returns when `instance` is fresh. After a pause it needs another heartbeat than the one that it had sent.
pub(crate) async fn fresh(world: &World, instance: &Instance) {
    for _ in 0..400 {
        if instance.is_fresh(world) {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Returns when `instance` has just become fresh.
pub(crate) async fn heartbeat(instance: &Instance) {
    let answered = instance.link.heartbeat_answered.notified();
    // It may be in trouble already.
    let _ = timeout(Duration::from_secs(1), answered).await;
}

/// Revokes a key by `instance`. Returns when the server has run the revocation.
pub(crate) async fn revocation(world: &Arc<World>, instance: &Arc<Instance>) {
    let Some(key) = recent(world, &world.keys.lock()) else {
        return;
    };
    let revoker = client(world, instance);
    let revoked = instance.link.revoked.notified();
    tokio::spawn(async move { revoker.revoke(&key, (false, Duration::ZERO), false).await });
    let _ = timeout(Duration::from_secs(1), revoked).await;
}

async fn follow(world: Arc<World>, prey: Client, key: Arc<Known>) {
    for _ in 0..35 {
        sleep(Duration::from_millis(world.random.between(10, 200))).await;
        let (prey, key) = (prey.clone(), Arc::clone(&key));
        tokio::spawn(async move { prey.verify(&key, Consistency::Default).await });
    }
}

/// Some changes in a short time that no instance of the simulation makes, so that the log of a new epoch
/// grows although they refuse it.
pub(crate) async fn burst(world: &Arc<World>) {
    let actor = Actor {
        name: "operator".to_owned(),
        ..Actor::service()
    };
    let clock = Arc::clone(&world.server_clock);
    let store = MemoryStore::open(Arc::new(Direct(Arc::clone(&world.server))), clock);
    for _ in 0..world.random.between(1, 8) {
        if let Some(key) = recent(world, &world.keys.lock()) {
            world.judge.lock().dying(world.now(), key.id);
            let revocation = Revocation::Key {
                target: KeyTarget::Id(key.id),
                successor: None,
                grace: Duration::ZERO,
                reason: None,
            };
            // The store in memory without faults refuses nothing.
            let _ = store.revoke(revocation, &actor).now_or_never();
            world.observe();
        }
        sleep(Duration::from_millis(world.random.below(60))).await;
    }
}

pub(crate) fn client(world: &Arc<World>, instance: &Arc<Instance>) -> Client {
    Client {
        world: Arc::clone(world),
        instance: Arc::clone(instance),
    }
}

/// A running instance in another seat.
fn other(world: &World, index: usize) -> Option<Arc<Instance>> {
    let instances = world.instances.lock();
    let others = instances
        .iter()
        .flatten()
        .filter(|other| other.index != index);
    let others: Vec<_> = others.cloned().collect();
    world.random.pick(&others).cloned()
}
