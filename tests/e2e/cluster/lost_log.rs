//! A log that lost its tail, as after an asynchronous failover or a restored backup. Instances that
//! had applied it refuse it, no lost change is confirmed, and service continues when an operator
//! advances the epoch.

use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{
    Cluster, Options, PATIENCE, Postgres, Process, eventually, http_get, patiently,
};
use sqlx::AssertSqlSafe;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use super::{BINARY, clients, issued, pass, recovery};
use crate::failover::{assert_unsettled, settle};

/// Takes the last change of a key back, past every trigger: key and log are as they were before.
async fn lose_last_change(cluster: &Cluster, key_id: &str) {
    let sql = format!(
        "BEGIN;
         ALTER TABLE api_keys DISABLE TRIGGER ALL;
         ALTER TABLE key_changes DISABLE TRIGGER ALL;
         ALTER TABLE log_head DISABLE TRIGGER ALL;
         UPDATE api_keys SET revoke_time = NULL, revoked = false, revoke_reason = NULL, revision = 0,
                mark = NULL WHERE key_id = '{key_id}';
         DELETE FROM key_changes WHERE key_id = '{key_id}';
         UPDATE log_head SET revision = (SELECT max(revision) FROM key_changes);
         ALTER TABLE api_keys ENABLE ALWAYS TRIGGER api_keys_changed;
         ALTER TABLE key_changes ENABLE ALWAYS TRIGGER key_changes_in_order;
         ALTER TABLE log_head ENABLE ALWAYS TRIGGER log_head_follows;
         COMMIT"
    );
    let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut hand)
        .await
        .unwrap();
}

/// The ids of all rows of instances.
async fn rows(cluster: &Cluster) -> Vec<String> {
    let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
    let ids = sqlx::query_scalar("SELECT boot_id::text FROM instances");
    ids.fetch_all(&mut hand).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_tail_is_refused_until_the_epoch_is_advanced() {
    let mut cluster = Cluster::start(BINARY, 2, Options::default());
    let before = rows(&cluster).await;
    let clients = clients(&cluster).await;
    let (_, alive) = issued(&clients[0]).await;
    let (id, text) = issued(&clients[0]).await;
    for client in &clients {
        assert_eq!(client.verify(&text).await.unwrap(), Verdict::Valid);
        assert_eq!(client.verify(&alive).await.unwrap(), Verdict::Valid);
    }
    patiently(async || clients[0].revoke(&id).await).await;
    lose_last_change(&cluster, &id).await;
    for (number, client) in clients.iter().enumerate() {
        eventually("the loss is noticed", PATIENCE, async || {
            client.health().await == ServingStatus::NotServing
        })
        .await;
        // Freshness ends a moment before the reason is shown.
        let ready = async || http_get(cluster.instance(number).http, "/readyz").await;
        eventually("the reason is told", PATIENCE, async || {
            ready().await.contains("the log lost changes")
        })
        .await;
        assert!(ready().await.contains("epoch advance"));
        for key in [&text, &alive] {
            let refused = client.verify(key).await.unwrap_err();
            let reason = refused.get_details_error_info().unwrap().reason;
            assert_eq!(reason, "NOT_FRESH", "{refused}");
        }
        let said = cluster.instance(number).output();
        assert!(said.contains("the log lost changes"), "{said}");
    }
    // Changes on another instance do not wait for those that refuse: their rows are gone.
    let refusing = rows(&cluster).await;
    assert!(refusing.is_empty(), "{refusing:?}");
    let added = cluster.add();
    let added = cluster.client(added).await;
    let receipt = patiently(async || {
        let (id, _) = issued(&added).await;
        added.revoke(&id).await
    })
    .await;
    let counts = (receipt.confirmed_instances, receipt.waited_out_instances);
    assert_eq!(counts, (1, 0));
    // The refusal lasts while other changes are written.
    pass(Duration::from_secs(1)).await;
    assert_eq!(clients[0].health().await, ServingStatus::NotServing);

    let mut advance = cluster.operator();
    advance.args(["epoch", "advance", "--reason", "failover on the 25th"]);
    let (status, said) = Process::run_to_end(advance);
    assert!(status.success(), "{said}");
    for client in &clients {
        recovery(client, &alive).await;
        assert_eq!(client.verdict(&alive).await, Verdict::Valid);
        // The loss is what the operator has accepted: revoke again what was revoked since.
        assert_eq!(client.verdict(&text).await, Verdict::Valid);
    }
    // An instance may still be fresh without a row, as far as anybody knows.
    assert_unsettled(clients[1].revoke(&id).await);
    settle(&cluster.postgres).await;
    let receipt = patiently(async || clients[1].revoke(&id).await).await;
    assert_eq!(receipt.confirmed_instances, 3);
    for client in &clients {
        assert_eq!(client.verdict(&text).await, Verdict::Revoked);
    }
    // No instance goes on with the row of its old log.
    let after = rows(&cluster).await;
    assert!(before.iter().all(|row| !after.contains(row)), "{after:?}");
    let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
    let noted = "SELECT detail FROM audit WHERE action = 'epoch_advance'";
    let noted: Vec<String> = sqlx::query_scalar(noted)
        .fetch_all(&mut hand)
        .await
        .unwrap();
    assert_eq!(noted, ["failover on the 25th"]);
    // Not the next number, which the same backup would give again: what Redis keeps would fit it.
    let incarnation: i64 = sqlx::query_scalar("SELECT incarnation FROM log_state")
        .fetch_one(&mut hand)
        .await
        .unwrap();
    assert!(incarnation > 100, "{incarnation}");
    cluster.stop_all();
}

/// A Revoke waits for a paused instance; meanwhile its commit is lost. It must not say OK.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_whose_commit_is_lost_while_it_waits_is_not_confirmed() {
    let cluster = Cluster::start(BINARY, 2, Options::default());
    let client = cluster.client(0).await;
    let (id, _) = issued(&client).await;
    cluster.instance(1).pause();
    let revoking = {
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move { client.revoke(&id).await })
    };
    let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
    let committed = "SELECT EXISTS (SELECT FROM api_keys WHERE key_id = $1::uuid AND revision > 0)";
    let begun = keyward_testkit::now();
    while !sqlx::query_scalar::<_, bool>(committed)
        .bind(&id)
        .fetch_one(&mut hand)
        .await
        .unwrap()
    {
        assert!(begun.elapsed() < PATIENCE, "it is never committed");
        pass(Duration::from_millis(5)).await;
    }
    lose_last_change(&cluster, &id).await;
    let refused = revoking.await.unwrap().unwrap_err();
    // The one when the loss is seen as the answer is put together, the other when it is confirmed.
    let reason = refused.get_details_error_info().unwrap().reason;
    assert!(
        ["OUTCOME_UNKNOWN", "REVOKE_UNCONFIRMED"].contains(&reason.as_str()),
        "{refused}"
    );
    cluster.instance(1).go_on();
}
