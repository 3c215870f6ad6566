//! Calls at the moments that matter: what one instance in trouble answers about a key that another one
//! revokes meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use keyward::cache::Consistency;
use keyward_store::{Actor, KeyTarget, Keys, Revocation};
use keyward_store_memory::{Direct, MemoryStore};
use tokio::time::sleep;

use crate::calls::Client;
use crate::instance::Instance;
use crate::run::recent;
use crate::world::{Known, World};

/// Starts the hunt for one of the newest keys on `instance`, which is about to get into trouble: the
/// instance caches the key, another one revokes it, and then it is verified again and again.
pub(crate) async fn hunt(world: &Arc<World>, instance: &Arc<Instance>) {
    let key = recent(world, &world.keys.lock());
    let (Some(key), Some(other)) = (key, other(world, instance.index)) else {
        return;
    };
    world.count("a hunt for a key");
    let prey = client(world, instance);
    prey.verify(&key, Consistency::Default).await;
    let (hunter, delay) = (client(world, &other), world.random.below(800));
    let hunted = Arc::clone(&key);
    tokio::spawn(async move {
        sleep(Duration::from_millis(delay)).await;
        hunter.revoke(&hunted, (false, Duration::ZERO), false).await;
    });
    tokio::spawn(follow(Arc::clone(world), prey, key));
}

async fn follow(world: Arc<World>, prey: Client, key: Arc<Known>) {
    for _ in 0..50 {
        sleep(Duration::from_millis(world.random.between(10, 110))).await;
        let (prey, key) = (prey.clone(), Arc::clone(&key));
        tokio::spawn(async move { prey.verify(&key, Consistency::Default).await });
    }
}

/// Some changes in a short time that no instance of the simulation makes, so that the log of a new epoch
/// grows although they refuse it.
pub(crate) async fn burst(world: &Arc<World>) {
    let actor = Actor {
        token: None,
        name: "operator".to_owned(),
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

fn client(world: &Arc<World>, instance: &Arc<Instance>) -> Client {
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
