//! What connections of HTTP may hold: at a limit work is refused, and others are served.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use keyward_testkit::http_get;

use super::*;
use crate::limits::{BUDGET, budget_is_free, issue_long_list, soon, start_with, unread};

struct Unread(SendRequest<Bytes>);

impl Unread {
    async fn open(port: SocketAddr) -> Self {
        Self(unread(port).await.0)
    }

    async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> ResponseFuture {
        let mut request = Request::get(format!("http://keyward{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.0 = self.0.clone().ready().await.unwrap();
        let sent = self.0.send_request(request.body(()).unwrap(), true);
        sent.unwrap().0
    }
}

async fn with_budget() -> (Local, Client, SocketAddr) {
    let (local, client) = start_with(|settings| settings.max_buffered_bytes = BUDGET).await;
    let port = local.app.rest_address().unwrap();
    (local, client, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_a_mebibyte_is_refused() {
    let (local, _client) = start().await;
    let port = local.app.rest_address().unwrap();
    let body = format!("{{\"apiKey\":\"{}\"}}", "x".repeat(2 << 20));
    let sized = format!("{JSON}content-length: {}\r\n", body.len());
    let sized = verify(&local, &sized, &body);
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let chunked = verify(
        &local,
        &format!("{JSON}transfer-encoding: chunked\r\n"),
        &chunked,
    );
    let announced = sized.split_inclusive("\r\n\r\n").next().unwrap();
    for (name, bytes) in [
        ("sized", &*sized),
        ("chunked", &chunked),
        ("only announced", announced),
        (
            "only announced, and expected",
            &announced.replace("host: x", "host: x\r\nexpect: 100-continue"),
        ),
    ] {
        let mut wire = Wire::open(port).await;
        wire.send(bytes).await;
        let answer = wire.response(false).await;
        assert_eq!(answer.map(|answer| answer.status), Some(413), "{name}");
        assert!(
            wire.response(false).await.is_none(),
            "{name}: the rest is not read"
        );
        is_honest(&local).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_bodies_over_the_budget_are_refused_while_others_are_served() {
    let (local, client, port) = with_budget().await;
    let lines = "content-type: application/json\r\ncontent-length: 1048576\r\n";
    let unfinished = verify(&local, lines, &"x".repeat(900 << 10));
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let unfinished = unfinished.clone();
        crowd.spawn(async move {
            let mut wire = Wire::open(port).await;
            wire.send(unfinished).await;
            (wire.response(false).await, wire)
        });
    }
    let (answer, wire) = soon(crowd.join_next()).await.unwrap().unwrap();
    let answer = answer.unwrap();
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.header("retry-after").is_some() && answer.body.contains("OVER_LIMIT"));
    is_honest(&local).await;
    drop((crowd, wire));
    budget_is_free(&client).await;
}

/// A caller's own lists fill its part of the budget. A page of the document that every stranger may
/// read does not fill that of the callers.
#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_are_counted() {
    let (local, client, port) = with_budget().await;
    issue_long_list(&client).await;
    let bearer = format!("Bearer {}", local.token);
    let mut caller = Unread::open(port).await;
    let mut unread = Vec::new();
    loop {
        let headers = [("authorization", &*bearer)];
        let list = caller.get("/v1/keys?accountId=42", &headers).await;
        let answer = soon(list).await.unwrap();
        match answer.status().as_u16() {
            200 => unread.push(answer),
            status => break assert_eq!(status, 429, "{answer:?}"),
        }
        assert!(unread.len() < 6, "unread answers are not counted");
    }
    assert!(unread.len() >= 2, "{}", unread.len());
    is_honest(&local).await;

    let mut strangers = Vec::new();
    for _ in 0..4 {
        let mut stranger = Unread::open(port).await;
        for _ in 0..100 {
            let answer = soon(stranger.get("/openapi.json", &[]).await).await;
            unread.push(answer.unwrap());
        }
        strangers.push(stranger);
    }
    assert!(unread.iter().any(|answer| answer.status() == 429));
    // Nobody has read anything yet.
    client.verify(&"x".repeat(900_000)).await.unwrap();
    drop((unread, strangers, caller));
    budget_is_free(&client).await;
}

/// What a stranger sends while its token is looked up counts, with the headers that no call takes.
#[tokio::test(flavor = "multi_thread")]
async fn the_heads_of_strangers_are_counted() {
    let change = |settings: &mut keyward::config::Settings| {
        settings.max_staleness = Duration::from_secs(60);
        settings.max_buffered_bytes = 64 << 10;
    };
    let (local, faults) = Local::start_stalling(change).await;
    let client = local.client().await;
    let token = client.token("late", &[Role::Verifier]).await.unwrap();
    let bearer = format!("Bearer {token}");
    let long = "x".repeat(12 << 10);
    let headers = [("authorization", &*bearer), ("x-long", &long)];
    faults.record.close();
    let mut stranger = Unread::open(local.app.rest_address().unwrap()).await;
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let answer = stranger.get("/v1/keys?accountId=42", &headers).await;
        held.spawn(answer);
    }
    let refused = soon(held.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(refused.status(), 429);
    faults.record.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_room_for_callers() {
    let change = |settings: &mut keyward::config::Settings| settings.max_connections = 20;
    let local = Local::start_with(change, |store| store).await;
    let port = local.app.rest_address().unwrap();
    let mut idle = Vec::new();
    for n in 0..100 {
        let mut wire = Wire::open(port).await;
        // Idle from the start, after a request, and in the middle of one.
        match n % 3 {
            0 => {}
            1 => {
                wire.send("GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await;
                assert_eq!(wire.response(false).await.unwrap().status, 404);
            }
            _ => assert!(wire.send("GET /nothing HTTP/1.1\r\nhos").await),
        }
        idle.push(wire);
        if n % 10 == 9 {
            is_honest(&local).await;
        }
    }
    for wire in &mut idle[..70] {
        assert!(wire.response(false).await.is_none(), "it was displaced");
    }
}

/// A proxy keeps its connection, even if no request of its clients had a key so far.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_no_stranger_before_the_first_key() {
    let change = |settings: &mut keyward::config::Settings| settings.max_connections = 3;
    let local = Local::start_with(change, |store| store).await;
    let port = local.app.rest_address().unwrap();
    let token = format!("x-keyward-token: {}\r\n", local.token);
    for (key, status) in [("", 401), ("apikey: a\r\napikey: b\r\n", 401)] {
        let asked = format!("GET /auth HTTP/1.1\r\nhost: x\r\n{token}{key}\r\n");
        let mut proxy = Wire::open(port).await;
        assert!(proxy.send(&asked).await);
        assert_eq!(proxy.response(false).await.unwrap().status, status);
        let mut strangers = Vec::new();
        for _ in 0..10 {
            strangers.push(Wire::open(port).await);
        }
        assert!(
            strangers[0].response(false).await.is_none(),
            "it was displaced"
        );
        assert!(proxy.send(&asked).await);
        assert_eq!(proxy.response(false).await.unwrap().status, status);
    }
}

/// A connection that is not read has answers to write and further requests to begin with. It is closed
/// all the same if others need its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_on_and_reads_nothing_is_displaced() {
    let change = |settings: &mut keyward::config::Settings| settings.max_connections = 3;
    let local = Local::start_with(change, |store| store).await;
    let port = local.app.rest_address().unwrap();
    let mut deaf = Wire::open(port).await;
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
    let sending = async { while deaf.send(&requests).await {} };
    let filled = tokio::time::timeout(Duration::from_secs(3), sending).await;
    assert!(filled.is_err(), "the service reads on without end");
    let _others = [
        Wire::open(port).await,
        Wire::open(port).await,
        Wire::open(port).await,
    ];
    // The reset arrives although nothing is read.
    soon(async { while deaf.send("x").await {} }).await;
    let metrics = http_get(local.app.http_address().unwrap(), "/metrics").await;
    assert!(metrics.contains("keyward_connections_closed_total{cause=\"displaced\"} 1"));
}
