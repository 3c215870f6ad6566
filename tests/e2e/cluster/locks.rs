//! Sessions of others that lock rows: which calls wait, what their callers get, and who is named.

use futures_util::future::join_all;
use keyward_proto::v1::Verdict;
use keyward_testkit::{Cluster, Options, PATIENCE, Postgres, User, eventually, patiently, refused};
use sqlx::{Connection, PgConnection};
use tonic::Code;

use super::{BINARY, issued};

/// A session of an administrator with an open transaction, and the id of its server process.
async fn session(cluster: &Cluster, name: &str) -> (PgConnection, i32) {
    let url = format!(
        "{}?application_name={name}",
        cluster.postgres.superuser_url()
    );
    let mut session = Postgres::connect(&url).await;
    sqlx::raw_sql("BEGIN").execute(&mut session).await.unwrap();
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()");
    let pid = pid.fetch_one(&mut session).await.unwrap();
    (session, pid)
}

async fn run(session: &mut PgConnection, sql: &'static str, id: &str) {
    let done = sqlx::query(sql).bind(id).execute(session).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
}

const LOCK: &str = "SELECT FROM api_keys WHERE key_id = $1::uuid FOR UPDATE";
const CHANGE: &str = "UPDATE api_keys SET disabled = true WHERE key_id = $1::uuid";

/// Waits until the log of the instance names the session.
async fn is_named(cluster: &Cluster, pid: i32, name: &str) {
    eventually("the log names the session", PATIENCE, async || {
        let output = cluster.instance(0).output();
        output.lines().any(|line| {
            let named = [format!("pid={pid}"), format!("application=\"{name}\"")];
            let told = ["user=\"postgres\"", "idle in transaction", "since=\"20"];
            named.iter().all(|part| line.contains(part))
                && told.iter().all(|part| line.contains(part))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_key_delays_its_own_revoke_and_its_holder_is_named() {
    let cluster = Cluster::start(BINARY, 2, Options::default());
    let grant = format!("GRANT pg_read_all_stats TO {}", User::Service.name());
    cluster.postgres.execute(&grant).await;
    let client = cluster.client(0).await;
    let (locked, _) = issued(&client).await;
    let others = join_all((0..40).map(|_| issued(&client))).await;
    let (mut holder, pid) = session(&cluster, "holder").await;
    run(&mut holder, LOCK, &locked).await;
    let waiting = {
        let (client, locked) = (client.clone(), locked.clone());
        tokio::spawn(async move { client.revoke(&locked).await })
    };
    // Answered while the row is locked.
    for receipt in join_all(others.iter().map(|(id, _)| client.revoke(id))).await {
        assert_eq!(receipt.unwrap().confirmed_instances, 2);
    }
    assert!(!waiting.is_finished());
    refused(waiting.await.unwrap(), Code::Unavailable, "STORE_LOCKED");
    is_named(&cluster, pid, "holder").await;
    holder.close().await.unwrap();
    let receipt = client.revoke(&locked).await.unwrap();
    assert_eq!(receipt.revoked_count, 1);
}

/// A change by hand holds what every change needs, until its transaction ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_change_by_hand_delays_revokes_for_a_bounded_time_and_is_named() {
    let cluster = Cluster::start(BINARY, 1, Options::default());
    let grant = format!("GRANT pg_read_all_stats TO {}", User::Service.name());
    cluster.postgres.execute(&grant).await;
    let client = cluster.client(0).await;
    let ((changed, _), (other, _)) = (issued(&client).await, issued(&client).await);
    let (mut changer, pid) = session(&cluster, "changer").await;
    run(&mut changer, CHANGE, &changed).await;
    let revokes = join_all((0..20).map(|_| client.revoke(&other)));
    let issues = async {
        for _ in 0..20 {
            issued(&client).await;
        }
    };
    let (revokes, ()) = tokio::join!(revokes, issues);
    for revoke in revokes {
        refused(revoke, Code::Unavailable, "STORE_LOCKED");
    }
    is_named(&cluster, pid, "changer").await;
    changer.close().await.unwrap();
    let receipt = client.revoke(&other).await.unwrap();
    assert_eq!(receipt.confirmed_instances, 1);
}

/// The instances register again under new rows. The locked rows are skipped until they are free.
#[tokio::test(flavor = "multi_thread")]
async fn locked_rows_of_instances_delay_revokes_by_their_bound() {
    let mut cluster = Cluster::start(BINARY, 2, Options::default());
    let client = cluster.client(0).await;
    let (id, text) = issued(&client).await;
    let (mut holder, _) = session(&cluster, "holder").await;
    let lock = sqlx::raw_sql("SELECT FROM instances FOR UPDATE");
    lock.execute(&mut holder).await.unwrap();
    let registered = "SELECT count(*) >= 4 FROM instances";
    cluster.postgres.wait_for(registered).await;
    let receipt = patiently(async || client.revoke(&id).await).await;
    assert!(receipt.waited_out_instances >= 2, "{receipt:?}");
    for number in cluster.running() {
        let client = cluster.client(number).await;
        let verdict = patiently(async || client.verify(&text).await).await;
        assert_eq!(verdict, Verdict::Revoked);
    }
    holder.close().await.unwrap();
    let deleted = "SELECT count(*) = 2 FROM instances";
    cluster.postgres.wait_for(deleted).await;
    let receipt = patiently(async || client.revoke(&id).await).await;
    assert_eq!(receipt.waited_out_instances, 0, "{receipt:?}");
    cluster.stop_all();
}
