//! What connections may hold: strangers are refused before their bodies, and at a limit work is
//! refused while other callers are served. The attackers speak HTTP/2 directly.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use keyward_proto::v1::{self, Verdict};
use keyward_testkit::{Client, Local, PATIENCE, eventually, http_get, refused};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt as _;

use super::*;

const VERIFY: &str = "/keyward.v1.ApiKeyService/Verify";
const LIST: &str = "/keyward.v1.ApiKeyService/List";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// The least that `max_buffered_bytes` may be.
pub(super) const BUDGET: usize = 16 << 20;

/// A connection that sends what a test wants.
struct Attacker {
    h2: SendRequest<Bytes>,
    token: Option<String>,
    connection: Connection,
}

/// Ends with the connection.
type Connection = JoinHandle<Result<(), h2::Error>>;

/// A connection of HTTP/2 whose responses stay where they are, because its streams may send nothing.
pub(super) async fn unread(address: SocketAddr) -> (SendRequest<Bytes>, Connection) {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0).max_header_list_size(1 << 20);
    let stream = TcpStream::connect(address).await.unwrap();
    let (h2, connection) = builder.handshake(stream).await.unwrap();
    (h2, tokio::spawn(connection))
}

/// A call. Its request is unfinished while this exists, unless `finish` was called.
struct Sent {
    response: ResponseFuture,
    body: SendStream<Bytes>,
}

impl Attacker {
    async fn connect(address: SocketAddr, token: Option<&str>) -> Self {
        let (h2, connection) = unread(address).await;
        Self {
            h2,
            token: token.map(str::to_owned),
            connection,
        }
    }

    /// Opens a call with one more header, if there is one.
    async fn open(&mut self, path: &str, header: Option<String>) -> Sent {
        let mut request = Request::post(format!("http://keyward{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(header) = header {
            request = request.header("x-long", header);
        }
        self.h2 = self.h2.clone().ready().await.unwrap();
        let (response, body) = self
            .h2
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        Sent { response, body }
    }

    /// Opens a call and sends the first `sent` bytes of a message of `announced` bytes.
    async fn unfinished(&mut self, path: &str, announced: u32, sent: usize) -> Sent {
        let mut call = self.open(path, None).await;
        let mut message = vec![0; sent + 5];
        message[1..5].copy_from_slice(&announced.to_be_bytes());
        // A refusal can arrive first.
        let _ = call.body.send_data(message.into(), false);
        call
    }
}

impl Sent {
    /// The status of the call, which the service must send although the request is unfinished.
    async fn status(self) -> Status {
        let (headers, _) = self.answer().await;
        let status = Status::from_header_map(&headers);
        status.unwrap_or_else(|| panic!("{headers:?} has no status"))
    }

