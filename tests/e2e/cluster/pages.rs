//! A log that grows by more than a page at once: keys in use stay in the caches, on the instances that run
//! and on those that start.

use keyward_proto::v1::Verdict;
use keyward_testkit::{Cluster, Options, PATIENCE, Redis, eventually};

use super::redis::{HIT, counted};
use super::{BINARY, clients, issued};

/// How often each of how many keys changes: more often than a page has rows.
const CHANGES: (u64, u64) = (105, 100);
const APPLIED: &str = "keyward_applied_revision";
/// Lookups that memory could not answer, and entries of Redis that the fence did not admit.
const COLD: [&str; 3] = [
    "keyward_cache_total{cache=\"key\",outcome=\"miss\"}",
    "keyward_cache_total{cache=\"key\",outcome=\"refused\"}",
    "keyward_l2_total{outcome=\"refused\"}",
];

async fn cold(cluster: &Cluster) -> [u64; 3] {
    let [missed, refused, refused_of_redis] = COLD;
    [
        counted(cluster, missed).await,
        counted(cluster, refused).await,
        counted(cluster, refused_of_redis).await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_warm_over_more_changes_than_a_page_has_and_over_a_start() {
    let redis = Redis::start();
    let mut cluster = Cluster::start(BINARY, 2, Options::with_redis(redis.url()));
    let running = clients(&cluster).await;
    let (_, warm) = issued(&running[0]).await;
    let names: Vec<_> = (0..CHANGES.1).map(|n| format!("slot-{n}")).collect();
    let busy = names.iter().map(|name| running[0].issue("busy", name));
    futures_util::future::try_join_all(busy).await.unwrap();
    assert_eq!(running[0].verdict(&warm).await, Verdict::Valid);
    // Redis gets the entry after the answer.
    eventually("the entry is shared", PATIENCE, async || {
        running[1].verdict(&warm).await == Verdict::Valid && counted(&cluster, HIT).await > 0
    })
    .await;
    let before = cold(&cluster).await;
    let (times, keys) = CHANGES;
    let change = format!(
        "DO $$ BEGIN
             FOR n IN 1..{times} LOOP
                 UPDATE api_keys SET disabled = NOT disabled WHERE account_id = 'busy';
             END LOOP;
         END $$"
    );
    cluster.postgres.execute(&change).await;
    eventually("all have applied them", PATIENCE, async || {
        counted(&cluster, APPLIED).await >= 2 * times * keys
    })
    .await;
    for client in &running {
        assert_eq!(client.verdict(&warm).await, Verdict::Valid);
    }
    assert_eq!(cold(&cluster).await, before);

    let hits = counted(&cluster, HIT).await;
    let added = cluster.add();
    let client = cluster.client(added).await;
    assert_eq!(client.verdict(&warm).await, Verdict::Valid);
    assert_eq!(counted(&cluster, HIT).await, hits + 1);
    assert_eq!(cold(&cluster).await, [before[0] + 1, before[1], before[2]]);
    cluster.stop_all();
}
