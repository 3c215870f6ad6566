//! Clients that do not finish what they began, and a stop meanwhile.

use keyward_testkit::{eventually, http_get, now};

use super::*;

const REQUEST: &str = "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_arrive_in_time_is_ended() {
    let (local, _client) = start().await;
    let port = local.app.rest_address().unwrap();
    let verify = |lines: &str, body: &str| verify(&local, &format!("{JSON}{lines}"), body);
    let half_body = verify("content-length: 14\r\n", "{\"api");
    let half_chunk = verify("transfer-encoding: chunked\r\n", "e\r\n{\"api");
    let huge = verify(
        "transfer-encoding: chunked\r\n",
        "ffffffffffffffff\r\n{\"api",
    );
    let auth = "GET /auth HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n".to_owned();
    let mut cases = tokio::task::JoinSet::new();
    for (name, bytes, wanted) in [
        ("nothing", String::new(), None),
        (
            "half a head",
            "GET /nothing HTTP/1.1\r\nhos".to_owned(),
            None,
        ),
        (
            "a head without its end",
            "GET /nothing HTTP/1.1\r\nx: ".to_owned(),
            None,
        ),
        ("half a preface", "PRI * HTTP/2.0\r\n".to_owned(), None),
        ("half a body", half_body, Some(408)),
        ("half a chunk", half_chunk, Some(408)),
        ("a part of a chunk of 2^64 - 1", huge, Some(408)),
        ("a body that nobody needs", auth, Some(503)),
    ] {
        cases.spawn(async move {
            let (mut wire, begun) = (Wire::open(port).await, now());
            wire.send(&bytes).await;
            if name == "a head without its end" {
                // A byte each second, for as long as the service takes them.
                while begun.elapsed() < PATIENCE && wire.send("x").await {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            let answer = wire.response(false).await;
            let status = answer.as_ref().map(|answer| answer.status);
            assert_eq!(status, wanted, "{name}: {answer:?}");
            if let Some(answer) = answer.filter(|answer| answer.status == 408) {
                assert!(answer.body.contains("REQUEST_UNFINISHED"), "{answer:?}");
            }
            assert!(wire.response(false).await.is_none(), "{name}: it is closed");
        });
    }
    is_honest(&local).await;
    while let Some(ended) = cases.join_next().await {
        ended.unwrap();
    }
    is_honest(&local).await;
}

/// Of the connections at a stop, those that wait for a request are closed, whole requests are
/// answered, and neither waits for the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_calls_and_closes_what_is_idle() {
    let change = |settings: &mut keyward::config::Settings| {
        settings.max_staleness = Duration::from_secs(60);
        settings.drain_delay = Duration::from_secs(2);
    };
    let (local, faults) = Local::start_stalling(change).await;
    let client = local.client().await;
    let (id, _) = client.issue("42", "").await.unwrap();
    let (port, side) = (
        local.app.rest_address().unwrap(),
        local.app.http_address().unwrap(),
    );
    let body = format!("{{\"keyId\":\"{id}\"}}");
    let revoke = verify(
        &local,
        &format!("{JSON}content-length: {}\r\n", body.len()),
        &body,
    );
    let revoke = revoke.replace("keys:verify", "keys:revoke");

    let mut fresh = Wire::open(port).await;
    fresh.send("GET /nothing HTTP/1.1\r\nhos").await;
    let mut half = Wire::open(port).await;
    half.send(REQUEST).await;
    half.response(false).await.unwrap();
    half.send("GET /nothing HTTP/1.1\r\nhos").await;
    let mut idle = Wire::open(port).await;
    faults.tail.close();
    faults.tail.is_holding().await;
    let mut busy = Wire::open(port).await;
    // A further request behind the call in progress.
    busy.send(revoke + REQUEST).await;
    let Local {
        app,
        directory: _directory,
        ..
    } = local;
    let stopping = tokio::spawn(app.stop());
    eventually("the stop has begun", PATIENCE, async || {
        http_get(side, "/readyz").await.contains("503")
    })
    .await;
    // During the drain delay old and new connections are served.
    for wire in [&mut idle, &mut Wire::open(port).await] {
        wire.send(REQUEST).await;
        assert_eq!(wire.response(false).await.unwrap().status, 404);
    }
    for (name, wire) in [
        ("fresh", &mut fresh),
        ("half", &mut half),
        ("idle", &mut idle),
    ] {
        assert!(wire.response(false).await.is_none(), "{name}");
    }
    assert!(!stopping.is_finished());
    faults.tail.open();
    let answer = busy.response(false).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    assert!(busy.response(false).await.is_none());
    stopping.await.unwrap();
}
