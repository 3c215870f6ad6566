//! The use of keys over the ends of processes: a kill loses at most an interval, a stop loses nothing, and
//! instances add up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward::system::SystemClock;
use keyward_core::key::Clock as _;
use keyward_proto::v1::{ApiKey, Verdict};
use keyward_testkit::{Client, Cluster, Options, PATIENCE, Process, eventually};

use crate::{BINARY, fresh_directory, serve};

const INTERVAL: Duration = Duration::from_secs(2);

fn seconds() -> i64 {
    SystemClock.wall().as_micros() / 1_000_000
}

fn last_use(key: &ApiKey) -> i64 {
    key.last_use_time.map_or(0, |time| time.seconds)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_loses_at_most_an_interval_of_use() {
    let (_directory, data) = fresh_directory();
    let mut command = Process::command(BINARY, &data);
    command.env("KEYWARD_USE_INTERVAL", "2s");
    let mut process = Process::start(command, &data);
    let client = process.client().await;
    let mut keys = Vec::new();
    for number in 0..20 {
        keys.push(client.issue("42", &format!("slot-{number}")).await.unwrap());
    }
    let ends = Arc::<AtomicBool>::default();
    let callers = keys.iter().map(|(_, key)| {
        let (client, key, ends) = (client.clone(), key.clone(), Arc::clone(&ends));
        tokio::spawn(async move {
            while !ends.load(Ordering::Relaxed) && client.verify(&key).await.is_ok() {}
        })
    });
    let callers: Vec<_> = callers.collect();
    tokio::time::sleep(3 * INTERVAL).await;
    let killed = seconds();
    process.kill();
    ends.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let mut process = serve(&data);
    let client = process.client().await;
    // A second is rounded, and one is for a busy machine.
    let lost_at_most = i64::try_from(INTERVAL.as_secs()).unwrap() + 2;
    let lost = keys.iter().map(async |(id, _)| {
        let lost = killed - last_use(&client.get(id).await.unwrap());
        assert!(lost <= lost_at_most, "{lost} s are lost");
        lost
    });
    let lost = futures_util::future::join_all(lost).await;
    println!("lost at most {:?} s of use", lost.iter().max());
    assert!(process.stop().success());
}

/// Verifies a key so often on an instance.
async fn verify(client: &Client, key: &str, times: usize, expected: Verdict) {
    for _ in 0..times {
        assert_eq!(client.verdict(key).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_note_the_same_keys() {
    let options = Options {
        variables: vec![("KEYWARD_USE_INTERVAL", "1s".to_owned())],
        ..Options::default()
    };
    let mut cluster = Cluster::start(BINARY, 2, options);
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let mut keys = Vec::new();
    for number in 0..10 {
        let live = clients[0]
            .issue("42", &format!("live-{number}"))
            .await
            .unwrap();
        let dead = clients[0]
            .issue("42", &format!("dead-{number}"))
            .await
            .unwrap();
        clients[0].revoke(&dead.0).await.unwrap();
        keys.push((live, dead));
    }
    let start = seconds();
    for _ in 0..3 {
        for client in &clients {
            for (live, dead) in &keys {
                verify(client, &live.1, 1, Verdict::Valid).await;
                verify(client, &dead.1, 2, Verdict::Revoked).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    for (live, dead) in &keys {
        eventually("the refusals add up", PATIENCE, async || {
            clients[1].get(&dead.0).await.unwrap().refused_count == 12
        })
        .await;
        let live = clients[0].get(&live.0).await.unwrap();
        assert!(last_use(&live) >= start, "{live:?}");
        assert_eq!(live.refused_count, 0);
    }
    cluster.stop_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_on_postgres_loses_no_use() {
    let mut cluster = Cluster::start(BINARY, 2, Options::default());
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let mut keys = Vec::new();
    // More than one statement writes.
    for number in 0..600 {
        keys.push(
            clients[0]
                .issue("42", &format!("slot-{number}"))
                .await
                .unwrap(),
        );
    }
    for (_, key) in &keys {
        verify(&clients[0], key, 1, Verdict::Valid).await;
    }
    clients[1].revoke(&keys[0].0).await.unwrap();
    verify(&clients[0], &keys[0].1, 3, Verdict::Revoked).await;
    cluster.stop(0);
    let listed = clients[1].list("42").await.unwrap();
    assert_eq!(listed.len(), keys.len());
    assert!(listed.iter().all(|key| key.last_use_time.is_some()));
    assert_eq!(clients[1].get(&keys[0].0).await.unwrap().refused_count, 3);
    cluster.stop_all();
}
