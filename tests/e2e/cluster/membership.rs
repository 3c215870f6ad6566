//! The ack set: a Revoke waits for a killed instance until it is reaped, and not for an instance
//! that has left.

use std::time::Duration;

use futures_util::future::join_all;
use keyward_proto::v1::RevokeResponse;
use keyward_testkit::{
    Client, Cluster, Options, PATIENCE, Postgres, eventually, http_get, now, patiently,
};

use super::{BINARY, issued, tell};

/// A Revoke that waits for an unresponsive instance takes longer than this.
const FAST: Duration = Duration::from_millis(1_200);

async fn registered(cluster: &Cluster) -> i64 {
    let mut connection = Postgres::connect(&cluster.postgres.superuser_url()).await;
    let count = sqlx::query_scalar("SELECT count(*) FROM instances");
    count.fetch_one(&mut connection).await.unwrap()
}

/// Revokes a new key: the receipt, and how long that took.
async fn revoke(client: &Client) -> (RevokeResponse, Duration) {
    let (id, _) = issued(client).await;
    let begun = now();
    let receipt = patiently(async || client.revoke(&id).await).await;
    (receipt, begun.elapsed())
}

/// Revokes until one takes less than [`FAST`], because the machine may be busy.
async fn fast_revoke(client: &Client) -> Duration {
    for _ in 0..10 {
        let (_, took) = revoke(client).await;
        if took < FAST {
            return took;
        }
    }
    panic!("every revoke takes longer than {FAST:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_is_waited_for_until_it_is_reaped() {
    let mut cluster = Cluster::start(BINARY, 3, Options::default());
    let client = cluster.client(0).await;
    assert_eq!(registered(&cluster).await, 3);
    let healthy = fast_revoke(&client).await;

    cluster.kill(2);
    let (receipt, took) = revoke(&client).await;
    // It might have answered all that time, as far as anybody could know.
    assert!(took > FAST, "{took:?}");
    assert_eq!(
        receipt.confirmed_instances + receipt.waited_out_instances,
        3,
        "{receipt:?}"
    );
    let reaped = eventually("the row of the dead goes", PATIENCE, async || {
        registered(&cluster).await == 2
    })
    .await;
    let after = fast_revoke(&client).await;
    tell("revoke: healthy, killed, reaped", (healthy, took, after));
    tell("reaped so long after that", reaped);
    let (receipt, _) = revoke(&client).await;
    let counts = (receipt.confirmed_instances, receipt.waited_out_instances);
    assert_eq!(counts, (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_leaves_at_once() {
    let mut cluster = Cluster::start(BINARY, 3, Options::default());
    let client = cluster.client(0).await;
    for left in [2, 1] {
        cluster.stop(usize::try_from(left).unwrap());
        assert_eq!(registered(&cluster).await, left);
        let (receipt, took) = revoke(&client).await;
        assert_eq!(receipt.waited_out_instances, 0, "{took:?}");
        assert_eq!(i64::from(receipt.confirmed_instances), left);
    }
    fast_revoke(&client).await;
    cluster.stop(0);
    assert_eq!(registered(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_joins_counts_from_then_on() {
    let mut cluster = Cluster::start(BINARY, 1, Options::default());
    for count in 2..4 {
        let number = cluster.add();
        assert_eq!(registered(&cluster).await, count);
        let (receipt, _) = revoke(&cluster.client(number).await).await;
        let counts = (receipt.confirmed_instances, receipt.waited_out_instances);
        assert_eq!(counts, (u32::try_from(count).unwrap(), 0));
    }
}

/// What confirms a change confirms all that are due.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_revokes_shares_one_watcher() {
    const CROWD: usize = 400;
    let cluster = Cluster::start(BINARY, 2, Options::default());
    let client = cluster.client(0).await;
    let issued: Vec<_> = (0..CROWD).map(|_| issued(&client)).collect();
    let issued = join_all(issued).await;
    let revokes = issued.iter().map(|(id, _)| {
        let client = client.clone();
        async move { patiently(async || client.revoke(id).await).await }
    });
    let receipts = join_all(revokes).await;
    for receipt in receipts {
        let counts = (receipt.confirmed_instances, receipt.waited_out_instances);
        assert_eq!(counts, (2, 0));
    }
    let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
    let confirms = "SELECT sum(confirms)::bigint FROM instances";
    let confirms: i64 = sqlx::query_scalar(confirms)
        .fetch_one(&mut hand)
        .await
        .unwrap();
    tell("confirmations of 400 changes", confirms);
    assert!(confirms < 100, "{confirms}");
}

/// Dashboards select the store calls by these labels.
#[tokio::test(flavor = "multi_thread")]
async fn store_calls_of_a_cluster_keep_their_labels() {
    let cluster = Cluster::start(BINARY, 1, Options::default());
    revoke(&cluster.client(0).await).await;
    for call in ["register", "beat", "roster", "confirm"] {
        let labels = format!("{{call=\"{call}\",outcome=\"ok\"}}");
        let line = format!("keyward_store_call_duration_seconds_count{labels}");
        // A call without work for it comes later.
        eventually(call, PATIENCE, async || {
            let metrics = http_get(cluster.instance(0).http, "/metrics").await;
            metrics.contains(&line)
        })
        .await;
    }
}
