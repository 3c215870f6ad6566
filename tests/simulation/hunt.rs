//! Calls at the moments that matter: what one instance in trouble answers about a key that another one
//! revokes meanwhile.

use std::sync::Arc;
use std::time::Duration;

use keyward::cache::Consistency;
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

/// Some changes in a short time, on other instances than `index`.
pub(crate) async fn burst(world: &Arc<World>, index: usize) {
    for _ in 0..world.random.between(1, 6) {
        let key = recent(world, &world.keys.lock());
        if let (Some(key), Some(other)) = (key, other(world, index)) {
            let (client, revokes) = (client(world, &other), world.random.chance(50));
            tokio::spawn(async move {
                match revokes {
                    true => drop(client.revoke(&key, (false, Duration::ZERO), false).await),
                    false => drop(client.update(&key, false).await),
                }
            });
        }
        sleep(Duration::from_millis(world.random.below(150))).await;
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
    let others = instances.iter().flatten().filter(|other| other.index != index);
    let others: Vec<_> = others.cloned().collect();
    world.random.pick(&others).cloned()
}
