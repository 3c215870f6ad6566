//! `failover_loses_nothing`: what holds while commits wait for a standby, and while they do not.

use keyward_proto::v1::Verdict;
use keyward_testkit::{
    Client, Cluster, Options, PATIENCE, Postgres, eventually, http_get, patiently,
};
use tonic::{Code, Status};

use super::{
    BINARY, advance_epoch, fail_over, issued, replicate_synchronously, revoke_unsettled,
    with_standby,
};

async fn start(postgres: Vec<(&'static str, &'static str)>) -> (Cluster, [Client; 2]) {
    let options = Options {
        postgres,
        variables: vec![("KEYWARD_FAILOVER_LOSES_NOTHING", "true".to_owned())],
        ..with_standby()
    };
    let cluster = Cluster::start(BINARY, 2, options);
    let clients = [cluster.client(0).await, cluster.client(1).await];
    (cluster, clients)
}

/// Fails over to the standby, which waits for a standby of its own from its first commit on.
async fn fail_over_to_a_pair(cluster: &Cluster) -> Postgres {
    let promoted = cluster.standby();
    let setting = "synchronous_standby_names";
    promoted.configure(setting, "standby").await;
    fail_over(cluster).await;
    promoted.standby()
}

/// Asserts that nothing is confirmed, because no standby is waited for.
#[track_caller]
fn assert_no_standby<T>(outcome: Result<T, Status>) {
    let status = outcome.map(drop).unwrap_err();
    let why = "synchronous_standby_names is empty";
    assert!(status.message().contains(why), "{status}");
    assert_eq!(status.code(), Code::Unavailable);
}

async fn assert_settled(cluster: &Cluster, settled: u8) {
    let shown = format!("\nkeyward_epoch_settled {settled}\n");
    for number in cluster.running() {
        let http = cluster.instance(number).http;
        eventually("the metric follows", PATIENCE, async || {
            http_get(http, "/metrics").await.contains(&shown)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_counts_as_settled_where_a_failover_loses_nothing() {
    let (mut cluster, clients) = start(vec![("synchronous_standby_names", "standby")]).await;
    let keys = issued(&clients[0], 4).await;
    patiently(async || clients[1].revoke(&keys[0].0).await).await;
    let _second = fail_over_to_a_pair(&cluster).await;
    for (client, (id, _)) in clients.iter().zip(&keys[1..]) {
        let receipt = patiently(async || {
            let outcome = client.revoke(id).await;
            if let Err(status) = &outcome {
                assert!(!status.message().contains("failed over"), "{status}");
            }
            outcome
        })
        .await;
        assert!(receipt.confirmed_instances > 0, "{receipt:?}");
    }
    for client in &clients {
        for (_, text) in &keys[..3] {
            let verdict = patiently(async || client.verify(text).await).await;
            assert_eq!(verdict, Verdict::Revoked);
        }
    }
    assert_settled(&cluster, 1).await;
    // It only counts as settled: no process has waited for a minute.
    let unnamed = "SELECT settled_timeline = 1 AND pg_walfile_name(pg_current_wal_insert_lsn())
                          LIKE '00000002%' FROM log_state";
    cluster.standby().wait_for(unnamed).await;
    advance_epoch(&cluster);
    revoke_unsettled(&clients[0], &keys[3].0).await;
    cluster.stop_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_standby_is_waited_for_nothing_is_confirmed_and_the_next_failover_can_lose() {
    let (mut cluster, clients) = start(Vec::new()).await;
    let setting = "synchronous_standby_names";
    let keys = issued(&clients[0], 4).await;
    let [changed, again, later, live] = &keys[..] else {
        panic!("four keys")
    };
    assert_no_standby(clients[0].revoke(&changed.0).await);
    replicate_synchronously(&cluster).await;
    patiently(async || clients[0].revoke(&changed.0).await).await;
    assert_settled(&cluster, 1).await;

    cluster.postgres.configure(setting, "").await;
    for client in &clients {
        assert_no_standby(client.revoke(&again.0).await);
        assert_no_standby(client.disable(&later.0, true).await);
    }
    assert_settled(&cluster, 0).await;
    // The changes are committed, and all else goes on.
    issued(&clients[0], 1).await;
    for client in &clients {
        for (key, verdict) in [
            (again, Verdict::Revoked),
            (later, Verdict::Disabled),
            (live, Verdict::Valid),
        ] {
            eventually("the change holds", PATIENCE, async || {
                client.verify(&key.1).await.ok() == Some(verdict)
            })
            .await;
        }
    }
    replicate_synchronously(&cluster).await;
    patiently(async || clients[0].revoke(&again.0).await).await;
    assert_settled(&cluster, 1).await;

    // Rows that were written meanwhile may be lost.
    cluster.postgres.configure(setting, "").await;
    for client in &clients {
        assert_no_standby(client.revoke(&again.0).await);
    }
    let _second = fail_over_to_a_pair(&cluster).await;
    for client in &clients {
        revoke_unsettled(client, &later.0).await;
    }
    cluster.stop_all();
}
