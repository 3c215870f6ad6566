//! Failover of Postgres: a standby is promoted with all commits, or without the last ones; and a primary
//! that answers reads but cannot commit, like one that was replaced.

mod declared;
mod restored;
mod standby_gone;

use std::time::Duration;

use futures_util::future::join_all;
use keyward_proto::v1::{Role, Verdict};
use keyward_testkit::requests::{by_account, by_text, disabling, slot};
use keyward_testkit::{
    Client, Cluster, Options, PATIENCE, Postgres, Process, eventually, now, patiently, refused,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::BINARY;

/// More than the bound of the largest `max_staleness`.
const LONGEST_WAIT: Duration = Duration::from_secs(62);

pub(crate) fn with_standby() -> Options {
    Options {
        standby: true,
        ..Options::default()
    }
}

/// Makes the primary wait for its standby at each commit.
pub(crate) async fn replicate_synchronously(cluster: &Cluster) {
    let postgres = &cluster.postgres;
    postgres
        .configure("synchronous_standby_names", "standby")
        .await;
    postgres
        .wait_for("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")
        .await;
}

/// Kills the primary and promotes its standby.
pub(crate) async fn fail_over(cluster: &Cluster) {
    cluster.postgres.kill();
    cluster.standby().promote().await;
}

/// Runs `keyward epoch advance`.
fn advance_epoch(cluster: &Cluster) {
    let mut advance = cluster.operator();
    advance.args(["epoch", "advance", "--reason", "failover or restore"]);
    let (status, said) = Process::run_to_end(advance);
    assert!(status.success(), "{said}");
}

/// Names the present epoch of `server` as settled, as a process does that has waited for a minute.
pub(crate) async fn settle(server: &Postgres) {
    server
        .execute(
            "UPDATE log_state SET settled_incarnation = incarnation, settled_timeline =
                 ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer",
        )
        .await;
}

/// Asserts that a change is committed, but not confirmed, because the epoch is not settled.
#[track_caller]
pub(crate) fn assert_unsettled<T: std::fmt::Debug>(outcome: Result<T, Status>) {
    let status = outcome.as_ref().expect_err("the epoch is not settled");
    assert!(status.message().contains("failed over"), "{status}");
    let retry = status
        .get_details_retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!(retry < LONGEST_WAIT, "{retry:?}");
    refused(outcome, Code::Unavailable, "REVOKE_UNCONFIRMED");
}

/// Revokes until the outcome is another one than that no proof was possible meanwhile.
async fn revoke_unsettled(client: &Client, key_id: &str) {
    let mut outcome = client.revoke(key_id).await;
    let begun = now();
    while let Err(status) = &outcome
        && status.get_details_retry_info().is_none()
        && begun.elapsed() < PATIENCE
    {
        outcome = client.revoke(key_id).await;
    }
    assert_unsettled(outcome);
}

async fn issued(client: &Client, count: usize) -> Vec<(String, String)> {
    let accounts: Vec<_> = (0..count).map(|n| format!("{n} {:?}", now())).collect();
    let issues = accounts
        .iter()
        .map(|account| async move { patiently(async || client.issue(account, "").await).await });
    join_all(issues).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_failover_loses_no_revoke() {
    let mut cluster = Cluster::start(BINARY, 2, with_standby());
    replicate_synchronously(&cluster).await;
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let keys = issued(&clients[0], 20).await;
    let (revoked, live) = keys.split_at(19);
    for (id, _) in revoked {
        patiently(async || clients[1].revoke(id).await).await;
    }
    fail_over(&cluster).await;
    let begun = now();
    issued(&clients[0], 1).await;
    println!("writes again after {:?}", begun.elapsed());
    for client in &clients {
        for (_, text) in revoked {
            let verdict = patiently(async || client.verify(text).await).await;
            assert_eq!(verdict, Verdict::Revoked);
        }
        let verdict = patiently(async || client.verify(&live[0].1).await).await;
        assert_eq!(verdict, Verdict::Valid);
    }
    // It is committed, so it holds soon, but an instance without a row might still be fresh.
    revoke_unsettled(&clients[0], &live[0].0).await;
    for client in &clients {
        eventually("the key is dead", PATIENCE, async || {
            client.verify(&live[0].1).await.ok() == Some(Verdict::Revoked)
        })
        .await;
    }
    settle(cluster.standby()).await;
    let receipt = patiently(async || clients[0].revoke(&live[0].0).await).await;
    assert_eq!(receipt.confirmed_instances, 2, "{receipt:?}");
    cluster.stop_all();
}

/// The instances have applied revisions that the new primary gives to other changes.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_of_a_lost_history_confirms_no_revoke() {
    let mut cluster = Cluster::start(BINARY, 2, with_standby());
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let keys = issued(&clients[0], 10).await;
    let (lost, later) = keys.split_at(5);
    let standby = cluster.standby();
    standby.wait_for("SELECT count(*) = 10 FROM api_keys").await;
    standby.stop_following().await;
    for (id, _) in lost {
        patiently(async || clients[0].revoke(id).await).await;
    }
    fail_over(&cluster).await;
    let added = cluster.add();
    let added = cluster.client(added).await;
    for (id, _) in later {
        revoke_unsettled(&added, id).await;
    }
    settle(cluster.standby()).await;
    // The instances that refuse their log have deleted their rows, so that no Revoke waits for them.
    eventually("their rows are gone", PATIENCE, async || {
        let receipt = patiently(async || added.revoke(&later[0].0).await).await;
        (receipt.confirmed_instances, receipt.waited_out_instances) == (1, 0)
    })
    .await;
    for client in &clients {
        for (_, text) in &keys {
            refused(client.verify(text).await, Code::Unavailable, "NOT_FRESH");
        }
    }
    // A start later than the loss cannot know of it.
    assert_eq!(added.verdict(&lost[0].1).await, Verdict::Valid);

    advance_epoch(&cluster);
    for client in &clients {
        let verdict = patiently(async || client.verify(&later[0].1).await).await;
        assert_eq!(verdict, Verdict::Revoked);
    }
    revoke_unsettled(&clients[0], &lost[0].0).await;
    settle(cluster.standby()).await;
    let receipt = patiently(async || clients[0].revoke(&lost[0].0).await).await;
    assert_eq!(receipt.confirmed_instances, 3, "{receipt:?}");
    for client in clients.iter().chain([&added]) {
        assert_eq!(client.verdict(&lost[0].1).await, Verdict::Revoked);
    }
    cluster.stop_all();
}

/// A primary that was replaced answers reads. What it shows may have changed on the new primary.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_changes_nothing_needs_a_primary_that_can_commit() {
    let options = Options {
        max_staleness: Duration::from_secs(3),
        ..Options::default()
    };
    let mut cluster = Cluster::start(BINARY, 1, options);
    let client = cluster.client(0).await;
    let (id, _) = client.issue("42", "").await.unwrap();
    let (gone, gone_text) = client.issue("gone", "").await.unwrap();
    let token = client.token("finder", &[Role::Reporter]).await.unwrap();
    let reporter = Client::new(cluster.grpc(0), Some(&token)).await;
    let delete = format!("DELETE FROM api_keys WHERE key_id = '{gone}'");
    cluster.postgres.execute(&delete).await;
    let all = async || {
        let outcomes = tokio::join!(
            client.send(slot("42")),
            client.send(by_account("none")),
            client.send(disabling(&id, false)),
            reporter.send(by_text(&gone_text)),
        );
        [
            ("issue", outcomes.0.map(drop)),
            ("an account", outcomes.1.map(drop)),
            ("update", outcomes.2.map(drop)),
            ("a report", outcomes.3.map(drop)),
        ]
    };
    for (what, outcome) in all().await {
        outcome.unwrap_or_else(|status| panic!("{what}: {status}"));
    }
    let postgres = &cluster.postgres;
    postgres
        .configure("synchronous_standby_names", "absent")
        .await;
    let hangs = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
    postgres.wait_for(hangs).await;
    for (what, outcome) in all().await {
        let status = outcome.expect_err(what);
        assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
    }
    postgres.configure("synchronous_standby_names", "").await;
    for (what, outcome) in all().await {
        if let Err(status) = outcome {
            assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
        }
    }
    patiently(async || client.revoke(&id).await).await;
    cluster.stop_all();
}

/// The old primary stays reachable, answers reads, and is the first host. Nobody has stopped it.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_primaries_the_one_on_the_higher_timeline_is_used() {
    let mut cluster = Cluster::start(BINARY, 2, with_standby());
    replicate_synchronously(&cluster).await;
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let keys = issued(&clients[0], 2).await;
    cluster.standby().promote().await;
    // Without its standby, the old primary cannot commit.
    issued(&clients[0], 1).await;
    settle(cluster.standby()).await;
    patiently(async || clients[0].revoke(&keys[0].0).await).await;
    for client in &clients {
        let verdict = patiently(async || client.verify(&keys[0].1).await).await;
        assert_eq!(verdict, Verdict::Revoked);
    }
    let replaced = "another primary is on timeline 2";
    eventually("it is told loudly", PATIENCE, async || {
        cluster.instance(0).output().contains(replaced)
    })
    .await;
    let added = cluster.add();
    let added = cluster.client(added).await;
    assert_eq!(added.verdict(&keys[0].1).await, Verdict::Revoked);
    cluster.stop_all();
}
