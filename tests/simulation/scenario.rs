//! What seeds show seldom or never: another safeguard prevents it, or it needs several events within
//! milliseconds.

use std::sync::Arc;
use std::time::Duration;

use keyward::cache::Consistency;
use keyward_core::key::Verdict;
use keyward_store::Expiry;
use tokio::time::sleep;

use crate::calls::Client;
use crate::faults::Fault;
use crate::hunt::{client, fresh, heartbeat};
use crate::instance::Instance;
use crate::run::simulated;
use crate::world::{INSTANCES, Known, World};

/// The shortest `max_staleness` of a seat.
const SHORT: Duration = Duration::from_millis(800);
const NOW: (bool, Duration) = (false, Duration::ZERO);

/// Two instances, and a key that the second one has in its cache.
struct Two {
    world: Arc<World>,
    clients: [Client; 2],
    second: Arc<Instance>,
    key: Arc<Known>,
}

impl Two {
    async fn start() -> Self {
        for seed in 0.. {
            let world = World::new(seed, false).await;
            if world.seats[1].max_staleness != SHORT || !world.seats[1].has_l1 {
                continue;
            }
            world.boot(0).await;
            world.boot(1).await;
            let instances: Vec<_> = world.instances.lock().iter().flatten().cloned().collect();
            let [first, second] = &instances[..] else {
                unreachable!("two have started")
            };
            let clients = [first, second].map(|instance| client(&world, instance));
            let key = clients[0].issue("a", "one", Expiry::Never).await.unwrap();
            let second = Arc::clone(second);
            let two = Self {
                world,
                clients,
                second,
                key,
            };
            assert_eq!(two.ask_second().await, Some(Verdict::Valid));
            return two;
        }
        unreachable!("some seed has such a seat")
    }

    async fn ask_second(&self) -> Option<Verdict> {
        let verdict = self.clients[1].verify(&self.key, Consistency::Default);
        verdict.await
    }

    async fn revoke(&self) {
        assert!(self.clients[0].revoke(&self.key, NOW, false).await);
    }
}

/// The registration of an instance takes long. Meanwhile no change waits for it, so it needs a page from after the
/// registration.
#[test]
fn freshness_needs_a_page_from_after_the_registration() {
    for pause in (0..300).step_by(25) {
        simulated(async {
            let two = Two::start().await;
            two.second.link.delay_next("register", 350);
            two.world
                .server
                .alter(|database| database.forget_instances());
            while two.second.is_fresh(&two.world) {
                sleep(Duration::from_millis(5)).await;
            }
            sleep(Duration::from_millis(pause)).await;
            let registered = async {
                heartbeat(&two.second).await;
                two.second.link.change(|weather| weather.is_cut = true);
            };
            tokio::join!(two.revoke(), registered);
            assert_ne!(two.ask_second().await, Some(Verdict::Valid), "{pause}");
        });
    }
}

/// An instance becomes fresh while a commit is on its way, and is cut off before it.
#[test]
fn a_wait_counts_from_the_answer_of_the_commit() {
    simulated(async {
        let two = Two::start().await;
        heartbeat(&two.second).await;
        let first = two.world.instances.lock()[0].clone().unwrap();
        first.link.delay_next("revoke", 350);
        let cut = async {
            heartbeat(&two.second).await;
            two.second.link.change(|weather| weather.is_cut = true);
        };
        tokio::join!(two.revoke(), cut);
        assert_ne!(two.ask_second().await, Some(Verdict::Valid));
    });
}

/// An instance was silent for so long that changes did not wait for it. It becomes fresh, and is cut off before
/// another one has seen its heartbeat.
#[test]
fn a_silent_instance_that_is_fresh_again_is_waited_for() {
    for pause in (2_000..3_000).step_by(100) {
        simulated(async {
            let two = Two::start().await;
            two.second.link.change(|weather| weather.is_paused = true);
            sleep(Duration::from_millis(pause)).await;
            two.second.link.change(|weather| weather.is_paused = false);
            fresh(&two.world, &two.second).await;
            two.second.link.change(|weather| weather.is_cut = true);
            two.revoke().await;
            assert_ne!(two.ask_second().await, Some(Verdict::Valid), "{pause}");
        });
    }
}

/// A process sleeps when its revocation has committed, and a failover loses the change.
#[test]
fn a_change_that_a_failover_lost_is_not_confirmed() {
    for seed in 0..20 {
        simulated(async {
            let world = World::new(seed, false).await;
            if world.failover_loses_nothing {
                return;
            }
            for index in 0..INSTANCES {
                world.boot(index).await;
            }
            let client = client(&world, &world.instance().unwrap());
            for account in ["a", "b", "c"] {
                let key = client.issue(account, "one", Expiry::Never).await.unwrap();
                client.verify(&key, Consistency::Default).await;
            }
            Fault::Sleep.happen(&world).await;
            sleep(Duration::from_secs(5)).await;
            let (violations, _) = world.judge.lock().finish();
            assert!(violations.is_empty(), "{seed}: {violations:#?}");
        });
    }
}

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
        sleep(Duration::from_millis(50)).await;
        assert!(!instance.is_fresh(&world));
    });
}
