//! Synchronous replication without its standby: no commit is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{Cluster, Options, PATIENCE, Postgres, eventually, now, patiently};
use sqlx::PgConnection;
use tokio::task::JoinSet;

use super::{BINARY, clients, issued, pass, tell};

/// The connections of an instance, and as many processes that it has given up and that are ending.
const LIMIT: i64 = 14 + 14;
/// Long enough to give up the connections of an instance several times.
const AWAY: Duration = Duration::from_secs(16);

async fn count(connection: &mut PgConnection, which: &'static str) -> i64 {
    let count = sqlx::query_scalar(which).fetch_one(connection).await;
    count.unwrap()
}

/// The server's processes for the instances.
const ALL: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'keyward_service'";
/// Those that wait for the standby.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

async fn set_standby(cluster: &Cluster, setting: &str) {
    let alter = format!("ALTER SYSTEM {setting}");
    for statement in [&alter, "SELECT pg_reload_conf()"] {
        cluster.postgres.execute(statement).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_synchronous_standby_an_instance_does_not_use_up_the_connections() {
    let cluster = Cluster::start(BINARY, 2, Options::default());
    let clients = clients(&cluster).await;
    let (kept, text) = issued(&clients[0]).await;
    let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
    set_standby(&cluster, "SET synchronous_standby_names = 'missing'").await;

    let mut traffic = JoinSet::new();
    let calls = Arc::new(AtomicUsize::new(0));
    for n in 0..16 {
        let (client, calls, kept) = (clients[n % 2].clone(), Arc::clone(&calls), kept.clone());
        traffic.spawn(async move {
            loop {
                let number = calls.fetch_add(1, Ordering::Relaxed);
                // Nothing is answered now.
                let _ = client.issue(&format!("account-{number}"), "").await;
                let _ = client.disable(&kept, number.is_multiple_of(2)).await;
                pass(Duration::from_millis(20)).await;
            }
        });
    }
    let (begun, mut most, mut waited) = (now(), 0, 0);
    while begun.elapsed() < AWAY {
        most = most.max(count(&mut hand, ALL).await);
        waited = waited.max(count(&mut hand, WAITING).await);
        pass(Duration::from_millis(20)).await;
    }
    traffic.shutdown().await;
    tell(
        "without the standby: processes, those that waited",
        (most, waited),
    );
    assert!(waited > 2, "{waited}");
    assert!(most <= 2 * LIMIT, "{most}");

    set_standby(&cluster, "RESET synchronous_standby_names").await;
    for client in &clients {
        patiently(async || client.revoke(&kept).await).await;
        assert_eq!(client.verdict(&text).await, Verdict::Revoked);
    }
    eventually(
        "only the instances' connections are left",
        PATIENCE,
        async || {
            let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
            count(&mut hand, ALL).await <= 2 * 14 && count(&mut hand, WAITING).await == 0
        },
    )
    .await;
}

/// Each answer of a distant server takes a while, and a connection needs several.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_needs_100_ms_for_a_round_trip_costs_no_freshness() {
    let options = Options {
        proxies: true,
        ..Options::default()
    };
    let cluster = Cluster::start(BINARY, 1, options);
    let client = cluster.client(0).await;
    let (_, text) = issued(&client).await;
    assert_eq!(client.verdict(&text).await, Verdict::Valid);
    let proxy = cluster.proxy(0);
    proxy.delay(Duration::from_millis(100));
    for _ in 0..3 {
        // All connections are opened again.
        proxy.cut();
        let begun = now();
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(client.verify(&text).await.unwrap(), Verdict::Valid);
            pass(Duration::from_millis(20)).await;
        }
    }
}
