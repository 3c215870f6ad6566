//! Faults of instances: paused, killed, joining and leaving, disconnected, without notifications.

use std::time::Duration;

use keyward_testkit::{Cluster, Load, PATIENCE, eventually, http_get};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{Plan, TOO_LONG, issued, pass, recovery, tell};

/// A pause that is shorter than `max_staleness`.
const A_WHILE: Duration = Duration::from_millis(800);

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_when_all_is_well() {
    Plan::new("all is well")
        .run(async |_: &mut Cluster, load: &Load| {
            load.wait_for_ends(150).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_an_instance_paused_and_resumed() {
    Plan::new("an instance paused")
        .run(async |cluster: &mut Cluster, load: &Load| {
            // Not for long enough to forget: what is asked of it meanwhile it answers when it goes
            // on, out of a memory that is still fresh.
            for _ in 0..4 {
                cluster.instance(1).pause();
                pass(A_WHILE).await;
                cluster.instance(1).go_on();
                pass(A_WHILE / 2).await;
            }
            for number in [1, 0] {
                load.wait_for_ends(5).await;
                cluster.instance(number).pause();
                pass(TOO_LONG).await;
                cluster.instance(number).go_on();
                load.wait_for_ends(10).await;
            }
        })
        .await;
}

/// Killed instances are replaced; others join and leave regularly all the time.
#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_instances_killed_joining_and_leaving() {
    let plan = Plan {
        coming_and_going: true,
        ..Plan::new("instances come and go")
    };
    plan.run(async |cluster: &mut Cluster, load: &Load| {
        for round in 0..3 {
            let running = cluster.running();
            // The last two go; the first ones stay, and must wait for those that went.
            let [.., killed, stopped] = running[..] else {
                panic!("three run");
            };
            load.wait_for_ends(3).await;
            cluster.kill(killed);
            load.leave(killed);
            let joined = cluster.add();
            load.join(joined, cluster.client(joined).await);
            load.wait_for_ends(3).await;
            cluster.stop(stopped);
            load.leave(stopped);
            let joined = cluster.add();
            load.join(joined, cluster.client(joined).await);
            pass(Duration::from_millis(300 * round)).await;
        }
        load.wait_for_ends(20).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_an_instance_cut_off_which_says_so_and_comes_back() {
    let plan = Plan::with_proxies("an instance cut off");
    plan.run(async |cluster: &mut Cluster, load: &Load| {
        let client = cluster.client(0).await;
        let (_, text) = issued(&client).await;
        for _ in 0..2 {
            load.wait_for_ends(5).await;
            cluster.proxy(0).black_hole(true);
            pass(TOO_LONG).await;
            assert_eq!(client.health().await, ServingStatus::NotServing);
            let ready = http_get(cluster.instance(0).http, "/readyz").await;
            assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
            let refused = client.verify(&text).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
            // The others go on.
            load.wait_for_ends(5).await;
            cluster.proxy(0).black_hole(false);
            let took = recovery(&client, &text).await;
            tell("cut off, fresh again after", took);
            let others = cluster.client(1).await.health().await;
            assert_eq!(others, ServingStatus::Serving);
        }
        eventually("health follows", PATIENCE, async || {
            client.health().await == ServingStatus::Serving
        })
        .await;
    })
    .await;
}

/// As a connection that breaks, or a listener that is late, loses them.
#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_all_notifications_lost() {
    let plan = Plan::with_proxies("notifications lost");
    plan.run(async |cluster: &mut Cluster, load: &Load| {
        let numbers = cluster.running();
        let lost = || -> u64 {
            let proxies = numbers.iter().map(|number| cluster.proxy(*number));
            proxies.map(keyward_testkit::Proxy::dropped).sum()
        };
        let before = lost();
        for number in &numbers {
            cluster.proxy(*number).drop_notifications(true);
        }
        load.wait_for_ends(60).await;
        assert!(lost() > before, "there was nothing to lose");
        for number in &numbers {
            cluster.proxy(*number).drop_notifications(false);
        }
    })
    .await;
}
