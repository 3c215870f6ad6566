//! A stop by SIGTERM: calls in progress are answered, and no acknowledged change is lost.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyward_proto::v1::{Role, Verdict};
use keyward_testkit::requests::{by_text, replacing};
use keyward_testkit::{
    Client, Faults, Local, PATIENCE, connect, eventually, http_get, now, refused,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::{fresh_directory, serve};

/// With nobody who holds it up, a stop does not take the grace of ten seconds.
const PROMPT: Duration = Duration::from_secs(9);

/// A service whose tail can be stalled, and that stays fresh without it.
async fn stalling() -> (Local, Arc<Faults>) {
    Local::start_stalling(|settings| settings.max_staleness = Duration::from_secs(60)).await
}

/// Waits until the store has answered so many revokes: from then on they wait for the tail.
async fn revoked_in_the_store(side: SocketAddr, count: usize) {
    let line = format!(
        "keyward_store_call_duration_seconds_count{{call=\"revoke\",outcome=\"ok\"}} {count}\n"
    );
    eventually(&line, PATIENCE, async || {
        http_get(side, "/metrics").await.contains(&line)
    })
    .await;
}

/// What one caller got until its first error.
struct Calls {
    acknowledged: Vec<String>,
    ended_by: tonic::Status,
}

async fn issue_until_it_fails(client: Client, caller: usize, done: Arc<AtomicUsize>) -> Calls {
    let mut acknowledged = Vec::new();
    loop {
        let account = format!("{caller}-{}", acknowledged.len());
        let issued = match client.issue(&account, "").await {
            Ok((_, key)) => client.verify(&key).await.map(|verdict| (key, verdict)),
            Err(status) => Err(status),
        };
        match issued {
            Ok((key, verdict)) => {
                assert_eq!(verdict, Verdict::Valid);
                acknowledged.push(key);
                done.fetch_add(1, Ordering::Relaxed);
            }
            Err(ended_by) => {
                return Calls {
                    acknowledged,
                    ended_by,
                };
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_traffic_loses_no_acknowledged_call() {
    let (_directory, data) = fresh_directory();
    let mut process = serve(&data);
    let mut health = HealthClient::new(connect(process.grpc).await);
    let watch = health.watch(HealthCheckRequest::default()).await;
    let mut watch = watch.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let done = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for n in 0..4 {
        let client = process.client().await;
        callers.push(tokio::spawn(issue_until_it_fails(
            client,
            n,
            Arc::clone(&done),
        )));
    }
    eventually("keys are issued", PATIENCE, async || {
        done.load(Ordering::Relaxed) >= 50
    })
    .await;

    let stopping = now();
    // The second one does no harm.
    process.begin_stop();
    process.begin_stop();
    let next = watch.message().await.unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
    let mut ends = BTreeMap::new();
    let mut acknowledged = Vec::new();
    for caller in callers {
        let calls = caller.await.unwrap();
        let status = &calls.ended_by;
        // In the middle of a stop a connection goes away; a call says so and nothing else. A status
        // with a source is tonic's own: a call that meets the GOAWAY is INTERNAL and was never sent.
        assert!(
            status.source().is_some()
                || [Code::Unavailable, Code::Cancelled].contains(&status.code()),
            "{status:?}"
        );
        *ends.entry(format!("{:?}", status.code())).or_insert(0) += 1;
        acknowledged.extend(calls.acknowledged);
    }
    assert!(process.stop().success(), "{}", process.output());
    let took = stopping.elapsed();
    assert!(took < PROMPT, "{took:?}, with a watch of health open");
    println!(
        "{} keys, callers ended {ends:?} in {took:?}",
        acknowledged.len()
    );
    assert!(
        !data.join("keyward.db-wal").exists(),
        "the database was not closed"
    );

    let mut process = serve(&data);
    let client = process.client().await;
    for key in &acknowledged {
        assert_eq!(client.verify(key).await.unwrap(), Verdict::Valid);
    }
    assert!(process.stop().success());
}

/// Connections that send nothing, or half a preface, do not delay the stop for ever.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_hold_up_the_stop() {
    let (_directory, data) = fresh_directory();
    let mut process = serve(&data);
    let mut silent = Vec::new();
    for (port, half) in [
        (process.grpc, ""),
        (process.grpc, "PRI * HTTP/2.0\r\n"),
        (process.http, ""),
        (process.http, "GET /metr"),
        (process.http, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(port).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(process.stop().success(), "{}", process.output());
    drop(silent);
    serve(&data);
}

/// A revoke that cannot be confirmed any more ends with a reason, not with its connection; and a
/// store that does not answer does not keep the process alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_that_waits_at_the_stop_ends_as_unconfirmed() {
    let (local, faults) = stalling().await;
    let client = local.client().await;
    let side = local.app.http_address().unwrap();
    let (id, _) = client.issue("42", "").await.unwrap();
    faults.tail.close();
    faults.tail.is_holding().await;
    let revoke = tokio::spawn(async move { client.revoke(&id).await });
    revoked_in_the_store(side, 1).await;
    let stop = local.app.stop();
    let stopped = tokio::time::timeout(PATIENCE, stop).await;
    assert!(stopped.is_ok(), "the stop hangs");
    let status = revoke.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let reason = status.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("REVOKE_UNCONFIRMED"));
}

/// Who found a key's text may kill the key, and learns nothing of it, not even from an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_reporter_waiting_at_the_stop_learns_no_successor() {
    let (local, faults) = stalling().await;
    let side = local.app.http_address().unwrap();
    let issuer = local.client().await;
    let reporter = local.client_as(&[Role::Reporter]).await;
    let (id, key) = issuer.issue("42", "").await.unwrap();
    faults.tail.close();
    faults.tail.is_holding().await;
    let mut ends = Vec::new();
    for (client, request) in [(issuer, replacing(&id)), (reporter, by_text(&key))] {
        ends.push(tokio::spawn(async move { client.send(request).await }));
        revoked_in_the_store(side, ends.len()).await;
    }
    local.app.stop().await;
    for (end, told) in ends.into_iter().zip([true, false]) {
        let end = end.await.unwrap();
        let why = refused(end, Code::Unavailable, "REVOKE_UNCONFIRMED");
        assert_eq!(why.contains_key("replacement_key_id"), told, "{why:?}");
    }
}

/// A load balancer that checks the side port sends no more calls to a stopping instance.
#[tokio::test(flavor = "multi_thread")]
async fn while_calls_end_the_side_port_says_that_it_is_stopping() {
    let (local, faults) = stalling().await;
    let side = local.app.http_address().unwrap();
    let client = local.client().await;
    let (id, _) = client.issue("42", "").await.unwrap();
    assert!(http_get(side, "/readyz").await.starts_with("HTTP/1.1 200"));
    faults.tail.close();
    faults.tail.is_holding().await;
    let revoke = tokio::spawn(async move { client.revoke(&id).await });
    revoked_in_the_store(side, 1).await;
    let Local {
        app,
        directory: _directory,
        ..
    } = local;
    let stop = tokio::spawn(app.stop());
    let mut ready = http_get(side, "/readyz").await;
    while ready.starts_with("HTTP/1.1 200") {
        tokio::time::sleep(Duration::from_millis(5)).await;
        ready = http_get(side, "/readyz").await;
    }
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("stopping"), "{ready}");
    assert!(http_get(side, "/livez").await.starts_with("HTTP/1.1 200"));
    faults.tail.open();
    assert_eq!(revoke.await.unwrap().unwrap().confirmed_instances, 1);
    stop.await.unwrap();
}