    /// The head of the response, and its body.
    async fn answer(self) -> (HeaderMap, RecvStream) {
        let (head, body) = soon(self.response).await.unwrap().into_parts();
        (head.headers, body)
    }
}

/// Waits for what must end.
pub(super) async fn soon<F: Future>(work: F) -> F::Output {
    let answer = tokio::time::timeout(PATIENCE, work).await;
    answer.expect("it ends in time")
}

#[track_caller]
fn over_limit(status: Status) {
    let retry = status.get_details_retry_info();
    let delay = retry.and_then(|retry| retry.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{status}");
    refused(Err::<(), _>(status), Code::ResourceExhausted, "OVER_LIMIT");
}

pub(super) async fn start_with(
    change: impl FnOnce(&mut keyward::config::Settings),
) -> (Local, Client) {
    let local = Local::start_with(change, |store| store).await;
    let client = local.client().await;
    (local, client)
}

/// Issues keys whose list has half a megabyte. A connection may hold four such lists of the [`BUDGET`].
pub(super) async fn issue_long_list(client: &Client) {
    for name in 0..60 {
        let request = v1::IssueRequest {
            name: name.to_string(),
            metadata: (0..15).map(|n| (n.to_string(), "x".repeat(500))).collect(),
            ..slot("42")
        };
        client.send(request).await.unwrap();
    }
}

/// Waits until a message passes that needs the budget of all connections.
pub(super) async fn budget_is_free(client: &Client) {
    let long = "x".repeat(1_000_000);
    let passes = async || client.verify(&long).await.is_ok();
    eventually("a long message passes", PATIENCE, passes).await;
}

/// Waits until the service closes a connection.
async fn closed(stream: &mut TcpStream) {
    let mut sent = Vec::new();
    // A reset is an end, too.
    let _ = soon(stream.read_to_end(&mut sent)).await;
}

async fn is_served(client: &Client) {
    assert_eq!(client.verify("x").await.unwrap(), Verdict::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_before_its_body() {
    let (local, client) = start().await;
    let cases = [
        (None, "TOKEN_MISSING"),
        (Some("kwt_invented"), "TOKEN_INVALID"),
    ];
    for (token, reason) in cases {
        let mut stranger = Attacker::connect(local.app.grpc_address(), token).await;
        let mut calls = Vec::new();
        for _ in 0..1_024 {
            calls.push(stranger.unfinished(VERIFY, 1 << 20, 16 << 10).await);
        }
        for call in calls {
            refused(
                Err::<(), _>(call.status().await),
                Code::Unauthenticated,
                reason,
            );
        }
    }
    is_served(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_token_are_few_and_short() {
    let (local, _client) = start().await;
    let address = local.app.grpc_address();
    for path in [REFLECTION, HEALTH] {
        let mut stranger = Attacker::connect(address, None).await;
        let long = stranger.unfinished(path, (64 << 10) + 1, 16).await;
        let (headers, mut body) = long.answer().await;
        // It must have ended before the next calls count.
        soon(body.trailers()).await.unwrap();
        if path == HEALTH {
            let status = Status::from_header_map(&headers).unwrap();
            assert_eq!(status.code(), Code::OutOfRange);
        }
        let mut open = Vec::new();
        for _ in 0..8 {
            open.push(stranger.unfinished(path, 64 << 10, 16).await);
        }
        let one_more = stranger.unfinished(path, 16, 16).await;
        over_limit(one_more.status().await);
        // Another connection has its own calls.
        let other = Client::new(address, None).await;
        assert_eq!(other.health().await, ServingStatus::Serving);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_request_ends() {
    let (local, _client) = start().await;
    let mut caller = Attacker::connect(local.app.grpc_address(), Some(&local.token)).await;
    let calls = [
        caller.open(VERIFY, None).await,
        caller.unfinished(VERIFY, 16, 15).await,
        caller.unfinished(VERIFY, 1 << 20, 64 << 10).await,
    ];
    for call in calls {
        refused(
            Err::<(), _>(call.status().await),
            Code::DeadlineExceeded,
            "REQUEST_UNFINISHED",
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_budget_are_refused_while_others_are_served() {
    let (local, client) = start_with(|settings| settings.max_buffered_bytes = BUDGET).await;
    let address = local.app.grpc_address();
    // A connection may hold an eighth.
    let mut caller = Attacker::connect(address, Some(&local.token)).await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(caller.unfinished(VERIFY, 1 << 20, 900 << 10).await);
    }
    let statuses = calls.into_iter().map(Sent::status);
    let first = futures_util::future::select_all(statuses.map(Box::pin));
    let (status, ..) = soon(first).await;
    over_limit(status);

    // All connections together may hold the budget.
    let mut crowd = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..20 {
        let mut caller = Attacker::connect(address, Some(&local.token)).await;
        for _ in 0..2 {
            calls.push(caller.unfinished(VERIFY, 1 << 20, 900 << 10).await);
        }
        crowd.push(caller);
    }
    let statuses = calls.into_iter().map(Sent::status);
    let first = futures_util::future::select_all(statuses.map(Box::pin));
    let (status, _, others) = soon(first).await;
    over_limit(status);
    is_served(&client).await;
    assert_eq!(client.health().await, ServingStatus::Serving);

    drop((others, crowd, caller));
    budget_is_free(&client).await;
}

/// Batches wait for a turn. Their unread messages would fill the window of the connection.
#[tokio::test(flavor = "multi_thread")]
async fn many_batches_of_one_connection_end() {
    let (_local, client) = start_with(|settings| settings.max_buffered_bytes = 16 * BUDGET).await;
    let request = v1::VerifyRequest {
        api_key: "x".repeat(3_000),
        ..Default::default()
    };
    let mut batches = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (client, requests) = (client.clone(), vec![request.clone(); 256]);
        batches.spawn(async move { client.send(v1::VerifyBatchRequest { requests }).await });
    }
    is_served(&client).await;
    while let Some(answer) = batches.join_next().await {
        assert_eq!(answer.unwrap().unwrap().responses.len(), 256);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_are_counted() {
    let (local, client) = start_with(|settings| settings.max_buffered_bytes = BUDGET).await;
    issue_long_list(&client).await;
    let listing = prost::Message::encode_to_vec(&listing_all("42"));
    let mut caller = Attacker::connect(local.app.grpc_address(), Some(&local.token)).await;
    let mut unread = Vec::new();
    let refusal = loop {
        assert!(unread.len() < 6, "unread responses are not counted");
        let mut call = caller.open(LIST, None).await;
        let length = u32::try_from(listing.len()).unwrap().to_be_bytes();
        let message = [&[0], &length[..], &listing].concat();
        call.body.send_data(message.into(), true).unwrap();
        let (head, body) = call.answer().await;
        match Status::from_header_map(&head) {
            None => unread.push(body),
            Some(status) => break status,
        }
    };
    assert!(unread.len() >= 2, "{refusal}");
    over_limit(refusal);
    assert_eq!(client.list("42").await.unwrap().len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_make_room_for_new_connections_and_callers_do_not() {
    let (local, client) = start_with(|settings| settings.max_connections = 3).await;
    is_served(&client).await;
    let address = local.app.grpc_address();
    let mut oldest = TcpStream::connect(address).await.unwrap();
    let other = TcpStream::connect(address).await.unwrap();
    let new = local.client().await;
    closed(&mut oldest).await;
    is_served(&new).await;
    drop(other);
    let third = local.client().await;
    is_served(&third).await;

    // Three callers have all places.
    let mut refused = TcpStream::connect(address).await.unwrap();
    closed(&mut refused).await;
    for client in [client, new, third] {
        is_served(&client).await;
    }
    let metrics = http_get(local.app.http_address().unwrap(), "/metrics").await;
    for cause in ["refused", "displaced"] {
        let none = format!("keyward_connections_closed_total{{cause=\"{cause}\"}} 0");
        assert!(!metrics.contains(&none), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_over_the_limit_are_refused_with_a_status() {
    let (local, client) = start().await;
    let mut caller = Attacker::connect(local.app.grpc_address(), Some(&local.token)).await;
    let call = caller.open(VERIFY, Some("x".repeat(16 << 10))).await;
    refused(
        Err::<(), _>(call.status().await),
        Code::ResourceExhausted,
        "HEADERS_TOO_LARGE",
    );
    // Above the limit of HTTP/2 there is no status of gRPC.
    let call = caller.open(VERIFY, Some("x".repeat(64 << 10))).await;
    assert_eq!(call.response.await.unwrap().status(), 431);
    is_served(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_at_its_age_after_its_calls() {
    let age = Some(Duration::from_secs(1));
    let (local, _client) = start_with(|settings| settings.max_connection_age = age).await;
    let address = local.app.grpc_address();
    let idle = Attacker::connect(address, None).await;
    let mut busy = Attacker::connect(address, Some(&local.token)).await;
    let mut call = busy.unfinished(VERIFY, 2, 0).await;
    // Without a call the connection ends with a GOAWAY.
    soon(idle.connection).await.unwrap().unwrap();
    call.body
        .send_data(Bytes::from_static(b"\x0a\x00"), true)
        .unwrap();
    let (head, _body) = call.answer().await;
    assert_eq!(
        Status::from_header_map(&head).map(|status| status.code()),
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_serves_on_during_its_drain_delay() {
    let delay = Duration::from_secs(2);
    let (local, client) = start_with(|settings| settings.drain_delay = delay).await;
    let (address, side) = (local.app.grpc_address(), local.app.http_address().unwrap());
    let token = local.token.clone();
    let stopping = tokio::spawn(local.app.stop());
    let not_serving = async || client.health().await == ServingStatus::NotServing;
    eventually("health says NOT_SERVING", PATIENCE, not_serving).await;
    assert!(http_get(side, "/readyz").await.contains("503"));
    // New connections are served, too.
    let new = Client::new(address, Some(&token)).await;
    is_served(&new).await;
    assert!(!stopping.is_finished());
    stopping.await.unwrap();
}
