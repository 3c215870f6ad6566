//! Faults of Postgres: restarted, killed, paused, stopped, and with a transaction that does not
//! end.

use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{
    Client, Cluster, Load, Options, PATIENCE, Postgres, eventually, http_get, now, patiently,
};
use sqlx::Connection;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use super::{BINARY, Plan, TOO_LONG, issued, pass, recovery, tell};

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_postgres_restarted() {
    Plan::new("postgres restarted")
        .run(async |cluster: &mut Cluster, load: &Load| {
            for _ in 0..3 {
                load.wait_for_ends(5).await;
                cluster.postgres.restart();
            }
            load.wait_for_ends(5).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_postgres_killed() {
    Plan::new("postgres killed")
        .run(async |cluster: &mut Cluster, load: &Load| {
            for down in [0, 500, 0] {
                load.wait_for_ends(5).await;
                cluster.postgres.kill();
                pass(Duration::from_millis(down)).await;
                cluster.postgres.start_again();
            }
            load.wait_for_ends(5).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_postgres_paused_for_too_long() {
    Plan::new("postgres paused")
        .run(async |cluster: &mut Cluster, load: &Load| {
            for _ in 0..2 {
                load.wait_for_ends(5).await;
                cluster.postgres.pause();
                pass(TOO_LONG).await;
                cluster.postgres.resume();
            }
            load.wait_for_ends(5).await;
        })
        .await;
}

/// One session looks at the keys as they were and does not go on; another holds a key's row.
#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_long_transactions_open() {
    Plan::new("long transactions")
        .run(async |cluster: &mut Cluster, load: &Load| {
            let client = cluster.client(0).await;
            let (held, text) = issued(&client).await;
            let url = cluster.postgres.superuser_url();
            let (mut reader, mut holder) =
                (Postgres::connect(&url).await, Postgres::connect(&url).await);
            let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM api_keys";
            sqlx::raw_sql(snapshot).execute(&mut reader).await.unwrap();
            let mut row = holder.begin().await.unwrap();
            let hold = "SELECT FROM api_keys WHERE key_id = $1::uuid FOR UPDATE";
            sqlx::query(hold)
                .bind(&held)
                .execute(&mut *row)
                .await
                .unwrap();
            load.wait_for_ends(40).await;
            pass(TOO_LONG).await;
            let alive = client.verdict(&text).await;
            assert_eq!(
                alive,
                Verdict::Valid,
                "who reads does not wait for the holder"
            );
            row.rollback().await.unwrap();
            sqlx::raw_sql("ROLLBACK")
                .execute(&mut reader)
                .await
                .unwrap();
            patiently(async || client.revoke(&held).await).await;
            assert_eq!(client.verdict(&text).await, Verdict::Revoked);
        })
        .await;
}

/// What an instance says of a key while Postgres is away: VALID, or that it cannot tell. Never
/// anything else, and nothing at all from the bound on. Returns how long it was VALID.
async fn assert_goes_on_and_then_stops(client: &Client, known: &str, unknown: &str) -> Duration {
    let away = now();
    let mut last_valid = Duration::ZERO;
    let mut refusals = 0;
    while away.elapsed() < TOO_LONG || refusals <= 20 {
        let began = away.elapsed();
        match client.verify(known).await {
            Ok(verdict) => {
                assert_eq!(verdict, Verdict::Valid);
                assert_eq!(refusals, 0, "nothing made it fresh again");
                last_valid = began;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert_eq!(status.get_details_error_info().unwrap().reason, "NOT_FRESH");
                refusals += 1;
            }
        }
        if refusals % 20 == 0 {
            let status = client.verify(unknown).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
        pass(Duration::from_millis(10)).await;
    }
    tell("postgres away, last VALID after", last_valid);
    assert!(last_valid < Duration::from_millis(2_300), "{last_valid:?}");
    last_valid
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_away_cached_keys_go_on_until_the_bound_and_nothing_is_called_dead() {
    let mut cluster = Cluster::start(BINARY, 2, Options::default());
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let mut longest = Duration::ZERO;
    for way in [Postgres::stop, Postgres::kill] {
        // The second is in no instance's memory.
        let ((_, known), (_, unknown)) = (issued(&clients[0]).await, issued(&clients[0]).await);
        for client in &clients {
            assert_eq!(client.verdict(&known).await, Verdict::Valid);
        }
        way(&cluster.postgres);
        let valid = tokio::join!(
            assert_goes_on_and_then_stops(&clients[0], &known, &unknown),
            assert_goes_on_and_then_stops(&clients[1], &known, &unknown),
        );
        longest = longest.max(valid.0).max(valid.1);
        for (number, client) in clients.iter().enumerate() {
            let http = cluster.instance(number).http;
            assert!(http_get(http, "/readyz").await.starts_with("HTTP/1.1 503"));
            assert!(http_get(http, "/livez").await.starts_with("HTTP/1.1 200"));
            assert_eq!(client.health().await, ServingStatus::NotServing);
            let revoked = client.revoke("01890000-0000-7000-8000-000000000000").await;
            assert_eq!(revoked.unwrap_err().code(), Code::Unavailable);
        }
        cluster.postgres.start_again();
        for client in &clients {
            let took = recovery(client, &known).await;
            tell("postgres back, fresh again after", took);
            for key in [&known, &unknown] {
                assert_eq!(client.verdict(key).await, Verdict::Valid);
            }
            eventually("health follows", PATIENCE, async || {
                client.health().await == ServingStatus::Serving
            })
            .await;
        }
    }
    // A heartbeat may have been due just then, on a busy machine: the best of four.
    assert!(longest > Duration::from_millis(900), "{longest:?}");
    cluster.stop_all();
}
